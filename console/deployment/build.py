"""The template as CloudFormation takes it and the code it names, made by the SAM CLI, kept until a source changes.

`sam build` and `sam package` take ten seconds on a small machine and depend on nothing but the sources, so their
result stands in `.aws-sam/packages/<hash of the sources>/`: `template.yaml` and the zip files it names by S3 key.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from console.deployment.failures import DeploymentFailed

CHECKOUT: Final = Path(__file__).resolve().parents[2]
SAM: Final = CHECKOUT / ".venv-sam" / "bin" / "sam"
_BUILD: Final = CHECKOUT / ".aws-sam" / "build"
_PACKAGES: Final = CHECKOUT / ".aws-sam" / "packages"
_KEPT_PACKAGES: Final = 3
_SOURCES: Final = (
    *("template.yaml", "samconfig.toml", "lambdas", "stream_features"),
    *("requirements/lambdas.lock", "requirements/bill_of_materials.py", "requirements/lock_files.py"),
)


class Package(msgspec.Struct, frozen=True):
    """A template whose code lies in S3, and the objects it counts on: key to local file."""

    template: str
    objects: dict[str, str]


def sources_hash(checkout: Path = CHECKOUT) -> str:
    """24 hex over path and content of everything that ends up in the package."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        root = checkout / source
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        for path in files:
            if "__pycache__" in path.parts:
                continue
            name = str(path.relative_to(checkout)).encode()
            content = path.read_bytes()
            digest.update(b"%d %s %d " % (len(name), name, len(content)) + content)
    return digest.hexdigest()[:24]


def build(progress: Callable[[str], None]) -> None:
    """`sam build`, unless `.aws-sam/build` already stands for these sources."""
    stamp = _BUILD.parent / "build.hash"
    wanted = sources_hash()
    if (_BUILD / "template.yaml").exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    progress("building the functions (sam build)")
    stamp.unlink(missing_ok=True)
    _sam("build", {})
    stamp.write_text(wanted)


def prepare_package(bucket: str, progress: Callable[[str], None]) -> None:
    """The part of `package` that needs no S3, so that it can run while one starts."""
    if not _index(bucket).exists():
        with _one_build_at_a_time():
            build(progress)


def package(s3: Any, bucket: str, environment: Mapping[str, str], progress: Callable[[str], None]) -> str:
    """Put the code into `bucket` and return the template that names it there.

    Args:
        s3: a boto3 client.
        bucket: an existing bucket for code.
        environment: in which the SAM CLI reaches the same S3.
        progress: told what takes long.

    Raises:
        DeploymentFailed: the SAM CLI failed; the message ends with what it said.
    """
    index = _index(bucket)
    folder = index.parent
    if not index.exists():
        with _one_build_at_a_time():
            if not index.exists():
                build(progress)
                _package_with_sam(s3, bucket, folder, environment)
    kept = msgspec.json.decode(index.read_bytes(), type=Package)
    for key, file in kept.objects.items():
        s3.upload_file(str(folder / file), bucket, key)
    return kept.template


@contextmanager
def _one_build_at_a_time() -> Iterator[None]:
    """Runs of one checkout with folders of their own share its build: the second waits for the first."""
    _BUILD.parent.mkdir(exist_ok=True)
    with open(_BUILD.parent / "build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _index(bucket: str) -> Path:
    return _PACKAGES / f"{sources_hash()}-{bucket}" / "index.json"


def _package_with_sam(s3: Any, bucket: str, folder: Path, environment: Mapping[str, str]) -> None:
    _forget_old_packages()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prefix = folder.name
    template = folder / "template.yaml"
    _sam(
        "package",
        environment,
        *("--template-file", str(_BUILD / "template.yaml"), "--output-template-file", str(template)),
        *("--s3-bucket", bucket, "--s3-prefix", prefix),
    )
    objects = {}
    for number, found in enumerate(s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])):
        file = f"object-{number}"
        s3.download_file(bucket, found["Key"], str(folder / file))
        objects[found["Key"]] = file
    # Written last: an index means that the rest is whole.
    (folder / "index.json").write_bytes(msgspec.json.encode(Package(template.read_text(), objects)))


def _forget_old_packages() -> None:
    if not _PACKAGES.exists():
        return
    oldest_last = sorted(_PACKAGES.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in oldest_last[_KEPT_PACKAGES - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)


def _sam(command: str, environment: Mapping[str, str], *arguments: str) -> None:
    if not SAM.exists():
        raise DeploymentFailed(f"{SAM} is missing: run `make setup`")
    # The makefile of the functions calls python3: ours has pip and is the functions' Python version.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [str(SAM), command, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **environment, "PATH": path, "SAM_CLI_TELEMETRY": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr, flush=True)
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise DeploymentFailed(f"sam {command} failed: {said[-1] if said else 'it said nothing'}")
