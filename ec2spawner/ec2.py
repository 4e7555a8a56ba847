"""The EC2 operations that the product needs, typed: our values in, our values out.

Owns the requests' shapes and which of them may be made twice. Must not decide anything, nor know
boto3, which only the gateway does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.credits import STANDARD, credit_parameters
from ec2spawner.errors import NotFound, OutcomeUnknown, Rejected, WrongState
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_CLUSTER,
    TAG_PROFILE,
    TAG_REQUEST,
    TAG_ROLE,
    Role,
    Snapshot,
    SpotRequest,
    Volume,
    Worker,
    impaired_since,
    parse_snapshot,
    parse_spot_request,
    parse_volume,
    parse_worker,
)

R = TypeVar("R")

PAGE_SIZE = 1000  # DescribeInstances: 5 to 1000 (EC2 API reference, 2026)
FILTER_VALUES = 200  # values that one filter may have (EC2 API reference, "Filter", 2026)
TYPES_PAGE_SIZE = 100  # DescribeInstanceTypes: 5 to 100 (EC2 API reference, 2026)
CONSOLE_MAX_CHARS = 16_384
"""The end of a console's 64 KiB: what a machine last said is what tells why it died."""
VOLUME_TYPE = "gp3"
SPOT = "spot"
STATUS_CHECKS = ("instance-status", "system-status", "attached-ebs-status")
LISTING_DEADLINE_SECONDS = 10.0
"""Short, for the poller tries again anyway, and users are to read soon that AWS does not answer."""


@dataclass(frozen=True)
class LaunchRequest:
    """What one RunInstances asks for: ``count`` workers for nobody, of one kind in one place."""

    launch_template_id: str
    instance_type: str
    subnet_id: str
    count: int
    profile: str
    home_gib: int  # size of the blank home that each brings; 0 for none
    cost_tags: Mapping[str, str]
    root_device: str = "/dev/sda1"
    root_gib: int = 12
    image_id: str = ""  # "": the launch template's
    market: str = "on-demand"  # or "spot": may be taken back by EC2, which then stops it


class EC2:
    """One cluster's view of EC2: lists and touches only what bears the cluster's tag."""

    def __init__(self, gateway: Gateway, cluster: str) -> None:
        self._gateway = gateway
        self.cluster = cluster

    # ---- listings

    async def list_workers(self, ids: Sequence[str] | None = None) -> list[Worker]:
        """The cluster's workers, all or those of ``ids`` that exist; terminated ones included.

        Ids are asked for by a filter: an id that EC2 does not know (yet) is left out of the answer
        instead of failing the call for all others.
        """
        role = {"Name": f"tag:{TAG_ROLE}", "Values": [Role.WORKER.value]}
        replies = await self._list("describe_instances", "instance-id", ids, role)
        # In a thread, here as below: to read thousands takes a good part of a second.
        return await asyncio.to_thread(_workers, replies)

    async def list_volumes(self, ids: Sequence[str] | None = None) -> list[Volume]:
        """The cluster's home volumes, all or those of ``ids`` that exist."""
        role = {"Name": f"tag:{TAG_ROLE}", "Values": [Role.WORKER.value]}
        replies = await self._list("describe_volumes", "volume-id", ids, role)
        return await asyncio.to_thread(_parsed, parse_volume, replies, "Volumes")

    async def list_snapshots(self, ids: Sequence[str] | None = None) -> list[Snapshot]:
        """The cluster's snapshots of homes, all or those of ``ids`` that exist."""
        role = {"Name": f"tag:{TAG_ROLE}", "Values": [Role.WORKER.value]}
        replies = await self._list("describe_snapshots", "snapshot-id", ids, role)
        return await asyncio.to_thread(_parsed, parse_snapshot, replies, "Snapshots")

    async def list_spot_requests(self, ids: Sequence[str] | None = None) -> list[SpotRequest]:
        """The cluster's spot requests for which EC2 has, or would launch, an instance.

        One whose instance is no worker of a listing is what a termination in the console leaves:
        EC2 launches another for it, and gives that none of our tags. With ``ids``, those of them
        that exist, also such as are over.
        """
        alive = {"Name": "state", "Values": ["open", "active", "disabled"]}
        replies = await self._list(
            "describe_spot_instance_requests",
            "spot-instance-request-id",
            ids,
            *([alive] if ids is None else ()),
        )
        return _parsed(parse_spot_request, replies, "SpotInstanceRequests")

    async def statuses(self) -> dict[str, float | None]:
        """Instances with a failing status check, and since when (epoch seconds, if EC2 says it).

        Those of the whole account and Region: status checks cannot be filtered by tag.
        """
        listings = await asyncio.gather(
            *(
                self._gateway.pages(
                    "ec2",
                    "describe_instance_status",
                    {
                        "Filters": [{"Name": f"{check}.status", "Values": ["impaired"]}],
                        "MaxResults": PAGE_SIZE,
                    },
                    deadline_seconds=LISTING_DEADLINE_SECONDS,
                )
                for check in STATUS_CHECKS
            )
        )
        return {
            raw["InstanceId"]: impaired_since(raw)
            for pages in listings
            for page in pages
            for raw in page.get("InstanceStatuses", ())
        }

    async def console(self, instance_id: str, max_chars: int = CONSOLE_MAX_CHARS) -> str:
        """The end of what a machine wrote to its console, without control characters.

        Untrusted: whoever has root on the machine may have written it.
        """
        params = {"InstanceId": instance_id, "Latest": True}
        try:
            reply = await self._gateway.call("ec2", "get_console_output", params)
        except Rejected as error:
            if error.aws_code != "UnsupportedOperation":
                raise
            # The latest output is there for Nitro types only; others have what EC2 last kept.
            params = {"InstanceId": instance_id}
            reply = await self._gateway.call("ec2", "get_console_output", params)
        text = str(reply.get("Output") or "")[-max_chars:]
        return "".join(c for c in text if c.isprintable() or c in "\n\t")

    async def vcpus(self, types: Iterable[str]) -> dict[str, int]:
        """How many vCPUs each instance type has; one that the Region lacks is left out."""
        found: dict[str, int] = {}
        for chunk in _chunks(sorted(set(types)), TYPES_PAGE_SIZE):
            request = {
                "Filters": [{"Name": "instance-type", "Values": chunk}],
                "MaxResults": TYPES_PAGE_SIZE,
            }
            for page in await self._gateway.pages("ec2", "describe_instance_types", request):
                for raw in page["InstanceTypes"]:
                    found[raw["InstanceType"]] = raw["VCpuInfo"]["DefaultVCpus"]
        return found

    async def quota(self, code: str) -> float:
        """The account's quota of EC2 by its code (``quotas.quota_code``) in this Region."""
        params = {"ServiceCode": "ec2", "QuotaCode": code}
        reply = await self._gateway.call("service-quotas", "get_service_quota", params)
        return float(reply["Quota"]["Value"])

    async def _list(
        self, operation: str, id_filter: str, ids: Sequence[str] | None, *more: dict[str, Any]
    ) -> list[dict[str, Any]]:
        filters = [{"Name": f"tag:{TAG_CLUSTER}", "Values": [self.cluster]}, *more]
        chunks = _chunks(ids, FILTER_VALUES) if ids is not None else [None]
        requests = [
            {
                "Filters": [*filters, *([{"Name": id_filter, "Values": chunk}] if chunk else ())],
                "MaxResults": PAGE_SIZE,
            }
            for chunk in chunks
        ]
        listings = await asyncio.gather(
            *(
                self._gateway.pages(
                    "ec2", operation, request, deadline_seconds=LISTING_DEADLINE_SECONDS
                )
                for request in requests
            )
        )
        return [page for pages in listings for page in pages]

    async def tags_of(self, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """The tags that each resource bears now, by id; {} for one that has none or is gone."""
        tags: dict[str, dict[str, str]] = {i: {} for i in ids}
        for chunk in _chunks(ids, FILTER_VALUES):
            request = {
                "Filters": [{"Name": "resource-id", "Values": chunk}],
                "MaxResults": PAGE_SIZE,
            }
            for page in await self._gateway.pages("ec2", "describe_tags", request):
                for tag in page["Tags"]:
                    tags[tag["ResourceId"]][tag["Key"]] = tag.get("Value", "")
        return tags

    # ---- instances

    async def launch(self, request: LaunchRequest, token: str) -> list[Worker]:
        """Launch between 1 and ``request.count`` workers; the same token gives the same ones."""
        tags = {
            **request.cost_tags,
            TAG_CLUSTER: self.cluster,
            TAG_ROLE: Role.WORKER.value,
            TAG_PROFILE: request.profile,
        }
        params: dict[str, Any] = {
            "LaunchTemplate": {
                "LaunchTemplateId": request.launch_template_id,
                "Version": "$Latest",
            },
            "InstanceType": request.instance_type,
            "SubnetId": request.subnet_id,
            "MinCount": 1,
            "MaxCount": request.count,
            "ClientToken": token,
            **credit_parameters(request.instance_type, STANDARD),
        }
        kinds = ["instance", "volume", "network-interface"]
        if request.market == SPOT:
            kinds.append("spot-instances-request")
            params["InstanceMarketOptions"] = {
                "MarketType": SPOT,
                # Persistent, for no other can be stopped; and stopped, not ended, by EC2.
                "SpotOptions": {
                    "SpotInstanceType": "persistent",
                    "InstanceInterruptionBehavior": "stop",
                },
            }
        params["TagSpecifications"] = [
            {"ResourceType": kind, "Tags": _tag_list(tags)} for kind in kinds
        ]
        if request.image_id:
            params["ImageId"] = request.image_id
        if request.home_gib:
            # AWS does not say that the mappings of a call and of its launch template are merged
            # device by device: the call names the root disk too.
            params["BlockDeviceMappings"] = [
                _disk(request.root_device, request.root_gib, is_kept=False),
                _disk(HOME_DEVICE, request.home_gib, is_kept=True),
            ]
        reply = await self._gateway.call(
            "ec2", "run_instances", params, effect=Effect.REPEATABLE, instances=request.count
        )
        return [parse_worker(raw) for raw in reply["Instances"]]

    async def start(self, ids: Sequence[str]) -> None:
        """Start stopped instances, all or none."""
        await self._on_instances("start_instances", ids)

    async def stop(self, ids: Sequence[str], *, force: bool = False) -> None:
        """Stop running instances, all or none.

        By ``force``, those that are stuck while they stop: without regard to what they have not
        written yet.
        """
        await self._on_instances("stop_instances", ids, **({"Force": True} if force else {}))

    async def terminate(self, ids: Sequence[str], spot_requests: Sequence[str] = ()) -> None:
        """Terminate instances for good, all or none.

        ``spot_requests``: those of the spot instances among them (``Worker.spot_request_id``). They
        are cancelled before, since EC2 launches another instance for a persistent request whose
        instance ends. It is done here, and not by who decides, for it is no decision: there is no
        other way to end a spot instance.
        """
        await self.cancel_spot(spot_requests)
        await self._on_instances("terminate_instances", ids)

    async def cancel_spot(self, request_ids: Sequence[str]) -> None:
        """Cancel spot requests; gone already is success.

        A stopped instance of such a request is terminated by EC2, a running one goes on.
        """
        for chunk in _chunks([i for i in request_ids if i], FILTER_VALUES):
            try:
                await self._gateway.call(
                    "ec2",
                    "cancel_spot_instance_requests",
                    {"SpotInstanceRequestIds": chunk},
                    effect=Effect.REPEATABLE,
                )
            except NotFound:  # one spoils the call for all
                if len(chunk) > 1:
                    for one in chunk:
                        await self.cancel_spot([one])

    async def set_type(self, instance_id: str, instance_type: str) -> None:
        """Change the type of a stopped on-demand instance; EC2 refuses it for a spot instance."""
        params = {"InstanceId": instance_id, "InstanceType": {"Value": instance_type}}
        await self._gateway.call(
            "ec2", "modify_instance_attribute", params, effect=Effect.REPEATABLE
        )

    async def _on_instances(self, operation: str, ids: Sequence[str], **more: Any) -> None:
        await self._gateway.call(
            "ec2",
            operation,
            {"InstanceIds": list(ids), **more},
            effect=Effect.REPEATABLE,
            instances=len(ids),
        )

    # ---- tags

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Set the same tags on all of ``ids`` (at most 1000)."""
        await self._gateway.call(
            "ec2",
            "create_tags",
            {"Resources": list(ids), "Tags": _tag_list(tags)},
            effect=Effect.REPEATABLE,
        )

    async def untag(self, ids: Sequence[str], keys: Collection[str]) -> None:
        """Remove tags from all of ``ids`` (at most 1000).

        Without keys EC2 would remove all tags (API reference, "DeleteTags", 2026): that is refused.
        """
        if not keys:
            raise ValueError("no tag is named that is to be removed")
        await self._gateway.call(
            "ec2",
            "delete_tags",
            {"Resources": list(ids), "Tags": [{"Key": key} for key in keys]},
            effect=Effect.REPEATABLE,
        )

    # ---- volumes

    async def attach(self, volume_id: str, instance_id: str) -> None:
        """Attach a home to an instance; attached there already is success."""
        params = {"VolumeId": volume_id, "InstanceId": instance_id, "Device": HOME_DEVICE}
        try:
            await self._gateway.call("ec2", "attach_volume", params, effect=Effect.REPEATABLE)
        except WrongState:
            # A repeated call, whose first answer was lost, finds the volume in use by itself.
            volumes = await self.list_volumes([volume_id])
            if not volumes or volumes[0].attached_to != instance_id:
                raise

    async def detach(self, volume_id: str, instance_id: str) -> None:
        """Begin to take a home off an instance; detached from it already is success.

        EC2 allows it from a running instance, too: that it is stopped is the caller's to know.
        """
        params = {"VolumeId": volume_id, "InstanceId": instance_id}
        try:
            await self._gateway.call("ec2", "detach_volume", params, effect=Effect.REPEATABLE)
        except (NotFound, WrongState):
            # A repeated call, whose first answer was lost, finds the volume free, or in other use.
            volumes = await self.list_volumes([volume_id])
            if not volumes or volumes[0].attached_to == instance_id:
                raise

    async def create_volume(
        self, snapshot_id: str, zone: str, size_gib: int, tags: Mapping[str, str], token: str
    ) -> Volume:
        """Begin a volume with a snapshot's files in a zone; the same token gives the same one."""
        params = {
            "SnapshotId": snapshot_id,
            "AvailabilityZone": zone,
            "Size": size_gib,
            "VolumeType": VOLUME_TYPE,
            "Encrypted": True,
            "ClientToken": token,
            "TagSpecifications": [{"ResourceType": "volume", "Tags": _tag_list(tags)}],
        }
        return parse_volume(
            await self._gateway.call("ec2", "create_volume", params, effect=Effect.REPEATABLE)
        )

    async def snapshot(self, volume_id: str, tags: Mapping[str, str]) -> Snapshot:
        """Begin a snapshot of a volume.

        CreateSnapshot takes no client token: a tag of ours is one, and a lost reply is looked up.
        """
        token = secrets.token_hex(8)
        marked = {**tags, TAG_REQUEST: token}
        params = {
            "VolumeId": volume_id,
            "TagSpecifications": [{"ResourceType": "snapshot", "Tags": _tag_list(marked)}],
        }
        try:
            reply = await self._gateway.call("ec2", "create_snapshot", params)
        except OutcomeUnknown:
            made = [s for s in await self.list_snapshots() if s.tags.get(TAG_REQUEST) == token]
            if not made:
                raise
            return made[0]
        return parse_snapshot(reply)

    async def delete_volume(self, volume_id: str) -> None:
        """Delete an unattached volume; gone already is success."""
        await self._gone("delete_volume", {"VolumeId": volume_id})

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot; gone already is success."""
        await self._gone("delete_snapshot", {"SnapshotId": snapshot_id})

    async def _gone(self, operation: str, params: Mapping[str, Any]) -> None:
        try:
            await self._gateway.call("ec2", operation, params, effect=Effect.REPEATABLE)
        except NotFound:
            return

    # ---- parameters

    async def secret(self, name: str) -> str:
        """The value of an SSM SecureString; the caller keeps it out of logs and files."""
        params = {"Name": name, "WithDecryption": True}
        reply = await self._gateway.call("ssm", "get_parameter", params)
        value: str = reply["Parameter"]["Value"]
        return value

    async def parameter(self, name: str) -> str | None:
        """The value of an SSM parameter that is no secret; None where there is none."""
        try:
            reply = await self._gateway.call("ssm", "get_parameter", {"Name": name})
        except NotFound:
            return None
        value: str = reply["Parameter"]["Value"]
        return value


def _workers(replies: Iterable[Mapping[str, Any]]) -> list[Worker]:
    return [
        parse_worker(raw)
        for reply in replies
        for reservation in reply.get("Reservations", ())
        for raw in reservation.get("Instances", ())
    ]


def _parsed(
    parse: Callable[[Mapping[str, Any]], R], replies: Iterable[Mapping[str, Any]], key: str
) -> list[R]:
    return [parse(raw) for reply in replies for raw in reply.get(key, ())]


def _disk(device: str, size_gib: int, *, is_kept: bool) -> dict[str, Any]:
    return {
        "DeviceName": device,
        "Ebs": {
            "VolumeSize": size_gib,
            "VolumeType": VOLUME_TYPE,
            "Encrypted": True,
            "DeleteOnTermination": not is_kept,
        },
    }


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _chunks(ids: Sequence[str], size: int) -> list[list[str]]:
    return [list(ids[i : i + size]) for i in range(0, len(ids), size)]
