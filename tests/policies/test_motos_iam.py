"""The manager's list of actions, as moto's own enforcement of IAM sees it.

moto compares actions; it takes an allow that is scoped to resources for none, and lets conditions
pass (localcloud). So the same policy is given to it with every resource and without conditions:
what is refused here, no statement names at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ec2spawner.localcloud.inprocess import InProcessCloud
from policies.lives import manager_policy

FORBIDDEN_STATUS = 403  # its error codes differ by protocol


@pytest.fixture(scope="module")
def client() -> Iterator[Callable[[str], Any]]:
    """Clients of a role that may do the manager's actions, in a cloud that enforces it."""
    from moto.core.authorization import enable_iam_authentication

    with InProcessCloud() as cloud:
        iam = cloud.client("iam")
        user = "manager"
        iam.create_user(UserName=user)
        allowed = [s for s in manager_policy()["Statement"] if s["Effect"] == "Allow"]
        actions = sorted({a for s in allowed for a in _listed(s["Action"])})
        document = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
        }
        iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        with enable_iam_authentication():
            yield lambda service: cloud.client(
                service,
                aws_access_key_id=key["AccessKeyId"],
                aws_secret_access_key=key["SecretAccessKey"],
            )


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def is_refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ClientError as error:
        return bool(error.response["ResponseMetadata"]["HTTPStatusCode"] == FORBIDDEN_STATUS)
    return False


ALLOWED: list[tuple[str, str, dict[str, Any]]] = [
    ("ec2", "describe_key_pairs", {}),
    ("ec2", "describe_subnets", {}),
    ("ssm", "get_parameter", {"Name": "/ec2spawner/class/ssh-key"}),
    ("ssm", "put_parameter", {"Name": "/x", "Value": "y", "Type": "String"}),
    ("s3", "put_object", {"Bucket": "b", "Key": "k", "Body": b""}),
    ("cloudformation", "describe_stacks", {}),
]
FORBIDDEN: list[tuple[str, str, dict[str, Any]]] = [
    ("ec2", "create_vpc", {"CidrBlock": "10.0.0.0/16"}),
    ("ec2", "create_security_group", {"GroupName": "g", "Description": "d"}),
    ("ec2", "create_key_pair", {"KeyName": "k"}),
    ("ec2", "delete_key_pair", {"KeyName": "k"}),
    ("ssm", "delete_parameter", {"Name": "/x"}),
    ("ssm", "send_command", {"DocumentName": "AWS-RunShellScript", "InstanceIds": ["i-1"]}),
    ("s3", "delete_bucket", {"Bucket": "b"}),
    ("iam", "create_user", {"UserName": "x"}),
    ("iam", "create_access_key", {"UserName": "manager"}),
    ("sts", "assume_role", {"RoleArn": "arn:aws:iam::1:role/admin-role", "RoleSessionName": "xx"}),
    ("cloudformation", "delete_stack", {"StackName": "s"}),
]


def test_moto_refuses_what_no_statement_names_and_nothing_else(
    client: Callable[[str], Any],
) -> None:
    for is_allowed, calls in ((True, ALLOWED), (False, FORBIDDEN)):
        for service, operation, params in calls:
            call = getattr(client(service), operation)
            assert is_refused(lambda c=call, p=params: c(**p)) is not is_allowed, operation
