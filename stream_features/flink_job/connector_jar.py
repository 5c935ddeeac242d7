"""Makes the one jar of connector `official`, where its parts can be had.

    python -m stream_features.flink_job.connector_jar FOLDER PYFLINK_LIB

Apache's connector comes from Maven, the classes in `java/` are compiled against it. Where Maven, a JDK or the connector
is missing it says so and ends well: connector `polling` needs none of it. Standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

# 6.0.1 first; 6.0.0 differs in enhanced fan-out, which is not used here.
VERSIONS: Final = ("6.0.1-2.0", "6.0.0-2.0")
ARTIFACT: Final = "org.apache.flink:flink-sql-connector-aws-kinesis-streams"
COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
JAR_NAME: Final = "pyflink-dependencies.jar"
SOURCES: Final = Path(__file__).with_name("java")

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # one time for all entries: same input, same bytes


def make_jar(folder: Path, pyflink_lib: Path) -> str:
    """Put the jar into `folder`; returns why it could not be made, empty when it is there.

    Args:
        folder: is created; an older jar in it is removed first.
        pyflink_lib: PyFlink's own jars, to compile against.
    """
    jar = folder / JAR_NAME
    jar.unlink(missing_ok=True)
    lacks = [tool for tool in ("mvn", "javac") if shutil.which(tool) is None]
    if lacks:
        return f"no {' and no '.join(lacks)} on the PATH"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        connector = _connector(work)
        if connector is None:
            return f"Maven does not resolve {ARTIFACT} in any of {', '.join(VERSIONS)}"
        classes = work / "classes"
        compiled = subprocess.run(
            [
                *("javac", "--release", "17", "-d", classes),
                *("-cp", f"{connector}:{pyflink_lib}/*"),
                *sorted(SOURCES.rglob("*.java")),
            ],
            capture_output=True,
            text=True,
        )
        if compiled.returncode:
            return f"javac: {compiled.stderr.strip()}"
        with zipfile.ZipFile(connector, "a", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(classes.rglob("*.class")):
                entry = zipfile.ZipInfo(path.relative_to(classes).as_posix(), _EPOCH)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, path.read_bytes())
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(connector, jar)
    return ""


def _connector(work: Path) -> Path | None:
    for version in VERSIONS:
        subprocess.run(
            ["mvn", "-B", "-q", COPY, f"-Dartifact={ARTIFACT}:{version}", f"-DoutputDirectory={work}"],
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        found = work / f"{ARTIFACT.partition(':')[2]}-{version}.jar"
        if found.exists():
            return found
    return None


def main() -> None:
    """Arguments: the folder for the jar, PyFlink's `lib` folder."""
    folder, pyflink_lib = map(Path, sys.argv[1:])
    reason = make_jar(folder, pyflink_lib)
    if reason:
        print(f"connector official is not available here, connector polling is: {reason}")


if __name__ == "__main__":
    main()
