"""Workers as real processes: one emulated machine (``machine``) a worker.

Owns the child processes. All of them are forked by one thread that lives as long as the program, so
that the kernel kills them when it ends (they ask for that themselves).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ec2spawner.localcloud.machine_tree import descendants, send_signal
from ec2spawner.localcloud.machines import MachineSpec

SERVER_WORD = "singleuser"
"""What the command line of a notebook server holds."""


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    pidfd: int
    frozen: list[int]


class ProcessWorkers:
    """A Driver of real processes; ``command`` is followed by the machine's directory."""

    def __init__(self, command: Sequence[str] | None = None) -> None:
        module = (sys.executable, "-m", "ec2spawner.localcloud.machine")
        self._command = [*(command or module)]
        self._children: dict[str, _Child] = {}
        self._poll = select.poll()
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._wake_r, select.POLLIN)

    def start(self, spec: MachineSpec) -> None:
        """See Driver."""
        with (spec.directory / "console.log").open("ab") as console:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [*self._command, "--parent", str(os.getpid()), str(spec.directory)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=_environment(),
            )
        pidfd = os.pidfd_open(process.pid)
        self._children[spec.instance_id] = _Child(process, pidfd, [])
        self._poll.register(pidfd, select.POLLIN)

    def stop(self, instance_id: str) -> None:
        """See Driver."""
        child = self._children.get(instance_id)
        if child:
            self._thaw(child)
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(signal.SIGTERM)

    def kill(self, instance_id: str) -> None:
        """See Driver."""
        child = self._children.get(instance_id)
        if child:
            below = descendants(child.process.pid)
            child.process.kill()
            send_signal(below, signal.SIGKILL)
            child.process.wait()
            self._forget(instance_id, child)

    def _forget(self, instance_id: str, child: _Child) -> None:
        self._poll.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._children[instance_id]

    def kill_server(self, instance_id: str) -> bool:
        """See Driver."""
        child = self._children.get(instance_id)
        victims = [p for p in descendants(child.process.pid) if _is_server(p)] if child else []
        send_signal(victims, signal.SIGKILL)
        return bool(victims)

    def cut_network(self, instance_id: str, *, cut: bool) -> None:
        """See Driver. The machine is frozen: connections are taken by the kernel, none answered."""
        child = self._children.get(instance_id)
        if child is None:
            return
        if cut:
            child.frozen = [child.process.pid, *descendants(child.process.pid)]
            send_signal(child.frozen, signal.SIGSTOP)
        else:
            self._thaw(child)

    def _thaw(self, child: _Child) -> None:
        send_signal(child.frozen, signal.SIGCONT)
        child.frozen = []

    def is_on(self, instance_id: str) -> bool:
        """See Driver."""
        return instance_id in self._children

    def wait(self, timeout_seconds: float) -> list[tuple[str, int]]:
        """See Driver."""
        ready = {fd for fd, _ in self._poll.poll(max(0.0, timeout_seconds) * 1000)}
        if self._wake_r in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_r, 4096)
        ended = []
        for instance_id, child in list(self._children.items()):
            if child.pidfd in ready and child.process.poll() is not None:
                self._forget(instance_id, child)
                ended.append((instance_id, child.process.returncode))
        return ended

    def wake(self) -> None:
        """See Driver."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_w, b"x")

    def close(self) -> None:
        """See Driver."""
        children = list(self._children.values())
        for child in children:
            child.process.kill()
        for child in children:
            child.process.wait()


def _is_server(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - as short as it gets
            return SERVER_WORD.encode() in file.read()
    except OSError:
        return False


def _environment() -> dict[str, str]:
    """What a machine finds; nothing of AWS, which is none of a worker's business."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MOTO_"))}
