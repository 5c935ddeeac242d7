"""Rejected records through the running pipeline: listed, corrected, replayed, and decided exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stream_features.decision import Decision
from stream_features.label import Label, encode_label
from stream_features.transaction import Transaction, encode_transaction
from tests.e2e.driver import ROOT, Installation, settled, stored_decisions, stored_labels

pytestmark = pytest.mark.e2e

NOW_MS = int(time.time() * 1_000)

# Dies where it would note that the record is in the stream.
DIES_AFTER_PUT = """
import os, signal, sys
from console.way_back import WayBack
from console.cli import main
WayBack._settle = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["fraudstream", "quarantine", "replay", *sys.argv[1:]]
main()
"""


def a_transaction(transaction_id: str, number: int = 0) -> Transaction:
    return Transaction(
        transaction_id=transaction_id,
        event_time_ms=NOW_MS - 60_000 + number,
        card_id="one-card",
        merchant_id="shop",
        amount_minor=1_250,
        currency="USD",
    )


def bad(transaction_id: str, number: int) -> bytes:
    return encode_transaction(a_transaction(transaction_id, number)).replace(b'"USD"', b'"usd"')


BAD = {
    "typo": bad("typo", 1),
    "dies": bad("dies", 2),
    "garbage": b"hello",
    "left": bad("left", 3),
    "conflict": encode_transaction(a_transaction("good", 0)).replace(b"1250", b"99"),
}
LABEL = Label(transaction_id="good", is_fraud=True, reported_at_ms=NOW_MS, source="analyst")


@dataclass
class Scene:
    """What the commands said, in order, and what stood afterwards."""

    installation: Installation
    position: dict[str, str]
    listed: list[dict[str, Any]]
    shown: dict[str, str]
    fixed: list[dict[str, Any]]
    first: list[dict[str, Any]]
    after_first: dict[str, Any]
    again: list[dict[str, Any]]
    resumed: list[dict[str, Any]]
    status: dict[str, Any]
    decisions: dict[str, Decision]


@pytest.fixture(scope="module")
def scene(own_installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    # its scene is all that was ever rejected, so it has a pipeline to itself
    pipeline = own_installation.pipeline()
    kinesis = pipeline.client("kinesis")

    def command(*words: str | Path, expect: int = 0) -> Any:
        return json.loads(own_installation.run("quarantine", *words, "--json", expect=expect))

    for data in (encode_transaction(a_transaction("good")), *BAD.values()):
        kinesis.put_record(StreamName=pipeline.output("TransactionsStreamName"), PartitionKey="one-card", Data=data)
    broken_label = encode_label(LABEL).replace(b"analyst", b"ann")
    kinesis.put_record(StreamName=pipeline.output("LabelsStreamName"), PartitionKey="good", Data=broken_label)
    settled(own_installation, len(BAD) + 1)
    ends_at = time.monotonic() + 60
    while own_installation.status()["labels"]["labels_quarantined"] < 1:
        assert time.monotonic() < ends_at, "the label is not in quarantine"
        time.sleep(0.3)

    listed = command("list")
    in_order = sorted(
        (one["key"].split("/")[-1].split("-")[0], one) for one in listed if one["stream"] == "transactions"
    )
    position = {name: one["position"] for name, (_, one) in zip(BAD, in_order, strict=True)}
    position["label"] = next(one["position"] for one in listed if one["stream"] == "labels")
    shown = {name: own_installation.run("quarantine", "show", position[name]) for name in ("typo", "garbage")}

    right = tmp_path_factory.mktemp("quarantine") / "right.json"
    right.write_bytes(encode_transaction(a_transaction("found", 4)) + b"\n")
    why = ("--reason", "a test", "--author", "ann")
    for words in (
        ["typo", "--set", "currency=USD"],
        ["dies", "--set", "currency=USD"],
        ["garbage", "--with", str(right)],
        ["label", "--set", "source=analyst"],
    ):
        command("fix", position[words[0]], *words[1:], *why)
    command_line = ["fix", position["left"], "--set", "currency=XXQ", *why]
    own_installation.run("quarantine", *command_line, expect=2)
    fixed = command("list", "--state", "fixed")

    environment = {**os.environ, "FRAUDSTREAM_STATE": str(own_installation.state_dir)}
    done = subprocess.run(
        [sys.executable, "-c", DIES_AFTER_PUT, position["dies"]], cwd=ROOT, env=environment, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    settled(own_installation, len(BAD) + 2)  # so that it has arrived, which a replay can find out
    first = command("replay", "--field", "currency") + command("replay", position["garbage"], position["label"])
    after_first = settled(own_installation, len(BAD) + 4)
    again = command("replay", position["typo"], position["garbage"], position["dies"], position["label"])
    resumed = command("list")
    status = settled(own_installation, len(BAD) + 4)
    return Scene(
        own_installation,
        position,
        listed,
        shown,
        fixed,
        first,
        after_first,
        again,
        resumed,
        status,
        stored_decisions(pipeline),
    )


def test_the_list_says_what_and_why(scene: Scene) -> None:
    by_position = {one["position"]: one for one in scene.listed}
    said = {name: (by_position[p]["field"], by_position[p]["rule"]) for name, p in scene.position.items()}
    assert said == {
        "typo": ("currency", "unknown_currency"),
        "dies": ("currency", "unknown_currency"),
        "garbage": ("$", "not_json"),
        "left": ("currency", "unknown_currency"),
        "conflict": ("transaction_id", "conflicting_duplicate"),
        "label": ("source", "not_in_set"),
    }
    assert {one["state"] for one in scene.listed} == {"open"}
    assert "currency: unknown_currency: must be an ISO 4217 code in capitals" in scene.shown["typo"]
    assert '"transaction_id":"typo"' in scene.shown["typo"]
    assert "5 bytes: hello" in scene.shown["garbage"]
    assert "give every required field with --set" in scene.shown["garbage"]


def test_corrections_wait_until_they_are_replayed(scene: Scene) -> None:
    assert {one["position"] for one in scene.fixed} == {
        scene.position[name] for name in ("typo", "dies", "garbage", "label")
    }
    assert {one["author"] for one in scene.fixed} == {"ann"}


def test_each_is_decided_once(scene: Scene) -> None:
    results = {one["position"]: one["result"] for one in scene.first}
    assert results == {
        scene.position["typo"]: "replayed",
        scene.position["dies"]: "there already",  # the dead replay had put it
        scene.position["left"]: "refused",
        scene.position["garbage"]: "replayed",
        scene.position["label"]: "replayed",
    }
    assert set(scene.decisions) == {"good", "typo", "dies", "found"}
    assert scene.decisions["found"].features["card_count_1h"] == 4.0
    counted = {name: scene.status[name] for name in ("published", "decided", "duplicates", "quarantined", "in_flight")}
    assert counted == {
        "published": 1 + len(BAD) + 3,  # a replayed record is published again
        "decided": 4,
        "duplicates": 0,
        "quarantined": len(BAD),
        "in_flight": 0,
    }


def test_the_label_applies(scene: Scene) -> None:
    ends_at = time.monotonic() + 60
    while "good" not in (labels := stored_labels(scene.installation.pipeline())):
        assert time.monotonic() < ends_at, "the label was not recorded"
        time.sleep(0.3)
    assert (labels["good"].is_fraud, labels["good"].source) == (True, "analyst")


def test_a_second_replay_does_nothing(scene: Scene) -> None:
    assert {one["result"] for one in scene.again} == {"replayed already"}
    assert scene.status["published"] == scene.after_first["published"]
    states = {one["position"]: one["state"] for one in scene.resumed}
    assert states == {
        position: "open" if name in ("left", "conflict") else "replayed" for name, position in scene.position.items()
    }


def test_what_cannot_go_back_is_refused_with_the_reason(scene: Scene) -> None:
    answer = scene.installation.run("quarantine", "replay", scene.position["conflict"], expect=1)
    assert "another payload has been decided under transaction_id good" in answer
    scene.installation.run("quarantine", "replay", expect=2)
    scene.installation.run("quarantine", "show", "transactions/none/1-0", expect=2)
    again = ("--set", "currency=EUR", "--reason", "too late")
    scene.installation.run("quarantine", "fix", scene.position["typo"], *again, expect=2)
    assert scene.installation.status()["published"] == scene.status["published"]
