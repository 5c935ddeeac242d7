"""Which function reads which stream, as Lambda's API tells it."""

from __future__ import annotations

from typing import Any

from console.lag import KinesisMapping, enabled_mappings, kinesis_mappings

ARN = "arn:aws:kinesis:eu-central-1:000000000000:stream/prod-transactions"


def mapping(uuid: str, source: str, state: str = "Enabled") -> dict[str, Any]:
    function = "arn:aws:lambda:eu-central-1:000000000000:function:prod-score-transactions"
    return {"UUID": uuid, "EventSourceArn": source, "FunctionArn": function, "State": state}


class Functions:
    """Lambda's API with one mapping a page."""

    def __init__(self, *mappings: dict[str, Any]) -> None:
        self._mappings = mappings

    def list_event_source_mappings(self, Marker: str = "0") -> dict[str, Any]:
        at = int(Marker)
        following = {"NextMarker": str(at + 1)} if at + 1 < len(self._mappings) else {}
        return {"EventSourceMappings": [self._mappings[at]], **following}


def test_a_mapping_reads_its_stream_as_a_consumer_or_not() -> None:
    functions = Functions(
        mapping("1", ARN),
        mapping("2", f"{ARN}/consumer/prod-score-transactions:1764201600", state="Disabled"),
        mapping("3", "arn:aws:sqs:eu-central-1:000000000000:queue"),
    )
    assert kinesis_mappings(functions) == [
        KinesisMapping("1", "prod-score-transactions", "prod-transactions", True),
        KinesisMapping("2", "prod-score-transactions", "prod-transactions", False),
    ]
    assert enabled_mappings(functions) == [("1", "prod-score-transactions", "prod-transactions")]
