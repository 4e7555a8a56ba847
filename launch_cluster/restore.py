"""``launch-cluster users restore``: a deleted or archived home becomes its user's again.

Owns the order of the calls, in which nothing is ever deleted and nothing is anybody's home before
it is certain that it may be. What may be is ``restoring``'s to decide.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, Protocol

from ec2spawner.configmodel import Frozen
from ec2spawner.listing import Listing
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_RESTORED,
    TAG_ROLE,
    TAG_USER,
    Owner,
    Role,
    Snapshot,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.settings import ServerConfig

from .reporter import Elapsed, Reporter
from .restoring import (
    CannotRestore,
    Home,
    Restoration,
    conflict,
    given_up_at,
    half_made_mark,
    id_of,
    newcomers,
    plan_restore,
    restored_tag,
)

POLL_SECONDS = 2.0
VOLUME_DEADLINE_SECONDS = 300.0
WATCH_SECONDS = 45.0
"""A hub lists the cluster every 30 s: until then a user who comes is given an empty home."""


class Cloud(Protocol):
    """What a restoration needs of EC2."""

    cluster: str

    async def list_workers(self, ids: Sequence[str] | None = None) -> list[Worker]:
        """Workers of the cluster."""

    async def list_volumes(self, ids: Sequence[str] | None = None) -> list[Volume]:
        """Volumes of the cluster."""

    async def list_snapshots(self, ids: Sequence[str] | None = None) -> list[Snapshot]:
        """Snapshots of the cluster."""

    async def create_volume(
        self, snapshot_id: str, zone: str, size_gib: int, tags: Mapping[str, str], token: str
    ) -> Volume:
        """Begin a volume with a snapshot's files."""

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Set tags."""

    async def untag(self, ids: Sequence[str], keys: Collection[str]) -> None:
        """Remove tags."""


@dataclass(frozen=True)
class RestoreRequest:
    """What is asked for: whose home, as whose, and which, if one was named."""

    source: Owner
    target: Owner
    wanted: str | None
    config: ServerConfig

    @property
    def zones(self) -> tuple[str, ...]:
        """Zones in which workers are launched."""
        return tuple(dict.fromkeys(subnet.ZONE for subnet in self.config.WORKER_SUBNETS))


class OtherOutput(Frozen):
    """Something else that could be brought back."""

    id: str
    size_gib: int
    at: str


class RestoreOutput(Frozen):
    """What ``launch-cluster users restore --output json`` prints."""

    cluster: str
    region: str
    user: str
    server: str
    outcome: str
    source: str
    volume_id: str | None
    zone: str
    size_gib: int
    others: tuple[OtherOutput, ...]


@dataclass
class Restore:
    """One run. ``done`` tells what was changed so far, however the run ends."""

    ec2: Cloud
    request: RestoreRequest
    reporter: Reporter
    confirm: Callable[[], Awaitable[None]]
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    done: list[str] = field(default_factory=list)

    async def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Bring the home back; the result for ``--output json``."""
        request = self.request
        plan = plan_restore(
            await self._look(),
            request.source,
            request.target,
            request.wanted,
            request.zones,
            self.clock(),
        )
        self.reporter.show(self._lines(plan))
        if plan.is_done or dry_run:
            outcome = "nothing to do" if plan.is_done else "planned"
            there = plan.home if isinstance(plan.home, Volume) else None
            return self._result(plan, there, outcome)
        await self.confirm()
        volume = await self._apply(plan)
        self.reporter.show([f"{volume.volume_id} is the home of {request.target.label} now."])
        return self._result(plan, volume, "done")

    async def _look(self) -> Listing:
        now = self.clock()
        workers, volumes, snapshots = await asyncio.gather(
            self.ec2.list_workers(), self.ec2.list_volumes(), self.ec2.list_snapshots()
        )
        return Listing(
            workers=MappingProxyType({w.instance_id: w for w in workers}),
            volumes=MappingProxyType({v.volume_id: v for v in volumes}),
            snapshots=MappingProxyType({s.snapshot_id: s for s in snapshots}),
            full_at=now,
            snapshots_at=now,
        )

    async def _apply(self, plan: Restoration) -> Volume:
        home = plan.home
        made = await self._make(plan, home) if isinstance(home, Snapshot) else home
        volume = await self._until_available(made)
        tags = {
            TAG_OWNER: plan.target.key,
            TAG_USER: plan.target.label,
            TAG_GENERATION: str(plan.generation),
            TAG_RESTORED: volume.tags.get(TAG_RESTORED) or restored_tag(id_of(home), self.clock()),
        }
        changed = {key: value for key, value in tags.items() if volume.tags.get(key) != value}
        if changed:
            await self.ec2.tag([volume.volume_id], changed)
        view = await self._look()
        forbidden = conflict(view, plan.target, volume)
        if forbidden:
            raise forbidden
        await self.ec2.untag([volume.volume_id], [TAG_DELETED])
        self.done.append(f"{volume.volume_id} is no longer marked as deleted")
        known = {home.volume_id for home in view.homes_of(plan.target.key)}
        await self._watch(plan.target, volume, {*known, volume.volume_id})
        return volume

    async def _watch(self, target: Owner, volume: Volume, known: Collection[str]) -> None:
        """What comes in between is undone: with two homes, nobody could tell which is the one."""
        elapsed = Elapsed(self.reporter, self.clock, f"Watching whether {target.label} comes now")
        while True:
            view = await self._look()
            found = view.volumes.get(volume.volume_id)
            if found is None or found.state in (VolumeState.DELETING, VolumeState.DELETED):
                raise CannotRestore(
                    f"{volume.volume_id} was removed at this very moment.",
                    why="The hub had saved it before.",
                    next_step="Run it again: it is brought back from its snapshot.",
                )
            if found.attached_to:
                return  # its user has come, and has it
            if newcomers(view, target, known):
                await self._undo(target, volume)
            if elapsed.seconds > WATCH_SECONDS:
                return
            elapsed.tick("all is well")
            await self.sleep(POLL_SECONDS)

    async def _undo(self, target: Owner, volume: Volume) -> None:
        await self.ec2.tag([volume.volume_id], {TAG_DELETED: volume.tags[TAG_DELETED]})
        self.done.clear()
        raise CannotRestore(
            f"{target.label} came meanwhile, and was given a new home.",
            why=f"{volume.volume_id} is marked as deleted again.",
            next_step="Add --as restored: the old files come as a server of that name, from which"
            " they can be copied.",
        )

    async def _make(self, plan: Restoration, snapshot: Snapshot) -> Volume:
        now = self.clock()
        tags = {
            **self.request.config.operator_tags,
            TAG_CLUSTER: self.ec2.cluster,
            TAG_ROLE: Role.WORKER.value,
            TAG_OWNER: plan.target.key,
            TAG_USER: plan.target.label,
            TAG_GENERATION: str(plan.generation),
            TAG_RESTORED: restored_tag(snapshot.snapshot_id, now),
            TAG_DELETED: half_made_mark(now),
        }
        made = await self.ec2.create_volume(
            snapshot.snapshot_id, plan.zone, plan.size_gib, tags, secrets.token_hex(16)
        )
        self.done.append(f"{made.volume_id} was made")
        self.reporter.progress(f"done: {made.volume_id} of {snapshot.snapshot_id}")
        return made

    async def _until_available(self, volume: Volume) -> Volume:
        elapsed = Elapsed(self.reporter, self.clock, f"Looking at {volume.volume_id}")
        while elapsed.seconds <= VOLUME_DEADLINE_SECONDS:
            found = await self.ec2.list_volumes([volume.volume_id])
            if found and found[0].state is VolumeState.AVAILABLE and TAG_DELETED in found[0].tags:
                return found[0]
            elapsed.tick(found[0].state.value if found else "not listed yet")
            await self.sleep(POLL_SECONDS)
        raise CannotRestore(
            f"{volume.volume_id} is not ready after {VOLUME_DEADLINE_SECONDS:.0f} s.",
            next_step="Look at it in the EC2 console, and run the same command again.",
        )

    # ---- what is said

    def _lines(self, plan: Restoration) -> list[str]:
        target, config = plan.target.label, self.request.config
        lines = [f"Cluster {config.CLUSTER_NAME} ({config.REGION}), {target}:"]
        if plan.is_done:
            return [*lines, f"nothing to do: {id_of(plan.home)} was brought back already."]
        if isinstance(plan.home, Snapshot):
            lines.append(
                f"1. make a volume of {plan.size_gib} GiB in {plan.zone} of {_shown(plan.home)}"
            )
            lines.append(f"2. make it the home of {target}")
        else:
            lines.append(f"1. make {_shown(plan.home)} the home of {target} again")
        if plan.others:
            shown = "; ".join(_shown(home) for home in plan.others)
            lines.append(f"Not taken, and left as it is: {shown}.")
        return lines

    def _result(self, plan: Restoration, volume: Volume | None, outcome: str) -> dict[str, Any]:
        output = RestoreOutput(
            cluster=self.request.config.CLUSTER_NAME,
            region=self.request.config.REGION,
            user=plan.target.user,
            server=plan.target.server,
            outcome=outcome,
            source=id_of(plan.home),
            volume_id=volume.volume_id if volume else None,
            zone=plan.zone,
            size_gib=plan.size_gib,
            others=tuple(
                OtherOutput(id=id_of(home), size_gib=home.size_gib, at=_date(given_up_at(home)))
                for home in plan.others
            ),
        )
        return output.model_dump(mode="json")


def _shown(home: Home) -> str:
    return f"{id_of(home)} ({home.size_gib} GiB, of {_date(given_up_at(home))})"


def _date(at: float) -> str:
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M} UTC" if at else "unknown"
