"""What may do what: the roles' policies as the templates have them, and the operator's own.

Owns the policy of whoever runs ``launch-cluster``, and the form in which policies are printed for
those who must grant them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .intrinsics import Resolver, read_template

Policy = dict[str, Any]


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
    return _policy([s for policy in policies.values() for s in policy["Statement"]])


def _policy(statements: list[dict[str, Any]]) -> Policy:
    return {"Version": "2012-10-17", "Statement": statements}


def operator_policy(place: Place) -> Policy:
    """What whoever runs ``launch-cluster`` needs, for this cluster alone.

    CloudFormation acts with the rights of who calls it: what only it does, is allowed only to it.
    """
    name, arn = f"ec2spawner-{place.cluster}", place.arn
    bucket = f"arn:{place.partition}:s3:::{name}-{place.account}-{place.region}"
    by_cloudformation = {
        "ForAnyValue:StringEquals": {"aws:CalledVia": "cloudformation.amazonaws.com"}
    }
    ours = {"StringEquals": {"aws:ResourceTag/ec2spawner:cluster": place.cluster}}
    bears = {"StringEquals": {"aws:RequestTag/ec2spawner:cluster": place.cluster}}
    workers = [arn("ec2", f"{kind}/*") for kind in ("instance", "volume")]
    images = [arn("ec2", f"{kind}/*", account=False) for kind in ("image", "snapshot")]
    return _policy(
        [
            _allow("Look", LOOKS, "*"),
            _allow(
                "Stacks",
                STACKS,
                [arn("cloudformation", f"stack/{name}{s}/*") for s in ("", "-network", "-manager")],
            ),
            _allow("ByCloudFormation", MADE_BY_CLOUDFORMATION, "*", by_cloudformation),
            _allow(
                "Roles",
                ROLES,
                [
                    arn("iam", f"role/{name}-{place.region}-*", region=False),
                    arn("iam", f"instance-profile/{name}-{place.region}-*", region=False),
                    arn("iam", f"policy/{name}-{place.region}-*", region=False),
                ],
                by_cloudformation,
            ),
            _allow(
                "PassRoles",
                ["iam:PassRole"],
                arn("iam", f"role/{name}-{place.region}-*", region=False),
                {
                    "StringEquals": {
                        "iam:PassedToService": ["ec2.amazonaws.com", "dlm.amazonaws.com"]
                    }
                },
            ),
            _allow("Bucket", BUCKET, [bucket, f"{bucket}/*"]),
            _allow(
                "Parameters",
                [
                    *("ssm:AddTagsToResource", "ssm:DeleteParameter", "ssm:GetParameter"),
                    *("ssm:GetParameters", "ssm:PutParameter"),
                ],
                arn("ssm", f"parameter/ec2spawner/{place.cluster}/*"),
            ),
            _allow(
                "NewestBaseImage",
                ["ssm:GetParameter"],
                arn("ssm", "parameter/aws/service/canonical/ubuntu/*", account=False),
            ),
            _allow(
                "KeyPair",
                ["ec2:DeleteKeyPair", "ec2:ImportKeyPair"],
                arn("ec2", f"key-pair/{name}"),
            ),
            _allow(
                "Builders",
                ["ec2:RunInstances"],
                [
                    *(arn("ec2", f"{kind}/*") for kind in LAUNCHED),
                    arn("ec2", "image/*", account=False),
                ],
            ),
            _allow(
                "Images",
                ["ec2:CreateImage", "ec2:CreateSnapshot"],
                [*workers, *images],
            ),
            _allow(
                "EndWhatIsOurs",
                [
                    *("ec2:StopInstances", "ec2:TerminateInstances", "ec2:DeleteVolume"),
                    *("ec2:CancelSpotInstanceRequests", "ec2:GetConsoleOutput"),
                    *("ec2:DeregisterImage", "ec2:DeleteSnapshot", "ec2:ModifyImageAttribute"),
                    "ec2:ModifySnapshotAttribute",
                ],
                [*workers, *images, arn("ec2", "spot-instances-request/*")],
                ours,
            ),
            _allow("TagWhatIsMade", ["ec2:CreateTags"], arn("ec2", "*/*"), bears),
            _allow(
                "TagImages",
                ["ec2:CreateTags"],
                images,
                bears,
            ),
            _allow("TagWhatIsOurs", ["ec2:CreateTags", "ec2:DeleteTags"], workers, ours),
        ]
    )


def _allow(
    sid: str,
    actions: list[str],
    resource: str | list[str],
    condition: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Sid": sid,
        "Effect": "Allow",
        "Action": actions,
        "Resource": resource,
    }
    return {**statement, "Condition": condition} if condition else statement


LAUNCHED = (
    *("instance", "key-pair", "launch-template", "network-interface"),
    *("security-group", "subnet", "volume"),
)

LOOKS = [
    "cloudformation:DescribeStacks",
    "ec2:Describe*",
    "iam:SimulatePrincipalPolicy",
    "servicequotas:GetServiceQuota",
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

ROLES = [
    "iam:*InstanceProfile",
    "iam:*Policy",
    "iam:*PolicyVersion",
    "iam:*PolicyVersions",
    "iam:*RolePermissionsBoundary",
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:GetRole",
    "iam:ListAttachedRolePolicies",
    "iam:ListEntitiesForPolicy",
    "iam:ListRolePolicies",
    "iam:TagRole",
    "iam:UntagRole",
    "iam:UpdateAssumeRolePolicy",
    "iam:UpdateRole",
    "iam:UpdateRoleDescription",
]

BUCKET = [
    "s3:CreateBucket",
    "s3:DeleteBucket",
    "s3:DeleteBucketPolicy",
    "s3:DeleteObject*",
    "s3:Get*",
    "s3:ListBucket*",
    "s3:PutBucket*",
    "s3:PutEncryptionConfiguration",
    "s3:PutLifecycleConfiguration",
    "s3:PutObject",
    "s3:TagResource",
    "s3:UntagResource",
]
