"""The job on Managed Service for Apache Flink as the template has it: settings the job takes, files the package has."""

from __future__ import annotations

import json
from typing import Any

from console.packaging import MAIN as MAIN_SCRIPT
from stream_features.flink_job.properties import read_properties
from tests.integration.test_templates import MAIN, as_list, load, resources

MANAGED = {"Engine": "flink", "FlinkCodeKey": f"flink/{'0' * 64}.zip"}
READ_STREAM = "DescribeStream DescribeStreamSummary GetRecords GetShardIterator ListShards"
MAY = {  # statement: (service, actions, what it is about)
    "ReadCode": ("s3", "GetObject GetObjectVersion", "ArtifactsBucket"),
    "ReadStreams": ("kinesis", READ_STREAM, "TransactionsStream EntityEventsStream"),
    "PublishFeatures": ("kinesis", "PutRecords", "FeaturesStream"),
    "ReadHistories": ("dynamodb", "BatchGetItem", "EntityStateTable EffectsTable"),
    "Quarantine": ("s3", "PutObject", "LakeBucket"),
    "UseDataKey": ("kms", "Decrypt GenerateDataKey", "DataKey"),
    "FindLog": ("logs", "DescribeLogGroups", "log-group:*"),
    "FindLogStream": ("logs", "DescribeLogStreams", "FlinkLogGroup"),
    "Log": ("logs", "PutLogEvents", "FlinkLogGroup FlinkLogStream"),
}


def application() -> dict[str, Any]:
    (found,) = resources(MAIN, "AWS::KinesisAnalyticsV2::Application", MANAGED).values()
    return found


def property_groups() -> dict[str, dict[str, Any]]:
    groups = application()["ApplicationConfiguration"]["EnvironmentProperties"]["PropertyGroups"]
    return {group["PropertyGroupId"]: group["PropertyMap"] for group in groups}


def deployed(key: str, value: Any) -> str:
    """A property as it might be in a stack."""
    if isinstance(value, str):
        return value
    if key == "stream.arn":
        return "arn:aws:kinesis:eu-west-1:123456789012:stream/" + value["Fn::GetAtt"].split(".")[0]
    if "Fn::Sub" in value:
        value = {"Ref": value["Fn::Sub"].strip("${}")}
    parameter = load(MAIN)["Parameters"].get(value["Ref"])
    return str(parameter["Default"]) if parameter else value["Ref"].rpartition("::")[2]


def test_the_job_takes_every_property_it_is_given() -> None:
    groups = [
        {"PropertyGroupId": name, "PropertyMap": {key: deployed(key, value) for key, value in values.items()}}
        for name, values in property_groups().items()
    ]
    properties = read_properties(json.dumps(groups).encode())
    assert properties.connector == "official"
    assert properties.transactions.name == "TransactionsStream"
    assert properties.entity_events.name == "EntityEventsStream"
    assert properties.features.name == "FeaturesStream"
    assert properties.entity_state_table == "EntityStateTable"
    assert properties.lake_bucket == "LakeBucket"
    assert properties.progress_dir is None
    assert not properties.include_state
    assert properties.flink == {}


def test_the_service_starts_what_the_package_holds() -> None:
    assert property_groups()["kinesis.analytics.flink.run.options"] == {
        "python": "main.py",
        "jarfile": "lib/pyflink-dependencies.jar",
        "pyFiles": "dep/",
    }
    assert "stream_features.flink_job.main" in MAIN_SCRIPT


def test_it_is_there_only_for_a_flink_engine_with_code() -> None:
    template = load(MAIN)
    assert template["Conditions"]["ManagedFlink"] == {
        "Fn::And": [{"Condition": "FlinkEngine"}, {"Fn::Not": [{"Fn::Equals": [{"Ref": "FlinkCodeKey"}, ""]}]}]
    }
    assert template["Parameters"]["FlinkCodeKey"]["Default"] == ""
    conditional = {
        name: resource["Condition"]
        for name, resource in template["Resources"].items()
        if name.startswith("Flink") and resource["Type"] != "AWS::Serverless::Function"
    }
    assert set(conditional.values()) == {"ManagedFlink", "FlinkInVpc"}
    assert len(conditional) == 11


def test_its_role_reaches_what_its_properties_name_and_nothing_else() -> None:
    (policy,) = resources(MAIN, "AWS::IAM::Role", MANAGED)["FlinkRole"]["Policies"]
    statements = {statement["Sid"]: statement for statement in policy["PolicyDocument"]["Statement"]}
    assert statements.keys() == MAY.keys()
    for sid, (service, actions, about) in MAY.items():
        assert set(as_list(statements[sid]["Action"])) == {f"{service}:{action}" for action in actions.split()}
        named = as_list(statements[sid]["Resource"])
        assert all(any(name in json.dumps(resource) for resource in named) for name in about.split()), sid
        assert all(any(name in json.dumps(resource) for name in about.split()) for resource in named), sid


def test_its_state_survives_and_one_kpu_has_one_slot() -> None:
    configuration = application()["ApplicationConfiguration"]
    assert configuration["ApplicationSnapshotConfiguration"] == {"SnapshotsEnabled": True}
    flink = configuration["FlinkApplicationConfiguration"]
    assert flink["CheckpointConfiguration"]["CheckpointingEnabled"] is True
    assert flink["ParallelismConfiguration"]["ParallelismPerKPU"] == 1
    restored = application()["RunConfiguration"]["ApplicationRestoreConfiguration"]["ApplicationRestoreType"]
    assert restored == "RESTORE_FROM_LATEST_SNAPSHOT"


def test_every_alarm_of_the_job_is_about_this_application() -> None:
    alarms = resources(MAIN, "AWS::CloudWatch::Alarm", MANAGED)
    of_the_job = {name: alarm for name, alarm in alarms.items() if name.startswith("Flink")}
    assert len(of_the_job) == 5
    for name, alarm in of_the_job.items():
        assert "FlinkApplication" in json.dumps(alarm), name
        assert "AWS/KinesisAnalytics" in json.dumps(alarm), name
        assert alarm["AlarmActions"] == alarms["ScoringBehindAlarm"]["AlarmActions"]
