"""The keyed part of the Flink job over a file: no Kinesis, no functions. Runs in `.venv-flink`.

    .venv-flink/bin/python -m benchmarks.flink_files FILE.jsonl FOLDER

Runs intake, cards and merchants over the transactions in FILE on RocksDB, with a checkpoint every 10 s, and throws the
records away. FOLDER is for what Flink writes. Prints the seconds that the job took, without the start of the JVM.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.file_system import FileSource, StreamFormat

from stream_features.decision import StreamPosition
from stream_features.flink_job.elements import card_key, merchant_key
from stream_features.flink_job.intake import Arrived, CardInput, take_in_transaction
from stream_features.flink_job.operators import CardOperator, MerchantOperator
from stream_features.flink_job.properties import read_properties

END_MS = 1_760_000_000_000
STREAM = {"stream.arn": "arn:aws:kinesis:us-east-1:000000000000:stream/none", "aws.region": "us-east-1"}
PROPERTIES = {
    "Job": {
        "connector": "polling",
        "feature.set": "core",
        "execution.mode": "thread",
        "state.ttl.days": "90",
        "label.ttl.days": "180",
        "entity.state.table": "",
        "effects.table": "",
        "lake.bucket": "none",
        "include.state": "false",
    },
    "Transactions": STREAM,
    "EntityEvents": STREAM,
    "Features": STREAM,
}


def take_in(line: str) -> CardInput:
    """One valid transaction from the file."""
    arrived = Arrived("none", StreamPosition("shardId-000000000000", "1"), END_MS, line.encode())
    item = take_in_transaction(arrived, now_ms=END_MS)
    assert isinstance(item, CardInput)
    return item


def main() -> None:
    file, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True)
    properties = folder / "seed"  # of the polling connector, which is not used here
    groups = {**PROPERTIES, "Job": {**PROPERTIES["Job"], "seed.dir": str(properties)}}
    document = [{"PropertyGroupId": name, "PropertyMap": values} for name, values in groups.items()]
    job = read_properties(json.dumps(document).encode())

    configuration = Configuration()
    for key, value in {
        "python.execution-mode": "thread",
        "python.executable": sys.executable,
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.bind-port": "0",
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "parallelism.default": "1",
        "state.backend.type": "rocksdb",
        "execution.checkpointing.interval": "10s",
        "execution.checkpointing.dir": (folder / "checkpoints").as_uri(),
        "io.tmp.dirs": str(folder / "tmp"),
    }.items():
        configuration.set_string(key, value)
    environment = StreamExecutionEnvironment.get_execution_environment(configuration)
    lines = FileSource.for_record_stream_format(StreamFormat.text_line_format(), file.as_uri()).build()
    source = environment.from_source(lines, WatermarkStrategy.no_watermarks(), "file")
    cards = (
        source.map(take_in, output_type=Types.PICKLED_BYTE_ARRAY())
        .key_by(card_key, key_type=Types.STRING())
        .process(CardOperator(job), output_type=Types.PICKLED_BYTE_ARRAY())
    )
    no_labels = cards.filter(lambda item: False)
    merchants = (
        cards.key_by(merchant_key, key_type=Types.STRING())
        .connect(no_labels.key_by(merchant_key, key_type=Types.STRING()))
        .process(MerchantOperator(job), output_type=Types.PICKLED_BYTE_ARRAY())
    )
    merchants.filter(lambda record: not record[0]).print()  # every record has a key, so nothing is printed
    began = time.monotonic()
    environment.execute("files")
    print(time.monotonic() - began)


if __name__ == "__main__":
    main()
