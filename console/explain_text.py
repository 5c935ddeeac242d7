"""An explanation as people read it, and as programs do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from console.explain import Explanation
from console.options import iso_utc
from console.provenance import Origin, PastPurchase

_STANDING = {True: "ok  ", False: "DIFF", None: "?   "}


def explanation_lines(found: Explanation, *, history: int) -> Iterator[str]:
    """Text: the decision, every feature by the size of its share, the checks, the newest `history` of the card."""
    yield from _decision_lines(found)
    yield ""
    yield from _feature_lines(found)
    yield ""
    yield from _history_lines(found, history)
    yield ""
    yield "checks"
    for check in found.checks:
        yield f"  {_STANDING[check.holds]} {check.name}: {check.detail}"


def explanation_document(found: Explanation, *, history: int) -> dict[str, Any]:
    """The stored decision's own fields, and beside them `state` and `explanation`."""
    document: dict[str, Any] = {"state": "decided", **msgspec.to_builtins(found.decision)}
    recomputed = found.recomputed
    rescored = found.rescored
    contributions = found.contributions
    values: dict[str, float] = {}
    if found.features is not None and recomputed is not None and recomputed.values is not None:
        values = dict(zip(found.features.names, recomputed.values, strict=True))
    document["explanation"] = {
        "holds": found.holds,
        "checks": [{"name": c.name, "holds": c.holds, "detail": c.detail} for c in found.checks],
        "policy": None if found.policy is None else json.loads(msgspec.json.encode(found.policy)),
        "base_value": rescored.stored.base if rescored else None,
        "margin": rescored.stored.margin if rescored else None,
        "features": [
            {
                **_origin_document(origin, found.card_past[:history]),
                "value": found.decision.features[origin.feature.name],
                "recomputed": _finite(values.get(origin.feature.name)),
                "contribution": contributions.get(origin.feature.name),
            }
            for origin in found.origins
        ],
        "history": [_past_document(one) for one in found.card_past[:history]],
        "history_total": len(found.card_past),
        "history_is_cut": found.card_past_is_cut,
        "published": recomputed.records if recomputed else None,
        "conflicting": recomputed.conflicting if recomputed else None,
        "notes": list(notes(found)),
    }
    return document


def notes(found: Explanation) -> Iterator[str]:
    """What is special about this decision."""
    decision, recomputed = found.decision, found.recomputed
    windowed = [origin.feature.name for origin in found.origins if origin.feature.entity == "card"]
    if decision.late:
        yield "late: older than the card's newest purchase when it came; scored as of its own time"
    if windowed and all(decision.features[name] is None for name in windowed):
        yield "stateless: too late for its windows to be asked, so every windowed feature is null"
    if decision.type != "purchase":
        yield f"a {decision.type}: scored as of its time, but it changes no card's and no merchant's state"
    if decision.degraded:
        yield (
            "degraded: decided by rules alone while the endpoint was down (docs/policy.md); it gets its score by "
            "`fraudstream rescore`"
        )
    if recomputed is None:
        return
    if recomputed.records > 1:
        yield f"published {recomputed.records} times: the first record was decided, the others changed nothing"
    if recomputed.conflicting:
        yield (
            f"published {recomputed.conflicting} times with another payload as well: those records are in quarantine "
            "as conflicting_duplicate (fraudstream quarantine list; docs/quarantine.md)"
        )
    yield from recomputed.notes


def _decision_lines(found: Explanation) -> Iterator[str]:
    one = found.decision
    score = "no score: the endpoint was down, rules decided alone" if one.score is None else f"score {one.score:.6f}"
    yield f"{one.transaction_id}  {one.decision}  {score}"
    if one.rescored_at_ms is not None:
        yield f"  rescored at {iso_utc(one.rescored_at_ms)}; decided without the model before"
    where = ", ".join(word for word in (one.channel, one.country, one.merchant_category) if word)
    yield (
        f"  {one.type} of {one.amount_minor} {one.currency} (minor units) at {iso_utc(one.event_time_ms)}, "
        f"card {one.card_id}, merchant {one.merchant_id}" + (f", {where}" if where else "")
    )
    yield f"  decided by engine {one.engine} {one.scored_at_ms - one.arrival_ms} ms after arrival at " + iso_utc(
        one.arrival_ms
    )
    yield f"  model {one.model_version or 'none'} (variant {one.variant or 'none'}), features {one.feature_set_id}"
    limits = f"review from {found.policy.review_from}, decline from {found.policy.decline_from}" if found.policy else ""
    yield f"  policy {one.policy_version}: {limits or 'its thresholds are not kept here'}"
    yield from _rule_lines(found)
    place = one.stream_position
    if place.of_request:
        yield "  asked for through the score API; it stands in no shard"
    else:
        yield f"  record {place.shard_id} {place.sequence_number}/{place.sub_sequence_number}"
    for note in notes(found):
        yield f"  note: {note}"


def _rule_lines(found: Explanation) -> Iterator[str]:
    if not found.decision.rules:
        yield "  rules: none fired, the score decided"
        return
    rules = {rule.id: rule for rule in found.policy.rules} if found.policy else {}
    for rule_id in found.decision.rules:
        rule = rules.get(rule_id)
        said = f" -> {rule.action}: {rule.expression}" + (f"  ({rule.reason})" if rule.reason else "") if rule else ""
        yield f"  rule {rule_id}{said}"


def _feature_lines(found: Explanation) -> Iterator[str]:
    decision, contributions = found.decision, found.contributions
    if found.rescored is not None:
        shown = found.rescored.stored
        yield f"features, largest share first (log-odds: base {shown.base:+.4f} + shares = margin {shown.margin:+.4f})"
    else:
        yield "features"
    units = {origin.feature.name: origin for origin in found.origins}
    order = sorted(decision.features, key=lambda name: -abs(contributions.get(name, 0.0)))
    width = max(map(len, order), default=0)
    for name in order:
        value = decision.features[name]
        share = f"{contributions[name]:+.4f}" if name in contributions else ""
        shown_value = "null" if value is None else f"{value:.10g}"
        origin = units.get(name)
        unit, origin_words = (origin.feature.unit, origin_text(origin, found)) if origin else ("", "")
        yield f"  {share:>8}  {name:<{width}}  {shown_value:>14} {unit:<20} {origin_words}".rstrip()


def origin_text(origin: Origin, found: Explanation) -> str:
    """What a feature's value was made of, in a few words."""
    feature = origin.feature
    if feature.entity == "transaction":
        return "this transaction"
    own = " + this one" if feature.includes_current and found.decision.type == "purchase" else ""
    if origin.after_ms is not None and origin.until_ms is not None:
        span = f"({iso_utc(origin.after_ms)}, {iso_utc(origin.until_ms)}]"
        if origin.purchases is None:
            return span
        of = "at the merchant" if feature.entity == "merchant" else "earlier"
        frauds = "" if origin.frauds is None else f", {origin.frauds} known frauds"
        return f"{origin.purchases} {of}{own}{frauds} in {span}"
    if not origin.counted:
        return "no earlier purchase" + (" here" if feature.aggregation == "first_time_at_merchant" else "")
    if feature.aggregation == "first_time_at_merchant":
        return f"{len(origin.counted)} earlier at this merchant"
    last = found.card_past[origin.counted[0]]
    return f"from {last.transaction_id} at {iso_utc(last.event_time_ms)}"


def _history_lines(found: Explanation, history: int) -> Iterator[str]:
    total = f"{len(found.card_past)}{' or more' if found.card_past_is_cut else ''}"
    shown = found.card_past[:history]
    yield f"card {found.decision.card_id}: newest {len(shown)} of {total} earlier purchases"
    windows = [origin for origin in found.origins if origin.feature.window_ms and origin.feature.entity == "card"]
    for place, one in enumerate(shown):
        spans = sorted({o.feature.window_ms or 0 for o in windows if place in o.counted})
        counted = f"in windows of {', '.join(map(_duration, spans))}" if spans else "in no window"
        score = "unscored" if one.score is None else f"{one.score:.4f}"
        verdict = "loaded by bootstrap" if one.loaded else f"{one.decision} {score}"
        yield (
            f"  {iso_utc(one.event_time_ms)}  {one.amount_minor:>10} {one.currency}  {one.merchant_id:<16} "
            f"{one.transaction_id}  {verdict}  {counted}"
        )


def _duration(ms: int) -> str:
    for unit_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m")):
        if ms % unit_ms == 0:
            return f"{ms // unit_ms}{unit}"
    return f"{ms} ms"


def _origin_document(origin: Origin, shown: list[PastPurchase]) -> dict[str, Any]:
    feature = origin.feature
    return {
        "name": feature.name,
        "unit": feature.unit,
        "meaning": feature.meaning,
        "entity": feature.entity,
        "window_ms": feature.window_ms,
        "delay_ms": feature.delay_ms,
        "resolution_ms": feature.resolution_ms,
        "includes_current": feature.includes_current,
        "after_ms": origin.after_ms,
        "until_ms": origin.until_ms,
        "purchases": origin.purchases,
        "frauds": origin.frauds,
        "from": [shown[place].transaction_id for place in origin.counted if place < len(shown)],
    }


def _past_document(one: PastPurchase) -> dict[str, Any]:
    return {
        "transaction_id": one.transaction_id,
        "event_time_ms": one.event_time_ms,
        "amount_minor": one.amount_minor,
        "currency": one.currency,
        "merchant_id": one.merchant_id,
        "country": one.country,
        "loaded_by_bootstrap": one.loaded,
        "decision": one.decision,
        "score": one.score,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value else value
