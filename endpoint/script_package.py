"""Put the code of the script mode into a `model.tar.gz`, for AWS's own XGBoost container.

    python -m endpoint.script_package model/model.tar.gz --out deploy/ [--vendor]

The result holds the artefact as it was, and `code/`: the entry point, the modules it reaches, and either
`requirements.txt` (the container installs from PyPI when it starts) or, with `--vendor`, the packages themselves, for
endpoints without a way out. It stays an artefact like any other: `release`, `activate` and our own image read it too.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from model.artifact import ARTIFACT_NAME, unpack_artifact

CHECKOUT: Final = Path(__file__).resolve().parents[1]
ENTRY: Final = "endpoint/inference.py"
LOCK: Final = "requirements/endpoint.lock"
# What the code needs that the container lacks. NumPy and XGBoost are the container's own.
PACKAGES: Final = ("msgspec",)
# Of the container, version 3.0-5.
CONTAINER_PYTHON: Final = "3.10"
CONTAINER_PLATFORM: Final = "manylinux2014_x86_64"
_OURS: Final = ("endpoint", "model", "stream_features")


def modules_reached(entry: str, root: Path = CHECKOUT) -> tuple[str, ...]:
    """Paths, sorted and relative to `root`, of `entry` and every module of ours that importing it may load."""
    reached: set[str] = set()
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        waiting += [found for name in _imported(root / path) for found in _files_of(name, root)]
    return tuple(sorted(reached))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files_of(name: str, root: Path) -> Iterator[str]:
    """The modules behind a dotted name, packages included; its last part may be a name inside a module."""
    parts = name.split(".")
    if parts[0] not in _OURS:
        return
    for length in range(1, len(parts) + 1):
        stem = "/".join(parts[:length])
        yield from (path for path in (f"{stem}/__init__.py", f"{stem}.py") if (root / path).is_file())


def requirement_lines(lock: str, package: str) -> str:
    """The entry of a package in a lock file, hashes included. Raises ValueError where it has none."""
    found = re.search(rf"^{re.escape(package)}==.*(?:\n    --hash=.*)*", lock, flags=re.MULTILINE)
    if found is None:
        raise ValueError(f"{package} is not in the lock file")
    return found[0]


def code_files(root: Path = CHECKOUT) -> dict[str, bytes]:
    """Name in the archive to content: the entry point and all it reaches."""
    return {
        f"code/{Path(path).name if path == ENTRY else path}": (root / path).read_bytes()
        for path in modules_reached(ENTRY, root)
    }


def requirements(root: Path = CHECKOUT) -> dict[str, bytes]:
    """`code/requirements.txt`. Versions without hashes: the container adds the folder itself, which has none."""
    lock = (root / LOCK).read_text()
    versions = [requirement_lines(lock, package).split()[0] for package in PACKAGES]
    return {"code/requirements.txt": "".join(f"{version}\n" for version in versions).encode()}


def vendored(root: Path = CHECKOUT) -> dict[str, bytes]:
    """The packages' files under `code/vendor/`, downloaded for the container and held to the lock file's hashes.

    Raises:
        subprocess.CalledProcessError: a package cannot be had, or not with one of those hashes.
    """
    lock = (root / LOCK).read_text()
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "pinned.txt"
        pinned.write_text("".join(f"{requirement_lines(lock, package)}\n" for package in PACKAGES))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--python-version", CONTAINER_PYTHON, "--platform", CONTAINER_PLATFORM, "--only-binary=:all:"]
        command += ["--require-hashes", "--requirement", str(pinned), "--dest", folder]
        subprocess.run(command, check=True)
        for wheel in sorted(Path(folder).glob("*.whl")):
            with zipfile.ZipFile(wheel) as unpacked:
                members = (member for member in unpacked.namelist() if not member.endswith("/"))
                files |= {f"code/vendor/{member}": unpacked.read(member) for member in members}
    return files


def with_code(packed: bytes, files: Mapping[str, bytes]) -> bytes:
    """The artefact's own members unchanged, then `files` sorted: the same bytes for the same content.

    A `code/` that is already there is replaced.
    """
    written = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as before,
        tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for member in before:
            if member.isfile() and not member.name.startswith("code/"):
                after.addfile(member, before.extractfile(member))
        for name, content in sorted(files.items()):
            added = tarfile.TarInfo(name)  # its defaults are fixed: time 0, owner 0, no names
            added.size = len(content)
            added.mode = 0o644
            after.addfile(added, io.BytesIO(content))
    return gzip.compress(written.getvalue(), compresslevel=6, mtime=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write `model.tar.gz` with its code into the folder asked for."""
    parser = argparse.ArgumentParser(prog="python -m endpoint.script_package", description=__doc__)
    parser.add_argument("artifact", type=Path, help="the model.tar.gz of `fraudstream train`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new model.tar.gz")
    parser.add_argument("--vendor", action="store_true", help="put the packages in, instead of installing at the start")
    options = parser.parse_args(arguments)
    packed = options.artifact.read_bytes()
    unpack_artifact(packed, str(options.artifact))  # refuses what is no artefact before anything is written
    added = code_files() | (vendored() if options.vendor else requirements())
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / ARTIFACT_NAME).write_bytes(with_code(packed, added))
    return 0


if __name__ == "__main__":
    sys.exit(main())
