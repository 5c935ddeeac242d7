"""What this machine, this checkout and its running pipeline have and lack, and what to type.

Add a look by adding a function that answers findings, and its name to `examine`.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from console.findings import Finding
from console.pipeline_doctor import pipeline_findings
from local.flink import install as flink
from local.localstack import host as localstack

__all__ = ["Finding", "examine"]

ROOT: Final = Path(__file__).resolve().parents[1]
LOCKS: Final = ROOT / "requirements"
DISK_GIB: Final = 2.0
MEMORY_GIB: Final = 1.1  # of a whole run; with Flink 1.9 (benchmarks/README.md)
PORT_VARIABLES: Final = ("FRAUDSTREAM_PORT", "FRAUDSTREAM_PORT_SAGEMAKER", "FRAUDSTREAM_PORT_FLINK")
_ENVIRONMENTS: Final = "virtual environments"
_ENGINES: Final = "optional engines"
_PIN: Final = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+?)(?:\s|$)", re.MULTILINE)
_NAMED_SHOWN: Final = 3


def examine() -> list[Finding]:
    """Look at the machine, the virtual environments, the optional engines and the running pipeline."""
    return [*_machine(), *_environments(), *_optional_engines(), *pipeline_findings()]


def _machine() -> Iterator[Finding]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    yield Finding(
        f"Python {version} runs the functions' minor, 3.11",
        sys.version_info[:2] == (3, 11),
        "make clean setup PYTHON=python3.11",
    )
    yield Finding("make", shutil.which("make") is not None, "install GNU make, for example: apt install make")
    free_gib = shutil.disk_usage(ROOT).free / 2**30
    yield Finding(
        f"{free_gib:.0f} GiB of disk free ({DISK_GIB:g} needed)",
        free_gib > DISK_GIB,
        "free some space; what a run kept goes with: fraudstream down",
    )
    memory_gib = psutil.virtual_memory().available / 2**30
    yield Finding(
        f"{memory_gib:.1f} GiB of memory available (a pipeline takes {MEMORY_GIB:g}, with Flink 1.9)",
        memory_gib > MEMORY_GIB,
        "end other programs; a pipeline that runs short is killed by the system, not by itself",
        optional=True,
    )
    yield from _ports()
    yield _clock()


def _ports() -> Iterator[Finding]:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as error:
            yield Finding("a port of 127.0.0.1 can be had", False, f"allow programs to listen there ({error})")
            return
    yield Finding("a port of 127.0.0.1 can be had", True)
    for variable in PORT_VARIABLES:
        asked = os.environ.get(variable)
        if asked is not None:
            valid = asked.isdigit() and 0 < int(asked) < 65_536
            yield Finding(f"{variable}={asked} is a port number", valid, f"unset {variable}, or give a free port")


def _clock() -> Finding:
    """The check-out's own files cannot be younger than now."""
    newest_s = max((path.stat().st_mtime for path in (ROOT / "pyproject.toml", ROOT / "console")), default=0.0)
    return Finding(
        "the clock is not behind this checkout's files",
        time.time() >= newest_s - 60,
        "set the clock (timedatectl set-ntp true): decisions, labels and expiry count by it",
    )


def _environments() -> Iterator[Finding]:
    for name, lock, use in (
        (".venv", "default", "commands"),
        (".venv-embedded", "embedded", "the local AWS"),
        (".venv-sam", "sam", "building and validating templates"),
    ):
        present = (ROOT / name / "bin" / "python").exists()
        yield Finding(f"{name} for {use}", present, "make setup", area=_ENVIRONMENTS)
        if present:
            yield _as_locked(ROOT / name, LOCKS / f"{lock}.lock", "make setup", optional=False)


def _as_locked(venv: Path, lock: Path, remedy: str, *, optional: bool, area: str = _ENVIRONMENTS) -> Finding:
    """Whether every package that the lock names is there in that version."""
    differing = lock_differences(venv, lock)
    what = f"{venv.name} holds what requirements/{lock.name} says"
    if differing:
        more = f" and {len(differing) - _NAMED_SHOWN} more" if len(differing) > _NAMED_SHOWN else ""
        what += f": not {', '.join(differing[:_NAMED_SHOWN])}{more}"
        remedy = f"rm {venv.name}/.ready; {remedy}"
    return Finding(what, not differing, remedy, optional=optional, area=area)


def lock_differences(venv: Path, lock: Path) -> list[str]:
    """`name==version` of every pin of `lock` that is not installed in `venv` in that version."""
    installed = {
        (_normal(name), version)
        for folder in venv.glob("lib/python*/site-packages/*.dist-info")
        for name, _, version in [folder.name.removesuffix(".dist-info").rpartition("-")]
    }
    pins = _PIN.findall(lock.read_text(encoding="utf-8"))
    return [f"{name}=={version}" for name, version in pins if (_normal(name), version) not in installed]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _optional_engines() -> Iterator[Finding]:
    """What the Flink engine and the localstack target need, and nothing else does."""
    java_lacks = flink.java_missing()
    java = f"Java {flink.OLDEST_JAVA} or newer for the Flink engine"
    install = f"{java_lacks}: install one, for example apt install openjdk-17-jre-headless"
    yield Finding(java, java_lacks is None, install, optional=True, area=_ENGINES)
    ready = flink.READY.exists()
    yield Finding(f"{flink.VENV.name} for the Flink engine", ready, "make setup-flink", optional=True, area=_ENGINES)
    if ready and flink.VENV.is_dir():
        lock = LOCKS / "flink.lock"
        yield _as_locked(flink.VENV, lock, "make setup-flink", optional=True, area=_ENGINES)
    node, npm = _node_version(), shutil.which("npm")
    yield Finding(
        f"Node.js {node or ''}".strip() + " with npm for setting up the localstack target",
        node is not None and npm is not None,
        "install both, for example: apt install nodejs npm",
        optional=True,
        area=_ENGINES,
    )
    ready = localstack.is_installed()
    yield Finding(
        f"{localstack.VENV.name} for the localstack target",
        ready,
        "make setup-localstack",
        optional=True,
        area=_ENGINES,
    )
    if ready and localstack.VENV.is_dir():
        lock = LOCKS / "localstack.lock"
        yield _as_locked(localstack.VENV, lock, "make setup-localstack", optional=True, area=_ENGINES)


def _node_version() -> str | None:
    """`v20.1.0`; None where there is no Node.js or it does not run."""
    node = shutil.which("node")
    if node is None:
        return None
    try:
        done = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
