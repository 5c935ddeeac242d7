"""Kinesis in and out with Apache's connector for Flink 2.x, reached through py4j. Untested.

The jar `org.apache.flink:flink-sql-connector-aws-kinesis-streams` could not be had where this was written. A job of the
same shape ran on a build of the connector's public source; this module and the classes in `java/` never ran.

What differs from polling: it runs at any parallelism, but order per card holds only where the parallelism is 1 and
nothing is throttled (the sink sends refused records later); it writes no progress files; `start.positions` is refused.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Final

from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.datastream import DataStream, ProcessFunction, RuntimeContext, StreamExecutionEnvironment
from pyflink.datastream.connectors import Sink, Source
from pyflink.java_gateway import get_gateway

from stream_features.decision import StreamPosition
from stream_features.errors import UsageError
from stream_features.flink_job.aws_calls import client, wall_clock_ms
from stream_features.flink_job.connected import Connected
from stream_features.flink_job.elements import LABEL_DONE, Intake, Lake, Outgoing
from stream_features.flink_job.intake import Arrived, take_in_entity_event, take_in_transaction
from stream_features.flink_job.properties import InputProperties, JobProperties, OutputProperties

# The connector's own default, 10 s, delays the first record by as much.
DISCOVERY: Final = ("source.shard.discovery.interval", "1 s")
START: Final = ("source.init.position", "TRIM_HORIZON")
MAX_IN_FLIGHT: Final = 1  # more requests under way than one may change the order of a card's records
MAX_BATCH: Final = 500


def connect(environment: StreamExecutionEnvironment, properties: JobProperties) -> Connected:
    """Sources of both inputs, and what adds the sink.

    Raises:
        UsageError: `start.positions` are given; the connector starts a stream as a whole.
    """

    def read(stream: InputProperties, uid: str, labels: bool) -> DataStream:
        if stream.start_positions:
            raise UsageError("start.positions: connector official cannot start at positions, use polling")
        source = environment.from_source(
            Source(_source(stream)), WatermarkStrategy.no_watermarks(), uid, type_info=Types.STRING()
        ).uid(uid)
        taken = source.process(IntakeOperator(stream, properties, labels=labels), Types.PICKLED_BYTE_ARRAY())
        return taken.name(f"{uid}-intake").uid(f"{uid}-intake")

    def write(records: DataStream) -> None:
        lines = records.filter(is_record).uid("features-only").map(keyed_line, Types.STRING()).uid("features-lines")
        lines.sink_to(Sink(_sink(properties.features))).name("features").uid("features")

    return Connected(
        transactions=read(properties.transactions, "transactions", False),
        entity_events=read(properties.entity_events, "entity-events", True),
        write=write,
    )


class IntakeOperator(ProcessFunction):
    """Takes in the lines that `ArrivedSchema` makes."""

    def __init__(self, stream: InputProperties, properties: JobProperties, *, labels: bool) -> None:
        self._stream = stream
        self._properties = properties
        self._labels = labels

    def open(self, runtime_context: RuntimeContext) -> None:
        take_in = take_in_entity_event if self._labels else take_in_transaction
        self._intake = Intake(
            lambda arrived, now_ms: take_in(arrived, now_ms=now_ms),
            Lake(client("s3", region=self._stream.region), self._properties.lake_bucket),
            wall_clock_ms,
        )
        self._rejected = runtime_context.get_metrics_group().counter("rejected")

    def process_element(self, value: str, ctx: Any) -> Iterable[Any]:
        before = self._intake.rejected
        elements = self._intake([arrived_of(self._stream.name, value)])
        self._rejected.inc(self._intake.rejected - before)
        return elements


def arrived_of(stream: str, line: str) -> Arrived:
    """The record in a line of `ArrivedSchema`."""
    shard_id, sequence_number, sub_sequence_number, arrival_ms, payload = line.split("\t")
    position = StreamPosition(shard_id, sequence_number, int(sub_sequence_number))
    return Arrived(stream, position, int(arrival_ms), base64.b64decode(payload))


def is_record(value: Outgoing) -> bool:
    return value != LABEL_DONE


def keyed_line(value: Outgoing) -> str:
    """What `KeyedRecord` takes apart; neither a card id nor a position holds a tab."""
    partition_key, payload, _ = value
    return f"{partition_key}\t{payload.decode()}"


def _source(stream: InputProperties) -> Any:
    jvm = get_gateway().jvm
    settings = Configuration()
    for key, value in (dict([DISCOVERY, START]) | stream.connector).items():
        if key.startswith(("aws.", "source.")):
            settings.set_string(key, value)
    builder = jvm.org.apache.flink.connector.kinesis.source.KinesisStreamsSource.builder()
    builder.setStreamArn(stream.arn)
    builder.setSourceConfig(settings._j_configuration)
    builder.setDeserializationSchema(jvm.fraudstream.ArrivedSchema())
    return builder.build()


def _sink(stream: OutputProperties) -> Any:
    jvm = get_gateway().jvm
    client_properties = jvm.java.util.Properties()
    for key, value in stream.connector.items():
        if key.startswith("aws."):
            client_properties.setProperty(key, value)
    keyed_record = jvm.fraudstream.KeyedRecord()
    builder = jvm.org.apache.flink.connector.kinesis.sink.KinesisStreamsSink.builder()
    builder.setStreamArn(stream.arn)
    builder.setKinesisClientProperties(client_properties)
    builder.setSerializationSchema(keyed_record)
    builder.setPartitionKeyGenerator(keyed_record)
    builder.setMaxInFlightRequests(MAX_IN_FLIGHT)
    builder.setMaxTimeInBufferMS(stream.max_buffer_ms)
    builder.setMaxBatchSize(MAX_BATCH)
    return builder.build()
