"""Errors, sorted by what the caller must do.

PipelineError
├─ MalformedRecord(field, rule)   the record can never succeed: quarantine it, keep the batch moving
├─ PortFailure                    AWS or the endpoint did not answer: the record waits, Kinesis redelivers
├─ StateCorrupt                   stored state cannot be read: fail the card and raise an alarm
├─ ContractMismatch               code, model and data disagree: fail the card, or refuse to start
└─ UsageError                     what the user asked for cannot be done as asked: say so, exit 2
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of every error this project raises on purpose."""


class MalformedRecord(PipelineError):
    """A record breaks its contract. Names the field (`$` is the whole record) and the rule it breaks."""

    def __init__(self, field: str, rule: str, message: str) -> None:
        super().__init__(f"{field}: {rule}: {message}")
        self.field = field
        self.rule = rule
        self.message = message


class PortFailure(PipelineError):
    """An outside service failed or timed out; the same call may work later. Never the record's fault."""


class StateCorrupt(PipelineError):
    """Packed state has an unknown layout or a bad checksum."""


class ContractMismatch(PipelineError):
    """Code, model artefact and stored data do not fit together (a missing feature, another definition)."""


class UsageError(PipelineError):
    """The request cannot be carried out as it was made; the message says what to change."""
