"""``launch-cluster terminate-workers``: ends one cluster's workers, and its homes only if told.

Owns the order in which nothing is lost: instances first, then for each home a snapshot, waited
for and read back, and only then the volume. Touches nothing that does not bear the cluster's tag.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import CloudError, ConfigError, EC2SpawnerError, NotFound
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_ROLE,
    TAG_USER,
    InstanceState,
    Role,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
    Worker,
)

from .looking import account_of
from .reporter import Elapsed, Reporter
from .request import read_cluster

BATCH = (
    200  # TerminateInstances takes 1000 ids (EC2 API reference, 2026); a filter takes 200 values
)
POLL_SECONDS = 5.0
TERMINATE_DEADLINE_SECONDS = 900.0
DETACH_DEADLINE_SECONDS = 120.0
SNAPSHOT_DEADLINE_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class TerminateRequest:
    """What is asked for; a Region of None is left to the AWS configuration."""

    cluster: str
    region: str | None = None
    delete_homes: bool = False
    with_snapshots: bool = True


def read_terminate_request(
    asked: TerminateRequest, config: Path | None, environ: Mapping[str, str]
) -> TerminateRequest:
    """The request completed from server_config.json where cluster or Region were left out."""
    cluster, region = read_cluster(asked.cluster, asked.region, config, environ)
    asked = replace(asked, cluster=cluster, region=region)
    if not asked.with_snapshots and not asked.delete_homes:
        raise ConfigError(
            "--no-snapshots has a meaning only together with --delete-homes.",
            next_step="Leave it out, or add --delete-homes.",
        )
    return asked


@dataclass(frozen=True)
class Removal:
    """What the command would end, and what it leaves alone with the reason."""

    workers: tuple[Worker, ...]
    homes: tuple[Volume, ...]  # that exist; deleted only if told
    left_alone: tuple[str, ...] = ()


def plan_removal(workers: Sequence[Worker], volumes: Sequence[Volume]) -> Removal:
    """The workers that are not gone, and the homes that are theirs or nobody's."""
    here = tuple(w for w in workers if w.state is not InstanceState.TERMINATED)
    ids = {worker.instance_id for worker in here}
    homes = [v for v in volumes if v.is_home and v.state is not VolumeState.DELETING]
    ours = tuple(v for v in homes if v.attached_to is None or v.attached_to in ids)
    left = tuple(
        f"{v.volume_id} is attached to {v.attached_to}, which is no worker of the cluster"
        for v in homes
        if v not in ours
    )
    return Removal(here, ours, left)


def may_delete(home: Volume, snapshot: Snapshot | None, *, with_snapshot: bool) -> str | None:
    """Why a home must not be deleted, as it and its snapshot were just read; None if it may."""
    if home.state is not VolumeState.AVAILABLE or home.attached_to:
        return f"it is {home.state.value}"
    if not with_snapshot:
        return None
    if snapshot is None:
        return "its snapshot cannot be found"
    if snapshot.state is not SnapshotState.COMPLETED:
        return f"its snapshot {snapshot.snapshot_id} is {snapshot.state.value}"
    if snapshot.volume_id != home.volume_id or snapshot.size_gib != home.size_gib:
        return f"its snapshot {snapshot.snapshot_id} is of something else"
    return None


class StillThere(EC2SpawnerError):
    """Something did not come to an end within its bound."""

    code = "still-there"


@dataclass
class TerminateWorkers:
    """One run of the command; ``done`` and ``failed`` tell how far it came."""

    gateway: Gateway
    ec2: EC2
    request: TerminateRequest
    reporter: Reporter
    confirm: Callable[[], Awaitable[None]]  # raises what ends the command if the answer is no
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    snapshots: dict[str, str] = field(default_factory=dict)  # volume id to snapshot id

    async def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Look, show, ask, end; the result for ``--output json``."""
        account = await account_of(self.gateway)
        removal = await self.look()
        self.reporter.show([f"Cluster {self.request.cluster} (account {account}):"])
        self.reporter.show(self.lines(removal))
        if not removal.workers and not (removal.homes and self.request.delete_homes):
            return self._result(removal, "nothing to do")
        if dry_run:
            return self._result(removal, "planned")
        await self.confirm()
        await self.carry_out(removal)
        self.reporter.show([f"Ended {len(self.done)}, failed {len(self.failed)}."])
        for text in self.failed:
            self.reporter.progress(f"failed: {text}")
        return self._result(removal, "partly done" if self.failed else "done")

    async def look(self) -> Removal:
        """What is there to be ended."""
        return plan_removal(await self.ec2.list_workers(), await self.ec2.list_volumes())

    async def carry_out(self, removal: Removal) -> None:
        """End it; ``done`` and ``failed`` tell how far it came."""
        await self._end(removal.workers)
        if removal.homes and self.request.delete_homes:
            await self._delete_homes(removal.homes)

    def lines(self, removal: Removal) -> list[str]:
        """What would be ended, and what stays, in words."""
        lines = []
        for worker in removal.workers:
            volume = worker.home_volume_id or "none known"
            state = f"{worker.state.value:13}"
            lines.append(f"  end {worker.instance_id}  {state} {_user(worker)}  home {volume}")
        if not removal.workers:
            lines.append("  no workers")
        fate = "stays"
        if self.request.delete_homes:
            how = "after a snapshot" if self.request.with_snapshots else "WITHOUT A SNAPSHOT"
            fate = f"is deleted {how}"
        for home in removal.homes:
            lines.append(f"  home {home.volume_id}  {home.size_gib} GiB  {_user(home)}  {fate}")
        return [*lines, *(f"  left alone: {text}" for text in removal.left_alone)]

    # ---- instances

    async def _end(self, workers: Sequence[Worker]) -> None:
        for start in range(0, len(workers), BATCH):
            await self._terminate(workers[start : start + BATCH])
        await self._wait_until_gone(list(self.done))

    async def _terminate(self, workers: Sequence[Worker]) -> None:
        """End one batch: what still bears our tags now. A batch that fails is halved."""
        tags = await self.ec2.tags_of([w.instance_id for w in workers])
        ours = [w for w in workers if self._is_worker_of_ours(tags[w.instance_id])]
        if not ours:
            return
        ids = [w.instance_id for w in ours]
        try:
            await self.ec2.terminate(ids, [w.spot_request_id for w in ours])
            self.done += ids
        except NotFound as error:
            if len(ours) == 1:
                self.reporter.progress(f"{ids[0]} is gone already ({error.aws_code})")
                return
            middle = len(ours) // 2
            await self._terminate(ours[:middle])
            await self._terminate(ours[middle:])

    def _is_worker_of_ours(self, tags: Mapping[str, str]) -> bool:
        return (
            tags.get(TAG_CLUSTER) == self.request.cluster
            and tags.get(TAG_ROLE) == Role.WORKER.value
        )

    async def _wait_until_gone(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        elapsed = Elapsed(self.reporter, self.clock, f"Ending {len(ids)} workers")
        while True:
            workers = await self.ec2.list_workers(ids)
            left = [w for w in workers if w.state is not InstanceState.TERMINATED]
            if not left:
                return
            if elapsed.seconds > TERMINATE_DEADLINE_SECONDS:
                raise StillThere(
                    f"{len(left)} workers have not ended yet.",
                    why=", ".join(f"{w.instance_id} is {w.state.value}" for w in left[:5]),
                    next_step="Run the same command again later.",
                )
            elapsed.tick(f"{len(left)} left")
            await self.sleep(POLL_SECONDS)

    # ---- homes

    async def _delete_homes(self, homes: Sequence[Volume]) -> None:
        pending = await self._wait_until_detached(homes)
        if self.request.with_snapshots:
            pending = await self._snapshot_all(pending)
            await self._wait_for_snapshots()
        for home in pending:
            await self._delete(home)

    async def _wait_until_detached(self, homes: Sequence[Volume]) -> list[Volume]:
        """The homes that are still there, once their instances have let go of them, or late."""
        elapsed = Elapsed(self.reporter, self.clock, f"Waiting for {len(homes)} home volumes")
        while True:
            found = await self.ec2.list_volumes([home.volume_id for home in homes])
            held = [v for v in found if v.state is VolumeState.IN_USE]
            if not held or elapsed.seconds > DETACH_DEADLINE_SECONDS:
                return found
            elapsed.tick(f"{len(held)} still attached")
            await self.sleep(POLL_SECONDS)

    async def _snapshot_all(self, homes: Sequence[Volume]) -> list[Volume]:
        """Begin a snapshot of each home; those of which one was begun."""
        known = {snapshot.snapshot_id for snapshot in await self.ec2.list_snapshots()}
        begun = []
        for home in homes:
            tags = {k: v for k, v in home.tags.items() if not k.startswith("aws:")}
            try:
                snapshot = await self.ec2.snapshot(home.volume_id, tags)
            except CloudError as error:
                self.failed.append(f"{home.volume_id}: no snapshot was made. {error}")
                continue
            if snapshot.snapshot_id in known:  # an earlier one: it may lack what came later
                self.failed.append(f"{home.volume_id}: whether a snapshot was begun is unknown")
                continue
            self.snapshots[home.volume_id] = snapshot.snapshot_id
            begun.append(home)
        return begun

    async def _wait_for_snapshots(self) -> None:
        ids = list(self.snapshots.values())
        if not ids:
            return
        elapsed = Elapsed(self.reporter, self.clock, f"Waiting for {len(ids)} snapshots")
        while elapsed.seconds <= SNAPSHOT_DEADLINE_SECONDS:
            found = await self.ec2.list_snapshots(ids)
            pending = [s for s in found if s.state is SnapshotState.PENDING]
            if not pending and len(found) == len(ids):
                return
            elapsed.tick(f"{len(ids) - len(found) + len(pending)} left")
            await self.sleep(POLL_SECONDS)

    async def _delete(self, home: Volume) -> None:
        """Delete one home, if volume and snapshot, read once more, allow it."""
        volumes = await self.ec2.list_volumes([home.volume_id])
        if not volumes:
            return  # gone, or no longer the cluster's
        snapshot_id = self.snapshots.get(home.volume_id)
        snapshots = await self.ec2.list_snapshots([snapshot_id]) if snapshot_id else []
        reason = may_delete(
            volumes[0],
            snapshots[0] if snapshots else None,
            with_snapshot=self.request.with_snapshots,
        )
        if reason:
            self.failed.append(f"{home.volume_id} is kept: {reason}")
            return
        try:
            await self.ec2.delete_volume(home.volume_id)
            self.done.append(home.volume_id)
        except CloudError as error:
            self.failed.append(f"{home.volume_id} is kept: {error}")

    def _result(self, removal: Removal, outcome: str) -> dict[str, Any]:
        if outcome == "nothing to do":
            self.reporter.show(["Nothing to do."])
        return {
            "cluster": self.request.cluster,
            "outcome": outcome,
            "workers": [
                {
                    "instance_id": worker.instance_id,
                    "state": worker.state.value,
                    "owner": worker.owner,
                    "user": worker.tags.get(TAG_USER),
                    "home_volume_id": worker.home_volume_id,
                }
                for worker in removal.workers
            ],
            "homes": [home.volume_id for home in removal.homes],
            "left_alone": list(removal.left_alone),
            "done": self.done,
            "failed": self.failed,
            "snapshots": self.snapshots,
        }


def _user(thing: Worker | Volume) -> str:
    return thing.tags.get(TAG_USER) or thing.owner or "(nobody's)"
