"""Evaluates IAM policies as AWS documents it: actions, resources and conditions of one policy.

A small part of it: identity-based policies, and the operators that ours use. An operator or an
element that is not known here is an error, not a guess. No library on PyPI that is kept evaluates
conditions; moto does not, either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ELEMENTS = frozenset({"Sid", "Effect", "Action", "Resource", "Condition"})


@dataclass(frozen=True)
class Request:
    """One action on one resource; what acts on several is asked for each of them.

    ``context`` has the values of condition keys; a key that is absent is not in the request.
    """

    action: str
    resource: str
    context: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.action, self.resource, *self.context.items()))


@dataclass(frozen=True)
class Decision:
    """Whether it is allowed, and by which statements: those that decided."""

    is_allowed: bool
    sids: tuple[str, ...]


def decide(policy: Mapping[str, Any], request: Request) -> Decision:
    """Denied if a statement denies it, allowed if one allows it, denied otherwise."""
    matching = [s for s in policy["Statement"] if matches(s, request)]
    for effect, is_allowed in (("Deny", False), ("Allow", True)):
        sids = tuple(s["Sid"] for s in matching if s["Effect"] == effect)
        if sids:
            return Decision(is_allowed, sids)
    return Decision(False, ())


def decide_all(policy: Mapping[str, Any], requests: Iterable[Request]) -> Decision:
    """A call is allowed if each of its requests is; the statements of all of them."""
    decisions = [decide(policy, request) for request in requests]
    is_allowed = bool(decisions) and all(d.is_allowed for d in decisions)
    return Decision(is_allowed, tuple(dict.fromkeys(s for d in decisions for s in d.sids)))


def matches(statement: Mapping[str, Any], request: Request) -> bool:
    """Whether a statement speaks of the request."""
    unknown = set(statement) - ELEMENTS
    if unknown:
        raise ValueError(f"elements that this does not know: {unknown}")
    is_action = any(
        _is_like(request.action.lower(), a.lower()) for a in _as_list(statement["Action"])
    )
    is_resource = any(_is_like(request.resource, r) for r in _as_list(statement["Resource"]))
    return is_action and is_resource and _holds(statement.get("Condition", {}), request.context)


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _is_like(text: str, pattern: str) -> bool:
    """Matching with * and ?, of nothing else."""
    parts = re.split(r"([*?])", pattern)
    regular = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(regular, text, re.DOTALL) is not None


def _holds(condition: Mapping[str, Mapping[str, Any]], context: Mapping[str, Any]) -> bool:
    """All operators hold, each for all of its keys; of several values, one is enough."""
    lowered = {key.lower(): value for key, value in context.items()}
    return all(
        _operator(operator, _as_list(wanted), lowered.get(key.lower()))
        for operator, keys in condition.items()
        for key, wanted in keys.items()
    )


def _operator(operator: str, wanted: list[str], found: Any) -> bool:
    quantifier, _, name = operator.rpartition(":")
    if name == "Null":
        return (found is None) is (wanted == ["true"])
    if name.endswith("IfExists"):
        if found is None:
            return True
        name = name.removesuffix("IfExists")
    is_negated = name in ("StringNotEquals", "StringNotLike", "ArnNotEquals", "ArnNotLike")
    test = _TESTS[name.replace("Not", "")]
    values = () if found is None else (found,) if isinstance(found, str) else tuple(found)
    if quantifier == "ForAllValues":  # of an absent key: true
        return all(_is_one(test, value, wanted) for value in values)
    if quantifier == "ForAnyValue":
        return any(_is_one(test, value, wanted) for value in values)
    if quantifier:
        raise ValueError(f"a quantifier that this does not know: {quantifier}")
    if found is None:
        return is_negated
    is_one = any(_is_one(test, value, wanted) for value in values)
    return is_one is not is_negated


def _is_one(test: Callable[[str, str], bool], value: str, wanted: list[str]) -> bool:
    return any(test(value, w) for w in wanted)


def _is_like_arn(value: str, pattern: str) -> bool:
    """Like text, but a wildcard ends with its part of the ARN."""
    parts, patterns = value.split(":", 5), pattern.split(":", 5)
    if len(parts) != len(patterns):
        return False
    return all(map(_is_like, parts, patterns))


_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda value, wanted: value == wanted,
    "StringLike": _is_like,
    "ArnEquals": _is_like_arn,
    "ArnLike": _is_like_arn,
    "Bool": lambda value, wanted: value.lower() == wanted.lower(),
}
