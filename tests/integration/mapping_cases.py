"""What AWS documents of a Kinesis event source mapping, case by case, and what two implementations do.

`aws` is what the documentation says must be seen. `ours` and `localstack` hold what is seen instead, where it differs;
test_mapping_cases.py runs every case on both and compares, so this table, and the page made of it, stay true.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

Implementation = Literal["ours", "localstack"]
IMPLEMENTATIONS: Final[tuple[Implementation, ...]] = ("ours", "localstack")

GUIDE: Final = "https://docs.aws.amazon.com/lambda/latest/dg/"
BATCHING: Final = f"{GUIDE}with-kinesis.html"
PARAMETERS: Final = f"{GUIDE}services-kinesis-parameters.html"
PARTIAL: Final = f"{GUIDE}services-kinesis-batchfailurereporting.html"
FAILURES: Final = f"{GUIDE}kinesis-on-failure-destination.html"
FILTERS: Final = f"{GUIDE}with-kinesis-filtering.html"
WINDOWS: Final = f"{GUIDE}services-kinesis-windows.html"


class Discarded(NamedTuple):
    """What the on-failure destination was told: why, and of which records, by their payloads."""

    condition: str
    first: str
    last: str
    size: int


@dataclass(frozen=True)
class Seen:
    """What a case shows: the payloads of every call, in order, what was given up, and whether calls overlapped.

    A case that looks at the order of some calls only says so by its `view`.
    """

    calls: tuple[tuple[str, ...], ...] = ()
    discarded: tuple[Discarded, ...] = ()
    overlapped: bool = False
    window: bool = False  # whether the event says which tumbling window it belongs to


@dataclass(frozen=True, kw_only=True)
class Case:
    """One documented behaviour.

    Attributes:
        name: of the case.
        says: what AWS documents, in our words.
        page: where.
        settings: of the mapping; the others are test defaults (10 records a batch, from the start, failures reported).
        records: (partition key, payload), put before the mapping is made.
        later: put once the function was called; where records grow too old, once one was given up for it.
        paused: the mapping is disabled while `later` is put.
        shards: of the stream.
        view: `all` calls; `merged`, a call that comes again counted once; `set`, order left out as well.
        repeats: how often the first call must have been seen before the case is judged, where it comes for ever.
        aws: what must be seen.
        ours, localstack: what is seen instead.
        right: who is right where something differs, and what follows for us.
    """

    name: str
    says: str
    page: str
    settings: dict[str, Any] = field(default_factory=dict)
    records: tuple[tuple[str, str], ...]
    later: tuple[tuple[str, str], ...] = ()
    paused: bool = False
    shards: int = 1
    view: Literal["all", "merged", "set"] = "all"
    repeats: int = 0
    aws: Seen
    ours: Seen | None = None
    localstack: Seen | None = None
    right: str = ""

    def expected(self, implementation: Implementation) -> Seen:
        """What `implementation` shows."""
        instead = self.ours if implementation == "ours" else self.localstack
        return self.aws if instead is None else instead


def key_on(shard: int, of: int = 2) -> str:
    """A partition key whose records go to shard number `shard` of a stream with `of` equal shards."""
    for number in range(1_000):
        key = f"key-{number}"
        if int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 16) * of >> 128 == shard:
            return key
    raise ValueError(f"no key on shard {shard} of {of}")


def _on_one_shard(*payloads: str) -> tuple[tuple[str, str], ...]:
    return tuple(("one key", payload) for payload in payloads)


def _exhausted(*payloads: str) -> Discarded:
    return Discarded("RetryAttemptsExhausted", payloads[0], payloads[-1], len(payloads))


def _answer(name: str, answer: object) -> Case:
    """A function whose answer means that the whole batch is done."""
    payload = f"answers {json.dumps(answer)}"
    return Case(
        name=f"{name}: success",
        says="An empty or null list of failures, and an empty or null response, mean that the whole batch succeeded.",
        page=PARTIAL,
        records=_on_one_shard("a", payload),
        aws=Seen((("a", payload),)),
    )


def _bad_identifier(name: str, failure: object) -> Case:
    """A function whose answer means that the whole batch failed."""
    payload = f"answers {json.dumps({'batchItemFailures': [failure]})}"
    batch = ("a", payload)
    return Case(
        name=f"{name}: failure",
        says="An item identifier that is an empty string or null, or under a wrong key, fails the whole batch.",
        page=PARTIAL,
        settings={"MaximumRetryAttempts": 1},
        records=_on_one_shard(*batch),
        aws=Seen((batch, batch), (_exhausted(*batch),)),
    )


BUY: Final = '{"kind": "buy", "n": 1}'
SELL: Final = '{"kind": "sell", "n": 2}'
BUYS: Final = {"Filters": [{"Pattern": json.dumps({"data": {"kind": ["buy"]}})}]}
REFUSED: Final = Seen()  # our runner does not run a mapping with a setting that it cannot honour, and says so

CASES: Final[tuple[Case, ...]] = (
    Case(
        name="batch size",
        says="A batch holds at most BatchSize records, of one shard, in order.",
        page=BATCHING,
        settings={"BatchSize": 2},
        records=_on_one_shard("a", "b", "c", "d", "e"),
        aws=Seen((("a", "b"), ("c", "d"), ("e",))),
    ),
    Case(
        name="partial failure",
        says="With ReportBatchItemFailures, the lowest reported sequence number is the checkpoint: everything from it "
        "on is retried, nothing before it.",
        page=PARTIAL,
        records=_on_one_shard("a", "b", "fails once c", "d", "fails once e", "f"),
        aws=Seen((("a", "b", "fails once c", "d", "fails once e", "f"), ("fails once c", "d", "fails once e", "f"))),
    ),
    Case(
        name="partial failure, not asked for",
        says="Without ReportBatchItemFailures a reported failure is not looked at: the batch is done.",
        page=PARTIAL,
        settings={"FunctionResponseTypes": []},
        records=_on_one_shard("a", "fails once b", "c"),
        aws=Seen((("a", "fails once b", "c"),)),
    ),
    _answer("empty list", {"batchItemFailures": []}),
    _answer("null list", {"batchItemFailures": None}),
    _answer("empty response", {}),
    _answer("null response", None),
    _bad_identifier("empty identifier", {"itemIdentifier": ""}),
    _bad_identifier("null identifier", {"itemIdentifier": None}),
    _bad_identifier("wrong key", {"identifier": "1"}),
    Case(
        name="retries",
        says="A batch whose call failed is retried MaximumRetryAttempts times, then discarded, its position told to "
        "the on-failure destination, and the shard goes on.",
        page=FAILURES,
        settings={"BatchSize": 3, "MaximumRetryAttempts": 2},
        records=_on_one_shard("a", "raises", "c", "d"),
        aws=Seen((*(("a", "raises", "c"),) * 3, ("d",)), (_exhausted("a", "raises", "c"),)),
    ),
    Case(
        name="no retries",
        says="MaximumRetryAttempts 0: a failed batch is discarded after its first call.",
        page=FAILURES,
        settings={"BatchSize": 2, "MaximumRetryAttempts": 0},
        records=_on_one_shard("raises", "b", "c"),
        aws=Seen((("raises", "b"), ("c",)), (_exhausted("raises", "b"),)),
    ),
    Case(
        name="crash",
        says="A call that ends with its process is a function error like any other.",
        page=FAILURES,
        settings={"BatchSize": 2, "MaximumRetryAttempts": 1},
        records=_on_one_shard("a", "kills", "c"),
        aws=Seen((("a", "kills"), ("a", "kills"), ("c",)), (_exhausted("a", "kills"),)),
    ),
    Case(
        name="bisect",
        says="BisectBatchOnFunctionError splits a failed batch in two, which isolates the bad record; a split costs no "
        "retry.",
        page=FAILURES,
        settings={"BatchSize": 4, "BisectBatchOnFunctionError": True, "MaximumRetryAttempts": 1},
        records=_on_one_shard("a", "b", "raises", "d"),
        aws=Seen(
            (("a", "b", "raises", "d"), ("a", "b"), ("raises", "d"), ("raises",), ("raises",), ("d",)),
            (_exhausted("raises"),),
        ),
        localstack=Seen((("a", "b", "raises", "d"),) * 2, (_exhausted("a", "b", "raises", "d"),)),
        right="Ours. LocalStack takes the setting and ignores it: three good records are given up with the bad one.",
    ),
    Case(
        name="bisect at a reported failure",
        says="With both settings, a partial success splits the batch at the reported sequence number and only the rest "
        "is retried.",
        page=PARTIAL,
        settings={"BisectBatchOnFunctionError": True},
        records=_on_one_shard("a", "b", "fails once c", "d"),
        aws=Seen((("a", "b", "fails once c", "d"), ("fails once c", "d"))),
    ),
    Case(
        name="record age",
        says="Records older than MaximumRecordAgeInSeconds are discarded, told to the on-failure destination, and the "
        "shard goes on.",
        page=FAILURES,
        settings={"BatchSize": 1, "MaximumRecordAgeInSeconds": 2},
        records=_on_one_shard("raises"),
        later=_on_one_shard("b"),
        view="merged",
        aws=Seen((("raises",), ("b",)), (Discarded("RecordAgeExceeded", "raises", "raises", 1),)),
        localstack=Seen((("raises",), ("b",)), (Discarded("not said why", "raises", "raises", 1),)),
        right="Ours. LocalStack leaves the reason, and all of requestContext, out of the document.",
    ),
    Case(
        name="a bad record blocks its shard",
        says="Without limits a failing batch is retried until it expires; nothing behind it in the shard is processed.",
        page=FAILURES,
        settings={"BatchSize": 1, "MaximumRetryAttempts": -1},
        records=_on_one_shard("raises", "b"),
        view="merged",
        repeats=3,
        aws=Seen((("raises",),)),
    ),
    Case(
        name="and no other shard",
        says="Shards are processed independently of each other: the others go on.",
        page=BATCHING,
        settings={"BatchSize": 1, "MaximumRetryAttempts": -1},
        records=((key_on(0), "raises"), (key_on(1), "b")),
        shards=2,
        view="set",
        repeats=3,
        aws=Seen((("b",), ("raises",))),
        localstack=Seen((("raises",),)),
        right="Ours. LocalStack reads all shards of a mapping in one thread.",
    ),
    Case(
        name="shards in parallel",
        says="Each shard has a batch of its own under way.",
        page=BATCHING,
        records=((key_on(0), "slow a"), (key_on(1), "slow b")),
        shards=2,
        view="set",
        aws=Seen((("slow a",), ("slow b",)), overlapped=True),
        localstack=Seen((("slow a",), ("slow b",))),
        right="Ours. LocalStack reads all shards of a mapping in one thread.",
    ),
    Case(
        name="parallelization factor",
        says="ParallelizationFactor batches of one shard are under way at once; records of one partition key stay in "
        "order.",
        page=BATCHING,
        settings={"BatchSize": 1, "ParallelizationFactor": 10},
        records=tuple((f"key {number}", f"slow {number}") for number in range(4)),
        view="set",
        aws=Seen(tuple((f"slow {number}",) for number in range(4)), overlapped=True),
        localstack=Seen(tuple((f"slow {number}",) for number in range(4))),
        right="Ours. LocalStack takes the setting and ignores it.",
    ),
    Case(
        name="batch window",
        says="With a batching window Lambda gathers records until the batch is full, the window ends or 6 MB are "
        "there.",
        page=BATCHING,
        settings={"BatchSize": 3, "MaximumBatchingWindowInSeconds": 60},
        records=_on_one_shard("a", "b", "c"),
        aws=Seen((("a", "b", "c"),)),
    ),
    Case(
        name="batch window that ends",
        says="A batch that is not full is sent when the window ends.",
        page=BATCHING,
        settings={"MaximumBatchingWindowInSeconds": 2},
        records=_on_one_shard("a", "b"),
        aws=Seen((("a", "b"),)),
    ),
    Case(
        name="filter",
        says="A record that matches no filter is not sent to the function, and counts as done.",
        page=FILTERS,
        settings={"FilterCriteria": BUYS},
        records=_on_one_shard(BUY, SELL),
        aws=Seen(((BUY,),)),
    ),
    Case(
        name="filter on data that is no JSON",
        says="Data that is not JSON cannot match a pattern for JSON data: the record is dropped.",
        page=FILTERS,
        settings={"FilterCriteria": BUYS},
        records=_on_one_shard("not JSON", BUY),
        aws=Seen(((BUY,),)),
    ),
    Case(
        name="latest",
        says="LATEST starts with what is put after the mapping reads.",
        page=PARAMETERS,
        settings={"StartingPosition": "LATEST", "BatchSize": 1},
        records=_on_one_shard("before"),
        later=_on_one_shard("after"),  # again and again, until the mapping reads
        view="merged",
        aws=Seen((("after",),)),
    ),
    Case(
        name="at timestamp",
        says="AT_TIMESTAMP starts with the first record of that time or later.",
        page=PARAMETERS,
        settings={"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": 1_700_000_000},
        records=_on_one_shard("a"),
        aws=Seen((("a",),)),
        localstack=Seen(),
        right="Ours. LocalStack hands the time on as a sequence number, and its poller fails for ever.",
    ),
    Case(
        name="disabled and enabled again",
        says="Lambda keeps track of the last record processed and resumes from there when the mapping is enabled "
        "again.",
        page=BATCHING,
        records=_on_one_shard("before"),
        later=_on_one_shard("meanwhile"),
        paused=True,
        aws=Seen((("before",), ("meanwhile",))),
        localstack=Seen((("before",), ("before", "meanwhile"))),
        right="Ours. LocalStack forgets the position and begins at StartingPosition again.",
    ),
    Case(
        name="tumbling window",
        says="With TumblingWindowInSeconds the event says which window it belongs to and carries the function's state.",
        page=WINDOWS,
        settings={"TumblingWindowInSeconds": 1},
        records=_on_one_shard("a"),
        aws=Seen((("a",),), window=True),
        ours=REFUSED,
        localstack=Seen((("a",),)),
        right="Neither. Ours refuses the mapping and says so; LocalStack ignores the setting.",
    ),
)
