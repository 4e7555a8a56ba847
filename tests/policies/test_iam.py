"""The evaluator itself, by the rules of the IAM user guide."""

from __future__ import annotations

from typing import Any

import pytest

from policies.iam import Request, decide, decide_all

ARN = "arn:aws:ec2:us-east-1:1:instance/i-1"


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    usual = {"Effect": "Allow", "Action": "ec2:StopInstances", "Resource": "*"}
    return {"Statement": [{"Sid": f"S{n}", **usual, **s} for n, s in enumerate(statements)]}


def allows(statement: dict[str, Any], action: str = "ec2:StopInstances", **context: Any) -> bool:
    keys = {key.replace("__", ":"): value for key, value in context.items()}
    return decide(policy(statement), Request(action, ARN, keys)).is_allowed


def test_what_nothing_speaks_of_is_denied() -> None:
    assert allows({})
    assert not allows({}, "ec2:StartInstances")
    assert not allows({"Resource": "arn:aws:ec2:us-east-1:1:volume/*"})
    assert not decide_all(policy({}), []).is_allowed


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [
        ("*", True),
        ("arn:aws:ec2:*:instance/*", True),
        ("arn:aws:ec2:*:instance/i-?", True),
        ("arn:aws:ec2:us-east-1:1:instance/", False),
        ("arn:aws:ec2:us-east-1:1:instance/i-[0-9]", False),
    ],
)
def test_wildcards_of_resources(pattern: str, is_match: bool) -> None:
    assert allows({"Resource": pattern}) is is_match


def test_actions_are_compared_without_case_and_with_wildcards() -> None:
    assert allows({"Action": ["EC2:stop*", "s3:GetObject"]})
    assert not allows({"Action": "ec2:Stop"})


def test_a_denial_wins_and_says_which() -> None:
    both = policy({}, {"Effect": "Deny"})
    decision = decide(both, Request("ec2:StopInstances", ARN))
    assert (decision.is_allowed, decision.sids) == (False, ("S1",))


def test_each_resource_of_a_call_must_be_allowed() -> None:
    one = policy({"Resource": ARN})
    requests = [Request("ec2:StopInstances", ARN), Request("ec2:StopInstances", f"{ARN}2")]
    assert decide_all(one, requests[:1]).is_allowed
    assert not decide_all(one, requests).is_allowed


@pytest.mark.parametrize(
    ("operator", "wanted", "found", "holds"),
    [
        ("StringEquals", "a", "a", True),
        ("StringEquals", ["a", "b"], "b", True),
        ("StringEquals", "a", "A", False),
        ("StringEquals", "a", None, False),
        ("StringEquals", "*", "a", False),
        ("StringNotEquals", "a", "b", True),
        ("StringNotEquals", "a", "a", False),
        ("StringNotEquals", ["a", "b"], "b", False),
        ("StringNotEquals", "a", None, True),
        ("StringEqualsIfExists", "a", None, True),
        ("StringEqualsIfExists", "a", "a", True),
        ("StringEqualsIfExists", "a", "b", False),
        ("StringLike", "a*", "abc", True),
        ("ArnEquals", "arn:aws:ec2:r:1:launch-template/lt-1", None, False),
        (
            "ArnEquals",
            "arn:aws:ec2:r:1:launch-template/*",
            "arn:aws:ec2:r:1:launch-template/x",
            True,
        ),
        ("ArnEquals", "arn:aws:*:launch-template/*", "arn:aws:ec2:r:1:launch-template/x", False),
        ("Bool", "true", "true", True),
        ("Bool", "true", "false", False),
        ("Bool", "true", None, False),
        ("Null", "true", None, True),
        ("Null", "true", "a", False),
        ("Null", "false", "a", True),
        ("Null", "false", None, False),
        ("ForAllValues:StringEquals", ["a", "b"], ("a",), True),
        ("ForAllValues:StringEquals", ["a", "b"], ("a", "c"), False),
        ("ForAllValues:StringEquals", ["a", "b"], None, True),
        ("ForAnyValue:StringEquals", ["a", "b"], ("c", "a"), True),
        ("ForAnyValue:StringEquals", ["a", "b"], None, False),
    ],
)
def test_operators(operator: str, wanted: Any, found: Any, holds: bool) -> None:
    context = {} if found is None else {"k": found}
    assert allows({"Condition": {operator: {"k": wanted}}}, **context) is holds


def test_all_keys_and_all_operators_must_hold() -> None:
    two_keys = {"Condition": {"StringEquals": {"a": "1", "b": "2"}}}
    assert allows(two_keys, a="1", b="2")
    assert not allows(two_keys, a="1", b="3")
    two_operators = {"Condition": {"StringEquals": {"a": "1"}, "Null": {"b": "true"}}}
    assert allows(two_operators, a="1")
    assert not allows(two_operators, a="1", b="2")


@pytest.mark.parametrize(
    "statement",
    [
        {"NotAction": "ec2:*"},
        {"Condition": {"NumericEquals": {"k": "1"}}},
        {"Condition": {"ForSomeValues:StringEquals": {"k": "1"}}},
    ],
)
def test_what_it_does_not_know_is_an_error(statement: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        allows(statement, k="1")
