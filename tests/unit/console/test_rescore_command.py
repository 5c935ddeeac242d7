"""What `rescore` says of a run, and with which exit code; the run itself is tested in tests/unit/lambdas."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from console.cli import main
from lambdas.policy import Policy
from lambdas.ports import ScorerDown
from lambdas.rescoring import RescoreOutcome, Rescoring
from stream_features.feature_sets import feature_set

DONE = RescoreOutcome(
    found=4,
    rescored=3,
    outcomes=Counter({("review", "approve"): 2, ("review", "decline"): 1}),
    alerted=1,
    told_again=2,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The windows that were asked for; the run answers `DONE`."""
    windows: list[dict[str, Any]] = []
    policy = Policy(policy_version="p1", review_from=0.5, decline_from=0.9)

    def rescore(self: Rescoring, **window: Any) -> RescoreOutcome:
        windows.append(window)
        return DONE

    store = SimpleNamespace(published=lambda: SimpleNamespace(policy=policy))
    monkeypatch.setattr("console.running.running_pipeline", lambda: SimpleNamespace(features=feature_set("core")))
    monkeypatch.setattr("console.policies.PolicyStore", lambda pipeline: store)
    monkeypatch.setattr("console.tables.tables_of", lambda pipeline: SimpleNamespace(committer=None))
    monkeypatch.setattr("console.tables.rescore_ports", lambda pipeline, tables: None)
    monkeypatch.setattr(Rescoring, "rescore", rescore)
    return windows


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["rescore", *words])
    return result.exit_code, result.stdout, result.stderr


def test_it_says_what_changed(asked: list[dict[str, Any]]) -> None:
    code, out, _ = run("--from", "2026-11-28T09:00", "--until", "2026-11-28T10:00")
    assert (code, asked) == (0, [{"from_ms": 1_795_856_400_000, "until_ms": 1_795_860_000_000}])
    assert "3 of 4 degraded decisions rescored, 1 new alerts" in out
    assert "2 review -> approve" in out
    assert "2 published that an interrupted run had replaced" in out


def test_it_says_so_in_json(asked: list[dict[str, Any]]) -> None:
    code, out, _ = run("--json")
    assert (code, asked) == (0, [{"from_ms": None, "until_ms": None}])
    assert json.loads(out) == {
        "found": 4,
        "rescored": 3,
        "outcomes": {"review -> approve": 2, "review -> decline": 1},
        "alerted": 1,
        "told_again": 2,
        "left": {},
        "policy_version": "p1",
    }


def test_what_is_left_is_named_and_fails(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = RescoreOutcome(found=1, left={"t1": "its features are of set core-0"})
    monkeypatch.setattr(Rescoring, "rescore", lambda self, **window: outcome)
    code, out, err = run("--json")
    assert code == 1
    assert json.loads(out)["left"] == {"t1": "its features are of set core-0"}
    assert "t1: not rescored: its features are of set core-0" in err


def test_while_the_endpoint_is_down_it_says_what_to_do(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(self: Rescoring, **window: Any) -> RescoreOutcome:
        raise ScorerDown("InvokeEndpoint: ReadTimeoutError")

    monkeypatch.setattr(Rescoring, "rescore", down)
    code, out, err = run()
    assert (code, out) == (1, "")
    assert "the endpoint is still down (InvokeEndpoint: ReadTimeoutError)" in err
    assert "run it again" in err
