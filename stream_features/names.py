"""The names several folders share: streams, tables, prefixes, counters. Nothing else may spell them out.

Physical names are these, behind the `NamePrefix` parameter of the template (empty by default).
"""

from typing import Final

STACK: Final = "fraudstream"
ENDPOINT_STACK: Final = "fraudstream-endpoint"

# Kinesis streams (architecture, section 3)
TRANSACTIONS_STREAM: Final = "transactions"
LABELS_STREAM: Final = "labels"
ENTITY_EVENTS_STREAM: Final = "entity-events"
FEATURES_STREAM: Final = "features"
DECISIONS_STREAM: Final = "decisions"

# DynamoDB tables
DECISIONS_TABLE: Final = "decisions"
ENTITY_STATE_TABLE: Final = "entity_state"
LABELS_TABLE: Final = "labels"
EFFECTS_TABLE: Final = "effects"
LISTS_TABLE: Final = "lists"

DECISIONS_BY_CARD_INDEX: Final = "by_card"  # card_id + event_time_ms
ALERTS_BY_DAY_INDEX: Final = "alerts_by_day"  # alert_day + score, sparse
TO_RESCORE_INDEX: Final = "to_rescore"  # transaction_id + to_rescore_ms, sparse

POLICIES_PREFIX: Final = "policies/"  # in the bucket of artefacts

# S3 prefixes of the lake bucket
RAW_PREFIX: Final = "raw/"
DECISIONS_PREFIX: Final = "decisions/"
ERRORS_PREFIX: Final = "errors/"
QUARANTINE_PREFIX: Final = "quarantine/"
QUARANTINE_FIXES_PREFIX: Final = "quarantine-fixes/"
ATHENA_RESULTS_PREFIX: Final = "athena-results/"

QUARANTINE_QUEUE: Final = "quarantine"
DISCARDED_QUEUE: Final = "discarded-batches"  # on-failure destination of the mappings
ALERTS_TOPIC: Final = "alerts"

GLUE_DATABASE: Final = "fraudstream"
ATHENA_WORKGROUP: Final = "fraudstream"

# Counters: items `counter#00` .. `counter#63` of the effects table, each written with the effects it counts.
COUNTER_SHARDS: Final = 64
# What the score API decided, and of how many of these transactions the record has arrived. `decided` counts records, so
# it counts such a transaction with its first record: published = decided + duplicates + quarantined + in flight.
API_COUNTERS: Final = ("api_decided", "api_recorded")
# Some also fall: `labels_waiting` is how many transactions have a label that nobody can assign yet, `degraded` how many
# decisions wait for a score, `alerts` how many stand that are not approvals.
COUNTERS: Final = (
    *("decided", "quarantined", "duplicates", "late", "degraded", "alerts"),
    *("labels", "labels_waiting", "labels_quarantined", "entity_events_quarantined"),
    *API_COUNTERS,
)


def card_key(card_id: str) -> str:
    return f"card#{card_id}"


def merchant_key(merchant_id: str) -> str:
    return f"merchant#{merchant_id}"


def merchant_effect_key(merchant_id: str, transaction_id: str, kind: str) -> str:
    """The item of the effects table that stands for an event: once per merchant, transaction and kind."""
    return f"{merchant_key(merchant_id)}#{transaction_id}#{kind}"


def rescored_effect_key(transaction_id: str) -> str:
    """The item of the effects table that keeps the degraded decision which a rescore has replaced."""
    return f"transaction#{transaction_id}#rescored"


def way_back_effect_key(position: str) -> str:
    """The item of the effects table that says how far a rejected record is on its way back into its stream."""
    return f"quarantine#{position}"


def counter_key(shard: int) -> str:
    return f"counter#{shard:02d}"


def quarantine_key(stream: str, shard_id: str, sequence_number: str, sub_sequence_number: int) -> str:
    """The S3 key of a rejected record: a function of its position, so writing it twice is harmless."""
    return f"{QUARANTINE_PREFIX}{stream}/{shard_id}/{sequence_number}-{sub_sequence_number}.json"
