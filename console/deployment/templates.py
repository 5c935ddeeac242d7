"""Reading a CloudFormation template: its parameters, and what stands in it once they have values.

Enough of the template language for names, counts and conditions to be known before anything is deployed. What is
known only afterwards (attributes, physical ids) stays as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import yaml

Value = Any  # what YAML can say
_MISSING: Final = object()
_RETAINED: Final = frozenset({"Retain", "RetainExceptOnCreate"})


# libyaml reads our template in a tenth of the time; where PyYAML was built without it, the slow one will do.
_Fastest: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Fastest):  # type: ignore[misc]  # PyYAML publishes no types
    """Short forms as their long ones: `!Ref X` is {"Ref": "X"}, `!Sub x` is {"Fn::Sub": "x"}."""


def _long_form(loader: yaml.Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _long_form)


def parse_template(text: str) -> dict[str, Any]:
    """A template, YAML or JSON, with every function in its long form."""
    found: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    return found


@dataclass(frozen=True)
class Resource:
    """A resource that the parameters call for; `properties` are resolved as far as they can be."""

    logical_id: str
    kind: str
    properties: dict[str, Value]
    retained: bool


@dataclass(frozen=True)
class Template:
    """A template with values for its parameters.

    Attributes:
        document: as `parse_template` gives it.
        given: values by parameter; those left out have the template's defaults.
        pseudo: values of `AWS::Region` and its like.
    """

    document: dict[str, Any]
    given: Mapping[str, str]
    pseudo: Mapping[str, str]

    @cached_property
    def values(self) -> dict[str, str]:
        """Every parameter that has a value."""
        defaults = {
            name: str(declared["Default"])
            for name, declared in self.document.get("Parameters", {}).items()
            if "Default" in declared
        }
        return defaults | {name: str(value) for name, value in self.given.items()}

    def outputs(self) -> set[str]:
        """Names of the outputs there will be."""
        declared = self.document.get("Outputs", {})
        return {name for name, each in declared.items() if self._holds_name(each.get("Condition"))}

    def resources(self, *kinds: str) -> Iterator[Resource]:
        """The resources whose condition holds, in the template's order; of `kinds` alone, if any are named."""
        for logical_id, declared in self.document["Resources"].items():
            if (kinds and declared["Type"] not in kinds) or not self._holds_name(declared.get("Condition")):
                continue
            properties = self.resolve(declared.get("Properties", {}))
            retained = declared.get("DeletionPolicy") in _RETAINED
            yield Resource(logical_id, declared["Type"], properties, retained)

    def resolve(self, value: Value) -> Value:
        """`value` with every reference to parameters, mappings and conditions followed."""
        if isinstance(value, list):
            return [each for each in map(self.resolve, value) if each is not _MISSING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref" or function.startswith("Fn::"):
                return self._function(function, argument)
        resolved = {name: self.resolve(each) for name, each in value.items()}
        return {name: each for name, each in resolved.items() if each is not _MISSING}

    def _function(self, function: str, argument: Value) -> Value:
        match function:
            case "Ref":
                return self._reference(argument)
            case "Fn::If":
                condition, then, otherwise = argument
                return self.resolve(then if self._holds_name(condition) else otherwise)
            case "Fn::Sub":
                return self._substitute(argument)
            case "Fn::Join":
                separator, parts = argument[0], self.resolve(argument[1])
                if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
                    return separator.join(parts)
            case "Fn::Split":
                text = self.resolve(argument[1])
                if isinstance(text, str):
                    return text.split(argument[0])
            case "Fn::Select":
                items = self.resolve(argument[1])
                if isinstance(items, list):
                    return items[int(self.resolve(argument[0]))]
            case "Fn::FindInMap":
                name, *keys = (self.resolve(key) for key in argument[:3])
                found: Value = self.document.get("Mappings", {}).get(name, {})
                for key in keys:
                    found = found.get(key, {}) if isinstance(found, dict) else {}
                return found
        return {function: self.resolve(argument)}

    def _reference(self, name: str) -> Value:
        if name == "AWS::NoValue":
            return _MISSING
        return self.values.get(name, self.pseudo.get(name, {"Ref": name}))

    def _substitute(self, argument: Value) -> Value:
        text, local = (argument[0], self.resolve(argument[1])) if isinstance(argument, list) else (argument, {})
        known = {**self.pseudo, **self.values, **local}
        complete = True

        def replaced(match: re.Match[str]) -> str:
            nonlocal complete
            value = known.get(match[1])
            complete = complete and isinstance(value, str)
            return value if isinstance(value, str) else match[0]

        text = re.sub(r"\$\{([^!}][^}]*)\}", replaced, text)
        return text if complete else {"Fn::Sub": text}

    def _holds_name(self, name: str | None) -> bool:
        return name is None or self._holds({"Condition": name})

    def _holds(self, condition: Value) -> bool:
        ((function, argument),) = condition.items()
        match function:
            case "Condition":
                return self._holds(self.document["Conditions"][argument])
            case "Fn::Equals":
                left, right = (self.resolve(side) for side in argument)
                return str(left) == str(right)
            case "Fn::Not":
                return not self._holds(argument[0])
            case "Fn::And":
                return all(map(self._holds, argument))
            case "Fn::Or":
                return any(map(self._holds, argument))
        raise ValueError(f"unknown function in a condition: {function}")
