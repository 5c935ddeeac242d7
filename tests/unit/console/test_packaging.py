"""The package of Managed Flink: what is in it, that it is the same wherever it is built, and that it starts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from console import packaging
from console.cli import main
from console.packaging import FlinkPackage, bucket_of_stack, build_flink_package, upload_flink_package
from stream_features.errors import UsageError

NOWHERE = Path("no-such.jar")
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> FlinkPackage:
    return build_flink_package(tmp_path_factory.mktemp("first") / "app.zip", connector_jar=NOWHERE)


@pytest.fixture(scope="module")
def names(package: FlinkPackage) -> list[str]:
    with zipfile.ZipFile(package.path) as archive:
        assert archive.testzip() is None
        return archive.namelist()


def test_two_folders_give_the_same_bytes(package: FlinkPackage, tmp_path: Path) -> None:
    again = build_flink_package(tmp_path / "deeper" / "other-name.zip", connector_jar=NOWHERE)
    assert again.path != package.path
    assert again.sha256 == package.sha256
    assert again.sha256 == hashlib.sha256(again.path.read_bytes()).hexdigest()
    assert again.size_bytes == again.path.stat().st_size
    # Nothing is left of the building.
    assert [path.name for path in again.path.parent.iterdir()] == ["other-name.zip"]


def test_it_says_which_wheels_it_holds(package: FlinkPackage, names: list[str]) -> None:
    with zipfile.ZipFile(package.path) as archive:
        bill = json.loads(archive.read("sbom.cdx.json"))
    said = {(one["name"].replace("-", "_"), one["version"]) for one in bill["components"]}
    infos = {name.split("/")[1].removesuffix(".dist-info") for name in names if ".dist-info/" in name}
    assert said == {(info.partition("-")[0].replace("-", "_").lower(), info.partition("-")[2]) for info in infos}


def test_other_code_has_another_key(package: FlinkPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaging, "MAIN", packaging.MAIN + "\n")
    other = build_flink_package(tmp_path / "app.zip", connector_jar=NOWHERE)
    assert package.key == f"flink/{package.sha256}.zip"
    assert other.key != package.key


def test_a_relative_path_is_the_caller_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build_flink_package(Path("app.zip"), connector_jar=NOWHERE).path == tmp_path / "app.zip"
    assert [path.name for path in tmp_path.iterdir()] == ["app.zip"]


def test_it_holds_the_job_and_what_the_service_does_not_bring(names: list[str]) -> None:
    assert "main.py" in names
    for module in ("__init__", "kernel", "flink_job/main", "flink_job/job"):
        assert f"dep/stream_features/{module}.py" in names
    tops = {name.split("/")[1] for name in names if name.startswith("dep/")}
    libraries = {top.removesuffix(".py") for top in tops if not top.endswith(".dist-info")}
    assert libraries == {
        *("stream_features", "msgspec", "aws_kinesis_agg", "six"),
        *("boto3", "botocore", "jmespath", "dateutil", "s3transfer", "urllib3"),
    }


def test_compiled_code_is_for_the_service_s_python(names: list[str]) -> None:
    compiled = [name for name in names if name.endswith(".so")]
    assert compiled == ["dep/msgspec/_core.cpython-312-x86_64-linux-gnu.so"]


def test_it_holds_no_traces_of_where_it_was_built(package: FlinkPackage, names: list[str]) -> None:
    assert names == sorted(names)
    for name in names:
        assert "__pycache__" not in name
        assert "vectorised" not in name
        assert Path(name).name not in {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    with zipfile.ZipFile(package.path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        content = b"".join(archive.read(name) for name in names)
    assert str(packaging.ROOT).encode() not in content


def test_the_connector_is_taken_in_where_it_was_built(tmp_path: Path) -> None:
    jar = tmp_path / "connector.jar"
    jar.write_bytes(b"not really a jar")
    package = build_flink_package(tmp_path / "app.zip", connector_jar=jar)
    assert package.has_connector
    with zipfile.ZipFile(package.path) as archive:
        assert archive.read("lib/pyflink-dependencies.jar") == b"not really a jar"
        assert [name for name in archive.namelist() if name.endswith(".jar")] == ["lib/pyflink-dependencies.jar"]


def test_without_a_connector_it_has_none(package: FlinkPackage, names: list[str]) -> None:
    assert not package.has_connector
    assert not any(name.startswith("lib/") for name in names)


def test_it_starts_with_nothing_but_itself(tmp_path: Path) -> None:
    """Of this interpreter's version, since msgspec is compiled; without site-packages, so only `dep` can help."""
    package = build_flink_package(tmp_path / "app.zip", python_version=OURS, connector_jar=NOWHERE)
    with zipfile.ZipFile(package.path) as archive:
        archive.extractall(tmp_path / "app")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUDSTREAM_"))}
    environment |= {"PYTHONPATH": str(tmp_path / "app" / "dep"), "IS_LOCAL": "true"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            env=environment,
            cwd=tmp_path / "app",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    started = run("main.py")
    assert started.returncode == 1
    assert "FRAUDSTREAM_FLINK_PROPERTIES names no file" in started.stderr
    clients = run(
        "-c",
        "from stream_features.flink_job.aws_calls import client\n"
        "for service in ('kinesis', 's3', 'dynamodb'):\n"
        "    print(client(service, region='us-east-1').meta.service_model.service_name)",
    )
    assert clients.stdout.split() == ["kinesis", "s3", "dynamodb"], clients.stderr


@pytest.mark.parametrize("version", ["3", "3.12.1", "python3.12", "2.7", ""])
def test_a_python_version_that_is_none_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a Python version"):
        build_flink_package(tmp_path / "app.zip", python_version=version)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_had_leaves_no_half_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "wrong.lock"
    lock.write_text("six==1.17.0 --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setattr(packaging, "LOCK", lock)
    with pytest.raises(UsageError, match="no wheels for Python"):
        build_flink_package(tmp_path / "out" / "app.zip", connector_jar=NOWHERE)
    assert list((tmp_path / "out").iterdir()) == []


class FakeS3:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}

    def upload_file(self, file: str, bucket: str, key: str) -> None:
        self.objects[bucket, key] = Path(file).read_bytes()


def test_upload_puts_it_under_its_hash(package: FlinkPackage) -> None:
    s3 = FakeS3()
    key = upload_flink_package(s3, "artifacts", package)
    assert s3.objects == {("artifacts", key): package.path.read_bytes()}
    assert key == f"flink/{package.sha256}.zip"


class FakeCloudFormation:
    def __init__(self, outputs: list[dict[str, str]] | None) -> None:
        self.outputs = outputs

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        if self.outputs is None:
            error = {"Error": {"Code": "ValidationError", "Message": f"Stack with id {StackName} does not exist"}}
            raise ClientError(error, "DescribeStacks")
        return {"Stacks": [{"StackName": StackName, "Outputs": self.outputs}]}


def test_the_bucket_is_the_stack_s_output() -> None:
    outputs = [{"OutputKey": "ArtifactsBucketName", "OutputValue": "prod-artifacts-1"}]
    assert bucket_of_stack(FakeCloudFormation(outputs), "prod") == "prod-artifacts-1"


@pytest.mark.parametrize(
    ("outputs", "says"), [(None, "Stack with id prod does not exist"), ([], "no output ArtifactsBucketName")]
)
def test_a_stack_that_is_none_or_not_ours_is_named(outputs: list[dict[str, str]] | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        bucket_of_stack(FakeCloudFormation(outputs), "prod")


def test_the_command_says_what_it_built(tmp_path: Path) -> None:
    out = tmp_path / "app.zip"
    result = CliRunner().invoke(main, ["package", "flink", "--out", str(out), "--json"])
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert set(answer) == {"path", "sha256", "size_bytes", "has_connector"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--stack-name", "prod"], "add --upload"),
        (["--upload"], "fraudstream up"),
        (["--python-version", "twelve"], "not a Python version"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_built(words: list[str], says: str, tmp_path: Path) -> None:
    out = tmp_path / "app.zip"
    environment = {"FRAUDSTREAM_STATE": str(tmp_path / "state")}
    result = CliRunner().invoke(main, ["package", "flink", "--out", str(out), *words], env=environment)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not out.exists()
