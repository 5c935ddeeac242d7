"""The templates: valid, least privilege, nothing public, and true to the names and contracts of the code."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml

from console.deployment.build import SAM, build
from lambdas.batch import STAGES, UPDATE_STAGES
from lambdas.decision_events import STAGES as EVENT_STAGES
from lambdas.observability import (
    ENTITIES_TOLD,
    EVENTS_TOLD,
    FEATURES_TOLD,
    LABELS_TOLD,
    NAMESPACE,
    POLICY_REFUSED,
    TRANSACTIONS_TOLD,
)
from lambdas.score_requests import ANSWERED_WITHIN_MS, DECISION_RESOURCE, MOST_BUDGET_MS, SCORE_PATH
from lambdas.settings import (
    ENTITIES_REQUIRED,
    EVENTS_REQUIRED,
    FEATURES_REQUIRED,
    LABELS_REQUIRED,
    REQUIRED,
    SCORE_API_REQUIRED,
    EntitySettings,
    EventSettings,
    FeaturesSettings,
    LabelSettings,
    ScoreApiSettings,
    ScoringSettings,
)
from local.run import CHECKOUT
from stream_features import names
from stream_features.decision import Decision, Engine
from stream_features.feature_sets import FEATURE_SETS
from stream_features.transaction import Transaction
from tests.cloudformation import (
    ENDPOINT,
    EVERYTHING,
    MAIN,
    NETWORK,
    TEMPLATES,
    allow_statements,
    as_list,
    decided,
    load,
    resources,
)

_FUNCTION_ROLES = (
    *("ScoreTransactionsRole", "ScoreApiRole", "ScoreFeaturesRole", "UpdateEntitiesRole", "RecordLabelsRole"),
    "PublishEventsRole",
)
DATA_KEY = {"Fn::GetAtt": "DataKey.Arn"}
_EC2 = "EC2 knows no resource for what a function, job or container in a VPC asks of it"
# Statements that must allow every resource, and why. Anything else has to name what it is about.
ALLOWED_STARS = {
    ("ExecutionRole", "SignInToRegistry"): "ecr:GetAuthorizationToken knows no resource",
    ("ExecutionRole", "Look"): _EC2,
    ("FlinkVpcPolicy", "Look"): _EC2,
    **{(role, "Look"): _EC2 for role in _FUNCTION_ROLES},
    **{(role, "Trace"): "X-Ray's actions know no resource" for role in _FUNCTION_ROLES},
}


def without_prefix(value: Any) -> str:
    """A physical name with the prefix left out."""
    assert isinstance(value, dict), value
    assert value["Fn::Sub"].startswith("${NamePrefix}"), value
    return str(value["Fn::Sub"]).removeprefix("${NamePrefix}")


def test_cfn_lint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "cfn-lint", *TEMPLATES, NETWORK], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam (make setup)")
def test_sam_finds_the_template_valid() -> None:
    done = subprocess.run(
        [SAM, "validate", "--lint", "--region", "us-east-1"],
        cwd=CHECKOUT,
        env={**os.environ, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TEMPLATES, ids=["main", "endpoint"])
def test_every_permission_names_its_resource(path: Path) -> None:
    starred = {
        (role, statement["Sid"])
        for role, statement in allow_statements(path)
        if any(resource == "*" for resource in as_list(statement["Resource"]))
    }
    assert starred <= ALLOWED_STARS.keys()


@pytest.mark.parametrize("path", TEMPLATES, ids=["main", "endpoint"])
def test_every_permission_names_its_actions(path: Path) -> None:
    statements = list(allow_statements(path))
    assert statements
    for _role, statement in statements:
        assert not [action for action in as_list(statement["Action"]) if "*" in action], statement["Sid"]
        assert "NotAction" not in statement
        assert "NotResource" not in statement


def test_roles_are_written_out() -> None:
    """A role the SAM translator makes carries managed policies, whose resources are stars."""
    assert all("Role" in function for function in resources(MAIN, "AWS::Serverless::Function").values())
    for path in TEMPLATES:
        assert not [role for role in resources(path, "AWS::IAM::Role").values() if "ManagedPolicyArns" in role]


@pytest.mark.parametrize("path", TEMPLATES, ids=["main", "endpoint"])
def test_a_role_is_trusted_to_one_service(path: Path) -> None:
    for role in resources(path, "AWS::IAM::Role").values():
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            assert list(statement["Principal"]) == ["Service"]
            assert isinstance(statement["Principal"]["Service"], str)


def test_buckets_are_private_encrypted_and_tls_only() -> None:
    buckets = resources(MAIN, "AWS::S3::Bucket")
    assert set(buckets) == {"LakeBucket", "ArtifactsBucket", "AccessLogsBucket"}
    for name, bucket in buckets.items():
        assert bucket["PublicAccessBlockConfiguration"] == {
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        }
        (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        if name == "AccessLogsBucket":  # S3 delivers its logs into no bucket with a customer's key
            assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
        else:
            assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": DATA_KEY}
            assert bucket["LoggingConfiguration"]["DestinationBucketName"] == {"Ref": "AccessLogsBucket"}
        assert "AWS::AccountId" in bucket["BucketName"]["Fn::Sub"]  # bucket names are global
    assert _tls_only("AWS::S3::BucketPolicy", "Bucket") == set(buckets)


def test_rejected_records_are_gone_after_their_days_in_every_version() -> None:
    rules = {
        rule["Id"]: rule for rule in resources(MAIN, "AWS::S3::Bucket")["LakeBucket"]["LifecycleConfiguration"]["Rules"]
    }
    assert rules["quarantine"]["Prefix"] == names.QUARANTINE_PREFIX
    assert rules["quarantine"]["ExpirationInDays"] == {"Ref": "QuarantineTtlDays"}
    every_version = rules["overwritten-and-deleted"]
    assert "Prefix" not in every_version
    assert every_version["NoncurrentVersionExpiration"] == {"NoncurrentDays": 7}
    assert {rule["Status"] for rule in rules.values()} == {"Enabled"}


def test_queues_and_topic_are_encrypted_and_tls_only() -> None:
    queues, topics = resources(MAIN, "AWS::SQS::Queue"), resources(MAIN, "AWS::SNS::Topic")
    assert all(each["KmsMasterKeyId"] == DATA_KEY for each in (*queues.values(), *topics.values()))
    assert _tls_only("AWS::SQS::QueuePolicy", "Queues") == set(queues)
    assert _tls_only("AWS::SNS::TopicPolicy", "Topics") == set(topics)


def _tls_only(kind: str, about: str) -> set[str]:
    """Logical ids that a policy of this kind denies to callers without TLS."""
    found = set()
    for policy in resources(MAIN, kind).values():
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}:
                found |= {target["Ref"] for target in as_list(policy[about])}
    return found


def test_streams_tables_functions_and_log_groups_are_encrypted_with_keys_of_ours() -> None:
    encryption = {"EncryptionType": "KMS", "KeyId": DATA_KEY}
    assert all(s["StreamEncryption"] == encryption for s in resources(MAIN, "AWS::Kinesis::Stream").values())
    encryption = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": DATA_KEY}
    assert all(t["SSESpecification"] == encryption for t in resources(MAIN, "AWS::DynamoDB::Table").values())
    assert load(MAIN)["Globals"]["Function"]["KmsKeyArn"] == DATA_KEY
    groups = resources(MAIN, "AWS::Logs::LogGroup", EVERYTHING[MAIN]).values()
    assert all(group["KmsKeyId"] == {"Fn::GetAtt": "LogsKey.Arn"} for group in groups)
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups)
    (workgroup,) = resources(MAIN, "AWS::Athena::WorkGroup").values()
    results = workgroup["WorkGroupConfiguration"]["ResultConfiguration"]["EncryptionConfiguration"]
    assert results == {"EncryptionOption": "SSE_KMS", "KmsKey": DATA_KEY}


def test_the_key_of_log_groups_serves_every_log_group_and_no_other() -> None:
    (statement,) = [
        s
        for s in resources(MAIN, "AWS::KMS::Key")["LogsKey"]["KeyPolicy"]["Statement"]
        if s["Sid"] == "LogGroupsOfThisStack"
    ]
    contexts = statement["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]
    prefixes = [context["Fn::Sub"].partition(":log-group:")[2].removesuffix("*") for context in contexts]
    names_of_groups = [
        group["LogGroupName"]["Fn::Sub"] for group in resources(MAIN, "AWS::Logs::LogGroup", EVERYTHING[MAIN]).values()
    ]
    assert all(any(name.startswith(prefix) for prefix in prefixes) for name in names_of_groups)
    assert all(any(name.startswith(prefix) for name in names_of_groups) for prefix in prefixes)


@pytest.mark.parametrize("path", TEMPLATES, ids=["main", "endpoint"])
def test_keys_are_rotated_kept_and_left_to_the_accounts_roles(path: Path) -> None:
    keys = resources(path, "AWS::KMS::Key")
    assert keys
    for name, key in keys.items():
        assert key["EnableKeyRotation"] is True
        assert load(path)["Resources"][name]["DeletionPolicy"] == "RetainExceptOnCreate"
        for statement in key["KeyPolicy"]["Statement"]:
            (principal,) = statement["Principal"].values()
            assert "*" not in principal["Fn::Sub"]


def test_the_endpoints_storage_and_captured_invocations_are_encrypted_and_its_container_is_isolated() -> None:
    (config,) = resources(ENDPOINT, "AWS::SageMaker::EndpointConfig", EVERYTHING[ENDPOINT]).values()
    own = {"Fn::GetAtt": "EndpointKey.Arn"}
    assert config["KmsKeyId"] == config["DataCaptureConfig"]["KmsKeyId"] == own
    (model,) = resources(ENDPOINT, "AWS::SageMaker::Model").values()
    assert model["EnableNetworkIsolation"] is True
    with_ours = {**EVERYTHING[ENDPOINT], "DataKeyArn": "arn:aws:kms:eu-central-1:000000000000:key/1"}
    (config,) = resources(ENDPOINT, "AWS::SageMaker::EndpointConfig", with_ours).values()
    assert config["KmsKeyId"] == config["DataCaptureConfig"]["KmsKeyId"] == {"Ref": "DataKeyArn"}
    assert not resources(ENDPOINT, "AWS::KMS::Key", with_ours)


def test_who_meets_encrypted_data_may_use_their_key() -> None:
    owners = {role for role, statement in allow_statements(MAIN) if statement["Sid"] == "UseDataKey"}
    assert owners == set(resources(MAIN, "AWS::IAM::Role", EVERYTHING[MAIN]))
    for _role, statement in allow_statements(MAIN):
        if statement["Sid"] == "UseDataKey":
            assert statement["Resource"] == DATA_KEY


def test_the_switches_are_off_until_asked_for() -> None:
    assert not resources(MAIN, "AWS::Kinesis::StreamConsumer")
    streams = resources(MAIN, "AWS::Kinesis::Stream")
    assert all("StreamModeDetails" not in stream for stream in streams.values())
    assert decided(MAIN)["Globals"]["Function"]["Tracing"] == "PassThrough"
    assert "VpcConfig" not in decided(MAIN)["Globals"]["Function"]


def test_on_demand_streams_have_no_shard_count() -> None:
    for stream in resources(MAIN, "AWS::Kinesis::Stream", {"OnDemand": "true"}).values():
        assert stream["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
        assert "ShardCount" not in stream


def test_with_enhanced_fan_out_a_mapping_reads_as_its_consumer_and_its_role_may() -> None:
    fans_out = {"EnhancedFanOut": "true"}
    consumers = resources(MAIN, "AWS::Kinesis::StreamConsumer", fans_out)
    assert len(consumers) == 3
    found = resources(MAIN, "AWS::Serverless::Function", fans_out)
    for name, consumer in consumers.items():
        (reader,) = [
            function
            for function in found.values()
            for event in function["Events"].values()
            if event["Properties"].get("Stream") == {"Fn::GetAtt": f"{name}.ConsumerARN"}
        ]
        assert reader["FunctionName"] == consumer["ConsumerName"]
        stream = consumer["StreamARN"]["Fn::GetAtt"]
        (allowed,) = [
            statement["Resource"]
            for role, statement in allow_statements(MAIN, fans_out)
            if role == reader["Role"]["Fn::GetAtt"].removesuffix(".Arn")
            and "kinesis:SubscribeToShard" in as_list(statement["Action"])
        ]
        assert allowed == {"Fn::Sub": f"${{{stream}}}/consumer/{consumer['ConsumerName']['Fn::Sub']}:*"}


def test_everything_in_a_vpc_is_there_with_every_switch_on() -> None:
    everything = decided(MAIN, EVERYTHING[MAIN])
    assert set(everything["Globals"]["Function"]["VpcConfig"]) == {"SubnetIds", "SecurityGroupIds"}
    assert everything["Globals"]["Function"]["Tracing"] == "Active"
    (model,) = resources(ENDPOINT, "AWS::SageMaker::Model", EVERYTHING[ENDPOINT]).values()
    assert set(model["VpcConfig"]) == {"Subnets", "SecurityGroupIds"}


def test_the_templates_that_sam_does_not_package_hold_no_anchors() -> None:
    """They go to CloudFormation as they stand, which refuses them; SAM resolves those of the main one."""
    for path in (ENDPOINT, NETWORK):
        assert not [event for event in yaml.parse(path.read_text()) if getattr(event, "anchor", None)]


def test_what_holds_decisions_survives_its_stack() -> None:
    stateful = ("AWS::DynamoDB::Table", "AWS::S3::Bucket")
    for name, resource in load(MAIN)["Resources"].items():
        if resource["Type"] in stateful:
            assert resource["DeletionPolicy"] == "RetainExceptOnCreate", name
            assert resource["UpdateReplacePolicy"] == "Retain", name


def test_physical_names_are_those_of_the_code() -> None:
    streams = {without_prefix(stream["Name"]) for stream in resources(MAIN, "AWS::Kinesis::Stream").values()}
    assert streams == {
        names.TRANSACTIONS_STREAM,
        names.LABELS_STREAM,
        names.ENTITY_EVENTS_STREAM,
        names.FEATURES_STREAM,
        names.DECISIONS_STREAM,
    }
    tables = {without_prefix(table["TableName"]): table for table in resources(MAIN, "AWS::DynamoDB::Table").values()}
    assert set(tables) == {
        names.DECISIONS_TABLE,
        names.ENTITY_STATE_TABLE,
        names.LABELS_TABLE,
        names.EFFECTS_TABLE,
        names.LISTS_TABLE,
    }
    indexes = {index["IndexName"] for index in tables[names.DECISIONS_TABLE]["GlobalSecondaryIndexes"]}
    assert indexes == {names.DECISIONS_BY_CARD_INDEX, names.ALERTS_BY_DAY_INDEX, names.TO_RESCORE_INDEX}
    queues = {without_prefix(queue["QueueName"]) for queue in resources(MAIN, "AWS::SQS::Queue").values()}
    assert queues == {names.QUARANTINE_QUEUE, names.DISCARDED_QUEUE}
    (topic,) = resources(MAIN, "AWS::SNS::Topic").values()
    assert without_prefix(topic["TopicName"]) == names.ALERTS_TOPIC
    (database,) = resources(MAIN, "AWS::Glue::Database").values()
    assert without_prefix(database["DatabaseInput"]["Name"]) == names.GLUE_DATABASE
    (workgroup,) = resources(MAIN, "AWS::Athena::WorkGroup").values()
    assert without_prefix(workgroup["Name"]) == names.ATHENA_WORKGROUP


def test_every_table_expires_its_items() -> None:
    for table in resources(MAIN, "AWS::DynamoDB::Table").values():
        assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}


SETTINGS = {
    "ScoreTransactionsFunction": (ScoringSettings, REQUIRED),
    "ScoreApiFunction": (ScoreApiSettings, SCORE_API_REQUIRED),
    "ScoreFeaturesFunction": (FeaturesSettings, FEATURES_REQUIRED),
    "UpdateEntitiesFunction": (EntitySettings, ENTITIES_REQUIRED),
    "RecordLabelsFunction": (LabelSettings, LABELS_REQUIRED),
    "PublishEventsFunction": (EventSettings, EVENTS_REQUIRED),
}
READS = {
    "ScoreTransactionsFunction": "TransactionsStream",
    "ScoreFeaturesFunction": "FeaturesStream",
    "UpdateEntitiesFunction": "EntityEventsStream",
    "RecordLabelsFunction": "LabelsStream",
    "PublishEventsFunction": "DecisionsStream",
}


WITH_EVENTS = {"DecisionEvents": "true"}  # with every function


def functions() -> dict[str, dict[str, Any]]:
    found = resources(MAIN, "AWS::Serverless::Function", WITH_EVENTS)
    assert set(found) == set(SETTINGS)
    return found


def test_every_function_gets_every_setting_it_reads_and_no_table_it_does_not() -> None:
    parameters = load(MAIN)["Parameters"]
    for name, function in functions().items():
        variables = function["Environment"]["Variables"]
        settings, required = SETTINGS[name]
        assert set(variables) == {*required, "POWERTOOLS_SERVICE_NAME", "LOG_LEVEL"}, name
        values = {
            variable: str(parameters.get(value.get("Ref"), {}).get("Default", "x"))
            if isinstance(value, dict)
            else value
            for variable, value in variables.items()
        }
        settings.from_env(values)


def test_every_feature_set_can_be_chosen_and_outlives_its_windows() -> None:
    parameters = load(MAIN)["Parameters"]
    assert set(parameters["FeatureSet"]["AllowedValues"]) == set(FEATURE_SETS)
    assert parameters["FeatureSet"]["Default"] in FEATURE_SETS
    least_ms = parameters["DecisionTtlDays"]["MinValue"] * 86_400_000
    for features in FEATURE_SETS.values():
        assert least_ms >= features.card_layout.retention_ms
        assert features.merchant_layout is None or least_ms >= features.merchant_layout.retention_ms


def test_every_handler_exists() -> None:
    for function in functions().values():
        module, _, handler = function["Handler"].rpartition(".")
        assert callable(getattr(importlib.import_module(module), handler))


def test_a_function_may_touch_what_its_settings_name_and_nothing_else() -> None:
    named = {"Table", "Stream"}
    for name, function in functions().items():
        role = function["Role"]["Fn::GetAtt"].removesuffix(".Arn")
        allowed = {
            resource["Fn::GetAtt"].removesuffix(".Arn")
            for owner, statement in allow_statements(MAIN)
            if owner == role
            for resource in as_list(statement["Resource"])
            if "Fn::GetAtt" in resource
        }
        told = {value["Ref"] for value in function["Environment"]["Variables"].values() if "Ref" in value}
        read = {READS[name]} if name in READS else set()
        kinds = {kind: {each for each in told | read if each.endswith(kind)} for kind in named}
        for kind, expected in kinds.items():
            assert {each for each in allowed if each.endswith(kind)} == expected, name


def test_no_mapping_loses_anything() -> None:
    for name in READS:
        (event,) = functions()[name]["Events"].values()
        mapping = event["Properties"]
        assert mapping["Stream"] == {"Fn::GetAtt": f"{READS[name]}.Arn"}
        assert mapping["StartingPosition"] == "TRIM_HORIZON"
        assert mapping["MaximumRetryAttempts"] == -1
        assert mapping["MaximumRecordAgeInSeconds"] == -1
        assert mapping["BisectBatchOnFunctionError"] is True
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert mapping["DestinationConfig"]["OnFailure"]["Destination"] == {"Fn::GetAtt": "DiscardedBatchesQueue.Arn"}
    alarms = resources(MAIN, "AWS::CloudWatch::Alarm", WITH_EVENTS).values()
    watched = [
        alarm["Dimensions"][0]["Value"]
        for alarm in alarms
        if alarm.get("MetricName") == "ApproximateNumberOfMessagesVisible"
    ]
    assert {"Fn::GetAtt": "DiscardedBatchesQueue.QueueName"} in watched
    assert {"Fn::GetAtt": "QuarantineQueue.QueueName"} in watched
    for metric, watched_functions in (("IteratorAge", READS), ("Errors", SETTINGS)):
        watching = {a["Dimensions"][0]["Value"]["Ref"] for a in alarms if a.get("MetricName") == metric}
        assert watching == set(watched_functions)


def test_the_score_api_answers_signed_requests_only_and_before_its_gateway_gives_up() -> None:
    (api,) = resources(MAIN, "AWS::Serverless::Api").values()
    assert api["Auth"] == {"DefaultAuthorizer": "AWS_IAM", "InvokeRole": "NONE"}
    function = functions()["ScoreApiFunction"]
    events = [event["Properties"] for event in function["Events"].values()]
    paths = {SCORE_PATH, DECISION_RESOURCE}
    assert {(e["Path"], e["Method"]) for e in events} == {
        (path, method) for path in paths for method in ("GET", "POST")
    }
    for event in events:
        assert event["RestApiId"] == {"Ref": "ScoreApi"}
        assert "Auth" not in event
    assert MOST_BUDGET_MS + ANSWERED_WITHIN_MS < 1000 * function["Timeout"] < 29_000


def test_every_alarm_and_every_switch_is_explained_to_operators() -> None:
    page = (CHECKOUT / "docs" / "operations.md").read_text()
    for path in TEMPLATES:
        for name in resources(path, "AWS::CloudWatch::Alarm", EVERYTHING[path]):
            assert name in page or name.removesuffix("Alarm") in page, name
    for name in (
        "OnDemand",
        "DecisionEvents",
        "EnhancedFanOut",
        "XRay",
        "VpcSubnetIds",
        "DecisionRateAlarm",
        "DeployMetricMath",
    ):
        assert f"`{name}" in page, name


def test_the_network_has_no_way_out() -> None:
    network = load(NETWORK)["Resources"]
    kinds = {resource["Type"] for resource in network.values()}
    assert not kinds & {
        *("AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route", "AWS::EC2::VPCGatewayAttachment"),
        *(
            "AWS::EC2::EgressOnlyInternetGateway",
            "AWS::EC2::TransitGatewayAttachment",
            "AWS::EC2::VPCPeeringConnection",
        ),
    }
    for subnet in resources(NETWORK, "AWS::EC2::Subnet").values():
        assert subnet["MapPublicIpOnLaunch"] is False
    for endpoint in resources(NETWORK, "AWS::EC2::VPCEndpoint").values():
        (statement,) = endpoint["PolicyDocument"]["Statement"]
        assert statement["Condition"] == {"StringEquals": {"aws:ResourceAccount": {"Ref": "AWS::AccountId"}}}


def test_the_networks_outputs_are_parameters_of_the_other_stacks() -> None:
    outputs = set(load(NETWORK)["Outputs"])
    assert outputs == {"VpcSubnetIds", "VpcSecurityGroupIds"}
    assert all(outputs <= set(load(path)["Parameters"]) for path in TEMPLATES)


TOLD = {
    "score-transactions": (TRANSACTIONS_TOLD, STAGES),
    "score-features": (FEATURES_TOLD, STAGES),
    "update-entities": (ENTITIES_TOLD, UPDATE_STAGES),
    "record-labels": (LABELS_TOLD, UPDATE_STAGES),
    "publish-events": (EVENTS_TOLD, EVENT_STAGES),
}


def emitted(service: str) -> set[str]:
    """The metrics that a function puts into its log lines."""
    told, stages = TOLD[service]
    counts = {name if name == "records" else f"records_{name}" for name in told.counted}
    return {*counts, *(f"{stage}_ms" for stage in stages), told.alarm, POLICY_REFUSED}


def metrics_of_alarms(engine: str) -> Iterator[tuple[str, str, str]]:
    """(alarm, metric, value of its service dimension) for every alarm on a metric of ours."""
    for name, alarm in resources(MAIN, "AWS::CloudWatch::Alarm", {**WITH_EVENTS, "Engine": engine}).items():
        stats = [metric["MetricStat"] for metric in alarm.get("Metrics", ()) if "MetricStat" in metric]
        for metric in [stat["Metric"] for stat in stats] if "Metrics" in alarm else [alarm]:
            if metric["Namespace"] == NAMESPACE:
                ((dimension, service),) = [(d["Name"], without_prefix(d["Value"])) for d in metric["Dimensions"]]
                assert dimension == "service"
                yield name, metric["MetricName"], service


@pytest.mark.parametrize("engine", get_args(Engine))
def test_alarms_watch_what_the_functions_of_the_engine_tell(engine: str) -> None:
    found = list(metrics_of_alarms(engine))
    assert {metric for _, metric, _ in found} >= {
        *("card_failed_alarm", "merchant_failed_alarm", "label_failed_alarm", "event_failed_alarm", POLICY_REFUSED),
        *("records_late", "records_degraded", "records_decided", "records"),
    }
    for alarm, metric, service in found:
        assert metric in emitted(service), alarm
        assert {"score-transactions": "lambda", "score-features": "flink"}.get(service, engine) == engine, alarm


def test_a_function_names_itself_as_its_alarms_do() -> None:
    services = {without_prefix(f["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]) for f in functions().values()}
    assert services == {*TOLD, "score-api"}  # which is watched by its gateway


def test_every_alarm_tells_the_operators_and_says_what_happened() -> None:
    for path in TEMPLATES:
        for name, alarm in resources(path, "AWS::CloudWatch::Alarm", EVERYTHING[path]).items():
            assert alarm["AlarmActions"] == [{"Ref": "AlarmTopicArn"}], name
            assert alarm["AlarmDescription"].endswith("."), name
            assert alarm["TreatMissingData"] in ("notBreaching", "breaching"), name
        assert all(alarm["AlarmActions"] == [] for alarm in resources(path, "AWS::CloudWatch::Alarm").values())


def test_the_endpoint_is_watched_for_latency_and_errors() -> None:
    alarms = resources(ENDPOINT, "AWS::CloudWatch::Alarm").values()
    assert {alarm["MetricName"] for alarm in alarms} == {"ModelLatency", "Invocation5XXErrors", "Invocation4XXErrors"}
    (config,) = resources(ENDPOINT, "AWS::SageMaker::EndpointConfig").values()
    (variant,) = config["ProductionVariants"]
    assert all({"Name": "VariantName", "Value": variant["VariantName"]} in alarm["Dimensions"] for alarm in alarms)


@pytest.mark.parametrize("engine", get_args(Engine))
def test_the_dashboard_shows_metrics_that_exist(engine: str) -> None:
    (dashboard,) = resources(MAIN, "AWS::CloudWatch::Dashboard", {"Engine": engine}).values()
    text, variables = dashboard["DashboardBody"]["Fn::Sub"]
    text = text.replace("${Scorer}", variables["Scorer"]["Fn::Sub"]).replace("${NamePrefix}", "")
    own = [
        (metric[1], metric[3])
        for widget in json.loads(text)["widgets"]
        for metric in widget["properties"]["metrics"]
        if metric[0] == NAMESPACE
    ]
    assert {service for _, service in own} >= {"update-entities", "record-labels"}
    for metric, service in own:
        assert metric in emitted(service), (metric, service)


ENVIRONMENTS = ("dev", "staging", "prod")


def test_every_environment_deploys_with_parameters_that_the_template_takes() -> None:
    configured = tomllib.loads((CHECKOUT / "samconfig.toml").read_text())
    assert set(configured) == {"version", "default", *ENVIRONMENTS}
    declared = load(MAIN)["Parameters"]
    prefixes, stacks = set(), set()
    for environment in ENVIRONMENTS:
        deploy = configured[environment]["deploy"]["parameters"]
        given = dict(pair.split("=", 1) for pair in deploy["parameter_overrides"])
        for name, value in given.items():
            rule = declared[name]
            assert value in [str(each) for each in rule.get("AllowedValues", [value])], name
            assert re.fullmatch(rule.get("AllowedPattern", ".*"), value), name
            if rule["Type"] == "Number":
                assert rule.get("MinValue", 0) <= int(value) <= rule.get("MaxValue", int(value)), name
        assert configured[environment]["build"]["parameters"]["build_in_source"] is True
        prefixes.add(given["NamePrefix"])
        stacks.add(configured[environment]["global"]["parameters"]["stack_name"])
    assert len(prefixes) == len(stacks) == len(ENVIRONMENTS)  # they fit into one account


RUNS_WITH = {
    "ScoreTransactionsFunction": {"lambda"},
    "UpdateEntitiesFunction": {"lambda"},
    "ScoreFeaturesFunction": {"flink"},
    "RecordLabelsFunction": {"lambda", "flink"},
    "PublishEventsFunction": {"lambda", "flink"},
}


TRANSFORM = """
import json, sys
from samtranslator.translator.transform import transform
template = json.load(sys.stdin)
for resource in template["Resources"].values():
    if resource["Type"] == "AWS::Serverless::Function":
        resource["Properties"]["CodeUri"] = "s3://bucket/key"  # as `sam package` leaves it
print(json.dumps(transform(template, {}, None)))
"""


@pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam (make setup)")
@pytest.mark.parametrize("engine", get_args(Engine))
def test_an_engines_mappings_run_and_the_others_do_not(engine: str) -> None:
    """As CloudFormation takes them, after the SAM transform."""
    template = load(MAIN)
    assert set(template["Parameters"]["Engine"]["AllowedValues"]) == set(get_args(Engine))
    holds = {
        name: condition["Fn::Equals"][1] == engine
        for name, condition in template["Conditions"].items()
        if condition.get("Fn::Equals", [None])[0] == {"Ref": "Engine"}
    }
    done = subprocess.run(
        [SAM.parent / "python", "-c", TRANSFORM],
        input=json.dumps(template),
        env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    running = set()
    for resource in json.loads(done.stdout)["Resources"].values():
        if resource["Type"] == "AWS::Lambda::EventSourceMapping":
            enabled = resource["Properties"].get("Enabled", True)
            if isinstance(enabled, dict):
                condition, then, otherwise = enabled["Fn::If"]
                enabled = then if holds[condition] else otherwise
            assert isinstance(enabled, bool)
            if enabled:
                running.add(resource["Properties"]["FunctionName"]["Ref"])
    assert running == {name for name, engines in RUNS_WITH.items() if engine in engines}


def test_what_comes_from_the_job_is_split_like_what_goes_into_it() -> None:
    streams = resources(MAIN, "AWS::Kinesis::Stream")
    assert streams["FeaturesStream"]["ShardCount"] == {"Ref": "ShardCount"}
    assert streams["TransactionsStream"]["ShardCount"] == {"Ref": "ShardCount"}


def test_every_function_logs_to_a_group_of_its_own() -> None:
    groups = resources(MAIN, "AWS::Logs::LogGroup", WITH_EVENTS)
    logs = {name: function["LoggingConfig"]["LogGroup"]["Ref"] for name, function in functions().items()}
    assert len(set(logs.values())) == len(logs)
    for name, group in logs.items():
        function_name = without_prefix(functions()[name]["FunctionName"])
        assert groups[group]["LogGroupName"] == {"Fn::Sub": f"/aws/lambda/${{NamePrefix}}{function_name}"}


def test_the_first_policy_can_be_read() -> None:
    (parameter,) = resources(MAIN, "AWS::SSM::Parameter").values()
    policy = json.loads(parameter["Value"])
    assert policy["policy_version"] == "initial"
    assert 0 <= policy["review_from"] <= policy["decline_from"] <= 1


def test_lake_columns_are_the_fields_of_the_contracts_in_order() -> None:
    tables = {
        table["TableInput"]["Name"]: table["TableInput"] for table in resources(MAIN, "AWS::Glue::Table").values()
    }
    columns = {name: [column["Name"] for column in t["StorageDescriptor"]["Columns"]] for name, t in tables.items()}
    assert columns["decisions"] == [field.name for field in msgspec.structs.fields(Decision)]
    assert columns["raw_transactions"] == [field.name for field in msgspec.structs.fields(Transaction)]
    for table in tables.values():
        assert [key["Name"] for key in table["PartitionKeys"]] == ["dt", "hour"]


def test_deliveries_write_where_the_tables_look() -> None:
    locations = [
        table["TableInput"]["StorageDescriptor"]["Location"]["Fn::Sub"]
        for table in resources(MAIN, "AWS::Glue::Table").values()
    ]
    assert sorted(locations) == sorted(
        f"s3://${{LakeBucket}}/{prefix}" for prefix in (names.RAW_PREFIX, names.DECISIONS_PREFIX)
    )
    for delivery in resources(MAIN, "AWS::KinesisFirehose::DeliveryStream").values():
        destination = delivery["ExtendedS3DestinationConfiguration"]
        hive = re.fullmatch(r"(\w+/)dt=!\{timestamp:yyyy-MM-dd\}/hour=!\{timestamp:HH\}/", destination["Prefix"])
        assert hive is not None
        assert hive[1] in (names.RAW_PREFIX, names.DECISIONS_PREFIX)
        assert destination["ErrorOutputPrefix"].startswith(names.ERRORS_PREFIX)


def test_outputs_are_what_the_commands_ask_for() -> None:
    assert set(load(MAIN)["Outputs"]) == {
        *("TransactionsStreamName", "LabelsStreamName", "EntityEventsStreamName", "FeaturesStreamName"),
        *("DecisionsStreamName", "DecisionsTableName", "EntityStateTableName", "EffectsTableName", "LabelsTableName"),
        "ListsTableName",
        *("LakeBucketName", "ArtifactsBucketName", "QuarantineQueueUrl", "DiscardedQueueUrl", "AlertsTopicArn"),
        *("GlueDatabaseName", "AthenaWorkgroupName", "PolicyParameterName", "EndpointName"),
        *("ScoreTransactionsFunctionName", "ScoreFeaturesFunctionName", "UpdateEntitiesFunctionName"),
        *("RecordLabelsFunctionName", "FlinkApplicationName"),
        # what an application needs
        *("TransactionsStreamArn", "LabelsStreamArn", "DecisionsStreamArn", "DecisionsTableArn", "DataKeyArn"),
        *("PublisherPolicyArn", "DecisionsReaderPolicyArn", "ScoreApiCallerPolicyArn", "DashboardName"),
        *("ScoreApiFunctionName", "ScoreApiId", "ScoreApiUrl", "DecisionEventBusName"),
    }
    assert "EndpointName" in load(ENDPOINT)["Outputs"]


# Two records of one key, "a" and "b", as the producer library packs them.
_MESSAGE = b"\x0a\x01k" + b"\x1a\x05\x08\x00\x1a\x01a" + b"\x1a\x05\x08\x00\x1a\x01b"
AGGREGATE = b"\xf3\x89\x9a\xc2" + _MESSAGE + hashlib.md5(_MESSAGE, usedforsecurity=False).digest()
IN_ITS_PACKAGE = """
import {module}
assert callable({module}.{handler})
import importlib.util
from lambdas.records import user_payloads
assert user_payloads(bytes.fromhex("{aggregate}")) == [b"a", b"b"]
from lambdas.rules import compile_condition
assert compile_condition("n > 1", {{"n": "int"}})({{"n": 2}}) is True
assert importlib.util.find_spec("stream_features.flink_job") is None
assert importlib.util.find_spec("stream_features.vectorised") is None
"""


@pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam (make setup)")
def test_every_handler_loads_from_its_package_alone(tmp_path: Path) -> None:
    """In an empty virtual environment: the emulator or this checkout would hide a missing requirement."""
    build(print)
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    for name, function in resources(MAIN, "AWS::Serverless::Function").items():
        package = CHECKOUT / ".aws-sam" / "build" / name
        module, _, handler = function["Handler"].rpartition(".")
        program = IN_ITS_PACKAGE.format(module=module, handler=handler, aggregate=AGGREGATE.hex())
        done = subprocess.run(
            [tmp_path / "empty" / "bin" / "python", "-c", program],
            cwd=package,
            env={"PATH": os.defpath, "AWS_DEFAULT_REGION": "us-east-1", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        bill = json.loads((package / "sbom.cdx.json").read_text())
        installed = {info.name.removesuffix(".dist-info").lower() for info in package.glob("*.dist-info")}
        assert {f"{one['name'].replace('-', '_')}-{one['version']}" for one in bill["components"]} == installed
