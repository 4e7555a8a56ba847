"""The hub's link to a worker: runs ``ec2spawner-worker`` over SSH, and nothing else.

Owns connecting, pinning of host keys, and the bounds on what a worker may answer: it is untrusted.
Sole importer of asyncssh in the hub. Must not know EC2 or the hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, Protocol

import asyncssh

from ec2spawner.errors import (
    ConfigError,
    HostKeyMismatch,
    WorkerError,
    WorkerGarbage,
    WorkerRefused,
    WorkerUnreachable,
)
from ec2spawner.model import Worker
from ec2spawner.throttle import Bucket, Limit

log = logging.getLogger(__name__)

SSH_USER = "ec2spawner"
COMMAND = "ec2spawner-worker"
MAX_LINE_BYTES = 8192
MAX_ANSWER_BYTES = 256 * 1024
MAX_WIRE_BYTES = 512 * 1024
"""All that a worker may send on one connection. SSH has packets that are no answer (to be ignored,
of no known channel, new keys): a flood of them took the hub's time as long as it lasted."""
WINDOW_BYTES = 128 * 1024
"""What a worker may have sent and nobody read, on stderr above all."""
RECEIVE_BUFFER_BYTES = 32 * 1024
"""As little is taken from a connection at a time, so that others have their turn between."""
KEY_EXCHANGES = ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256")
"""A millisecond each; with the large groups that SSH also has, a worker could cost the hub many
times that, again and again."""
LOGIN_SECONDS = 10.0
PROBE_SECONDS = 2.0
ANSWER_SECONDS = 10.0
"""A server whose machine is only busy answers within this time, or at the next try."""
KEEPALIVE_SECONDS = 10.0
"""A worker that leaves three of these unanswered is cut off; the start is then tried anew."""
PROBES = Limit(20, 400)
"""Probes of booting machines, in all: a class's took all of the hub's time."""
DIALS = Limit(20, 100)
"""SSH connections begun: each takes 3.4 ms of the hub's time, and a class begins many at once.
Begun only, not open: a machine that never answers must not hold up the others."""
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0

BROKEN = (OSError, asyncssh.Error, ValueError)
"""What asyncssh raises where a peer is gone, or says what is no SSH (ValueError: undecodable)."""
LAST_EVENTS: Mapping[str, str | None] = {
    "prepare": "prepared",
    "start": "ready",
    "stop": "stopped",
    "keep": "kept",
    "status": None,
}
"""What the last line of each verb says of itself; that of a status is no event."""
ENDLESS = "it never ends"
Progress = Callable[[str], None]

STUDENT_WORDS: Mapping[str, tuple[str, str]] = {
    "foreign-filesystem": (
        "Your home disk holds a file system that this hub did not make.",
        "Nothing was changed on it. Tell the people who run this hub.",
    ),
    "home-missing": (
        "Your home disk did not appear on your machine.",
        "Start your server again; if it happens twice, tell the people who run this hub.",
    ),
    "mount-failed": (
        "Your home disk could not be opened.",
        "Nothing was changed on it. Tell the people who run this hub.",
    ),
    "disk-full": (
        "The disk of your machine is full, so the notebook server could not start.",
        "Tell the people who run this hub; your files are safe.",
    ),
    "server-died": (
        "Your machine is up, but the notebook server ended while it was starting.",
        "Start your server again; if it happens twice, tell the people who run this hub.",
    ),
    "server-timeout": (
        "Your machine is up, but the notebook server did not answer in time.",
        "Start your server again.",
    ),
    "owner-mismatch": (
        "The machine that was chosen for you belongs to somebody else.",
        "Tell the people who run this hub; your files are safe.",
    ),
}
"""What a student reads for each error slug of ``ec2spawner-worker``: what, and next step."""


class KeyStore(Protocol):
    """Remembers the host key that each instance showed first."""

    def pinned(self, instance_id: str) -> str | None:
        """The key in OpenSSH's one-line form, or None before the first contact."""

    def pin(self, instance_id: str, key: str) -> None:
        """Remember the key of an instance."""


class WorkerLink:
    """Speaks to the workers of one cluster with its one key; ``ConfigError`` if that is none."""

    def __init__(
        self,
        private_key: str,
        keys: KeyStore,
        *,
        port: int = 22,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._key = _imported(private_key)
        self._keys = keys
        self._port = port
        self._clock = clock
        self._sleep = sleep
        self._probes = Bucket(PROBES, clock())
        self._dials = Bucket(DIALS, clock())

    async def start(
        self, worker: Worker, document: Mapping[str, Any], progress: Progress
    ) -> dict[str, Any]:
        """Have the user's server started; its ready event. ``progress`` gets each step's slug.

        Tries to connect until it is cancelled: the machine may still be booting. The caller has
        the deadline. Raises a ``WorkerError``.
        """
        connection = await self._connect_until_up(worker)
        progress("connected")
        try:
            return await _run(connection, "start", document, progress)
        finally:
            connection.close()

    async def prepare(self, worker: Worker, document: Mapping[str, Any]) -> dict[str, Any]:
        """Have a worker checked that is nobody's yet, and told its hub; its prepared event.

        Tries to connect until it is cancelled: the machine may still be booting. The caller has
        the deadline. Raises a ``WorkerError``.
        """
        connection = await self._connect_until_up(worker)
        try:
            return await _run(connection, "prepare", document, _ignore)
        finally:
            connection.close()

    async def stop(self, worker: Worker, timeout_seconds: float) -> dict[str, Any]:
        """Have the user's server ended gracefully. Raises a ``WorkerError``."""
        connection = await self._connect(worker)
        document = {"timeout_seconds": timeout_seconds}
        try:
            return await asyncio.wait_for(
                _run(connection, "stop", document, _ignore), timeout_seconds + LOGIN_SECONDS
            )
        except asyncio.TimeoutError:
            raise _garbage("it does not end") from None
        finally:
            connection.close()

    async def keep(self, worker: Worker, document: Mapping[str, Any]) -> dict[str, Any]:
        """Have the worker's user count as at work for a while. Raises a ``WorkerError``."""
        connection = await self._connect(worker)
        try:
            return await asyncio.wait_for(
                _run(connection, "keep", document, _ignore), LOGIN_SECONDS
            )
        except asyncio.TimeoutError:
            raise _garbage("it does not end") from None
        finally:
            connection.close()

    async def status(self, worker: Worker) -> dict[str, Any]:
        """What runs on the worker. Raises a ``WorkerError``."""
        connection = await self._connect(worker)
        try:
            return await asyncio.wait_for(_run(connection, "status", None, _ignore), LOGIN_SECONDS)
        except asyncio.TimeoutError:
            raise _garbage("it does not end") from None
        finally:
            connection.close()

    async def _connect_until_up(self, worker: Worker) -> asyncssh.SSHClientConnection:
        pause = FIRST_PAUSE_SECONDS
        while True:
            # A bare TCP probe first: it costs little while the machine boots.
            await self._turn(self._probes)
            if await probe(worker.private_ip, self._port) is Probe.LISTENING:
                try:
                    return await self._connect(worker)
                except WorkerUnreachable as error:
                    log.debug("%s listens, but: %s", worker.instance_id, error)
                    await self._sleep(pause)
                    pause = min(pause * 1.5, MAX_PAUSE_SECONDS)
            else:
                await self._sleep(FIRST_PAUSE_SECONDS)

    async def _turn(self, bucket: Bucket) -> None:
        wait = bucket.reserve(1, self._clock())
        if wait > 0:
            await self._sleep(wait)

    async def _connect(self, worker: Worker) -> asyncssh.SSHClientConnection:
        await self._turn(self._dials)
        check = _Peer(worker.instance_id, self._keys.pinned(worker.instance_id))
        try:
            connection = await asyncio.wait_for(
                asyncssh.connect(
                    worker.private_ip,
                    self._port,
                    username=SSH_USER,
                    client_keys=[self._key],
                    client_factory=lambda: check,
                    known_hosts=([], [], []),
                    agent_path=None,
                    config=None,
                    preferred_auth="publickey",
                    server_host_key_algs=["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-256"],
                    kex_algs=KEY_EXCHANGES,
                    compression_algs=None,
                    keepalive_interval=KEEPALIVE_SECONDS,
                ),
                LOGIN_SECONDS,
            )
        except (*BROKEN, asyncio.TimeoutError) as error:
            if check.is_mismatch:
                raise _mismatch(worker.instance_id) from None
            if check.is_endless:
                raise _garbage(ENDLESS) from None
            raise WorkerUnreachable(
                "Your machine does not answer.",
                why=f"SSH to {worker.instance_id} at {worker.private_ip}:{self._port}: "
                f"{type(error).__name__}: {_bounded(str(error))}",
                next_step="Start your server again.",
            ) from None
        if check.shown and check.pinned is None:
            self._keys.pin(worker.instance_id, check.shown)
        return connection


def _imported(private_key: str) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_private_key(private_key)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise ConfigError(
            "This hub cannot reach its machines.",
            why=f"the cluster's SSH key cannot be used: {type(error).__name__}",
            next_step="Tell the people who run this hub; your files are safe.",
        ) from None


def _ignore(step: str) -> None:
    pass


class _Peer(asyncssh.SSHClient):
    """Accepts the key that the instance showed at the first contact, and a bounded flow of bytes.

    asyncssh has no bound of its own: what a peer sends is parsed, whatever it is.
    """

    def __init__(self, instance_id: str, pinned: str | None) -> None:
        self.pinned = pinned
        self.shown = ""
        self.is_mismatch = False
        self.is_endless = False
        self._instance_id = instance_id
        self._received = 0

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Stand between the connection and what arrives for it."""
        sock = conn.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        parse = conn.data_received

        def data_received(data: bytes, datatype: int | None = None) -> None:
            self._received += len(data)
            self.is_endless = self._received > MAX_WIRE_BYTES
            if self.is_endless:
                conn.abort()
            else:
                parse(data, datatype)

        conn.data_received = data_received  # type: ignore[method-assign]  # of this object only

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Whether this key is the pinned one, or the first."""
        self.shown = " ".join(key.export_public_key("openssh").decode().split()[:2])
        self.is_mismatch = self.pinned is not None and self.shown != self.pinned
        return not self.is_mismatch


def _mismatch(instance_id: str) -> HostKeyMismatch:
    return HostKeyMismatch(
        "Your machine could not prove that it is yours, so the hub did not connect to it.",
        why=f"{instance_id} shows another SSH host key than at the first contact",
        next_step="Tell the people who run this hub; your files are safe.",
    )


class Probe(Enum):
    """What a bare TCP connection to a port met."""

    LISTENING = "listening"
    REFUSED = "refused"  # the machine is up, and nothing listens there
    SILENT = "silent"  # no answer at all: booting, cut off, or gone


async def probe(address: str, port: int) -> Probe:
    """What answers on a port, within 2 s."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), PROBE_SECONDS)
    except ConnectionRefusedError:
        return Probe.REFUSED
    except (OSError, asyncio.TimeoutError):
        return Probe.SILENT
    writer.close()
    return Probe.LISTENING


async def answers(address: str, port: int, path: str) -> bool:
    """Whether a web server on the port says anything at all to a request, within 10 s.

    The kernel of a machine takes connections also while no program on it gets on.
    """
    try:
        return await asyncio.wait_for(_first_byte(address, port, path), ANSWER_SECONDS) != b""
    except (OSError, asyncio.TimeoutError):
        return False


async def _first_byte(address: str, port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        host = f"{address}:{port}"
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("latin-1"))
        return await reader.read(1)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _run(
    connection: asyncssh.SSHClientConnection,
    verb: str,
    document: Mapping[str, Any] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Run one verb; its last event. What the worker writes is bounded, parsed, never believed."""
    peer = connection.get_owner()  # which a connection that is closed does not know any more
    try:
        process = await connection.create_process(
            f"{COMMAND} {verb}",
            encoding=None,
            stderr=asyncssh.PIPE,  # not read: who writes without end there soon stands still
            window=WINDOW_BYTES,
        )
        with contextlib.suppress(BrokenPipeError):  # it ended at once: what it said decides
            process.stdin.write(json.dumps(document).encode() if document is not None else b"")
            process.stdin.write_eof()
        try:
            return await _last_event(process.stdout, verb, progress)
        finally:
            process.close()
    except (*BROKEN, WorkerGarbage) as error:
        if isinstance(peer, _Peer) and peer.is_endless:
            raise _garbage(ENDLESS) from None
        if isinstance(error, WorkerGarbage):
            raise
        raise WorkerUnreachable(
            "The connection to your machine broke.",
            why=f"{type(error).__name__}: {_bounded(str(error))}",
            next_step="Start your server again.",
        ) from None


async def _last_event(
    stdout: asyncssh.SSHReader[bytes], verb: str, progress: Progress
) -> dict[str, Any]:
    buffer = b""
    total = 0
    while True:
        chunk = await stdout.read(MAX_LINE_BYTES)
        total += len(chunk)
        *lines, buffer = (buffer + chunk).split(b"\n")
        if total > MAX_ANSWER_BYTES or len(buffer) > MAX_LINE_BYTES:
            raise _garbage(ENDLESS)
        for line in lines:
            event = _parsed(line)
            if event.get("event") == "progress":
                progress(_slug(event.get("step")))
            else:
                return _checked(event, verb)
        if not chunk:
            raise _garbage("it ended without a last word")


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        raise _garbage("not JSON") from None
    if not isinstance(event, dict):
        raise _garbage("not a JSON object")
    return event


def _slug(value: object) -> str:
    """A worker's short word, or "?" for anything else."""
    return value if isinstance(value, str) and re.fullmatch(r"[a-z-]{1,32}", value) else "?"


def _checked(event: dict[str, Any], verb: str) -> dict[str, Any]:
    if event.get("event") == LAST_EVENTS[verb]:
        return event
    if event.get("event") != "error":
        raise _garbage("an event that nobody expects")
    reason = _slug(event.get("code"))
    what, next_step = STUDENT_WORDS.get(
        reason,
        (
            "Your machine could not start the notebook server.",
            "Start your server again; if it happens twice, tell the people who run this hub.",
        ),
    )
    why = f"ec2spawner-worker says {reason}: {_bounded(str(event.get('detail', '')))}"
    raise WorkerRefused(what, reason=reason, why=why, next_step=next_step)


def _garbage(how: str) -> WorkerError:
    return WorkerGarbage(
        "Your machine gives answers that the hub does not understand.",
        why=f"the output of ec2spawner-worker: {how}",
        next_step="Start your server again; if it happens twice, tell the people who run this hub.",
    )


def _bounded(text: str) -> str:
    """A worker's words for a log: one printable line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text)[:400]
