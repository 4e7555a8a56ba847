"""Reads a CloudFormation template as data, and fills in its parameters as CloudFormation would.

Owns the functions that our templates use. Pure. What only CloudFormation knows, such as the id of
something that is not made yet, stays open as ``<Name>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

NOTHING = object()
"""What ``AWS::NoValue`` stands for: the property, or the list's member, is left out."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # its types are a package of their own
    """Reads ``!Ref x`` as ``{"Ref": "x"}``, and other short forms alike."""


def _short_form(loader: Any, suffix: str, node: Any) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        return {name: value.split(".", 1) if suffix == "GetAtt" else value}
    return {name: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _short_form)


def read_template(text: str) -> dict[str, Any]:
    """The template, its short forms written out."""
    loaded: dict[str, Any] = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    return loaded


class Resolver:
    """Resolves a template's values for given ``names``: parameters, and AWS's own such as
    ``AWS::Region``."""

    def __init__(self, template: Mapping[str, Any], names: Mapping[str, str]) -> None:
        defaults = {
            key: str(parameter["Default"])
            for key, parameter in template.get("Parameters", {}).items()
            if "Default" in parameter
        }
        self._names = {**defaults, **names}
        self._conditions: Mapping[str, Any] = template.get("Conditions", {})

    def holds(self, condition: str | None) -> bool:
        """Whether a condition of the template holds; none always does."""
        return condition is None or bool(self._test(self._conditions[condition]))

    def resolve(self, value: Any) -> Any:
        """The value with all functions carried out; ``NOTHING`` if it is to be left out."""
        if isinstance(value, list):
            return [r for r in map(self.resolve, value) if r is not NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            function = _FUNCTIONS.get(name)
            if function:
                return function(self, argument)
        resolved = {key: self.resolve(member) for key, member in value.items()}
        return {key: member for key, member in resolved.items() if member is not NOTHING}

    def _test(self, test: Mapping[str, Any]) -> bool:
        ((name, argument),) = test.items()
        if name == "Condition":
            return self.holds(argument)
        if name == "Fn::Not":
            return not self._test(argument[0])
        if name == "Fn::And":
            return all(map(self._test, argument))
        if name == "Fn::Equals":
            first, second = map(self.resolve, argument)
            return bool(first == second)
        raise ValueError(f"{name} is no condition that this knows")

    def _ref(self, name: str) -> Any:
        return NOTHING if name == "AWS::NoValue" else self._names.get(name, f"<{name}>")

    def _get_att(self, path: list[str]) -> str:
        whole = ".".join(path)
        return self._names.get(whole, f"<{whole}>")

    def _sub(self, text: str) -> str:
        return re.sub(r"\$\{([^}]+)\}", lambda m: self._names.get(m[1], f"<{m[1]}>"), text)

    def _if(self, argument: list[Any]) -> Any:
        return self.resolve(argument[1] if self.holds(argument[0]) else argument[2])

    def _join(self, argument: list[Any]) -> str:
        return str(argument[0]).join(map(str, self.resolve(argument[1])))

    def _split(self, argument: list[Any]) -> list[str]:
        return str(self.resolve(argument[1])).split(argument[0])


_FUNCTIONS: Mapping[str, Any] = {
    "Ref": Resolver._ref,
    "Fn::GetAtt": Resolver._get_att,
    "Fn::Sub": Resolver._sub,
    "Fn::If": Resolver._if,
    "Fn::Join": Resolver._join,
    "Fn::Split": Resolver._split,
}
