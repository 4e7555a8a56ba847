"""A user's server on its worker: from the wish to the answer, and back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.fakes import RUNNING, STOPPED, FakeCloud, FakeLink
from core.kit import Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner import servers as servers_module
from ec2spawner.errors import (
    CredentialsError,
    HostKeyMismatch,
    WorkerRefused,
    WorkerUnreachable,
)
from ec2spawner.model import TAG_CLAIM, TAG_GENERATION, TAG_OWNER, Owner, Worker
from ec2spawner.remote import Probe
from ec2spawner.servers import Servers

ANN = Owner("ann")
OWNED = {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}


def document(worker: Worker) -> Mapping[str, Any]:
    return {"claim": worker.claim, "volume_id": worker.home_volume_id}


class Town:
    """A hub with its servers on a fake cloud."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.cloud = FakeCloud(**options)
        self.hub = Hub(self.cloud, folder)
        self.link = FakeLink(self.cloud)
        self.opened = 0
        self.servers = Servers(self.hub.fleet, self.open_link)  # type: ignore[arg-type]

    async def open_link(self) -> FakeLink:
        self.opened += 1
        await asyncio.sleep(0.3)
        return self.link

    async def start(self, user: str = "ann", tell: Any = lambda step: None) -> Worker:
        return await self.servers.start(demand(user), document, tell)


@in_virtual_time
async def test_a_first_start_ends_with_the_server_that_has_its_home(tmp_path: Path) -> None:
    town = Town(tmp_path)
    steps: list[str] = []
    worker = await town.start(tell=steps.append)
    assert town.link.started == [
        (worker.instance_id, {"claim": worker.claim, "volume_id": worker.home_volume_id})
    ]
    assert steps == ["connected"]
    await asyncio.sleep(1)
    assert town.cloud.tags(worker.home_volume_id or "")[TAG_GENERATION] == "1"


@in_virtual_time
async def test_nothing_runs_on_a_worker_before_its_claim_stands(tmp_path: Path) -> None:
    town = Town(tmp_path, boot_seconds=1.0)
    town.cloud.fail("CreateTags", times=4)  # 5 s each until it is repeated
    worker = await town.start()
    stands = town.cloud.tags(worker.instance_id)[TAG_CLAIM]
    assert [d["claim"] for _, d in town.link.started] == [stands]


@in_virtual_time
async def test_a_class_asks_for_the_key_once(tmp_path: Path) -> None:
    town = Town(tmp_path)
    await asyncio.gather(*(town.start(f"user{n}") for n in range(30)))
    assert town.opened == 1


@in_virtual_time
async def test_a_key_that_cannot_be_had_is_told_and_asked_for_again(tmp_path: Path) -> None:
    town = Town(tmp_path)

    async def none() -> FakeLink:
        raise CredentialsError("no", action="GetParameter")

    town.servers = Servers(town.hub.fleet, none)  # type: ignore[arg-type]
    with pytest.raises(CredentialsError):
        await town.start()
    await town.servers.stop(ANN, Worker("i-1", RUNNING, private_ip="127.77.0.9"))
    town.servers = Servers(town.hub.fleet, town.open_link)  # type: ignore[arg-type]
    await town.start()


@in_virtual_time
async def test_lost_contact_is_tried_again_on_the_same_worker(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.link.failures = [WorkerUnreachable("cut"), WorkerUnreachable("cut")]
    worker = await asyncio.wait_for(town.start(), 60)
    assert [i for i, _ in town.link.started] == [worker.instance_id]
    assert len(town.cloud.instances) == 1


@pytest.mark.parametrize("error", [WorkerRefused("no", reason="disk-full"), HostKeyMismatch("no")])
@in_virtual_time
async def test_what_the_worker_says_for_good_ends_the_wait(
    tmp_path: Path, error: Exception
) -> None:
    town = Town(tmp_path)
    town.link.failures = [error]
    with pytest.raises(type(error)):
        await asyncio.wait_for(town.start(), 60)
    await town.servers.stop(ANN, town.hub.fleet.sight(ANN).worker)
    await until(lambda: all(w.state is STOPPED for w in town.cloud.alive()), 60)
    again = await asyncio.wait_for(town.start(), 60)
    assert [w.instance_id for w in town.cloud.alive()] == [again.instance_id]


@in_virtual_time
async def test_a_worker_terminated_while_its_server_starts_is_replaced_with_the_same_home(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    i = town.cloud.put_instance(STOPPED, OWNED)
    home = town.cloud.instances[i].volumes.at(clock())["/dev/sdf"]
    starting = asyncio.ensure_future(town.start())
    await asyncio.sleep(3)
    town.cloud.terminate_behind_our_back(i)
    worker = await asyncio.wait_for(starting, 90)
    assert worker.instance_id != i
    assert worker.home_volume_id == home
    assert not town.cloud.sins


@in_virtual_time
async def test_a_start_that_is_given_up_leaves_nobody_waiting(tmp_path: Path) -> None:
    town = Town(tmp_path, boot_seconds=600.0)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(town.start(), 20)
    await town.servers.stop(ANN, None)
    left = {getattr(t.get_coro(), "__qualname__", "") for t in asyncio.all_tasks()}
    assert not {name for name in left if "Fleet.lost" in name or "FakeLink" in name}
    assert not {name for name in left if "Servers" in name}
    await asyncio.sleep(700)
    assert [w.state for w in town.cloud.alive()] == [STOPPED], "it does not go on costing money"
    town.cloud.boot_seconds = 5.0
    again = await asyncio.wait_for(town.start(), 60)
    assert [w.instance_id for w in town.cloud.alive()] == [again.instance_id]


@in_virtual_time
async def test_stop_ends_the_server_first_and_then_the_machine(tmp_path: Path) -> None:
    town = Town(tmp_path)
    worker = await town.start()
    await town.servers.stop(ANN, worker)
    assert town.link.stopped == [worker.instance_id]
    assert town.cloud.state(worker.instance_id) is RUNNING, "nobody waits for the machine"
    await until(lambda: town.cloud.state(worker.instance_id) is STOPPED, 30)


@pytest.mark.parametrize("error", [WorkerUnreachable("cut"), HostKeyMismatch("no")])
@in_virtual_time
async def test_stop_raises_nothing_and_stops_the_machine(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town(tmp_path)
    worker = await town.start()
    town.link.failures = [error]
    with caplog.at_level(logging.WARNING):
        await town.servers.stop(ANN, worker)
    assert "Not ended gracefully" in caplog.text
    await until(lambda: town.cloud.state(worker.instance_id) is STOPPED, 30)


@in_virtual_time
async def test_stop_that_is_interrupted_stops_the_machine_all_the_same(tmp_path: Path) -> None:
    town = Town(tmp_path)
    worker = await town.start()

    async def for_ever(worker: Worker, timeout_seconds: float) -> dict[str, Any]:
        await asyncio.sleep(9999)
        return {}

    town.link.stop = for_ever  # type: ignore[method-assign]
    stopping = asyncio.ensure_future(town.servers.stop(ANN, worker))
    await asyncio.sleep(1)
    stopping.cancel()
    await until(lambda: town.cloud.state(worker.instance_id) is STOPPED, 30)


@pytest.mark.parametrize(
    ("probes", "is_dead"),
    [
        ([Probe.LISTENING], False),
        ([Probe.SILENT], False),
        ([Probe.REFUSED, Probe.LISTENING], False),
        ([Probe.REFUSED, Probe.SILENT], False),
        ([Probe.REFUSED, Probe.REFUSED], True),
    ],
)
@in_virtual_time
async def test_a_server_is_dead_when_its_machine_refuses_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probes: list[Probe], is_dead: bool
) -> None:
    town = Town(tmp_path)
    worker = await town.start()
    left = list(probes)

    async def probe(address: str, port: int) -> Probe:
        return left.pop(0)

    monkeypatch.setattr(servers_module, "probe", probe)
    assert await town.servers.is_dead(ANN, worker, 8888) is is_dead
    assert left == []


@pytest.mark.parametrize("away", [False, True], ids=["", "AWS away"])
@in_virtual_time
async def test_a_server_whose_machine_is_gone_is_dead_unless_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    town = Town(tmp_path)
    worker = await town.start()

    async def probe(address: str, port: int) -> Probe:
        return Probe.SILENT

    monkeypatch.setattr(servers_module, "probe", probe)
    await asyncio.sleep(60)
    town.cloud.away = away
    town.cloud.terminate_behind_our_back(worker.instance_id)
    await asyncio.sleep(40)
    assert await town.servers.is_dead(ANN, worker, 8888) is not away


@in_virtual_time
async def test_one_listing_that_lacks_a_worker_does_not_make_its_server_dead(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    worker = await town.start()
    await asyncio.sleep(100)
    whole = town.cloud.list_workers

    async def without(ids: object = None) -> list[Worker]:
        await whole(None)
        return []

    town.cloud.list_workers = without  # type: ignore[method-assign]
    before = town.hub.fleet.inventory.listing.full_at
    await until(lambda: town.hub.fleet.inventory.listing.full_at > before)
    for _ in range(5):
        assert not town.hub.fleet.is_gone(ANN, worker.instance_id)
        await asyncio.sleep(1)
    town.cloud.list_workers = whole  # type: ignore[method-assign]
    await asyncio.sleep(100)
    assert not town.hub.fleet.is_gone(ANN, worker.instance_id)
    assert town.cloud.state(worker.instance_id) is RUNNING
    town.cloud.list_workers = without  # type: ignore[method-assign]
    await asyncio.sleep(31)
    assert not town.hub.fleet.is_gone(ANN, worker.instance_id)
    await asyncio.sleep(31)
    assert town.hub.fleet.is_gone(ANN, worker.instance_id)


@in_virtual_time
async def test_no_fault_of_a_worker_leaves_a_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town(tmp_path)
    worker = await town.start()
    town.link.failures = [UnicodeDecodeError("ascii", b"x", 0, 1, "ordinal not in range")]
    await town.servers.stop(ANN, worker)
    await until(lambda: town.cloud.state(worker.instance_id) is STOPPED, 60)
    assert "UnicodeDecodeError" in caplog.text


@in_virtual_time
async def test_a_server_that_takes_connections_and_says_nothing_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Town(tmp_path)
    worker = await town.start()
    asked: list[str] = []
    says = [True, False, False, True]

    async def probe(address: str, port: int) -> Probe:
        return Probe.LISTENING

    async def answers(address: str, port: int, path: str) -> bool:
        asked.append(path)
        return says.pop(0)

    now = [0.0]
    monkeypatch.setattr(servers_module, "probe", probe)
    monkeypatch.setattr(servers_module, "answers", answers)
    monkeypatch.setattr(servers_module.time, "monotonic", lambda: now[0])
    silent = []
    for now[0] in (0.0, 30.0, 60.0, 70.0, 80.0, 90.0):
        assert not await town.servers.is_dead(ANN, worker, 8888, "/user/ann/api")
        silent.append(town.hub.fleet.is_silent(worker))
    assert silent == [False, False, True, True, False, False]
    assert asked == ["/user/ann/api"] * 4, "once a minute, and at each look while it is silent"
