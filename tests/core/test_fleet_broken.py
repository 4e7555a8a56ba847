"""Machines that go wrong, in virtual time: found, told, replaced with the same home, kept, removed.

Boots that hang, machines that fall silent, stops that get stuck; hubs killed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.fakes import RUNNING, STOPPED, STOPPING, FakeCloud, FakeLink
from core.kit import POLICY, Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner import servers as servers_module
from ec2spawner.errors import Denied, EC2SpawnerError, Unreachable
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_BROKEN,
    TAG_CLAIM,
    TAG_GENERATION,
    TAG_OWNER,
    InstanceState,
    Owner,
    Worker,
)
from ec2spawner.remote import Probe
from ec2spawner.replacing import (
    BOOT_BOUND_SECONDS,
    CUT_OFF_IMPAIRED_SECONDS,
    CUT_OFF_SECONDS,
    IMPAIRED_BOUND_SECONDS,
    STUCK_SECONDS,
)
from ec2spawner.servers import Servers

ANN = Owner("ann")
OWNED = {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}
QUICK = 60.0
"""Seconds from a mark to a server on another machine: stop, detach, launch, boot."""


class Town:
    """A hub with its servers on a fake cloud, in which Ann has a stopped machine."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.cloud = FakeCloud(**options)
        self.first = self.cloud.put_instance(STOPPED, OWNED, launched_at=clock() - 9000)
        self.home = self.cloud.instances[self.first].volumes.at(clock())[HOME_DEVICE]
        self.hub = Hub(self.cloud, folder)
        self.steps: list[str] = []
        self._open()

    def _open(self) -> None:
        self.link = FakeLink(self.cloud)
        self.servers = Servers(self.hub.fleet, self.open_link)  # type: ignore[arg-type]

    async def open_link(self) -> FakeLink:
        return self.link

    async def start(self, user: str = "ann", seconds: float = 600.0) -> Worker:
        def document(worker: Worker) -> dict[str, Any]:
            return {"claim": worker.claim, "volume_id": worker.home_volume_id}

        starting = self.servers.start(demand(user), document, self.steps.append)
        return await asyncio.wait_for(starting, seconds)

    def restart(self) -> None:
        self.hub = self.hub.kill()
        self._open()

    def state(self, instance_id: str = "") -> InstanceState:
        return self.cloud.state(instance_id or self.first)

    def is_marked(self) -> bool:
        return TAG_BROKEN in self.cloud.tags(self.first)

    def check(self, worker: Worker) -> None:
        """Ann is on another machine with her home, of which there is one; the old one is kept."""
        assert worker.instance_id != self.first
        assert worker.home_volume_id == self.home
        assert [v.volume_id for v in self.cloud.homes_of(ANN.key)] == [self.home]
        assert [w.instance_id for w in self.cloud.owned_by(ANN.key)] == [worker.instance_id]
        assert self.state() is STOPPED
        assert self.is_marked()
        assert not self.cloud.sins


# ---- who waits


@in_virtual_time
async def test_a_machine_that_never_answers_is_replaced_with_the_same_home(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    begun = clock()
    town.check(await town.start())
    assert BOOT_BOUND_SECONDS < clock() - begun < BOOT_BOUND_SECONDS + QUICK
    assert town.steps == ["replaced", "connected"]
    assert town.cloud.count()["DetachVolume"] == 1
    assert town.cloud.count()["RunInstances"] == 1


@in_virtual_time
async def test_a_machine_that_ec2_calls_impaired_is_found_sooner(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    town.cloud.impaired.add(town.first)
    begun = clock()
    town.check(await town.start())
    assert clock() - begun < IMPAIRED_BOUND_SECONDS + 30 + QUICK


@in_virtual_time
async def test_a_machine_that_falls_silent_in_mid_start_is_replaced(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.link.server_seconds = 20.0
    starting = asyncio.ensure_future(town.start())
    await until(lambda: town.steps == ["connected"])
    town.cloud.silent.add(town.first)
    town.check(await starting)
    assert town.steps == ["connected", "replaced", "connected"]


@in_virtual_time
async def test_a_first_login_whose_machine_never_comes_up_gets_another_and_the_same_blank_home(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    starting = asyncio.ensure_future(town.start("bob"))
    bob = Owner("bob")
    await until(lambda: town.cloud.owned_by(bob.key))
    (first,) = town.cloud.owned_by(bob.key)
    town.cloud.silent.add(first.instance_id)
    second = await starting
    assert second.instance_id != first.instance_id
    (home,) = town.cloud.homes_of(bob.key)
    assert second.home_volume_id == home.volume_id
    assert len(town.cloud.volumes) == 2, "none was made besides"
    assert not town.cloud.sins


@in_virtual_time
async def test_no_status_check_is_asked_for_while_machines_answer(tmp_path: Path) -> None:
    town = Town(tmp_path)
    await town.start()
    await asyncio.sleep(3600)
    assert "DescribeInstanceStatus" not in town.cloud.count()


@in_virtual_time
async def test_a_boot_that_is_just_slow_is_waited_for(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    starting = asyncio.ensure_future(town.start())
    await asyncio.sleep(BOOT_BOUND_SECONDS - 20)
    town.cloud.silent.clear()
    assert (await starting).instance_id == town.first
    assert not town.is_marked()


@in_virtual_time
async def test_a_mark_that_is_refused_changes_nothing_and_is_tried_again(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    town.cloud.fail("CreateTags", Denied("no"), times=2)
    town.check(await town.start())


@pytest.mark.parametrize("after", [False, True], ids=["no effect", "effect"])
@pytest.mark.parametrize("action", ["CreateTags", "DetachVolume", "StopInstances", "AttachVolume"])
@in_virtual_time
async def test_no_lost_reply_keeps_anybody_from_their_files(
    tmp_path: Path, action: str, after: bool
) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    town.cloud.fail(action, after=after, times=2)
    town.check(await town.start())


@in_virtual_time
async def test_a_broken_machine_that_comes_back_to_life_is_not_used_again(tmp_path: Path) -> None:
    town = Town(tmp_path, stop_seconds=30.0)
    town.cloud.silent.add(town.first)
    starting = asyncio.ensure_future(town.start())
    await until(town.is_marked)
    town.cloud.silent.clear()
    town.check(await starting)


POINTS: dict[str, Callable[[Town], bool]] = {
    "marked": Town.is_marked,
    "stopping": lambda town: town.is_marked() and town.state() is STOPPING,
    "another claimed": lambda town: len(town.cloud.owned_by(ANN.key)) == 1 and town.is_marked(),
    "stopped": lambda town: town.is_marked() and town.state() is STOPPED,
    "detached": lambda town: town.cloud.volumes[town.home].holder.at(clock()) is None,
    "attached": lambda town: (
        town.cloud.volumes[town.home].holder.at(clock()) not in (None, town.first)
    ),
}


@pytest.mark.parametrize("lag", [0.0, 5.0], ids=["", "listings lag"])
@pytest.mark.parametrize("point", POINTS)
@in_virtual_time
async def test_a_hub_killed_at_any_step_is_followed_by_one_that_goes_on(
    tmp_path: Path, point: str, lag: float
) -> None:
    town = Town(tmp_path)
    town.cloud.lag_seconds = lag
    town.cloud.silent.add(town.first)
    starting = asyncio.ensure_future(town.start())
    await until(lambda: POINTS[point](town))
    starting.cancel()
    town.restart()
    worker = await town.start()
    await asyncio.sleep(100)
    town.check(worker)


@pytest.mark.parametrize("point", POINTS)
@in_virtual_time
async def test_who_gives_up_in_between_gets_their_files_the_next_time(
    tmp_path: Path, point: str
) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    starting = asyncio.ensure_future(town.start())
    await until(lambda: POINTS[point](town))
    starting.cancel()
    await town.servers.stop(ANN, None)
    await asyncio.sleep(900)
    assert {w.state for w in town.cloud.alive()} == {STOPPED}, "nothing runs for nobody"
    town.check(await town.start())


@in_virtual_time
async def test_after_two_broken_ones_the_user_is_told_and_nothing_more_is_launched(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)

    def hang(action: str) -> None:
        town.cloud.silent.update(town.cloud.instances)

    town.cloud.on_call = hang
    with pytest.raises(EC2SpawnerError, match="neither did the ones before it"):
        await town.start(seconds=2000)
    assert town.cloud.count()["RunInstances"] == 2
    assert not town.cloud.sins


@in_virtual_time
async def test_if_a_whole_class_is_silent_nobody_gets_a_second_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town(tmp_path)

    def hang(action: str) -> None:
        town.cloud.silent.update(town.cloud.instances)

    town.cloud.on_call = hang
    starts = [town.start(f"user{n}") for n in range(8)]
    outcomes = await asyncio.gather(*starts, return_exceptions=True)
    assert {type(o) for o in outcomes} == {asyncio.TimeoutError}
    assert len(town.cloud.instances) == 1 + 8
    assert "more than do" in caplog.text


# ---- machines that do not stop


@in_virtual_time
async def test_a_broken_machine_that_does_not_stop_is_stopped_by_force(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    town.cloud.stuck.add(town.first)
    town.check(await town.start())
    assert town.cloud.count()["StopInstances by force"] == 1


@in_virtual_time
async def test_a_machine_that_is_stuck_is_reported_and_keeps_its_home(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    town.cloud.stuck.add(town.first)
    town.cloud.is_force_of_use = False
    with pytest.raises(EC2SpawnerError, match="holds on to your files"):
        await town.start(seconds=2000)
    await town.servers.stop(ANN, None)
    assert town.state() is STOPPING
    assert "DetachVolume" not in town.cloud.count()
    assert len(town.cloud.volumes) == 1, "no second home"
    assert len([r for r in caplog.records if "Stuck while it stops" in r.message]) == 1
    await asyncio.sleep(STUCK_SECONDS)
    assert [w for w in town.cloud.alive() if w.state is RUNNING] == []
    town.cloud._stop([town.first])  # in the console, and AWS helped
    town.cloud.instances[town.first].state.set(clock(), STOPPED)
    await asyncio.sleep(60)
    town.check(await town.start())


@in_virtual_time
async def test_a_stop_that_is_stuck_while_its_user_comes_back_is_mended_by_another_machine(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    await town.start()
    town.cloud.stuck.add(town.first)
    await town.servers.stop(ANN, None)
    await until(lambda: town.state() is STOPPING)
    town.check(await town.start())


# ---- who works


class Served(Town):
    """Ann works; her machine is asked as the hub does, every ten seconds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)

        async def probe(address: str, port: int) -> Probe:
            (one,) = [w for w in self.cloud.alive() if w.private_ip == address]
            return Probe.LISTENING if self.cloud.answers(one.instance_id) else Probe.SILENT

        monkeypatch.setattr(servers_module, "probe", probe)

    async def until_dead(self, user: str, worker: Worker, seconds: float) -> float:
        """How long it takes until the hub gives the server up; ``seconds`` if it does not."""
        begun = clock()
        while clock() - begun < seconds:
            if await self.servers.is_dead(Owner(user), worker, 8888):
                self.hub.fleet.forget(Owner(user))
                break
            await asyncio.sleep(10)
        return clock() - begun


@in_virtual_time
async def test_a_machine_that_is_out_of_reach_for_long_is_given_up_and_replaced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Served(tmp_path, monkeypatch)
    worker = await town.start()
    town.cloud.silent.add(town.first)
    took = await town.until_dead("ann", worker, 3600)
    assert CUT_OFF_SECONDS <= took < CUT_OFF_SECONDS + 30
    begun = clock()
    town.check(await town.start())
    assert clock() - begun < QUICK


@in_virtual_time
async def test_a_machine_that_panicked_is_given_up_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Served(tmp_path, monkeypatch)
    worker = await town.start()
    town.cloud.silent.add(town.first)
    town.cloud.impaired.add(town.first)
    took = await town.until_dead("ann", worker, 3600)
    assert took < CUT_OFF_IMPAIRED_SECONDS + 30
    await asyncio.sleep(120)
    assert town.is_marked(), "also if nobody comes back"
    assert town.state() is STOPPED


@in_virtual_time
async def test_a_hiccup_of_the_network_ends_nobodys_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Served(tmp_path, monkeypatch)
    worker = await town.start()
    town.cloud.silent.add(town.first)
    assert await town.until_dead("ann", worker, CUT_OFF_SECONDS - 100) >= CUT_OFF_SECONDS - 100
    town.cloud.silent.clear()
    assert await town.until_dead("ann", worker, 3000) >= 3000
    assert town.state() is RUNNING
    assert not town.is_marked()


@in_virtual_time
async def test_a_hub_that_reaches_nobody_ends_nobodys_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Served(tmp_path, monkeypatch)
    workers = {user: await town.start(user) for user in ("ann", "bob", "cem")}
    town.cloud.silent.update(w.instance_id for w in workers.values())
    took = await asyncio.gather(*(town.until_dead(u, w, 3000) for u, w in workers.items()))
    assert min(took) >= 3000


@in_virtual_time
async def test_while_aws_is_away_nobody_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Served(tmp_path, monkeypatch)
    worker = await town.start()
    town.cloud.away = True
    town.cloud.silent.add(town.first)
    assert await town.until_dead("ann", worker, 3000) >= 3000


@in_virtual_time
async def test_status_checks_that_cannot_be_listed_are_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town(tmp_path)
    town.cloud.silent.add(town.first)
    town.cloud.impaired.add(town.first)
    town.cloud.fail("DescribeInstanceStatus", Unreachable("away"), times=99)
    with caplog.at_level(logging.WARNING):
        town.check(await town.start())
    assert "Status checks cannot be listed" in caplog.text


# ---- and then


@in_virtual_time
async def test_a_broken_machine_is_kept_for_a_day_and_then_removed_for_good(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    town.hub.fleet.policy = replace(POLICY, keep_broken_seconds=7200.0)
    town.cloud.silent.add(town.first)
    worker = await town.start()
    await asyncio.sleep(6500)
    assert town.state() is STOPPED
    await asyncio.sleep(900)
    assert town.first not in {w.instance_id for w in town.cloud.alive()}
    assert town.state(worker.instance_id) is RUNNING
    assert not town.cloud.sins


@in_virtual_time
async def test_a_renamed_users_home_comes_off_the_broken_machine_too(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.cloud.may_rename = True
    town.cloud.silent.add(town.first)
    starting = asyncio.ensure_future(town.start())
    await until(town.is_marked)
    starting.cancel()
    await town.servers.stop(ANN, None)
    town.hub.fleet.rename(ANN, Owner("anna"))
    worker = await town.start("anna")
    assert worker.home_volume_id == town.home
    assert not town.cloud.sins
