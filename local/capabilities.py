"""What each local AWS has by itself, what our runners supply, and what nobody does there, with the reason.

One table. From it follow the parts of a run (`local/parts.py`), the steps after a deployment (`local/bring_up.py`),
what tests skip and with which words, and what `fraudstream doctor` shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, get_args

Place = Literal[
    "embedded",
    "localstack",  # started by us, without Docker
    "attached",  # a LocalStack that somebody else started
]
How = Literal["native", "ours", "lacking"]
Capability = Literal[
    # what AWS does
    "event source mappings",
    "bisect",
    "parallelization factor",
    "shards in parallel",
    "mapping filters",
    "mapping positions",
    "mapping lag",
    "resharding",
    "firehose",
    "firehose format",
    "lake queries",
    "sagemaker",
    "sagemaker in templates",
    "endpoint autoscaling",
    "time to live in templates",
    "our templates",
    "kept data",
    "writes that survive",
    "iam",
    "shard limits",
    "memory limits",
    "container images",
    # what tests need to reach from outside
    "calls of functions",
    "our mapping runner",
    "our sagemaker host",
    "failpoints",
    "worker processes",
]
PLACES: Final[tuple[Place, ...]] = get_args(Place)
CAPABILITIES: Final[tuple[Capability, ...]] = get_args(Capability)


class Standing(NamedTuple):
    """How a place stands to a capability.

    Attributes:
        how: the place has it, a part of ours supplies it, or it is lacking.
        reason: why it is lacking or supplied, in words that may follow "skipped:"; may be empty where it is native.
        evidence: the test or page that shows it.
    """

    how: How
    reason: str
    evidence: str


def place_of(target: str, *, attached: bool = False) -> Place:
    """The table's column for a `--target`, which may be a LocalStack that is not ours. Raises KeyError."""
    name = "attached" if attached and target == "localstack" else target
    for place in PLACES:
        if place == name:
            return place
    raise KeyError(name)


def standing(place: Place, capability: Capability) -> Standing:
    """The table's cell. Raises KeyError for names that are not in it."""
    return TABLE[capability][place]


def supplied(place: Place, capability: Capability) -> bool:
    """Whether a part of ours must stand in."""
    return standing(place, capability).how == "ours"


def why_not(place: Place, capability: Capability) -> str | None:
    """Why it cannot be had there; None if it can, whoever supplies it."""
    found = standing(place, capability)
    return found.reason if found.how == "lacking" else None


_TARGET: Final = "tests/e2e/test_localstack_target.py"
_FIRST: Final = "tests/e2e/test_first_path.py"
_CASES: Final = "tests/integration/test_mapping_cases.py"
_PAGE: Final = "docs/localstack.md"
_ATTACHED: Final = "tests/integration/test_localstack_attached.py"
_LAUNCHER: Final = "local/embedded/launcher.py"
_UNTRIED: Final = "not tried: no Docker where this was written"


def _native(evidence: str, reason: str = "") -> Standing:
    return Standing("native", reason, evidence)


def _ours(reason: str, evidence: str) -> Standing:
    return Standing("ours", reason, evidence)


def _lacking(reason: str, evidence: str) -> Standing:
    return Standing("lacking", reason, evidence)


def _row(embedded: Standing, localstack: Standing, attached: Standing | None = None) -> dict[Place, Standing]:
    """One line; an attached LocalStack is like the hosted one where nothing else is said."""
    return {"embedded": embedded, "localstack": localstack, "attached": attached or localstack}


TABLE: Final[Mapping[Capability, Mapping[Place, Standing]]] = {
    "event source mappings": _row(
        _ours("the emulator's poller loses what a function reports as failed", _LAUNCHER), _native(_CASES)
    ),
    "bisect": _row(
        _ours("part of our mapping runner", _CASES),
        _lacking("LocalStack accepts BisectBatchOnFunctionError and ignores it", _CASES),
    ),
    "parallelization factor": _row(
        _ours("part of our mapping runner", _CASES),
        _lacking("LocalStack accepts ParallelizationFactor and ignores it", _CASES),
    ),
    "shards in parallel": _row(
        _ours("part of our mapping runner", _CASES),
        _lacking("LocalStack reads the shards of a mapping one after the other", _CASES),
    ),
    "mapping filters": _row(_ours("part of our mapping runner", _CASES), _native(_CASES)),
    "mapping positions": _row(
        _ours("our mapping runner writes them to its folder", "tests/integration/test_event_source_mappings.py"),
        _lacking("LocalStack keeps a mapping's positions in memory", _PAGE),
    ),
    "mapping lag": _row(
        _ours("our mapping runner tells its positions", "tests/integration/test_status.py"),
        _ours("our plugin watches LocalStack's pollers and writes down what they have finished with", _FIRST),
        _lacking("LocalStack does not tell how far its event source mappings are", _PAGE),
    ),
    "resharding": _row(
        _lacking("the embedded AWS drops a closed shard together with its unread records", _PAGE),
        _lacking("LocalStack without Docker has moto's Kinesis, which moves records to the children", _PAGE),
        _lacking("LocalStack's poller reads a closed shard again from its start", _PAGE),
    ),
    "firehose": _row(_ours("the emulator writes one object per record", _LAUNCHER), _native(_TARGET)),
    "firehose format": _row(
        _ours("part of our Firehose worker", "tests/integration/test_firehose.py"),
        _lacking("LocalStack's Firehose writes plain JSON: no buffering, GZIP, Parquet, prefixes or line ends", _PAGE),
    ),
    "lake queries": _row(
        _native("tests/integration/test_firehose.py"),
        _lacking("LocalStack's community edition has neither Glue nor Athena", _TARGET),
    ),
    "sagemaker": _row(
        _ours("the emulator has no SageMaker", "tests/integration/test_sagemaker_host.py"),
        _ours("LocalStack's community edition has no SageMaker", _TARGET),
        _ours("LocalStack's community edition has no SageMaker", _ATTACHED),
    ),
    "sagemaker in templates": _row(
        _native(_LAUNCHER, "through our handlers in the emulator's CloudFormation"),
        _native(_TARGET, "through our resource providers in LocalStack's CloudFormation"),
        _ours("a LocalStack without our plugin makes dummies of SageMaker's types", _ATTACHED),
    ),
    "endpoint autoscaling": _row(
        _lacking("the emulator has no Application Auto Scaling; the template's condition leaves it out", _LAUNCHER),
        _lacking("LocalStack's community edition makes a dummy of it", _TARGET),
    ),
    "time to live in templates": _row(
        _ours("the emulator accepts TimeToLiveSpecification in a template and ignores it", "local/bring_up.py"),
        _native(_TARGET),
    ),
    "our templates": _row(
        _native("tests/integration/test_templates.py"),
        _native(_TARGET, "through our plugin in its process"),
        _ours("LocalStack 4.9 takes `${!name}` in Fn::Sub for a resource", _ATTACHED),
    ),
    "kept data": _row(
        _native("tests/integration/test_up_down.py"),
        _lacking("this LocalStack keeps everything in memory", _TARGET),
        _lacking("what was deployed to somebody's LocalStack is deleted by `down`", _PAGE),
    ),
    "writes that survive": _row(
        _lacking(
            "the embedded AWS writes its state when it is stopped in order: kill -9 ends the run",
            "docs/reliability.md",
        ),
        _lacking("the hosted LocalStack keeps everything in memory", _PAGE),
        _lacking("an attached LocalStack is not ours to kill", _PAGE),
    ),
    "iam": _row(
        _lacking("the emulator enforces no policy", _PAGE),
        _lacking("LocalStack's community edition enforces no policy", _PAGE),
    ),
    "shard limits": _row(
        _lacking("no shard of the emulator throttles", _PAGE), _lacking("no shard of LocalStack throttles", _PAGE)
    ),
    "memory limits": _row(
        _lacking("functions are processes without a limit", _PAGE),
        _lacking("functions are processes without a limit", _PAGE),
        _lacking(f"LocalStack's own containers would have one; {_UNTRIED}", _PAGE),
    ),
    "container images": _row(
        _lacking("no Docker: neither Lambda's runtime image nor the endpoint's container runs", _PAGE),
        _lacking("no Docker: neither Lambda's runtime image nor the endpoint's container runs", _PAGE),
        _lacking(f"LocalStack in Docker runs Lambda's runtime image; {_UNTRIED}", _PAGE),
    ),
    "calls of functions": _row(
        _native("tests/faults/injector.py"),
        _native("tests/faults/injector.py", "through our executor in its process"),
        _lacking("the environment of an attached LocalStack's functions is not ours", _PAGE),
    ),
    "our mapping runner": _row(
        _native("tests/faults/injector.py"),
        _lacking("LocalStack's own event source mapping delivers, inside its process", _PAGE),
    ),
    "our sagemaker host": _row(_native("tests/faults/injector.py"), _native(_TARGET)),
    "failpoints": _row(
        _native("tests/faults/scenarios.py"),
        _native("tests/faults/scenarios.py"),
        _lacking("the environment of an attached LocalStack's functions is not ours", _PAGE),
    ),
    "worker processes": _row(
        _native("tests/faults/victims.py"),
        _native("tests/faults/victims.py", "through our executor in its process"),
        _lacking("the processes of an attached LocalStack are not ours to kill", _PAGE),
    ),
}
