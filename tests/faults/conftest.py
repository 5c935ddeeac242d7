"""One workload and one undisturbed run for all campaigns, one campaign for all its tests."""

from __future__ import annotations

import pytest

from tests.e2e.driver import ROOT
from tests.faults.campaign import Campaign, Stored, conduct, made_workload, undisturbed
from tests.faults.setting import Setting, running
from tests.faults.workload import Workload


@pytest.fixture(scope="session")
def setting() -> Setting:
    """Where the tests run; `python -m tests.faults` takes others."""
    if not (ROOT / ".venv-embedded" / "bin" / "python").exists():
        pytest.skip("the embedded AWS is not installed (.venv-embedded): make setup")
    return Setting()


@pytest.fixture(scope="session")
def load(setting: Setting) -> Workload:
    """What every campaign of the session publishes, or a part of it."""
    return made_workload(setting)


@pytest.fixture(scope="session")
def expected(setting: Setting, load: Workload, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """What the run without faults stored."""
    return undisturbed(setting, load, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def campaign(setting: Setting, load: Workload, expected: Stored, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Every fault met once."""
    with running(setting, tmp_path_factory.mktemp("disturbed"), injected=True, seed=1) as run:
        return conduct(run, load, expected, print)
