"""What whoever runs ``launch-cluster`` must be allowed: enough, and for their cluster alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cfnlint
import pytest

from launch_cluster.intrinsics import read_template
from launch_cluster.policies import Place, operator_policy
from policies.iam import Request, decide, decide_all
from policies.lives import TEMPLATES

PLACE = Place("bio", "us-east-1", "123456789012")
POLICY = operator_policy(PLACE)
MANAGED_MAX_CHARACTERS = 6144  # without white space (IAM user guide, "Quotas", 2026)
SCHEMAS = Path(cfnlint.__file__).parent / "data" / "schemas"
BY_CLOUDFORMATION = {"aws:CalledVia": ("cloudformation.amazonaws.com",)}
NOT_FOR_US = re.compile(
    r"kms:|s3tables:|vpc-lattice:|vpce:"
    r"|ec2:(AcceptAddressTransfer|As(sign|sociate)(Ipv6|Private|Nat|SubnetCidr)\w+|CopyVolumes"
    r"|AttachVpnGateway|DetachVpnGateway|\w*VpcEncryptionControl|CreateSnapshot"
    r"|Disassociate(Nat|SubnetCidr)\w+|ModifyPrivateDns\w+|ModifyPublicIpDns\w+|ModifyVpcTenancy"
    r"|Monitor\w+|Unmonitor\w+|Unassign\w+)"
    r"|iam:(Attach|Detach)(Group|User)Policy|s3:(Put|Update|Delete|List)\w*|s3:CreateBucketMetadata\w+"
    r"|ssm:(Create|Delete)Association"
)
"""What the resource types can need for properties that our templates do not have."""
BUCKET_NEEDS = {
    *("s3:PutBucketOwnershipControls", "s3:PutBucketPolicy", "s3:PutBucketPublicAccessBlock"),
    *("s3:PutBucketTagging", "s3:PutEncryptionConfiguration", "s3:DeleteBucket"),
    *("s3:DeleteBucketPolicy", "s3:ListBucket"),
}


def needed_by_cloudformation() -> Iterator[tuple[str, str]]:
    """(action, resource type) of the handlers of all types in our templates."""
    index = json.loads((SCHEMAS / "providers" / "us-east-1.json").read_text())
    kinds = {
        resource["Type"]
        for file in TEMPLATES.glob("*.yaml")
        for resource in read_template(file.read_text())["Resources"].values()
    }
    for kind in sorted(kinds):
        schema = json.loads((SCHEMAS / "resources" / f"{index[kind]}.json").read_text())
        for handler in ("create", "read", "update", "delete"):
            for action in schema["handlers"].get(handler, {}).get("permissions", ()):
                if action in BUCKET_NEEDS or not NOT_FOR_US.match(action):
                    yield action, kind


def resource_for(action: str) -> str:
    name = f"ec2spawner-{PLACE.cluster}-{PLACE.region}"
    kind = "instance-profile" if "InstanceProfile" in action else "role"
    kind = "policy" if re.search(r"Policy$|PolicyVersions?$|EntitiesForPolicy", action) else kind
    kind = "role" if "RolePolicy" in action else kind
    return {
        "iam": f"arn:aws:iam::{PLACE.account}:{kind}/{name}-manager",
        "s3": f"arn:aws:s3:::ec2spawner-{PLACE.cluster}-{PLACE.account}-{PLACE.region}",
    }.get(action.split(":")[0], f"arn:aws:ec2:{PLACE.region}:{PLACE.account}:vpc/vpc-1")


def test_cloudformation_may_do_all_that_the_templates_resources_need() -> None:
    missing = []
    for action, kind in needed_by_cloudformation():
        context: dict[str, Any] = dict(BY_CLOUDFORMATION)
        if action == "iam:PassRole":
            context["iam:PassedToService"] = "ec2.amazonaws.com"
        if not decide(POLICY, Request(action, resource_for(action), context)).is_allowed:
            missing.append(f"{action} for {kind}")
    assert missing == []


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("ec2:DeleteVpc", "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-1"),
        ("iam:PutRolePolicy", "arn:aws:iam::123456789012:role/ec2spawner-bio-us-east-1-manager"),
        ("ec2:AuthorizeSecurityGroupIngress", "arn:aws:ec2:us-east-1:123456789012:x/y"),
    ],
)
def test_what_only_cloudformation_does_nobody_may_do_by_hand(action: str, resource: str) -> None:
    assert decide(POLICY, Request(action, resource, BY_CLOUDFORMATION)).is_allowed
    assert not decide(POLICY, Request(action, resource)).is_allowed


OURS = {"aws:ResourceTag/ec2spawner:cluster": "bio"}
THEIRS = {"aws:ResourceTag/ec2spawner:cluster": "zoo"}


@pytest.mark.parametrize(
    ("action", "resource", "ours", "theirs"),
    [
        (
            "cloudformation:DeleteStack",
            "arn:aws:cloudformation:us-east-1:123456789012:stack/ec2spawner-{}-manager/1",
            {},
            {},
        ),
        (
            "ssm:GetParameter",
            "arn:aws:ssm:us-east-1:123456789012:parameter/ec2spawner/{}/x",
            {},
            {},
        ),
        ("s3:PutObject", "arn:aws:s3:::ec2spawner-{}-123456789012-us-east-1/config/x", {}, {}),
        ("ec2:DeleteKeyPair", "arn:aws:ec2:us-east-1:123456789012:key-pair/ec2spawner-{}", {}, {}),
        (
            "ec2:TerminateInstances",
            "arn:aws:ec2:us-east-1:123456789012:instance/i-1",
            OURS,
            THEIRS,
        ),
        ("ec2:DeleteVolume", "arn:aws:ec2:us-east-1:123456789012:volume/vol-1", OURS, THEIRS),
        ("ec2:DeregisterImage", "arn:aws:ec2:us-east-1::image/ami-1", OURS, THEIRS),
        ("ec2:CreateTags", "arn:aws:ec2:us-east-1:123456789012:volume/vol-1", OURS, THEIRS),
        (
            "iam:PassRole",
            "arn:aws:iam::123456789012:role/ec2spawner-{}-us-east-1-manager",
            {"iam:PassedToService": "ec2.amazonaws.com"},
            {"iam:PassedToService": "ec2.amazonaws.com"},
        ),
    ],
)
def test_another_clusters_things_are_not_theirs(
    action: str, resource: str, ours: dict[str, str], theirs: dict[str, str]
) -> None:
    assert decide(POLICY, Request(action, resource.format("bio"), ours)).is_allowed
    assert not decide(POLICY, Request(action, resource.format("zoo"), theirs)).is_allowed


def test_it_fits_into_one_managed_policy() -> None:
    longest = operator_policy(Place("a" * 24, "ap-southeast-1", "123456789012"))
    assert len("".join(json.dumps(longest).split())) < MANAGED_MAX_CHARACTERS


def test_no_statement_has_both_all_actions_and_all_resources() -> None:
    for statement in POLICY["Statement"]:
        assert "*" not in statement["Action"]
    assert not decide_all(POLICY, [Request("iam:CreateUser", "*", BY_CLOUDFORMATION)]).is_allowed
