"""Carries out the steps of a home's move to another zone, each with a last look at the tags.

Owns what must be true in EC2 itself, and not only in a listing, before each step; a listing can be
old, and the hub that began the move be dead. Must not decide whether and where a home moves.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import singledispatchmethod
from types import MappingProxyType
from typing import Any, Protocol

from ec2spawner import metrics
from ec2spawner.actions import (
    CallOffMove,
    CopyHome,
    EndMove,
    FollowSource,
    GiveUpCopy,
    MoveStep,
    SaveHome,
)
from ec2spawner.calls import Calls, same_tags
from ec2spawner.errors import WrongState
from ec2spawner.listing import Expectation
from ec2spawner.model import (
    TAG_BROKEN,
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_GENERATION,
    TAG_MOVED_FROM,
    TAG_MOVED_TO,
    TAG_MOVING,
    TAG_OWNER,
    TAG_REPLACED,
    TAG_ROLE,
    TAG_USER,
    Mark,
    Origin,
    Role,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from ec2spawner.moving import MOVED, unnamed

log = logging.getLogger(__name__)

GIVEN_UP = frozenset({TAG_DELETED, TAG_BROKEN, TAG_REPLACED})
"""Marks of what is nobody's any more, whatever its owner tag says."""

Tags = Mapping[str, str]
UntilAnswered = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Storage(Protocol):
    """What a move needs of EC2."""

    cluster: str

    async def tags_of(self, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Tags by id, as they are now."""

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Set tags."""

    async def untag(self, ids: Sequence[str], keys: Collection[str]) -> None:
        """Remove tags."""

    async def list_volumes(self, ids: Sequence[str] | None = None) -> list[Volume]:
        """Homes of the cluster."""

    async def snapshot(self, volume_id: str, tags: Mapping[str, str]) -> Snapshot:
        """Begin a snapshot."""

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot."""

    async def create_volume(
        self, snapshot_id: str, zone: str, size_gib: int, tags: Mapping[str, str], token: str
    ) -> Volume:
        """Begin a volume with a snapshot's files; the same token gives the same one."""


class Mover:
    """Carries out one step at a time. ``clock`` gives epoch seconds.

    ``until_answered`` makes a call again until it is known what became of it; ``look_again`` asks
    for a full listing.
    """

    def __init__(
        self,
        cloud: Storage,
        calls: Calls,
        cost_tags: Tags,
        *,
        clock: Callable[[], float],
        until_answered: UntilAnswered,
        look_again: Callable[[], None],
    ) -> None:
        self._cloud = cloud
        self._calls = calls
        self._cost_tags = cost_tags
        self._clock = clock
        self._until_answered = until_answered
        self._look_again = look_again

    async def carry_out(self, step: MoveStep) -> None:
        """Carry a step out. Raises ``CloudError``: ``WrongState`` where EC2 says otherwise."""
        await self._do(step)

    @singledispatchmethod
    async def _do(self, step: MoveStep) -> None:
        raise NotImplementedError(type(step).__name__)

    # ---- forward

    @_do.register
    async def _save(self, step: SaveHome) -> None:
        source_id, tags = step.source_id, {**dict(step.tags), TAG_MOVING: step.move}
        begun = Snapshot(
            unnamed("snap", source_id),
            SnapshotState.PENDING,
            volume_id=source_id,
            started_at=self._clock(),
            tags=MappingProxyType(tags),
        )
        expected = Expectation(
            self._clock(),
            tags=same_tags((source_id,), {TAG_MOVING: step.move}),
            snapshots=MappingProxyType({begun.snapshot_id: begun}),
        )
        with self._calls.begun(expected) as call:
            await self._mark(step)
            made = await self._cloud.snapshot(source_id, tags)
            made = replace(made, tags=MappingProxyType({**tags, **made.tags}))
            snapshots = MappingProxyType({made.snapshot_id: made})
            call.expected = replace(expected, snapshots=snapshots)
        self._look_again()  # who waits is told how far it is
        log.info("Moving %s (%s): saved as %s", source_id, step.reason, made.snapshot_id)

    async def _mark(self, step: SaveHome) -> None:
        """Mark a free home; it is known to be marked before its snapshot is begun."""
        found = await self._cloud.list_volumes([step.source_id])
        tags = (await self._cloud.tags_of([step.source_id]))[step.source_id]
        is_free = bool(found) and found[0].state is VolumeState.AVAILABLE
        is_theirs = tags.get(TAG_OWNER) == step.owner_key and GIVEN_UP.isdisjoint(tags)
        self._require(is_free and is_theirs, step)
        if TAG_MOVING in tags:
            self._require(tags[TAG_MOVING] == step.move, step)
            return
        mark = {TAG_MOVING: step.move}
        await self._until_answered(lambda: self._cloud.tag([step.source_id], mark))

    @_do.register
    async def _copy(self, step: CopyHome) -> None:
        origin = Origin(step.source_id, step.generation, step.move)
        tags = {
            **self._cost_tags,
            TAG_CLUSTER: self._cloud.cluster,
            TAG_ROLE: Role.WORKER.value,
            TAG_MOVED_FROM: origin.to_tag(),
        }
        begun = Volume(
            unnamed("vol", step.source_id),
            VolumeState.CREATING,
            zone=step.zone,
            created_at=self._clock(),
            tags=MappingProxyType(tags),
        )
        created = MappingProxyType({begun.volume_id: begun})
        token = secrets.token_hex(16)
        with self._calls.begun(Expectation(self._clock(), created=created)) as call:
            made: Volume = await self._until_answered(
                lambda: self._cloud.create_volume(
                    step.snapshot_id, step.zone, step.size_gib, tags, token
                )
            )
            made = replace(made, tags=MappingProxyType(tags))
            created = MappingProxyType({made.volume_id: made})
            call.expected = replace(call.expected, created=created)
        log.info(
            "Moving %s (%s): %s is its copy in %s",
            step.source_id,
            step.reason,
            made.volume_id,
            step.zone,
        )

    @_do.register
    async def _end(self, step: EndMove) -> None:
        theirs = {TAG_OWNER: step.owner.key, TAG_USER: step.owner.label}
        moved = {TAG_REPLACED: Mark(self._clock(), MOVED).to_tag(), TAG_MOVED_TO: step.copy_id}
        tags = {
            **same_tags((step.copy_id,), theirs),
            **same_tags((step.source_id,), moved),
        }
        with self._calls.begun(Expectation(self._clock(), tags=MappingProxyType(tags))):
            found = await self._cloud.tags_of([step.source_id, step.copy_id])
            source, copy = found[step.source_id], found[step.copy_id]
            self._require(_is_of(step, source, copy), step)
            if copy.get(TAG_OWNER) is None:
                await self._until_answered(lambda: self._cloud.tag([step.copy_id], theirs))
            await self._until_answered(lambda: self._cloud.tag([step.source_id], moved))
        metrics.HOMES_MOVED.inc()
        log.info("Moved (%s): %s is now %s", step.reason, step.source_id, step.copy_id)

    @_do.register
    async def _follow(self, step: FollowSource) -> None:
        found = await self._cloud.tags_of([step.source_id, step.copy_id])
        source, copy = found[step.source_id], found[step.copy_id]
        is_settled = TAG_GENERATION in copy or not GIVEN_UP.isdisjoint(copy)
        self._require(source.get(TAG_MOVED_TO) == step.copy_id and not is_settled, step)
        tags = {k: source[k] for k in (TAG_OWNER, TAG_USER, TAG_DELETED) if k in source}
        with self._calls.begun(Expectation(self._clock(), tags=same_tags((step.copy_id,), tags))):
            await self._until_answered(lambda: self._cloud.tag([step.copy_id], tags))
        log.warning("A copy follows its home (%s): %s", step.reason, step.copy_id)

    # ---- back

    @_do.register
    async def _call_off(self, step: CallOffMove) -> None:
        """What bears the move's number first, then the mark: only then is the home used again."""
        source_id = step.source_id
        expected = Expectation(
            self._clock(),
            tags=same_tags((source_id,), {TAG_MOVING: None}),
            removed=frozenset(step.snapshot_ids),
        )
        with self._calls.begun(expected):
            found = await self._cloud.tags_of([source_id, *step.copy_ids])
            is_given = any(TAG_OWNER in found[i] for i in step.copy_ids)
            is_same = found[source_id].get(TAG_MOVING, step.move) == step.move
            self._require(is_same and not is_given and TAG_MOVED_TO not in found[source_id], step)
            for snapshot_id in step.snapshot_ids:
                await self._cloud.delete_snapshot(snapshot_id)
            await self._until_answered(lambda: self._cloud.untag([source_id], [TAG_MOVING]))
        log.info("Not moving (%s): %s", step.reason, source_id)

    @_do.register
    async def _give_up(self, step: GiveUpCopy) -> None:
        mark = {TAG_REPLACED: Mark(self._clock(), "called-off").to_tag()}
        with self._calls.begun(Expectation(self._clock(), tags=same_tags((step.copy_id,), mark))):
            found = await self._cloud.tags_of([step.source_id, step.copy_id])
            source, copy = found[step.source_id], found[step.copy_id]
            is_home = TAG_GENERATION in copy or source.get(TAG_MOVED_TO) == step.copy_id
            is_open = (
                source.get(TAG_MOVING) == step.move
                and source.get(TAG_OWNER) == copy.get(TAG_OWNER)
                and GIVEN_UP.isdisjoint(source)
            )
            self._require(bool(source) and not (is_home or is_open), step)
            await self._until_answered(lambda: self._cloud.tag([step.copy_id], mark))
        log.warning("A copy is given up (%s): %s", step.reason, step.copy_id)

    def _require(self, is_so: bool, step: MoveStep) -> None:
        if not is_so:
            self._look_again()
            raise WrongState(
                "A home's move was not gone on with: its tags say otherwise.",
                why=f"{type(step).__name__} of {step.source_id}, move {step.move}",
                action=type(step).__name__,
            )


def _is_of(step: EndMove, source: Tags, copy: Tags) -> bool:
    """Whether the copy is of this very move, which is under way, and both are the owner's."""
    origin = Origin.from_tag(copy.get(TAG_MOVED_FROM, ""))
    is_copy = origin is not None and (origin.volume_id, origin.move) == (step.source_id, step.move)
    is_free = copy.get(TAG_OWNER, step.owner.key) == step.owner.key
    is_source = source.get(TAG_MOVING) == step.move and source.get(TAG_OWNER) == step.owner.key
    return is_copy and is_free and is_source and GIVEN_UP.isdisjoint({*source, *copy})
