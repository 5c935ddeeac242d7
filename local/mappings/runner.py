"""All shards of one mapping, parents before children."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from local.mappings.lane import FailureQueue
from local.mappings.positions import Checkpoints, ShardPosition
from local.mappings.settings import MappingSettings
from local.mappings.shard import Clients, ShardWorker
from stream_features.aws_answers import whole

_log = logging.getLogger(__name__)

_SHARDS_EVERY_S: Final = 10.0


class MappingRunner:
    """Runs one mapping. `refresh` is called again and again by one thread; everything else happens in the shards'."""

    def __init__(self, settings: MappingSettings, clients: Clients, state_dir: Path) -> None:
        """Looks up the function's role and the on-failure queue.

        Raises:
            ClientError, BotoCoreError: they cannot be found (yet).
        """
        self.settings = settings
        self._clients = clients
        self._checkpoints = Checkpoints(state_dir, settings.uuid)
        self._role_arn = clients.functions.get_function_configuration(FunctionName=settings.function_arn)["Role"]
        self._failure_queue = _failure_queue(settings, clients.sqs)
        self._workers: dict[str, ShardWorker] = {}
        self._listed_at_s: float | None = None

    def refresh(self) -> None:
        """Start the shards that may start, and those again whose threads died."""
        drained = [shard for shard in self._workers if self._checkpoints.is_drained(shard)]
        died = [shard for shard, worker in self._workers.items() if worker.error is not None]
        for shard_id in drained + died:
            if not self._workers[shard_id].join(0.0):
                return  # a call is still under way; a second worker would deliver beside it
        for shard_id in drained + died:
            del self._workers[shard_id]
        now_s = time.monotonic()
        due = self._listed_at_s is None or now_s - self._listed_at_s >= _SHARDS_EVERY_S
        if not (due or drained or died):
            return
        shards = list_shards(self._clients.kinesis, self.settings.stream_name)
        mapping_starts = self._listed_at_s is None and self._checkpoints.is_new
        if mapping_starts:
            self._note_start(shards)
        self._listed_at_s = now_s
        done = {shard["ShardId"] for shard in shards if self._checkpoints.is_drained(shard["ShardId"])}
        for shard in eligible_shards(shards, done):
            shard_id = shard["ShardId"]
            if shard_id not in self._workers:
                self._start(shard_id, starts_with_mapping=mapping_starts)

    def stop(self) -> None:
        for worker in self._workers.values():
            worker.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for calls under way; whether all ended."""
        deadline_s = time.monotonic() + timeout_s
        ended = [worker.join(max(0.0, deadline_s - time.monotonic())) for worker in self._workers.values()]
        return all(ended)

    @property
    def is_polling(self) -> bool:
        """Whether every started shard has been read once."""
        return self._listed_at_s is not None and all(
            worker.status.millis_behind_latest is not None for worker in self._workers.values()
        )

    def status(self) -> dict[str, Any]:
        """For `status.json`: source, function, and per shard the fields of `ShardStatus`."""
        return {
            "stream": self.settings.stream_name,
            "function": self.settings.function_arn.rsplit(":", 1)[-1],
            "shards": {shard_id: worker.status for shard_id, worker in sorted(self._workers.items())},
        }

    def _note_start(self, shards: Iterable[dict[str, Any]]) -> None:
        """Remember where the shards of now begin, for those that start later: children, and all after a restart."""
        from_ms = None
        if self.settings.starting_position == "LATEST":
            from_ms = time.time_ns() // 1_000_000
        elif self.settings.starting_timestamp is not None:
            from_ms = int(self.settings.starting_timestamp.timestamp() * 1000)
        if from_ms is not None:
            for shard in shards:
                self._checkpoints.save(shard["ShardId"], ShardPosition(from_ms=from_ms))

    def _start(self, shard_id: str, *, starts_with_mapping: bool) -> None:
        _log.info("%s: delivering %s", self.settings.uuid, shard_id)
        worker = ShardWorker(
            self.settings,
            shard_id,
            self._clients,
            self._checkpoints,
            role_arn=self._role_arn,
            failure_queue=self._failure_queue,
            starts_with_mapping=starts_with_mapping,
        )
        self._workers[shard_id] = worker
        worker.start()


def list_shards(kinesis: Any, stream_name: str) -> list[dict[str, Any]]:
    """All shards of a stream, closed ones included."""
    answer = whole(kinesis.list_shards(StreamName=stream_name), "Shards")
    shards: list[dict[str, Any]] = list(answer["Shards"])
    while answer.get("NextToken"):
        answer = whole(kinesis.list_shards(NextToken=answer["NextToken"]), "Shards")
        shards += answer["Shards"]
    return shards


def eligible_shards(shards: Iterable[dict[str, Any]], drained: set[str]) -> list[dict[str, Any]]:
    """Shards that are not drained and whose listed parents all are; a parent that is gone holds nothing back."""
    listed = list(shards)
    known = {shard["ShardId"] for shard in listed}
    return [
        shard
        for shard in listed
        if shard["ShardId"] not in drained and all(parent in drained for parent in _parents(shard) if parent in known)
    ]


def _parents(shard: dict[str, Any]) -> list[str]:
    return [shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if shard.get(name)]


def _failure_queue(settings: MappingSettings, sqs: Any) -> FailureQueue | None:
    if settings.failure_queue_arn is None:
        return None
    account, name = settings.failure_queue_arn.split(":")[4:6]
    return FailureQueue(sqs, sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"])
