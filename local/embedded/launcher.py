"""Starts the pinned emulator with what it gets wrong for a streaming pipeline replaced at run time.

Runs inside the emulator's own virtual environment (`.venv-embedded`), never inside ours: it imports nothing of this
project. No code of the emulator is copied: functions are replaced or wrapped, so every patch stands on names of one
exact version, which is checked first.

    AWS_ENDPOINT_URL_SAGEMAKER=http://127.0.0.1:4590 GATEWAY_PORT=4577 BIND_HOST=127.0.0.1 python launcher.py

| patch | without it |
| --- | --- |
| `keep_kinesis_records` | every put and every read scans all records, or all iterators, of the instance |
| `remember_parsed_conditions` | a fifth of the work of TransactWriteItems is parsing the same few conditions |
| `spare_the_old_generation` | every few seconds all requests wait for a full garbage collection |
| `return_function_logs_at_once` | 50 ms are added to every call of a function that prints nothing |
| `translate_athena_sql` | queries are read as DuckDB's dialect instead of Athena's |
| `leave_mappings_to_our_runner` | partial batch failures lose records; windows, bisect, retries are ignored |
| `remember_mapping_settings` | the API forgets where in time a mapping starts, and its tumbling window |
| `leave_delivery_to_our_worker` | one S3 object per record, written inside PutRecords |
| `run_functions_in_a_bare_interpreter` | functions import the emulator's own packages, so a missing requirement hides |
| `honour_disabled_mappings` | a template's mappings are delivered although it disables them |
| `accept_sagemaker_resources` | templates that hold SageMaker resources or named queries are refused |
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import json
import os
import sys
import tempfile
import time
import uuid
import venv
from collections.abc import Callable
from typing import Any

VERSION = "1.5.33"
ENDPOINT_DEADLINE_S = 300.0
ENDPOINT_POLL_S = 0.1
FORGOTTEN_SETTINGS = ("StartingPositionTimestamp", "TumblingWindowInSeconds")


def check_version() -> None:
    installed = importlib.metadata.version("ministack")
    if installed != VERSION:
        sys.exit(
            f"the patches of {__file__} fit ministack {VERSION}, installed is {installed}: "
            "run `make setup`, or check every patch against the new version"
        )


def keep_kinesis_records() -> None:
    """No record expires (a run lasts less than the retention), and iterators are swept every few seconds only."""
    import ministack.services.kinesis as kinesis

    kinesis._expire_records = lambda stream: None
    sweep = kinesis._expire_iterators
    swept_at = time.monotonic()

    def sweep_sometimes() -> None:
        nonlocal swept_at
        if time.monotonic() - swept_at > 10.0:
            swept_at = time.monotonic()
            sweep()

    kinesis._expire_iterators = sweep_sometimes


def remember_parsed_conditions() -> None:
    """Every write of a transaction carries a condition: few different ones, each parsed four times a write."""
    import ministack.services.dynamodb as dynamodb

    tokenize = dynamodb._tokenize
    tokens_of = functools.lru_cache(maxsize=4096)(lambda expression: tuple(tokenize(expression)))
    dynamodb._tokenize = lambda expression: list(tokens_of(expression))  # callers may change their list
    dynamodb._condition_syntax_error = functools.lru_cache(maxsize=4096)(dynamodb._condition_syntax_error)


def spare_the_old_generation() -> None:
    """All data live in this process's memory: a walk through all of them stopped the server for up to half a second.

    Young garbage is still collected. A cycle that outlives two collections stays until the process ends.
    """
    gc.set_threshold(5_000, 10, 1_000_000)


def return_function_logs_at_once() -> None:
    from ministack.core import lambda_runtime

    drain = lambda_runtime.Worker._drain_stderr_bounded
    lambda_runtime.Worker._drain_stderr_bounded = lambda self, *args, **kwargs: drain(self, 0.002, 0.002, 0.1)


def translate_athena_sql() -> None:
    import ministack.services.athena as athena
    import sqlglot

    run = athena._run_duckdb

    async def run_translated(query: str, database: str, catalog: str | None = None) -> Any:
        try:
            query = sqlglot.transpile(query, read="athena", write="duckdb")[0]
        except sqlglot.errors.SqlglotError as error:
            print(f"athena: query passed on untranslated: {error}", file=sys.stderr, flush=True)
        return await run(query, database, catalog)

    athena._run_duckdb = run_translated


def leave_mappings_to_our_runner() -> None:
    import ministack.services.lambda_svc as functions

    functions._poll_kinesis = lambda: False


def honour_disabled_mappings() -> None:
    """A stack that is created with a disabled mapping has it enabled; an update minds the setting, but not as text."""
    import ministack.services.lambda_svc as functions
    from ministack.services.cloudformation import provisioners

    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]

    def minding(provision: Callable[..., tuple[str, dict]], properties_at: int) -> Callable[..., tuple[str, dict]]:
        def provision_as_asked(*arguments: Any) -> tuple[str, dict]:
            mapping_id, attributes = provision(*arguments)
            enabled = str(arguments[properties_at].get("Enabled", True)).lower() != "false"
            functions._esms[mapping_id].update(Enabled=enabled, State="Enabled" if enabled else "Disabled")
            functions._esms[mapping_id].update(_chosen(arguments[properties_at], *FORGOTTEN_SETTINGS))
            return mapping_id, attributes

        return provision_as_asked

    handlers["create"] = minding(handlers["create"], properties_at=1)
    handlers["update"] = minding(handlers["update"], properties_at=2)


def remember_mapping_settings() -> None:
    """What the API is asked for, it tells again: our runner starts there in time, and refuses a tumbling window."""
    import ministack.services.lambda_svc as functions

    create = functions._create_esm

    def create_and_remember(data: dict) -> Any:
        status, headers, body = create(data)
        if status == 202:
            functions._esms[json.loads(body)["UUID"]].update(_chosen(data, *FORGOTTEN_SETTINGS))
        return status, headers, body

    functions._create_esm = create_and_remember


def leave_delivery_to_our_worker() -> None:
    import ministack.services.firehose as firehose

    firehose.ingest_from_kinesis_source = lambda *args: None


def run_functions_in_a_bare_interpreter() -> None:
    """Functions run in an empty virtual environment: standard library and their own package, as on AWS."""
    from ministack.core import lambda_runtime

    folder = os.path.join(tempfile.gettempdir(), "function-environment")
    venv.create(folder, clear=True, symlinks=True, with_pip=False)
    bare = os.path.join(folder, "bin", "python")
    detect = lambda_runtime._detect_runtime_binary

    def detect_bare(runtime: str) -> tuple[str, str]:
        binary, script = detect(runtime)
        return (bare if runtime.startswith("python") else binary), script

    lambda_runtime._detect_runtime_binary = detect_bare
    # Functions inherit this process's environment, and what leads back to other packages must not be in it.
    os.environ["PYTHONNOUSERSITE"] = "1"
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"):
        os.environ.pop(name, None)


def _client(service: str) -> Any:
    """boto3 finds the endpoint in AWS_ENDPOINT_URL[_<SERVICE>]."""
    import boto3

    return boto3.client(service, region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))


def _fresh_name(stack: str, logical_id: str) -> str:
    return f"{stack}-{logical_id}-{uuid.uuid4().hex[:12]}".lower()[-63:].lstrip("-")  # as in ARNs: lower case


def _name_of(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]


def _chosen(properties: dict, *names: str) -> dict:
    return {name: properties[name] for name in names if name in properties}


def _create_model(logical_id: str, properties: dict, stack: str) -> tuple[str, dict]:
    name = properties.get("ModelName") or _fresh_name(stack, logical_id)
    request = {
        key: properties[key] for key in ("PrimaryContainer", "Containers", "ExecutionRoleArn") if key in properties
    }
    answer = _client("sagemaker").create_model(ModelName=name, **request)
    return answer["ModelArn"], {"ModelName": name}


def _delete_model(arn: str, properties: dict) -> None:
    _client("sagemaker").delete_model(ModelName=properties.get("ModelName") or _name_of(arn))


def _typed_variant(variant: dict) -> dict:
    """Template parameters arrive as text; the API wants numbers."""
    typed = dict(variant)
    if "InitialInstanceCount" in typed:
        typed["InitialInstanceCount"] = int(typed["InitialInstanceCount"])
    if "InitialVariantWeight" in typed:
        typed["InitialVariantWeight"] = float(typed["InitialVariantWeight"])
    return typed


def _create_endpoint_config(logical_id: str, properties: dict, stack: str) -> tuple[str, dict]:
    name = properties.get("EndpointConfigName") or _fresh_name(stack, logical_id)
    variants = [_typed_variant(variant) for variant in properties["ProductionVariants"]]
    answer = _client("sagemaker").create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants)
    return answer["EndpointConfigArn"], {"EndpointConfigName": name}


def _delete_endpoint_config(arn: str, properties: dict) -> None:
    name = properties.get("EndpointConfigName") or _name_of(arn)
    _client("sagemaker").delete_endpoint_config(EndpointConfigName=name)


def _replacing(create: Callable[[str, dict, str], tuple[str, dict]], kind: str) -> Callable[..., tuple[str, dict]]:
    """Models and configurations never change: an update makes a new one; the engine then deletes the old."""

    def update(physical_id: str, old: dict, new: dict, stack: str) -> tuple[str, dict]:
        return create(kind, new, stack)

    return update


def _wait_in_service(sagemaker: Any, name: str) -> None:
    deadline = time.monotonic() + ENDPOINT_DEADLINE_S
    while time.monotonic() < deadline:
        endpoint = sagemaker.describe_endpoint(EndpointName=name)
        if endpoint["EndpointStatus"] == "InService":
            return
        if endpoint["EndpointStatus"] in ("Failed", "UpdateRollbackFailed", "RollingBack", "OutOfService"):
            raise RuntimeError(
                f"endpoint {name} {endpoint['EndpointStatus']}: {endpoint.get('FailureReason', 'no reason')}"
            )
        time.sleep(ENDPOINT_POLL_S)
    raise RuntimeError(f"endpoint {name} was not InService after {ENDPOINT_DEADLINE_S:.0f} s")


def _create_endpoint(logical_id: str, properties: dict, stack: str) -> tuple[str, dict]:
    name = properties.get("EndpointName") or _fresh_name(stack, logical_id)
    sagemaker = _client("sagemaker")
    answer = sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=properties["EndpointConfigName"])
    try:
        _wait_in_service(sagemaker, name)
    except RuntimeError:
        sagemaker.delete_endpoint(EndpointName=name)  # the engine knows no id to roll back
        raise
    return answer["EndpointArn"], {"EndpointName": name}


def _update_endpoint(arn: str, old: dict, new: dict, stack: str) -> tuple[str, dict]:
    if old.get("EndpointName") != new.get("EndpointName"):
        raise ValueError("an endpoint cannot be renamed: delete the stack and create it under the new name")
    name = new.get("EndpointName") or _name_of(arn)
    sagemaker = _client("sagemaker")
    if old.get("EndpointConfigName") != new.get("EndpointConfigName"):
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=new["EndpointConfigName"])
        _wait_in_service(sagemaker, name)
    return arn, {"EndpointName": name}


def _delete_endpoint(arn: str, properties: dict) -> None:
    from botocore.exceptions import ClientError

    sagemaker = _client("sagemaker")
    name = properties.get("EndpointName") or _name_of(arn)
    sagemaker.delete_endpoint(EndpointName=name)
    deadline = time.monotonic() + ENDPOINT_DEADLINE_S
    while time.monotonic() < deadline:
        try:
            sagemaker.describe_endpoint(EndpointName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationException":
                return
            raise
        time.sleep(ENDPOINT_POLL_S)
    raise RuntimeError(f"endpoint {name} was not deleted after {ENDPOINT_DEADLINE_S:.0f} s")


def _create_named_query(logical_id: str, properties: dict, stack: str) -> tuple[str, dict]:
    request = {
        key: properties[key] for key in ("Database", "QueryString", "Description", "WorkGroup") if key in properties
    }
    answer = _client("athena").create_named_query(
        Name=properties.get("Name") or _fresh_name(stack, logical_id), **request
    )
    return answer["NamedQueryId"], {"NamedQueryId": answer["NamedQueryId"]}


def _delete_named_query(physical_id: str, properties: dict) -> None:
    _client("athena").delete_named_query(NamedQueryId=physical_id)


def accept_sagemaker_resources() -> None:
    """SageMaker resources of a template are passed on to the host that AWS_ENDPOINT_URL_SAGEMAKER names."""
    from ministack.services.cloudformation import provisioners, stacks

    handlers = {
        "AWS::SageMaker::Model": {
            "create": _create_model,
            "update": _replacing(_create_model, "Model"),
            "delete": _delete_model,
        },
        "AWS::SageMaker::EndpointConfig": {
            "create": _create_endpoint_config,
            "update": _replacing(_create_endpoint_config, "EndpointConfig"),
            "delete": _delete_endpoint_config,
        },
        "AWS::SageMaker::Endpoint": {
            "create": _create_endpoint,
            "update": _update_endpoint,
            "delete": _delete_endpoint,
        },
        "AWS::Athena::NamedQuery": {
            "create": _create_named_query,
            "update": _replacing(_create_named_query, "NamedQuery"),
            "delete": _delete_named_query,
        },
    }
    provisioners._RESOURCE_HANDLERS.update(handlers)
    # These handlers wait, and the endpoint's host reads its model from this very server meanwhile.
    on_worker_thread = stacks._runs_on_worker_thread
    stacks._runs_on_worker_thread = lambda resource_type: resource_type in handlers or on_worker_thread(resource_type)


def main() -> None:
    check_version()
    keep_kinesis_records()
    remember_parsed_conditions()
    spare_the_old_generation()
    return_function_logs_at_once()
    translate_athena_sql()
    leave_mappings_to_our_runner()
    honour_disabled_mappings()
    remember_mapping_settings()
    leave_delivery_to_our_worker()
    run_functions_in_a_bare_interpreter()
    accept_sagemaker_resources()
    from ministack.app import main as serve

    serve()


if __name__ == "__main__":
    main()
