"""Which column of a file becomes which field of a transaction, and how its values are read.

Built in are `handbook` and `sparkov`; others are TOML files (docs/mappings.md). Without a mapping the columns carry
the fields' own names.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from collections.abc import Mapping as ReadOnlyMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stream_features.errors import UsageError
from stream_features.transaction import FIELD_RULES

REQUIRED_FIELDS: Final = tuple(rule.name for rule in FIELD_RULES if rule.required)
TRANSACTION_FIELDS: Final = tuple(rule.name for rule in FIELD_RULES)
LABEL_FIELD: Final = "is_fraud"
_NAMES_SHOWN: Final = 20

_TIMES: Final = ("timestamp", "epoch_s", "epoch_ms")
_TEXT_FIELDS: Final = frozenset(TRANSACTION_FIELDS) - {"event_time_ms", "amount_minor", "latitude", "longitude"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One source of a field.

    Attributes:
        name: the column in the file.
        time: for `event_time_ms`: `timestamp` (a timestamp type or ISO 8601 text; without an offset it is UTC),
            `epoch_s`, `epoch_ms`, or a strptime pattern.
        digits: for `amount_minor`: the column counts major units, and the minor unit is its 10^-digits; None: it
            counts minor units.
        tokenise: for `card_id`: replace the value by its HMAC.
    """

    name: str
    time: str = "timestamp"
    digits: int | None = None
    tokenise: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """How a file's rows become transactions.

    Attributes:
        name: for messages.
        columns: field → its possible columns, the first one the file has is read.
        constants: field → the value every row has.
    """

    name: str
    columns: ReadOnlyMapping[str, tuple[Column, ...]]
    constants: ReadOnlyMapping[str, str] = field(default_factory=dict)

    def choose(self, available: frozenset[str], file_name: str) -> dict[str, Column]:
        """The column to read for each field that a file with these columns gives.

        Raises:
            UsageError: a required field has neither a column nor a constant.
        """
        chosen = {
            name: next(column for column in columns if column.name in available)
            for name, columns in self.columns.items()
            if any(column.name in available for column in columns)
        }
        missing = [name for name in REQUIRED_FIELDS if name not in chosen and name not in self.constants]
        if missing:
            wanted = "; ".join(
                f"{name} from {' or '.join(repr(column.name) for column in self.columns.get(name, ()))}"
                for name in missing
            )
            raise UsageError(
                f"{file_name} lacks columns that mapping {self.name} needs: {wanted}. "
                f"The file has: {_shown(available)}. Say what its columns mean with --mapping (docs/mappings.md)"
            )
        return chosen


def _shown(names: Iterable[str]) -> str:
    """Column names for a message: not all of a wide file's, and nothing that a binary file's first line would print."""
    printable = ["".join(sign if sign.isprintable() else "?" for sign in name[:40]) for name in sorted(names)]
    more = f" and {len(printable) - _NAMES_SHOWN} more" if len(printable) > _NAMES_SHOWN else ""
    return (", ".join(printable[:_NAMES_SHOWN]) or "none") + more


OWN_NAMES: Final = Mapping(
    name="own names",
    columns={name: (Column(name=name, time="epoch_ms"),) for name in (*TRANSACTION_FIELDS, LABEL_FIELD)},
)

HANDBOOK: Final = Mapping(
    name="handbook",
    columns={
        "transaction_id": (Column(name="TRANSACTION_ID"),),
        "event_time_ms": (Column(name="TX_DATETIME"),),
        "card_id": (Column(name="CUSTOMER_ID"),),
        "merchant_id": (Column(name="TERMINAL_ID"),),
        "amount_minor": (Column(name="TX_AMOUNT", digits=2),),
        LABEL_FIELD: (Column(name="TX_FRAUD"),),
    },
    constants={"currency": "USD"},
)

SPARKOV: Final = Mapping(
    name="sparkov",
    columns={
        "transaction_id": (Column(name="trans_num"),),
        "event_time_ms": (Column(name="trans_date_trans_time"),),
        "card_id": (Column(name="cust_id"), Column(name="cc_num", tokenise=True)),
        "merchant_id": (Column(name="merchant"),),
        "amount_minor": (Column(name="amt", digits=2),),
        "merchant_category": (Column(name="category"),),
        "latitude": (Column(name="merch_lat"),),
        "longitude": (Column(name="merch_long"),),
        LABEL_FIELD: (Column(name="is_fraud"),),
    },
    constants={"currency": "USD"},
)

BUILT_IN: Final = {mapping.name: mapping for mapping in (HANDBOOK, SPARKOV)}


def load_mapping(name_or_path: str | Path | None) -> Mapping:
    """A built-in mapping by name, a TOML file by path (ending in .toml), or the fields' own names for None.

    Raises:
        UsageError: no such mapping, or the file is not a mapping.
    """
    if name_or_path is None:
        return OWN_NAMES
    if str(name_or_path) in BUILT_IN:
        return BUILT_IN[str(name_or_path)]
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise UsageError(f"no mapping {name_or_path}; there are {', '.join(BUILT_IN)} and TOML files (name.toml)")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read mapping {path}: {error}") from error
    return _from_document(document, str(path))


def _from_document(document: dict[str, Any], origin: str) -> Mapping:
    """A mapping from its TOML document; `origin` names it in messages."""
    unknown = sorted(document.keys() - {"name", "columns", "constants"})
    if unknown:
        raise UsageError(f"{origin}: unknown entry {unknown[0]!r}; a mapping has name, columns and constants")
    columns, constants = document.get("columns", {}), document.get("constants", {})
    if not isinstance(columns, dict) or not isinstance(constants, dict):
        raise UsageError(f"{origin}: columns and constants must be tables")
    for name in (*columns, *constants):
        if name not in TRANSACTION_FIELDS and name != LABEL_FIELD:
            raise UsageError(
                f"{origin}: a transaction has no field {name!r}; fields are {', '.join(TRANSACTION_FIELDS)}"
            )
        if name in columns and name in constants:
            raise UsageError(f"{origin}: {name} has a column and a constant")
    for name, value in constants.items():
        if name not in _TEXT_FIELDS or not isinstance(value, str):
            raise UsageError(f"{origin}: constants.{name}: only text fields can be constant, and the value is text")
    return Mapping(
        name=str(document.get("name", origin)),
        columns={name: _columns(name, source, origin) for name, source in columns.items()},
        constants=constants,
    )


def _columns(field_name: str, source: Any, origin: str) -> tuple[Column, ...]:
    """One source, or a list of sources of which the first present one counts."""
    sources = source if isinstance(source, list) else [source]
    if not sources:
        raise UsageError(f"{origin}: columns.{field_name}: names no column")
    return tuple(_column(field_name, each, origin) for each in sources)


def _column(field_name: str, source: Any, origin: str) -> Column:
    where = f"{origin}: columns.{field_name}"
    options = {"column": source} if isinstance(source, str) else source
    if not isinstance(options, dict) or not isinstance(options.get("column"), str):
        raise UsageError(f"{where}: must be a column name or a table with `column`")
    allowed = {"event_time_ms": {"time"}, "amount_minor": {"digits"}, "card_id": {"tokenise"}}.get(field_name, set())
    unknown = sorted(options.keys() - allowed - {"column"})
    if unknown:
        raise UsageError(f"{where}: unknown option {unknown[0]!r}; this field takes {sorted(allowed | {'column'})}")
    time, digits, tokenise = options.get("time", "timestamp"), options.get("digits"), options.get("tokenise", False)
    if not isinstance(time, str) or (time not in _TIMES and "%" not in time):
        raise UsageError(f"{where}: time is {', '.join(_TIMES)} or a strptime pattern")
    if digits is not None and (not isinstance(digits, int) or isinstance(digits, bool) or not 0 <= digits <= 4):
        raise UsageError(f"{where}: digits is 0 to 4, the decimals of the currency's minor unit")
    if not isinstance(tokenise, bool):
        raise UsageError(f"{where}: tokenise is true or false")
    return Column(name=options["column"], time=time, digits=digits, tokenise=tokenise)
