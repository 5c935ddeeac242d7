"""Lambda's Kinesis event source mappings, for an AWS that has none worth the name.

    python -m local.event_source_mappings --state-dir .fraudstream/mappings

Reads the deployed mappings and honours their settings: order per shard (or per key, with a parallelisation factor),
parents before children, batch size, window and 6 MB, ReportBatchItemFailures, bisect, retries, record age, on-failure
queue. Positions stand in `<uuid>.json`, replaced after every outcome, so a killed runner redelivers at most what it
had not noted. `status.json` tells how far each shard is. boto3 only; the endpoints come from the environment.
SIGTERM and SIGINT finish the calls under way.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Final

import boto3
import msgspec
from botocore.config import Config

from local.mappings.runner import MappingRunner
from local.mappings.settings import MappingSettings, UnsupportedMapping, is_enabled, reads_kinesis, settings_of
from local.mappings.shard import Clients
from local.run import write_atomically
from stream_features.aws_answers import whole
from stream_features.flink_job.aws_calls import FAILURES

_log = logging.getLogger(__name__)

_LONGEST_CALL_S: Final = 900  # Lambda's longest timeout
_FINISHING_S: Final = 65.0
_MAPPINGS_EVERY_S: Final = 2.0
_STATUS_EVERY_S: Final = 0.5


class EventSourceMappings:
    """Keeps one `MappingRunner` per enabled Kinesis mapping."""

    def __init__(self, clients: Clients, state_dir: Path) -> None:
        self._clients = clients
        self._state_dir = state_dir
        self._runners: dict[str, MappingRunner] = {}
        self._refused: dict[str, str] = {}
        self._listed_at_s = float("-inf")
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Run until `stop`, then finish the calls under way."""
        while not self._stopping.is_set():
            try:
                self._refresh()
            except FAILURES as error:
                _log.warning("cannot look at the mappings: %s", error)
            if all(runner.is_polling for runner in self._runners.values()):
                self._write_status()
                self._stopping.wait(_STATUS_EVERY_S)
            else:
                self._stopping.wait(0.02)  # whoever waits for the first status waits for the first read
        for runner in self._runners.values():
            runner.stop()
        for runner in self._runners.values():
            if not runner.join(_FINISHING_S):
                _log.warning("%s: a call did not end in time; its records come again", runner.settings.uuid)
        self._write_status()

    def _refresh(self) -> None:
        if time.monotonic() - self._listed_at_s >= _MAPPINGS_EVERY_S:
            self._reconcile(self._deployed())
            self._listed_at_s = time.monotonic()
        for runner in self._runners.values():
            runner.refresh()

    def _deployed(self) -> dict[str, MappingSettings]:
        """Settings of the mappings that should run, by UUID."""
        deployed: dict[str, MappingSettings] = {}
        refused: dict[str, str] = {}
        for page in self._clients.functions.get_paginator("list_event_source_mappings").paginate():
            for mapping in whole(page, "EventSourceMappings")["EventSourceMappings"]:
                if not reads_kinesis(mapping) or not is_enabled(mapping):
                    continue
                try:
                    deployed[mapping["UUID"]] = settings_of(mapping)
                except UnsupportedMapping as error:
                    refused[mapping["UUID"]] = str(error)
        for uuid in refused.keys() - self._refused.keys():
            _log.error("%s is not run: %s", uuid, refused[uuid])
        self._refused = refused
        return deployed

    def _reconcile(self, deployed: dict[str, MappingSettings]) -> None:
        for uuid, runner in list(self._runners.items()):
            if deployed.get(uuid) != runner.settings:
                _log.info("%s: disabled, deleted or changed", uuid)
                runner.stop()
                if not runner.join(_FINISHING_S):
                    continue  # two runners of one mapping would deliver out of order; look again later
                del self._runners[uuid]
        for uuid, settings in deployed.items():
            if uuid not in self._runners:
                self._runners[uuid] = MappingRunner(settings, self._clients, self._state_dir)

    def _write_status(self) -> None:
        status: dict[str, Any] = {
            "pid": os.getpid(),
            "updated_at_ms": time.time_ns() // 1_000_000,
            "mappings": {uuid: runner.status() for uuid, runner in self._runners.items()},
            "refused": self._refused,
        }
        write_atomically(self._state_dir / "status.json", msgspec.json.encode(status))


def clients_from_environment() -> Clients:
    """boto3 clients made for delivering: no repeated calls, no timeout shorter than a function's."""
    session = boto3.session.Session()
    reading = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1}, max_pool_connections=64)
    calling = Config(
        connect_timeout=5,
        read_timeout=_LONGEST_CALL_S + 30,
        retries={"total_max_attempts": 1},
        max_pool_connections=256,
    )
    return Clients(
        kinesis=session.client("kinesis", config=reading),
        functions=session.client("lambda", config=calling),
        sqs=session.client("sqs", config=reading),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m local.event_source_mappings",
        description="Deliver Kinesis streams to Lambda functions as the deployed event source mappings say.",
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="positions and status")
    options = parser.parse_args()
    options.state_dir.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    mappings = EventSourceMappings(clients_from_environment(), options.state_dir)
    for stopping in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stopping, lambda _number, _frame: mappings.stop())
    mappings.run()


if __name__ == "__main__":
    main()
