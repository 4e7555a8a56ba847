"""What IAM is asked about a call: one request a resource, with its condition keys.

By the Service Authorization Reference for EC2, S3, SSM and Service Quotas (2026). Of RunInstances
and CreateTags it is as AWS documents their use: a launch is asked for every resource that it makes
or uses, and a call that tags what it makes is asked for ``ec2:CreateTags`` on it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.iam import Request

Tags = Mapping[str, str]
KINDS = {
    "i": "instance",
    "vol": "volume",
    "snap": "snapshot",
    "ami": "image",
    "eni": "network-interface",
    "sir": "spot-instances-request",
}
WITHOUT_ACCOUNT = ("image", "snapshot")


@dataclass(frozen=True)
class World:
    """Where the calls are made, and what there is: the tags of each resource, and templates."""

    region: str
    account: str
    tags: Mapping[str, Tags]
    templates: Mapping[str, Mapping[str, Any]]
    facts: Callable[[str], Mapping[str, str]] = lambda resource_id: {}
    """Condition keys of a resource other than its tags."""

    def arn(self, kind: str, name: str) -> str:
        """An ARN of EC2."""
        account = "" if kind in WITHOUT_ACCOUNT else self.account
        return f"arn:aws:ec2:{self.region}:{account}:{kind}/{name}"

    def of(self, resource_id: str) -> tuple[str, dict[str, str]]:
        """ARN and tags of what is there."""
        kind = KINDS[resource_id.partition("-")[0]]
        tags = resource_tags(self.tags.get(resource_id, {}))
        return self.arn(kind, resource_id), {**tags, **self.facts(resource_id)}


def resource_tags(tags: Tags) -> dict[str, str]:
    return {f"aws:ResourceTag/{key}": value for key, value in tags.items()}


def request_tags(tags: Tags) -> dict[str, Any]:
    named = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    return {**named, "aws:TagKeys": tuple(tags)} if tags else {}


def requests_of(
    world: World, service: str, action: str, params: Mapping[str, Any]
) -> list[Request]:
    """What IAM is asked about one call."""
    if service != "ec2":
        return [_ELSEWHERE[service](world, action, params)]
    name = f"ec2:{action}"
    if action.startswith("Describe"):
        return [Request(name, "*")]
    if action == "RunInstances":
        return list(_launch(world, params))
    if action in ("CreateTags", "DeleteTags"):
        return list(_tagging(world, name, params))
    if action in ("CreateSnapshot", "CreateVolume", "CreateImage"):
        return list(_making(world, action, params))
    more = {}
    if action == "ModifyInstanceAttribute":
        more = {
            f"ec2:Attribute/{key}": "x" for key in params if key not in ("InstanceId", "DryRun")
        }
    return [Request(name, arn, {**tags, **more}) for arn, tags in map(world.of, _ids(params))]


def _ids(params: Mapping[str, Any]) -> Iterator[str]:
    for key in ("InstanceIds", "SpotInstanceRequestIds"):
        yield from params.get(key) or ()
    for key in ("InstanceId", "VolumeId", "SnapshotId", "ImageId"):
        if params.get(key):
            yield params[key]


def _specified(params: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {
        s["ResourceType"]: {t["Key"]: t["Value"] for t in s["Tags"]}
        for s in params.get("TagSpecifications") or ()
    }


def _launch(world: World, params: Mapping[str, Any]) -> Iterator[Request]:
    name, given = "ec2:RunInstances", params.get("LaunchTemplate") or {}
    template_id = given.get("LaunchTemplateId", "")
    merged = {**world.templates.get(template_id, {}), **params}
    template = world.arn("launch-template", template_id)
    context: dict[str, Any] = {"ec2:LaunchTemplate": template} if template_id else {}
    template_tags = _specified(world.templates.get(template_id, {}))
    call_tags = _specified(params)
    tags = {
        kind: {**template_tags.get(kind, {}), **call_tags.get(kind, {})}
        for kind in {**template_tags, **call_tags}
    }
    metadata = (merged.get("MetadataOptions") or {}).get("HttpTokens", "optional")
    made = {"instance": {"ec2:MetadataHttpTokens": metadata}, "network-interface": {}, "volume": {}}
    if params.get("InstanceMarketOptions"):
        made["spot-instances-request"] = {}
    for kind, more in made.items():
        asked = {**context, **more, **request_tags(tags.get(kind, {}))}
        if kind == "spot-instances-request":
            del asked["ec2:LaunchTemplate"]  # not in the reference for it
        yield Request(name, world.arn(kind, "*"), asked)
        if kind in tags:
            create = {"ec2:CreateAction": "RunInstances", **request_tags(tags[kind])}
            yield Request("ec2:CreateTags", world.arn(kind, "*"), create)
    used = [("image", merged["ImageId"]), ("subnet", merged["SubnetId"])]
    used += [("security-group", group) for group in merged["SecurityGroupIds"]]
    used += [("key-pair", merged["KeyName"])] if merged.get("KeyName") else []
    used += [("launch-template", template_id)] if template_id else []
    for kind, resource in used:
        known = {**resource_tags(world.tags.get(resource, {})), **world.facts(resource)}
        yield Request(name, world.arn(kind, resource), {**known, **context})
    profile = merged.get("IamInstanceProfile") or {}
    if profile:  # its role, which our templates name as the profile
        name = profile.get("Role") or profile["Arn"].rpartition("/")[2]
        role = f"arn:aws:iam::{world.account}:role/{name}"
        yield Request("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})


def _tagging(world: World, name: str, params: Mapping[str, Any]) -> Iterator[Request]:
    tags = {t["Key"]: t.get("Value", "") for t in params.get("Tags", ())}
    keys = {"aws:TagKeys": tuple(tags)} if tags else {}  # no key at all where none is named
    context = request_tags(tags) if name == "ec2:CreateTags" else keys
    for arn, known in map(world.of, params["Resources"]):
        yield Request(name, arn, {**known, **context})


def _making(world: World, action: str, params: Mapping[str, Any]) -> Iterator[Request]:
    name = f"ec2:{action}"
    for source in _ids(params):
        arn, known = world.of(source)
        yield Request(name, arn, known)
    tags = _specified(params)
    kinds = {
        "CreateSnapshot": ("snapshot",),
        "CreateVolume": ("volume",),
        "CreateImage": ("image", "snapshot"),
    }[action]
    for kind in kinds:
        more = {"ec2:Encrypted": str(bool(params.get("Encrypted"))).lower()}
        context = {**(more if kind == "volume" else {}), **request_tags(tags.get(kind, {}))}
        yield Request(name, world.arn(kind, "*"), context)
        if kind in tags:
            create = {"ec2:CreateAction": action, **request_tags(tags[kind])}
            yield Request("ec2:CreateTags", world.arn(kind, "*"), create)


def _s3(world: World, action: str, params: Mapping[str, Any]) -> Request:
    place = f"arn:aws:s3:::{params['Bucket']}"
    context = {"s3:if-none-match": params["IfNoneMatch"]} if "IfNoneMatch" in params else {}
    return Request(
        f"s3:{action}", f"{place}/{params['Key']}" if "Key" in params else place, context
    )


def _ssm(world: World, action: str, params: Mapping[str, Any]) -> Request:
    name = params["Name"] if "Name" in params else params["Names"][0]
    account = "" if name.startswith("/aws/") else world.account
    return Request(f"ssm:{action}", f"arn:aws:ssm:{world.region}:{account}:parameter{name}")


def _quota(world: World, action: str, params: Mapping[str, Any]) -> Request:
    place = f"arn:aws:servicequotas:{world.region}:{world.account}"
    resource = f"{place}:{params['ServiceCode']}/{params['QuotaCode']}"
    return Request(f"servicequotas:{action}", resource)


def _stack(world: World, action: str, params: Mapping[str, Any]) -> Request:
    place = f"arn:aws:cloudformation:{world.region}:{world.account}"
    return Request(f"cloudformation:{action}", f"{place}:stack/{params['StackName']}/0-0")


_ELSEWHERE = {"cloudformation": _stack, "s3": _s3, "ssm": _ssm, "service-quotas": _quota}
