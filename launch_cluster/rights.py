"""What whoever runs ``launch-cluster`` must be allowed, for one cluster alone.

Owns the operator's three policies: of what the commands ask of AWS themselves, of how they have a
manager change, and of what only CloudFormation does on their behalf, for it acts with the rights of
who calls it. Pure.
docs/security.md says what stays open in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .policies import Place, Policy, Statement, policy_of

CLUSTER_TAG = "ec2spawner:cluster"


def operator_policies(place: Place, boundary: str = "") -> dict[str, Policy]:
    """The operator's policies by name: three, for a managed one may have 6,144 characters.

    ``boundary``: ARN of the policy that every role which is made must be bounded by; "": none.
    """
    by_hand = [*_looks(place), *_stacks(place), *_kept(place), *_launches(place)]
    by_hand += [*_copies(place), *_ends(place), *_tags(place)]
    by_cloudformation = [
        _allow("ByCloudFormation", MADE_BY_CLOUDFORMATION, "*", BY_CLOUDFORMATION),
        _allow("MakeBucket", BUCKET, _bucket(place), BY_CLOUDFORMATION),
        *_roles(place, boundary),
    ]
    return {
        "commands": policy_of(by_hand),
        "upgrades": policy_of(_scripts(place)),
        "cloudformation": policy_of(by_cloudformation),
    }


def simulated_actions(boundary: str = "") -> tuple[str, ...]:
    """All actions that the operator's policies allow, by full names as IAM's simulation takes them.

    A pattern stands for those of its actions that are told in EXAMPLES.
    """
    place = Place("any", "any-region", "000000000000")
    policies = operator_policies(place, boundary).values()
    allowed = [s for policy in policies for s in policy["Statement"] if s["Effect"] == "Allow"]
    named = {action for statement in allowed for action in statement["Action"]}
    full = [EXAMPLES[action] if "*" in action else (action,) for action in named]
    return tuple(sorted({action for actions in full for action in actions}))


def _allow(
    sid: str,
    actions: Iterable[str],
    resource: str | list[str],
    condition: Mapping[str, Any] | None = None,
) -> Statement:
    statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
    return {**statement, "Condition": condition} if condition else statement


BY_CLOUDFORMATION = {"ForAnyValue:StringEquals": {"aws:CalledVia": "cloudformation.amazonaws.com"}}


def _ours(place: Place) -> dict[str, Any]:
    """Of what bears the cluster's tag."""
    return {"StringEquals": {f"aws:ResourceTag/{CLUSTER_TAG}": place.cluster}}


def _bears(place: Place, **more: list[str]) -> dict[str, Any]:
    """Of what is to bear the cluster's tag, by the call itself."""
    return {"StringEquals": {f"aws:RequestTag/{CLUSTER_TAG}": place.cluster, **more}}


def _kinds(place: Place, *kinds: str) -> list[str]:
    """All of EC2's resources of these kinds; images and snapshots have no account in theirs."""
    return [
        place.arn("ec2", f"{kind}/*", account=kind not in ("image", "snapshot")) for kind in kinds
    ]


def _name(place: Place) -> str:
    return f"ec2spawner-{place.cluster}"


def _bucket(place: Place) -> str:
    return f"arn:{place.partition}:s3:::{_name(place)}-{place.account}-{place.region}"


# ---- what the commands do themselves


def _looks(place: Place) -> list[Statement]:
    ubuntu = place.arn("ssm", "parameter/aws/service/canonical/ubuntu/*", account=False)
    return [
        _allow("Look", LOOKS, "*"),
        _allow("NewestBaseImage", ["ssm:GetParameter"], ubuntu),
        # An image that another cluster names is not removed.
        _allow(
            "ImagesOfOthers",
            ["ssm:GetParameters"],
            place.arn("ssm", "parameter/ec2spawner/*/worker-image"),
        ),
    ]


def _stacks(place: Place) -> list[Statement]:
    stacks = [
        place.arn("cloudformation", f"stack/{_name(place)}{suffix}/*")
        for suffix in ("", "-network", "-manager")
    ]
    return [_allow("Stacks", STACKS, stacks)]


def _kept(place: Place) -> list[Statement]:
    """Bucket, parameters, key pair."""
    bucket = _bucket(place)
    parameters = place.arn("ssm", f"parameter/ec2spawner/{place.cluster}/*")
    key_pair = place.arn("ec2", f"key-pair/{_name(place)}")
    return [
        _allow("InBucket", OBJECTS, [bucket, f"{bucket}/*"]),
        _allow("Parameters", PARAMETERS, parameters),
        _allow("KeyPair", ["ec2:DeleteKeyPair", "ec2:ImportKeyPair"], key_pair),
    ]


def _launches(place: Place) -> list[Statement]:
    """Builders: by the cluster's template, in its group, with its tag; of any image and subnet."""
    launch, made = ["ec2:RunInstances"], ("instance", "network-interface", "volume")
    key_pair = place.arn("ec2", f"key-pair/{_name(place)}")
    return [
        _allow("LaunchBuilders", launch, _kinds(place, *made), _bears(place)),
        _allow(
            "LaunchByOurs", launch, _kinds(place, "launch-template", "security-group"), _ours(place)
        ),
        _allow("LaunchOfAndIn", launch, [*_kinds(place, "image", "subnet"), key_pair]),
    ]


def _copies(place: Place) -> list[Statement]:
    """Images of builders, snapshots of homes, homes of snapshots."""
    return [
        _allow("CopyOurs", COPIES, _kinds(place, "instance", "snapshot", "volume"), _ours(place)),
        _allow("CopyTo", COPIES, _kinds(place, "image", "snapshot", "volume"), _bears(place)),
    ]


def _ends(place: Place) -> list[Statement]:
    kinds = ("image", "instance", "snapshot", "spot-instances-request", "volume")
    return [_allow("EndWhatIsOurs", ENDS, _kinds(place, *kinds), _ours(place))]


def _tags(place: Place) -> list[Statement]:
    homes = _kinds(place, "instance", "volume")
    made = _kinds(place, "image", "instance", "key-pair", "network-interface", "snapshot", "volume")
    at_creation = _bears(place, **{"ec2:CreateAction": CREATE_ACTIONS})
    return [
        _allow("TagWhatIsMade", ["ec2:CreateTags"], made, at_creation),
        _allow("TagWhatIsOurs", ["ec2:CreateTags", "ec2:DeleteTags"], homes, _ours(place)),
        *_take_in(place),
    ]


def _take_in(place: Place) -> list[Statement]:
    """What EC2 launched for a spot request of the cluster, untagged: as the manager may."""
    worker = {
        "StringEqualsIfExists": {"aws:ResourceTag/ec2spawner:cluster": place.cluster},
        "ForAllValues:StringEquals": {
            "aws:TagKeys": ["ec2spawner:cluster", "ec2spawner:role"],
        },
    }
    asked = {
        "aws:RequestTag/ec2spawner:cluster": place.cluster,
        "aws:RequestTag/ec2spawner:role": "worker",
    }
    machine = {**worker, "StringEquals": {**asked, "ec2:InstanceMarketType": "spot"}}
    disk = {
        **worker,
        "Null": {"ec2:ParentSnapshot": "true"},
        "StringEquals": {**asked, "ec2:VolumeType": "gp3"},
        "Bool": {"ec2:Encrypted": "true"},
    }
    return [
        _allow("TakeInStrayMachines", ["ec2:CreateTags"], _kinds(place, "instance"), machine),
        _allow("TakeInStrayDisks", ["ec2:CreateTags"], _kinds(place, "volume"), disk),
    ]


def _scripts(place: Place) -> list[Statement]:
    """Run Command, whose script has root's rights: on the cluster's manager only."""
    send, manager = ["ssm:SendCommand"], {CLUSTER_TAG: place.cluster, "ec2spawner:role": "manager"}
    tags = {f"ssm:resourceTag/{key}": value for key, value in manager.items()}
    document = place.arn("ssm", "document/AWS-RunShellScript", account=False)
    return [
        _allow("RunScript", send, document),
        _allow("OnManager", send, _kinds(place, "instance"), {"StringEquals": tags}),
        _allow("LookAtScript", ["ssm:GetCommandInvocation"], "*"),
    ]


# ---- what CloudFormation does


def _roles(place: Place, boundary: str) -> list[Statement]:
    named = f"{_name(place)}-{place.region}-*"
    role = place.arn("iam", f"role/{named}", region=False)
    others = [
        place.arn("iam", f"{kind}/{named}", region=False) for kind in ("instance-profile", "policy")
    ]
    to_services = {"StringEquals": {"iam:PassedToService": PASSED_TO}}
    return [
        _allow("Roles", ROLES, [role, *others], BY_CLOUDFORMATION),
        *(_bounded(role, boundary) if boundary else [_unbounded(role)]),
        _allow("PassRoles", ["iam:PassRole"], role, to_services),
    ]


def _unbounded(role: str) -> Statement:
    actions = [*WHAT_ROLES_MAY, "iam:DeleteRolePermissionsBoundary"]
    return _allow("WhatRolesMay", actions, role, BY_CLOUDFORMATION)


def _bounded(role: str, boundary: str) -> list[Statement]:
    """Only with the boundary, which nobody changes or takes off."""
    is_bounded = {**BY_CLOUDFORMATION, "StringEquals": {"iam:PermissionsBoundary": boundary}}
    keep = {"Sid": "KeepBoundary", "Effect": "Deny", "Action": CHANGES, "Resource": boundary}
    return [_allow("WhatRolesMay", WHAT_ROLES_MAY, role, is_bounded), keep]


LOOKS = [
    "cloudformation:DescribeStacks",
    "ec2:Describe*",
    "iam:SimulatePrincipalPolicy",
    "pricing:GetProducts",
    "servicequotas:GetServiceQuota",
    "ssm:DescribeParameters",
    "sts:GetCallerIdentity",
]

STACKS = [
    "cloudformation:CreateChangeSet",
    "cloudformation:DeleteChangeSet",
    "cloudformation:DeleteStack",
    "cloudformation:DescribeChangeSet",
    "cloudformation:DescribeStackEvents",
    "cloudformation:DescribeStacks",
    "cloudformation:ExecuteChangeSet",
    "cloudformation:GetTemplate",
]

OBJECTS = ["s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"]

PARAMETERS = [
    "ssm:AddTagsToResource",
    "ssm:DeleteParameters",
    "ssm:GetParameter",
    "ssm:GetParameters",
    "ssm:PutParameter",
]

COPIES = ["ec2:CreateImage", "ec2:CreateSnapshot", "ec2:CreateVolume"]

ENDS = [
    "ec2:CancelSpotInstanceRequests",
    "ec2:DeleteSnapshot",
    "ec2:DeleteVolume",
    "ec2:DeregisterImage",
    "ec2:GetConsoleOutput",
    "ec2:ModifyImageAttribute",
    "ec2:ModifySnapshotAttribute",
    "ec2:StopInstances",
    "ec2:TerminateInstances",
]

CREATE_ACTIONS = [
    "CreateImage",
    "CreateSnapshot",
    "CreateVolume",
    "ImportKeyPair",
    "RunInstances",
]

MADE_BY_CLOUDFORMATION = [
    "dlm:*LifecyclePolicy",
    "dlm:TagResource",
    "dlm:UntagResource",
    "ec2:*Address",
    "ec2:*IamInstanceProfile*",
    "ec2:*InternetGateway",
    "ec2:*LaunchTemplate*",
    "ec2:*NatGateway",
    "ec2:*NetworkInterface*",
    "ec2:*Route",
    "ec2:*RouteTable*",
    "ec2:*SecurityGroup*",
    "ec2:*Tags",
    "ec2:AttachVolume",
    "ec2:CreateSubnet",
    "ec2:CreateVolume",
    "ec2:CreateVpc",
    "ec2:CreateVpcEndpoint",
    "ec2:DeleteSubnet",
    "ec2:DeleteVolume",
    "ec2:DeleteVpc",
    "ec2:DeleteVpcEndpoints",
    "ec2:DetachVolume",
    "ec2:ModifyInstance*",
    "ec2:ModifySubnetAttribute",
    "ec2:ModifyVolume*",
    "ec2:ModifyVpcAttribute",
    "ec2:ModifyVpcEndpoint",
    "ec2:RunInstances",
    "ec2:StartInstances",
    "ec2:StopInstances",
    "ec2:TerminateInstances",
    "ssm:DescribeAssociation",
    "ssm:ListAssociations",
]

BUCKET = [
    "s3:CreateBucket",
    "s3:DeleteBucket",
    "s3:DeleteBucketPolicy",
    "s3:Get*",
    "s3:ListBucket*",
    "s3:PutBucket*",
    "s3:PutEncryptionConfiguration",
    "s3:PutLifecycleConfiguration",
    "s3:TagResource",
    "s3:UntagResource",
]

ROLES = [
    "iam:*InstanceProfile",
    "iam:CreatePolicy",
    "iam:CreatePolicyVersion",
    "iam:DeletePolicy",
    "iam:DeletePolicyVersion",
    "iam:DeleteRole",
    "iam:Get*",
    "iam:ListAttachedRolePolicies",
    "iam:ListEntitiesForPolicy",
    "iam:ListPolicyVersions",
    "iam:ListRolePolicies",
    "iam:TagPolicy",
    "iam:TagRole",
    "iam:UntagPolicy",
    "iam:UntagRole",
    "iam:UpdateAssumeRolePolicy",
    "iam:UpdateRole",
    "iam:UpdateRoleDescription",
]

WHAT_ROLES_MAY = [
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:DeleteRolePolicy",
    "iam:DetachRolePolicy",
    "iam:PutRolePermissionsBoundary",
    "iam:PutRolePolicy",
]
"""All of those of which IAM tells the boundary of the role (Service Authorization Reference, 2026),
but the one that takes it off."""

CHANGES = [
    "iam:CreatePolicyVersion",
    "iam:DeletePolicy",
    "iam:DeletePolicyVersion",
    "iam:SetDefaultPolicyVersion",
]

PASSED_TO = ["dlm.amazonaws.com", "ec2.amazonaws.com"]

EXAMPLES = {
    "dlm:*LifecyclePolicy": ("dlm:CreateLifecyclePolicy", "dlm:DeleteLifecyclePolicy"),
    "ec2:*Address": ("ec2:AllocateAddress", "ec2:AssociateAddress", "ec2:ReleaseAddress"),
    "ec2:*IamInstanceProfile*": ("ec2:AssociateIamInstanceProfile",),
    "ec2:*InternetGateway": ("ec2:AttachInternetGateway", "ec2:CreateInternetGateway"),
    "ec2:*LaunchTemplate*": ("ec2:CreateLaunchTemplate", "ec2:CreateLaunchTemplateVersion"),
    "ec2:*NatGateway": ("ec2:CreateNatGateway", "ec2:DeleteNatGateway"),
    "ec2:*NetworkInterface*": ("ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"),
    "ec2:*Route": ("ec2:CreateRoute", "ec2:DeleteRoute"),
    "ec2:*RouteTable*": ("ec2:AssociateRouteTable", "ec2:CreateRouteTable"),
    "ec2:*SecurityGroup*": ("ec2:AuthorizeSecurityGroupIngress", "ec2:CreateSecurityGroup"),
    "ec2:*Tags": ("ec2:CreateTags", "ec2:DeleteTags"),
    "ec2:Describe*": ("ec2:DescribeInstances", "ec2:DescribeVolumes"),
    "ec2:ModifyInstance*": ("ec2:ModifyInstanceAttribute",),
    "ec2:ModifyVolume*": ("ec2:ModifyVolume",),
    "iam:*InstanceProfile": ("iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile"),
    "iam:Get*": ("iam:GetRole", "iam:GetRolePolicy"),
    "s3:Get*": ("s3:GetBucketPolicy",),
    "s3:ListBucket*": ("s3:ListBucket",),
    "s3:PutBucket*": ("s3:PutBucketPolicy", "s3:PutBucketTagging"),
}
"""SimulatePrincipalPolicy takes no patterns (IAM API reference, 2026)."""

NOT_FOR_BUILDING = frozenset(
    {
        "ec2:CancelSpotInstanceRequests",
        "ec2:CreateSnapshot",
        "ec2:DeleteSnapshot",
        "ec2:DeregisterImage",
        "ec2:ModifyImageAttribute",
        "ec2:ModifySnapshotAttribute",
        "pricing:GetProducts",
        "ssm:GetCommandInvocation",
        "ssm:SendCommand",
    }
)
"""What a cluster is built without: whoever is denied it can do without this or that command."""
