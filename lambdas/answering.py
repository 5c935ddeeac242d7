"""The score API's answer to one transaction, as each engine gives it.

With the Lambda engine the request goes through the scoring service itself, as if its record had arrived now; the
record that arrives later finds the decision. With the Flink engine the windows live in the job, so the transaction is
published and the decision awaited. Either way a transaction has one decision, and asking again answers the stored one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from lambdas.batch import BatchOutcome
from lambdas.budget import Budget, OutOfTime
from lambdas.port_sets import RequestPorts
from lambdas.records import UserRecord
from lambdas.repeats import recorded_effect
from lambdas.scoring import ScoredBatch, ScoringService
from lambdas.writes import StoredDecision
from stream_features.decision import API_SHARD, StreamPosition
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.names import TRANSACTIONS_STREAM
from stream_features.transaction import Transaction, payload_sha256

ROUNDS: Final = 4  # of the service, each of which starts again once when another writer came first
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.25


class Request(Struct, frozen=True):
    """A transaction to decide.

    Attributes:
        transaction: valid as of `arrival_ms`.
        payload: as its application wrote it, on one line.
        arrival_ms: when the request came.
        publish: whether the API publishes the transaction; None: as the engine needs it.
        budget_ms: within which there is an answer.
    """

    transaction: Transaction
    payload: bytes
    arrival_ms: int
    publish: bool | None
    budget_ms: int


class UnderWay(OutOfTime):
    """The budget is spent, and the transaction is on its way through the stream."""


class Answering(Protocol):
    def answer(self, request: Request) -> StoredDecision:
        """The decision on the request's transaction, or on another one with its id: who asks compares the payloads.

        Raises:
            OutOfTime: the budget is spent; `UnderWay` when the decision will come without a further request.
            NotPublished: decided, but the transaction that was to be published is not known to be out.
            ContractMismatch: state, code or model do not fit; it takes a person.
            PortFailure: AWS or the endpoint did not answer, or other writers of the card came first again and again.
        """
        ...


class DecidesItself:
    """Through the scoring service. It commits against the card's version, as the stream's scorer does.

    Args:
        service: whose records are requests.
        ports: beside it.
        budget: the service's.
        tell: is told what became of every try.
    """

    def __init__(
        self, service: ScoringService, ports: RequestPorts, budget: Budget, tell: Callable[[BatchOutcome], None]
    ) -> None:
        self._service = service
        self._ports = ports
        self._budget = budget
        self._tell = tell

    def answer(self, request: Request) -> StoredDecision:
        clock = self._ports.clock
        ends_at_s = clock.elapsed_s() + request.budget_ms / 1000
        # Where the decision stands: no shard, so no record is taken for it.
        position = StreamPosition(API_SHARD, str(request.arrival_ms))
        record = UserRecord(request.payload, TRANSACTIONS_STREAM, position, request.arrival_ms)
        key = request.transaction.transaction_id
        pause_s = FIRST_PAUSE_S
        for rounds_left in reversed(range(ROUNDS)):
            found = self._service.score([record], remaining_ms=round(1000 * (ends_at_s - clock.elapsed_s())))
            self._tell(found.outcome)
            if key in found.decisions:
                # Its publication may have failed; the record, when it arrives, publishes it again.
                stored = found.decisions[key]
                if request.publish and stored.decision.payload_sha256 == payload_sha256(request.transaction):
                    self._publish(request, stored, newly=bool(found.outcome.counts.get("api_decided")))
                return stored
            if found.outcome.alarms:
                raise ContractMismatch(_why(found))
            if not rounds_left:
                break
            self._budget.check()
            clock.pause(pause_s)
            pause_s *= 2
        raise PortFailure(_why(found))

    def _publish(self, request: Request, stored: StoredDecision, *, newly: bool) -> None:
        """Publish the transaction, unless it is known to have arrived in the stream."""
        position = stored.decision.stream_position
        if not position.of_request:
            return
        if not newly:
            self._budget.check()
            mark = recorded_effect(request.transaction.transaction_id)
            if mark in self._ports.ledger.recorded([mark]):
                return
        self._ports.transactions.publish(request.transaction, request.payload)


class WaitsForDecision:
    """Publishes the transaction, unless its application does, and looks for the decision until time is up."""

    def __init__(self, ports: RequestPorts, budget: Budget) -> None:
        self._ports = ports
        self._budget = budget

    def answer(self, request: Request) -> StoredDecision:
        self._budget.renew(request.budget_ms)
        key = request.transaction.transaction_id
        published = False
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                self._budget.check()
                document = self._ports.decisions.get([key]).get(key)
                if document is not None:
                    return StoredDecision.from_document(document)
                if not published and request.publish is not False:
                    self._budget.check()
                    self._ports.transactions.publish(request.transaction, request.payload)
                    published = True
            except OutOfTime as error:
                if published or request.publish is False:
                    raise UnderWay("published, not decided within the budget") from error
                raise
            self._ports.clock.pause(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 1.5 * pause_s)


def _why(found: ScoredBatch) -> str:
    return "; ".join(found.outcome.failures) or "the transaction was not decided"
