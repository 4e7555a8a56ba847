"""The demo's parts as processes: start, watch, end, and what must be free before.

Owns child processes, their logs, ports and the lock on the state directory. Must not know what
the parts are.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ec2spawner.localcloud.machine_tree import adopt_orphans, die_with_parent, kill_below

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.1
_LOG_LINES = 8
_TCP_LISTEN = "0A"  # linux/include/net/tcp_states.h


class DemoError(Exception):
    """Why the demo cannot go on, in words for the person in front of it."""


@dataclass
class Part:
    """One process of the demo; its output goes to ``log``."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    async def start(self) -> None:
        """Start it in a session of its own, so that the terminal's Ctrl-C reaches only the demo."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                env=dict(self.environment),
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        assert self.process  # noqa: S101 - started before
        return await self.process.wait()

    async def until(self, is_ready: Callable[[], bool], bound_seconds: float) -> None:
        """Return once ``is_ready``; DemoError if it ends before, or at the bound."""
        assert self.process  # noqa: S101 - started before
        loop = asyncio.get_running_loop()
        deadline = loop.time() + bound_seconds
        while not await asyncio.to_thread(is_ready):
            if self.process.returncode is not None:
                raise self.failure(f"ended with code {self.process.returncode}")
            if loop.time() > deadline:
                raise self.failure(f"does not answer after {bound_seconds:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)

    def failure(self, what: str) -> DemoError:
        """The error that says what the part did, with the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        tail = "".join(f"    {line[:300]}\n" for line in lines)
        return DemoError(f"The {self.name} {what}. Its log, {self.log}, ends with:\n{tail}")

    async def stop(self, bound_seconds: float) -> None:
        """End it in order; what is left of its session at the bound is killed."""
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.terminate()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.process.wait(), bound_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@contextlib.contextmanager
def no_orphans() -> Iterator[None]:
    """Adopt what descendants leave behind, and kill it at the end."""
    adopt_orphans()
    try:
        yield
    finally:
        kill_below(os.getpid(), tuple, _reap)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state directory's lock; DemoError if another demo has it."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("w")
    except OSError as error:
        raise DemoError(
            f"The state cannot be kept in {state}: {error.strerror}."
            " Use another folder: --state-dir FOLDER"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(
                f"A demo is running with the state in {state}. End that one first"
                " (Ctrl-C where it runs), or use another folder: --state-dir FOLDER"
            ) from None
        yield


def listening_in(network: ipaddress.IPv4Network, table: str) -> list[str]:
    """Addresses of ``network`` on which somebody listens, from the text of /proc/net/tcp."""
    found = set()
    for line in table.splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        address = ipaddress.IPv4Address(int(local[:8], 16).to_bytes(4, sys.byteorder))
        if state == _TCP_LISTEN and address in network:
            found.add(f"{address}:{int(local[9:], 16)}")
    return sorted(found)


def check_addresses_are_free(cidr: str) -> None:
    """DemoError if the machines' addresses are another's, as of a demo with other state."""
    network = ipaddress.IPv4Network(cidr)
    if found := listening_in(network, Path("/proc/net/tcp").read_text()):
        raise DemoError(
            f"Addresses of the demo's machines are in use, for example {found[0]}; another demo or"
            " test run may be on this computer. End it, or use other addresses and other state:"
            " make demo DEMO='--vpc-cidr 127.78.0.0/16 --state-dir .demo/other'"
        )


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port(preferred: int, taken: set[int]) -> int:
    """The preferred port if it is free, else any that is; added to ``taken``."""
    port = preferred
    while port in taken or not 0 < port < 65536 or not is_free(port):
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = probe.getsockname()[1]
    taken.add(port)
    return port


def answers(port: int, path: str, status: int | None = None) -> bool:
    """Whether an HTTP server answers there, with this status if one is given."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        got = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return status is None or got == status
