"""Looks at AWS for all that a plan of ``up`` is made from; changes nothing.

Owns the questions and how their answers are read. Must not decide or print results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import NotFound
from ec2spawner.model import tags_of
from ec2spawner.settings import ServerConfig

from .facts import Facts, ImageFacts, SubnetFacts, TypeFacts
from .images import Images
from .imaging import find_by_id
from .keys import ClusterKey
from .planning import wanted_image, wanted_subnets
from .request import UpRequest
from .stacks import Stacks

FIRST_CALL_DEADLINE_SECONDS = 8.0
"""The first call tells whether there are credentials and a way to AWS; people wait for it."""

UBUNTU_PARAMETER = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id"
"""Canonical's public parameter with the newest image (Ubuntu on AWS documentation, 2026)."""

UBUNTU_ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "arm64": "arm64"}


NAT_KIND = TypeFacts("t4g.nano", ("arm64",), has_nvme=True, zones=())
"""Of a NAT instance, as the network's template has it."""


async def account_of(gateway: Gateway) -> str:
    """The account of the credentials in use; a CloudError soon if there is none to be had."""
    return (await _place(gateway))[0]


async def _place(gateway: Gateway) -> tuple[str, str]:
    """Account and partition."""
    reply = await gateway.call(
        "sts", "get_caller_identity", deadline_seconds=FIRST_CALL_DEADLINE_SECONDS
    )
    return str(reply["Account"]), str(reply.get("Arn") or "arn:aws").split(":")[1]


async def look(
    gateway: Gateway,
    stacks: Stacks,
    key: ClusterKey,
    images: Images,
    request: UpRequest,
    recorded: ServerConfig | None,
) -> Facts:
    """All facts; a thing that AWS does not know is missing in them, a refused look raises."""
    account, partition = await _place(gateway)
    network = await stacks.find(request.network_stack)
    cluster = await stacks.find(request.cluster_stack)
    private, public = wanted_subnets(request, network, cluster)
    named = [*private, *([public] if public else [])]
    kinds, subnets, key_facts, workers, imagery = await asyncio.gather(
        asyncio.gather(*(look_at_type(gateway, name) for name in request.worker_types)),
        _look_at_subnets(gateway, named),
        key.look(),
        _count_workers(gateway, request.cluster),
        asyncio.gather(images.made(), images.current(), images.builders()),
    )
    made, current, builders = imagery
    kind = kinds[0]
    wanted = wanted_image(request, find_by_id(made, current))
    is_named = request.image_id is not None
    image_id, image = await _look_at_image(gateway, kind, wanted, is_named=is_named)
    is_chosen = network is not None and "NatImageId" in network.parameters
    nat_image_id = None if private or is_chosen else await newest_ubuntu(gateway, NAT_KIND)
    return Facts(
        account=account,
        nat_image_id=nat_image_id,
        partition=partition,
        network=network,
        cluster=cluster,
        key=key_facts,
        workers=workers,
        kind=kind,
        kinds=MappingProxyType(dict(zip(request.worker_types, kinds, strict=True))),
        worker_images=tuple(made),
        current_image=current,
        builders=tuple(builders),
        image=image,
        image_id=image_id,
        subnets=subnets,
        recorded=recorded,
    )


async def described(
    gateway: Gateway, operation: str, field: str, name: str, values: list[str], **more: Any
) -> list[Mapping[str, Any]]:
    """What exists of ``values``; a filter leaves the others out where an id would be an error."""
    params = {"Filters": [{"Name": name, "Values": values}], **more}
    pages = await gateway.pages("ec2", operation, params)
    return [entry for page in pages for entry in page[field]]


async def look_at_type(gateway: Gateway, name: str) -> TypeFacts | None:
    """The instance type; None if EC2 does not know it."""
    found, offers = await asyncio.gather(
        described(gateway, "describe_instance_types", "InstanceTypes", "instance-type", [name]),
        described(
            gateway,
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            "instance-type",
            [name],
            LocationType="availability-zone",
        ),
    )
    if not found:
        return None
    raw = found[0]
    return TypeFacts(
        name=name,
        architectures=tuple(raw["ProcessorInfo"]["SupportedArchitectures"]),
        has_nvme=raw["EbsInfo"]["NvmeSupport"] != "unsupported",
        zones=tuple(sorted(offer["Location"] for offer in offers)),
        vcpus=raw["VCpuInfo"]["DefaultVCpus"],
    )


async def _look_at_subnets(gateway: Gateway, ids: list[str]) -> Mapping[str, SubnetFacts]:
    if not ids:
        return MappingProxyType({})
    found = await described(gateway, "describe_subnets", "Subnets", "subnet-id", ids)
    return MappingProxyType(
        {
            raw["SubnetId"]: SubnetFacts(
                subnet_id=raw["SubnetId"],
                vpc_id=raw["VpcId"],
                zone=raw["AvailabilityZone"],
                free_addresses=raw["AvailableIpAddressCount"],
                state=raw["State"],
            )
            for raw in found
        }
    )


async def _count_workers(gateway: Gateway, cluster: str) -> int:
    return sum(worker.is_alive for worker in await EC2(gateway, cluster).list_workers())


async def _look_at_image(
    gateway: Gateway, kind: TypeFacts | None, image_id: str | None, *, is_named: bool
) -> tuple[str | None, ImageFacts | None]:
    """The image to use. One that was only recorded gives way if the type no longer runs it."""
    if image_id is not None:
        image = await describe_image(gateway, image_id)
        fits = image and kind and image.architecture in kind.architectures
        if is_named or fits or kind is None:
            return image_id, image
    newest = await newest_ubuntu(gateway, kind) if kind else None
    return newest, await describe_image(gateway, newest) if newest else None


async def describe_image(gateway: Gateway, image_id: str) -> ImageFacts | None:
    """The image; None if EC2 does not know it."""
    found = await described(gateway, "describe_images", "Images", "image-id", [image_id])
    return parse_image(found[0]) if found else None


def parse_image(raw: Mapping[str, Any]) -> ImageFacts:
    """One element of DescribeImages' ``Images``."""
    root = raw.get("RootDeviceName") or "/dev/sda1"
    disks = {
        mapping.get("DeviceName"): mapping["Ebs"].get("VolumeSize", 0)
        for mapping in raw.get("BlockDeviceMappings") or ()
        if "Ebs" in mapping
    }
    return ImageFacts(
        image_id=raw["ImageId"],
        architecture=raw["Architecture"],
        root_device=root,
        root_gib=disks.pop(root, 0),
        is_ebs=raw.get("RootDeviceType", "ebs") == "ebs",
        state=raw["State"],
        tags=tags_of(raw),
        is_public=bool(raw.get("Public")),
        platform=raw.get("Platform", ""),
        virtualization=raw.get("VirtualizationType", "hvm"),
        has_ena=raw.get("EnaSupport", True),
        further_disks=tuple(disks),
    )


async def newest_ubuntu(gateway: Gateway, kind: TypeFacts) -> str | None:
    """Canonical's newest image for a type; None if there is none."""
    names = [UBUNTU_ARCHITECTURES[a] for a in kind.architectures if a in UBUNTU_ARCHITECTURES]
    if not names:
        return None
    params = {"Name": UBUNTU_PARAMETER.format(names[0])}
    try:
        reply = await gateway.call("ssm", "get_parameter", params)
    except NotFound:
        return None
    value: str = reply["Parameter"]["Value"]
    return value
