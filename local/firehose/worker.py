"""The worker: every delivery stream with a Kinesis source, polled in turn."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from local.firehose.control import STATUS_FILE, open_requests
from local.firehose.delivery import DELIVERY_FAILURES, AwsClients, Delivery
from local.firehose.destination import Destination, list_kinesis_deliveries, read_destination
from local.run import write_atomically
from stream_features.errors import UsageError

_LOGGER: Final = logging.getLogger("local.firehose")
DEFAULT_POLL_SECONDS: Final = 0.5
_CONFIGURATION_SECONDS: Final = 15.0  # how often deployed settings and shards are read again
_CONFIGURATION_RETRY_SECONDS: Final = 2.0  # ... while something of it cannot run
_LOOK_SECONDS: Final = 0.05  # how often a sleeping worker looks for flush requests and signals
_STATUS_SECONDS: Final = 1.0


class Worker:
    """Runs until `stop` is called; then delivers what it has read."""

    def __init__(self, clients: AwsClients, state_dir: Path, *, poll_seconds: float = DEFAULT_POLL_SECONDS) -> None:
        self._clients = clients
        self._state_dir = state_dir
        self._poll_seconds = poll_seconds
        self._deliveries: dict[str, Delivery] = {}
        self._errors: dict[str, str] = {}  # what is deployed but cannot be run, by delivery stream
        self._stopping = False
        self._status_at = 0.0
        state_dir.mkdir(parents=True, exist_ok=True)

    def stop(self) -> None:
        """Ask `run` to finish; safe inside a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Poll until stopped. AWS failures are logged and retried for ever; nothing read is given up."""
        configure_at = time.monotonic()
        while not self._stopping:
            requests = open_requests(self._state_dir)
            if requests or time.monotonic() >= configure_at:
                self._configure()
                wait = _CONFIGURATION_RETRY_SECONDS if self._errors else _CONFIGURATION_SECONDS
                configure_at = time.monotonic() + wait
            if self.poll_once(flush=bool(requests)):
                for request in requests:
                    request.unlink(missing_ok=True)
            self._write_status(force=bool(requests))
            self._sleep()
        for name, delivery in self._deliveries.items():
            if not delivery.flush_buffered():
                _LOGGER.error("delivery %s stops with undelivered records; they are read again", name)
        self._write_status(force=True)

    def poll_once(self, *, flush: bool) -> bool:
        """One round over all deliveries; with `flush`, whether all of them delivered everything."""
        results = [delivery.poll(flush=flush) for delivery in self._deliveries.values()]
        return flush and all(results) and not self._errors

    def _configure(self) -> None:
        """Follow what is deployed: new, changed and removed delivery streams, new shards."""
        try:
            descriptions = {d["DeliveryStreamName"]: d for d in list_kinesis_deliveries(self._clients.firehose)}
        except DELIVERY_FAILURES as error:
            self._errors = {"*": str(error)}
            _LOGGER.warning("delivery streams cannot be listed: %s", error)
            return
        self._errors = {}
        for name in set(self._deliveries) - set(descriptions):
            _LOGGER.info("delivery %s was removed", name)
            del self._deliveries[name]
        for name, description in descriptions.items():
            try:
                self._configure_one(read_destination(description))
            except DELIVERY_FAILURES as error:
                self._errors[name] = str(error)
                _LOGGER.error("delivery %s cannot run: %s", name, error)

    def _configure_one(self, destination: Destination) -> None:
        delivery = self._deliveries.get(destination.name)
        if delivery is not None and delivery.destination.stream_name != destination.stream_name:
            raise UsageError("its source stream changed while it ran; deploy it under another name")
        if delivery is None:
            self._deliveries[destination.name] = Delivery(destination, self._clients, self._state_dir)
            _LOGGER.info(
                "delivery %s: %s to %s", destination.name, destination.stream_name, destination.prefix.template
            )
        else:
            delivery.reconfigure(destination)
            delivery.find_shards()

    def status(self) -> dict[str, Any]:
        """Process, time, what cannot run, and per delivery stream its positions, lag and counts."""
        deliveries = {name: delivery.status() for name, delivery in sorted(self._deliveries.items())}
        errors = dict(self._errors)
        errors |= {name: state["error"] for name, state in deliveries.items() if state["error"]}
        return {
            "pid": os.getpid(),
            "updated_at_ms": time.time_ns() // 1_000_000,
            "errors": errors,
            "deliveries": deliveries,
        }

    def _write_status(self, *, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._status_at >= _STATUS_SECONDS:
            self._status_at = now
            write_atomically(self._state_dir / STATUS_FILE, msgspec.json.encode(self.status()))

    def _sleep(self) -> None:
        ends_at = time.monotonic() + self._poll_seconds
        while not self._stopping and time.monotonic() < ends_at:
            if open_requests(self._state_dir):
                time.sleep(_LOOK_SECONDS)  # one that could not be answered just now must not spin
                return
            time.sleep(_LOOK_SECONDS)
