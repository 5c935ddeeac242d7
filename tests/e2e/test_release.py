"""Releasing a model: trained on another history it gives other scores, and the running endpoint serves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.files import read_transactions
from stream_features.decision import Decision
from tests.e2e.driver import Installation, publish_all, settled, stored_decisions
from tests.e2e.judge import score_mismatches
from tests.e2e.test_first_path import released_artifact

pytestmark = pytest.mark.e2e


def test_another_seed_gives_other_scores_once_it_is_activated(own_installation: Installation, tmp_path: Path) -> None:
    """Two models on two histories; each decision equals the model it names."""
    file = tmp_path / "live.csv"
    # it looks at the policy that a first model brings, so it has a pipeline to itself
    own_installation.run("simulate", 900, "--seed", 31, "--days", 10, "--out", file)
    rows = [row.transaction for row in read_transactions(file)]
    pipeline = own_installation.pipeline()
    scored: list[dict[str, Decision]] = []
    for seed, part in ((41, rows[:450]), (42, rows[450:])):
        history, folder = tmp_path / f"history-{seed}.parquet", tmp_path / str(seed)
        own_installation.run("simulate", 8_000, "--seed", seed, "--days", 30, "--out", history)
        said = own_installation.run("train", history, "--out", folder, "--activate")
        artifact = released_artifact(own_installation, folder)
        assert artifact.read_bytes() == (folder / "model.tar.gz").read_bytes()
        published = own_installation.status()["published"]
        publish_all(own_installation, part)
        settled(own_installation, published + len(part))
        ids = {transaction.transaction_id for transaction in part}
        decisions = {i: d for i, d in stored_decisions(pipeline).items() if i in ids}
        assert len(decisions) == len(ids)
        versions = {decision.model_version for decision in decisions.values()}
        assert len(versions) == 1
        assert versions.pop() in said
        assert {decision.policy_version for decision in decisions.values()} == {
            d.model_version for d in decisions.values()
        }
        assert score_mismatches(list(decisions.values()), artifact, folder) == []
        scored.append(decisions)
    other = score_mismatches(list(scored[0].values()), tmp_path / "42" / "model.tar.gz", tmp_path / "42")
    assert len(other) > len(scored[0]) // 2


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    installed = Installation(tmp_path / "state", {})
    history = tmp_path / "history.parquet"
    installed.run("simulate", 6_000, "--seed", 8, "--days", 30, "--out", history)
    for name in ("one", "two"):
        installed.run("train", history, "--out", tmp_path / name)
    assert (tmp_path / "one" / "model.tar.gz").read_bytes() == (tmp_path / "two" / "model.tar.gz").read_bytes()
    installed.run("train", history, "--out", tmp_path / "three", "--param", "max_depth=2")
    assert (tmp_path / "one" / "model.tar.gz").read_bytes() != (tmp_path / "three" / "model.tar.gz").read_bytes()
    installed.run("train", history, "--out", tmp_path / "four", "--param", "max_depth", expect=2)
    installed.run("train", history, "--out", tmp_path / "five", "--activate", expect=2)
