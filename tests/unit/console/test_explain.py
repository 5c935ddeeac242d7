"""A decision explained: features with their past, shares, and everything computed again; a changed bit is found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import msgspec
import pytest

from console import recompute as recomputing
from console.explain import Explanation, NoDecision, explain, stored_decision
from console.explain_text import explanation_document, explanation_lines
from console.failures import as_click_error
from console.recompute import lines_about, names_transaction
from console.rescoring import rescore
from console.whereabouts import find
from lambdas.judging import Judge
from lambdas.policy import Policy, Rule, encode_policy, parse_policy
from model.artifact import Calibration
from model.train import train
from model.training_set import build_training_set
from producers.simulator import simulate
from stream_features.decision import API_SHARD, Decision, StreamPosition
from stream_features.errors import MalformedRecord, PortFailure
from stream_features.feature_definition import RISKS
from stream_features.feature_sets import feature_set
from stream_features.names import quarantine_key
from stream_features.rejected import encode_rejected, rejected
from stream_features.transaction import encode_transaction
from tests.unit.console.fake_pipeline import DELAY_MS, Scene, by_one_bit, changed, decided_history
from tests.unit.endpoint.models import a_booster, with_manifest

HOUR_MS = 3_600_000


def quiet(_: str) -> None:
    """No progress."""


@pytest.fixture(scope="module", params=["core", "handbook"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    history = simulate(1_500, seed=3, end_ms=1_760_000_000_000, days=30)
    rows = build_training_set(
        ((row.transaction, row.is_fraud) for row in history), feature_set(request.param), label_delay_ms=DELAY_MS
    )
    artifact = train(rows, provenance={}).artifact
    return decided_history(tmp_path_factory.mktemp(request.param), request.param, artifact)


@pytest.fixture(autouse=True)
def _delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive holds what it holds; no worker is asked."""
    monkeypatch.setattr(recomputing, "bring_up_to_date", lambda pipeline, timeout_s: None)
    monkeypatch.setattr("console.whereabouts.bring_up_to_date", lambda pipeline, timeout_s: None)


@pytest.fixture
def spoil(scene: Scene) -> Iterator[Scene]:
    """The scene, to be changed: everything is as it was afterwards."""
    decisions, objects = dict(scene.decisions), dict(scene.pipeline.s3.objects)
    parameter = scene.pipeline.ssm.value
    yield scene
    scene.decisions.clear()
    scene.decisions.update(decisions)
    scene.pipeline.s3.objects = objects
    scene.pipeline.ssm.value = parameter


def explained(scene: Scene, decision: Decision, **how: bool) -> Explanation:
    return explain(scene.pipeline, decision, progress=quiet, **how)  # type: ignore[arg-type]


def standing(found: Explanation) -> dict[str, bool | None]:
    """By the first word of each check's name."""
    return {check.name.split(",")[0].split(" of the margin")[0]: check.holds for check in found.checks}


def busiest(scene: Scene) -> Decision:
    """The last purchase of the card that has most."""
    cards: dict[str, list[Decision]] = {}
    for one in scene.decisions.values():
        if one.type == "purchase" and not one.late:
            cards.setdefault(one.card_id, []).append(one)
    return max(cards.values(), key=len)[-1]


def test_what_was_served_in_lockstep_is_explained_and_found_equal(scene: Scene) -> None:
    chosen = list(scene.decisions.values())[::40]
    alerts = [one for one in scene.decisions.values() if one.decision != "approve"][:3]
    refunds = [one for one in scene.decisions.values() if one.type == "refund"][:2]
    late = [one for one in scene.decisions.values() if one.late]
    assert alerts
    assert refunds
    assert late
    for decision in (*chosen, *alerts, *refunds, *late):
        found = explained(scene, decision)
        assert set(standing(found).values()) == {True}, (decision.transaction_id, found.checks)
        assert found.holds
        assert found.rescored is not None
        total = found.rescored.stored.base + math.fsum(found.contributions.values())
        assert total == pytest.approx(found.rescored.stored.margin, abs=1e-4)
        assert 1 / (1 + math.exp(-found.rescored.stored.margin)) == pytest.approx(decision.score, abs=1e-6)


def test_features_are_traced_to_the_purchases_that_the_kernel_counted(scene: Scene) -> None:
    """The plain count of each window against the served value: two ways to the same number."""
    seen: set[str] = set()
    for decision in list(scene.decisions.values())[::25]:
        found = explained(scene, decision)
        own = 1 if decision.type == "purchase" else 0
        for origin in found.origins:
            feature, value = origin.feature, decision.features[origin.feature.name]
            if feature.aggregation == "count":
                mine = own if feature.entity == "card" else 0
                assert (origin.purchases or 0) + mine == value, (decision.transaction_id, feature.name)
            elif feature.aggregation in RISKS and origin.purchases:
                assert (origin.frauds or 0) / origin.purchases == value, (decision.transaction_id, feature.name)
            elif feature.aggregation == "seconds_since_last":
                last = found.card_past[origin.counted[0]].event_time_ms if origin.counted else None
                assert value == (None if last is None else (decision.event_time_ms - last) / 1000)
            elif feature.aggregation == "first_time_at_merchant" and value is not None:
                assert (value == 0.0) == bool(origin.counted)
            elif feature.aggregation == "distinct_merchants":
                merchants = {found.card_past[place].merchant_id for place in origin.counted}
                assert value == len(merchants | ({decision.merchant_id} if own else set()))
            elif feature.aggregation == "distance_from_last":
                assert (value is None) or bool(origin.counted)
            if value and (origin.purchases or feature.entity == "transaction"):
                seen.add(feature.name)
    assert {name for name in scene.pipeline.features.names if "count" in name or "NB_TX" in name} - seen <= {
        "card_count_1m",
        "card_count_10m",
        "merchant_count_10m",
        "merchant_count_1h",
    }


def test_a_bit_of_a_feature_makes_it_differ_by_name(scene: Scene) -> None:
    decision = busiest(scene)
    name = next(f.name for f in scene.pipeline.features.features if f.entity == "card" and f.aggregation == "count")
    features = {**decision.features, name: by_one_bit(decision.features[name])}
    found = explained(scene, changed(decision, features=features))
    (check,) = [one for one in found.checks if one.name.startswith("features")]
    assert check.holds is False
    assert f"1 of {len(features)} differ: {name}: " in check.detail
    assert not found.holds


def test_a_bit_of_the_score_and_a_changed_reason_are_found(scene: Scene) -> None:
    decision = next(one for one in scene.decisions.values() if one.reasons)
    found = explained(scene, changed(decision, score=by_one_bit(decision.score)))
    assert standing(found)["score"] is False
    first = msgspec.structs.replace(decision.reasons[0], contribution=decision.reasons[0].contribution + 1e-6)
    found = explained(scene, changed(decision, reasons=[first, *decision.reasons[1:]]))
    (check,) = [one for one in found.checks if one.name.startswith("score")]
    assert check.holds is False
    assert "reasons" in check.detail


def test_another_verdict_than_the_policy_s_is_found(scene: Scene) -> None:
    decision = busiest(scene)
    wrong = "decline" if decision.decision != "decline" else "approve"
    found = explained(scene, changed(decision, decision=wrong))
    (check,) = [one for one in found.checks if one.name.startswith("decision")]
    assert check.holds is False
    assert decision.decision in check.detail


def test_without_the_records_of_its_card_a_decision_is_not_compared(spoil: Scene) -> None:
    decision = busiest(spoil)
    earlier = [one for one in explained(spoil, decision).card_past if not one.loaded]
    assert earlier
    victim = earlier[0].transaction_id
    spoil.archive([encode_transaction(one) for one in spoil.transactions if one.transaction_id != victim])
    (check,) = [one for one in explained(spoil, decision).checks if one.name.startswith("features")]
    assert (check.holds, f"as {victim}:" in check.detail) == (None, True)


def test_a_changed_row_of_the_archive_shows_in_the_features(spoil: Scene) -> None:
    decision = busiest(spoil)
    victim = next(one for one in explained(spoil, decision).card_past if not one.loaded).transaction_id
    records = {one.transaction_id: one for one in spoil.transactions}
    records[victim] = msgspec.structs.replace(records[victim], amount_minor=records[victim].amount_minor + 100)
    spoil.archive([encode_transaction(one) for one in records.values()])
    assert standing(explained(spoil, decision))["features"] is False


def test_an_archived_record_other_than_the_decided_one_is_found(spoil: Scene) -> None:
    decision = busiest(spoil)
    spoil.archive(
        [
            encode_transaction(msgspec.structs.replace(one, amount_minor=one.amount_minor + 1))
            if one.transaction_id == decision.transaction_id
            else encode_transaction(one)
            for one in spoil.transactions
        ]
    )
    (check,) = [one for one in explained(spoil, decision).checks if one.name.startswith("features")]
    assert (check.holds, "another one" in check.detail) == (False, True)


def test_what_has_not_reached_the_archive_is_said_with_how_long_it_takes(spoil: Scene) -> None:
    decision = busiest(spoil)
    spoil.archive([encode_transaction(one) for one in spoil.transactions if one.card_id != decision.card_id])
    found = explained(spoil, decision)
    (check,) = [one for one in found.checks if one.name.startswith("features")]
    assert check.holds is None
    assert "not in the raw archive yet: try again in 77 s" in check.detail
    assert standing(found)["score"] is True  # of the stored features
    assert found.holds


def test_a_worker_that_does_not_answer_is_a_note_not_a_failure(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(*_: object) -> None:
        raise PortFailure("the lake was not flushed within 20 s")

    monkeypatch.setattr(recomputing, "bring_up_to_date", stuck)
    found = explained(scene, busiest(scene))
    assert found.holds
    assert any("not flushed" in line for line in explanation_lines(found, history=3))


def test_a_bootstrapped_file_that_is_gone_leaves_the_features_unchecked(spoil: Scene) -> None:
    file = next(spoil.folder.glob("*.parquet"))
    content = file.read_bytes()
    file.unlink()
    try:
        found = explained(spoil, busiest(spoil))
    finally:
        file.write_bytes(content)
    (check,) = [one for one in found.checks if one.name.startswith("features")]
    assert check.holds is None
    assert "was bootstrapped but is not there any more" in check.detail


def test_records_published_again_are_counted(spoil: Scene) -> None:
    decision = busiest(spoil)
    own = next(one for one in spoil.transactions if one.transaction_id == decision.transaction_id)
    other = msgspec.structs.replace(own, amount_minor=own.amount_minor + 1)
    spoil.archive([*spoil.archived(), encode_transaction(own), encode_transaction(other)])
    found = explained(spoil, decision)
    assert found.holds
    text = "\n".join(explanation_lines(found, history=0))
    assert "published 2 times: the first record was decided" in text
    assert "conflicting_duplicate" in text
    document = explanation_document(found, history=0)["explanation"]
    assert (document["published"], document["conflicting"]) == (2, 1)


def test_without_the_archive_the_rest_is_explained(scene: Scene) -> None:
    found = explained(scene, busiest(scene), from_archive=False)
    assert standing(found)["features"] is None
    assert standing(found)["score"] is True
    assert found.holds


def test_a_model_or_feature_set_that_is_gone_is_said(spoil: Scene) -> None:
    decision = busiest(spoil)
    found = explained(spoil, changed(decision, feature_set_id="core-1-000000000000"))
    assert set(standing(found).values()) == {None}
    assert found.origins == []
    assert list(explanation_lines(found, history=5))
    for key in [key for key in spoil.pipeline.s3.objects if key.startswith("models/")]:
        del spoil.pipeline.s3.objects[key]
    found = explained(spoil, decision)
    assert standing(found)["score"] is None
    assert standing(found)["features"] is True


def test_a_degraded_decision_has_no_score_but_features_and_a_policy_to_check(scene: Scene) -> None:
    policy = parse_policy(scene.pipeline.ssm.value)
    decision = busiest(scene)
    judged = Judge(policy, scene.pipeline.features).judge(decision, decision.features, None)
    degraded = changed(
        decision,
        **{"degraded": True, "score": None, "reasons": [], "model_version": "", "variant": ""},
        **{"decision": judged.decision, "rules": judged.rules},
    )
    found = explained(scene, degraded)
    assert (standing(found)["score"], standing(found)["features"], standing(found)["decision"]) == (None, True, True)
    assert any("fraudstream rescore" in line for line in explanation_lines(found, history=0))
    wrong = "approve" if judged.decision != "approve" else "review"
    assert standing(explained(scene, changed(degraded, decision=wrong)))["decision"] is False


def test_what_was_asked_of_the_score_api_may_have_no_record(spoil: Scene) -> None:
    decision = busiest(spoil)
    asked = changed(decision, stream_position=StreamPosition(API_SHARD, str(decision.arrival_ms)))
    spoil.decisions[asked.transaction_id] = asked
    assert explained(spoil, asked).holds
    spoil.archive([encode_transaction(one) for one in spoil.transactions if one.transaction_id != asked.transaction_id])
    found = explained(spoil, asked)
    (check,) = [one for one in found.checks if one.name.startswith("features")]
    assert (check.holds, "score API" in check.detail) == (None, True)
    assert any("it stands in no shard" in line for line in explanation_lines(found, history=0))


def test_rules_are_shown_and_held_against_their_policy(spoil: Scene) -> None:
    decision = busiest(spoil)
    rule = Rule(id="large", expression="amount_minor >= 0", action="review", reason="every amount")
    policy = Policy(policy_version="p-7", review_from=0.5, decline_from=0.9, rules=(rule,))
    spoil.pipeline.s3.objects["policies/p-7.json"] = encode_policy(policy)
    found = explained(spoil, changed(decision, policy_version="p-7", decision="review", rules=["large"]))
    assert standing(found)["decision"] is True
    text = "\n".join(explanation_lines(found, history=0))
    assert "rule large -> review: amount_minor >= 0  (every amount)" in text
    assert "review from 0.5, decline from 0.9" in text


def test_a_policy_that_is_not_kept_is_said(scene: Scene) -> None:
    found = explained(scene, changed(busiest(scene), policy_version="p-gone"))
    assert standing(found)["decision"] is None
    assert any("thresholds are not kept" in line for line in explanation_lines(found, history=0))


def test_the_policy_that_a_model_brought_is_the_model_s_own(scene: Scene) -> None:
    manifest = scene.artifact.manifest
    found = explained(scene, changed(busiest(scene), policy_version=manifest.model_version))
    assert found.policy is not None
    assert found.policy.review_from == manifest.thresholds.review_from


@pytest.mark.parametrize("scene", ["core"], indirect=True)  # the small booster's columns
def test_calibrated_scores_follow_from_their_margin(scene: Scene) -> None:
    calibration = Calibration(method="isotonic", scores=(0.1, 0.5, 0.9), probabilities=(0.01, 0.4, 0.95))
    artifact = with_manifest(bytes(a_booster().save_raw("ubj")), calibration=calibration)
    for decision in list(scene.decisions.values())[:40]:
        assert rescore(artifact, decision, scene.pipeline.features, None).score_follows_from_margin
    plain = with_manifest(bytes(a_booster().save_raw("ubj")))
    wrong = rescore(artifact, busiest(scene), scene.pipeline.features, None)
    spoilt = msgspec.structs.replace(wrong.stored, score=wrong.stored.score + 1e-4)
    assert not type(wrong)(spoilt, None, plain.manifest).score_follows_from_margin


def test_text_and_document_say_the_same(scene: Scene) -> None:
    decision = busiest(scene)
    found = explained(scene, decision)
    lines = list(explanation_lines(found, history=4))
    document = explanation_document(found, history=4)
    assert json.loads(json.dumps(document))["transaction_id"] == decision.transaction_id
    assert document["state"] == "decided"
    assert document["score"] == decision.score
    explanation = document["explanation"]
    assert len(explanation["features"]) == len(decision.features)
    total = explanation["base_value"] + math.fsum(one["contribution"] for one in explanation["features"])
    assert total == pytest.approx(explanation["margin"], abs=1e-4)
    assert len(explanation["history"]) == min(4, explanation["history_total"])
    for one in explanation["features"]:
        assert one["recomputed"] == one["value"]
        assert any(one["name"] in line and one["unit"] in line for line in lines)
    for past in explanation["history"]:
        assert any(past["transaction_id"] in line and past["merchant_id"] in line for line in lines)


def test_a_request_is_no_record_and_has_for_its_past_what_was_scored_before_it(spoil: Scene) -> None:
    decision = busiest(spoil)
    past = [one.transaction_id for one in explained(spoil, decision).card_past]
    assert len([one for one in explained(spoil, decision).card_past if not one.loaded]) > 3
    place = StreamPosition("api", str(decision.arrival_ms))
    asked = changed(decision, stream_position=place, scored_at_ms=decision.scored_at_ms)
    found = explained(spoil, asked)
    assert "  asked for through the score API; it stands in no shard" in list(explanation_lines(found, history=4))
    assert [one.transaction_id for one in found.card_past] == past
    earliest = min(one.scored_at_ms for one in spoil.decisions.values() if one.card_id == decision.card_id)
    first = explained(spoil, changed(asked, scored_at_ms=earliest))
    assert [one for one in first.card_past if not one.loaded] == []


def test_a_transaction_without_a_decision_is_looked_for(spoil: Scene) -> None:
    one = spoil.transactions[0]
    raw = encode_transaction(msgspec.structs.replace(one, transaction_id="bad-1")).replace(b'"USD"', b'"usd"')
    position = StreamPosition("shard-0", "1")
    record = rejected(
        raw,
        MalformedRecord("currency", "unknown_currency", "must be an ISO 4217 code in capitals"),
        stream="transactions",
        stream_position=position,
        arrival_ms=1,
        rejected_at_ms=2,
    )
    key = quarantine_key("transactions", "shard-0", "1", 0)
    spoil.pipeline.s3.objects[key] = encode_rejected(record)
    spoil.archive([*spoil.archived(), encode_transaction(msgspec.structs.replace(one, transaction_id="new-1"))])
    pipeline = spoil.pipeline
    assert find(pipeline, "bad-1").state == "quarantined"  # type: ignore[arg-type]
    text = "\n".join(find(pipeline, "bad-1").lines())  # type: ignore[arg-type]
    assert "fraudstream quarantine show transactions/shard-0/1-0" in text
    assert find(pipeline, "bad-1").document()["quarantined"][0]["key"] == key  # type: ignore[arg-type]
    assert "docs/quarantine.md" in text
    assert find(pipeline, "new-1").state == "in_flight"  # type: ignore[arg-type]
    assert "fraudstream status" in "\n".join(find(pipeline, "new-1").lines())  # type: ignore[arg-type]
    nowhere = find(pipeline, "never-1")  # type: ignore[arg-type]
    assert nowhere.state == "unknown"
    assert "Next: " in "\n".join(nowhere.lines())
    with pytest.raises(NoDecision) as raised:
        stored_decision(pipeline, "never-1")  # type: ignore[arg-type]
    assert "Next: " in as_click_error(raised.value).message  # type: ignore[attr-defined]


def test_lines_about_an_entity_find_it_however_it_is_spelt() -> None:
    lines = [
        b'{"card_id":"c-1"}',
        b'{"card_id":"c\\u002d1"}',
        b'{"card_id":"c-2"}',
        '{"merchant_id":"Caf\u00e9"}'.encode(),
    ]
    assert list(lines_about(lines, ("c-1",))) == lines[:2]
    assert list(lines_about(lines, ("c-9", "Café"))) == [lines[1], lines[3]]


def test_a_record_names_its_transaction_even_where_it_is_no_json() -> None:
    assert names_transaction(b'{"transaction_id": "t-1"}', "t-1")
    assert names_transaction(b'{"transaction_id": "t\\u002d1"}', "t-1")
    assert not names_transaction(b'{"transaction_id": "t-12"}', "t-1")
    assert names_transaction(b'{"transaction_id": "t-1", broken', "t-1")
    assert not names_transaction(b"[1]", "t-1")
