"""The contracts as JSON Schemas (draft 2020-12): `python -m stream_features.json_schemas DIR`.

What a schema cannot say (a card number, printable characters, a rate for the currency, the clock) stands in the
descriptions; `parse_transaction` has the last word.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from stream_features.decision import Decision
from stream_features.decision_event import DecisionEvent
from stream_features.entity_event import EntityEvent
from stream_features.feature_record import FeatureStreamRecord
from stream_features.label import Label
from stream_features.rejected import Rejected
from stream_features.transaction import Transaction

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

CONTRACTS: Final[dict[str, Any]] = {
    "transaction": Transaction,
    "label": Label,
    "decision": Decision,
    "decision_event": DecisionEvent,
    "rejected": Rejected,
    "entity_event": EntityEvent,
    "feature_record": FeatureStreamRecord,
}

_BEYOND_SCHEMA: Final = {
    "transaction": "Also refused: an event dated more than 5 minutes after its record's arrival, a currency without a "
    "rate on or before the event's UTC date, a latitude without a longitude or the reverse, characters that cannot be "
    "printed, and numbers written as floats where an integer is asked for (1.0).",
    "label": "Also refused: characters that cannot be printed, and numbers written as floats (1.0).",
}


def json_schema(name: str) -> dict[str, Any]:
    """The schema of the contract called `name`, self-contained."""
    (reference,), definitions = msgspec.json.schema_components([CONTRACTS[name]], ref_template="#/$defs/{name}")
    own = reference  # of a union; any other contract is a definition itself
    if "$ref" in reference:
        own = definitions.pop(reference["$ref"].removeprefix("#/$defs/"))
    if name in _BEYOND_SCHEMA:
        own["description"] = f"{own['description']}\n\n{_BEYOND_SCHEMA[name]}"
    schema: dict[str, Any] = {"$schema": DIALECT, "$id": f"urn:fraudstream:{name}:1", **own}
    if definitions:
        schema["$defs"] = definitions
    return schema


def schema_text(name: str) -> str:
    """The schema as it is written to its file."""
    return json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> None:
    """Write `<contract>.schema.json` for every contract."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CONTRACTS:
        (folder / f"{name}.schema.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
