"""What the Flink engine needs on this machine: Java, and a virtual environment with PyFlink in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from local.run import CHECKOUT

VENV: Final = CHECKOUT / ".venv-flink"
PYTHON: Final = VENV / "bin" / "python"
READY: Final = VENV / ".ready"  # written last by `make setup-flink`
OLDEST_JAVA: Final = 17
_VERSION: Final = re.compile(r'version "(?:1\.)?(\d+)')


def java_command() -> str | None:
    """The Java that PyFlink would start: JAVA_HOME's, else the one on the PATH; None if there is none."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        return str(java) if java.exists() else None
    return shutil.which("java")


def java_version(java: str) -> int | None:
    """The feature release of `java` (8, 11, 17, ...); None if it does not run or does not say."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(said)
    return int(found[1]) if found else None


def java_missing() -> str | None:
    """What is wrong with this machine's Java, as a sentence; None if it will do."""
    java = java_command()
    wanted = f"Java {OLDEST_JAVA} or newer"
    if java is None:
        where = f"JAVA_HOME ({os.environ['JAVA_HOME']})" if os.environ.get("JAVA_HOME") else "the PATH"
        return f"the Flink engine needs {wanted}, and there is none on {where}"
    version = java_version(java)
    if version is None:
        return f"the Flink engine needs {wanted}, and {java} does not say which it is"
    if version < OLDEST_JAVA:
        return f"the Flink engine needs {wanted}, and {java} is Java {version}"
    return None


def missing() -> str | None:
    """What keeps the Flink engine from running here, as a sentence that says what to do; None if nothing does."""
    if lacks := java_missing():
        return f"{lacks}; install one (Debian: apt install openjdk-17-jre-headless), then: make setup-flink"
    if not READY.exists():
        return "the Flink engine is not installed (.venv-flink): make setup-flink"
    return None


def python_path() -> str:
    """PYTHONPATH of the job: the interpreter that the JVM embeds knows nothing of the virtual environment."""
    packages = sorted(VENV.glob("lib/python*/site-packages"))
    return os.pathsep.join(map(str, [*packages, CHECKOUT]))
