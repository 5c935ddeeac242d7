"""The graph of the job: which operator feeds which, by which key. No feature is computed here.

    transactions ─ intake ─ card_id ─▶ cards ─ merchant_id ─▶ merchants ─▶ features
    entity-events ─ intake ───────────────────── merchant_id ──▲

Order per card holds from end to end at parallelism 1: its records take one way, duplicates and all.
"""

from __future__ import annotations

from typing import Any, Final

from pyflink.common import Configuration, Types
from pyflink.datastream import DataStream, StreamExecutionEnvironment

from stream_features.flink_job import official, polling
from stream_features.flink_job.elements import card_key, merchant_key
from stream_features.flink_job.operators import CardOperator, MerchantOperator
from stream_features.flink_job.properties import JobProperties

NAME: Final = "fraudstream"


def run(properties: JobProperties, configuration: dict[str, str]) -> None:
    """Build the job and run it until it ends or fails."""
    settings = Configuration()
    for key, value in configuration.items():
        settings.set_string(key, value)
    environment = StreamExecutionEnvironment.get_execution_environment(settings)
    build(environment, properties)
    environment.execute(NAME)


def build(environment: StreamExecutionEnvironment, properties: JobProperties) -> None:
    """Add the operators to `environment`."""
    connector: Any = polling if properties.connector == "polling" else official
    connected = connector.connect(environment, properties)
    cards = (
        connected.transactions.key_by(card_key, key_type=Types.STRING())
        .process(CardOperator(properties), output_type=Types.PICKLED_BYTE_ARRAY())
        .name("cards")
        .uid("cards")
    )
    merchants: DataStream = (
        cards.key_by(merchant_key, key_type=Types.STRING())
        .connect(connected.entity_events.key_by(merchant_key, key_type=Types.STRING()))
        .process(MerchantOperator(properties), output_type=Types.PICKLED_BYTE_ARRAY())
        .name("merchants")
        .uid("merchants")
    )
    connected.write(merchants)
