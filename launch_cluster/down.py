"""``launch-cluster down``: the whole cluster goes, but for what was chosen to stay.

Owns the order in which nothing hangs on anything else and no machine is launched meanwhile: the hub
first, then the machines, then what they stood on. Proves at the end by a listing what is left.
Touches nothing that does not bear the cluster's tag or name.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.costs import Bill, Prices, monthly_cost_of
from ec2spawner.ec2 import EC2
from ec2spawner.errors import CloudError, ConditionFailed, EC2SpawnerError, NotFound
from ec2spawner.identity import Process, lives, this_process
from ec2spawner.lease import Lease
from ec2spawner.model import TAG_CLUSTER, TAG_ROLE, Role
from ec2spawner.s3 import Objects, Stored
from ec2spawner.tenancy import LEASE_SECONDS, Record, key_of, read_record

from .belongings import (
    BUCKET,
    KEY_PAIR,
    PARAMETER,
    SNAPSHOT,
    VOLUME,
    Belonging,
    Belongings,
    Choice,
    left_over,
    parts_of_images,
    stays,
)
from .facts import StackFacts
from .images import Images
from .looking import account_of
from .reporter import Elapsed, Reporter
from .stacks import Stacks
from .workers import StillThere, TerminateRequest, TerminateWorkers

POLL_SECONDS = 5.0
BUILDERS_DEADLINE_SECONDS = 900.0
DELETE_OBJECTS_MAX = 1000  # S3 API reference, "DeleteObjects", 2026
DELETE_PARAMETERS_MAX = 10  # SSM API reference, "DeleteParameters", 2026
LEASE_TRIES = 20
ROUNDS_MAX = 10  # each ends all that is listed; what is left then, the last look tells


@dataclass(frozen=True)
class DownRequest:
    """Which cluster goes, and what of it stays."""

    cluster: str
    region: str
    choice: Choice
    with_snapshots: bool = True

    @property
    def stacks(self) -> tuple[str, ...]:
        """Names of its stacks, each before what it stands on."""
        name = f"ec2spawner-{self.cluster}"
        return (f"{name}-manager", name, f"{name}-network")


class LeaseNotTaken(EC2SpawnerError):
    """A hub writes the lease faster than it can be taken."""

    code = "lease-not-taken"


@dataclass
class Down:
    """One run of the command; ``done`` and ``failed`` tell how far it came."""

    gateway: Gateway
    request: DownRequest
    reporter: Reporter
    prices: Prices
    confirm: Callable[[], Awaitable[None]]  # raises what ends the command if the answer is no
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stacks = Stacks(self.gateway, self.reporter, sleep=self.sleep, clock=self.clock)
        self._ec2 = EC2(self.gateway, self.request.cluster)
        self._images = Images(self.gateway, self.request.cluster, {})
        self._workers = TerminateWorkers(
            self.gateway,
            self._ec2,
            TerminateRequest(
                self.request.cluster,
                self.request.region,
                delete_homes=self.request.choice.delete_homes,
                with_snapshots=self.request.with_snapshots,
            ),
            self.reporter,
            self.confirm,
            sleep=self.sleep,
            clock=self.clock,
        )

    async def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Look, show, ask, end, look again; the result for ``--output json``."""
        account = await account_of(self.gateway)
        bucket = f"ec2spawner-{self.request.cluster}-{account}-{self.request.region}"
        self._belongings = Belongings(self.gateway, self.request.cluster, bucket)
        stacks = await self._find_stacks()
        self._check_ownership(stacks)
        things = await self._belongings.look()
        removal = await self._workers.look()
        keep = self._kept(things)
        where = f"{self.request.region}, account {account}"
        self.reporter.show([f"Cluster {self.request.cluster} ({where}):"])
        self.reporter.show(self._workers.lines(removal))
        self.reporter.show(self._lines(stacks, things))
        if not stacks and len(keep) == len(things):
            self.reporter.show(["Nothing to do."])
            return self._result("nothing to do", keep)
        if dry_run:
            return self._result("planned", keep)
        await self.confirm()
        await self._carry_out(stacks, bucket)
        return await self._prove()

    async def _find_stacks(self) -> list[StackFacts]:
        """Also what a run of ``up`` that was broken off has named, and not made."""
        found = [await self._stacks.find_any(name) for name in self.request.stacks]
        return [stack for stack in found if stack]

    def _check_ownership(self, stacks: Iterable[StackFacts]) -> None:
        """An empty stack bears no tags yet, and holds nothing: its name says whose it is."""
        for stack in stacks:
            owner = stack.tags.get(TAG_CLUSTER, self.request.cluster if stack.is_empty else None)
            if owner != self.request.cluster:
                raise StillThere(
                    f"The stack {stack.name} does not bear the tag of {self.request.cluster}.",
                    why="It was not made by launch-cluster, or its tags were changed.",
                    next_step="Look at it in the CloudFormation console; nothing was changed.",
                )

    def _kept(self, things: Sequence[Belonging]) -> list[Belonging]:
        of_images = parts_of_images(things)
        return [thing for thing in things if stays(thing, self.request.choice, of_images)]

    def _lines(self, stacks: Sequence[StackFacts], things: Sequence[Belonging]) -> list[str]:
        gone = left_over(things, self.request.choice)
        lines = [f"  delete the stack {stack.name}" for stack in stacks]
        shown = ("image", SNAPSHOT, BUCKET, PARAMETER)
        lines += [f"  delete {thing}" for thing in gone if thing.kind in shown]
        lines += [
            f"  end {thing}"
            for thing in gone
            if thing.kind == "instance" and thing.role != Role.WORKER.value
        ]
        others = [t for t in self._kept(things) if t.role != Role.WORKER.value or t.kind != VOLUME]
        return [
            *lines,
            *(f"  stays: {thing}" for thing in others),
            *self._cost_line(self._kept(things)),
        ]

    def _cost(self, things: Sequence[Belonging]) -> Bill:
        """What things cost a month while they stay."""
        volumes = [thing for thing in things if thing.kind == VOLUME]
        snapshots = [thing for thing in things if thing.kind == SNAPSHOT]
        return monthly_cost_of(volumes, snapshots, 0, self.prices)

    def _cost_line(self, keep: Sequence[Belonging]) -> list[str]:
        bill = self._cost(keep)
        if not bill.items:
            return []
        if bill.unknown:
            return [f"What stays costs money; no price is known for {self.request.region}."]
        return [f"What stays costs at most {bill.usd:.2f} USD a month."]

    # ---- the steps

    async def _carry_out(self, stacks: Sequence[StackFacts], bucket: str) -> None:
        manager, *others = self.request.stacks
        by_name = {stack.name: stack for stack in stacks}
        await self._delete_stack(by_name.get(manager))
        async with self._no_hub(Objects(self.gateway, bucket)):
            await self._end_builders()
            await self._end_workers()
            await self._delete_hub_data()
            await self._delete_images()
            await self._delete_snapshots()
        await self._empty(bucket)  # what gives the lease back has just written there
        for name in others:
            await self._delete_stack(by_name.get(name))
        await self._delete_secrets()

    async def _delete_stack(self, stack: StackFacts | None) -> None:
        if stack:
            await self._stacks.delete(stack)
            self._note(f"stack {stack.name}")

    @contextlib.asynccontextmanager
    async def _no_hub(self, bucket: Objects) -> Any:
        """Hold the cluster's lease: a hub that runs elsewhere launches nothing any more."""
        try:
            lease, before = await seize(bucket, self.request.cluster)
        except NotFound:  # the bucket is gone already, and with it what a hub needs to write
            yield
            return
        renewals = asyncio.get_running_loop().create_task(lease.run(), name="lease")
        try:
            await self._wait_for_hub(before)
            yield
        finally:
            renewals.cancel()
            await asyncio.gather(renewals, return_exceptions=True)

    async def _wait_for_hub(self, before: Stored | None) -> None:
        """Wait until the hub that held the lease, if it lives, writes nothing any more.

        It may do so for as long as its last renewal lasts, which was sent before the lease was
        taken; and a call that it sent at the very end has its answer within the margin.
        """
        if not may_be_at_work(before, this_process()):
            return
        elapsed = Elapsed(self.reporter, self.clock, "Waiting until the hub launches nothing more")
        while elapsed.seconds < LEASE_SECONDS:
            elapsed.tick(f"{LEASE_SECONDS - elapsed.seconds:.0f} s left")
            await self.sleep(min(POLL_SECONDS, LEASE_SECONDS - elapsed.seconds))
        elapsed.finish("done")

    async def _end_builders(self) -> None:
        """End what builds images, and a manager that is in no stack."""
        elapsed: Elapsed | None = None
        while True:
            found = [t for t in await self._belongings.instances() if t.role != Role.WORKER.value]
            if not found:
                return
            elapsed = elapsed or Elapsed(
                self.reporter, self.clock, f"Ending {len(found)} other instances"
            )
            to_end = [t.ident for t in found if t.state != "shutting-down"]
            if to_end:
                await self._terminate(to_end)
            if elapsed.seconds > BUILDERS_DEADLINE_SECONDS:
                raise StillThere(
                    f"{len(found)} instances have not ended yet.",
                    why=", ".join(map(str, found[:5])),
                    next_step="Run the same command again later.",
                )
            elapsed.tick(f"{len(found)} left")
            await self.sleep(POLL_SECONDS)

    async def _terminate(self, ids: Sequence[str]) -> None:
        tags = await self._ec2.tags_of(ids)
        ours = [
            i
            for i in ids
            if tags[i].get(TAG_CLUSTER) == self.request.cluster
            and tags[i].get(TAG_ROLE) != Role.WORKER.value
        ]
        if ours:
            with contextlib.suppress(NotFound):  # one is gone: the next look tells which
                await self._ec2.terminate(ours)

    async def _end_workers(self) -> None:
        """End workers until none is listed: one that was launched a moment ago is listed later."""
        try:
            for _ in range(ROUNDS_MAX):
                removal = await self._workers.look()
                if not removal.has_machines:
                    break
                self._workers.failed.clear()  # it is tried again
                await self._workers.end_machines(removal)
            await self._workers.delete_homes(removal.homes)
        finally:
            self.done += self._workers.done
            self.failed += self._workers.failed

    async def _delete_hub_data(self) -> None:
        if not self.request.choice.delete_hub_data:
            return
        for volume in await self._belongings.volumes():
            if volume.role == Role.MANAGER.value and volume.state == "available":
                await self._delete(volume, self._ec2.delete_volume(volume.ident))

    async def _delete_images(self) -> None:
        """All but those that another cluster of the account is launched from."""
        for image in await self._belongings.images():
            if not stays(image, self.request.choice):
                await self._delete(image, self._images.remove(image.ident, image.parts))

    async def _delete_snapshots(self) -> None:
        """Those that are not to stay; also what is left of an image that was deleted by half."""
        images = await self._belongings.images()
        for snapshot in await self._belongings.snapshots(images):
            is_to_stay = stays(snapshot, self.request.choice, parts_of_images(images))
            if snapshot.state == "completed" and not is_to_stay:
                await self._delete(snapshot, self._ec2.delete_snapshot(snapshot.ident))

    async def _delete(self, thing: Belonging, deletion: Awaitable[Any]) -> None:
        try:
            await deletion
        except NotFound:
            return
        except CloudError as error:
            self.failed.append(f"{thing.kind} {thing.ident}: {error}")
            return
        self._note(f"{thing.kind} {thing.ident}")

    async def _empty(self, bucket: str) -> None:
        """A bucket that holds something cannot be deleted."""
        try:
            while True:
                listed = await self.gateway.call(
                    "s3", "list_objects_v2", {"Bucket": bucket, "MaxKeys": DELETE_OBJECTS_MAX}
                )
                keys = [{"Key": entry["Key"]} for entry in listed.get("Contents") or ()]
                if not keys:
                    return
                params = {"Bucket": bucket, "Delete": {"Objects": keys, "Quiet": True}}
                reply = await self.gateway.call(
                    "s3", "delete_objects", params, effect=Effect.REPEATABLE
                )
                if reply.get("Errors"):
                    first = reply["Errors"][0]
                    raise StillThere(
                        f"The bucket {bucket} cannot be emptied.",
                        why=f"{first.get('Key')}: {first.get('Code')}",
                        next_step="Empty it by hand and run the same command again.",
                    )
        except NotFound:
            return

    async def _delete_secrets(self) -> None:
        """The key that workers know, and what else stands in SSM; last, for nothing needs them."""
        name = f"ec2spawner-{self.request.cluster}"
        deletion = self.gateway.call(
            "ec2", "delete_key_pair", {"KeyName": name}, effect=Effect.REPEATABLE
        )
        await self._delete(Belonging(KEY_PAIR, name), deletion)
        names = [thing.ident for thing in await self._belongings.parameters()]
        for start in range(0, len(names), DELETE_PARAMETERS_MAX):
            some = names[start : start + DELETE_PARAMETERS_MAX]
            await self.gateway.call(
                "ssm", "delete_parameters", {"Names": some}, effect=Effect.REPEATABLE
            )
            self.done += [f"{PARAMETER} {name}" for name in some]

    # ---- the end

    async def _prove(self) -> dict[str, Any]:
        """List again: only what was chosen to stay is there, or it is said what else."""
        things = await self._belongings.look()
        left = left_over(things, self.request.choice)
        self.failed += [f"{thing} is still there" for thing in left]
        for stack in [await self._stacks.look_at_all(name) for name in self.request.stacks]:
            if stack:
                self.failed.append(f"the stack {stack.name} ({stack.status}) is still there")
        keep = self._kept(things)
        lines = [f"Cluster {self.request.cluster}: {'partly ' if self.failed else ''}gone."]
        lines += [f"  stays: {thing}" for thing in keep]
        lines += self._cost_line(keep)
        self.reporter.show(lines)
        for text in self.failed:
            self.reporter.progress(f"failed: {text}")
        return self._result("partly done" if self.failed else "done", keep)

    def _note(self, what: str) -> None:
        self.done.append(what)
        self.reporter.progress(f"done: {what}")

    def _result(self, outcome: str, keep: Sequence[Belonging]) -> dict[str, Any]:
        return {
            "cluster": self.request.cluster,
            "outcome": outcome,
            "done": self.done,
            "failed": self.failed,
            "snapshots": self._workers.snapshots,
            "stays_usd_per_month": None if self._cost(keep).unknown else self._cost(keep).usd,
            "stays": [
                {
                    "kind": thing.kind,
                    "id": thing.ident,
                    "size_gib": thing.size_gib,
                    "role": thing.role,
                    "note": thing.note,
                }
                for thing in keep
            ],
        }


def may_be_at_work(before: Stored | None, here: Process) -> bool:
    """Whether a hub that wrote ``before`` into the lease may still act on it."""
    if before is None:
        return False
    record = read_record(before.body)
    if record is None:  # of no hub that is known: nothing speaks against it
        return True
    return not record.is_ended and lives(record.process, here) is not False


async def seize(bucket: Objects, cluster: str) -> tuple[Lease, Stored | None]:
    """Take the cluster's lease from whoever has it, for good; and what was there before.

    The hub that had it writes nothing any more once it has seen that, or its last renewal has run
    out. Raises NotFound where the bucket is not there. The lease is ours as long as its ``run``
    runs.
    """
    lease = Lease(bucket, cluster, this_process())
    since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    record = Record(lease.holder, 0, since, this_process())
    for _ in range(LEASE_TRIES):
        found = await bucket.get(key_of(cluster))
        try:
            await bucket.put(
                key_of(cluster), record.to_bytes(), replaces=found.etag if found else None
            )
        except ConditionFailed:  # its holder was faster
            record = replace(record, beat=record.beat + 1)
            continue
        return lease, found
    raise LeaseNotTaken(
        f"The lease of {cluster} could not be taken from the hub that holds it.",
        next_step="Stop that hub, and run the same command again.",
    )
