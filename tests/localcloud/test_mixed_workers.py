"""Processes for some machines and stubs for the rest: each order goes to the one it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ec2spawner.localcloud.__main__ import options_of, parser
from ec2spawner.localcloud.machines import MachineSpec
from ec2spawner.localcloud.mixed_workers import MixedWorkers


class Some:
    """A driver that notes what it is told."""

    def __init__(self) -> None:
        self.on: set[str] = set()
        self.told: list[tuple[str, str]] = []
        self.ended: list[tuple[str, int]] = []
        self.woken = 0

    def start(self, spec: MachineSpec) -> None:
        self.on.add(spec.instance_id)

    def stop(self, instance_id: str) -> None:
        self.told.append(("stop", instance_id))

    def kill(self, instance_id: str) -> None:
        self.told.append(("kill", instance_id))
        self.on.discard(instance_id)

    def kill_server(self, instance_id: str) -> bool:
        self.told.append(("kill_server", instance_id))
        return True

    def cut_network(self, instance_id: str, *, cut: bool) -> None:
        self.told.append((f"cut {cut}", instance_id))

    def is_on(self, instance_id: str) -> bool:
        return instance_id in self.on

    def wait(self, timeout_seconds: float) -> list[tuple[str, int]]:
        ended, self.ended = self.ended, []
        return ended

    def wake(self) -> None:
        self.woken += 1

    def close(self) -> None:
        self.told.append(("close", ""))


class Both:
    """Both drivers behind one, with a machine of each: i-p is a process, i-s a stub."""

    def __init__(self) -> None:
        self.processes, self.stubs = Some(), Some()
        self.stub_ended: Callable[[], None] = lambda: None
        self.driver = MixedWorkers(self.processes, self._make_stubs, ["t3.small"])
        for instance_id, kind in (("i-p", "t3.medium"), ("i-s", "t3.small")):
            spec = MachineSpec(instance_id, Path(), "127.9.9.9", 22, (), 0.0, instance_type=kind)
            self.driver.start(spec)

    def _make_stubs(self, when_ended: Callable[[], None]) -> Some:
        self.stub_ended = when_ended
        return self.stubs


@pytest.fixture
def both() -> Both:
    return Both()


def test_the_type_decides_what_a_machine_is(both: Both) -> None:
    assert (both.processes.on, both.stubs.on) == ({"i-p"}, {"i-s"})
    assert both.driver.is_on("i-p")
    assert both.driver.is_on("i-s")
    assert not both.driver.is_on("i-none")


def test_each_order_goes_to_the_machine_s_own_driver(both: Both) -> None:
    for instance_id in ("i-p", "i-s"):
        both.driver.cut_network(instance_id, cut=True)
        assert both.driver.kill_server(instance_id)
        both.driver.stop(instance_id)
        both.driver.kill(instance_id)
    orders = ("cut True", "kill_server", "stop", "kill")
    assert both.processes.told == [(order, "i-p") for order in orders]
    assert both.stubs.told == [(order, "i-s") for order in orders]


def test_ends_of_both_are_told_and_one_of_a_stub_ends_the_wait(both: Both) -> None:
    both.stubs.ended = [("i-s", 0)]
    both.processes.ended = [("i-p", 1)]
    both.stub_ended()
    assert both.processes.woken == 1
    assert both.driver.wait(0) == [("i-p", 1), ("i-s", 0)]


def test_both_are_closed(both: Both) -> None:
    both.driver.close()
    assert both.processes.told == both.stubs.told == [("close", "")]


def test_the_command_takes_a_list_of_types(tmp_path: Path) -> None:
    given = ["serve", "--state-dir", str(tmp_path), "--stub-types", "t3.small,t3.nano"]
    assert options_of(parser().parse_args(given)).stub_types == ("t3.small", "t3.nano")
    assert options_of(parser().parse_args(given[:3])).stub_types == ()
