"""Kinesis in and out with our own reader and writer: needs no connector jar, and runs at parallelism 1."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyflink.common import Duration, Types, WatermarkStrategy
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.datastream.connectors.file_system import FileSource, StreamFormat

from stream_features.errors import UsageError
from stream_features.flink_job.connected import Connected
from stream_features.flink_job.elements import the_one
from stream_features.flink_job.polling_operators import ReaderOperator, WriterOperator
from stream_features.flink_job.properties import InputProperties, JobProperties

SEED: Final = "seed"


def connect(environment: StreamExecutionEnvironment, properties: JobProperties) -> Connected:
    """Readers of both inputs, and what adds the writer."""
    if properties.seed_dir is None:
        raise UsageError("Job/seed.dir: missing, connector polling needs it")
    seed = _seed(environment, properties.seed_dir)

    def read(stream: InputProperties, uid: str, labels: bool) -> DataStream:
        reader = ReaderOperator(stream, properties, labels=labels)
        keyed = seed.key_by(the_one, key_type=Types.STRING())
        return keyed.process(reader, output_type=Types.PICKLED_BYTE_ARRAY()).name(uid).uid(uid)

    def write(records: DataStream) -> None:
        keyed = records.key_by(the_one, key_type=Types.STRING())
        written = keyed.connect(seed.key_by(the_one, key_type=Types.STRING())).process(
            WriterOperator(properties), output_type=Types.STRING()
        )
        written.name("features").uid("features")

    return Connected(
        transactions=read(properties.transactions, "transactions", False),
        entity_events=read(properties.entity_events, "entity-events", True),
        write=write,
    )


def _seed(environment: StreamExecutionEnvironment, folder: Path) -> DataStream:
    """One line out of a file, once in the job's life; the source never ends, so neither does the job."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SEED).write_text("go\n")
    lines = StreamFormat.text_line_format()
    source = FileSource.for_record_stream_format(lines, folder.resolve().as_uri())
    watched = source.monitor_continuously(Duration.of_days(365)).build()
    return environment.from_source(watched, WatermarkStrategy.no_watermarks(), SEED).uid(SEED)
