"""The machines behind the instances: which should be on, and the one thread that sees to it.

Owns the translation of events (booted, stopping, terminated, ...) into orders to a ``Driver``,
which turns machines on and off (``process_workers``, ``stub_workers``). Only instances of the role
worker whose address is a loopback address get a machine. Must not know EC2's rules.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ec2spawner.localcloud.disks import Disks
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.records import Instance
from ec2spawner.localcloud.ec2.spot import action_of
from ec2spawner.localcloud.ec2.state import Event
from ec2spawner.localcloud.ec2.views import mac_address, moment
from ec2spawner.model import TAG_ROLE, InstanceState, Role

log = logging.getLogger(__name__)

NOTICE_FILE = "instance-action.json"
"""On a machine's disk, what /latest/meta-data/spot/instance-action answers on EC2."""
_ON = (InstanceState.PENDING, InstanceState.RUNNING)


@dataclass(frozen=True)
class MachineSpec:
    """What a machine needs to boot; written to ``machine.json`` on its disk."""

    instance_id: str
    directory: Path
    private_ip: str
    ssh_port: int
    authorized_keys: tuple[str, ...]
    boot_seconds: float
    watchdog_seconds: float = 60.0
    is_spot: bool = False
    mac: str = ""
    zone: str = ""
    image_id: str = ""
    instance_type: str = ""

    def write(self) -> None:
        """Put it on the machine's disk."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "nvme").mkdir(exist_ok=True)
        document = {
            "instance_id": self.instance_id,
            "private_ip": self.private_ip,
            "ssh_port": self.ssh_port,
            "authorized_keys": list(self.authorized_keys),
            "boot_seconds": self.boot_seconds,
            "watchdog_seconds": self.watchdog_seconds,
            "is_spot": self.is_spot,
            "mac": self.mac,
            "zone": self.zone,
            "image_id": self.image_id,
            "instance_type": self.instance_type,
        }
        path = self.directory / "machine.json"
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(path)


class Driver(Protocol):
    """Turns machines on and off. Called from one thread only."""

    def start(self, spec: MachineSpec) -> None:
        """Turn a machine on; it answers SSH after its boot."""

    def stop(self, instance_id: str) -> None:
        """Ask its operating system to shut down; returns at once."""

    def kill(self, instance_id: str) -> None:
        """Cut its power; it is off when this returns."""

    def kill_server(self, instance_id: str) -> bool:
        """Kill the notebook server only; False where none runs."""

    def cut_network(self, instance_id: str, *, cut: bool) -> None:
        """Let nothing through to the machine, or let it through again."""

    def is_on(self, instance_id: str) -> bool:
        """Whether the machine has power."""

    def wait(self, timeout_seconds: float) -> list[tuple[str, int]]:
        """Sleep until ``wake``, the time-out, or a machine's end; (id, exit code) of the ended."""

    def wake(self) -> None:
        """End a ``wait``; the only method that other threads may call."""

    def close(self) -> None:
        """Cut the power of everything."""


class Machines:
    """Sees to it that the machines are on that should be."""

    def __init__(
        self,
        driver: Driver,
        disks: Disks,
        *,
        ssh_port: int,
        boot_seconds: Callable[[], float],
        watchdog_seconds: Callable[[], float],
        tick: Callable[[], float | None],
        ends_with_machine: bool = False,
    ) -> None:
        """With ``ends_with_machine``, a stop takes as long as the machine's, and the emulated time
        is its bound; else it takes the emulated time.
        """
        self._driver = driver
        self._disks = disks
        self._ssh_port = ssh_port
        self._boot_seconds = boot_seconds
        self._watchdog_seconds = watchdog_seconds
        self._tick = tick
        self._ends_with_machine = ends_with_machine
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._cores: dict[str, EmulatedEC2] = {}
        self._should_run: set[str] = set()
        self._faults: dict[str, dict[str, str]] = {}
        self.hanging_boots = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="machines", daemon=True)

    def start(self) -> None:
        """Begin to follow orders."""
        self._thread.start()

    def follow(self, core: EmulatedEC2, event: Event) -> None:
        """Give the orders that an event asks for."""
        if event.name in ("booted", "rebooted"):
            self._order_boot(core, event.id)
        elif event.name == "panicked":
            self._order(lambda: self._driver.cut_network(event.id, cut=True))
        elif event.name == "interruption":
            self._order_notice(core, event.id)
        elif event.name in ("stopping", "terminating"):
            end = self._power_off if _is_dead(core, event.id) else self._shut_down
            self._order(lambda: end(event.id))
            self._order(lambda: self._wait_for_none(core, event.id))
        elif event.name == "stopped":
            self._order(lambda: self._power_off(event.id))
        elif event.name == "terminated":
            self._order(lambda: self._end(event.id))

    def reconcile(self, cores: list[EmulatedEC2]) -> None:
        """After a restart: boot what should run; its servers are gone, as after a host's crash."""
        for core in cores:
            for instance in core.instances.values():
                if instance.state in _ON and not _is_dead(core, instance.id):
                    self._order_boot(core, instance.id)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        self._driver.wake()

    def _order_boot(self, core: EmulatedEC2, instance_id: str) -> None:
        spec = self._spec(core, core.instances[instance_id])
        if spec:
            self._cores[instance_id] = core
            self._order(lambda: self._boot(spec))
            self._order_notice(core, instance_id)

    def _order_notice(self, core: EmulatedEC2, instance_id: str) -> None:
        """The instance metadata says what EC2 has in mind, over reboots, too."""
        instance = core.instances[instance_id]
        if instance.interruption_at is not None:
            notice = _notice(core, instance)
            self._order(lambda: self._give_notice(instance_id, notice))

    def _spec(self, core: EmulatedEC2, instance: Instance) -> MachineSpec | None:
        if instance.tags.get(TAG_ROLE) != Role.WORKER.value:
            return None
        if not instance.private_ip.startswith("127."):
            log.warning(
                "%s has the address %s, which is none of this computer's: no machine",
                instance.id,
                instance.private_ip,
            )
            return None
        key = getattr(core.surroundings, "public_key", lambda name: None)(instance.key_name)
        return MachineSpec(
            instance.id,
            self._disks.instance(instance.id),
            instance.private_ip,
            self._ssh_port,
            (key,) if key else (),
            self._boot_seconds(),
            self._watchdog_seconds(),
            instance.is_spot,
            mac_address(instance),
            instance.zone,
            instance.image_id,
            instance.instance_type,
        )

    def _boot(self, spec: MachineSpec) -> None:
        if self._driver.is_on(spec.instance_id):
            self._driver.kill(spec.instance_id)
        spec.write()
        (spec.directory / NOTICE_FILE).unlink(missing_ok=True)
        if self.hanging_boots > 0:
            self.hanging_boots -= 1
            self._set_fault(spec.instance_id, "ssh", "refuse")
        self._should_run.add(spec.instance_id)
        self._driver.start(spec)

    def _give_notice(self, instance_id: str, notice: str) -> None:
        directory = self._disks.instance(instance_id)
        if directory.is_dir():
            partial = directory / f"{NOTICE_FILE}.new"
            partial.write_text(notice, encoding="utf-8")
            partial.replace(directory / NOTICE_FILE)

    def _shut_down(self, instance_id: str) -> None:
        self._should_run.discard(instance_id)
        self._driver.stop(instance_id)

    def _power_off(self, instance_id: str) -> None:
        self._should_run.discard(instance_id)
        self._driver.kill(instance_id)

    def _wait_for_none(self, core: EmulatedEC2, instance_id: str) -> None:
        """A machine ends a stop: where it is off by itself, or never was, the stop is over."""
        if self._ends_with_machine and not self._driver.is_on(instance_id):
            core.went_off(instance_id)

    def _end(self, instance_id: str) -> None:
        self._power_off(instance_id)
        self._cores.pop(instance_id, None)
        self._disks.remove_instance(instance_id)

    def _run(self) -> None:
        while not self._closing:
            try:
                self.step()
            except Exception:
                log.exception("A machine could not be seen to")
                time.sleep(0.1)
        self._driver.close()

    def step(self) -> None:
        """One round: what was ordered, what is due, which machines ended. Else in our thread."""
        while not self._orders.empty():
            self._orders.get()()
        due = self._tick()
        for instance_id, code in self._driver.wait(0.5 if due is None else min(due, 0.5)):
            self._ended(instance_id, code)

    def _ended(self, instance_id: str, code: int) -> None:
        if instance_id not in self._should_run:
            if self._ends_with_machine and instance_id in self._cores:
                self._cores[instance_id].went_off(instance_id)
            return
        self._should_run.discard(instance_id)
        core = self._cores[instance_id]
        if code == 0:
            log.info("%s powered itself off", instance_id)
            core.powered_off(instance_id)
        else:
            log.warning(
                "%s: its machine ended with code %s; see the logs beside its disk",
                instance_id,
                code,
            )

    def in_thread(self, work: Callable[[], Any], timeout_seconds: float = 10.0) -> Any:
        """Run something in the machines' thread and wait for its result."""
        result: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def order() -> None:
            try:
                result.put((True, work()))
            except Exception as error:  # noqa: BLE001 - handed to the caller
                result.put((False, error))

        self._order(order)
        succeeded, value = result.get(timeout=timeout_seconds)
        if not succeeded:
            raise value
        return value

    def kill_server(self, instance_id: str) -> bool:
        """Kill a worker's notebook server."""
        return bool(self.in_thread(lambda: self._driver.kill_server(instance_id)))

    def cut_network(self, instance_id: str, *, cut: bool) -> None:
        """Cut a worker off, or let it back."""
        self.in_thread(lambda: self._driver.cut_network(instance_id, cut=cut))

    def set_fault(self, instance_id: str, name: str, value: str | None) -> None:
        """Have a worker's machine misbehave; None takes it back. See ``machine`` for the names."""
        self.in_thread(lambda: self._set_fault(instance_id, name, value))

    def _set_fault(self, instance_id: str, name: str, value: str | None) -> None:
        faults = self._faults.setdefault(instance_id, {})
        if value is None:
            faults.pop(name, None)
        else:
            faults[name] = value
        directory = self._disks.instance(instance_id)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "faults.json"
        path.with_suffix(".new").write_text(json.dumps(faults), encoding="utf-8")
        path.with_suffix(".new").replace(path)

    def reboot(self, core: EmulatedEC2, instance_id: str, *, hang: bool = False) -> None:
        """Boot a worker again now; with ``hang`` it will never listen."""
        self.set_fault(instance_id, "ssh", "refuse" if hang else None)
        self._order_boot(core, instance_id)

    def fresh_host_key(self, core: EmulatedEC2, instance_id: str) -> None:
        """Give a worker another host key, as if it were another machine."""
        for path in self._disks.instance(instance_id).glob("ssh_host_*"):
            path.unlink()
        self._order_boot(core, instance_id)

    def is_on(self, instance_id: str) -> bool:
        """Whether a worker's machine has power."""
        return self._driver.is_on(instance_id)

    def close(self) -> None:
        """Cut the power of everything; returns when it is off."""
        self._closing = True
        self._driver.wake()
        self._thread.join(timeout=1)


def _notice(core: EmulatedEC2, instance: Instance) -> str:
    """What the instance metadata says of an interruption."""
    at = moment(instance.interruption_at or 0.0).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"action": action_of(core, instance), "time": at})


def _is_dead(core: EmulatedEC2, instance_id: str) -> bool:
    """Whether its kernel has panicked: it hears nothing, and nothing of it runs on."""
    instance = core.instances.get(instance_id)
    return instance is not None and instance.panicked_at is not None
