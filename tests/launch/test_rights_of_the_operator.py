"""What ``launch-cluster`` itself asks of AWS, judged by the policy that it prints for operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from policies.iam import Request, decide
from policies.requests import World, request_tags
from policies.requests import requests_of as requests_of_call

from ec2spawner.cloud import Gateway, action_name
from launch_cluster.commands import common
from launch_cluster.policies import Place, operator_policy

Run = Callable[..., Result]
ACCOUNT = "123456789012"


def requests_of(cluster: str, service: str, action: str, params: dict[str, Any]) -> list[Request]:
    """What IAM is asked about a call of ``up`` and ``plan``."""
    place = f"us-east-1:{ACCOUNT}"
    if service == "cloudformation":
        name = params["StackName"]
        is_arn = name.startswith("arn:")
        arn = name if is_arn else f"arn:aws:cloudformation:{place}:stack/{name}/0-0"
        return [Request(f"cloudformation:{action}", arn)]
    if service == "ssm":
        account = "" if params["Name"].startswith("/aws/") else ACCOUNT
        arn = f"arn:aws:ssm:us-east-1:{account}:parameter{params['Name']}"
        more = [Request("ssm:AddTagsToResource", arn)] if params.get("Tags") else []
        return [Request(f"ssm:{action}", arn), *more]
    if service == "s3":
        verb = "GetObject" if action == "HeadObject" else action
        return [Request(f"s3:{verb}", f"arn:aws:s3:::{params['Bucket']}/{params['Key']}")]
    if action in ("ImportKeyPair", "DeleteKeyPair"):
        arn = f"arn:aws:ec2:{place}:key-pair/{params['KeyName']}"
        tags = [t for s in params.get("TagSpecifications", ()) for t in s["Tags"]]
        asked = request_tags({t["Key"]: t["Value"] for t in tags})
        more = [Request("ec2:CreateTags", arn, asked)] if tags else []
        return [Request(f"ec2:{action}", arn), *more]
    if action == "GetConsoleOutput":
        ours = {"aws:ResourceTag/ec2spawner:cluster": cluster}
        return [Request("ec2:GetConsoleOutput", f"arn:aws:ec2:{place}:instance/i-1", ours)]
    if action in ("CreateImage", "RunInstances", "TerminateInstances"):
        return of_builders(cluster, action, params)
    prefix = {"service-quotas": "servicequotas"}.get(service, service)
    return [Request(f"{prefix}:{action}", "*")]


def of_builders(cluster: str, action: str, params: dict[str, Any]) -> list[Request]:
    """About a call for a builder, which bears the cluster's tags and comes by its template."""
    template = {
        "ImageId": "ami-1",
        "KeyName": f"ec2spawner-{cluster}",
        "MetadataOptions": {"HttpTokens": "required"},
        "SecurityGroupIds": ["sg-1"],
    }
    ours: dict[str, dict[str, str]] = defaultdict(lambda: {"ec2spawner:cluster": cluster})
    named = params.get("LaunchTemplate", {}).get("LaunchTemplateId", "")
    for i in (params.get("InstanceId"), *params.get("InstanceIds", ())):
        ours[i or ""]
    if "IamInstanceProfile" in params:  # its role has the same name
        role = params["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        params = {**params, "IamInstanceProfile": {"Role": role}}
    world = World("us-east-1", ACCOUNT, ours, {named: template})
    return requests_of_call(world, "ec2", action, params)


def test_a_cluster_is_built_changed_and_shown_with_the_operators_rights(
    run: Run, aws: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = operator_policy(Place(cluster, "us-east-1", ACCOUNT))
    asked: set[str] = set()
    refused: list[Request] = []

    class Judging(Gateway):
        async def call(self, service: str, operation: str, params: Any = None, **more: Any) -> Any:
            action = action_name(operation)
            for request in requests_of(cluster, service, action, dict(params or {})):
                asked.add(request.action)
                if not decide(policy, request).is_allowed:
                    refused.append(request)
            return await super().call(service, operation, params, **more)

    monkeypatch.setattr(common, "Gateway", Judging)
    assert run("up", cluster, "--vpc-cidr", "127.79.0.0/16", "--yes").exit_code == 0
    assert run("plan", cluster, "--ssh-cidr", "203.0.113.0/24").exit_code == 0
    assert run("up", cluster, "--replace-manager", "--yes").exit_code == 0
    assert refused == []
    used = {"cloudformation:ExecuteChangeSet", "ssm:PutParameter", "s3:PutObject"}
    assert used | {"ec2:ImportKeyPair", "cloudformation:DeleteChangeSet"} <= asked
