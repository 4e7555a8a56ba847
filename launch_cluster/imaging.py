"""Worker images, as plain functions: what one is made from, and whether there is one already.

Owns the recipe with its content hash, the tags that tell an image's origin, and which image is
used, built or pruned. Must not call AWS, read a file or print.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any

from ec2spawner.model import TAG_CLUSTER, TAG_ROLE, InstanceState, Role, tags_of
from ec2spawner.settings import Choices
from ec2spawner.version import __version__

TAG_CONTENT = "ec2spawner:content"  # hash of all that the image is made from
TAG_BASE = "ec2spawner:base"
TAG_COURSE = "ec2spawner:course"  # hash of the course's files, by which they lie in the bucket
TAG_STAMP = "ec2spawner:stamp"  # when it was asked for anew although its inputs were the same
TAG_VERSION = "ec2spawner:version"
TAG_PACKAGE = "ec2spawner:package"  # hash of what of this package is in it
TAG_JUPYTERHUB = "ec2spawner:jupyterhub"
TAG_JUPYTERLAB = "ec2spawner:jupyterlab"
TAG_USERNAME = "ec2spawner:username"
TAG_NOTEBOOK_PORT = "ec2spawner:notebook-port"
TAG_SSH_PORT = "ec2spawner:ssh-port"

CONTENT_SHOWN = 12  # characters of a hash that people are shown


@dataclass(frozen=True)
class WorkerImage:
    """An image of this account, as far as its use and its end need it."""

    image_id: str
    name: str
    state: str
    created: str  # as EC2 writes it, so that texts sort by time
    architecture: str
    root_device: str
    root_gib: int
    snapshots: tuple[str, ...] = ()
    is_encrypted: bool = True
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def content(self) -> str:
        """The content hash of what it was made from; "" for an image of other origin."""
        return self.tags.get(TAG_CONTENT, "")

    @property
    def is_usable(self) -> bool:
        """Whether instances can be launched from it."""
        return self.state == "available"

    def summary(self) -> dict[str, Any]:
        """For ``--output json``."""
        return {
            "image_id": self.image_id,
            "name": self.name,
            "state": self.state,
            "created": self.created,
            "architecture": self.architecture,
            "root_gib": self.root_gib,
            "encrypted": self.is_encrypted,
            "snapshots": list(self.snapshots),
            "base": self.tags.get(TAG_BASE),
            "content": self.content or None,
            "course": self.tags.get(TAG_COURSE),
            "version": self.tags.get(TAG_VERSION),
            "jupyterhub": self.tags.get(TAG_JUPYTERHUB),
            "jupyterlab": self.tags.get(TAG_JUPYTERLAB),
        }


def parse_worker_image(raw: Mapping[str, Any]) -> WorkerImage:
    """One element of DescribeImages' ``Images``."""
    root = raw.get("RootDeviceName") or "/dev/sda1"
    disks = {
        m.get("DeviceName"): m["Ebs"] for m in raw.get("BlockDeviceMappings") or () if "Ebs" in m
    }
    return WorkerImage(
        image_id=raw["ImageId"],
        name=raw.get("Name", ""),
        state=raw["State"],
        created=raw.get("CreationDate", ""),
        architecture=raw.get("Architecture", ""),
        root_device=root,
        root_gib=disks.get(root, {}).get("VolumeSize", 0),
        snapshots=tuple(d["SnapshotId"] for d in disks.values() if d.get("SnapshotId")),
        is_encrypted=any(d.get("Encrypted", False) for d in disks.values()),
        tags=tags_of(raw),
    )


@dataclass(frozen=True)
class Recipe:
    """All that a worker image is made from: the same recipe, the same image."""

    base_image: str
    package: str  # hash of what of this package is on workers
    course: str = ""  # hash of the course's files; "" for none
    stamp: str = ""
    username: str = "jovyan"
    notebook_port: int = 8888
    ssh_port: int = 22
    sudo: bool = False
    encrypted: bool = True

    @property
    def content(self) -> str:
        """The content hash."""
        text = json.dumps({k: getattr(self, k) for k in sorted(self.__dataclass_fields__)})
        return hashlib.sha256(text.encode()).hexdigest()

    def parameters(self) -> dict[str, str]:
        """The environment of the provisioning script."""
        return {
            "WORKER_USERNAME": self.username,
            "WORKER_NOTEBOOK_PORT": str(self.notebook_port),
            "WORKER_SSH_PORT": str(self.ssh_port),
            "WORKER_SUDO": "1" if self.sudo else "0",
        }


def recipe_of(
    choices: Choices, base_image: str, package: str, current: WorkerImage | None
) -> Recipe:
    """What the choices ask for; what they say nothing of stays as in the current image."""
    recipe = Recipe(
        base_image=base_image,
        package=package,
        username=choices.WORKER_USERNAME,
        notebook_port=choices.WORKER_NOTEBOOK_PORT,
        ssh_port=choices.WORKER_SSH_PORT,
        sudo=choices.WORKER_SUDO,
    )
    if current is None or not current.content:
        return recipe
    return replace(
        recipe,
        course=current.tags.get(TAG_COURSE, ""),
        stamp=current.tags.get(TAG_STAMP, ""),
        encrypted=current.is_encrypted,
    )


def image_tags(
    cluster: str, recipe: Recipe, versions: Mapping[str, str], more: Mapping[str, str]
) -> dict[str, str]:
    """The tags of an image and of its snapshots; what is empty is left out."""
    tags = {
        **more,
        "Name": f"ec2spawner-{cluster}-worker",
        TAG_CLUSTER: cluster,
        TAG_ROLE: Role.IMAGE.value,
        TAG_CONTENT: recipe.content,
        TAG_BASE: recipe.base_image,
        TAG_COURSE: recipe.course,
        TAG_STAMP: recipe.stamp,
        TAG_VERSION: __version__,
        TAG_PACKAGE: recipe.package,
        TAG_JUPYTERHUB: versions.get("jupyterhub", ""),
        TAG_JUPYTERLAB: versions.get("jupyterlab", ""),
        TAG_USERNAME: recipe.username,
        TAG_NOTEBOOK_PORT: str(recipe.notebook_port),
        TAG_SSH_PORT: str(recipe.ssh_port),
    }
    return {key: value for key, value in tags.items() if value}


def locked_versions(lock: str) -> dict[str, str]:
    """Package to version, out of a lock's text."""
    pairs = (line.split(" ")[0].split("==") for line in lock.splitlines() if "==" in line)
    return {pair[0].strip().lower(): pair[1] for pair in pairs if len(pair) == 2}


def find_by_id(images: Iterable[WorkerImage], image_id: str | None) -> WorkerImage | None:
    """The image of that id."""
    return next((image for image in images if image.image_id == image_id), None)


def find_made(images: Iterable[WorkerImage], content: str, root_gib: int) -> WorkerImage | None:
    """The newest image of that content that fits on a root disk of that size, made or in making."""
    fitting = [
        image
        for image in images
        if image.content == content
        and image.state in ("available", "pending")
        and image.root_gib <= root_gib
    ]
    return max(fitting, key=lambda i: (i.is_usable, i.created, i.image_id), default=None)


def has_package(image: WorkerImage, recipe: Recipe) -> bool:
    """Whether the image holds of this package what the recipe wants, as far as its tags say."""
    known = image.tags.get(TAG_PACKAGE)
    return known == recipe.package if known else image.tags.get(TAG_VERSION) == __version__


class ImageChange(str, Enum):
    """What must be done for workers to get the image that is wanted."""

    BUILD = "build"
    TAKE = "take"  # it is there: only the parameter must name it


@dataclass(frozen=True)
class ImageStep:
    """What must be done, for which recipe or image, and why."""

    change: ImageChange
    reason: str
    recipe: Recipe | None = None  # of what is built
    image_id: str = ""  # of what is taken


def decide(
    recipe: Recipe, images: Sequence[WorkerImage], current_id: str | None, root_gib: int
) -> ImageStep | None:
    """What leads to a worker image of ``recipe``; None if new workers get one already."""
    current = find_by_id(images, current_id)
    if current and current.is_usable and find_made([current], recipe.content, root_gib):
        return None
    made = find_made(images, recipe.content, root_gib)
    if made and made.is_usable:
        return ImageStep(ImageChange.TAKE, "it was built before", recipe, made.image_id)
    return ImageStep(ImageChange.BUILD, _why_build(recipe, current, root_gib), recipe)


def _why_build(recipe: Recipe, current: WorkerImage | None, root_gib: int) -> str:
    if current is None:
        return "there is none yet"
    if current.content == recipe.content and current.root_gib > root_gib:
        return f"the one in use needs a root disk of {current.root_gib} GiB"
    if recipe.stamp != current.tags.get(TAG_STAMP, ""):
        return "it is asked for anew"
    if current.tags.get(TAG_BASE) != recipe.base_image:
        return f"the one in use is made from {current.tags.get(TAG_BASE) or 'something else'}"
    if current.tags.get(TAG_VERSION) != __version__:
        return f"the one in use holds version {current.tags.get(TAG_VERSION) or 'unknown'}"
    if current.tags.get(TAG_COURSE, "") != recipe.course:
        return "the one in use holds another course's packages"
    return "the one in use was built from other settings or files"


def take_custom(image_id: str, current_id: str | None) -> ImageStep | None:
    """What leads to an image that the operator brings; None if new workers get it already."""
    if image_id == current_id:
        return None
    return ImageStep(ImageChange.TAKE, "CUSTOM_WORKER_AMI names it", image_id=image_id)


def doubts_about_custom(
    image_id: str, tags: Mapping[str, str], jupyterhub: str, further_disks: Sequence[str] = ()
) -> Iterator[str]:
    """What an operator should know of an image of their own, which can be used nevertheless."""
    if further_disks:
        yield (
            f"{image_id} brings further disks ({', '.join(further_disks)}), which each worker gets"
            " and pays for."
        )
    version = tags.get(TAG_VERSION)
    if not version:
        yield (
            f"{image_id} does not say that it is a worker image of ec2spawner: whether it holds"
            " what the hub needs shows only when a worker starts."
        )
        return
    if version != __version__:
        yield f"{image_id} holds ec2spawner {version}, the hub {__version__}: better the same."
    if jupyterhub and tags.get(TAG_JUPYTERHUB) != jupyterhub:
        has = tags.get(TAG_JUPYTERHUB) or "none known"
        yield f"{image_id} holds JupyterHub {has}, the hub is {jupyterhub}: better the same."


# ---- builders

BUILD_MAX_SECONDS = 2 * 3600.0
"""An hour for a builder's work, and one for its image: then every run has given it up."""


@dataclass(frozen=True)
class Builder:
    """A builder instance, as a listing shows it."""

    instance_id: str
    state: InstanceState
    content: str
    age_seconds: float = 0.0  # since its launch

    @property
    def is_gone(self) -> bool:
        """Whether it is ended, or on its way there."""
        return self.state in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED)

    @property
    def is_off(self) -> bool:
        """Whether it is off, or on its way there."""
        return self.state in (InstanceState.STOPPING, InstanceState.STOPPED)


def parse_builder(raw: Mapping[str, Any], now: datetime) -> Builder:
    """One element of DescribeInstances' ``Instances``."""
    launched = raw.get("LaunchTime") or now
    return Builder(
        raw["InstanceId"],
        InstanceState(raw["State"]["Name"]),
        tags_of(raw).get(TAG_CONTENT, ""),
        (now - launched).total_seconds(),
    )


def left_over(builders: Iterable[Builder], images: Iterable[WorkerImage]) -> tuple[str, ...]:
    """The builders that nobody waits for any more: old, or their image is there.

    Any other may be a colleague's, also one that is off: its image may just be begun.
    """
    made = {image.content for image in images if image.is_usable}
    return tuple(
        b.instance_id for b in builders if b.age_seconds > BUILD_MAX_SECONDS or b.content in made
    )


# ---- pruning


@dataclass(frozen=True)
class Usage:
    """What uses images: id to words."""

    by_image: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, image_id: str) -> tuple[str, ...]:
        """What uses that image; () for nothing."""
        return self.by_image.get(image_id, ())


@dataclass(frozen=True)
class Pruning:
    """What would go, and what stays with its reason."""

    images: tuple[WorkerImage, ...]
    snapshots: tuple[str, ...]  # of images that are gone already
    kept: tuple[tuple[WorkerImage, str], ...]
    courses: tuple[str, ...] = ()  # hashes of courses' files that no image is made of any more

    @property
    def is_empty(self) -> bool:
        """Whether nothing would go."""
        return not self.images and not self.snapshots and not self.courses


def plan_pruning(
    images: Sequence[WorkerImage],
    snapshots: Iterable[str],
    usage: Usage,
    keep: int,
    courses: Iterable[str] = (),
) -> Pruning:
    """All but the newest ``keep`` unused images, and never one that is used or in the making.

    Snapshots of no known image are left while one is being made: they may be its own. ``courses``:
    hashes of the courses' files that nobody may be building from now.
    """
    newest_first = sorted(images, key=lambda i: (i.created, i.image_id), reverse=True)
    going, kept, spared = [], [], 0
    for image in newest_first:
        reason = _reason_to_keep(image, usage)
        if reason is None and image.state != "failed" and spared < keep:
            spared += 1
            reason = f"one of the newest {keep}"
        if reason:
            kept.append((image, reason))
        else:
            going.append(image)
    known = {snapshot for image in images for snapshot in image.snapshots}
    is_making = any(image.state == "pending" for image in images)
    orphans = () if is_making else tuple(sorted(set(snapshots) - known))
    needed = {image.tags.get(TAG_COURSE) for image, _ in kept}
    return Pruning(tuple(going), orphans, tuple(kept), tuple(sorted(set(courses) - needed)))


def _reason_to_keep(image: WorkerImage, usage: Usage) -> str | None:
    if used := usage.of(image.image_id):
        return "used by " + ", ".join(used)
    return "being made" if image.state == "pending" else None


def age_of(created: str, now: datetime) -> str:
    """How old an image is, in words; "" if EC2 did not say when it was made."""
    try:
        made = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return ""
    days = (now - made).days
    return "today" if days < 1 else f"{days} day{'s' if days > 1 else ''} old"
