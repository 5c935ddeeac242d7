"""The same day through both engines, in lockstep: every feature, score, decision and card state equal to the bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from console.asking import client_of
from console.options import iso_utc
from local.capabilities import Place
from producers.file_writer import write_transactions
from producers.files import FileRow, read_transactions
from stream_features.decision import Decision
from stream_features.transaction import FIELDS, Transaction, encode_transaction
from tests.e2e.conftest import Start
from tests.e2e.driver import Installation, needs_data, settled, stored_decisions, stored_states
from tests.e2e.flink import STATE, card_states, feature_records
from tests.e2e.judge import decision_differences, state_differences

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ENGINES = ("flink", "lambda")  # where the first cannot run, the second need not
HOUR_MS = 3_600_000
SIMULATED = 1_500
HISTORY = 600  # the simulated transactions before the day, loaded by bootstrap
HANDBOOK = "handbook_dev_to_2018-08-14.parquet"
HANDBOOK_FROM, HANDBOOK_UNTIL = "2018-08-13", "2018-08-14"
LABEL_DELAY = "1h"
OF_A_MONTH = ("card_count_30d", "CUSTOMER_ID_NB_TX_30DAY_WINDOW")
ASKED = "asked"  # of the score API, once the day is over
COUNTED = ("published", "decided", "quarantined", "duplicates", "in_flight", "late", "alerts")


@dataclass
class Day:
    """What one engine stored of the day."""

    decisions: dict[str, Decision]
    states: dict[str, bytes]
    status: dict[str, Any]
    explained: dict[str, Any]  # one decision's document, as `explain --json` gives it


def in_six_minutes(row: FileRow) -> FileRow:
    """The row with its hour made short: as many transactions in a tenth of the steps that lockstep takes."""
    hours, ms = divmod(row.transaction.event_time_ms, HOUR_MS)
    time_ms = hours * HOUR_MS + ms // 10
    return row._replace(transaction=msgspec.structs.replace(row.transaction, event_time_ms=time_ms))


def noise(installed: Installation, decided: Decision) -> None:
    """A repeat, a conflicting repeat and garbage, once the day is over."""
    pipeline = installed.pipeline()
    kinesis, stream = pipeline.client("kinesis"), pipeline.output("TransactionsStreamName")
    before = installed.status()["published"]
    transaction = Transaction(**{name: getattr(decided, name) for name in FIELDS})
    conflicting = msgspec.structs.replace(transaction, amount_minor=transaction.amount_minor + 1)
    for payload in (encode_transaction(transaction), encode_transaction(conflicting), b"\xff\xfe", b'{"card_id": 1}'):
        kinesis.put_record(StreamName=stream, PartitionKey=transaction.card_id, Data=payload)
    settled(installed, before + 4)


def ask(installed: Installation, transaction: Transaction) -> None:
    """Have the score API decide one more; it publishes, with either engine."""
    before = installed.status()["published"]
    answer = client_of(installed.pipeline().run).score(transaction, publish=True, budget_ms=25_000)
    settled(installed, before + 1)
    assert stored_decisions(installed.pipeline())[ASKED] == answer


def stored(installed: Installation, engine: str) -> Day:
    pipeline = installed.pipeline()
    decisions = stored_decisions(pipeline)
    assert {decision.engine for decision in decisions.values()} == {engine}
    states = stored_states(pipeline, "card#") if engine == "lambda" else card_states(feature_records(pipeline))
    with_a_past = [one for one in decisions.values() if any((one.features.get(name) or 0) >= 2 for name in OF_A_MONTH)]
    last = max(with_a_past, key=lambda decision: (decision.event_time_ms, decision.transaction_id))
    explained = json.loads(installed.run("explain", last.transaction_id, "--json"))
    return Day(decisions, states, installed.status(), explained)


@pytest.fixture(scope="module")
def simulated(start: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Day]:
    """A simulated day with the `core` set, after a bootstrap of the days before it, with labels on both sides."""
    file = tmp_path_factory.mktemp("simulated") / "transactions.parquet"
    Installation(file.parent, {}).run("simulate", SIMULATED + HISTORY, "--seed", 21, "--days", "1.4", "--out", file)
    write_transactions(file, rows := [in_six_minutes(row) for row in read_transactions(file)])
    from_time = iso_utc(rows[HISTORY].transaction.event_time_ms)
    days: dict[str, Day] = {}
    for engine in ENGINES:
        with start("core", engine, STATE) as installed:
            installed.run("bootstrap", file, "--until", from_time, "--label-delay", LABEL_DELAY)
            installed.run(
                *("publish", file, "--from", from_time, "--label-delay", LABEL_DELAY, "--lockstep", "--wait"),
                timeout_s=600,
            )
            last = rows[-1].transaction
            ask(
                installed,
                msgspec.structs.replace(last, transaction_id=ASKED, event_time_ms=last.event_time_ms + 1_000),
            )
            if not days:
                repeated = next(iter(stored_decisions(installed.pipeline())))
            noise(installed, stored_decisions(installed.pipeline())[repeated])
            days[engine] = stored(installed, engine)
    return days


@pytest.fixture(scope="module")
def handbook(start: Start) -> dict[str, Day]:
    """A day of the published table with the `handbook` set, after a bootstrap of the months before it."""
    file = needs_data(HANDBOOK)
    days = {}
    for engine in ENGINES:
        with start("handbook", engine, STATE) as installed:
            mapping = ("--mapping", "handbook", "--label-delay", "5d")
            installed.run("bootstrap", file, *mapping, "--until", HANDBOOK_FROM)
            installed.run(
                *("publish", file, *mapping, "--from", HANDBOOK_FROM, "--until", HANDBOOK_UNTIL),
                *("--lockstep", "--wait"),
                timeout_s=600,
            )
            days[engine] = stored(installed, engine)
    return days


@pytest.fixture(params=["simulated", pytest.param("handbook", marks=pytest.mark.data)])
def days(request: pytest.FixtureRequest, target: Place) -> dict[str, Day]:
    """One of the two by its name; `target` stands here so that pytest knows what they are started on."""
    found: dict[str, Day] = request.getfixturevalue(request.param)
    return found


def test_every_feature_score_and_decision_is_equal(days: dict[str, Day]) -> None:
    one, other = days["lambda"].decisions, days["flink"].decisions
    assert len(one) >= 1_000
    assert decision_differences(one, other) == []
    asked = [
        name for name in next(iter(one.values())).features if name.startswith(("merchant_count", "TERMINAL_ID_NB"))
    ]
    assert asked
    assert sum(any(decision.features[name] for name in asked) for decision in one.values()) > 100


def test_the_score_api_answers_alike(simulated: dict[str, Day]) -> None:
    """With Lambda it decides itself, with Flink it waits for the decision on the record that it has published."""
    assert simulated["lambda"].decisions[ASKED].stream_position.of_request
    assert not simulated["flink"].decisions[ASKED].stream_position.of_request
    assert decision_differences(*({ASKED: simulated[engine].decisions[ASKED]} for engine in ENGINES)) == []
    assert simulated["lambda"].status["api"] == {"decided": 1, "awaiting_record": 0}
    assert simulated["flink"].status["api"] == {"decided": 0, "awaiting_record": 0}


def test_card_states_are_equal_to_the_byte(days: dict[str, Day]) -> None:
    """Of the cards of the day; what bootstrap loaded for others stays in the table."""
    flink = days["flink"].states
    assert len(flink) > 100
    assert state_differences({key: days["lambda"].states[key] for key in flink}, flink) == []


def test_the_counters_are_equal(days: dict[str, Day]) -> None:
    counted = [{name: days[engine].status[name] for name in COUNTED} for engine in ENGINES]
    assert counted[0] == counted[1]
    assert counted[0]["in_flight"] == 0


def test_repeats_and_garbage_are_sorted_alike(simulated: dict[str, Day]) -> None:
    for day in simulated.values():
        assert (day.status["duplicates"], day.status["quarantined"]) == (1, 3)


def test_a_decision_is_explained_alike_and_found_equal_when_computed_again(days: dict[str, Day]) -> None:
    explanations = [days[engine].explained["explanation"] for engine in ENGINES]
    for explanation in explanations:
        assert [check["holds"] for check in explanation["checks"]] == [True] * 5, explanation["checks"]
        assert explanation["history"]
    assert explanations[0] == explanations[1]


def test_one_changed_bit_would_be_found(days: dict[str, Day]) -> None:
    decisions, states = days["flink"].decisions, days["flink"].states
    victim, decision = next(iter(decisions.items()))
    name, value = next((name, value) for name, value in decision.features.items() if value)
    spoilt = msgspec.structs.replace(decision, features={**decision.features, name: value * (1 + 2**-52)})
    assert decision_differences(decisions, {**decisions, victim: spoilt}) == [victim]
    key, state = next(iter(states.items()))
    assert state_differences(states, {**states, key: state[:-1] + bytes([state[-1] ^ 1])}) == [key]
