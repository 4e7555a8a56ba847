"""What may do what: the roles' policies as the templates have them, and the form of policies.

The operator's own are in ``rights``. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .intrinsics import Resolver, read_template

Policy = dict[str, Any]
Statement = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a cluster is."""

    cluster: str
    region: str
    account: str
    partition: str = "aws"

    @property
    def names(self) -> dict[str, str]:
        """As templates name it."""
        return {
            "AWS::AccountId": self.account,
            "AWS::Partition": self.partition,
            "AWS::Region": self.region,
            "ClusterName": self.cluster,
        }

    def arn(self, service: str, resource: str, *, region: bool = True, account: bool = True) -> str:
        """An ARN here; some services leave Region or account out of theirs."""
        where = self.region if region else ""
        return (
            f"arn:{self.partition}:{service}:{where}:{self.account if account else ''}:{resource}"
        )


def role_policies(
    template: str, place: Place, parameters: Mapping[str, str]
) -> dict[str, dict[str, Policy]]:
    """By the role's name in the template: its policies by name, those of its own and others'."""
    read = read_template(template)
    resolver = Resolver(read, {**parameters, **place.names})
    found: dict[str, dict[str, Policy]] = {}
    for name, resource in read["Resources"].items():
        values = resource.get("Properties", {})
        if resource["Type"] == "AWS::IAM::Role":
            own = resolver.resolve(values.get("Policies", []))
            found.setdefault(name, {}).update(
                {policy["PolicyName"]: policy["PolicyDocument"] for policy in own}
            )
        elif resource["Type"] == "AWS::IAM::ManagedPolicy":
            for role in values["Roles"]:
                document = resolver.resolve(values["PolicyDocument"])
                found.setdefault(role["Ref"], {})[name] = document
    return found


def merged(policies: Mapping[str, Policy]) -> Policy:
    """Several policies as one: all that they allow, less all that they deny."""
    return policy_of([s for policy in policies.values() for s in policy["Statement"]])


def policy_of(statements: list[Statement]) -> Policy:
    """A policy of these statements."""
    return {"Version": "2012-10-17", "Statement": statements}
