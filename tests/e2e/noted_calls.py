"""Every AWS call that the functions of a run make, noted inside their processes through botocore's events.

The functions of the embedded AWS run in an empty virtual environment that belongs to the run. A `sitecustomize` module
there, and nothing in the product, registers for the event; it notes what a call is about and never what it carries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_NOTING = """
import importlib.abc, importlib.util, json, os, sys

FOLDER = {folder!r}
NAMES = ("TableName", "StreamName", "Bucket", "Key", "QueueUrl", "TopicArn", "EndpointName", "Name")
noted = set()


def targets(operation, params):
    if operation == "BatchGetItem":
        return [{{"TableName": table}} for table in params["RequestItems"]]
    if operation == "PutEvents":
        return [{{"EventBusName": bus}} for bus in {{entry["EventBusName"] for entry in params["Entries"]}}]
    if operation == "TransactWriteItems":
        writes = [pair for item in params["TransactItems"] for pair in item.items()]
        return [{{"Write": kind, "TableName": write["TableName"]}} for kind, write in writes]
    if operation == "PutEvents":
        return [{{"EventBusName": entry["EventBusName"]}} for entry in params["Entries"]]
    return [{{name: params[name] for name in NAMES if name in params}}]


def note(params, model, **_others):
    for target in targets(model.name, params):
        function, service = os.environ["AWS_LAMBDA_FUNCTION_NAME"], model.service_model.service_name
        line = json.dumps([function, service, model.name, target])
        if line not in noted:
            noted.add(line)
            with open(os.path.join(FOLDER, str(os.getpid())), "a") as file:
                file.write(line + "\\n")


class NotingSession(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "botocore.session":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            make = module.Session.__init__

            def make_noting(session, *args, **kwargs):
                make(session, *args, **kwargs)
                session.register("provide-client-params", note)

            module.Session.__init__ = make_noting

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, NotingSession())
"""


class Call(NamedTuple):
    """What one function asked of AWS: an IAM action and the ARN it is about."""

    function: str
    action: str
    resource: str


def note_calls(state_dir: Path, folder: Path) -> None:
    """From now on every function of the run that starts notes its calls in `folder`."""
    (packages,) = (state_dir / "aws" / "tmp" / "function-environment" / "lib").glob("python*/site-packages")
    folder.mkdir(parents=True, exist_ok=True)
    (packages / "sitecustomize.py").write_text(_NOTING.format(folder=str(folder)))


def noted_calls(folder: Path, *, region: str, account: str) -> set[Call]:
    """What has been noted.

    Raises:
        KeyError: a call whose IAM action is not known here; add it to `_ACTIONS`.
    """
    lines = [line for file in folder.iterdir() for line in file.read_text().splitlines()]
    found = set()
    for function, service, operation, target in map(json.loads, lines):
        action = _ACTIONS[service, operation]
        if action == "dynamodb:*Item":
            action = f"dynamodb:{_WRITES[target['Write']]}"
        found.add(Call(function, action, _arn(service, target, f"{region}:{account}")))
    return found


# TransactWriteItems is authorised by the actions that it is made of.
_ACTIONS = {
    ("dynamodb", "BatchGetItem"): "dynamodb:BatchGetItem",
    ("dynamodb", "TransactWriteItems"): "dynamodb:*Item",
    ("events", "PutEvents"): "events:PutEvents",
    ("kinesis", "PutRecords"): "kinesis:PutRecords",
    ("s3", "GetObject"): "s3:GetObject",
    ("s3", "PutObject"): "s3:PutObject",
    ("sagemaker-runtime", "InvokeEndpoint"): "sagemaker:InvokeEndpoint",
    ("sns", "PublishBatch"): "sns:Publish",
    ("sqs", "SendMessage"): "sqs:SendMessage",
    ("ssm", "GetParameter"): "ssm:GetParameter",
}
_WRITES = {"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}


def _arn(service: str, target: Mapping[str, Any], place: str) -> str:
    return {
        "dynamodb": lambda: f"arn:aws:dynamodb:{place}:table/{target['TableName']}",
        "events": lambda: f"arn:aws:events:{place}:event-bus/{target['EventBusName']}",
        "kinesis": lambda: f"arn:aws:kinesis:{place}:stream/{target['StreamName']}",
        "s3": lambda: f"arn:aws:s3:::{target['Bucket']}/{target['Key']}",
        "sagemaker-runtime": lambda: f"arn:aws:sagemaker:{place}:endpoint/{target['EndpointName']}",
        "sns": lambda: str(target["TopicArn"]),
        "sqs": lambda: f"arn:aws:sqs:{place}:{target['QueueUrl'].rpartition('/')[2]}",
        "ssm": lambda: f"arn:aws:ssm:{place}:parameter{target['Name']}",
    }[service]()
