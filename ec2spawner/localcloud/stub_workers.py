"""Hundreds of workers answered for by one thread: for load tests of the control plane.

Owns a small SSH server per address that speaks the protocol of ``ec2spawner-worker``, and an HTTP
server that answers JupyterHub's first probe; and their dead-man switches (``stub_watchdog``).
Nothing runs behind it: results that were measured with these workers must say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ec2spawner.localcloud import stub_web
from ec2spawner.localcloud.clock import Clock, system_clock
from ec2spawner.localcloud.machines import MachineSpec
from ec2spawner.localcloud.stub_watchdog import StubWatchdog, StubWork
from ec2spawner.worker import hub_probe
from ec2spawner.worker.document import parse_keep
from ec2spawner.worker.protocol import Fault

if TYPE_CHECKING:
    import asyncssh

log = logging.getLogger(__name__)

SSH_USER = "ec2spawner"
STEPS = ("home", "mount", "server", "wait")
MAX_DOCUMENT_BYTES = 1 << 20
WATCH_SECONDS = 1.0  # between two rounds for the dead-man switches that are due


@dataclass
class _Stub:
    """One machine, as far as it exists."""

    spec: MachineSpec
    generation: int
    watchdog: StubWatchdog
    ssh: asyncio.AbstractServer | None = None
    web: asyncio.AbstractServer | None = None
    document: dict[str, Any] | None = None
    claim: str = ""
    owner: str = ""
    is_cut: bool = False
    connections: set[asyncio.BaseTransport] = field(default_factory=set)
    locked: asyncio.Lock | None = None


class StubWorkers:
    """A Driver whose machines are entries of a table and open ports."""

    def __init__(
        self,
        server_seconds: float = 0.2,
        clock: Clock = system_clock,
        reaches: Callable[[str], bool] = hub_probe.reaches,
        when_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._server_seconds = server_seconds
        self._clock = clock
        self._reaches = reaches
        self._when_ended = when_ended
        self._stubs: dict[str, _Stub] = {}
        self._generation = 0
        self._wake = threading.Event()
        self._ended: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._round = asyncio.Lock()
        self._version = stub_web.hub_version()
        self._thread = threading.Thread(target=self._run, name="stub workers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        watching = self._loop.create_task(self._watch())
        self._loop.run_forever()
        watching.cancel()
        self._loop.run_until_complete(asyncio.gather(watching, return_exceptions=True))

    def _do(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(timeout=30)

    def start(self, spec: MachineSpec) -> None:
        """See Driver."""
        self._generation += 1
        watchdog = StubWatchdog(spec.directory, self._clock(), spec.watchdog_seconds)
        stub = _Stub(spec, self._generation, watchdog)
        stub.claim, stub.owner = _read_claim(spec.directory)
        self._stubs[spec.instance_id] = stub
        asyncio.run_coroutine_threadsafe(self._boot(stub), self._loop)

    def stop(self, instance_id: str) -> None:
        """See Driver."""
        self.kill(instance_id)

    def kill(self, instance_id: str) -> None:
        """See Driver."""
        stub = self._stubs.pop(instance_id, None)
        if stub:
            self._do(lambda: _close(stub))

    def kill_server(self, instance_id: str) -> bool:
        """See Driver."""
        stub = self._stubs.get(instance_id)
        if stub is None or stub.web is None:
            return False
        self._do(lambda: _close_web(stub))
        return True

    def cut_network(self, instance_id: str, *, cut: bool) -> None:
        """See Driver. Connections are taken and never answered."""
        stub = self._stubs.get(instance_id)
        if stub:
            stub.is_cut = cut

    def is_on(self, instance_id: str) -> bool:
        """See Driver."""
        return instance_id in self._stubs

    def wait(self, timeout_seconds: float) -> list[tuple[str, int]]:
        """See Driver."""
        self._wake.wait(max(0.0, timeout_seconds))
        self._wake.clear()
        ended = []
        with contextlib.suppress(queue.Empty):
            while True:
                ended.append(self._ended.get_nowait())
        return ended

    def wake(self) -> None:
        """See Driver."""
        self._wake.set()

    def close(self) -> None:
        """See Driver."""
        for instance_id in list(self._stubs):
            self.kill(instance_id)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=2)
        if not self._thread.is_alive():
            self._loop.close()

    def command(
        self, instance_id: str, verb: str, document: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """The answer to a command as if it came by SSH, at a booted machine."""
        events: list[dict[str, Any]] = []
        data = json.dumps(document or {}).encode()
        self._do(lambda: self._carry_out(self._stubs[instance_id], verb, data, events.append))
        return events

    def set_work(self, instance_id: str, work: StubWork) -> None:
        """Have the user of a running server do something."""
        self._stubs[instance_id].watchdog.work = work

    def look_around(self) -> None:
        """Have every dead-man switch look that is due by the clock; returns when all have."""
        self._do(self._look_around)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self._look_around()
            except Exception:
                log.exception("The dead-man switches could not look")

    async def _look_around(self) -> None:
        """All in one round, so that a hub is asked once, not by each of them."""
        async with self._round:
            due = [s for s in list(self._stubs.values()) if s.watchdog.is_due(self._clock())]
            hubs = {s.watchdog.terms.hub_url for s in due if s.watchdog.terms}
            reached = {hub for hub in hubs if await self._is_reached(hub)}
            for stub in due:
                await self._look(stub, reached)

    async def _is_reached(self, hub: str) -> bool:
        return await self._loop.run_in_executor(None, self._reaches, hub)

    async def _look(self, stub: _Stub, reached: set[str]) -> None:
        instance_id, terms = stub.spec.instance_id, stub.watchdog.terms
        if self._stubs.get(instance_id) is not stub:
            return  # it ended meanwhile
        reason = stub.watchdog.look(
            self._clock(),
            is_claimed=bool(stub.claim),
            is_hub_reached=bool(terms and terms.hub_url in reached and not stub.is_cut),
        )
        if reason:
            log.info("%s powers itself off: %s", instance_id, reason.value)
            del self._stubs[instance_id]
            await _close(stub)
            self._ended.put((instance_id, 0))
            self._wake.set()
            self._when_ended()

    async def _boot(self, stub: _Stub) -> None:
        import asyncssh

        await asyncio.sleep(stub.spec.boot_seconds)
        faults = _faults(stub)
        if self._stubs.get(stub.spec.instance_id) is not stub or faults.get("ssh") == "refuse":
            return
        try:
            options = _ssh_options(self, stub, anew=faults.get("host_key") == "new")
            stub.locked = asyncio.Lock()

            def welcome() -> asyncio.BaseProtocol:
                if stub.is_cut or _faults(stub).get("ssh"):
                    return _Silent(stub)
                return asyncssh.SSHServerConnection(self._loop, options)

            stub.ssh = await self._loop.create_server(
                welcome, stub.spec.private_ip, stub.spec.ssh_port, reuse_address=True, backlog=8
            )
        except OSError as error:
            log.error("%s cannot listen: %s", stub.spec.instance_id, error)

    async def run_command(self, stub: _Stub, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Answer ``ec2spawner-worker prepare|start|keep|status|stop``."""
        verb = (process.command or "").split()[-1:]
        data = b""
        while verb != ["status"] and len(data) < MAX_DOCUMENT_BYTES:
            chunk = await process.stdin.read(65_536)
            if not chunk:
                break
            data += chunk
        try:
            code = await self._carry_out(
                stub, verb[0] if verb else "", data, lambda event: _say(process, event)
            )
        except KeyError:
            process.stderr.write(b"unknown command\n")
            code = 127
        process.exit(code)

    async def _carry_out(
        self, stub: _Stub, verb: str, data: bytes, say: Callable[[dict[str, Any]], None]
    ) -> int:
        """The exit code; raises KeyError for a verb that there is not."""
        answer = {
            "prepare": self._on_prepare,
            "start": self._on_start,
            "keep": self._on_keep,
            "status": self._on_status,
            "stop": self._on_stop,
        }[verb]
        stub.watchdog.commanded_at = self._clock()
        assert stub.locked is not None  # noqa: S101 - made before the port was opened
        if stub.is_cut:  # the connection was there before the cut
            await asyncio.sleep(3600)
        async with stub.locked:
            code = await answer(stub, data, say)
        stub.watchdog.commanded_at = self._clock()
        return code

    async def _on_prepare(
        self, stub: _Stub, data: bytes, say: Callable[[dict[str, Any]], None]
    ) -> int:
        try:
            stub.watchdog.learn(json.loads(data)["watchdog"])
        except (ValueError, KeyError, TypeError, Fault) as error:
            say({"event": "error", "code": "bad-document", "detail": repr(error)[:500]})
            return 1
        said = {"event": "prepared", "system": "running", "disk_free_bytes": 1 << 33}
        say({**said, "seconds": 0.0})
        return 0

    async def _on_start(
        self, stub: _Stub, data: bytes, say: Callable[[dict[str, Any]], None]
    ) -> int:
        began = time.monotonic()
        try:
            document = json.loads(data)
            address, port = str(document["address"]), int(document["port"])
            claim, owner = str(document["claim"]), str(document["owner"])
            if "watchdog" in document and stub.claim in ("", claim):
                stub.watchdog.learn(document["watchdog"])
        except (ValueError, KeyError, TypeError, Fault) as error:
            say({"event": "error", "code": "bad-document", "detail": repr(error)[:500]})
            return 1
        if stub.claim not in ("", claim):
            detail = f"this worker belongs to {stub.owner}, claim {stub.claim}"
            say({"event": "error", "code": "owner-mismatch", "detail": detail})
            return 1
        stub.claim, stub.owner = claim, owner
        _write_claim(stub.spec.directory, claim, owner)
        server = {k: v for k, v in document.items() if k != "watchdog"}
        reused = stub.web is not None and stub.document == server
        if not reused:
            await _close_web(stub)
            for step in STEPS:
                await asyncio.sleep(self._server_seconds / len(STEPS))
                say({"event": "progress", "step": step, "seconds": time.monotonic() - began})
            try:
                stub.web = await self._serve_web(stub, address, port)
            except OSError as error:
                say({"event": "error", "code": "server-died", "detail": str(error)[:500]})
                return 1
            stub.document = server
            stub.watchdog.serve_from(self._clock())
        seconds = round(time.monotonic() - began, 3)
        ready = {"event": "ready", "pid": os.getpid(), "reused": reused, "formatted": False}
        say({**ready, "seconds": seconds})
        return 0

    async def _on_keep(
        self, stub: _Stub, data: bytes, say: Callable[[dict[str, Any]], None]
    ) -> int:
        try:
            claim = stub.claim if stub.web else ""
            stub.watchdog.keep(parse_keep(data), claim, self._clock())
        except Fault as fault:
            say({"event": "error", "code": fault.slug.value, "detail": fault.detail})
            return 1
        say({"event": "kept", "seconds": 0.0})
        return 0

    async def _on_status(
        self, stub: _Stub, data: bytes, say: Callable[[dict[str, Any]], None]
    ) -> int:
        is_on = stub.web is not None
        say(
            {
                "active": is_on,
                "pid": os.getpid() if is_on else None,
                "exit_code": None,
                "owner": stub.owner or None,
                "claim": stub.claim or None,
                "home_mounted": is_on,
                "disk_free_bytes": 1 << 33,
            }
        )
        return 0

    async def _on_stop(
        self, stub: _Stub, data: bytes, say: Callable[[dict[str, Any]], None]
    ) -> int:
        await _close_web(stub)
        say({"event": "stopped", "seconds": 0.0})
        return 0

    async def _serve_web(self, stub: _Stub, address: str, port: int) -> asyncio.AbstractServer:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
            ):
                await self._answer_web(stub, reader, writer)
            writer.close()

        return await asyncio.start_server(answer, address, port, reuse_address=True, backlog=8)

    async def _answer_web(
        self, stub: _Stub, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        stub.connections.add(writer.transport)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if stub.is_cut:
                    await asyncio.sleep(3600)
                writer.write(stub_web.reply(head, self._version))
                await writer.drain()
                if "connection: close" in head.lower():
                    return
        finally:
            stub.connections.discard(writer.transport)


class _Silent(asyncio.Protocol):
    """A connection on which nothing is ever said."""

    def __init__(self, stub: _Stub) -> None:
        self._stub = stub

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._stub.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stub.connections.discard(self._transport)


def _say(process: asyncssh.SSHServerProcess[bytes], event: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        process.stdout.write(json.dumps(event).encode() + b"\n")


async def _close_web(stub: _Stub) -> None:
    if stub.web:
        stub.web.close()
        stub.web = None
        stub.watchdog.serve_from(None)
    stub.document = None
    for transport in list(stub.connections):
        transport.close()
    stub.connections.clear()


async def _close(stub: _Stub) -> None:
    if stub.ssh:
        stub.ssh.close()
        stub.ssh = None
    await _close_web(stub)


def _ssh_options(driver: StubWorkers, stub: _Stub, *, anew: bool) -> Any:
    import asyncssh

    keys = asyncssh.import_authorized_keys("\n".join(stub.spec.authorized_keys) + "\n")

    class Login(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self._conn = conn

        def begin_auth(self, username: str) -> bool:
            if username == SSH_USER:
                self._conn.set_authorized_keys(keys)
            return True

    return asyncssh.SSHServerConnectionOptions(
        server_factory=Login,
        server_host_keys=[_host_key(stub.spec.directory, anew=anew)],
        process_factory=lambda process: driver.run_command(stub, process),
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


def _host_key(directory: Path, *, anew: bool) -> Any:
    import asyncssh

    path = directory / "ssh_host_ed25519_key"
    if path.exists() and not anew:
        return asyncssh.read_private_key(path)
    key = asyncssh.generate_private_key("ssh-ed25519")
    if not anew:
        path.write_bytes(key.export_private_key())
        path.chmod(0o600)
    return key


def _faults(stub: _Stub) -> dict[str, Any]:
    try:
        raw = json.loads((stub.spec.directory / "faults.json").read_text())
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _read_claim(directory: Path) -> tuple[str, str]:
    try:
        raw = json.loads((directory / "claim.json").read_text())
        return str(raw["claim"]), str(raw["owner"])
    except (OSError, ValueError, KeyError):
        return "", ""


def _write_claim(directory: Path, claim: str, owner: str) -> None:
    partial = directory / "claim.json.new"
    partial.write_text(json.dumps({"claim": claim, "owner": owner}))
    partial.replace(directory / "claim.json")
