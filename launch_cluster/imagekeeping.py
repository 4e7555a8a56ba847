"""``launch-cluster image list|prune|share``: the images that there are, and what becomes of them.

Owns what is looked at, shown, asked and done, in this order. What may go is decided in
``imaging``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.configfile import Fault
from ec2spawner.errors import CloudError, EC2SpawnerError, Rejected
from ec2spawner.model import TAG_CLUSTER

from .course import course_key
from .images import Images
from .imaging import (
    TAG_JUPYTERHUB,
    TAG_VERSION,
    Pruning,
    Usage,
    WorkerImage,
    age_of,
    find_by_id,
    plan_pruning,
)
from .looking import account_of
from .reporter import Reporter
from .request import OptionError
from .stacks import Stacks

CANNOT_SHARE = ("OperationNotPermitted", "InvalidParameter")
"""EC2's words for snapshots under the account's default key (hashicorp/packer#7410, #7499)."""


def check_account(account: str) -> None:
    """OptionError for what cannot be an AWS account."""
    if not (account.isascii() and account.isdigit() and len(account) == 12):
        instead = "12 digits, without hyphens"
        raise OptionError([Fault("ACCOUNT", repr(account), "is not an AWS account", instead)])


class CannotShare(EC2SpawnerError):
    """EC2 does not let this image be shared."""

    code = "cannot-share"


class NoImage(EC2SpawnerError):
    """The image that was named, or any, is not there."""

    code = "no-image"


@dataclass
class ImageKeeping:
    """One run of one of these commands; ``done`` and ``failed`` tell how far it came."""

    gateway: Gateway
    cluster: str
    reporter: Reporter
    confirm: Callable[[], Awaitable[None]]  # raises what ends the command if the answer is no
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._images = Images(self.gateway, self.cluster, {TAG_CLUSTER: self.cluster})
        self._template_id: str | None = None
        self._bucket = ""

    async def _look(self) -> list[WorkerImage]:
        await account_of(self.gateway)
        stack = await Stacks(self.gateway, self.reporter).find(f"ec2spawner-{self.cluster}")
        self._template_id = stack.outputs.get("LaunchTemplateId") if stack else None
        self._bucket = stack.outputs.get("Bucket", "") if stack else ""
        return sorted(await self._images.made(), key=lambda i: i.created, reverse=True)

    async def _usage(self, images: list[WorkerImage]) -> Usage:
        return await self._images.usage(images, self._template_id)

    # ---- list

    async def show_all(self) -> dict[str, Any]:
        """All images with what uses them; the result for ``--output json``."""
        images = await self._look()
        usage = await self._usage(images)
        current = await self._images.current()
        if not images:
            self.reporter.show([f"Cluster {self.cluster} has no worker images."])
        for image in images:
            self.reporter.show(self._lines(image, usage.of(image.image_id)))
        if current and not find_by_id(images, current):
            self.reporter.show([f"New workers get {current}, which was not built here."])
        return {
            "cluster": self.cluster,
            "parameter": self._images.parameter,
            "current": current,
            "images": [
                {**image.summary(), "used_by": list(usage.of(image.image_id))} for image in images
            ],
        }

    def _lines(self, image: WorkerImage, users: tuple[str, ...]) -> list[str]:
        version = image.tags.get(TAG_VERSION, "?")
        hub = image.tags.get(TAG_JUPYTERHUB, "?")
        state = "" if image.is_usable else f"  {image.state}"
        return [
            f"{image.image_id}  {image.created[:16].replace('T', ' ')}"
            f"  {age_of(image.created, self.now())}  {image.architecture}"
            f"  ec2spawner {version}, JupyterHub {hub}{state}",
            f"    used by {', '.join(users) if users else 'nothing'}",
        ]

    # ---- prune

    async def prune(self, keep: int, *, dry_run: bool) -> dict[str, Any]:
        """Remove unused images but the newest ``keep``; the result for ``--output json``."""
        images = await self._look()
        courses = await self._images.courses(self._bucket, self.now()) if self._bucket else []
        usage = await self._usage(images)
        plan = plan_pruning(images, await self._images.snapshots(), usage, keep, courses)
        self._show(plan)
        if plan.is_empty or dry_run:
            return self._pruned(plan, "nothing to do" if plan.is_empty else "planned")
        await self.confirm()
        for image in plan.images:
            await self._remove(image)
        for snapshot_id in plan.snapshots:
            await self._try(snapshot_id, self._images.ec2.delete_snapshot(snapshot_id))
        for sha256 in plan.courses if not self.failed else ():
            await self._try(course_key(sha256), self._images.remove_course(self._bucket, sha256))
        self.reporter.show([f"Removed {len(self.done)}, failed {len(self.failed)}."])
        for text in self.failed:
            self.reporter.progress(f"failed: {text}")
        return self._pruned(plan, "partly done" if self.failed else "done")

    def _show(self, plan: Pruning) -> None:
        lines = [f"Cluster {self.cluster}:"]
        for image in plan.images:
            snapshots = ", ".join(image.snapshots) or "no snapshot"
            lines.append(
                f"  remove {image.image_id}  {image.created[:10]}  {image.state}  with {snapshots}"
            )
        lines += [
            f"  remove {snapshot}, of an image that is gone already" for snapshot in plan.snapshots
        ]
        lines += [f"  remove {course_key(c)}, of which no image is made" for c in plan.courses]
        lines += [f"  keep   {image.image_id}: {reason}" for image, reason in plan.kept]
        if plan.is_empty:
            lines.append("Nothing to do.")
        self.reporter.show(lines)

    async def _remove(self, image: WorkerImage) -> None:
        """Remove an image, if nothing has come to use it since it was looked at."""
        users = (await self._usage([image])).of(image.image_id)
        if users:
            self.failed.append(f"{image.image_id} is kept: it is used by {', '.join(users)} now")
            return
        await self._try(image.image_id, self._images.remove(image.image_id, image.snapshots))

    async def _try(self, what: str, work: Awaitable[None]) -> None:
        try:
            await work
            self.done.append(what)
        except CloudError as error:
            self.failed.append(f"{what}: {error}")

    def _pruned(self, plan: Pruning, outcome: str) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "outcome": outcome,
            "images": [image.image_id for image in plan.images],
            "snapshots": list(plan.snapshots),
            "courses": [course_key(sha256) for sha256 in plan.courses],
            "kept": [{"image_id": image.image_id, "reason": text} for image, text in plan.kept],
            "done": self.done,
            "failed": self.failed,
        }

    # ---- share

    async def share(
        self, account: str, image_id: str | None, *, revoke: bool, dry_run: bool
    ) -> dict[str, Any]:
        """Let another account use an image, the current one unless named; or no more."""
        images = await self._look()
        wanted = image_id or await self._images.current()
        image = find_by_id(images, wanted)
        if image is None:
            raise NoImage(
                f"{wanted or 'A worker image'} is not among the images of {self.cluster}.",
                next_step=f"launch-cluster image list {self.cluster} shows them.",
            )
        if (account in await self._images.shared_with(image)) is not revoke:
            word = "not" if revoke else "already"
            self.reporter.show([f"{image.image_id} is {word} shared with {account}."])
            return self._shared(image, account, "nothing to do")
        self.reporter.show(_what_sharing_means(image, account, revoke=revoke))
        if dry_run:
            return self._shared(image, account, "planned")
        await self.confirm()
        await self._share(image, account, revoke=revoke)
        if not revoke:
            self.reporter.show(["Shared. In the other account: CUSTOM_WORKER_AMI, same Region."])
        return self._shared(image, account, "done")

    async def _share(self, image: WorkerImage, account: str, *, revoke: bool) -> None:
        try:
            await self._images.share(image, account, revoke=revoke)
        except Rejected as error:
            if not image.is_encrypted or error.aws_code not in CANNOT_SHARE:
                raise
            raise CannotShare(
                f"EC2 does not share {image.image_id}: it is encrypted with the account's own key.",
                why=error.why,
                next_step=f"Build one that is not (launch-cluster image build {self.cluster}"
                " --unencrypted; workers' disks are encrypted all the same), or copy it under a"
                " key of your own in the EC2 console.",
            ) from error
        self.done.append(image.image_id)

    def _shared(self, image: WorkerImage, account: str, outcome: str) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "outcome": outcome,
            "image_id": image.image_id,
            "snapshots": list(image.snapshots),
            "account": account,
            "encrypted": image.is_encrypted,
        }


def _what_sharing_means(image: WorkerImage, account: str, *, revoke: bool) -> list[str]:
    snapshots = ", ".join(image.snapshots)
    if revoke:
        return [
            f"Let the account {account} no longer launch {image.image_id} nor read {snapshots}."
            " What it has launched or copied stays with it."
        ]
    lines = [
        f"Let the account {account} launch {image.image_id}, and read {snapshots}: everything"
        " that is in the image."
    ]
    if image.is_encrypted:
        lines.append(
            "The image is encrypted. EC2 shares it only if that was done with a key of your own"
            " (not aws/ebs), and the other account must be let use that key, too (KMS key policy)."
        )
    return lines
