"""The package of Managed Service for Apache Flink: one zip that is the same, byte for byte, wherever it is built.

    main.py                         where the service starts
    dep/                            our code, and the locked wheels for the service's Python, unpacked
    sbom.cdx.json                   which wheels, as CycloneDX has it
    lib/pyflink-dependencies.jar    the connector of `connector` = official, where `make setup-flink` could build it

The service's Python brings PyFlink, and with it NumPy, protobuf and the rest of what PyFlink needs.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from stream_features.errors import UsageError

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = ROOT / "requirements" / "flink-dep.lock"
CONNECTOR_JAR: Final = ROOT / ".venv-flink" / "connector" / "pyflink-dependencies.jar"
PYTHON_OF_THE_SERVICE: Final = "3.12"  # of its runtimes 2.2 and 2.3
PLATFORM: Final = "x86_64-manylinux_2_17"

# A thin file: as a script the job's own module would exist twice, and with it every class that is pickled.
MAIN: Final = '''"""Where Managed Service for Apache Flink starts the job."""

from stream_features.flink_job.main import main

if __name__ == "__main__":
    main()
'''

# botocore brings the API models of 400 services. These are the ones the job has clients of, and what lists endpoints.
_AWS_APIS: Final = {"dynamodb", "kinesis", "s3", "sts"}
# What an installer writes about itself, and what depends on where and how it ran.
_TRACES: Final = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
_OLDEST_TIME: Final = (1980, 1, 1, 0, 0, 0)  # that a zip can say


class FlinkPackage(NamedTuple):
    """A zip that has been built.

    Attributes:
        path: where it is.
        sha256: of its bytes, hex.
        size_bytes: of the file.
        has_connector: the connector's jar is in it, so `connector` may be official.
    """

    path: Path
    sha256: str
    size_bytes: int
    has_connector: bool

    @property
    def key(self) -> str:
        """Its key in the bucket of artefacts: other code, other key, so that a deployment sees the change."""
        return f"flink/{self.sha256}.zip"


def build_flink_package(
    out: Path, *, python_version: str = PYTHON_OF_THE_SERVICE, connector_jar: Path = CONNECTOR_JAR
) -> FlinkPackage:
    """Build the zip at `out`.

    Args:
        out: replaced if it exists.
        python_version: "3.12"; another one is for a Flink whose Python is another, and differs in the wheels alone.
        connector_jar: taken in if it exists.

    Raises:
        UsageError: the Python version is none, or the locked wheels could not be had for it.
    """
    if re.fullmatch(r"3\.\d{1,2}", python_version) is None:
        raise UsageError(f"{python_version!r} is not a Python version such as {PYTHON_OF_THE_SERVICE}")
    has_connector = connector_jar.is_file()
    out = out.resolve()  # uv runs in another folder
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        members = {"main.py": MAIN.encode()}
        members |= {f"dep/{name}": content for name, content in _wheel_files(Path(scratch) / "dep", python_version)}
        members |= {f"dep/{name}": content for name, content in _our_files()}
        members["sbom.cdx.json"] = _bill_of_materials()
        if has_connector:
            members["lib/pyflink-dependencies.jar"] = connector_jar.read_bytes()
        written = Path(scratch) / "app.zip"
        _write(written, members)
        content = written.read_bytes()
        written.replace(out)
    return FlinkPackage(out, hashlib.sha256(content).hexdigest(), len(content), has_connector)


def upload_flink_package(s3: Any, bucket: str, package: FlinkPackage) -> str:
    """Put the zip into `bucket` and return its key; what lies there already under that key is the same."""
    s3.upload_file(str(package.path), bucket, package.key)
    return package.key


def bucket_of_stack(cloudformation: Any, stack_name: str) -> str:
    """The bucket of artefacts of a deployed stack.

    Raises:
        UsageError: the stack does not exist or is not one of ours.
    """
    from botocore.exceptions import ClientError

    try:
        (stack,) = cloudformation.describe_stacks(StackName=stack_name)["Stacks"]
    except ClientError as error:
        raise UsageError(f"stack {stack_name!r}: {error.response['Error']['Message']}") from error
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    if "ArtifactsBucketName" not in outputs:
        raise UsageError(f"stack {stack_name!r} has no output ArtifactsBucketName; is it a stack of template.yaml?")
    return str(outputs["ArtifactsBucketName"])


def _wheel_files(scratch: Path, python_version: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of the locked wheels that the job needs."""
    done = subprocess.run(
        [
            *(str(ROOT / ".venv" / "bin" / "uv"), "pip", "install", "--quiet", "--target", str(scratch)),
            *("--python-version", python_version, "--python-platform", PLATFORM, "--only-binary", ":all:"),
            *("--require-hashes", "--no-deps", "--link-mode", "copy", "--requirements", str(LOCK)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UsageError(f"no wheels for Python {python_version}: {done.stderr.strip() or 'uv says nothing'}")
    for path in scratch.rglob("*"):
        parts = path.relative_to(scratch).parts
        if path.is_file() and not _is_left_out(parts):
            yield "/".join(parts), path.read_bytes()


def _bill_of_materials() -> bytes:
    program = ROOT / "requirements" / "bill_of_materials.py"
    return subprocess.run([sys.executable, str(program), str(LOCK)], stdout=subprocess.PIPE, check=True).stdout


def _is_left_out(parts: tuple[str, ...]) -> bool:
    """Whether an installed file, given by the parts of its path, is a script, a trace or an API without a client."""
    if parts[0] in {"bin", ".lock"} or "__pycache__" in parts:
        return True
    if parts[0].endswith(".dist-info") and parts[-1] in _TRACES:
        return True
    return parts[:2] == ("botocore", "data") and len(parts) > 3 and parts[2] not in _AWS_APIS


def _our_files() -> Iterator[tuple[str, bytes]]:
    """Name and content of `stream_features`; the path over whole histories is not the job's."""
    package = ROOT / "stream_features"
    for path in package.rglob("*.py"):
        if "vectorised" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path.read_bytes()


def _write(target: Path, members: dict[str, bytes]) -> None:
    """A zip of `members` in the order of their names, stored: compressors differ between versions of their library."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(members.items()):
            info = zipfile.ZipInfo(name, _OLDEST_TIME)
            info.create_system = 3  # on any machine the same
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content)
