"""A fleet without the lease plans and writes nothing; with it again, it goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from core.fakes import RUNNING, STOPPED, FakeCloud, FakeLink
from core.kit import POLICY, SETTINGS, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner.errors import (
    AnotherHub,
    CloudError,
    Denied,
    NotTheHolder,
    OutcomeUnknown,
    Unreachable,
)
from ec2spawner.fleet import Fleet
from ec2spawner.journal import Journal
from ec2spawner.model import TAG_CLAIM, TAG_GENERATION, TAG_OWNER, Owner, Worker
from ec2spawner.remote import WorkerLink
from ec2spawner.servers import Servers
from ec2spawner.tenancy import Standing

ANN = Owner("ann")
OWNED = {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}
READS = ("Describe",)


class Tenant:
    """A tenancy that is what a test says."""

    def __init__(self, standing: Standing, problem: CloudError | None = None) -> None:
        self.standing = standing
        self.problem = problem
        self.on_change: Callable[[], None] = lambda: None

    def becomes(self, standing: Standing, problem: CloudError | None = None) -> None:
        self.standing, self.problem = standing, problem
        self.on_change()

    def refusal(self) -> CloudError | None:
        """As ``Lease.permit`` gives it."""
        if self.standing is Standing.HELD:
            return None
        return self.problem if isinstance(self.problem, AnotherHub) else NotTheHolder("not now")

    async def run(self) -> None:
        await asyncio.sleep(1e9)


class Site:
    """A fleet whose calls are guarded as the gateway guards them."""

    def __init__(self, folder: Path, standing: Standing, problem: CloudError | None = None) -> None:
        self.cloud = FakeCloud()
        self.tenant = Tenant(standing, problem)
        self.refused = 0
        self.cloud.on_call = self._guard
        journal = Journal(folder / "journal.json")
        self.fleet = Fleet(self.cloud, POLICY, SETTINGS, journal, clock=clock, lease=self.tenant)

    def _guard(self, action: str) -> None:
        refusal = None if action.startswith(READS) else self.tenant.refusal()
        if refusal:
            self.cloud.calls.pop()
            self.refused += 1
            raise refusal

    def writes(self) -> dict[str, int]:
        return {a: n for a, n in self.cloud.count().items() if not a.startswith(READS)}

    async def provided(self, user: str = "ann") -> Worker:
        return await self.fleet.provided(self.fleet.want(demand(user)))


def another() -> AnotherHub:
    return AnotherHub("Another hub serves this cluster.", why="x", next_step="Stop one of both.")


@in_virtual_time
async def test_who_comes_before_the_lease_is_there_is_served_with_it(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.UNKNOWN)
    site.fleet.start()
    coming = asyncio.ensure_future(site.provided())
    await asyncio.sleep(40)
    assert site.writes() == {}
    assert not coming.done()
    assert site.cloud.count()["DescribeInstances"] > 1, "it goes on looking"
    site.tenant.becomes(Standing.HELD)
    worker = await asyncio.wait_for(coming, 5)
    assert site.writes() == {"RunInstances": 1, "CreateTags": 1}
    assert site.cloud.owned_by(ANN.key)[0].instance_id == worker.instance_id


@in_virtual_time
async def test_beside_another_hub_nobody_is_served_and_nothing_written(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.ANOTHERS, another())
    anns = site.cloud.put_instance(RUNNING, OWNED)
    unwanted = site.cloud.put_instance(RUNNING, {TAG_OWNER: "bob-1", TAG_GENERATION: "1"})
    site.fleet.start()
    await asyncio.sleep(1)
    for user in ("ann", "newcomer"):
        begun = clock()
        with pytest.raises(AnotherHub):
            await site.provided(user)
        assert clock() == begun
        site.fleet.release(Owner(user))
    await asyncio.sleep(3600)
    assert site.writes() == {}
    assert site.refused == 0, "it does not even try"
    assert {site.cloud.state(i) for i in (anns, unwanted)} == {RUNNING}
    assert isinstance(site.fleet.problem, AnotherHub)
    assert site.fleet.is_anothers


@in_virtual_time
async def test_who_waits_is_told_once_it_is_known_that_another_hub_serves(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.UNKNOWN)
    site.cloud.put_instance(RUNNING, OWNED)
    site.fleet.start()
    coming = asyncio.ensure_future(site.provided())
    await asyncio.sleep(5)
    assert not coming.done(), "the machine runs, and may be another hub's"
    site.tenant.becomes(Standing.ANOTHERS, another())
    with pytest.raises(AnotherHub):
        await asyncio.wait_for(coming, 1)


@in_virtual_time
async def test_a_lease_that_is_refused_for_good_is_told_and_one_that_may_come_is_waited_for(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, Standing.UNKNOWN, Denied("no", action="PutObject"))
    site.fleet.start()
    with pytest.raises(Denied):
        await asyncio.wait_for(site.provided(), 5)
    site.tenant.becomes(Standing.UNKNOWN, Unreachable("no"))
    assert isinstance(site.fleet.problem, Unreachable)
    coming = asyncio.ensure_future(site.provided())
    await asyncio.sleep(60)
    assert not coming.done()
    site.tenant.becomes(Standing.HELD)
    await asyncio.wait_for(coming, 5)
    assert site.fleet.problem is None


@in_virtual_time
async def test_what_was_released_beside_another_hub_is_not_stopped_after_it(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.ANOTHERS, another())
    anns = site.cloud.put_instance(RUNNING, OWNED)
    site.fleet.start()
    await asyncio.sleep(1)
    site.fleet.release(ANN)
    await asyncio.sleep(5)
    site.tenant.becomes(Standing.HELD)
    await asyncio.sleep(60)
    assert site.cloud.state(anns) is RUNNING, "until the reaper's grace ends"
    await asyncio.sleep(600)
    assert site.cloud.state(anns) is not RUNNING


@in_virtual_time
async def test_a_launch_in_doubt_is_asked_again_only_with_the_lease(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.HELD)
    site.fleet.start()
    await asyncio.sleep(1)
    site.cloud.fail("RunInstances", OutcomeUnknown("lost", action="RunInstances"), after=True)
    coming = asyncio.ensure_future(site.provided())
    await until(lambda: site.writes(), 2)
    site.tenant.becomes(Standing.LAPSED, Unreachable("away"))
    await asyncio.sleep(100)
    assert site.writes() == {"RunInstances": 1}
    assert site.refused > 5, "it would like to"
    site.tenant.becomes(Standing.HELD)
    await asyncio.wait_for(coming, 20)
    await asyncio.sleep(60)
    assert len(site.cloud.alive()) == 1


@in_virtual_time
async def test_what_is_under_way_ends_when_another_hub_has_the_lease(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.HELD)
    site.fleet.start()
    await asyncio.sleep(1)
    site.cloud.fail("RunInstances", OutcomeUnknown("lost", action="RunInstances"), times=9)
    coming = asyncio.ensure_future(site.provided())
    await until(lambda: site.writes(), 2)
    site.tenant.becomes(Standing.ANOTHERS, another())
    with pytest.raises(AnotherHub):
        await asyncio.wait_for(coming, 1)
    await asyncio.sleep(20)
    refused = site.refused
    assert [t.get_name() for t in site.fleet._tasks.running if t.get_name() == "Launch"] == []
    await asyncio.sleep(600)
    assert site.refused == refused
    assert site.writes() == {"RunInstances": 1}


@in_virtual_time
async def test_a_running_worker_serves_its_owner_also_while_aws_is_away(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.HELD)
    site.cloud.put_instance(RUNNING, OWNED)
    site.fleet.start()
    await asyncio.sleep(1)
    site.tenant.becomes(Standing.LAPSED, Unreachable("away"))
    await asyncio.wait_for(site.provided(), 1)
    assert site.writes() == {}


@in_virtual_time
async def test_what_is_to_be_tried_again_keeps_nobody_busy_while_the_lease_is_away(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, Standing.HELD)
    site.cloud.put_instance(STOPPED, OWNED)
    site.fleet.start()
    await asyncio.sleep(1)
    site.cloud.fail("StartInstances", Unreachable("away", action="StartInstances"), times=9)
    coming = asyncio.ensure_future(site.provided())
    await until(lambda: site.writes(), 2)
    await asyncio.sleep(0.5)
    site.tenant.becomes(Standing.LAPSED, Unreachable("away"))
    ticks = 0
    tick = site.fleet.tick

    def counted() -> None:
        nonlocal ticks
        ticks += 1
        tick()

    site.fleet.tick = counted  # type: ignore[method-assign]
    await asyncio.sleep(300)
    assert ticks < 100, "what is listed every second, or half a minute, and nothing else"
    site.cloud.faults.clear()
    site.tenant.becomes(Standing.HELD)
    await asyncio.wait_for(coming, 5)


@in_virtual_time
async def test_another_hubs_servers_are_not_ended(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.ANOTHERS, another())
    link = FakeLink(site.cloud)

    async def open_link() -> WorkerLink:
        return link  # type: ignore[return-value]

    servers = Servers(site.fleet, open_link)
    anns = site.cloud.put_instance(RUNNING, OWNED)
    worker = Worker(anns, RUNNING, private_ip="127.77.0.9")
    await servers.stop(ANN, worker)
    assert link.stopped == []
    site.tenant.becomes(Standing.LAPSED)
    await servers.stop(ANN, worker)
    assert link.stopped == [anns]


@in_virtual_time
async def test_a_stop_that_waits_for_the_lease_is_not_sent_when_its_user_comes_back(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, Standing.HELD)
    anns = site.cloud.put_instance(RUNNING, OWNED)
    site.fleet.start()
    await asyncio.sleep(1)
    site.tenant.becomes(Standing.LAPSED)
    site.fleet.release(ANN)
    await asyncio.sleep(30)
    await asyncio.wait_for(site.provided(), 1)
    site.tenant.becomes(Standing.HELD)
    await asyncio.sleep(30)
    assert site.cloud.state(anns) is RUNNING
    site.fleet.release(ANN)
    await until(lambda: site.cloud.state(anns) is STOPPED, 30)


@in_virtual_time
async def test_a_closed_fleet_has_let_its_lease_go(tmp_path: Path) -> None:
    site = Site(tmp_path, Standing.HELD)
    ended: list[bool] = []

    async def kept() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            await asyncio.sleep(1)
            ended.append(True)

    site.tenant.run = kept  # type: ignore[method-assign]
    site.fleet.start()
    await asyncio.sleep(1)
    await site.fleet.close()
    assert ended == [True]
