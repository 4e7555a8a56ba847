"""300 workers without their hub, in virtual time: who goes off, when, and who stays.

EC2's semantics, the machines and the stub workers are wired as the served cloud wires them; only
the clock is the test's, and the hub is a set of addresses at which something answers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from ec2spawner.localcloud.clock import ManualClock
from ec2spawner.localcloud.disks import Disks
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.state import Timings
from ec2spawner.localcloud.ec2.surroundings import StaticSurroundings, SubnetInfo
from ec2spawner.localcloud.machines import Machines
from ec2spawner.localcloud.stub_watchdog import StubWork
from ec2spawner.localcloud.stub_workers import StubWorkers
from ec2spawner.worker.activity import Kernel, Terminal
from localcloud.serving import until
from localcloud.support import AMI, tags

SUBNET = SubnetInfo("subnet-1", "vpc-0", "us-east-1a", "127.92.0.0/22")
HUB = "http://127.0.0.1:8081/hub/api"
MINUTE, HOUR = 60.0, 3600.0
LOST_SECONDS, IDLE_SECONDS = 1800, 3600
STOPPING_SECONDS = 5.0
CLASS = 300


class Fleet:
    """Workers, their hub, and time that passes by the minute."""

    def __init__(self, state_dir: Path) -> None:
        self.clock = ManualClock()
        self.hubs = {HUB}
        self.asked: list[str] = []
        self.stubs = StubWorkers(0.0, self.clock, self._reaches)
        key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
        surroundings = StaticSurroundings(subnets={SUBNET.id: SUBNET})
        surroundings.public_key = lambda name: key  # type: ignore[attr-defined]
        timings = Timings(pending_seconds=1.0, stopping_seconds=STOPPING_SECONDS)
        self.ec2 = EmulatedEC2(self.clock, surroundings, timings=timings, seed="test")
        self._disks = Disks(state_dir, threading.RLock(), self._follow)
        self._machines = Machines(
            self.stubs,
            self._disks,
            ssh_port=2222,
            boot_seconds=lambda: 0.0,
            watchdog_seconds=lambda: MINUTE,
            tick=self._settle,
        )

    def _reaches(self, url: str) -> bool:
        self.asked.append(url)
        return url in self.hubs

    def _follow(self) -> None:
        self.ec2.take_changes()
        for event in self.ec2.take_events():
            self._machines.follow(self.ec2, event)

    def _settle(self) -> float:
        self.ec2.settle()
        self._follow()
        return 0.0

    def _do_all(self) -> None:
        """Orders, what they lead to, and ends of machines."""
        for _ in range(2):
            self._follow()
            self._machines.step()

    def launch(self, count: int) -> list[str]:
        reply = self.ec2.call(
            "RunInstances",
            {
                "ImageId": AMI,
                "InstanceType": "t3.medium",
                "SubnetId": SUBNET.id,
                "MinCount": count,
                "MaxCount": count,
                "TagSpecifications": [tags("instance", **{"ec2spawner:role": "worker"})],
            },
        )
        ids = [i["InstanceId"] for i in reply["Instances"]]
        self.clock.advance(1)
        self._do_all()
        until(lambda: all(self._is_booted(i) for i in ids))
        return ids

    def _is_booted(self, instance_id: str) -> bool:
        return self.stubs._stubs[instance_id].ssh is not None

    def prepare(self, instance_id: str) -> None:
        """What a hub does for a spare."""
        document = {"version": 1, "watchdog": self.terms}
        assert self.stubs.command(instance_id, "prepare", document)[-1]["event"] == "prepared"

    def serve(self, instance_id: str) -> None:
        """What a hub does for a user's login."""
        number = int(instance_id[2:], 16)
        document = {
            "owner": f"user-{number}",
            "claim": f"{number:016x}"[-16:],
            "address": self.ec2.instances[instance_id].private_ip,
            "port": 8888,
            "watchdog": self.terms,
        }
        assert self.stubs.command(instance_id, "start", document)[-1]["event"] == "ready"

    @property
    def terms(self) -> dict[str, Any]:
        return {
            "hub_url": HUB,
            "hub_lost_seconds": LOST_SECONDS,
            "idle_seconds": IDLE_SECONDS,
        }

    def types(self, instance_id: str) -> None:
        typed = Terminal(foreground_job=False, typed_at=self.clock())
        self.stubs.set_work(instance_id, StubWork(terminals=(typed,)))

    def passes(self, seconds: float) -> None:
        """Let time pass by the minute, as the switches do."""
        for _ in range(round(seconds / MINUTE)):
            self.clock.advance(MINUTE)
            self.stubs.look_around()
            self._do_all()

    def state(self, instance_id: str) -> str:
        self.ec2.settle()
        return self.ec2.instances[instance_id].state.value

    def running(self) -> set[str]:
        self.ec2.settle()
        return {i.id for i in self.ec2.instances.values() if i.state.value == "running"}

    def close(self) -> None:
        self.stubs.close()
        self._disks.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def test_a_class_is_powered_off_in_time_when_its_hub_was_killed(fleet: Fleet) -> None:
    ids = fleet.launch(CLASS)
    for instance_id in ids:
        fleet.serve(instance_id)
    fleet.passes(20 * MINUTE)
    killed_at, worked_at = fleet.clock(), fleet.clock() - 20 * MINUTE
    fleet.hubs.clear()
    fleet.passes(39 * MINUTE)
    assert fleet.running() == set(ids)  # the hub is lost, and they may still be at work
    fleet.passes(3 * MINUTE)
    assert fleet.clock() - killed_at > LOST_SECONDS
    assert fleet.clock() - worked_at < IDLE_SECONDS + 3 * MINUTE
    assert fleet.running() == set()
    fleet.clock.advance(STOPPING_SECONDS)
    assert {fleet.state(i) for i in ids} == {"stopped"}
    why = {i.reason_code for i in fleet.ec2.instances.values()}
    assert why == {"Client.InstanceInitiatedShutdown"}


def test_a_hub_upgrade_of_ten_minutes_switches_nothing_off(fleet: Fleet) -> None:
    """At any time of their idleness: also those that the culler was just about to stop."""
    ids = fleet.launch(CLASS)
    for instance_id in ids:
        fleet.prepare(instance_id)
    for number, instance_id in enumerate(ids):
        fleet.serve(instance_id)
        if number % (CLASS // 5) == CLASS // 5 - 1:
            fleet.passes(10 * MINUTE)
    for _ in range(3):
        fleet.hubs.clear()
        fleet.passes(10 * MINUTE)
        assert fleet.running() == set(ids)
        fleet.hubs.add(HUB)
        fleet.passes(5 * MINUTE)
    assert fleet.running() == set(ids)


def test_an_outage_switches_off_who_is_idle_and_nobody_at_work(fleet: Fleet) -> None:
    ids = fleet.launch(CLASS)
    for instance_id in ids:
        fleet.serve(instance_id)
    silent, terminals, typing, idle = (set(ids[n::4]) for n in range(4))
    for instance_id in silent:  # a cell that computes, and says nothing
        busy = Kernel(busy=True, ended_at=0.0)
        fleet.stubs.set_work(instance_id, StubWork(kernels=(busy,)))
    for instance_id in terminals:  # a job in its foreground, and nothing typed
        job = Terminal(foreground_job=True, typed_at=0.0)
        fleet.stubs.set_work(instance_id, StubWork(terminals=(job,)))
    fleet.hubs.clear()
    for _ in range(2 * 5):  # five hours, and a word each half hour
        for instance_id in typing:
            fleet.types(instance_id)
        fleet.passes(30 * MINUTE)
    assert fleet.running() == silent | terminals | typing
    fleet.clock.advance(STOPPING_SECONDS)
    assert {fleet.state(i) for i in idle} == {"stopped"}
    for instance_id in silent | terminals:  # their work ends, and the hub is still away
        fleet.stubs.set_work(instance_id, StubWork(requested_at=fleet.clock()))
    fleet.passes(59 * MINUTE)
    assert fleet.running() >= silent | terminals
    fleet.passes(2 * MINUTE)
    assert fleet.running().isdisjoint(silent | terminals)


def test_the_hub_that_comes_back_finds_its_machines_as_ever(fleet: Fleet) -> None:
    ids = fleet.launch(4)
    for instance_id in ids:
        fleet.serve(instance_id)
    fleet.hubs.clear()
    fleet.passes(2 * HOUR)
    assert fleet.running() == set()
    fleet.hubs.add(HUB)
    fleet.ec2.call("StartInstances", {"InstanceIds": ids})
    fleet.clock.advance(1)
    fleet._do_all()
    until(lambda: all(fleet._is_booted(i) for i in ids))
    fleet.passes(10 * MINUTE)
    for instance_id in ids:
        fleet.serve(instance_id)
    fleet.passes(HOUR)
    assert fleet.running() == set(ids)


def test_spares_are_the_hub_s_business_until_it_is_lost_and_forgotten_ones_go_off(
    fleet: Fleet,
) -> None:
    """Those of which no hub ever heard go off by themselves: it died right after the launch."""
    ids = fleet.launch(20)
    told, untold = ids[:10], ids[10:]
    for instance_id in told:
        fleet.prepare(instance_id)
    fleet.passes(LOST_SECONDS - MINUTE)
    assert fleet.running() == set(ids)
    fleet.passes(2 * MINUTE)
    assert fleet.running() == set(told)
    fleet.passes(5 * HOUR)
    assert fleet.running() == set(told)
    fleet.hubs.clear()
    fleet.passes(LOST_SECONDS + 2 * MINUTE)
    assert fleet.running() == set()
    assert set(untold).isdisjoint(fleet.running())


def test_a_worker_that_the_culler_forgot_goes_off_and_a_class_asks_its_hub_once_a_minute(
    fleet: Fleet,
) -> None:
    ids = fleet.launch(10)
    for instance_id in ids:
        fleet.serve(instance_id)
    fleet.asked.clear()
    fleet.passes(4 * IDLE_SECONDS - MINUTE)
    assert fleet.running() == set(ids)
    assert len(fleet.asked) <= 4 * IDLE_SECONDS / MINUTE
    fleet.passes(2 * MINUTE)
    assert fleet.running() == set()


def test_a_machine_that_slept_and_a_clock_that_was_set_take_nobody_s_machine(
    fleet: Fleet,
) -> None:
    ids = fleet.launch(4)
    for instance_id in ids:
        fleet.serve(instance_id)
    fleet.hubs.clear()
    fleet.passes(29 * MINUTE)
    fleet.clock.advance(10 * HOUR)
    fleet.passes(29 * MINUTE)
    assert fleet.running() == set(ids)
    fleet.clock.advance(-5 * HOUR)
    fleet.passes(5 * HOUR)
    fleet.passes(29 * MINUTE)
    fleet.passes(2 * HOUR)
    assert fleet.running() == set()  # and none stays on for ever


def test_who_is_kept_up_stays_on_without_a_hub_until_then_and_goes_off(fleet: Fleet) -> None:
    kept, idle = fleet.launch(2)
    for instance_id in (kept, idle):
        fleet.serve(instance_id)
    number = int(kept[2:], 16)
    document = {"version": 1, "claim": f"{number:016x}"[-16:], "at_work_seconds": 3 * HOUR}
    assert fleet.stubs.command(idle, "keep", document)[-1]["code"] == "server-died"
    assert fleet.stubs.command(kept, "keep", document)[-1]["event"] == "kept"
    fleet.hubs.clear()
    fleet.passes(2 * HOUR)
    assert fleet.running() == {kept}
    fleet.passes(2 * HOUR - 2 * MINUTE)
    assert fleet.running() == {kept}
    fleet.passes(4 * MINUTE)
    assert fleet.running() == set()
