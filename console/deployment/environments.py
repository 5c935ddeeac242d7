"""Which stack an environment is, and with which parameters: of `samconfig.toml`, the command line, the stack itself.

`[dev.global.parameters]` and `[dev.deploy.parameters]` are as `sam deploy --config-env dev` reads them: stack_name,
parameter_overrides, tags, region, role_arn. `[dev.endpoint.parameters]` is ours: parameter_overrides of
endpoint/template.yaml.
"""

from __future__ import annotations

import difflib
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stream_features.errors import UsageError

DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One deployment of the pipeline. Parameters are those that the file names, not all there are."""

    name: str
    stack: str
    parameters: dict[str, str]
    endpoint_parameters: dict[str, str]
    tags: dict[str, str]
    region: str | None = None
    role_arn: str | None = None

    @property
    def endpoint_stack(self) -> str:
        """The stack of the endpoint, in CloudFormation as everywhere else behind the first one's name."""
        return f"{self.stack}-endpoint"

    @property
    def image_stack(self) -> str:
        """The stack that builds the endpoint's image."""
        return f"{self.stack}-image"

    def code_bucket(self, account: str, region: str) -> str:
        """The bucket that what is deployed goes through; names are global, so it says whose it is."""
        return f"{self.stack}-deployment-{account}-{region}"


def read_environment(file: Path, name: str) -> Environment:
    """The environment `name` of a `samconfig.toml`.

    Raises:
        UsageError: no such environment, or one of its values is not what it should be; names file and key.
    """
    try:
        config = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{file} is missing: run this in a checkout of the project") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: {error}") from error
    known = [
        each
        for each, commands in config.items()
        if each != DEFAULT and isinstance(commands, dict) and "stack_name" in _section(commands, "deploy")
    ]
    if name not in known:
        raise UsageError(f"{file.name} has no environment {name!r} with a stack_name; it has {', '.join(known)}")
    deploy, endpoint = _section(config[name], "deploy"), _section(config[name], "endpoint")
    where = f"{file.name} [{name}.deploy.parameters]"
    stack = deploy["stack_name"]
    if not isinstance(stack, str) or re.fullmatch(r"[a-z][a-z0-9-]{0,24}", stack) is None:
        raise UsageError(f"{where} stack_name: {stack!r} is not 1 to 25 of a-z, 0-9 and -, which buckets are named by")
    return Environment(
        name=name,
        stack=stack,
        parameters=_pairs(deploy.get("parameter_overrides", []), f"{where} parameter_overrides"),
        endpoint_parameters=_pairs(
            endpoint.get("parameter_overrides", []), f"{file.name} [{name}.endpoint.parameters] parameter_overrides"
        ),
        tags=_pairs(deploy.get("tags", []), f"{where} tags"),
        region=deploy.get("region"),
        role_arn=deploy.get("role_arn"),
    )


def _section(commands: Mapping[str, Any], command: str) -> dict[str, Any]:
    """What a command is told, with what every command is told behind it."""
    found: dict[str, Any] = {}
    for each in ("global", command):
        found |= commands.get(each, {}).get("parameters", {})
    return found


def _pairs(written: object, where: str) -> dict[str, str]:
    """`A=1 B="two words"` in one text, or a list of `A=1`: as SAM takes them."""
    if isinstance(written, str):
        entries = shlex.split(written)
    elif isinstance(written, list) and all(isinstance(entry, str) for entry in written):
        entries = written
    else:
        raise UsageError(f"{where}: expected text or a list of NAME=VALUE")
    return parse_pairs(entries, where)


def parse_pairs(entries: Iterable[str], where: str) -> dict[str, str]:
    """`NAME=VALUE` entries as a dictionary; the last one of a name holds.

    Raises:
        UsageError: an entry without a name or without `=`.
    """
    pairs = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise UsageError(f"{where} {entry!r}: expected NAME=VALUE, such as ShardCount=4")
        pairs[name] = value
    return pairs


def choose_parameters(
    template: Mapping[str, Any], asked: Mapping[str, str], in_force: Mapping[str, str], what: str
) -> dict[str, str | None]:
    """What to deploy a template with: what is asked for, else what the stack has (None), else the default (left out).

    A value that somebody gave by hand is so never taken back by a deployment that does not mention it.

    Args:
        template: as `parse_template` gives it.
        asked: by parameter, from the environment and the command line.
        in_force: of the stack; empty where there is none.
        what: the template's name, for messages.

    Raises:
        UsageError: a parameter the template does not have, a value it does not allow, or one that is lacking.
    """
    declared: Mapping[str, Mapping[str, Any]] = template.get("Parameters", {})
    for name, value in asked.items():
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(declared)}"
            raise UsageError(f"{what} has no parameter {name}{hint}")
        if (rule := _broken_rule(declared[name], value)) is not None:
            raise UsageError(f"parameter {name} of {what}: {value!r} {rule}")
    chosen: dict[str, str | None] = {}
    for name, declaration in declared.items():
        if name in asked:
            chosen[name] = asked[name]
        elif name in in_force:
            chosen[name] = None
        elif "Default" not in declaration:
            raise UsageError(f"parameter {name} of {what} has no value: give it with --parameter {name}=VALUE")
    return chosen


def effective(chosen: Mapping[str, str | None], in_force: Mapping[str, str]) -> dict[str, str]:
    """The values that a deployment with `chosen` ends with, defaults aside."""
    return {name: in_force[name] if value is None else value for name, value in chosen.items()}


def _broken_rule(declaration: Mapping[str, Any], value: str) -> str | None:
    """What of a parameter's declaration `value` breaks."""
    if "AllowedValues" in declaration and value not in [str(allowed) for allowed in declaration["AllowedValues"]]:
        return f"is not one of {', '.join(map(str, declaration['AllowedValues']))}"
    pattern = declaration.get("AllowedPattern")
    if pattern is not None and re.fullmatch(pattern, value) is None:
        return f"does not match {pattern}"
    if declaration["Type"] == "Number":
        try:
            number = float(value)
        except ValueError:
            return "is not a number"
        least, most = declaration.get("MinValue"), declaration.get("MaxValue")
        if least is not None and number < least:
            return f"is below {least}"
        if most is not None and number > most:
            return f"is above {most}"
    return None
