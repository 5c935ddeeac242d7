"""Where the job starts: `python -m stream_features.flink_job.main`.

With IS_LOCAL=true the properties are in the file that FRAUDSTREAM_FLINK_PROPERTIES names, and the group
`LocalFlinkConfig` configures Flink. Otherwise the service has put them where it does, and configures Flink itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stream_features.errors import UsageError
from stream_features.flink_job.properties import JobProperties, read_properties

ON_THE_SERVICE: Final = Path("/etc/flink/application_properties.json")


def flink_configuration(properties: JobProperties, *, is_local: bool) -> dict[str, str]:
    """The configuration that is set in code. The service refuses every key outside its allow-list."""
    configuration = {"python.execution-mode": properties.execution_mode, "pipeline.name": "fraudstream"}
    if is_local:
        configuration |= {"python.executable": sys.executable, **properties.flink}
    return configuration


def properties_path(environment: Mapping[str, str], *, is_local: bool) -> Path:
    """Where the properties are; raises UsageError for a local run that does not say."""
    if not is_local:
        return ON_THE_SERVICE
    if not environment.get("FRAUDSTREAM_FLINK_PROPERTIES"):
        raise UsageError("IS_LOCAL is true, but FRAUDSTREAM_FLINK_PROPERTIES names no file")
    return Path(environment["FRAUDSTREAM_FLINK_PROPERTIES"])


def main() -> None:
    is_local = os.environ.get("IS_LOCAL") == "true"
    try:
        path = properties_path(os.environ, is_local=is_local)
        properties = read_properties(path.read_bytes())
    except (UsageError, OSError) as error:
        sys.exit(f"fraudstream: {error}")
    # Imported here: a job that cannot start should say so before PyFlink and its JVM come up.
    from stream_features.flink_job.job import run

    run(properties, flink_configuration(properties, is_local=is_local))


if __name__ == "__main__":
    main()
