"""The dependency rule of the design: data flows down, imports point only at `stream_features`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ANYTHING = {"producers", "stream_features", "lambdas", "model", "endpoint", "local", "console"}
ALLOWED = {
    "stream_features": set[str](),
    "producers": {"stream_features"},
    "lambdas": {"stream_features"},
    "model": {"stream_features"},
    "endpoint": {"stream_features", "model"},
    "local": ANYTHING,
    "console": ANYTHING,
}
# "moto" alone is also a payment channel (mail order, telephone order): only its import counts.
EMULATORS = ("ministack", "localstack", "import moto", "from moto")


def imported_modules(source: str) -> Iterator[str]:
    """Top-level names of every import in `source`, relative ones included as an empty name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0] if node.level == 0 else ""


def forbidden_imports(folder: str, source: str) -> set[str]:
    """Our folders that `source`, a module of `folder`, may not import but does."""
    return {name for name in imported_modules(source) if name in ANYTHING} - ALLOWED[folder] - {folder}


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_a_folder_imports_only_what_the_data_flow_allows(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not forbidden_imports(folder, path.read_text()), path


def test_the_rule_sees_a_forbidden_import() -> None:
    assert forbidden_imports("lambdas", "def f():\n    from local.run import load_run\n") == {"local"}


def test_the_kernel_needs_the_standard_library_and_the_parser_only() -> None:
    import sys

    # Loaded only where an aggregated record is met; the test below holds it to that.
    lazy = {"aggregation.py": {"aws_kinesis_agg", "google"}}
    for path in (ROOT / "stream_features").glob("*.py"):
        foreign = (
            set(imported_modules(path.read_text())) - set(sys.stdlib_module_names) - {"stream_features", "msgspec"}
        )
        assert foreign == lazy.get(path.name, set()), (path, foreign)


def test_records_that_are_no_aggregates_load_no_protobuf() -> None:
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from stream_features.aggregation import user_payloads\n"
        "assert user_payloads(b'{}') == [b'{}']\n"
        "assert not {'aws_kinesis_agg', 'google.protobuf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_pyflink_is_known_to_the_jobs_shell_only() -> None:
    import sys

    shell = {"job.py", "official.py", "operators.py", "polling.py", "polling_operators.py"}
    for path in (ROOT / "stream_features" / "flink_job").rglob("*.py"):
        foreign = set(imported_modules(path.read_text())) - set(sys.stdlib_module_names)
        allowed = {"stream_features", "msgspec", "boto3", "botocore"} | ({"pyflink"} if path.name in shell else set())
        assert foreign <= allowed, (path, foreign)


def test_the_vectorised_path_adds_numpy_and_functions_never_load_it() -> None:
    import sys

    for path in (ROOT / "stream_features" / "vectorised").glob("*.py"):
        foreign = set(imported_modules(path.read_text())) - set(sys.stdlib_module_names) - {"stream_features"}
        assert foreign <= {"numpy"}, (path, foreign)
    paths = [*(ROOT / "lambdas").rglob("*.py"), *(ROOT / "stream_features").glob("*.py")]
    assert paths
    for path in paths:
        assert "stream_features.vectorised" not in path.read_text(), path


@pytest.mark.parametrize("folder", sorted(set(ALLOWED) - {"local", "console"}))
def test_only_local_and_console_name_an_emulator(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text().lower()
        assert not [name for name in EMULATORS if name in text], path


def test_functions_do_not_pay_for_numpy() -> None:
    for path in (ROOT / "lambdas").rglob("*.py"):
        assert not {"numpy", "pyarrow", "xgboost"} & set(imported_modules(path.read_text())), path
