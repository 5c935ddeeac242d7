"""Templates with their conditions and maps resolved, for a CloudFormation that stumbles over them.

LocalStack 4.9 refuses `${!name}` in Fn::Sub, resolves what a resource refers to although its condition is false, and
does not update a stack that looks a map up by reference. A LocalStack that we start is taught better by our plugin; one
that somebody else started gets a template without these.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from typing import Any, Final

from console.deployment.build import SAM
from local.run import RunFailed

_NO_VALUE: Final = object()
_READ: Final = (
    "import json, sys; from samcli.yamlhelper import yaml_parse; json.dump(yaml_parse(sys.stdin.read()), sys.stdout)"
)
_LITERAL: Final = re.compile(r"\$\{!([^}]*)\}")


def read_template(text: str) -> dict[str, Any]:
    """A template as data, its functions in their long form; the SAM CLI's interpreter reads the YAML.

    Raises:
        RunFailed: it is no template.
    """
    python = SAM.with_name("python")
    done = subprocess.run(
        [str(python), "-c", _READ],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(python.parent)},
    )
    if done.returncode != 0:
        raise RunFailed(f"the template cannot be read: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
    template: dict[str, Any] = json.loads(done.stdout)
    return template


class Resolver:
    """Resolves what a template says of its parameters, and of what is made already.

    Args:
        template: from `read_template`.
        given: parameters by name; the others take their defaults.
        pseudo: pseudo parameters by name, such as `AWS::Region`.
    """

    def __init__(self, template: Mapping[str, Any], given: Mapping[str, str], pseudo: Mapping[str, str]) -> None:
        self._conditions: Mapping[str, Any] = template.get("Conditions", {})
        self._maps: Mapping[str, Any] = template.get("Mappings", {})
        defaults = {name: one["Default"] for name, one in template.get("Parameters", {}).items() if "Default" in one}
        self._values: dict[str, Any] = {**pseudo, **defaults, **given}
        self._attributes: dict[tuple[str, str], str] = {}

    def made(self, logical_id: str, reference: str, **attributes: str) -> None:
        """From now on `Ref` and `Fn::GetAtt` of this resource are known."""
        self._values[logical_id] = reference
        self._attributes |= {(logical_id, name): value for name, value in attributes.items()}

    def holds(self, condition: str) -> bool:
        """Whether a named condition is true. Raises KeyError for an unknown one."""
        return self._is_true(self._conditions[condition])

    def plain(self, value: Any) -> Any:
        """`value` without Fn::If, Fn::FindInMap and `${!name}`; what else it refers to is left as it is."""
        if isinstance(value, list):
            return [kept for one in value if (kept := self.plain(one)) is not _NO_VALUE]
        if not isinstance(value, Mapping):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Fn::If":
                return self.plain(argument[1] if self.holds(argument[0]) else argument[2])
            if function == "Fn::FindInMap":
                name, first, second = (self.resolved(part) for part in argument)
                return self._maps[name][str(first)][str(second)]
            if function == "Ref" and argument == "AWS::NoValue":
                return _NO_VALUE
            if function == "Fn::Sub" and isinstance(argument, str) and _LITERAL.search(argument):
                return _joined(argument)
        return {name: kept for name, one in value.items() if (kept := self.plain(one)) is not _NO_VALUE}

    def resolved(self, value: Any) -> Any:
        """`value` with every reference replaced. Raises KeyError for what is not known."""
        value = self.plain(value)
        if isinstance(value, list):
            return [self.resolved(one) for one in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref":
                return self._values[argument]
            if function == "Fn::GetAtt":
                logical_id, name = argument.split(".", 1) if isinstance(argument, str) else argument
                return self._attributes[logical_id, name]
            if function == "Fn::Join":
                return argument[0].join(str(self.resolved(one)) for one in argument[1])
            if function == "Fn::Sub":
                text, more = (argument, {}) if isinstance(argument, str) else argument
                return self._substituted(text, self.resolved(more))
        return {name: self.resolved(one) for name, one in value.items()}

    def _substituted(self, text: str, more: Mapping[str, Any]) -> str:
        def of(found: re.Match[str]) -> str:
            name = found[1]
            if name in more:
                return str(more[name])
            if "." in name and name not in self._values:
                logical_id, attribute = name.split(".", 1)
                return self._attributes[logical_id, attribute]
            return str(self._values[name])

        return re.sub(r"\$\{([^!}][^}]*)\}", of, text)

    def _is_true(self, condition: Any) -> bool:
        ((function, argument),) = condition.items()
        if function == "Condition":
            return self.holds(argument)
        if function == "Fn::Equals":
            one, other = (str(self.resolved(side)) for side in argument)
            return one == other
        outcomes = [self._is_true(one) for one in argument]
        return {"Fn::Not": not outcomes[0], "Fn::And": all(outcomes), "Fn::Or": any(outcomes)}[function]


def plain_template(template: Mapping[str, Any], given: Mapping[str, str], pseudo: Mapping[str, str]) -> dict[str, Any]:
    """`template` for these parameters, without conditions, maps and literals in Fn::Sub."""
    resolver = Resolver(template, given, pseudo)
    plain = {name: part for name, part in template.items() if name not in ("Conditions", "Mappings", "Rules")}
    for section in ("Resources", "Outputs"):
        plain[section] = {
            name: resolver.plain({key: value for key, value in one.items() if key != "Condition"})
            for name, one in template.get(section, {}).items()
            if "Condition" not in one or resolver.holds(one["Condition"])
        }
    if "Globals" in template:
        plain["Globals"] = resolver.plain(template["Globals"])
    return plain


def _joined(text: str) -> dict[str, Any]:
    """Fn::Sub with literals as the join of what is substituted and what is not."""
    parts: list[Any] = []
    for number, part in enumerate(_LITERAL.split(text)):
        if number % 2:
            parts.append(f"${{{part}}}")
        elif part:
            parts.append({"Fn::Sub": part} if "${" in part else part)
    return {"Fn::Join": ["", parts]}
