"""What `doctor` says about the targets of `up`: the table of local/capabilities.py, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from local.capabilities import CAPABILITIES, PLACES, Capability, Place, standing, why_not


def target_lines() -> Iterator[str]:
    """The table, and below it why something is lacking and where."""
    widest = max(map(len, CAPABILITIES))
    yield f"{'a run has':<{widest}}  " + "".join(f"{name:<12}" for name in PLACES).rstrip()
    for capability in CAPABILITIES:
        cells = "".join(f"{standing(name, capability).how:<12}" for name in PLACES)
        yield f"{capability:<{widest}}  {cells}".rstrip()
    yield "what is lacking:"
    for capability in CAPABILITIES:
        for reason, places in _lacking(capability).items():
            yield f"  {capability} ({', '.join(places)}): {reason}"


def targets_document() -> dict[str, Any]:
    """Target to capability to `how` it comes, and `why_not` where it is lacking."""
    return {
        place: {
            capability: {"how": standing(place, capability).how, "why_not": why_not(place, capability)}
            for capability in CAPABILITIES
        }
        for place in PLACES
    }


def _lacking(capability: Capability) -> dict[str, list[Place]]:
    """Reason to the places that it holds for."""
    reasons: dict[str, list[Place]] = {}
    for place in PLACES:
        if (reason := why_not(place, capability)) is not None:
            reasons.setdefault(reason, []).append(place)
    return reasons
