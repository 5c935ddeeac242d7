"""For every folder: one Hypothesis profile, and a second try in CI for tests that drive real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

settings.register_profile("fraudstream", deadline=None, print_blob=True)  # a busy machine is not a failure
settings.load_profile("fraudstream")

# `make test &` has the shell ignore Ctrl-C for pytest and whatever it starts; the tests that press it need it back.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Here a machine that stands still for seconds can fail a test. What passed only the second time is named at the end.
_DRIVE_PROCESSES: Final = [Path(__file__).parent / name for name in ("integration", "e2e", "faults")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("CI"):
        return
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in _DRIVE_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))
