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
from launch_cluster.policies import Place, merged
from launch_cluster.rights import operator_policies
from policies.iam import Request, decide, decide_all
from policies.lives import TEMPLATES
from policies.requests import request_tags

PLACE = Place("bio", "us-east-1", "123456789012")
POLICIES = operator_policies(PLACE)
POLICY = merged(POLICIES)
BOUNDARY = "arn:aws:iam::123456789012:policy/department"
BOUNDED = merged(operator_policies(PLACE, BOUNDARY))
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
    "s3:PutLifecycleConfiguration",
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


@pytest.mark.parametrize("policy", [POLICY, BOUNDED])
def test_cloudformation_may_do_all_that_the_templates_resources_need(
    policy: dict[str, Any],
) -> None:
    missing = []
    for action, kind in needed_by_cloudformation():
        context: dict[str, Any] = {**BY_CLOUDFORMATION, "iam:PermissionsBoundary": BOUNDARY}
        if action == "iam:PassRole":
            context["iam:PassedToService"] = "ec2.amazonaws.com"
        if not decide(policy, Request(action, resource_for(action), context)).is_allowed:
            missing.append(f"{action} for {kind}")
    off = "iam:DeleteRolePermissionsBoundary for AWS::IAM::Role"  # where one was asked for: never
    assert missing == ([] if policy is POLICY else [off])


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


MADE = {"aws:RequestTag/ec2spawner:cluster": "bio", "aws:TagKeys": ("ec2spawner:cluster",)}
EC2 = "arn:aws:ec2:us-east-1:123456789012"
NAMELESS = "arn:aws:ec2:us-east-1:"


@pytest.mark.parametrize(
    "resource",
    [f"{EC2}:volume/vol-1", f"{NAMELESS}:snapshot/snap-1", f"{NAMELESS}:image/ami-1"],
)
@pytest.mark.parametrize("action", ["CreateImage", "CreateVolume", "RunInstances"])
def test_the_clusters_tag_is_written_on_what_a_call_makes_and_on_nothing_that_was_there(
    resource: str, action: str
) -> None:
    at_creation = {**MADE, "ec2:CreateAction": action}
    assert decide(POLICY, Request("ec2:CreateTags", resource, at_creation)).is_allowed
    assert not decide(POLICY, Request("ec2:CreateTags", resource, MADE)).is_allowed
    of_zoo = {**at_creation, "aws:RequestTag/ec2spawner:cluster": "zoo"}
    assert not decide(POLICY, Request("ec2:CreateTags", resource, of_zoo)).is_allowed


@pytest.mark.parametrize(
    ("action", "source", "made"),
    [
        ("ec2:CreateImage", f"{EC2}:instance/i-1", f"{NAMELESS}:image/*"),
        ("ec2:CreateSnapshot", f"{EC2}:volume/vol-1", f"{NAMELESS}:snapshot/*"),
        ("ec2:CreateVolume", f"{NAMELESS}:snapshot/snap-1", f"{EC2}:volume/*"),
    ],
)
def test_only_the_clusters_things_are_copied_and_only_as_the_clusters(
    action: str, source: str, made: str
) -> None:
    assert decide(POLICY, Request(action, source, OURS)).is_allowed
    assert not decide(POLICY, Request(action, source, THEIRS)).is_allowed
    assert not decide(POLICY, Request(action, source)).is_allowed
    assert decide(POLICY, Request(action, made, MADE)).is_allowed
    assert not decide(POLICY, Request(action, made)).is_allowed


@pytest.mark.parametrize(
    ("resource", "right", "wrong"),
    [
        (f"{EC2}:instance/*", MADE, {}),
        (f"{EC2}:volume/*", MADE, {}),
        (f"{EC2}:network-interface/*", MADE, {}),
        (f"{EC2}:launch-template/lt-1", OURS, THEIRS),
        (f"{EC2}:security-group/sg-1", OURS, THEIRS),
    ],
)
def test_a_launch_is_the_clusters(
    resource: str, right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    assert decide(POLICY, Request("ec2:RunInstances", resource, right)).is_allowed
    assert not decide(POLICY, Request("ec2:RunInstances", resource, wrong)).is_allowed


ROLE = "arn:aws:iam::123456789012:role/ec2spawner-bio-us-east-1-manager"


@pytest.mark.parametrize(
    "action",
    [
        "iam:AttachRolePolicy",
        "iam:CreateRole",
        "iam:DeleteRolePolicy",
        "iam:DetachRolePolicy",
        "iam:PutRolePermissionsBoundary",
        "iam:PutRolePolicy",
    ],
)
def test_with_a_boundary_no_role_is_made_or_given_rights_without_it(action: str) -> None:
    bounded = {**BY_CLOUDFORMATION, "iam:PermissionsBoundary": BOUNDARY}
    other = {**BY_CLOUDFORMATION, "iam:PermissionsBoundary": f"{BOUNDARY}-else"}
    assert decide(BOUNDED, Request(action, ROLE, bounded)).is_allowed
    assert not decide(BOUNDED, Request(action, ROLE, other)).is_allowed
    assert not decide(BOUNDED, Request(action, ROLE, BY_CLOUDFORMATION)).is_allowed
    assert decide(POLICY, Request(action, ROLE, BY_CLOUDFORMATION)).is_allowed


def test_nobody_takes_the_boundary_off_or_changes_it() -> None:
    bounded = {**BY_CLOUDFORMATION, "iam:PermissionsBoundary": BOUNDARY}
    off = Request("iam:DeleteRolePermissionsBoundary", ROLE, bounded)
    assert not decide(BOUNDED, off).is_allowed
    named_as_ours = "arn:aws:iam::123456789012:policy/ec2spawner-bio-us-east-1-boundary"
    policy = merged(operator_policies(PLACE, named_as_ours))
    for action in ("iam:CreatePolicyVersion", "iam:DeletePolicy"):
        request = Request(action, named_as_ours, BY_CLOUDFORMATION)
        assert decide(BOUNDED, request).is_allowed  # bounded by another, which this is not
        assert not decide(policy, request).is_allowed


@pytest.mark.parametrize("boundary", ["", f"arn:aws:iam::123456789012:policy/{'x' * 128}"])
def test_each_fits_into_one_managed_policy(boundary: str) -> None:
    place = Place("a" * 24, "ap-southeast-1", "123456789012")
    for policy in operator_policies(place, boundary).values():
        assert len("".join(json.dumps(policy).split())) < MANAGED_MAX_CHARACTERS


def test_no_statement_has_both_all_actions_and_all_resources() -> None:
    for statement in POLICY["Statement"]:
        assert "*" not in statement["Action"]
    assert not decide_all(POLICY, [Request("iam:CreateUser", "*", BY_CLOUDFORMATION)]).is_allowed


SPOT = {"ec2:InstanceMarketType": "spot"}
BLANK = {"ec2:VolumeType": "gp3", "ec2:Encrypted": "true"}


@pytest.mark.parametrize(
    ("kind", "facts", "is_allowed"),
    [
        ("instance", SPOT, True),
        ("instance", {"ec2:InstanceMarketType": "on-demand"}, False),
        ("instance", {**SPOT, "aws:ResourceTag/ec2spawner:cluster": "zoo"}, False),
        ("volume", BLANK, True),
        ("volume", {**BLANK, "ec2:ParentSnapshot": "snap-1"}, False),
        ("volume", {**BLANK, "aws:ResourceTag/ec2spawner:cluster": "zoo"}, False),
    ],
)
def test_only_what_ec2_may_have_launched_for_a_spot_request_is_taken_in(
    kind: str, facts: dict[str, str], is_allowed: bool
) -> None:
    tags = {"ec2spawner:cluster": PLACE.cluster, "ec2spawner:role": "worker"}
    arn = PLACE.arn("ec2", f"{kind}/x")
    request = Request("ec2:CreateTags", arn, {**request_tags(tags), **facts})
    assert decide(POLICY, request).is_allowed is is_allowed
