"""The SageMaker host as boto3 sees it, with real models in a real S3 and the real inference server behind it."""

from __future__ import annotations

import io
import json
import re
import signal
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from endpoint.script_package import code_files, requirements, with_code
from model.artifact import Artifact, pack_artifact
from tests.integration.embedded_aws import INTERPRETER, EmbeddedAws, embedded_aws
from tests.integration.sagemaker_fixtures import Host, kill, servers_below, until
from tests.unit.endpoint.models import CORE, a_booster, an_artifact, some_rows, with_manifest

BUCKET = "artifacts"
OLD, NEW = an_artifact(seed=0), an_artifact(seed=1)
ROWS = some_rows(3)
REQUEST = json.dumps(
    {
        "feature_set_id": CORE.feature_set_id,
        "columns": CORE.names,
        "definitions": CORE.definitions,
        "rows": [[None if np.isnan(value) else float(value) for value in row] for row in ROWS],
        "explain_from": 0.0,
    }
).encode()
VERSIONS = {OLD.manifest.model_version: 0, NEW.manifest.model_version: 1}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    if not INTERPRETER.exists():
        pytest.skip("no .venv-embedded: run `make setup`")
    with embedded_aws(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture(scope="module")
def s3(aws: EmbeddedAws) -> Any:
    client = aws.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for name, artifact in (("old", OLD), ("new", NEW)):
        client.put_object(Bucket=BUCKET, Key=f"{name}/model.tar.gz", Body=pack_artifact(artifact))
    return client


@pytest.fixture
def host(tmp_path: Path, aws: EmbeddedAws, s3: Any) -> Host:
    return Host(tmp_path, aws)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, aws: EmbeddedAws, s3: Any) -> Iterator[Host]:
    """One host for the tests that only add to it."""
    one = Host(tmp_path_factory.mktemp("host"), aws)
    with one.started():
        yield one


def create_config(host: Host, name: str, key: str = "old/model.tar.gz", **variant: Any) -> None:
    host.sagemaker.create_model(
        ModelName=name,
        PrimaryContainer={"Image": "fraudstream-endpoint", "ModelDataUrl": f"s3://{BUCKET}/{key}"},
        ExecutionRoleArn="arn:aws:iam::000000000000:role/endpoint",
    )
    host.sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[{"VariantName": "main", "ModelName": name, **variant}]
    )


def create_endpoint(host: Host, name: str, key: str = "old/model.tar.gz") -> None:
    create_config(host, name, key)
    host.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)


def invoke(host: Host, endpoint_name: str, **changed: Any) -> dict[str, Any]:
    request = {"ContentType": "application/json", "Body": REQUEST, **changed}
    answered = host.runtime.invoke_endpoint(EndpointName=endpoint_name, **request)
    parsed: dict[str, Any] = json.loads(answered["Body"].read())
    assert answered["InvokedProductionVariant"]
    return parsed


def scores(response: dict[str, Any]) -> list[float]:
    return [prediction["score"] for prediction in response["predictions"]]


def scores_of(seed: int) -> list[float]:
    matrix = ROWS.astype(np.float32)
    own: list[float] = a_booster(seed=seed).inplace_predict(matrix, validate_features=False).tolist()
    return own


def refusal(call: Any, **request: Any) -> tuple[str, str, int]:
    with pytest.raises(ClientError) as refused:
        call(**request)
    response = refused.value.response
    return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_an_endpoint_is_created_and_answers_with_the_models_own_scores(shared):
    create_endpoint(shared, "first")
    assert shared.status("first") == "Creating"
    shared.sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="first", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    answered = invoke(shared, "first")
    assert answered["model_version"] == OLD.manifest.model_version
    assert scores(answered) == scores_of(seed=0)
    described = shared.sagemaker.describe_endpoint(EndpointName="first")
    assert described["EndpointConfigName"] == "first"
    assert described["ProductionVariants"][0]["VariantName"] == "main"
    assert described["CreationTime"] <= described["LastModifiedTime"]


def test_headers_pass_both_ways(shared):
    create_endpoint(shared, "headers")
    shared.until_in_service("headers")
    answered = shared.runtime.invoke_endpoint(
        EndpointName="headers",
        ContentType="text/csv",
        Accept="text/csv",
        CustomAttributes=f"feature_set_id={CORE.feature_set_id}",
        TargetVariant="main",
        Body="\n".join(",".join("" if np.isnan(value) else repr(float(value)) for value in row) for row in ROWS),
    )
    assert answered["ContentType"].startswith("text/csv")
    assert answered["InvokedProductionVariant"] == "main"
    assert answered["CustomAttributes"] == f"model_version={OLD.manifest.model_version}"
    assert [float(line) for line in answered["Body"].read().split()] == scores_of(seed=0)


def test_what_the_container_refuses_is_a_model_error_with_its_own_status_and_words(shared):
    create_endpoint(shared, "refusing")
    shared.until_in_service("refusing")
    with pytest.raises(ClientError) as refused:
        invoke(shared, "refusing", Body=b"{")
    error = refused.value.response
    assert error["Error"]["Code"] == "ModelError"
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert error["OriginalStatusCode"] == 400
    assert json.loads(error["OriginalMessage"])["error"]["code"] == "bad_json"


def test_unknown_endpoints_and_variants_are_validation_errors(shared):
    create_endpoint(shared, "variants")
    shared.until_in_service("variants")
    request = {"ContentType": "application/json", "Body": REQUEST}
    code, message, status = refusal(shared.runtime.invoke_endpoint, EndpointName="nowhere", **request)
    assert (code, status) == ("ValidationError", 400)
    assert "nowhere" in message
    code, _, _ = refusal(shared.runtime.invoke_endpoint, EndpointName="variants", TargetVariant="other", **request)
    assert code == "ValidationError"


@pytest.mark.parametrize(
    ("operation", "request_", "named"),
    [
        ("describe_model", {"ModelName": "absent"}, "Could not find model"),
        ("delete_model", {"ModelName": "absent"}, "Could not find model"),
        ("describe_endpoint_config", {"EndpointConfigName": "absent"}, "Could not find endpoint configuration"),
        ("delete_endpoint_config", {"EndpointConfigName": "absent"}, "Could not find endpoint configuration"),
        ("describe_endpoint", {"EndpointName": "absent"}, "Could not find endpoint"),
        ("delete_endpoint", {"EndpointName": "absent"}, "Could not find endpoint"),
        ("update_endpoint", {"EndpointName": "absent", "EndpointConfigName": "absent"}, "Could not find endpoint"),
        ("create_endpoint", {"EndpointName": "e", "EndpointConfigName": "absent"}, "Could not find endpoint conf"),
        ("create_model", {"ModelName": "bad--name-"}, "failed to satisfy constraint"),
        ("create_model", {"ModelName": "m"}, "container"),
        ("create_model", {"ModelName": "m", "PrimaryContainer": {"Image": "i"}}, "model data"),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "c", "ProductionVariants": [{"VariantName": "v", "ModelName": "absent"}]},
            "Could not find model",
        ),
    ],
)
def test_mistakes_get_aws_error_shapes(shared, operation, request_, named):
    code, message, status = refusal(getattr(shared.sagemaker, operation), **request_)
    assert (code, status) == ("ValidationException", 400)
    assert named in message


def test_a_name_is_given_once(shared):
    create_endpoint(shared, "taken")
    container = {"ModelDataUrl": f"s3://{BUCKET}/old/model.tar.gz"}
    variants = [{"VariantName": "main", "ModelName": "taken"}]
    for call, request in (
        (shared.sagemaker.create_model, {"ModelName": "taken", "PrimaryContainer": container}),
        (shared.sagemaker.create_endpoint_config, {"EndpointConfigName": "taken", "ProductionVariants": variants}),
        (shared.sagemaker.create_endpoint, {"EndpointName": "taken", "EndpointConfigName": "taken"}),
    ):
        code, message, _ = refusal(call, **request)
        assert (code, "already existing" in message) == ("ValidationException", True)


def test_an_operation_this_host_does_not_have_says_so(shared):
    code, message, _ = refusal(shared.sagemaker.list_training_jobs)
    assert code == "UnknownOperationException"
    assert "ListTrainingJobs" in message


def test_lists_are_filtered_sorted_and_paged(shared):
    for name in ("list-a", "list-b", "list-c"):
        create_config(shared, name)
    pages = shared.sagemaker.get_paginator("list_models").paginate(
        NameContains="list-", SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 2}
    )
    assert [[model["ModelName"] for model in page["Models"]] for page in pages] == [["list-a", "list-b"], ["list-c"]]
    configs = shared.sagemaker.list_endpoint_configs(NameContains="list-", SortBy="Name")["EndpointConfigs"]
    assert [config["EndpointConfigName"] for config in configs] == ["list-c", "list-b", "list-a"]
    described = shared.sagemaker.describe_endpoint_config(EndpointConfigName="list-a")
    assert described["ProductionVariants"][0]["ModelName"] == "list-a"
    assert shared.sagemaker.list_endpoints(NameContains="list-")["Endpoints"] == []
    shared.sagemaker.delete_model(ModelName="list-c")
    assert len(shared.sagemaker.list_models(NameContains="list-")["Models"]) == 2


def test_an_endpoint_without_its_artifact_fails_with_the_reason(shared):
    create_endpoint(shared, "lost", key="lost/model.tar.gz")
    until(lambda: shared.status("lost") == "Failed", "the failure")
    reason = shared.sagemaker.describe_endpoint(EndpointName="lost")["FailureReason"]
    assert "s3://artifacts/lost/model.tar.gz" in reason
    code, _, _ = refusal(shared.sagemaker.update_endpoint, EndpointName="lost", EndpointConfigName="lost")
    assert code == "ValidationException"


def test_a_model_that_the_server_refuses_fails_the_endpoint_with_the_servers_words(shared, s3):
    other = with_manifest(OLD.booster_ubj, definitions=("0" * 16, *CORE.definitions[1:]))
    s3.put_object(Bucket=BUCKET, Key="mismatch/model.tar.gz", Body=pack_artifact(other))
    create_endpoint(shared, "mismatch", key="mismatch/model.tar.gz")
    until(lambda: shared.status("mismatch") == "Failed", "the failure")
    reason = shared.sagemaker.describe_endpoint(EndpointName="mismatch")["FailureReason"]
    assert CORE.names[0] in reason


def test_an_archive_that_leads_outside_its_folder_is_not_unpacked(shared, s3, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("../../escaped")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    s3.put_object(Bucket=BUCKET, Key="escape/model.tar.gz", Body=packed.getvalue())
    create_endpoint(shared, "escape", key="escape/model.tar.gz")
    until(lambda: shared.status("escape") == "Failed", "the failure")
    assert not list(shared.state_directory.rglob("escaped"))


class Caller(threading.Thread):
    """Invokes without pause until told to stop; keeps every answer's version and every failure."""

    def __init__(self, host: Host, endpoint_name: str) -> None:
        super().__init__()
        self._host = host
        self._endpoint_name = endpoint_name
        self.stopping = threading.Event()
        self.versions: list[str] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        expected = {version: scores_of(seed) for version, seed in VERSIONS.items()}
        while not self.stopping.is_set():
            try:
                answered = invoke(self._host, self._endpoint_name)
                if scores(answered) != expected[answered["model_version"]]:
                    self.wrong.append("scores of another model")
                self.versions.append(answered["model_version"])
            except Exception as error:
                self.wrong.append(repr(error))


def test_an_update_switches_under_load_without_one_failed_invocation(shared):
    create_endpoint(shared, "switching")
    shared.until_in_service("switching")
    create_config(shared, "switching-new", key="new/model.tar.gz")
    callers = [Caller(shared, "switching") for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        until(lambda: all(caller.versions for caller in callers), "the first answers")
        for config_name in ("switching-new", "switching", "switching-new"):
            shared.sagemaker.update_endpoint(EndpointName="switching", EndpointConfigName=config_name)
            assert shared.status("switching") == "Updating"
            shared.until_in_service("switching")
        done = [len(caller.versions) for caller in callers]
        until(lambda: all(len(caller.versions) > n + 2 for caller, n in zip(callers, done, strict=True)), "new answers")
    finally:
        for caller in callers:
            caller.stopping.set()
        for caller in callers:
            caller.join()
    assert [caller.wrong for caller in callers] == [[]] * 4
    for caller in callers:
        assert set(caller.versions) == set(VERSIONS)
        assert caller.versions[-1] == NEW.manifest.model_version
    assert shared.sagemaker.describe_endpoint(EndpointName="switching")["EndpointConfigName"] == "switching-new"


def test_a_failed_update_leaves_the_endpoint_serving_what_it_served(shared):
    create_endpoint(shared, "rolling")
    shared.until_in_service("rolling")
    create_config(shared, "rolling-bad", key="lost/model.tar.gz")
    shared.sagemaker.update_endpoint(EndpointName="rolling", EndpointConfigName="rolling-bad")
    code, message, _ = refusal(shared.sagemaker.update_endpoint, EndpointName="rolling", EndpointConfigName="rolling")
    assert (code, "in-progress" in message) == ("ValidationException", True)
    shared.until_in_service("rolling")
    described = shared.sagemaker.describe_endpoint(EndpointName="rolling")
    assert described["EndpointConfigName"] == "rolling"
    assert "lost/model.tar.gz" in described["FailureReason"]
    assert scores(invoke(shared, "rolling")) == scores_of(seed=0)


CAPTURE = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "DestinationS3Uri": f"s3://{BUCKET}/captured",
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
}


def captured(s3: Any, endpoint_name: str) -> list[dict[str, Any]]:
    """Every record below the endpoint's prefix, in the order of its files."""
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"captured/{endpoint_name}/").get("Contents", [])
    for each in found:
        assert re.fullmatch(rf"captured/{endpoint_name}/main/\d{{4}}/\d\d/\d\d/\d\d/[^/]+\.jsonl", each["Key"])
    bodies = [s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read() for each in found]
    return [json.loads(line) for body in bodies for line in body.splitlines()]


def create_capturing_endpoint(host: Host, name: str, **changed: Any) -> None:
    create_config(host, f"{name}-model")
    host.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[{"VariantName": "main", "ModelName": f"{name}-model"}],
        DataCaptureConfig=CAPTURE | changed,
    )
    host.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    host.until_in_service(name)


def test_invocations_are_captured_flushed_at_the_end_and_only_the_answered_ones(host, s3):
    with host.started() as process:
        create_capturing_endpoint(host, "captured")
        answered = invoke(host, "captured", InferenceId="tx-1")
        with pytest.raises(ClientError):
            invoke(host, "captured", Body=b"{")
        assert host.sagemaker.describe_endpoint(EndpointName="captured")["DataCaptureConfig"] == {
            "EnableCapture": True,
            "CaptureStatus": "Started",
            "CurrentSamplingPercentage": 100,
            "DestinationS3Uri": f"s3://{BUCKET}/captured",
        }
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    [kept] = captured(s3, "captured")
    assert kept["captureData"]["endpointInput"]["data"] == REQUEST.decode()
    assert json.loads(kept["captureData"]["endpointOutput"]["data"]) == answered
    assert kept["eventMetadata"]["inferenceId"] == "tx-1"


def test_what_a_killed_host_captured_arrives_with_the_next(host, s3):
    with host.started() as process:
        create_capturing_endpoint(host, "spooled")
        for _ in range(3):
            invoke(host, "spooled")
        kill(process)
    with host.started():
        until(lambda: len(captured(s3, "spooled")) == 3, "the captured invocations")


def test_capture_follows_the_configuration_that_serves(shared, s3):
    create_capturing_endpoint(shared, "sampled", InitialSamplingPercentage=0)
    invoke(shared, "sampled")
    create_config(shared, "silent")
    shared.sagemaker.update_endpoint(EndpointName="sampled", EndpointConfigName="silent")
    shared.until_in_service("sampled")
    invoke(shared, "sampled")
    assert "DataCaptureConfig" not in shared.sagemaker.describe_endpoint(EndpointName="sampled")
    assert captured(s3, "sampled") == []


def test_a_capture_configuration_that_cannot_be_honoured_is_refused(shared):
    create_config(shared, "uncapturable")
    code, message, _ = refusal(
        shared.sagemaker.create_endpoint_config,
        EndpointConfigName="uncapturable-2",
        ProductionVariants=[{"VariantName": "main", "ModelName": "uncapturable"}],
        DataCaptureConfig=CAPTURE | {"DestinationS3Uri": "s3://"},
    )
    assert (code, "DestinationS3Uri" in message) == ("ValidationException", True)


def test_a_script_mode_artifact_is_served_like_any_other(shared, s3):
    packed = with_code(pack_artifact(OLD), code_files() | requirements())
    s3.put_object(Bucket=BUCKET, Key="scripted/model.tar.gz", Body=packed)
    create_endpoint(shared, "scripted", key="scripted/model.tar.gz")
    shared.until_in_service("scripted")
    assert scores(invoke(shared, "scripted")) == scores_of(seed=0)


def test_two_variants_share_the_traffic_and_can_be_asked_for(shared):
    create_config(shared, "both-new", key="new/model.tar.gz")
    create_config(shared, "both-old")
    variants = [
        {"VariantName": name, "ModelName": f"both-{name}", "InitialVariantWeight": 1.0} for name in ("old", "new")
    ]
    shared.sagemaker.create_endpoint_config(EndpointConfigName="both", ProductionVariants=variants)
    shared.sagemaker.create_endpoint(EndpointName="both", EndpointConfigName="both")
    shared.until_in_service("both")
    assert scores(invoke(shared, "both", TargetVariant="old")) == scores_of(seed=0)
    assert scores(invoke(shared, "both", TargetVariant="new")) == scores_of(seed=1)
    # Chance that 60 fair draws all fall on one side: 2 in 10^18.
    assert {invoke(shared, "both")["model_version"] for _ in range(60)} == set(VERSIONS)


def test_a_deleted_endpoint_is_gone_with_its_process(host):
    with host.started() as process:
        create_endpoint(host, "short")
        host.until_in_service("short")
        servers = servers_below(process)
        assert len(servers) == 1
        host.sagemaker.delete_endpoint(EndpointName="short")
        until(lambda: not servers[0].is_running(), "the end of the server")
        until(lambda: host.sagemaker.list_endpoints()["Endpoints"] == [], "the end of the record")
        request = {"ContentType": "application/json", "Body": REQUEST}
        assert refusal(host.runtime.invoke_endpoint, EndpointName="short", **request)[0] == "ValidationError"


def test_a_crashed_server_is_replaced_and_until_then_the_answer_is_503(host):
    with host.started() as process:
        create_endpoint(host, "fragile")
        host.until_in_service("fragile")
        [server] = servers_below(process)
        server.kill()
        refusals = []

        def recovered() -> bool:
            try:
                return scores(invoke(host, "fragile")) == scores_of(seed=0)
            except ClientError as error:
                refusals.append(error.response["Error"]["Code"])
                return False

        until(recovered, "the replacement")
        assert set(refusals) == {"ServiceUnavailable"}
        assert [new.pid for new in servers_below(process)] != [server.pid]
        assert host.status("fragile") == "InService"


def test_no_server_outlives_its_host_and_a_restarted_host_brings_endpoints_back_without_s3(host, s3):
    s3.put_object(Bucket=BUCKET, Key="fleeting/model.tar.gz", Body=pack_artifact(OLD))
    with host.started() as process:
        create_endpoint(host, "lasting", key="fleeting/model.tar.gz")
        host.until_in_service("lasting")
        servers = servers_below(process)
        kill(process)
        until(lambda: not any(server.is_running() for server in servers), "the end of the servers")
    s3.delete_object(Bucket=BUCKET, Key="fleeting/model.tar.gz")
    with host.started() as process:
        assert host.status("lasting") in ("SystemUpdating", "InService")
        host.until_in_service("lasting")
        assert scores(invoke(host, "lasting")) == scores_of(seed=0)
        assert host.sagemaker.describe_model(ModelName="lasting")["PrimaryContainer"]["Image"] == "fraudstream-endpoint"
        servers = servers_below(process)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert not any(server.is_running() for server in servers)


def test_self_test_the_two_models_can_be_told_apart():
    different: tuple[Artifact, Artifact] = (OLD, NEW)
    assert scores_of(seed=0) != scores_of(seed=1)
    assert len({artifact.manifest.model_version for artifact in different}) == 2
