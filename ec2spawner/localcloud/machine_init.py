"""The emulated machine's first process: starts units and commands, and outlives none of them.

Owns every process of one machine: all of them descend from here, and orphans come back here, so
that a stop, a power-off or the death of the machine ends all of them. Must not know SSH, EC2, or
what a unit is for. One thread and the standard library only: it forks.

Protocol, on the socket ``init.sock``: one JSON object a line, one reply a line.

    {"op": "start", "unit": NAME, "argv": [...], "env": {...}, "cwd": DIR, "log": FILE}
    {"op": "stop", "unit": NAME, "timeout_seconds": S}     replies when the unit is gone
    {"op": "status", "unit": NAME}
        each replies {"active", "pid", "exit_code", "started_at"}; exit_code is -N after signal N
    {"op": "boot"}                     replies {"boot_id", "began_at"}, of CLOCK_BOOTTIME
    {"op": "poweroff"}                 ends the units gracefully, then everything
    {"op": "freeze"} {"op": "thaw"}    stops every process but this one, and lets them go on
    anything else replies {"error": TEXT}
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ec2spawner.localcloud import machine_tree as tree
from ec2spawner.worker.clock import boot_seconds

SOCKET_NAME = "init.sock"
LINE_MAX_BYTES = 2 * 1024 * 1024
POWEROFF_GRACE_SECONDS = 5.0
STOP_REPEAT_SECONDS = 2.0  # a Jupyter server that has only just started may swallow a SIGTERM
_TICK_SECONDS = 1.0
_EXEC_FAILED = 127


@dataclass
class Unit:
    """One started program, alive or dead."""

    pid: int
    started_at: float  # epoch seconds
    exit_code: int | None = None
    kill_at: float | None = None  # monotonic; set while it is being stopped
    ask_at: float = 0.0  # monotonic; the next SIGTERM, should one have been swallowed
    waiting: list[socket.socket] = field(default_factory=list)

    @property
    def active(self) -> bool:
        """Whether its main process lives."""
        return self.exit_code is None

    def report(self) -> dict[str, Any]:
        """The reply to status."""
        return {
            "active": self.active,
            "pid": self.pid if self.active else None,
            "exit_code": self.exit_code,
            "started_at": self.started_at,
        }


_NO_UNIT = {"active": False, "pid": None, "exit_code": None, "started_at": None}


class Init:
    """One machine's processes. ``sshd`` is the seqpacket socket to the process that spawned us."""

    def __init__(self, directory: Path, sshd: socket.socket, cloud_pid: int) -> None:
        self._directory = directory
        self._sshd = sshd
        self._sshd_pid = os.getppid()
        self._cloud_pid = cloud_pid
        self._boot = {"boot_id": str(uuid.uuid4()), "began_at": boot_seconds()}
        self._units: dict[str, Unit] = {}
        self._commands: dict[int, int] = {}  # pid -> number of the exec request
        self._buffers: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._halting_until: float | None = None

    def run(self) -> None:
        """Serve until the power goes off, or until the sshd or the cloud above it is gone."""
        tree.adopt_orphans()
        self._open()
        while self._is_wanted() and not self._is_halted():
            for key, _ in self._selector.select(self._patience()):
                key.data(key.fileobj)
            self._reap()
            self._press_for_the_end()
        orderly = self._is_halted()
        self._kill_all()
        if orderly:
            self._tell_sshd({"event": "halted"})
        else:
            tree.send_signal([self._sshd_pid], signal.SIGKILL)

    def _open(self) -> None:
        self._watch(_listen(self._directory), self._accept)
        self._watch(self._sshd, self._sshd_request)
        for pid in (self._sshd_pid, self._cloud_pid):
            # Where there is no pidfd, the tick below notices the death, a second later.
            with contextlib.suppress(OSError, AttributeError):
                self._watch(os.pidfd_open(pid), self._selector.unregister)
        wake, alarm = socket.socketpair()
        for end in (wake, alarm):
            end.setblocking(False)
        self._alarm = alarm
        signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._watch(wake, lambda _: wake.recv(4096))

    def _watch(self, what: Any, handler: Callable[[Any], object]) -> None:
        self._selector.register(what, selectors.EVENT_READ, handler)

    def _is_wanted(self) -> bool:
        return (
            os.getppid() == self._sshd_pid
            and tree.parent_of(self._sshd_pid) == self._cloud_pid
            and self._sshd.fileno() >= 0
        )

    def _is_halted(self) -> bool:
        if self._halting_until is None:
            return False
        alive = any(u.active for u in self._units.values())
        return not alive or time.monotonic() >= self._halting_until

    def _patience(self) -> float:
        due = [u.kill_at for u in self._units.values() if u.active and u.kill_at is not None]
        return max(0.0, min([_TICK_SECONDS, *(d - time.monotonic() for d in due)]))

    # -- processes ---------------------------------------------------------------------------

    def _roots(self) -> set[int]:
        return {u.pid for u in self._units.values() if u.active} | set(self._commands)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._note_death(pid, os.waitstatus_to_exitcode(status))

    def _note_death(self, pid: int, code: int) -> None:
        if (number := self._commands.pop(pid, None)) is not None:
            self._tell_sshd({"event": "exit", "id": number, "code": code})
        for unit in self._units.values():
            if unit.active and unit.pid == pid:
                unit.exit_code = code
                tree.kill_below(os.getpid(), self._roots, self._reap)  # what it left behind
                self._answer_waiting(unit)

    def _answer_waiting(self, unit: Unit) -> None:
        for client in unit.waiting:
            self._reply(client, unit.report())
        unit.waiting.clear()

    def _press_for_the_end(self) -> None:
        now = time.monotonic()
        for unit in self._units.values():
            if not unit.active or unit.kill_at is None:
                continue
            if now >= unit.kill_at:
                tree.send_signal([unit.pid], signal.SIGKILL)
                unit.kill_at = now + _TICK_SECONDS
            elif now >= unit.ask_at:
                tree.send_signal([unit.pid], signal.SIGTERM)
                unit.ask_at = now + STOP_REPEAT_SECONDS

    def _kill_all(self) -> None:
        tree.kill_below(os.getpid(), lambda: (), self._reap)

    # -- requests ----------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.settimeout(2.0)
        self._buffers[client] = b""
        self._watch(client, self._client_input)

    def _client_input(self, client: socket.socket) -> None:
        try:
            data = client.recv(65536)
        except OSError:
            data = b""
        self._buffers[client] += data
        *lines, self._buffers[client] = self._buffers[client].split(b"\n")
        for line in lines:
            self._request(client, line)
        if not data or len(self._buffers.get(client, b"")) > LINE_MAX_BYTES:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if self._buffers.pop(client, None) is not None:
            self._selector.unregister(client)
            client.close()

    def _request(self, client: socket.socket, line: bytes) -> None:
        try:
            request = json.loads(line)
            answer = self._carry_out(client, request)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if answer is not None:
            self._reply(client, answer)

    def _carry_out(self, client: socket.socket, request: dict[str, Any]) -> dict[str, Any] | None:
        op = request["op"]
        if op == "start":
            return self._start(request)
        if op == "stop":
            return self._stop(client, request)
        if op == "status":
            unit = self._units.get(request["unit"])
            return unit.report() if unit else dict(_NO_UNIT)
        if op == "boot":
            return dict(self._boot)
        if op == "poweroff":
            self._power_off()
            return {"active": True}
        if op in ("freeze", "thaw"):
            everyone = [self._sshd_pid, *tree.descendants(os.getpid())]
            tree.send_signal(everyone, signal.SIGSTOP if op == "freeze" else signal.SIGCONT)
            return {"processes": len(everyone)}
        return {"error": f"no such op: {op!r}"[:200]}

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        name = str(request["unit"])
        if (old := self._units.get(name)) is not None and old.active:
            return {"error": f"unit {name} is active"}
        if self._halting_until is not None:
            return {"error": "the machine is going down"}
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            pid = _spawn(
                list(request["argv"]), dict(request["env"]), request["cwd"], null, log, log
            )
        finally:
            os.close(log)
            os.close(null)
        self._units[name] = unit = Unit(pid, time.time())
        return unit.report()

    def _stop(self, client: socket.socket, request: dict[str, Any]) -> dict[str, Any] | None:
        unit = self._units.get(request["unit"])
        if unit is None or not unit.active:
            return unit.report() if unit else dict(_NO_UNIT)
        self._begin_stop(unit, float(request.get("timeout_seconds", 10.0)))
        unit.waiting.append(client)
        return None

    def _begin_stop(self, unit: Unit, timeout_seconds: float) -> None:
        kill_at = time.monotonic() + max(0.0, timeout_seconds)
        unit.kill_at = kill_at if unit.kill_at is None else min(unit.kill_at, kill_at)
        self._press_for_the_end()

    def _power_off(self) -> None:
        if self._halting_until is None:
            self._halting_until = time.monotonic() + POWEROFF_GRACE_SECONDS
            for unit in self._units.values():
                if unit.active:
                    self._begin_stop(unit, POWEROFF_GRACE_SECONDS)

    def _reply(self, client: socket.socket, answer: dict[str, Any]) -> None:
        try:
            client.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            self._drop(client)

    # -- the sshd ----------------------------------------------------------------------------

    def _sshd_request(self, sshd: socket.socket) -> None:
        data, fds, _, _ = socket.recv_fds(sshd, LINE_MAX_BYTES, 3)
        try:
            if not data:
                self._selector.unregister(sshd)
                sshd.close()
            elif (request := json.loads(data))["op"] == "poweroff":
                self._power_off()
            elif len(fds) == 3:
                pid = _spawn(request["argv"], request["env"], request["cwd"], *fds)
                self._commands[pid] = request["id"]
        finally:
            for fd in fds:
                os.close(fd)

    def _tell_sshd(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._sshd.send(json.dumps(event).encode())


def _listen(directory: Path) -> socket.socket:
    """The socket gets its name once it listens; binding by descriptor keeps within 108 bytes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    partial = directory / f"{SOCKET_NAME}.new"
    partial.unlink(missing_ok=True)
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    old_mask = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory_fd}/{partial.name}")
    finally:
        os.umask(old_mask)
        os.close(directory_fd)
    listener.listen(16)
    partial.rename(directory / SOCKET_NAME)
    return listener


def _spawn(
    argv: list[str], env: dict[str, str], cwd: str, stdin: int, stdout: int, stderr: int
) -> int:
    """Fork and execute in a session of its own that dies with this process; returns the pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        tree.begin_session()
        tree.die_with_parent()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        # First out of the way of 0 to 2, in case that one of them is among the three.
        ends = [os.dup(os.dup(os.dup(os.dup(fd)))) for fd in (stdin, stdout, stderr)]
        for target, fd in enumerate(ends):
            os.dup2(fd, target, inheritable=True)
        os.closerange(3, 4096)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - argv is the caller's, and no shell is meant
    except BaseException as error:  # noqa: BLE001 - the child must never return into our loop
        os.write(2, f"cannot run {argv[:1]}: {error}\n".encode())
    finally:
        os._exit(_EXEC_FAILED)
