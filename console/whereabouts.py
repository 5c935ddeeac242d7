"""Where a transaction is that has no decision: in quarantine, on its way, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from console.archive import archived_records, bring_up_to_date
from console.quarantine import position_of, rejected_records
from console.recompute import names_transaction
from console.running import Pipeline
from stream_features.errors import PortFailure
from stream_features.rejected import Rejected


@dataclass(slots=True)
class Whereabouts:
    """What was found of a transaction.

    Attributes:
        rejected: quarantined records that carry its id, by key.
        archived: how many records in the raw archive carry it.
        notes: what a reader should know.
    """

    transaction_id: str
    rejected: list[tuple[str, Rejected]] = field(default_factory=list)
    archived: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """`quarantined`, `in_flight` or `unknown`."""
        if self.rejected:
            return "quarantined"
        return "in_flight" if self.archived else "unknown"

    def lines(self) -> list[str]:
        if self.state == "quarantined":
            said = [f"{self.transaction_id}  quarantined: it broke the contract, so it was not decided"]
            for key, record in self.rejected:
                said += [
                    f"  {record.field}  {record.rule}  {record.message}",
                    f"  its bytes and what a correction needs: fraudstream quarantine show {position_of(key)}",
                ]
            return [*said, "  to correct and send it again: fraudstream quarantine fix, replay (docs/quarantine.md)"]
        if self.state == "in_flight":
            return [
                f"{self.transaction_id}  published but not decided yet",
                "  what is behind, and by how much: fraudstream status; which part fails: fraudstream doctor",
                *self.notes,
            ]
        return [
            f"no record of transaction {self.transaction_id!r}: not decided, not in quarantine, not in the archive",
            "Next: check the id (it is the publisher's own); `fraudstream watch` shows the newest alerts with theirs, "
            "`fraudstream status` whether anything was published",
            *self.notes,
        ]

    def document(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "transaction_id": self.transaction_id,
            "quarantined": [
                {
                    "position": position_of(key),
                    "key": key,
                    "field": one.field,
                    "rule": one.rule,
                    "message": one.message,
                }
                for key, one in self.rejected
            ],
            "archived": self.archived,
            "notes": self.notes,
        }


def find(pipeline: Pipeline, transaction_id: str) -> Whereabouts:
    """Look for a transaction that has no decision; raises PortFailure."""
    found = Whereabouts(transaction_id)
    found.rejected = [
        (key, record)
        for key, record in rejected_records(pipeline)
        if record.stream == pipeline.output("TransactionsStreamName")
        and names_transaction(record.payload, transaction_id)
    ]
    if found.rejected:
        return found
    try:
        bring_up_to_date(pipeline, 20.0)
    except PortFailure as error:
        found.notes.append(f"the archive may lack the newest records: {error}")
    found.archived = sum(
        names_transaction(record, transaction_id) for record in archived_records(pipeline, flush=False) if record
    )
    return found
