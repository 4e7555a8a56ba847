"""Everything in an account that bears a cluster's tag or name, and what becomes of it.

Owns the listing, and the rule of what ``down`` ends and what stays. Must not change anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.errors import NotFound
from ec2spawner.model import TAG_CLUSTER, TAG_ROLE, TAG_USER, Role, tags_of

from .images import Images

INSTANCE, VOLUME, SNAPSHOT, IMAGE = "instance", "volume", "snapshot", "image"
BUCKET, PARAMETER, KEY_PAIR = "bucket", "parameter", "key-pair"
"""Kinds; EC2's are those of DescribeTags (EC2 API reference, "ResourceType", 2026)."""

Tags = Mapping[str, str]


@dataclass(frozen=True)
class Belonging:
    """A thing of the cluster."""

    kind: str
    ident: str
    state: str = ""
    role: str = ""
    note: str = ""  # whose it is, or what it is called
    size_gib: int = 0
    parts: tuple[str, ...] = ()  # an image's snapshots
    used_by: tuple[str, ...] = ()  # others than the cluster, in words

    def __str__(self) -> str:
        size = f"{self.size_gib} GiB" if self.size_gib else ""
        use = f"(used by {', '.join(self.used_by)})" if self.used_by else ""
        return " ".join(filter(None, (self.kind, self.ident, size, self.state, self.note, use)))


@dataclass(frozen=True)
class Choice:
    """What the operator wants to keep."""

    delete_homes: bool = False
    delete_snapshots: bool = False
    delete_hub_data: bool = False
    keep_images: bool = False


def stays(thing: Belonging, choice: Choice, of_images: Iterable[str] = ()) -> bool:
    """Whether a thing is to be there after ``down``; ``of_images``: snapshots that images need."""
    if thing.used_by:
        return True
    if thing.kind == IMAGE:
        return choice.keep_images
    if thing.kind not in (VOLUME, SNAPSHOT):
        return False
    if thing.role == Role.IMAGE.value or thing.ident in of_images:
        return choice.keep_images
    if thing.role == Role.MANAGER.value:
        return not choice.delete_hub_data
    if thing.kind == SNAPSHOT:
        return not choice.delete_snapshots
    return thing.role == Role.WORKER.value and not choice.delete_homes


def left_over(things: Sequence[Belonging], choice: Choice) -> tuple[Belonging, ...]:
    """What is there although it should be gone."""
    of_images = parts_of_images(things)
    return tuple(thing for thing in things if not stays(thing, choice, of_images))


def parts_of_images(things: Iterable[Belonging]) -> frozenset[str]:
    """Ids of the snapshots that images consist of."""
    return frozenset(part for thing in things if thing.kind == IMAGE for part in thing.parts)


class Belongings:
    """Looks for all that is a cluster's."""

    def __init__(self, gateway: Gateway, cluster: str, bucket: str) -> None:
        self._gateway = gateway
        self._cluster = cluster
        self._bucket = bucket
        self._images = Images(gateway, cluster, {})
        self._is_ours = {"Name": f"tag:{TAG_CLUSTER}", "Values": [cluster]}

    async def look(self) -> list[Belonging]:
        """All that is there now; what is only shown for a while after its end is left out."""
        images = await self.images()
        found = [
            *await self.instances(),
            *await self.volumes(),
            *images,
            *await self.snapshots(images),
        ]
        known = {INSTANCE, VOLUME, IMAGE, SNAPSHOT}
        found += [thing for thing in await self._tagged() if thing.kind not in known]
        return [*found, *await self.parameters(), *await self._buckets()]

    async def instances(self) -> list[Belonging]:
        """Instances that have not ended."""
        pages = await self._pages("describe_instances")
        raw = [i for page in pages for r in page["Reservations"] for i in r["Instances"]]
        things = [_thing(INSTANCE, i["InstanceId"], i["State"]["Name"], i) for i in raw]
        return [thing for thing in things if thing.state != "terminated"]

    async def volumes(self) -> list[Belonging]:
        """Volumes, but for the root disks, which go with their instances."""
        raw = [v for page in await self._pages("describe_volumes") for v in page["Volumes"]]
        return [
            _thing(VOLUME, v["VolumeId"], v["State"], v, v["Size"])
            for v in raw
            if not any(a.get("DeleteOnTermination") for a in v.get("Attachments") or ())
        ]

    async def images(self) -> list[Belonging]:
        """Images that were built, with what else in the account is launched from them."""
        pages = await self._pages("describe_images", Owners=["self"])
        images = [_image(raw) for page in pages for raw in page["Images"]]
        users = await self._images.used_elsewhere() if images else {}
        return [replace(i, used_by=tuple(users.get(i.ident, ()))) for i in images]

    async def snapshots(self, images: Iterable[Belonging]) -> list[Belonging]:
        """Snapshots: of homes, of the hub's data, of ``images``, with those that use these."""
        users = {part: image.used_by for image in images for part in image.parts}
        pages = await self._pages("describe_snapshots", OwnerIds=["self"])
        raw = [s for page in pages for s in page["Snapshots"]]
        things = [_thing(SNAPSHOT, s["SnapshotId"], s["State"], s, s["VolumeSize"]) for s in raw]
        return [replace(thing, used_by=users.get(thing.ident, ())) for thing in things]

    async def parameters(self) -> list[Belonging]:
        """SSM parameters below the cluster's name."""
        begins = {
            "Key": "Name",
            "Option": "BeginsWith",
            "Values": [f"/ec2spawner/{self._cluster}/"],
        }
        pages = await self._gateway.pages(
            "ssm", "describe_parameters", {"ParameterFilters": [begins]}
        )
        return [Belonging(PARAMETER, p["Name"]) for page in pages for p in page["Parameters"]]

    async def _buckets(self) -> list[Belonging]:
        try:
            await self._gateway.call("s3", "head_bucket", {"Bucket": self._bucket})
        except NotFound:
            return []
        return [Belonging(BUCKET, self._bucket)]

    async def _tagged(self) -> list[Belonging]:
        filters = [
            {"Name": "key", "Values": [TAG_CLUSTER]},
            {"Name": "value", "Values": [self._cluster]},
        ]
        pages = await self._gateway.pages("ec2", "describe_tags", {"Filters": filters})
        found = {(tag["ResourceType"], tag["ResourceId"]) for page in pages for tag in page["Tags"]}
        ended = await self._ended(ident for _, ident in found)
        return [Belonging(kind, i) for kind, i in sorted(found) if i not in ended]

    async def _ended(self, idents: Iterable[str]) -> set[str]:
        """Ids that are shown, and tagged, for a while after their end."""
        ended: set[str] = set()
        seen = {ident.partition("-")[0] for ident in idents}
        if "nat" in seen:
            is_deleted = {"Name": "state", "Values": ["deleted"]}
            params = {"Filter": [self._is_ours, is_deleted]}
            pages = await self._gateway.pages("ec2", "describe_nat_gateways", params)
            ended |= {n["NatGatewayId"] for page in pages for n in page["NatGateways"]}
        if "sir" in seen:
            pages = await self._pages("describe_spot_instance_requests")
            ended |= {
                request["SpotInstanceRequestId"]
                for page in pages
                for request in page["SpotInstanceRequests"]
                if request["State"] in ("cancelled", "closed", "failed")
            }
        return ended

    async def _pages(self, operation: str, **more: Any) -> list[dict[str, Any]]:
        return await self._gateway.pages("ec2", operation, {"Filters": [self._is_ours], **more})


def _thing(kind: str, ident: str, state: str, raw: Mapping[str, Any], size: int = 0) -> Belonging:
    tags = tags_of(raw)
    note = tags.get(TAG_USER) or tags.get("Name", "")
    return Belonging(kind, ident, state, tags.get(TAG_ROLE, ""), note, size)


def _image(raw: Mapping[str, Any]) -> Belonging:
    disks = [mapping["Ebs"] for mapping in raw.get("BlockDeviceMappings") or () if "Ebs" in mapping]
    parts = tuple(disk["SnapshotId"] for disk in disks if "SnapshotId" in disk)
    thing = _thing(IMAGE, raw["ImageId"], raw["State"], raw)
    return Belonging(IMAGE, thing.ident, thing.state, thing.role, raw.get("Name", ""), 0, parts)
