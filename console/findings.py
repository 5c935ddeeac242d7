"""What the doctor says: one finding per thing looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: the thing, as a statement that holds if `ok`.
        ok: whether it holds.
        remedy: what to type, or to do, where it does not.
        optional: whether everything that was asked for works without it.
        area: what it is part of; findings of one area are shown together.
    """

    what: str
    ok: bool
    remedy: str = ""
    optional: bool = False
    area: str = "machine"

    @property
    def standing(self) -> str:
        """`ok`, `note` (optional and not so) or `MISS`."""
        if self.ok:
            return "ok"
        return "note" if self.optional else "MISS"


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing is missing that is needed."""
    return all(finding.ok or finding.optional for finding in findings)


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Text, area by area in the order of their first finding."""
    areas: dict[str, list[Finding]] = {}
    for finding in findings:
        areas.setdefault(finding.area, []).append(finding)
    for area, of_area in areas.items():
        yield area
        for finding in of_area:
            yield f"  {finding.standing:<4} {finding.what}"
            if not finding.ok and finding.remedy:
                yield f"         {finding.remedy}"


def findings_document(findings: Iterable[Finding]) -> dict[str, Any]:
    """`well` and the `findings`, for programs."""
    listed = list(findings)
    return {"well": is_well(listed), "findings": [{**asdict(one), "standing": one.standing} for one in listed]}
