"""For every folder: one Hypothesis profile, how tests are dealt to processes, and a second try in CI for some."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("fraudstream", deadline=None, print_blob=True)  # a busy machine is not a failure
settings.load_profile("fraudstream")

# `make test &` has the shell ignore Ctrl-C for pytest and whatever it starts; the tests that press it need it back.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Here a machine that stands still for seconds can fail a test. What passed only the second time is named at the end.
_DRIVE_PROCESSES: Final = [Path(__file__).parent / name for name in ("integration", "e2e", "faults")]


class _ByModule(LoadScopeScheduling):  # type: ignore[misc]  # xdist publishes no types
    """`pytest -n`: a module's tests share what it has started; all that share one LocalStack are one module here."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/e2e/") and "[localstack" in nodeid:
            return "tests/e2e on LocalStack"
        return nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByModule:
    config.option.loadscopereorder = False  # the order is ours, below
    return _ByModule(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Tests that drive processes come first, so that none of the long ones is left alone at the end."""
    yield
    items.sort(key=lambda item: not _drives_processes(item))
    for item in items if os.environ.get("CI") else ():
        if _drives_processes(item):
            item.add_marker(pytest.mark.flaky(reruns=1))


def _drives_processes(item: pytest.Item) -> bool:
    return any(item.path.is_relative_to(folder) for folder in _DRIVE_PROCESSES)
