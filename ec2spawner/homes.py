"""Carries out what is done with homes where they are: attached, taken off, saved, deleted.

Owns the last look before each such call: a listing can be old, and a home is all that a user has.
Must not decide what is done; moves to another zone are ``mover``'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import singledispatchmethod
from types import MappingProxyType
from typing import Protocol

from ec2spawner import metrics
from ec2spawner.actions import (
    Attach,
    DeleteSnapshot,
    DeleteVolume,
    Detach,
    HomeAction,
    MakeSnapshot,
)
from ec2spawner.calls import Calls
from ec2spawner.errors import Rejected, WrongState
from ec2spawner.listing import Expectation, Listing
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_MOVING,
    TAG_OWNER,
    TAG_REPLACED,
    TAG_ROLE,
    InstanceState,
    Role,
    Snapshot,
    SnapshotState,
    Worker,
)
from ec2spawner.mover import GIVEN_UP, Storage
from ec2spawner.reaping import is_made_for

log = logging.getLogger(__name__)


class Volumes(Storage, Protocol):
    """What homes need of EC2."""

    async def list_workers(self, ids: Sequence[str] | None = None) -> list[Worker]:
        """Workers of the cluster."""

    async def list_snapshots(self, ids: Sequence[str] | None = None) -> list[Snapshot]:
        """Snapshots of the cluster."""

    async def attach(self, volume_id: str, instance_id: str) -> None:
        """Attach a home."""

    async def detach(self, volume_id: str, instance_id: str) -> None:
        """Take a home off an instance."""

    async def delete_volume(self, volume_id: str) -> None:
        """Delete a volume."""


class Homes:
    """Carries out one action at a time. ``clock`` gives epoch seconds.

    ``view`` is the cluster as it will be; ``look_again`` asks for a full listing.
    """

    def __init__(
        self,
        cloud: Volumes,
        calls: Calls,
        *,
        clock: Callable[[], float],
        view: Callable[[], Listing],
        look_again: Callable[[], None],
    ) -> None:
        self._cloud = cloud
        self._calls = calls
        self._clock = clock
        self._view = view
        self._look_again = look_again

    async def carry_out(self, action: HomeAction) -> None:
        """Carry an action out. Raises ``CloudError``: ``WrongState`` where EC2 says otherwise."""
        await self._do(action)

    @singledispatchmethod
    async def _do(self, action: HomeAction) -> None:
        raise NotImplementedError(type(action).__name__)

    @_do.register
    async def _attach(self, action: Attach) -> None:
        attached = MappingProxyType({action.volume_id: action.instance_id})
        with self._calls.begun(Expectation(self._clock(), attached=attached)):
            await self._require_to_fit(action)
            await self._cloud.attach(action.volume_id, action.instance_id)
        log.info("Attached %s to %s", action.volume_id, action.instance_id)

    async def _require_to_fit(self, action: Attach) -> None:
        """A last look: what moves, or has moved, is attached to nothing; a listing can be older."""
        tags = (await self._cloud.tags_of([action.volume_id]))[action.volume_id]
        worker = self._view().workers.get(action.instance_id)  # it may have been retired meanwhile
        is_retired = worker is not None and worker.is_retired
        if is_retired or not {TAG_MOVING, TAG_REPLACED}.isdisjoint(tags):
            self._look_again()
            raise WrongState(
                "A home was left where it is: it moves, or its machine is retired.",
                why=f"{action.volume_id}, {action.instance_id}",
                action="AttachVolume",
            )

    @_do.register
    async def _detach(self, action: Detach) -> None:
        detached = MappingProxyType({action.volume_id: action.instance_id})
        with self._calls.begun(Expectation(self._clock(), detached=detached)):
            await self._require_out_of_use(action.instance_id)
            await self._cloud.detach(action.volume_id, action.instance_id)
        log.info("Detached (%s): %s from %s", action.reason, action.volume_id, action.instance_id)

    async def _require_out_of_use(self, instance_id: str) -> None:
        """A last look: nothing is ever taken off a machine that may run."""
        found = await self._cloud.list_workers([instance_id])
        if not found or found[0].state is not InstanceState.STOPPED or not found[0].is_retired:
            self._look_again()
            raise WrongState(
                "A home was left on its machine: that is not stopped, or not retired.",
                why=instance_id,
                action="DetachVolume",
            )

    @_do.register
    async def _make_snapshot(self, action: MakeSnapshot) -> None:
        begun = Snapshot(
            f"snap-of-{action.volume_id}",  # not named by EC2 yet
            SnapshotState.PENDING,
            volume_id=action.volume_id,
            started_at=self._clock(),
            tags=MappingProxyType(dict(action.tags)),
        )
        expected = Expectation(
            self._clock(), snapshots=MappingProxyType({begun.snapshot_id: begun})
        )
        with self._calls.begun(expected) as call:
            await self._require_given_up(action.volume_id)
            made = await self._cloud.snapshot(action.volume_id, dict(action.tags))
            snapshots = MappingProxyType({made.snapshot_id: made})
            call.expected = replace(expected, snapshots=snapshots)
        log.info("Snapshot of %s (%s): %s", action.volume_id, action.reason, made.snapshot_id)

    @_do.register
    async def _delete_volume(self, action: DeleteVolume) -> None:
        removed = frozenset({action.volume_id})
        with self._calls.begun(Expectation(self._clock(), removed=removed)):
            await self._delete_saved(action)
        metrics.REAPED.labels("home").inc()
        log.info("Deleted (%s): %s", action.reason, action.volume_id)

    async def _delete_saved(self, action: DeleteVolume) -> None:
        """Delete a volume after a last look at its tags and its snapshot."""
        tags = await self._require_given_up(action.volume_id)
        found = await self._cloud.list_snapshots([action.snapshot_id])
        if not any(
            s.volume_id == action.volume_id
            and s.state is SnapshotState.COMPLETED
            and is_made_for(s, tags)
            for s in found
        ):
            raise Rejected(
                "A home was not deleted: its snapshot is not there.",
                why=f"{action.snapshot_id} of {action.volume_id} cannot be read back",
                action="DeleteVolume",
            )
        await self._cloud.delete_volume(action.volume_id)

    async def _require_given_up(self, volume_id: str) -> Mapping[str, str]:
        """The tags of a volume that nobody has."""
        tags = (await self._cloud.tags_of([volume_id]))[volume_id]
        if not may_go(tags, self._cloud.cluster):
            self._look_again()
            raise somebodys(volume_id, "DeleteVolume")
        return tags

    @_do.register
    async def _delete_snapshot(self, action: DeleteSnapshot) -> None:
        removed = frozenset({action.snapshot_id})
        with self._calls.begun(Expectation(self._clock(), removed=removed)):
            await self._cloud.delete_snapshot(action.snapshot_id)
        metrics.REAPED.labels("snapshot").inc()
        log.info("Deleted (%s): %s", action.reason, action.snapshot_id)


def may_go(tags: Mapping[str, str], cluster: str) -> bool:
    """Whether tags say that a worker, or a home, is this cluster's, and nobody's any more."""
    return (
        tags.get(TAG_CLUSTER) == cluster
        and tags.get(TAG_ROLE) == Role.WORKER.value
        and (TAG_OWNER not in tags or not GIVEN_UP.isdisjoint(tags))
    )


def somebodys(resource_id: str, action: str) -> WrongState:
    """Why something was left alone at the last look."""
    return WrongState(
        "Left alone: its tags say that it is somebody's.",
        why=f"tags of {resource_id}",
        action=action,
    )
