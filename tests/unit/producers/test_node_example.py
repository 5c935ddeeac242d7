"""The example for another language judges as the contract does: Node with ajv, against the published schema."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from producers.simulator import simulate
from producers.validation import validated
from stream_features.errors import MalformedRecord
from stream_features.transaction import encode_transaction
from tests.unit.producers.test_validation import BAD, GOOD, NOW_MS

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "node"

if shutil.which("node") is None or not (EXAMPLE / "node_modules" / "ajv").is_dir():
    pytest.skip("no node, or no `npm install` in docs/examples/node", allow_module_level=True)


def verdicts(lines: list[str]) -> list[str]:
    ended = subprocess.run(
        ["node", EXAMPLE / "validate.mjs"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stderr == ""
    found = ended.stdout.splitlines()
    assert ended.returncode == (0 if set(found) <= {"ok"} else 1)
    return found


def test_what_the_simulator_writes_is_valid() -> None:
    lines = [encode_transaction(row.transaction).decode() for row in simulate(2_000, seed=4, end_ms=NOW_MS)]
    assert verdicts(lines) == ["ok"] * 2_000


def test_what_the_contract_refuses_is_refused_for_the_same_field() -> None:
    bad = {}
    for name, (change, _, rule) in BAD.items():
        try:
            line = json.dumps({**GOOD, **change})
        except TypeError:
            continue  # not JSON in any language
        # JavaScript has one kind of number, and writes 10.0 as 10; rates are the consumer's to know
        if rule != "no_rate" and name not in ("time as a float", "whole amount as a float", "six minutes ahead"):
            bad[name] = line
    future = json.dumps({**GOOD, "event_time_ms": 4_000_000_000_000})
    found = verdicts([*bad.values(), future, json.dumps([dict(GOOD)]), "{"])
    expected = [BAD[name][1] for name in bad]
    assert [line.split(":")[0] for line in found[: len(bad)]] == [
        "$" if "NaN" in line else field for line, field in zip(bad.values(), expected, strict=True)
    ]
    assert found[len(bad) :] == ["event_time_ms: future_time", "$: type", "$: not_json"]
    assert len(bad) > 25


@pytest.mark.parametrize(
    "text", ["a b", "\N{GRINNING FACE}", "Zürich", "a\u00a0b", "a\u2028b", "a\x7fb", "\u200b", "\ue000"]
)
def test_printable_means_the_same_in_both_languages(text: str) -> None:
    values = {**GOOD, "merchant_id": text}
    try:
        validated(values, arrival_ms=NOW_MS)
        expected = "ok"
    except MalformedRecord as error:
        expected = f"{error.field}: {error.rule}"
    assert verdicts([json.dumps(values)]) == [expected]
