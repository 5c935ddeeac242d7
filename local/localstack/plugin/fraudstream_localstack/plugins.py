"""Where LocalStack finds us: its plugin namespaces name these (pyproject.toml). Imports wait until a plugin is loaded.

Everything in this folder runs in LocalStack's own virtual environment, against internals of exactly version 4.9.2.
"""

# mypy: disable-error-code="import-not-found, misc, untyped-decorator, no-any-return"
from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from localstack.runtime import hooks
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.plugins import Service, aws_provider

if TYPE_CHECKING:
    from .process_executor import ProcessExecutor


def completes_localstack() -> bool:
    """Whether CloudFormation is mended and SageMaker added. PLAIN_LOCALSTACK=1: as somebody else's LocalStack is."""
    return os.environ.get("PLAIN_LOCALSTACK") != "1"


@hooks.on_infra_start()
def keep_children_in_our_group() -> None:
    """Start backends in LocalStack's own process group, so that whoever ends the group ends them too.

    LocalStack gives each a session of its own and ends it by its id; killed itself, it would leave them behind.
    """
    from localstack.utils import run

    # `run.run` asks these two only whether a child shall get a session of its own.
    run.is_linux = run.is_mac_os = lambda: False


@hooks.on_infra_start()
def keep_objects_in_a_folder_of_our_own() -> None:
    """Keep what S3 holds below TMPDIR.

    LocalStack keeps it in one folder of the machine: of two that run at once, the first that stops takes the buckets of
    the other with it.
    """
    from localstack.services.s3 import provider

    provider.DEFAULT_S3_TMP_DIR = tempfile.mkdtemp(prefix="s3-")


@hooks.on_infra_start(should_load=completes_localstack)
def teach_literals_in_sub() -> None:
    """Let `${!name}` in Fn::Sub stand for the text `${name}`, as CloudFormation has it.

    LocalStack takes it for a reference to a resource called `!name` and refuses the template.
    """
    from localstack.services.cloudformation.engine.v2.change_set_model_preproc import (
        ChangeSetModelPreproc,
        PreprocEntityDelta,
    )

    resolve = ChangeSetModelPreproc._resolve_reference

    def resolve_reference(processor: ChangeSetModelPreproc, logical_id: str) -> PreprocEntityDelta:
        if logical_id.startswith("!"):
            text = f"${{{logical_id[1:]}}}"
            return PreprocEntityDelta(before=text, after=text)
        return resolve(processor, logical_id=logical_id)

    ChangeSetModelPreproc._resolve_reference = resolve_reference


@hooks.on_infra_start(should_load=completes_localstack)
def pass_over_resources_without_their_condition() -> None:
    """Leave a resource alone whose condition is false, as CloudFormation does.

    LocalStack resolves its properties, and refuses the template for what they refer to: resources of that condition.
    """
    from localstack.services.cloudformation.engine.v2.change_set_model import NodeResource, Nothing, is_nothing
    from localstack.services.cloudformation.engine.v2.change_set_model_preproc import (
        ChangeSetModelPreproc,
        PreprocEntityDelta,
    )

    visit = ChangeSetModelPreproc.visit_node_resource

    def visit_node_resource(processor: ChangeSetModelPreproc, node_resource: NodeResource) -> PreprocEntityDelta:
        if not is_nothing(node_resource.condition_reference):
            holds = processor._resolve_resource_condition_reference(node_resource.condition_reference)
            if not any(side for side in (holds.before, holds.after) if not is_nothing(side)):
                return PreprocEntityDelta(before=Nothing, after=Nothing)
        return visit(processor, node_resource)

    ChangeSetModelPreproc.visit_node_resource = visit_node_resource


@hooks.on_infra_start(should_load=completes_localstack)
def compare_what_is_found_in_a_map_by_reference() -> None:
    """An update may hold `Fn::FindInMap` with a reference as key: it changes where its arguments or its map do.

    LocalStack compares literal keys only, and answers that it has no UpdateStack.
    """
    from localstack.services.cloudformation.engine.v2.change_set_model import (
        ChangeSetEntity,
        ChangeSetModel,
        ChangeType,
        NodeArray,
        TerminalValue,
    )

    resolve = ChangeSetModel._resolve_intrinsic_function_fn_find_in_map

    def resolve_find_in_map(model: ChangeSetModel, arguments: ChangeSetEntity) -> ChangeType:
        if arguments.change_type == ChangeType.UNCHANGED and isinstance(arguments, NodeArray):
            name, *keys = arguments.array
            if isinstance(name, TerminalValue) and not all(isinstance(key, TerminalValue) for key in keys):
                return model._retrieve_mapping(mapping_name=name.value).change_type
        return resolve(model, arguments)

    ChangeSetModel._resolve_intrinsic_function_fn_find_in_map = resolve_find_in_map


@hooks.on_infra_start()
def watch_mappings() -> None:
    """MAPPING_POSITIONS=folder: write down there how far each event source mapping is. Absent: LocalStack as it is."""
    if folder := os.environ.get("MAPPING_POSITIONS"):
        from .positions import watch_pollers

        watch_pollers(Path(folder))


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """LAMBDA_RUNTIME_EXECUTOR=process."""

    name = "process"

    def load(self, *args: object, **kwargs: object) -> type[ProcessExecutor]:
        from .process_executor import ProcessExecutor

        return ProcessExecutor


@aws_provider(api="dynamodb", name="jar")
def dynamodb_jar() -> Service:
    """PROVIDER_OVERRIDE_DYNAMODB=jar: LocalStack's provider in front of a DynamoDB Local that is on disk already."""
    from localstack.aws.forwarder import HttpFallbackDispatcher

    from .dynamodb import JarDynamoDBProvider

    return Service.for_provider(
        JarDynamoDBProvider(),
        dispatch_table_factory=lambda provider: HttpFallbackDispatcher(provider, provider.get_forward_url),
    )


@aws_provider(api="kinesis", name="moto")
def kinesis_moto() -> Service:
    """PROVIDER_OVERRIDE_KINESIS=moto: LocalStack's provider with a backend inside its process, and no open port."""
    from localstack.services.moto import MotoFallbackDispatcher

    from .kinesis import MotoKinesisProvider, mend_shards

    mend_shards()
    return Service.for_provider(MotoKinesisProvider(), dispatch_table_factory=MotoFallbackDispatcher)


@aws_provider(api="sagemaker", name="default", should_load=completes_localstack)
def sagemaker() -> Service:
    """LocalStack's community edition has no SageMaker of its own."""
    from .sagemaker import handed_on

    return handed_on("sagemaker")


@aws_provider(api="sagemaker-runtime", name="default", should_load=completes_localstack)
def sagemaker_runtime() -> Service:
    from .sagemaker import handed_on

    return handed_on("sagemaker-runtime")
