"""Reads a lock file, and says what is wrong with it.

Standard library only: `sam build` runs it before anything is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[a-z0-9,_-]+\])?==(?P<version>[A-Za-z0-9.!+_-]+) \\")
_HASH = re.compile(r"    --hash=sha256:(?P<digest>[0-9a-f]{64})( \\)?")
# A lock file that was resolved under another one's versions, so that what both hold is the same.
CONSTRAINED_BY = {"lambdas.lock": "default.lock", "endpoint.lock": "default.lock", "flink-dep.lock": "flink.lock"}


class InvalidLock(Exception):
    """A lock file does not pin what it names; the text says where and which rule it breaks."""


class Pin(NamedTuple):
    """One distribution: its normalised name, its version, the SHA-256 of every file that may stand for it."""

    name: str
    version: str
    sha256: tuple[str, ...]


def read_lock(path: Path) -> list[Pin]:
    """The distributions of a lock file, by name.

    Raises:
        InvalidLock: a line is neither a pinned version nor a hash, a distribution has no hash or stands twice, or the
            file is empty. So an address, an option, an editable or an unpinned requirement is refused.
    """
    pins: dict[str, Pin] = {}
    name = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if pin := _PIN.fullmatch(line):
            name = re.sub(r"[-_.]+", "-", pin["name"]).lower()
            if name in pins:
                raise InvalidLock(f"{path.name}:{number}: {name} stands twice")
            pins[name] = Pin(name, pin["version"], ())
        elif (found := _HASH.fullmatch(line)) and name:
            pins[name] = pins[name]._replace(sha256=(*pins[name].sha256, found["digest"]))
        else:
            raise InvalidLock(f"{path.name}:{number}: neither a pinned version nor a SHA-256: {line!r}")
    if without := [pin.name for pin in pins.values() if not pin.sha256]:
        raise InvalidLock(f"{path.name}: no hash for {', '.join(without)}")
    if not pins:
        raise InvalidLock(f"{path.name}: no distribution")
    return sorted(pins.values())


def problems(folder: Path = FOLDER) -> Iterator[str]:
    """What is wrong with the lock files of a folder, as far as they tell themselves."""
    read: dict[str, dict[str, Pin]] = {}
    for path in sorted(folder.glob("*.lock")):
        try:
            read[path.name] = {pin.name: pin for pin in read_lock(path)}
        except InvalidLock as error:
            yield str(error)
    for source in sorted(folder.glob("*.in")):
        if not source.with_suffix(".lock").exists():
            yield f"{source.name} has no lock file: make lock"
    for name, by in CONSTRAINED_BY.items():
        for pin in read.get(name, {}).values():
            other = read.get(by, {}).get(pin.name)
            if other is not None and other.version != pin.version:
                yield f"{name}: {pin.name} {pin.version}, but {other.version} in {by}: make lock"


def npm_problems(path: Path) -> Iterator[str]:
    """What is wrong with a package-lock.json: a package without a hash, or with an address of its own."""
    for name, package in json.loads(path.read_text())["packages"].items():
        if name and "integrity" not in package:
            yield f"{path}: {name} has no integrity"
        if "resolved" in package:
            yield f"{path}: {name} names an address"
