"""Flink SQL's OVER windows as a judge who knows nothing of our kernel: every count and sum of every card."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from producers.simulator import simulate
from stream_features.card_event import card_event
from stream_features.feature_sets import CORE, DAY_MS
from stream_features.history import observe_history
from stream_features.transaction import Transaction

ROOT = Path(__file__).resolve().parents[2]
INTERPRETER = ROOT / ".venv-flink" / "bin" / "python"
END_MS = 1_700_000_000_000
WINDOWS = {
    feature.name.removeprefix("card_count_"): feature.window_ms
    for feature in CORE.features
    if feature.name.startswith("card_count_")
}
COLUMNS = [f"card_{aggregation}_{suffix}" for suffix in WINDOWS for aggregation in ("count", "sum")]

WRONG = "~wrong"

Values = dict[str, dict[str, int]]  # by transaction id, by feature

pytestmark = [
    pytest.mark.skipif(not INTERPRETER.exists(), reason="no .venv-flink: run `make setup-flink`"),
    pytest.mark.skipif(shutil.which("java") is None, reason="no java on the PATH: Flink needs a Java 17 runtime"),
]


class Row(NamedTuple):
    """What the judge is told about a transaction."""

    transaction_id: str
    card_id: str
    event_time_ms: int
    amount_base: int
    type: str


class Judged(NamedTuple):
    """Our answers and the judge's: right, with bounds a millisecond too wide, and for a card with one wrong amount."""

    ours: Values
    theirs: Values
    theirs_with_wide_bounds: Values
    theirs_of_a_corrupted_card: Values
    corrupted: Row


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    transactions = a_history()
    rows = [a_row(transaction) for transaction in transactions]
    # The busiest card once more under another name, with one wrong amount in the middle: later windows hold it too.
    busiest = Counter(row.card_id for row in rows).most_common(1)[0][0]
    of_card = [row for row in rows if row.card_id == busiest]
    purchases = [row for row in of_card if row.type == "purchase"]
    corrupted = purchases[len(purchases) // 2]
    twins = [
        row._replace(
            transaction_id=f"{row.transaction_id}{WRONG}",
            card_id=f"{busiest}{WRONG}",
            amount_base=row.amount_base + (row is corrupted),
        )
        for row in of_card
    ]
    answers = ask_sql(tmp_path_factory.mktemp("sql"), [*rows, *twins])
    right = {identity: row[: len(COLUMNS)] for identity, row in answers.items()}
    return Judged(
        our_values(transactions),
        {identity: named(row) for identity, row in right.items() if not identity.endswith(WRONG)},
        {identity: named(row[len(COLUMNS) :]) for identity, row in answers.items() if not identity.endswith(WRONG)},
        {identity.removesuffix(WRONG): named(row) for identity, row in right.items() if identity.endswith(WRONG)},
        corrupted,
    )


def test_every_count_and_sum_of_every_card_is_what_flink_sql_says(judged: Judged) -> None:
    assert len(judged.ours) > 15_000
    assert differences(judged.ours, judged.theirs) == []
    # Windows that are all alike, or all empty, would agree whatever they mean.
    values = judged.ours.values()
    for longer, shorter in zip(list(WINDOWS)[1:], list(WINDOWS), strict=False):
        assert any(row[f"card_count_{longer}"] > row[f"card_count_{shorter}"] for row in values)


def test_one_wrong_amount_in_the_judge_s_file_is_found(judged: Judged) -> None:
    theirs = judged.theirs_of_a_corrupted_card
    found = differences({identity: judged.ours[identity] for identity in theirs}, theirs)
    assert {name for _, name, _, _ in found} <= {f"card_sum_{suffix}" for suffix in WINDOWS}
    assert {theirs - ours for _, _, ours, theirs in found} == {1}
    of_the_row_itself = {name for identity, name, _, _ in found if identity == judged.corrupted.transaction_id}
    assert of_the_row_itself == {f"card_sum_{suffix}" for suffix in WINDOWS}


def test_bounds_one_millisecond_too_wide_are_found_in_every_window(judged: Judged) -> None:
    found = differences(judged.ours, judged.theirs_with_wide_bounds)
    assert {name for _, name, _, _ in found} == set(COLUMNS)


def a_history() -> list[Transaction]:
    """Forty days of 180 cards and one card whose purchases stand exactly one window apart; no ties within a card."""
    simulated = [row.transaction for row in simulate(16_000, seed=5, end_ms=END_MS, days=40, customers=180)]
    pattern = next(transaction for transaction in simulated if transaction.type == "purchase")
    edges = [
        clone(pattern, f"edge-{number}", END_MS - back_ms)
        for number, back_ms in enumerate({0, *WINDOWS.values(), *(window + 1 for window in WINDOWS.values())})
    ]
    ordered = sorted((*simulated, *edges), key=lambda transaction: transaction.event_time_ms)
    seen: set[tuple[str, int]] = set()
    history = []
    for transaction in ordered:
        moment = transaction.card_id, transaction.event_time_ms
        if moment not in seen:  # SQL counts all rows of one instant for each of them, we only those that came before
            seen.add(moment)
            history.append(transaction)
    # Past 1,024 purchases the oldest of a card are kept as tiles, which are not exact.
    assert max(Counter(transaction.card_id for transaction in history).values()) < 1_024
    assert history[-1].event_time_ms - history[0].event_time_ms > 30 * DAY_MS
    assert {transaction.type for transaction in history} == {"purchase", "refund"}
    return history


def clone(pattern: Transaction, transaction_id: str, event_time_ms: int) -> Transaction:
    return Transaction(
        transaction_id=transaction_id,
        event_time_ms=event_time_ms,
        card_id="card-edge",
        merchant_id=pattern.merchant_id,
        amount_minor=pattern.amount_minor,
        currency=pattern.currency,
    )


def a_row(transaction: Transaction) -> Row:
    event = card_event(transaction)
    return Row(
        transaction.transaction_id, transaction.card_id, event.event_time_ms, event.amount_base, transaction.type
    )


def our_values(transactions: list[Transaction]) -> Values:
    places = [CORE.names.index(name) for name in COLUMNS]
    ours: Values = {}
    for transaction, observation in observe_history(transactions, CORE):
        values = [observation.values[place] for place in places]
        assert all(value.is_integer() for value in values)
        ours[transaction.transaction_id] = dict(zip(COLUMNS, map(int, values), strict=True))
    return ours


def differences(ours: Values, theirs: Values) -> list[tuple[str, str, int, int]]:
    """Transaction id, feature, our value, theirs: everything that is not equal."""
    assert ours.keys() == theirs.keys()
    return [
        (transaction_id, name, value, theirs[transaction_id][name])
        for transaction_id, row in ours.items()
        for name, value in row.items()
        if value != theirs[transaction_id][name]
    ]


def ask_sql(folder: Path, rows: list[Row]) -> dict[str, list[int]]:
    """By transaction id: `COLUMNS` as they shall be, then the same with windows that begin a millisecond early."""
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    # Both ends of a SQL range belong to it, only the newer end of ours.
    preceding = {name: window_ms - 1 for name, window_ms in WINDOWS.items()}
    preceding |= {f"{name}_wide": window_ms for name, window_ms in WINDOWS.items()}
    script = Path(__file__).with_name("flink_sql_windows.py")
    with (folder / "flink.out").open("wb") as log:
        process = subprocess.Popen(
            [INTERPRETER, script, folder / "rows.csv", folder / "windows", json.dumps(preceding)],
            env=os.environ | {"JVM_ARGS": "-Xmx1g", "FLINK_LOG_DIR": str(folder)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=300)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, (folder / "flink.out").read_text()[-4000:]
    answers = {}
    for part in (folder / "windows").iterdir():
        with part.open(newline="") as file:
            answers |= {row[0]: [int(value) for value in row[1:]] for row in csv.reader(file)}
    return answers


def named(values: list[int]) -> dict[str, int]:
    return dict(zip(COLUMNS, values, strict=False))
