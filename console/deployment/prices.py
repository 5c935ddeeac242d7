"""List prices of us-east-1 in US dollars, as publicly known in November 2026, without free tiers and agreements.

No price list was asked. Check them before you rely on a total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SHARD_HOUR: Final = 0.015
SHARD_HOUR_PAST_A_DAY: Final = 0.020  # retention above 24 hours, up to seven days
ON_DEMAND_STREAM_HOUR: Final = 0.040
CONSUMER_SHARD_HOUR: Final = 0.015
ALARM_METRIC: Final = 0.10  # a month, as the others without "hour"
COMPOSITE_ALARM: Final = 0.50
DASHBOARD: Final = 3.00
KEY: Final = 1.00
SECRET: Final = 0.40
INTERFACE_ENDPOINT_HOUR: Final = 0.01  # per availability zone
NAT_GATEWAY_HOUR: Final = 0.045
KPU_HOUR: Final = 0.11
KPU_STORAGE_GB: Final = 50
RUNNING_STORAGE_GB: Final = 0.10
PROVISIONED_GB_SECOND: Final = 0.0000041667
# SageMaker real-time inference.
INSTANCE_HOUR: Final[Mapping[str, float]] = {
    "ml.t2.medium": 0.056,
    "ml.t2.large": 0.111,
    "ml.c5.large": 0.102,
    "ml.c5.xlarge": 0.204,
    "ml.c6i.large": 0.102,
    "ml.c6i.xlarge": 0.204,
    "ml.c6i.2xlarge": 0.408,
    "ml.m5.large": 0.115,
    "ml.m5.xlarge": 0.230,
}

# What costs by use alone; the words say by what.
FREE_WHILE_IDLE: Final[Mapping[str, str]] = {
    "AWS::DynamoDB::Table": "by request; then $0.25 a GB-month, and $0.20 for point-in-time recovery",
    "AWS::S3::Bucket": "by request; then $0.023 a GB-month",
    "AWS::Serverless::Function": "by call",
    "AWS::Lambda::EventSourceMapping": "nothing",
    "AWS::Lambda::EventInvokeConfig": "nothing",
    "AWS::Lambda::Function": "by call",
    "AWS::Lambda::Permission": "nothing",
    "AWS::Lambda::Version": "nothing",
    "AWS::Lambda::LayerVersion": "nothing",
    "AWS::Lambda::CodeSigningConfig": "nothing",
    "AWS::Signer::SigningProfile": "nothing",
    "AWS::KinesisFirehose::DeliveryStream": "$0.029 a GB, and $0.018 a GB for Parquet",
    "AWS::SQS::Queue": "by request",
    "AWS::SNS::Topic": "by message",
    "AWS::SNS::Subscription": "by message",
    "AWS::Athena::WorkGroup": "$5 a TB scanned",
    "AWS::Logs::LogGroup": "$0.50 a GB taken in; then $0.03 a GB-month",
    "AWS::ECR::Repository": "$0.10 a GB-month",
    "AWS::CodeBuild::Project": "$0.005 a minute of a build",
    "AWS::Glue::Crawler": "$0.44 a DPU-hour of a run",
    "AWS::StepFunctions::StateMachine": "by transition",
    "AWS::Events::Rule": "nothing",
    "AWS::Events::EventBus": "$1 a million events",
    "AWS::Scheduler::Schedule": "by call",
    "AWS::Scheduler::ScheduleGroup": "nothing",
    "AWS::SageMaker::MonitoringSchedule": "the instance-hours of its runs",
    "AWS::SageMaker::Pipeline": "the instance-hours of its runs",
    "AWS::ApiGateway::RestApi": "by request",
    "AWS::Serverless::Api": "by request",
    "AWS::Serverless::HttpApi": "by request",
}
# Configuration: no price at all.
WITHOUT_PRICE: Final = (
    *("AWS::ApplicationAutoScaling::ScalableTarget", "AWS::Athena::NamedQuery", "AWS::EC2::SecurityGroup"),
    *("AWS::EC2::VPC", "AWS::EC2::Subnet", "AWS::EC2::RouteTable", "AWS::EC2::SubnetRouteTableAssociation"),
    *("AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress", "AWS::Glue::Database", "AWS::Glue::Table"),
    *("AWS::Glue::SchemaVersion", "AWS::Glue::Schema", "AWS::Glue::Registry", "AWS::IAM::ManagedPolicy"),
    *("AWS::IAM::OIDCProvider", "AWS::IAM::Policy", "AWS::IAM::Role", "AWS::IAM::ServiceLinkedRole"),
    *("AWS::KMS::Alias", "AWS::KinesisAnalyticsV2::ApplicationCloudWatchLoggingOption", "AWS::Lambda::Url"),
    *("AWS::LakeFormation::PrincipalPermissions", "AWS::LakeFormation::DataLakeSettings", "AWS::Logs::LogStream"),
    *("AWS::Logs::MetricFilter", "AWS::Logs::QueryDefinition", "AWS::Logs::ResourcePolicy"),
    *("AWS::Logs::SubscriptionFilter", "AWS::S3::BucketPolicy", "AWS::SNS::TopicPolicy", "AWS::SQS::QueuePolicy"),
    *("AWS::SSM::Parameter", "AWS::SageMaker::EndpointConfig", "AWS::SageMaker::Model", "AWS::XRay::Group"),
    *(
        "AWS::SageMaker::ModelPackageGroup",
        "AWS::XRay::SamplingRule",
        "AWS::Budgets::Budget",
        "AWS::Kinesis::ResourcePolicy",
    ),
    *("AWS::CodeDeploy::Application", "AWS::CodeDeploy::DeploymentGroup", "AWS::ResourceGroups::Group"),
)


def idle_words(kind: str) -> str:
    """What a resource of `kind` costs while nothing happens, for people."""
    if kind == "AWS::KMS::Key":
        return f"${KEY:.0f} a month"
    return f"idle: $0; {FREE_WHILE_IDLE[kind]}" if kind in FREE_WHILE_IDLE else "see docs/deploy.md for its cost"
