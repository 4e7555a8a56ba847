"""A hub that dies at any moment: the next one finds one worker each, and no file is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from core.fakes import RUNNING, STOPPED, FakeCloud
from core.kit import POLICY, Hub, demand
from core.virtual import clock, run
from ec2spawner.model import TAG_CLAIM, TAG_DELETED, TAG_GENERATION, TAG_OWNER, Owner

ANN = Owner("ann")


async def _first_login_with_a_kill(cloud: FakeCloud, folder: Path, kill_at: float) -> None:
    hub = Hub(cloud, folder)
    login = asyncio.ensure_future(hub.log_in("ann"))
    await asyncio.sleep(kill_at)
    login.cancel()
    hub = hub.kill()
    worker = await asyncio.wait_for(hub.log_in("ann"), 60)
    await asyncio.sleep(1500)
    assert cloud.state(worker.instance_id) is RUNNING
    assert [w.instance_id for w in cloud.owned_by(ANN.key)] == [worker.instance_id]
    assert [v.volume_id for v in cloud.homes_of(ANN.key)] == [worker.home_volume_id]
    assert [w.instance_id for w in cloud.alive()] == [worker.instance_id], "doubles are reaped"
    claims = {cloud.tags(i)[TAG_CLAIM] for i in (worker.instance_id, worker.home_volume_id or "")}
    assert claims == {worker.claim}
    assert not cloud.sins


@pytest.mark.parametrize("lag_seconds", [0.0, 3.0])
def test_killed_at_any_moment_of_a_first_login_one_worker_is_theirs(
    tmp_path: Path, lag_seconds: float
) -> None:
    for step in range(0, 90):
        cloud = FakeCloud(lag_seconds=lag_seconds)
        folder = tmp_path / f"{step}"
        folder.mkdir()
        run(_first_login_with_a_kill(cloud, folder, step * 0.1))


async def _first_logins_with_kills(cloud: FakeCloud, folder: Path, pause: float) -> None:
    users = [f"user{n}" for n in range(6)]
    hub = Hub(cloud, folder)
    for _ in range(5):
        logins = [asyncio.ensure_future(hub.log_in(user)) for user in users]
        await asyncio.sleep(pause)
        for login in logins:
            login.cancel()
        hub = hub.kill()
    workers = await asyncio.wait_for(asyncio.gather(*map(hub.log_in, users)), 60)
    await asyncio.sleep(1500)
    assert len({w.instance_id for w in workers}) == len(users)
    for user, worker in zip(users, workers, strict=True):
        owned = cloud.owned_by(Owner(user).key)
        assert [w.instance_id for w in owned] == [worker.instance_id]
        assert cloud.tags(worker.instance_id)[TAG_CLAIM] == worker.claim
    assert len(cloud.alive()) == len(users)
    assert not cloud.sins


def test_a_hub_that_dies_again_and_again_in_a_class_of_logins_gives_each_one_worker(
    tmp_path: Path,
) -> None:
    for number, pause in enumerate((0.16, 0.3, 0.45, 0.5, 0.7, 1.0, 1.7, 2.0, 2.3)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        run(_first_logins_with_kills(FakeCloud(), folder, pause))


async def _restart_with_a_kill(cloud: FakeCloud, folder: Path, kill_at: float) -> None:
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})
    hub = Hub(cloud, folder)
    login = asyncio.ensure_future(hub.log_in("ann"))
    await asyncio.sleep(kill_at)
    login.cancel()
    hub = hub.kill()
    worker = await asyncio.wait_for(hub.log_in("ann"), 30)
    assert worker.instance_id == i
    assert worker.claim == "c"
    assert list(cloud.instances) == [i]


def test_killed_at_any_moment_of_a_later_login_the_worker_is_the_same(tmp_path: Path) -> None:
    for step in range(30):
        folder = tmp_path / f"{step}"
        folder.mkdir()
        run(_restart_with_a_kill(FakeCloud(), folder, step * 0.25))


async def _deletion_with_a_kill(cloud: FakeCloud, folder: Path, kill_at: float) -> None:
    home = cloud.put_volume({TAG_OWNER: ANN.key, TAG_GENERATION: "1"}, holder="x")
    cloud.put_instance(
        STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}, home=home
    )
    hub = Hub(cloud, folder, replace(POLICY, delete_grace_seconds=3600))
    await asyncio.sleep(2)
    deleting = asyncio.ensure_future(hub.fleet.delete(ANN, "row1"))
    await asyncio.sleep(kill_at)
    hub = hub.kill()
    deleting.cancel()
    await asyncio.sleep(100)
    assert TAG_DELETED in cloud.tags(home), f"killed {kill_at} s after"
    again = await hub.log_in("ann", incarnation="row2")
    assert again.home_volume_id != home
    hub.fleet.release(ANN)
    await asyncio.sleep(3000)
    assert cloud.volumes[home].gone_at > clock(), "in its grace time"
    await asyncio.sleep(1500)
    assert cloud.volumes[home].gone_at < clock()
    saved = [s for s in cloud.snapshots.values() if s.volume_id == home]
    assert len(saved) == 1
    assert [v.volume_id for v in cloud.homes_of(ANN.key)] == [again.home_volume_id]
    assert not cloud.sins


@pytest.mark.parametrize("kill_at", [0.001, 0.06, 0.16, 0.3, 0.7, 20.0])
def test_killed_at_any_moment_of_a_deletion_it_is_finished_and_nothing_else_goes(
    tmp_path: Path, kill_at: float
) -> None:
    run(_deletion_with_a_kill(FakeCloud(), tmp_path, kill_at))


def test_a_hub_without_its_journal_finds_the_same_workers(tmp_path: Path) -> None:
    async def scenario() -> None:
        cloud = FakeCloud()
        hub = Hub(cloud, tmp_path)
        workers = await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(4)))
        (tmp_path / "journal.json").unlink(missing_ok=True)
        hub = hub.kill()
        again = await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(4)))
        assert [w.instance_id for w in again] == [w.instance_id for w in workers]
        assert [w.home_volume_id for w in again] == [w.home_volume_id for w in workers]

    run(scenario())


def test_a_restarted_hub_stops_nobody_who_works(tmp_path: Path) -> None:
    async def scenario() -> None:
        cloud = FakeCloud()
        hub = Hub(cloud, tmp_path)
        worker = await hub.log_in("ann")
        for _ in range(4):
            hub = hub.kill()
            hub.fleet.want(demand("ann"))  # what load_state does
            await asyncio.sleep(400)
        assert cloud.state(worker.instance_id) is RUNNING
        assert "StopInstances" not in cloud.count()

    run(scenario())
