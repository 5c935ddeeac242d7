"""What a way to Kinesis gives the job, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Connected(NamedTuple):
    """Both inputs as streams of elements, and what ends the graph.

    Attributes:
        transactions: DataStream of CardInput and RejectedMark.
        entity_events: DataStream of LabelInput and RejectedMark.
        write: given the DataStream of outgoing records, adds what puts them on the features stream.
    """

    transactions: Any
    entity_events: Any
    write: Callable[[Any], None]
