"""Processes for some machines and stubs for the rest, by their instance type: a class of hundreds,
of whom a few are looked at.

Owns which of both drivers a machine is of. Must not know what either does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ec2spawner.localcloud.machines import Driver, MachineSpec


class MixedWorkers:
    """A Driver of two. ``make_stubs`` is given what to call when a stub has ended by itself."""

    def __init__(
        self,
        processes: Driver,
        make_stubs: Callable[[Callable[[], None]], Driver],
        stub_types: Collection[str],
    ) -> None:
        self._processes = processes
        self._stubs = make_stubs(processes.wake)
        self._stub_types = frozenset(stub_types)

    def _of(self, instance_id: str) -> Driver:
        return self._stubs if self._stubs.is_on(instance_id) else self._processes

    def start(self, spec: MachineSpec) -> None:
        """See Driver."""
        is_stub = spec.instance_type in self._stub_types
        (self._stubs if is_stub else self._processes).start(spec)

    def stop(self, instance_id: str) -> None:
        """See Driver."""
        self._of(instance_id).stop(instance_id)

    def kill(self, instance_id: str) -> None:
        """See Driver."""
        self._of(instance_id).kill(instance_id)

    def kill_server(self, instance_id: str) -> bool:
        """See Driver."""
        return self._of(instance_id).kill_server(instance_id)

    def cut_network(self, instance_id: str, *, cut: bool) -> None:
        """See Driver."""
        self._of(instance_id).cut_network(instance_id, cut=cut)

    def is_on(self, instance_id: str) -> bool:
        """See Driver."""
        return self._of(instance_id).is_on(instance_id)

    def wait(self, timeout_seconds: float) -> list[tuple[str, int]]:
        """See Driver. An end of a stub wakes it."""
        return [*self._processes.wait(timeout_seconds), *self._stubs.wait(0)]

    def wake(self) -> None:
        """See Driver."""
        self._processes.wake()

    def close(self) -> None:
        """See Driver."""
        self._stubs.close()
        self._processes.close()
