"""``launch-cluster terminate-workers``: ends one cluster's workers, and its homes only if told.

Owns the order in which nothing is lost: instances first, then for each home a snapshot, waited
for and read back, and only then the volume. Touches nothing that does not bear the cluster's tag.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import CloudError, ConfigError, EC2SpawnerError, NotFound
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_LAST_OF,
    TAG_ROLE,
    TAG_USER,
    InstanceState,
    Role,
    Snapshot,
    SnapshotState,
    SpotRequest,
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
NOT_LISTED = "EC2 did not list it once more; it is gone, or the next run finds it"


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
    check_snapshots(delete_homes=asked.delete_homes, with_snapshots=asked.with_snapshots)
    return replace(asked, cluster=cluster, region=region)


def check_snapshots(*, delete_homes: bool, with_snapshots: bool) -> None:
    """ConfigError for ``--no-snapshots`` where no home is deleted."""
    if not with_snapshots and not delete_homes:
        raise ConfigError(
            "--no-snapshots has a meaning only together with --delete-homes.",
            next_step="Leave it out, or add --delete-homes.",
        )


@dataclass(frozen=True)
class Removal:
    """What the command would end, and what it leaves alone with the reason."""

    workers: tuple[Worker, ...]
    homes: tuple[Volume, ...]  # that exist; deleted only if told
    left_alone: tuple[str, ...] = ()
    requests: tuple[SpotRequest, ...] = ()  # that stand: EC2 has, or launches, a machine for each

    @property
    def has_machines(self) -> bool:
        """Whether there is, or may come to be, a machine to be ended."""
        return bool(self.workers or self.requests)


def plan_removal(
    workers: Sequence[Worker], volumes: Sequence[Volume], requests: Sequence[SpotRequest] = ()
) -> Removal:
    """The workers that are not gone, the homes that are theirs or nobody's, spot requests."""
    here = tuple(w for w in workers if w.state is not InstanceState.TERMINATED)
    ids = {worker.instance_id for worker in here}
    homes = [v for v in volumes if v.is_home and v.state is not VolumeState.DELETING]
    ours = tuple(v for v in homes if v.attached_to is None or v.attached_to in ids)
    left = tuple(
        f"{v.volume_id} is attached to {v.attached_to}, which is no worker of the cluster"
        for v in homes
        if v not in ours
    )
    return Removal(here, ours, left, tuple(requests))


def may_take_in(tags: Mapping[str, str], cluster: str) -> bool:
    """Whether what EC2 launched for a spot request of the cluster bears no word of another's."""
    is_worker = tags.get(TAG_ROLE, Role.WORKER.value) == Role.WORKER.value
    return is_worker and tags.get(TAG_CLUSTER, cluster) == cluster


def superseded(snapshots: Iterable[Snapshot]) -> dict[str, list[str]]:
    """By home: the snapshots of it that a run which was broken off has made for the same end.

    None of them is used instead of another one: somebody may have written to the home since.
    """
    found: dict[str, list[str]] = {}
    for snapshot in snapshots:
        home = snapshot.tags.get(TAG_LAST_OF)
        if home and home == snapshot.volume_id:
            found.setdefault(home, []).append(snapshot.snapshot_id)
    return found


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
    _superseded: dict[str, list[str]] = field(default_factory=dict)

    async def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Look, show, ask, end; the result for ``--output json``."""
        account = await account_of(self.gateway)
        removal = await self.look()
        self.reporter.show([f"Cluster {self.request.cluster} (account {account}):"])
        self.reporter.show(self.lines(removal))
        if not removal.has_machines and not (removal.homes and self.request.delete_homes):
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
        return plan_removal(
            await self.ec2.list_workers(),
            await self.ec2.list_volumes(),
            await self.ec2.list_spot_requests(),
        )

    async def carry_out(self, removal: Removal) -> None:
        """End it; ``done`` and ``failed`` tell how far it came."""
        strays = await self.end_machines(removal)
        await self.delete_homes([*removal.homes, *strays])

    async def end_machines(self, removal: Removal) -> list[Volume]:
        """End the machines, and what EC2 launches meanwhile; the homes of such, found only now.

        The spot requests are cancelled first, so that EC2 launches nothing more for them.
        """
        ids = [request.request_id for request in removal.requests]
        await self._cancel(ids)
        homes: list[Volume] = []
        workers, seen = list(removal.workers), {w.instance_id for w in removal.workers}
        while True:
            await self._end(workers)
            workers = await self._take_in(ids, seen)
            if not workers:
                return homes
            disks = [worker.home_volume_id for worker in workers if worker.home_volume_id]
            homes += await self.ec2.list_volumes(disks)

    async def delete_homes(self, homes: Sequence[Volume]) -> None:
        """Delete homes, if that is what was asked for."""
        if homes and self.request.delete_homes:
            await self._delete_homes(homes)

    def lines(self, removal: Removal) -> list[str]:
        """What would be ended, and what stays, in words."""
        lines = []
        for worker in removal.workers:
            volume = worker.home_volume_id or "none known"
            state = f"{worker.state.value:13}"
            lines.append(f"  end {worker.instance_id}  {state} {_user(worker)}  home {volume}")
        ids = {worker.instance_id for worker in removal.workers}
        if not removal.workers:
            lines.append("  no workers")
        for request in removal.requests:
            stray = request.instance_id if request.instance_id not in ids else None
            more = f", and end {stray}, which EC2 launched for it by itself" if stray else ""
            lines.append(f"  cancel the spot request {request.request_id}{more}")
        fate = "stays"
        if self.request.delete_homes:
            how = "after a snapshot" if self.request.with_snapshots else "WITHOUT A SNAPSHOT"
            fate = f"is deleted {how}"
        for home in removal.homes:
            lines.append(f"  home {home.volume_id}  {home.size_gib} GiB  {_user(home)}  {fate}")
        return [*lines, *(f"  left alone: {text}" for text in removal.left_alone)]

    # ---- instances

    async def _cancel(self, request_ids: Sequence[str]) -> None:
        if request_ids:
            await self.ec2.cancel_spot(request_ids)
            self.done += request_ids

    async def _take_in(self, request_ids: Sequence[str], seen: set[str]) -> list[Worker]:
        """What EC2 launched for cancelled requests and nobody has ended, made workers by tags.

        EC2 gives such a machine and its disks no tags (user guide, "Tag Spot Instance requests",
        read 2026).
        """
        requests = await self.ec2.list_spot_requests(request_ids) if request_ids else []
        launched = [r.instance_id for r in requests if r.instance_id]
        strays = [i for i in dict.fromkeys(launched) if i not in seen]
        seen.update(strays)
        tags = await self.ec2.tags_of(strays) if strays else {}
        ours = [i for i in strays if may_take_in(tags[i], self.request.cluster)]
        self.failed += [
            f"{i} is left alone: it bears another's tags" for i in strays if i not in ours
        ]
        tagged = [i for i in ours if await self._tag_as_worker(i)]
        found = await self.ec2.list_workers(tagged) if tagged else []
        alive = [w for w in found if w.state is not InstanceState.TERMINATED]
        for worker in alive:
            if worker.home_volume_id:
                await self._tag_as_worker(worker.home_volume_id)
        missing = set(tagged) - {worker.instance_id for worker in found}
        self.failed += [f"{i}, of a spot request, is not listed" for i in sorted(missing)]
        return alive

    async def _tag_as_worker(self, ident: str) -> bool:
        """Whether it is there and bears our tags now."""
        tags = {TAG_CLUSTER: self.request.cluster, TAG_ROLE: Role.WORKER.value}
        try:
            await self.ec2.tag([ident], tags)
        except NotFound:
            return False
        return True

    async def _end(self, workers: Sequence[Worker]) -> None:
        before = len(self.done)
        for start in range(0, len(workers), BATCH):
            await self._terminate(workers[start : start + BATCH])
        await self._wait_until_gone(self.done[before:])

    async def _terminate(self, workers: Sequence[Worker]) -> None:
        """End one batch: what still bears our tags now. A batch that fails is halved."""
        tags = await self.ec2.tags_of([w.instance_id for w in workers])
        ours = [w for w in workers if self._is_worker_of_ours(tags[w.instance_id])]
        self.failed += [
            f"{w.instance_id} was not ended: EC2 does not show the cluster's tags on it any more"
            for w in workers
            if w not in ours
        ]
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
        ids = [home.volume_id for home in homes]
        elapsed = Elapsed(self.reporter, self.clock, f"Waiting for {len(homes)} home volumes")
        while True:
            found = await self.ec2.list_volumes(ids)
            held = [v for v in found if v.state is VolumeState.IN_USE]
            if not held or elapsed.seconds > DETACH_DEADLINE_SECONDS:
                break
            elapsed.tick(f"{len(held)} still attached")
            await self.sleep(POLL_SECONDS)
        missing = set(ids) - {volume.volume_id for volume in found}
        self.failed += [f"{i}: {NOT_LISTED}" for i in ids if i in missing]
        return found

    async def _snapshot_all(self, homes: Sequence[Volume]) -> list[Volume]:
        """Begin a snapshot of each home; those of which one was begun."""
        before = await self.ec2.list_snapshots()
        known = {snapshot.snapshot_id for snapshot in before}
        self._superseded = superseded(before)
        begun = []
        for home in homes:
            tags = {k: v for k, v in home.tags.items() if not k.startswith("aws:")}
            try:
                snapshot = await self.ec2.snapshot(
                    home.volume_id, {**tags, TAG_LAST_OF: home.volume_id}
                )
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
            self.failed.append(f"{home.volume_id}: {NOT_LISTED}")
            return
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
            for earlier in self._superseded.get(home.volume_id, ()):
                await self.ec2.delete_snapshot(earlier)
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
            "spot_requests": [request.request_id for request in removal.requests],
            "done": self.done,
            "failed": self.failed,
            "snapshots": self.snapshots,
        }


def _user(thing: Worker | Volume) -> str:
    return thing.tags.get(TAG_USER) or thing.owner or "(nobody's)"
