"""Settings as the Lambda API returns them, defaults and refusals included."""

from __future__ import annotations

from typing import Any

import pytest

from local.mappings.outcome import Rules
from local.mappings.settings import UnsupportedMapping, is_enabled, reads_kinesis, settings_of

STREAM = "arn:aws:kinesis:us-east-1:000000000000:stream/transactions"
MAPPING: dict[str, Any] = {
    "UUID": "u",
    "EventSourceArn": STREAM,
    "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:f",
}


def test_absent_settings_take_the_defaults_of_aws() -> None:
    settings = settings_of(MAPPING)
    assert (settings.batch_size, settings.window_s, settings.lanes_per_shard) == (100, 0.0, 1)
    assert settings.rules == Rules(bisects=False, max_retries=None, max_age_s=None)
    assert settings.reports_item_failures is False
    assert settings.failure_queue_arn is None
    assert (settings.stream_name, settings.region) == ("transactions", "us-east-1")


def test_every_setting_is_read_also_as_text() -> None:
    settings = settings_of(
        MAPPING
        | {
            "BatchSize": "500",
            "MaximumBatchingWindowInSeconds": "2",
            "ParallelizationFactor": "3",
            "StartingPosition": "LATEST",
            "BisectBatchOnFunctionError": "true",
            "MaximumRetryAttempts": "0",
            "MaximumRecordAgeInSeconds": "60",
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "DestinationConfig": {"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:000000000000:q"}},
        }
    )
    assert (settings.batch_size, settings.window_s, settings.lanes_per_shard) == (500, 2.0, 3)
    assert settings.starting_position == "LATEST"
    assert settings.rules == Rules(bisects=True, max_retries=0, max_age_s=60)
    assert settings.reports_item_failures is True
    assert settings.failure_queue_arn == "arn:aws:sqs:us-east-1:000000000000:q"


@pytest.mark.parametrize(
    "asked",
    [
        {"FilterCriteria": {"Filters": [{"Pattern": '{"data": {"ip": [{"cidr": "10.0.0.0/8"}]}}'}]}},
        {"TumblingWindowInSeconds": 30},
        {"EventSourceArn": f"{STREAM}/consumer/fan-out:1"},
        {"DestinationConfig": {"OnFailure": {"Destination": "arn:aws:sns:us-east-1:000000000000:t"}}},
    ],
)
def test_what_cannot_be_honoured_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedMapping):
        settings_of(MAPPING | asked)


def test_only_kinesis_streams_are_read() -> None:
    assert reads_kinesis(MAPPING)
    assert not reads_kinesis({"EventSourceArn": "arn:aws:sqs:us-east-1:000000000000:q"})
    assert not reads_kinesis({})


def test_disabled_mappings_do_not_run() -> None:
    assert is_enabled({"State": "Enabled"})
    assert not is_enabled({"State": "Disabled"})
    assert not is_enabled({"State": "Deleting"})
