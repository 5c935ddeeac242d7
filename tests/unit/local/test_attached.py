"""Which addresses may be attached to, what is said of the others, and the endpoint's template carried out at a host."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from console.deployment.build import SAM
from local.attached import (
    FUNCTIONS_ADDRESS,
    LISTEN_ADDRESS,
    adapted_template,
    checked_url,
    functions_sagemaker_url,
    remove_deployment,
    sagemaker_url,
)
from local.endpoint_at_host import EndpointAtHost
from local.parts import run_spec
from local.run import addresses, run_state
from local.up import up
from stream_features.errors import UsageError
from tests.unit.local.test_up import a_record, silent

ROOT = Path(__file__).resolve().parents[3]
needs_sam = pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam: make setup")


@contextmanager
def a_server(pages: dict[str, object]) -> Iterator[str]:
    """An HTTP server on loopback with these JSON pages; its address."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path in pages
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps(pages.get(self.path)).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


HEALTH = {"services": {"s3": "available"}, "edition": "community", "version": "4.9.2"}


def test_a_localstack_on_this_machine_may_be_attached_to() -> None:
    with a_server({"/_localstack/health": HEALTH}) as url:
        assert checked_url(url) == checked_url(f"{url}/") == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://kinesis.us-east-1.amazonaws.com", "not known here|neither on this machine"),
        ("http://8.8.8.8:4566", "neither on this machine nor in a private network.*sam deploy"),
        ("http://0.0.0.0:4566", "neither on this machine"),
        ("127.0.0.1:4566", "is not the address"),
        ("http://127.0.0.1:4566/path", "is not the address"),
        ("ftp://127.0.0.1", "is not the address"),
        ("http://127.0.0.1:9", "no LocalStack answers at http://127.0.0.1:9/_localstack/health; start it, or unset"),
    ],
)
def test_other_addresses_are_refused(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        checked_url(url)


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ({"/_localstack/health": HEALTH, "/_ministack/health": {"status": "ok"}}, "embedded AWS"),
        ({"/_localstack/health": {"status": "ok"}}, "no LocalStack answers"),
        ({"/_localstack/health": ["no object"]}, "no LocalStack answers"),
        ({"/health": HEALTH}, "no LocalStack answers"),
    ],
)
def test_what_answers_otherwise_is_refused(pages: dict[str, object], said: str) -> None:
    with a_server(pages) as url, pytest.raises(UsageError, match=said):
        checked_url(url)


def test_only_localstack_is_attached_to_and_a_run_elsewhere_is_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only --target localstack"):
        up("embedded", endpoint_url="http://127.0.0.1:4566", progress=silent, state_dir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_attached_run_starts_no_aws_and_only_what_is_lacking(tmp_path: Path) -> None:
    record = a_record(target="localstack", attached=True, ports={"sagemaker": 4590})
    assert record.place == run_state(record, tmp_path).place == "attached"
    spec = run_spec(record, tmp_path, None, resumes=False)
    (part,) = spec.parts
    assert part.name == "sagemaker"
    assert part.command[-2:] == ["--listen", "127.0.0.1"]


def test_functions_are_told_where_the_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FUNCTIONS_ADDRESS, raising=False)
    monkeypatch.delenv(LISTEN_ADDRESS, raising=False)
    assert functions_sagemaker_url(4590) == sagemaker_url(4590) == "http://127.0.0.1:4590"
    monkeypatch.setenv(LISTEN_ADDRESS, "172.17.0.1")
    assert functions_sagemaker_url(4590) == sagemaker_url(4590) == "http://172.17.0.1:4590"
    monkeypatch.setenv(LISTEN_ADDRESS, "0.0.0.0")  # noqa: S104 - what somebody may ask for
    assert sagemaker_url(4590) == "http://127.0.0.1:4590"
    monkeypatch.setenv(LISTEN_ADDRESS, "docker0")
    with pytest.raises(UsageError, match=LISTEN_ADDRESS):
        sagemaker_url(4590)
    monkeypatch.delenv(LISTEN_ADDRESS)
    monkeypatch.setenv(FUNCTIONS_ADDRESS, "http://host.docker.internal")
    assert functions_sagemaker_url(4590) == "http://host.docker.internal:4590"
    monkeypatch.setenv(FUNCTIONS_ADDRESS, "http://172.17.0.1:99/")
    assert functions_sagemaker_url(4590) == "http://172.17.0.1:99"
    monkeypatch.setenv(FUNCTIONS_ADDRESS, "host.docker.internal")
    with pytest.raises(UsageError, match=FUNCTIONS_ADDRESS):
        functions_sagemaker_url(4590)


def test_no_proxy_stands_between_us_and_an_attached_localstack() -> None:
    found = addresses("http://172.17.0.2:4566", "http://127.0.0.1:4590", "us-east-1")
    assert found["NO_PROXY"].split(",") == ["127.0.0.1", "172.17.0.2", "localhost"]


def test_a_localstack_that_is_gone_has_nothing_to_be_removed(tmp_path: Path) -> None:
    remove_deployment(tmp_path)
    (tmp_path / "attached.json").write_text(
        '{"endpoint_url": "http://127.0.0.1:9", "region": "us-east-1", "stack": "s", "bucket": "b"}'
    )
    remove_deployment(tmp_path)
    assert not any(tmp_path.iterdir())


@needs_sam
def test_the_adapted_template_names_the_host_and_retains_nothing(tmp_path: Path) -> None:
    record = a_record(target="localstack", attached=True, functions_sagemaker_url="http://172.17.0.1:4590")
    text = (ROOT / "template.yaml").read_text()
    adapted = json.loads(adapted_template(text, run_state(record, tmp_path), {"Engine": "lambda"}))
    functions = [one for one in adapted["Resources"].values() if one["Type"] == "AWS::Serverless::Function"]
    assert len(functions) >= 4
    for function in functions:
        variables = function["Properties"]["Environment"]["Variables"]
        assert variables["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] == "http://172.17.0.1:4590"
    assert "Retain" not in json.dumps(adapted)
    assert "Retain" in text


class FakeSageMaker:
    """Models, configurations and one endpoint; `broken` models make an update roll back."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self.configurations: dict[str, Any] = {}
        self.endpoint: dict[str, str] = {}
        self.broken = False

    def create_model(self, *, ModelName: str, **properties: Any) -> None:
        self.models[ModelName] = properties

    def create_endpoint_config(self, *, EndpointConfigName: str, **properties: Any) -> None:
        self.configurations[EndpointConfigName] = properties

    def create_endpoint(self, **properties: str) -> None:
        self.endpoint = properties

    def update_endpoint(self, **properties: str) -> None:
        if not self.broken:
            self.endpoint = properties

    def describe_endpoint(self, *, EndpointName: str) -> dict[str, str]:
        assert self.endpoint["EndpointName"] == EndpointName
        return {**self.endpoint, "EndpointStatus": "InService"}

    def delete_model(self, *, ModelName: str) -> None:
        del self.models[ModelName]

    def delete_endpoint_config(self, *, EndpointConfigName: str) -> None:
        del self.configurations[EndpointConfigName]


def parameters(**given: str) -> list[dict[str, str]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()]


@needs_sam
def test_the_endpoints_template_is_carried_out_at_the_host(tmp_path: Path) -> None:
    sagemaker, template = FakeSageMaker(), (ROOT / "endpoint" / "template.yaml").read_text()
    stack = EndpointAtHost(sagemaker, tmp_path / "stack.json", "us-east-1")
    with pytest.raises(ClientError, match="does not exist"):
        stack.describe_stacks(StackName="e")
    given = {"EndpointName": "live", "ImageUri": "image", "InstanceCount": "2", "DataKeyArn": "arn:of:a:key"}
    stack.create_stack(
        StackName="e",
        TemplateBody=template,
        Parameters=parameters(**given, ModelDataUrl="s3://bucket/one/model.tar.gz"),
    )
    (model,), (configuration,) = sagemaker.models.values(), sagemaker.configurations.values()
    assert model["PrimaryContainer"] == {"Image": "image", "ModelDataUrl": "s3://bucket/one/model.tar.gz"}
    (variant,) = configuration["ProductionVariants"]
    assert (variant["InitialInstanceCount"], variant["ModelName"]) == (2, next(iter(sagemaker.models)))
    (found,) = stack.describe_stacks(StackName="e")["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in found["Outputs"]}
    assert (outputs["EndpointName"], outputs["ModelName"]) == ("live", variant["ModelName"])
    assert outputs["LatencyAlarmName"] == "e-LatencyAlarm"

    kept = [{"ParameterKey": name, "UsePreviousValue": True} for name in given]
    with pytest.raises(ClientError, match="No updates"):
        stack.update_stack(StackName="e", TemplateBody=template, Parameters=kept)
    second = [*kept, *parameters(ModelDataUrl="s3://bucket/two/model.tar.gz")]
    stack.update_stack(StackName="e", TemplateBody=template, Parameters=second)
    (model,) = sagemaker.models.values()
    assert model["PrimaryContainer"]["ModelDataUrl"] == "s3://bucket/two/model.tar.gz"
    assert sagemaker.endpoint["EndpointConfigName"] in sagemaker.configurations

    sagemaker.broken = True
    before = (dict(sagemaker.models), dict(sagemaker.endpoint))
    third = [*kept, *parameters(ModelDataUrl="s3://bucket/three/model.tar.gz")]
    stack.update_stack(StackName="e", TemplateBody=template, Parameters=third)
    assert (sagemaker.models, sagemaker.endpoint) == before  # what did not come up is gone
