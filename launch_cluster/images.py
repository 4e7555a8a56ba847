"""The cluster's worker images in AWS: listed, named by the parameter, pruned, shared.

Owns the questions and changes; what is built, kept or removed is decided in ``imaging``.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import EC2SpawnerError, NotFound, Rejected
from ec2spawner.model import TAG_CLUSTER, TAG_ROLE, Role
from ec2spawner.settings import worker_image_parameter

from .course import COURSE_PREFIX, course_key
from .imaging import Builder, Usage, WorkerImage, parse_builder, parse_worker_image
from .reporter import Elapsed, Reporter

DATA_TYPE = "aws:ec2:image"
"""EC2 takes an image's id from parameters of this data type only (EC2 user guide, "Reference AMIs
using Systems Manager parameters", read 2026)."""

PARAMETER_DEADLINE_SECONDS = 60.0
PAGE_SIZE = 200
COURSE_MIN_SECONDS = 86_400.0
"""A build that is about to begin has put its files, and has no builder yet."""
PARAMETERS_MAX = 10  # SSM API reference, "GetParameters", 2026


class ImageParameterUnset(EC2SpawnerError):
    """SSM took the new value and did not show it."""

    code = "image-parameter"


class Images:
    """One cluster's worker images."""

    def __init__(
        self,
        gateway: Gateway,
        cluster: str,
        tags: Mapping[str, str],
        *,
        reporter: Reporter | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self.ec2 = EC2(gateway, cluster)
        self.cluster = cluster
        self.parameter = worker_image_parameter(cluster)
        self._tags = [{"Key": key, "Value": value} for key, value in tags.items()]
        self._reporter = reporter or Reporter()
        self._sleep = sleep
        self._clock = clock

    async def made(self) -> list[WorkerImage]:
        """Images that bear the cluster's tags, made or in the making."""
        params = {"Owners": ["self"], "Filters": self._filters(), "MaxResults": PAGE_SIZE}
        pages = await self._gateway.pages("ec2", "describe_images", params)
        return [parse_worker_image(raw) for page in pages for raw in page["Images"]]

    async def find(self, *names_or_ids: str, by: str = "image-id") -> list[WorkerImage]:
        """Images of this account, ours or not, by id or name."""
        filters = [{"Name": by, "Values": list(names_or_ids)}]
        params = {"Owners": ["self"], "Filters": filters}
        reply = await self._gateway.call("ec2", "describe_images", params)
        return [parse_worker_image(raw) for raw in reply["Images"]]

    async def snapshots(self) -> list[str]:
        """Ids of the completed snapshots that bear the tags of worker images."""
        filters = [*self._filters(), {"Name": "status", "Values": ["completed"]}]
        params = {"OwnerIds": ["self"], "Filters": filters, "MaxResults": 1000}
        pages = await self._gateway.pages("ec2", "describe_snapshots", params)
        return [raw["SnapshotId"] for page in pages for raw in page["Snapshots"]]

    def _filters(self) -> list[dict[str, Any]]:
        return [
            {"Name": f"tag:{TAG_CLUSTER}", "Values": [self.cluster]},
            {"Name": f"tag:{TAG_ROLE}", "Values": [Role.IMAGE.value]},
        ]

    # ---- builders

    async def builders(self) -> list[Builder]:
        """The cluster's builders that are not gone."""
        params = {
            "Filters": [
                {"Name": f"tag:{TAG_CLUSTER}", "Values": [self.cluster]},
                {"Name": f"tag:{TAG_ROLE}", "Values": [Role.BUILDER.value]},
            ],
            "MaxResults": 1000,
        }
        pages = await self._gateway.pages("ec2", "describe_instances", params)
        found = [
            parse_builder(raw, datetime.now(timezone.utc))
            for page in pages
            for reservation in page["Reservations"]
            for raw in reservation["Instances"]
        ]
        return [builder for builder in found if not builder.is_gone]

    async def end_builder(self, instance_id: str) -> None:
        """Terminate a builder; gone already is success."""
        await self._unless_gone("terminate_instances", {"InstanceIds": [instance_id]})

    # ---- courses' files

    async def courses(self, bucket: str, now: datetime) -> list[str]:
        """Hashes of the courses' files that have lain there for a day; none during a build."""
        if await self.builders():
            return []
        params = {"Bucket": bucket, "Prefix": COURSE_PREFIX}
        pages = await self._gateway.pages("s3", "list_objects_v2", params)
        return [
            entry["Key"].removeprefix(COURSE_PREFIX).partition(".")[0]
            for page in pages
            for entry in page.get("Contents") or ()
            if (now - entry["LastModified"]).total_seconds() > COURSE_MIN_SECONDS
        ]

    async def remove_course(self, bucket: str, sha256: str) -> None:
        """Delete a course's files from the bucket; gone already is success."""
        params = {"Bucket": bucket, "Key": course_key(sha256)}
        await self._gateway.call("s3", "delete_object", params, effect=Effect.REPEATABLE)

    # ---- the parameter

    async def current(self) -> str | None:
        """The id that the parameter holds; None if it is not there."""
        return await self.ec2.parameter(self.parameter)

    async def set_current(self, image_id: str) -> None:
        """Have new workers launched from ``image_id`` from now on; returns once it is so.

        SSM looks whether the image exists only after it has answered (Systems Manager user guide,
        "Native parameter support for Amazon Machine Image IDs", read 2026).
        """
        await self._put(image_id, is_new=await self.current() is None)
        elapsed: Elapsed | None = None
        while await self.current() != image_id:
            elapsed = elapsed or Elapsed(
                self._reporter, self._clock, f"Waiting until SSM takes the image {image_id}"
            )
            elapsed.tick("SSM asks EC2 whether it exists")
            if elapsed.seconds > PARAMETER_DEADLINE_SECONDS:
                raise ImageParameterUnset(
                    f"The SSM parameter {self.parameter} does not take the image {image_id}.",
                    why="SSM checks the value, and keeps the old one if EC2 does not know it.",
                    next_step="Look at the parameter in the Systems Manager console, then run the"
                    " same command again.",
                )
            await self._sleep(2.0)

    async def _put(self, image_id: str, *, is_new: bool) -> None:
        params: dict[str, Any] = {
            "Name": self.parameter,
            "Description": "Image of new workers",
            "Value": image_id,
            "Type": "String",
            "DataType": DATA_TYPE,
        }
        params |= {"Tags": self._tags} if is_new else {"Overwrite": True}
        try:
            await self._gateway.call("ssm", "put_parameter", params, effect=Effect.REPEATABLE)
        except Rejected as error:
            if not is_new or error.aws_code != "ParameterAlreadyExists":
                raise
            await self._put(image_id, is_new=False)  # a repeated call met its first

    # ---- use

    async def usage(self, images: Iterable[WorkerImage], template_id: str | None) -> Usage:
        """What uses each of ``images``: the parameter, the template, instances of anyone here.

        What another account does with an image that is shared with it cannot be seen: it counts as
        used.
        """
        images = list(images)
        users: dict[str, list[str]] = defaultdict(list)
        for image_id, others in (await self.used_elsewhere()).items():
            users[image_id] += others
        current = await self.current()
        if current:
            users[current].append("the parameter")
        if template_id:
            for image_id in await self._named_by_template(template_id):
                users[image_id].append("the launch template")
        for image_id, instances in (await self._instances([i.image_id for i in images])).items():
            shown = ", ".join(sorted(instances)[:3])
            more = f" and {len(instances) - 3} more" if len(instances) > 3 else ""
            users[image_id].append(f"{shown}{more}")
        for image in images:
            users[image.image_id] += [f"account {a}" for a in sorted(await self.shared_with(image))]
        return Usage(MappingProxyType({k: tuple(v) for k, v in users.items()}))

    async def used_elsewhere(self) -> dict[str, list[str]]:
        """Images that other clusters, or templates of others, of this account launch from.

        Another cluster may name one of ours as CUSTOM_WORKER_AMI.
        """
        users: dict[str, list[str]] = defaultdict(list)
        for name, image_id in (await self._parameters()).items():
            if name != self.parameter:
                users[image_id].append(f"the cluster {name.split('/')[2]}")
        params = {"Versions": ["$Latest", "$Default"]}
        pages = await self._gateway.pages("ec2", "describe_launch_template_versions", params)
        for version in (v for page in pages for v in page["LaunchTemplateVersions"]):
            template = f"the launch template {version['LaunchTemplateName']}"
            image_id = str(version["LaunchTemplateData"].get("ImageId", ""))
            is_ours = version["LaunchTemplateName"] == f"ec2spawner-{self.cluster}"
            if not is_ours and template not in users.get(image_id, ()):
                users[image_id].append(template)
        return users

    async def _parameters(self) -> dict[str, str]:
        """What each cluster of this account and Region launches: parameter to image."""
        begins = {"Key": "Name", "Option": "BeginsWith", "Values": ["/ec2spawner/"]}
        pages = await self._gateway.pages(
            "ssm", "describe_parameters", {"ParameterFilters": [begins]}
        )
        listed = [parameter["Name"] for page in pages for parameter in page["Parameters"]]
        names = [n for n in listed if n == worker_image_parameter(n.split("/")[2])]
        found: dict[str, str] = {}
        for start in range(0, len(names), PARAMETERS_MAX):
            params = {"Names": names[start : start + PARAMETERS_MAX]}
            reply = await self._gateway.call("ssm", "get_parameters", params)
            found |= {p["Name"]: p["Value"] for p in reply["Parameters"]}
        return found

    async def _named_by_template(self, template_id: str) -> set[str]:
        """The ids in all of its versions: an older one can still be asked for by its number."""
        params = {"LaunchTemplateId": template_id}
        pages = await self._gateway.pages("ec2", "describe_launch_template_versions", params)
        found = {
            str(version["LaunchTemplateData"].get("ImageId", ""))
            for page in pages
            for version in page["LaunchTemplateVersions"]
        }
        return {image_id for image_id in found if image_id.startswith("ami-")}

    async def _instances(self, ids: list[str]) -> dict[str, list[str]]:
        """Image to the instances of it that are not gone."""
        using: dict[str, list[str]] = defaultdict(list)
        for start in range(0, len(ids), PAGE_SIZE):
            params = {
                "Filters": [{"Name": "image-id", "Values": ids[start : start + PAGE_SIZE]}],
                "MaxResults": 1000,
            }
            for page in await self._gateway.pages("ec2", "describe_instances", params):
                for reservation in page["Reservations"]:
                    for raw in reservation["Instances"]:
                        if raw["State"]["Name"] not in ("terminated", "shutting-down"):
                            using[raw["ImageId"]].append(raw["InstanceId"])
        return using

    # ---- an end, and others

    async def remove(self, image_id: str, snapshots: Iterable[str]) -> None:
        """Deregister an image and delete its snapshots; gone already is success."""
        await self._unless_gone("deregister_image", {"ImageId": image_id})
        for snapshot_id in snapshots:
            await self.ec2.delete_snapshot(snapshot_id)

    async def _unless_gone(self, operation: str, params: Mapping[str, Any]) -> None:
        try:
            await self._gateway.call("ec2", operation, params, effect=Effect.REPEATABLE)
        except NotFound:
            pass
        except Rejected as error:
            if error.aws_code != "InvalidAMIID.Unavailable":  # EC2's word for a deregistered one
                raise

    async def shared_with(self, image: WorkerImage) -> set[str]:
        """The accounts that may launch the image."""
        params = {"ImageId": image.image_id, "Attribute": "launchPermission"}
        reply = await self._gateway.call("ec2", "describe_image_attribute", params)
        return {p["UserId"] for p in reply.get("LaunchPermissions") or () if "UserId" in p}

    async def share(self, image: WorkerImage, account: str, *, revoke: bool = False) -> None:
        """Let another account launch the image and copy its snapshots, or no more; repeatable."""
        grant = {"Remove" if revoke else "Add": [{"UserId": account}]}
        for snapshot_id in image.snapshots:
            await self._gateway.call(
                "ec2",
                "modify_snapshot_attribute",
                {"SnapshotId": snapshot_id, "CreateVolumePermission": grant},
                effect=Effect.REPEATABLE,
            )
        await self._gateway.call(
            "ec2",
            "modify_image_attribute",
            {"ImageId": image.image_id, "LaunchPermission": grant},
            effect=Effect.REPEATABLE,
        )
