"""What must hold after a soak. Live traffic has no undisturbed run: the scalar path over the stream judges."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console.demo import lake_answer
from stream_features.codec import pack
from stream_features.decision import Decision
from stream_features.errors import PipelineError
from stream_features.feature_sets import feature_set
from stream_features.history import history_states, observe_history
from stream_features.label import Label
from stream_features.merchant_codec import pack_merchant, unpack_merchant
from stream_features.merchant_state import MerchantState
from stream_features.names import card_key, merchant_key
from stream_features.transaction import Transaction, payload_sha256
from tests.e2e.driver import stored_decisions, stored_labels, stored_states
from tests.e2e.judge import features_of_the_card, row_mismatches, score_mismatches, state_differences
from tests.e2e.test_first_path import released_artifact
from tests.faults.live_traffic import LiveTraffic
from tests.faults.setting import Run
from tests.faults.truth import (
    Truth,
    count_problems,
    position_problems,
    publication_problems,
    quarantine_problems,
    quarantined_bytes_problems,
)


def problems_of(run: Run, truth: Truth, status: Mapping[str, Any], traffic: LiveTraffic) -> list[str]:
    """Everything that does not hold, as sentences; empty is the only good outcome."""
    decisions = stored_decisions(run.pipeline)
    problems = count_problems(truth, status)
    problems += set_problems(truth, traffic, decisions)
    problems += quarantine_problems(run.pipeline, truth) + quarantined_bytes_problems(run.pipeline, truth)
    problems += position_problems(truth, decisions) + publication_problems(run.pipeline, decisions)
    problems += feature_problems(truth.valid, decisions, run.setting.feature_set)
    with tempfile.TemporaryDirectory() as folder:
        artifact = released_artifact(run.installed, Path(folder))
        wrong = score_mismatches(list(decisions.values()), artifact, Path(folder))
        problems += [f"score of {name} is not the model's" for name in wrong]
    if run.setting.engine == "lambda":
        problems += _state_problems(run, truth, traffic)
    problems += _label_problems(run, status, traffic)
    try:
        lake_answer(run.pipeline)
    except PipelineError as error:
        problems.append(str(error))
    return problems


def set_problems(truth: Truth, traffic: LiveTraffic, decisions: Mapping[str, Decision]) -> list[str]:
    """Ids that are missing, or too many, and decisions about another payload than the one that was sent."""
    problems = [f"{name} was sent and is not in the stream" for name in sorted(traffic.ids - truth.first.keys())]
    problems += [f"{name} is in the stream and was never sent" for name in sorted(truth.first.keys() - traffic.ids)]
    problems += [f"{name} has no decision" for name in sorted(truth.first.keys() - decisions.keys())]
    problems += [f"{name} is decided and was never sent" for name in sorted(decisions.keys() - truth.first.keys())]
    hashes = {one.transaction_id: payload_sha256(one) for one in truth.valid}
    problems += [
        f"{name} was decided from another payload"
        for name, decision in decisions.items()
        if hashes.get(name) not in (None, decision.payload_sha256)
    ]
    sent, found = Counter(traffic.bad), Counter(truth.bad.values())
    if set(sent) != set(found) or any(found[payload] < count for payload, count in sent.items()):
        problems.append(f"{sum(sent.values())} bad records were sent, {sum(found.values())} are in the stream")
    return problems


def feature_problems(history: list[Transaction], decisions: Mapping[str, Decision], set_name: str) -> list[str]:
    """Decisions whose features of the card are not the scalar path's; `history` holds each card in order of arrival.

    Features of merchants depend on how far the pipeline is behind, which is what the faults change.
    """
    names = features_of_the_card(set_name)
    features = feature_set(set_name)
    columns = [features.names.index(name) for name in names]
    rows = [[observed.values[at] for at in columns] for _, observed in observe_history(history, features)]
    ids = [one.transaction_id for one in history]
    return [f"features of {name} are wrong" for name in row_mismatches(ids, rows, decisions, names)]


def _state_problems(run: Run, truth: Truth, traffic: LiveTraffic) -> list[str]:
    expected = history_states(truth.valid, feature_set(run.setting.feature_set), traffic.labels)
    states = {card_key(name): pack(state) for name, state in expected.cards.items()}
    states |= {merchant_key(name): pack_merchant(state) for name, state in expected.merchants.items()}
    stored = stored_states(run.pipeline)
    accused = accused_of_refunds(truth.valid, traffic.labels)
    nobody = pack_merchant(MerchantState.empty())
    for key in accused:
        stored[key], states[key] = (without_first_report(some.get(key, nobody)) for some in (stored, states))
    return [f"state of {key} is wrong" for key in state_differences(stored, states)]


def accused_of_refunds(valid: list[Transaction], labels: list[Label]) -> set[str]:
    """Keys of the merchants that a label named before anybody knew that it was about a refund, or might have."""
    refunds = {one.transaction_id for one in valid if one.type != "purchase"}
    return {
        merchant_key(label.merchant_id) for label in labels if label.transaction_id in refunds and label.merchant_id
    }


def without_first_report(packed: bytes) -> bytes:
    """A merchant's state less the one field that remembers entries which were taken back."""
    state = unpack_merchant(packed)
    state.first_effective_ms = 0
    return pack_merchant(state)


def _label_problems(run: Run, status: Mapping[str, Any], traffic: LiveTraffic) -> list[str]:
    holds = {label.transaction_id: label.is_fraud for label in traffic.labels}
    stored = stored_labels(run.pipeline)
    problems = [
        f"label of {name} is missing, waits or says something else"
        for name, is_fraud in holds.items()
        if name not in stored or stored[name].waiting or stored[name].is_fraud is not is_fraud
    ]
    counted = status["labels"]
    if (counted["labels"], counted["labels_waiting"]) != (len(traffic.labels), 0):
        problems.append(f"{counted} does not say {len(traffic.labels)} labels, none waiting")
    return problems
