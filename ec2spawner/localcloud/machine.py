"""The emulated machine of a ``process`` worker: ``python -m ec2spawner.localcloud.machine DIR``.

Owns what a machine is besides its disk: an SSH server (this process) and an init (its child, see
``machine_init``). Must not know EC2. DIR is the instance's root disk; ``DIR/machine.json`` holds

    {"private_ip", "ssh_port", "authorized_keys": [...], "boot_seconds": 1.0,
     "watchdog_seconds": 60.0, "is_spot": false}

- It answers SSH ``boot_seconds`` after its start, as user ``ec2spawner``, with the given keys
  only: exec requests, no terminal, no forwarding. Commands run under /bin/sh with
  EC2SPAWNER_MACHINE=DIR. The host key is made once and kept in DIR.
- Every ``watchdog_seconds`` it runs ``ec2spawner-worker watchdog``, as a worker's systemd does;
  0 is never. On a spot machine ``ec2spawner-worker notices`` runs from its boot on.
- SIGTERM, or ``{"op": "poweroff"}`` on ``init.sock``, powers it off: units end gracefully within
  5 s, then the process exits with 0. Any other exit is a crash.
- Ended in any way, SIGKILL and the death of its parent included, it leaves no process behind.
  ``DIR/machine.lock`` is held (flock) until the last of them is gone: who wants to know, takes it.
  A second machine on the same disk waits for it, at most 10 s, and else exits with 3.
- ``--parent PID``: exit at once unless PID is the parent (closes the gap between fork and start).
- It writes its log to ``DIR/machine.log`` and to its console (stdout), and empties ``DIR/run`` (its
  tmpfs) at every boot.

Faults: ``DIR/faults.json``, read anew at every connection, all keys optional.

    "ssh":     "refuse" (connections are closed at once, and at boot nothing listens), "hang" (no
               byte is ever sent), "garbage" (bytes that are no SSH, then the end), "endless"
               (the same without end)
    "command": "garbage", "endless", "hang", "fail": SSH works, and every command answers so
    "host_key": "new": another host key than the disk's, from the next start on
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ec2spawner.localcloud import machine_init
from ec2spawner.localcloud import machine_tree as tree

if TYPE_CHECKING:
    import asyncssh

SSH_USER = "ec2spawner"
LOCK_WAIT_SECONDS = 10.0
_DRAIN_SECONDS = 1.0
_COPY_BYTES = 65536
_log = logging.getLogger("machine")


@dataclass(frozen=True)
class Machine:
    """What ``machine.json`` says."""

    directory: Path
    private_ip: str
    ssh_port: int
    authorized_keys: tuple[str, ...]
    boot_seconds: float
    watchdog_seconds: float
    is_spot: bool

    @classmethod
    def read(cls, directory: Path) -> Machine:
        """Raises OSError, ValueError or KeyError for a disk that is none of a machine's."""
        raw = json.loads((directory / "machine.json").read_text())
        return cls(
            directory,
            str(raw["private_ip"]),
            int(raw["ssh_port"]),
            tuple(raw["authorized_keys"]),
            float(raw.get("boot_seconds", 1.0)),
            float(raw.get("watchdog_seconds", 60.0)),
            bool(raw.get("is_spot")),
        )

    def faults(self) -> Mapping[str, str]:
        """The faults that are asked for now."""
        try:
            raw = json.loads((self.directory / "faults.json").read_text())
        except (OSError, ValueError):
            return {}
        return raw if isinstance(raw, dict) else {}

    def environment(self) -> dict[str, str]:
        """What a command finds, as after a fresh login."""
        path = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
        return {
            "PATH": os.pathsep.join([*path, "/usr/sbin", "/sbin"]),
            "LANG": "C.UTF-8",
            "USER": SSH_USER,
            "HOME": str(self.directory),
            "EC2SPAWNER_MACHINE": str(self.directory),
        }


class Commands:
    """Runs commands through init, which owns every process, and tells how they ended."""

    def __init__(self, machine: Machine, init: socket.socket) -> None:
        self._machine = machine
        self._init = init
        self._number = 0
        self._ends: dict[int, asyncio.Future[int]] = {}
        self.gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(init.fileno(), self._hear)

    def _hear(self) -> None:
        data = self._init.recv(65536)
        event = json.loads(data) if data else {}
        if event.get("event") == "exit":
            end = self._ends.pop(event["id"], None)
            if end is not None and not end.done():
                end.set_result(event["code"])
        elif not self.gone.done():
            asyncio.get_running_loop().remove_reader(self._init.fileno())
            self.gone.set_result(event.get("event") == "halted")

    def run(self, command: str, fds: list[int]) -> asyncio.Future[int]:
        """Start ``command`` on stdin, stdout, stderr; the future holds its exit code."""
        self._number += 1
        request = {
            "op": "exec",
            "id": self._number,
            "argv": ["/bin/sh", "-c", command],
            "env": self._machine.environment(),
            "cwd": str(self._machine.directory),
        }
        end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ends[self._number] = end
        socket.send_fds(self._init, [json.dumps(request).encode()], fds)
        return end

    def power_off(self) -> None:
        """Have init end everything; ``gone`` is True once it has."""
        with contextlib.suppress(OSError):
            self._init.send(json.dumps({"op": "poweroff"}).encode())


async def _serve_command(
    process: asyncssh.SSHServerProcess[bytes], machine: Machine, commands: Commands
) -> None:
    fault = machine.faults().get("command")
    if process.command is None or process.subsystem is not None:
        process.stderr.write(b"This machine runs single commands only.\n")
        process.exit(1)
    elif fault:
        await _misbehave(process, fault)
    else:
        await _run_command(process, process.command, commands)


async def _run_command(
    process: asyncssh.SSHServerProcess[bytes], command: str, commands: Commands
) -> None:
    ours, theirs = socket.socketpair()
    our_errors, their_errors = socket.socketpair()
    with theirs, their_errors:
        fds = [theirs.fileno(), theirs.fileno(), their_errors.fileno()]
        end = commands.run(command, fds)
    out, to_child = await asyncio.open_connection(sock=ours)
    errors, unused = await asyncio.open_connection(sock=our_errors)
    feeder = asyncio.create_task(_copy_input(process.stdin, to_child))
    readers = [
        asyncio.create_task(_copy_output(out, process.stdout)),
        asyncio.create_task(_copy_output(errors, process.stderr)),
    ]
    try:
        code = await end
        await asyncio.wait(readers, timeout=_DRAIN_SECONDS)
        process.exit(code if code >= 0 else 128 - code)
    finally:
        for task in (feeder, *readers):
            task.cancel()
        to_child.close()
        unused.close()


async def _copy_input(source: asyncssh.SSHReader[bytes], sink: asyncio.StreamWriter) -> None:
    """Until the client ends its input or is gone; then the command reads its end, too."""
    import asyncssh

    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await source.read(_COPY_BYTES):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()


async def _copy_output(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
    """Until the command ends; what it says to a client that is gone is read and dropped."""
    import asyncssh

    with contextlib.suppress(OSError):
        while data := await source.read(_COPY_BYTES):
            with contextlib.suppress(OSError, asyncssh.Error):
                sink.write(data)
                await sink.drain()


async def _misbehave(process: asyncssh.SSHServerProcess[bytes], fault: str) -> None:
    if fault == "garbage":
        process.stdout.write(b"\x00\xff<html>\x1b[2J not JSON\n[]\nnull\n")
    while fault == "endless":
        process.stdout.write(b"x" * 4096)
        await process.stdout.drain()
    if fault == "hang":
        await asyncio.get_running_loop().create_future()
    process.exit(1 if fault == "fail" else 0)


def _host_key(directory: Path, anew: bool) -> asyncssh.SSHKey:
    """The disk's own key, made at the first start."""
    import asyncssh

    path = directory / "ssh_host_ed25519_key"
    if not anew and path.exists():
        return asyncssh.read_private_key(path)
    key = asyncssh.generate_private_key("ssh-ed25519")
    if not anew:
        partial = path.with_suffix(".new")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(key.export_private_key())
        partial.rename(path)
    return key


def _authorized(lines: Sequence[str]) -> asyncssh.SSHAuthorizedKeys | None:
    """A machine that was launched without a good key boots as well; nobody gets in."""
    import asyncssh

    try:
        return asyncssh.import_authorized_keys("\n".join(lines) + "\n")
    except ValueError:
        _log.warning("no valid key in authorized_keys: every login will be refused")
        return None


async def _listen(machine: Machine, commands: Commands) -> asyncio.AbstractServer:
    """The SSH server behind a plain listener, so that a fault can speak before SSH does."""
    import asyncssh

    class Login(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self._conn = conn

        def begin_auth(self, username: str) -> bool:
            if username == SSH_USER and keys is not None:
                self._conn.set_authorized_keys(keys)
            return True

    keys = _authorized(machine.authorized_keys)
    options = asyncssh.SSHServerConnectionOptions(
        server_factory=Login,
        server_host_keys=[_host_key(machine.directory, machine.faults().get("host_key") == "new")],
        process_factory=lambda process: _serve_command(process, machine, commands),
        encoding=None,
        line_editor=False,
        allow_pty=False,
        agent_forwarding=False,
        x11_forwarding=False,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        compression_algs=None,
    )

    def welcome() -> asyncio.BaseProtocol:
        if fault := machine.faults().get("ssh"):
            return _Misanthrope(fault)
        return asyncssh.SSHServerConnection(asyncio.get_running_loop(), options)

    return await asyncio.get_running_loop().create_server(
        welcome, machine.private_ip, machine.ssh_port, reuse_address=True
    )


class _Misanthrope(asyncio.Protocol):
    """A listener that answers, but no SSH."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type
        self._transport = transport
        if self._fault == "garbage":
            transport.write(b"\x00\xff\x1b[2J" * 512 + b"\n")
        if self._fault == "endless":
            self._go_on()
        elif self._fault != "hang":
            transport.close()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._go_on()

    def _go_on(self) -> None:
        while self._writable and not self._transport.is_closing():
            self._transport.write(b"x" * 4096)


async def _serve(machine: Machine, init: socket.socket, started_at: float) -> bool:
    """Be the machine's sshd until init has ended everything; True for an orderly power-off."""
    commands = Commands(machine, init)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, commands.power_off)
    services = [
        asyncio.create_task(service(machine, commands)) for service in (_keep_watch, _look_for_end)
    ]
    booting = asyncio.create_task(_boot(machine, commands, started_at))
    first: set[asyncio.Future[Any]] = {booting, commands.gone}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if not commands.gone.done():
        server = booting.result()
        await commands.gone
        if server:
            server.close()
    booting.cancel()
    for service in services:
        service.cancel()
    return commands.gone.result()


async def _keep_watch(machine: Machine, commands: Commands) -> None:
    """The timer of the dead-man switch."""
    while machine.watchdog_seconds > 0:
        await asyncio.sleep(machine.watchdog_seconds)
        await _run_service(commands, "watchdog")


async def _look_for_end(machine: Machine, commands: Commands) -> None:
    """The service that looks whether EC2 takes this machine back."""
    if machine.is_spot:
        await _run_service(commands, "notices")


async def _run_service(commands: Commands, verb: str) -> None:
    """Until it ends; what it says goes to the machine's log."""
    with open(os.devnull, "rb") as nothing:  # noqa: ASYNC230, PTH123 - no disk is behind it
        end = commands.run(f"exec ec2spawner-worker {verb}", [nothing.fileno(), 1, 2])
    await end


async def _boot(
    machine: Machine, commands: Commands, started_at: float
) -> asyncio.AbstractServer | None:
    import asyncssh  # noqa: F401 - half a second that belongs to the boot

    await asyncio.sleep(max(0.0, started_at + machine.boot_seconds - time.monotonic()))
    if machine.faults().get("ssh") == "refuse":
        _log.warning("fault: nothing listens on the SSH port")
        return None
    server = await _listen(machine, commands)
    _log.info("booted after %.2f s", time.monotonic() - started_at)
    return server


def _take_lock(directory: Path) -> int:
    """Hold the machine's disk; raises BlockingIOError where another machine keeps it."""
    lock = os.open(directory / "machine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return lock


def _log_to_disk(directory: Path) -> None:
    console = logging.StreamHandler(os.fdopen(os.dup(1), "w"))
    console.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = os.open(directory / "machine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _log.addHandler(console)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)


def fork_init(directory: Path, cloud_pid: int) -> socket.socket:
    """Fork before anything large is imported; returns the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        return ours
    code = 1
    try:
        ours.close()
        machine_init.Init(directory, theirs, cloud_pid).run()
        code = 0
    except BaseException:
        _log.exception("init failed")
        raise
    finally:
        os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run one machine until its power goes off; see the module for exit codes."""
    started_at = time.monotonic()
    parser = argparse.ArgumentParser(prog="machine", description="One emulated machine.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--parent", type=int, help="exit unless this is the parent's pid")
    options = parser.parse_args(argv)
    cloud_pid = os.getppid()
    if options.parent not in (None, cloud_pid):
        return 1
    try:
        machine = Machine.read(options.directory.resolve())
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.directory} is no machine's disk: {error!r}")
    with contextlib.suppress(PermissionError):
        tree.begin_session()
    try:
        _take_lock(machine.directory)
    except BlockingIOError:
        sys.stderr.write(f"{machine.directory} is held by another machine\n")
        return 3
    _log_to_disk(machine.directory)
    shutil.rmtree(machine.directory / "run", ignore_errors=True)
    return _run(machine, cloud_pid, started_at)


def _run(machine: Machine, cloud_pid: int, started_at: float) -> int:
    tree.adopt_orphans()  # should init die, its processes come to us and are ended
    init = fork_init(machine.directory, cloud_pid)
    _log.info("pid %d, pid of init's parent %d", os.getpid(), cloud_pid)
    orderly = False
    try:
        orderly = asyncio.run(_serve(machine, init, started_at))
    except OSError:
        _log.exception("cannot serve SSH")
    finally:
        tree.kill_below(os.getpid(), lambda: (), _reap)
    return 0 if orderly else 1


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    sys.exit(main())
