"""The running pipeline as commands see it: clients, the stack's outputs, the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from local.run import RunState, client, load_run
from stream_features.errors import UsageError
from stream_features.feature_sets import FeatureSet, feature_set


@dataclass
class Pipeline:
    """One running pipeline; boto3 clients are made on first use."""

    run: RunState

    def client(self, service: str) -> Any:
        clients = self.__dict__.setdefault("_clients", {})
        if service not in clients:
            clients[service] = client(self.run, service)
        return clients[service]

    def output(self, name: str) -> str:
        return self.run.outputs[name]

    @property
    def state_dir(self) -> Path:
        return self.run.state_dir

    @cached_property
    def features(self) -> FeatureSet:
        return feature_set(self.run.feature_set)


def running_pipeline() -> Pipeline:
    """The pipeline of this checkout.

    Raises:
        UsageError: nothing is running.
    """
    run = load_run()
    if run is None:
        raise UsageError("nothing is running here; start it with: fraudstream up")
    return Pipeline(run)
