"""What really happens in the emulated cloud, and what must never: judged there, not by the hub.

Watches every call that changes something, and every server that is started on a machine. Knows
whose files are on which disk, and how new they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.records import Instance, Volume
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_BROKEN,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_MOVED_TO,
    TAG_MOVING,
    TAG_OWNER,
    TAG_REPLACED,
    InstanceState,
    SnapshotState,
)

MAY_GO = frozenset({TAG_DELETED, TAG_BROKEN, TAG_REPLACED})
"""Marks of an owner's machine that may be ended, and of a home that may be deleted."""
LIVE = (InstanceState.PENDING, InstanceState.RUNNING)
ALIVE = (*LIVE, InstanceState.STOPPING, InstanceState.STOPPED)
MAX_CALLS = 600
"""In one minute, of a handful of people: more is a hub that runs wild."""


class RunsWild(BaseException):
    """More calls than anybody needs: nobody may catch it on its way out of the loop."""


class Truth:
    """One emulated EC2 under watch; ``sins`` are what may never happen."""

    def __init__(self, core: EmulatedEC2, is_late: Callable[[], bool]) -> None:
        self.core = core
        self._is_late = is_late
        self.sins: list[str] = []
        self.calls: Counter[str] = Counter()
        self.given: dict[str, int] = {}
        """By instance: to whose server it was given."""
        self.files: dict[str, tuple[int, int]] = {}
        """By volume or snapshot: whose files are on it, and the how-manieth login left them."""
        self.renamed: set[tuple[str, str]] = set()
        """Owner keys of which the second may take the first one's place."""
        self.moves = 0
        self._given_up: dict[str, float] = {}
        self._minute = 0
        self._of_minute: Counter[str] = Counter()
        self._call = core.call
        core.call = self._watched  # type: ignore[method-assign]

    def _watched(self, action: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._count(action)
        self.core.settle()
        before = getattr(self, f"_before_{action}", None)
        after = before(params) if before else None
        reply = self._call(action, params)
        if after:
            after(reply)
        return reply

    def _count(self, action: str) -> None:
        self.calls[action] += 1
        minute = int(self.core.clock() // 60)
        if minute != self._minute:
            self._minute, self._of_minute = minute, Counter()
        self._of_minute[action] += 1
        if self._of_minute.total() > MAX_CALLS:
            raise RunsWild(f"{self._of_minute} in a minute")

    # ---- calls that change something

    def _before_CreateTags(self, params: Mapping[str, Any]) -> Any:  # noqa: N802 - EC2's names
        tags = {tag["Key"]: tag["Value"] for tag in params["Tags"]}
        old = {i: dict(self._tags(i)) for i in params["Resources"]}

        def after(reply: object) -> None:
            for resource_id, was in old.items():
                self._judge_tags(resource_id, was, tags)

        return after

    def _judge_tags(
        self, resource_id: str, was: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        old, new = was.get(TAG_OWNER), tags.get(TAG_OWNER)
        if old and new and old != new and not self._is_renamed(old, new):
            self.sins.append(f"{resource_id} was {old}'s and is given to {new}")
        if new and not old and TAG_DELETED in was:
            self.sins.append(f"{resource_id}, which was given up, is given to {new}")
        claim = was.get(TAG_CLAIM)
        if resource_id in self.core.instances and claim and tags.get(TAG_CLAIM, claim) != claim:
            self.sins.append(f"{resource_id} is claimed once more, by {new}")
        self.moves += TAG_MOVED_TO in tags and TAG_MOVED_TO not in was
        if not MAY_GO.isdisjoint(tags) and MAY_GO.isdisjoint(was):
            self._given_up[resource_id] = self.core.clock()

    def _is_renamed(self, old: str, new: str) -> bool:
        """Whether both are the same one's; what arrives late may bring an old name back.

        For a while only: all that is left at the end has its owner's last name.
        """
        return (old, new) in self.renamed or (self._is_late() and (new, old) in self.renamed)

    def _before_DeleteTags(self, params: Mapping[str, Any]) -> Any:  # noqa: N802
        if any(tag["Key"] == TAG_OWNER for tag in params["Tags"]):
            self.sins.append(f"{params['Resources']} lose their owners")

    def _before_TerminateInstances(self, params: Mapping[str, Any]) -> Any:  # noqa: N802
        for instance_id in params["InstanceIds"]:
            tags = self._tags(instance_id)
            if TAG_OWNER in tags and MAY_GO.isdisjoint(tags):
                self.sins.append(f"{instance_id} of {tags[TAG_OWNER]} is ended")

    def _before_DeleteVolume(self, params: Mapping[str, Any]) -> Any:  # noqa: N802
        volume = self.core.volumes.get(params["VolumeId"])
        if volume is None:
            return None
        since = self._given_up.get(volume.id, volume.created_at)
        is_given_up = not MAY_GO.isdisjoint(volume.tags) or TAG_OWNER not in volume.tags
        saved = any(
            s.volume_id == volume.id
            and s.state is SnapshotState.COMPLETED
            and s.started_at >= since
            and self.files.get(s.id) == self.files.get(volume.id)
            for s in self.core.snapshots.values()
        )

        def after(reply: object) -> None:
            if not (is_given_up and saved):
                self.sins.append(f"{volume.id} is deleted: {is_given_up=}, {saved=}")

        return after

    def _before_DetachVolume(self, params: Mapping[str, Any]) -> Any:  # noqa: N802
        volume = self.core.volumes.get(params["VolumeId"])
        held = volume.attachment if volume else None
        holder = self.core.instances.get(held.instance_id) if held else None
        is_meant = holder is not None and params.get("InstanceId", holder.id) == holder.id
        off = {InstanceState.STOPPED}
        if holder and not MAY_GO.isdisjoint(holder.tags):  # somebody may end it just then
            off.add(InstanceState.SHUTTING_DOWN)
        if holder and is_meant and holder.state not in off:
            self.sins.append(f"{params['VolumeId']} is taken off {holder.id}, {holder.state.value}")

    def _before_AttachVolume(self, params: Mapping[str, Any]) -> Any:  # noqa: N802
        tags = self._tags(params["VolumeId"])

        def after(reply: object) -> None:
            if TAG_MOVING in tags or TAG_REPLACED in tags:
                self.sins.append(f"{params['VolumeId']} is attached, and moves: {dict(tags)}")

        return after

    def _before_CreateSnapshot(self, params: Mapping[str, Any]) -> Any:  # noqa: N802
        def after(reply: Mapping[str, Any]) -> None:
            if params["VolumeId"] in self.files:
                self.files[reply["SnapshotId"]] = self.files[params["VolumeId"]]

        return after

    def _before_CreateVolume(self, params: Mapping[str, Any]) -> Any:  # noqa: N802
        def after(reply: Mapping[str, Any]) -> None:
            if params.get("SnapshotId") in self.files:
                self.files.setdefault(reply["VolumeId"], self.files[params["SnapshotId"]])

        return after

    def _tags(self, resource_id: str) -> Mapping[str, str]:
        found = self.core.instances.get(resource_id) or self.core.volumes.get(resource_id)
        return found.tags if found else {}

    # ---- servers on machines

    def begin_server(self, instance: Instance, unit: int, logins: int) -> None:
        """A unit's server opens its home, at which it was ``logins`` times before."""
        home = instance.mappings[HOME_DEVICE].volume_id
        found = self.files.get(home)
        if found is None and logins:
            self.sins.append(f"{unit} finds {home} empty after {logins} logins")
        elif found and found[0] != unit:
            self.sins.append(f"{unit} sees the files of {found[0]} on {home}")
        elif found and found[1] != logins:
            self.sins.append(f"{unit} sees files of login {found[1]}, not {logins}, on {home}")
        known = self.given.setdefault(instance.id, unit)
        if known != unit:
            self.sins.append(f"{instance.id} served {known}, and now {unit}")
        self.files[home] = (unit, logins + 1)

    def look(self) -> None:
        """What must hold at every moment."""
        self.core.settle()
        live: dict[int, list[str]] = defaultdict(list)
        for instance in self.core.instances.values():
            if instance.state in LIVE and instance.id in self.given:
                live[self.given[instance.id]].append(instance.id)
        for unit, ids in live.items():
            if len(ids) > 1:
                self.sins.append(f"{unit} has {ids} at once")
        assert not self.sins, self.sins

    # ---- what is there

    def alive(self) -> list[Instance]:
        """Instances that are not on their way out."""
        self.core.settle()
        return [i for i in self.core.instances.values() if i.state in ALIVE]

    def is_known(self, instance: Instance) -> bool:
        """Whether all that it has bears the cluster's tag."""
        home = instance.mappings.get(HOME_DEVICE)
        volume = self.core.volumes.get(home.volume_id) if home else None
        return TAG_CLUSTER in instance.tags and (volume is None or TAG_CLUSTER in volume.tags)

    def homes(self) -> list[Volume]:
        """All volumes but root disks."""
        self.core.settle()
        return [v for v in self.core.volumes.values() if not v.is_root]
