"""Every fault that the pipeline is put through, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stream_features.names import DECISIONS_STREAM, ENTITY_EVENTS_STREAM, LABELS_STREAM, TRANSACTIONS_STREAM
from stream_features.transaction import Transaction
from tests.faults import scenarios, victims
from tests.faults.effects import (
    THROUGHPUT_EXCEEDED,
    Abandon,
    CutAnswer,
    Delay,
    Effect,
    HalveAnswer,
    LeaveUnprocessed,
    LoseAnswer,
    Refuse,
    RefuseEntries,
    Silence,
    Twice,
)
from tests.faults.injector import Injection
from tests.faults.scenarios import Scenario
from tests.faults.setting import Need
from tests.faults.workload import with_hot_card, with_hot_merchant, with_skewed_clocks

GROUP: Final = 60
FAILING: Final = Refuse(((500, "InternalFailure"), (503, "ServiceUnavailable")))
TABLES: Final = ("BatchGetItem", "TransactWriteItems")
PUBLISHED: Final = (DECISIONS_STREAM, ENTITY_EVENTS_STREAM, LABELS_STREAM)  # by functions
# Longer than the patience of everybody who calls: functions wait 3 s, publishers 2 s.
FOREVER_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault, and the group of transactions that meets it.

    Attributes:
        name: of the group, too.
        title: what happens, for the report.
        section: of the report.
        meet: how; None only where no setting can do it.
        needs: what a setting must not lack.
        size: transactions of the group, at least.
        change: what is special about the group's transactions, in the undisturbed run as well.
        injections: what the injector does in it, for the soak, which needs no scenario for that.
    """

    name: str
    title: str
    section: str
    meet: Scenario | None
    needs: frozenset[Need] = frozenset()
    size: int = GROUP
    change: Callable[[Sequence[Transaction]], list[Transaction]] = list
    injections: tuple[Injection, ...] = ()


def _calls(
    name: str,
    effect: Effect,
    service: str,
    *operations: str,
    share: float = 0.5,
    most: int = 12,
    streams: Sequence[str] = (),
) -> Injection:
    return Injection(
        name=name,
        effect=effect,
        service=service,
        operations=frozenset(operations),
        share=share,
        most=most,
        resources=frozenset(streams),
    )


def _invocations(name: str, title: str, effect: Effect, *, races: bool = False, most: int = 12) -> Fault:
    injection = _calls(name, effect, "lambda", "Invoke", share=0.7, most=most)
    return Fault(
        name=name,
        title=title,
        section="Delivery",
        meet=scenarios.racing(injection) if races else scenarios.wire(injection),
        needs=frozenset({"our mapping runner"}),
        size=2 * GROUP if races else GROUP,
        injections=(injection,),
    )


def _publishing(name: str, title: str, *effects: Effect, most: int = 6) -> Fault:
    injections = tuple(
        _calls(f"{name}/{number}", effect, "kinesis", "PutRecords", share=0.7, most=most, streams=[TRANSACTIONS_STREAM])
        for number, effect in enumerate(effects)
    )
    return Fault(
        name=name,
        title=title,
        section="Publishing",
        meet=scenarios.wire(*injections, by_publisher=True),
        injections=injections,
    )


def _in_functions(section: str, name: str, title: str, *injections: Injection) -> Fault:
    return Fault(
        name=name,
        title=title,
        section=section,
        meet=scenarios.wire(*injections),
        needs=frozenset({"calls of functions"}),
        injections=injections,
    )


def _reading(name: str, title: str, *effects: Effect, share: float) -> Fault:
    injections = tuple(
        _calls(f"{name}/{number}", effect, "kinesis", "GetRecords", share=share, most=40)
        for number, effect in enumerate(effects)
    )
    return Fault(
        name=name,
        title=title,
        section="Reading",
        meet=scenarios.wire(*injections),
        needs=frozenset({"our mapping runner"}),
        injections=injections,
    )


def _process(name: str, title: str, meet: Scenario | None, *needs: Need) -> Fault:
    return Fault(name=name, title=title, section="Processes", meet=meet, needs=frozenset(needs))


def _endpoint(name: str, title: str, effect: Effect, *, share: float = 0.6, most: int = 6) -> Fault:
    injection = _calls(name, effect, "sagemaker", "InvokeEndpoint", share=share, most=most)
    return Fault(name=name, title=title, section="Endpoint", meet=scenarios.wire(injection), injections=(injection,))


SLOW_COMMIT: Final = _calls("slow_commit", Delay(seconds=0.3), "dynamodb", "TransactWriteItems", share=1.0, most=200)
SLOW_INVOKE: Final = _calls("slow_invoke", Delay(seconds=0.3), "lambda", "Invoke", share=1.0, most=200)

FAULTS: Final[tuple[Fault, ...]] = (
    # ------------------------------------------------------------------------------------------------------ delivery
    _invocations("invoked_twice", "a batch is delivered twice, one after the other", Twice(at_once=False)),
    _invocations(
        "invoked_at_once", "a batch is delivered twice at once: conditional races", Twice(at_once=True), races=True
    ),
    _invocations(
        "call_abandoned",
        "the connection breaks while the function runs; its batch is delivered again beside it",
        Abandon(after_s=0.02),
        most=6,
    ),
    _invocations(
        "invoke_throttled",
        "Lambda throttles or fails to take the call",
        Refuse(((429, "TooManyRequestsException"), (500, "ServiceException"))),
    ),
    _invocations("invoke_answer_halved", "Lambda: half of the answer arrives as if it were all", HalveAnswer()),
    Fault(
        name="shards_apart",
        title="reordering across shards: one is held back, the other runs on",
        section="Delivery",
        meet=scenarios.shards_apart,
        needs=frozenset({"our mapping runner"}),
    ),
    # ---------------------------------------------------------------------------------------------------- publishing
    _publishing("publisher_refused_in_part", "PutRecords takes some entries only", RefuseEntries(share=0.3)),
    _publishing("publisher_throttled", "PutRecords: throughput exceeded", Refuse(((400, THROUGHPUT_EXCEEDED),))),
    _publishing(
        "publisher_failed",
        "PutRecords: 5xx, broken connection, no answer",
        FAILING,
        Silence(0.0),
        Silence(FOREVER_S),
        most=1,
    ),
    _publishing(
        "publisher_answer_lost",
        "PutRecords took effect, the answer is lost: the records come twice",
        LoseAnswer(),
        most=3,
    ),
    _publishing(
        "publisher_answer_halved",
        "PutRecords took effect, half of the answer arrives as if it were all",
        HalveAnswer(),
        most=3,
    ),
    Fault(
        name="sent_twice",
        title="a publisher sends half of its transactions twice",
        section="Publishing",
        meet=scenarios.duplicates,
    ),
    # ------------------------------------------------------------------------------------------------------- reading
    _reading("reads_throttled", "GetRecords: throughput exceeded", Refuse(((400, THROUGHPUT_EXCEEDED),)), share=0.3),
    _reading(
        "reads_failed",
        "GetRecords: 5xx, broken connection, lost answer",
        FAILING,
        Silence(0.0),
        LoseAnswer(),
        share=0.1,
    ),
    _reading(
        "iterators_expired", "GetRecords: iterators expire", Refuse(((400, "ExpiredIteratorException"),)), share=0.2
    ),
    _reading("reads_halved", "GetRecords: half of the answer arrives as if it were all", HalveAnswer(), share=0.2),
    # -------------------------------------------------------------------------------------------------------- tables
    _in_functions(
        "Tables",
        "tables_throttled",
        "DynamoDB: throughput exceeded, throttling",
        _calls(
            "tables_throttled",
            Refuse(((400, THROUGHPUT_EXCEEDED), (400, "ThrottlingException"))),
            "dynamodb",
            *TABLES,
            share=0.4,
            most=16,
        ),
    ),
    _in_functions(
        "Tables",
        "keys_unprocessed",
        "BatchGetItem leaves keys unprocessed",
        _calls("keys_unprocessed", LeaveUnprocessed(share=0.5), "dynamodb", "BatchGetItem", share=0.6, most=20),
    ),
    _in_functions(
        "Tables",
        "tables_failed",
        "DynamoDB: 5xx",
        _calls(
            "tables_failed",
            Refuse(((500, "InternalServerError"), (503, "ServiceUnavailable"))),
            "dynamodb",
            *TABLES,
            share=0.4,
        ),
    ),
    _in_functions(
        "Tables",
        "commit_answer_lost",
        "TransactWriteItems took effect, the answer is lost (broken connection, timeout)",
        _calls("commit_answer_lost/timeout", LoseAnswer(FOREVER_S), "dynamodb", "TransactWriteItems", most=1),
        _calls("commit_answer_lost/broken", LoseAnswer(), "dynamodb", "TransactWriteItems", most=6),
    ),
    _in_functions(
        "Tables",
        "tables_silent",
        "DynamoDB does not answer",
        _calls("tables_silent", Silence(FOREVER_S), "dynamodb", *TABLES, most=2),
    ),
    # ----------------------------------------------------------------------------------------------------- afterwards
    _in_functions(
        "What functions publish",
        "published_in_part",
        "decisions and entity events: PutRecords takes some entries only",
        _calls("published_in_part", RefuseEntries(share=0.4), "kinesis", "PutRecords", streams=PUBLISHED, share=0.7),
    ),
    _in_functions(
        "What functions publish",
        "publication_unknown",
        "decisions and entity events: PutRecords took effect, the answer is lost, or fails",
        _calls("publication_unknown/lost", LoseAnswer(), "kinesis", "PutRecords", streams=PUBLISHED, most=4),
        _calls("publication_unknown/failed", FAILING, "kinesis", "PutRecords", streams=PUBLISHED, most=6),
    ),
    Fault(
        name="quarantine_failed",
        title="S3 and SQS fail while bad records are put away",
        section="What functions publish",
        meet=scenarios.garbage_under(
            _calls("quarantine_failed/s3", FAILING, "s3", "PutObject", share=0.6, most=5),
            _calls("quarantine_failed/sqs", FAILING, "sqs", "SendMessage", share=0.6, most=5),
        ),
        needs=frozenset({"calls of functions"}),
    ),
    _in_functions(
        "What functions publish",
        "aws_slow",
        "every call of the functions takes 150 ms longer",
        _calls("aws_slow/tables", Delay(seconds=0.15), "dynamodb", share=1.0, most=60),
        _calls("aws_slow/streams", Delay(seconds=0.15), "kinesis", "PutRecords", streams=PUBLISHED, share=1.0, most=20),
    ),
    _in_functions(
        "What functions publish",
        "answers_cut",
        "answers break off in the middle of their body",
        _calls("answers_cut/tables", CutAnswer(), "dynamodb", *TABLES, share=0.3, most=4),
        _calls("answers_cut/streams", CutAnswer(), "kinesis", "PutRecords", streams=PUBLISHED, share=0.5, most=3),
        _calls("answers_cut/endpoint", CutAnswer(), "sagemaker", "InvokeEndpoint", most=3),
    ),
    _in_functions(
        "What functions publish",
        "answers_halved",
        "half of an answer arrives as if it were all",
        _calls("answers_halved/tables", HalveAnswer(), "dynamodb", "BatchGetItem", share=0.3, most=4),
        _calls("answers_halved/streams", HalveAnswer(), "kinesis", "PutRecords", streams=PUBLISHED, share=0.5, most=3),
        _calls("answers_halved/endpoint", HalveAnswer(), "sagemaker", "InvokeEndpoint", most=3),
    ),
    # ------------------------------------------------------------------------------------------------------ endpoint
    _endpoint(
        "endpoint_failed",
        "InvokeEndpoint: 5xx, throttling",
        Refuse(((500, "InternalFailure"), (503, "ServiceUnavailable"), (429, "ThrottlingException"))),
    ),
    _endpoint(
        "endpoint_silent", "InvokeEndpoint: no answer within the function's patience", Silence(FOREVER_S), most=2
    ),
    _endpoint("endpoint_slow", "InvokeEndpoint takes 1.2 s longer", Delay(seconds=1.2), most=4),
    _endpoint("endpoint_answer_lost", "InvokeEndpoint: scored, the answer is lost", LoseAnswer(), most=4),
    # ----------------------------------------------------------------------------------------------------- processes
    _process(
        "killed_before_commit", "the scorer dies before its commit", scenarios.dies_at("before_commit"), "failpoints"
    ),
    _process(
        "killed_after_commit",
        "the scorer dies between commit and publication",
        scenarios.dies_at("after_commit"),
        "failpoints",
    ),
    _process(
        "killed_after_publish",
        "the scorer dies between publication and acknowledgement",
        scenarios.dies_at("after_publish"),
        "failpoints",
    ),
    _process(
        "workers_killed",
        "kill -9 of every function's processes while they commit",
        scenarios.killed(victims.workers, SLOW_COMMIT),
        "worker processes",
        "calls of functions",
    ),
    _process(
        "runner_killed",
        "kill -9 of the mapping runner while calls are under way",
        scenarios.killed(lambda pipeline: victims.part(pipeline, "mappings"), SLOW_INVOKE),
        "our mapping runner",
    ),
    _process(
        "sagemaker_host_killed",
        "kill -9 of the SageMaker host",
        scenarios.killed(lambda pipeline: victims.part(pipeline, "sagemaker"), times=1),
        "our sagemaker host",
    ),
    _process(
        "endpoint_server_killed",
        "kill -9 of the inference server",
        scenarios.killed(victims.endpoint_servers, times=1),
        "our sagemaker host",
    ),
    _process(
        "endpoint_server_hangs",
        "the inference server is stopped for 5 s",
        scenarios.hangs(victims.endpoint_servers, 5.0),
        "our sagemaker host",
    ),
    _process("emulator_killed", "kill -9 of the emulator", None, "writes that survive"),
    _process("resharded", "shards are split and merged under load", None, "resharding"),
    # --------------------------------------------------------------------------------------------------------- input
    Fault(
        name="garbage",
        title="a tenth is garbage: 1 MB, empty, deep JSON, NUL, invalid UTF-8, beyond 64 bits, negative, NaN, ...",
        section="Input",
        meet=scenarios.garbage,
        size=150,
    ),
    Fault(
        name="clock_skew",
        title="publishers' clocks are 12 h slow and 4 min fast; records an hour ahead",
        section="Input",
        meet=scenarios.clock_skew,
        size=180,
        change=with_skewed_clocks,
    ),
    Fault(
        name="hot_card",
        title="a card with a fifth of the traffic, piled up",
        section="Input",
        meet=scenarios.piled_up(lambda one, rows: one.card_id == rows[0].card_id),
        needs=frozenset({"our mapping runner"}),
        size=520,
        change=with_hot_card,
    ),
    Fault(
        name="hot_merchant",
        title="a merchant with a fifth of the traffic, piled up",
        section="Input",
        meet=scenarios.piled_up(lambda one, rows: one.merchant_id == "m-hot"),
        needs=frozenset({"our mapping runner"}),
        size=260,
        change=with_hot_merchant,
    ),
)
