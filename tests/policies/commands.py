"""What IAM is asked about a call of ``launch-cluster``, with the tags that things have then.

By the Service Authorization Reference (2026), as ``requests`` is, which has the calls of EC2 that
the hub makes, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ec2spawner.cloud import Gateway, action_name
from policies.iam import Request
from policies.lives import Judge, named
from policies.requests import World, request_tags
from policies.requests import requests_of as requests_of_call

REGION = "us-east-1"
ACCOUNT = "123456789012"
S3_RIGHTS = {"HeadBucket": "ListBucket", "HeadObject": "GetObject", "ListObjectsV2": "ListBucket"}
Params = Mapping[str, Any]


def requests_of(world: World, service: str, action: str, params: Params) -> list[Request]:
    """All that must be allowed for one call."""
    if service == "ec2" and action in ("ImportKeyPair", "DeleteKeyPair"):
        return list(_key_pair(world, action, params))
    if service == "ec2":
        return requests_of_call(world, service, action, params)
    if action == "SendCommand":
        return list(_command(world, params))
    if service in _SERVICES:
        return list(_SERVICES[service](action, params))
    prefix = {"service-quotas": "servicequotas"}.get(service, service)
    return [Request(f"{prefix}:{action}", "*")]


def _key_pair(world: World, action: str, params: Params) -> Iterable[Request]:
    arn = world.arn("key-pair", params["KeyName"])
    yield Request(f"ec2:{action}", arn)
    tags = {t["Key"]: t["Value"] for s in params.get("TagSpecifications", ()) for t in s["Tags"]}
    if tags:
        context = {**request_tags(tags), "ec2:CreateAction": action}
        yield Request("ec2:CreateTags", arn, context)


def _stacks(action: str, params: Params) -> Iterable[Request]:
    name = params.get("StackName")
    place = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack"
    arn = "*" if name is None else name if name.startswith("arn:") else f"{place}/{name}/0-0"
    yield Request(f"cloudformation:{action}", arn)


def _command(world: World, params: Params) -> Iterable[Request]:
    document = f"arn:aws:ssm:{REGION}::document/{params['DocumentName']}"
    yield Request("ssm:SendCommand", document)
    for instance_id in params["InstanceIds"]:
        tags = world.tags.get(instance_id, {})
        context = {f"ssm:resourceTag/{key}": value for key, value in tags.items()}
        yield Request("ssm:SendCommand", world.arn("instance", instance_id), context)


def _parameters(action: str, params: Params) -> Iterable[Request]:
    if action in ("DescribeParameters", "GetCommandInvocation"):
        yield Request(f"ssm:{action}", "*")
        return
    for name in params.get("Names") or [params["Name"]]:
        account = "" if name.startswith("/aws/") else ACCOUNT
        arn = f"arn:aws:ssm:{REGION}:{account}:parameter{name}"
        yield Request(f"ssm:{action}", arn)
        if params.get("Tags"):
            yield Request("ssm:AddTagsToResource", arn)


def _bucket(action: str, params: Params) -> Iterable[Request]:
    place = f"arn:aws:s3:::{params['Bucket']}"
    if action == "DeleteObjects":
        for thing in params["Delete"]["Objects"]:
            yield Request("s3:DeleteObject", f"{place}/{thing['Key']}")
        return
    arn = f"{place}/{params['Key']}" if "Key" in params else place
    yield Request(f"s3:{S3_RIGHTS.get(action, action)}", arn)


_SERVICES: Mapping[str, Callable[[str, Params], Iterable[Request]]] = {
    "cloudformation": _stacks,
    "s3": _bucket,
    "ssm": _parameters,
}


def judging(judge: Judge) -> type[Gateway]:
    """Gateways whose calls are judged before they are sent; those to a thing that is gone, are not.

    (AWS says of these that they are gone, or that one may not be told.)
    """

    class Judging(Gateway):
        async def call(self, service: str, operation: str, params: Any = None, **more: Any) -> Any:
            action, asked = action_name(operation), dict(params or {})
            has_tags = service == "ec2" or action == "SendCommand"
            world = await self._world(action, asked) if has_tags else NOWHERE
            if service != "ec2" or all(i in world.tags for i in _ids(asked)):
                judge.ask(requests_of(world, service, action, asked))
            return await super().call(service, operation, params, **more)

        async def _world(self, action: str, params: Params) -> World:
            """What is there of what the call names."""
            if action.startswith("Describe"):
                return NOWHERE
            template_id = params.get("LaunchTemplate", {}).get("LaunchTemplateId", "")
            template = await self._template(template_id) if template_id else {}
            groups = template.get("SecurityGroupIds", ())
            ids = [*_ids(params), *groups, *filter(None, [template_id])]
            tags = await self._tags(ids) if ids else {}
            return World(REGION, ACCOUNT, tags, {template_id: template})

        async def _template(self, template_id: str) -> dict[str, Any]:
            asked = {"LaunchTemplateId": template_id, "Versions": ["$Latest"]}
            reply = await super().call("ec2", "describe_launch_template_versions", asked)
            data: dict[str, Any] = reply["LaunchTemplateVersions"][0]["LaunchTemplateData"]
            return data

        async def _tags(self, ids: list[str]) -> dict[str, dict[str, str]]:
            asked = {"Filters": [{"Name": "resource-id", "Values": ids}]}
            found: dict[str, dict[str, str]] = {}
            for tag in (await super().call("ec2", "describe_tags", asked))["Tags"]:
                found.setdefault(tag["ResourceId"], {})[tag["Key"]] = tag["Value"]
            return found

    return Judging


NOWHERE = World(REGION, ACCOUNT, {}, {})


def _ids(params: Params) -> list[str]:
    is_launch = "MinCount" in params
    return [*named(params), *([] if is_launch else filter(None, [params.get("ImageId")]))]
