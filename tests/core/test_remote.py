"""The link to a worker against a real SSH server: what it believes, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncssh
import pytest

from ec2spawner import remote
from ec2spawner.errors import (
    HostKeyMismatch,
    WorkerError,
    WorkerGarbage,
    WorkerRefused,
    WorkerUnreachable,
)
from ec2spawner.model import InstanceState, Worker
from ec2spawner.remote import STUDENT_WORDS, Probe, WorkerLink, answers, probe

Process = asyncssh.SSHServerProcess[bytes]
Handler = Callable[[Process], Awaitable[None]]

CLIENT = asyncssh.generate_private_key("ssh-ed25519")
HOST, OTHER_HOST = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
DOCUMENT = {"version": 1, "environment": {"JUPYTERHUB_API_TOKEN": "s3cret"}}
READY = b'{"event":"ready","pid":1,"reused":false,"formatted":true,"seconds":1.5}\n'


class Keys(dict[str, str]):
    """A ``KeyStore``."""

    def pinned(self, instance_id: str) -> str | None:
        return self.get(instance_id)

    def pin(self, instance_id: str, key: str) -> None:
        self[instance_id] = key


@asynccontextmanager
async def sshd(
    handler: Handler, host_key: asyncssh.SSHKey = HOST, client: asyncssh.SSHKey = CLIENT
) -> AsyncIterator[int]:
    """An SSH server on the loopback address; its port."""
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=asyncssh.import_authorized_keys(client.export_public_key().decode()),
        process_factory=handler,
        encoding=None,
        server_version="worker",
    )
    try:
        yield server.get_port()
    finally:
        server.close()
        await server.wait_closed()


def link(port: int, keys: Keys | None = None) -> WorkerLink:
    private = CLIENT.export_private_key().decode()
    return WorkerLink(private, keys if keys is not None else Keys(), port=port)


def worker(instance_id: str = "i-1") -> Worker:
    return Worker(instance_id, InstanceState.RUNNING, private_ip="127.0.0.1")


def says(*lines: bytes, exit_code: int = 0) -> Handler:
    async def handler(process: Process) -> None:
        await process.stdin.read()
        for line in lines:
            process.stdout.write(line)
        process.exit(exit_code)

    return handler


async def started(port: int, keys: Keys | None = None, steps: list[str] | None = None) -> Any:
    told = steps if steps is not None else []
    return await asyncio.wait_for(link(port, keys).start(worker(), DOCUMENT, told.append), 20)


# ---- what is right


async def test_a_start_hands_the_document_over_and_tells_each_step() -> None:
    received: list[Any] = []

    async def handler(process: Process) -> None:
        received.append((process.command, json.loads(await process.stdin.read())))
        for step in ("home", "mount", "server"):
            line = json.dumps({"event": "progress", "step": step, "seconds": 0.1})
            process.stdout.write(line.encode() + b"\n")
        process.stdout.write(READY)
        process.exit(0)

    steps: list[str] = []
    async with sshd(handler) as port:
        event = await started(port, steps=steps)
    assert event["event"] == "ready"
    assert steps == ["connected", "home", "mount", "server"]
    ((command, document),) = received
    assert command == "ec2spawner-worker start", "nothing of a user is in a command line"
    assert document == DOCUMENT


async def test_an_answer_in_pieces_is_put_together() -> None:
    async def handler(process: Process) -> None:
        await process.stdin.read()
        for byte in b'{"event":"progress","step":"home"}\n' + READY:
            process.stdout.write(bytes([byte]))
            await process.stdout.drain()
        process.exit(0)

    steps: list[str] = []
    async with sshd(handler) as port:
        await started(port, steps=steps)
    assert steps == ["connected", "home"]


async def test_stop_and_status() -> None:
    received: list[Any] = []

    async def handler(process: Process) -> None:
        received.append((process.command, await process.stdin.read()))
        verb = (process.command or "").split()[-1]
        answers = {
            "stop": {"event": "stopped", "seconds": 1},
            "status": {"active": True, "owner": "x", "claim": "c", "home_mounted": True},
        }
        process.stdout.write(json.dumps(answers[verb]).encode() + b"\n")
        process.exit(0)

    async with sshd(handler) as port:
        assert (await link(port).stop(worker(), 10))["event"] == "stopped"
        assert (await link(port).status(worker()))["active"] is True
    assert received == [
        ("ec2spawner-worker stop", b'{"timeout_seconds": 10}'),
        ("ec2spawner-worker status", b""),
    ]


async def test_a_spare_is_prepared_with_its_document() -> None:
    received: list[Any] = []

    async def handler(process: Process) -> None:
        received.append((process.command, json.loads(await process.stdin.read())))
        process.stdout.write(b'{"event":"progress","step":"boot","seconds":0.1}\n')
        process.stdout.write(b'{"event":"prepared","system":"running","seconds":2}\n')
        process.exit(0)

    async with sshd(handler) as port:
        event = await asyncio.wait_for(link(port).prepare(worker(), DOCUMENT), 10)
    assert event["event"] == "prepared"
    assert received == [("ec2spawner-worker prepare", DOCUMENT)]


async def test_a_spare_that_still_boots_is_waited_for_and_one_that_cannot_be_is_told() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(link(port).prepare(worker(), DOCUMENT), 0.3)
    broken = b'{"event":"error","code":"boot-unfinished","detail":"maintenance"}\n'
    async with sshd(says(broken)) as port:
        with pytest.raises(WorkerRefused, match="boot-unfinished: maintenance"):
            await asyncio.wait_for(link(port).prepare(worker(), DOCUMENT), 10)
    for answer in (READY, b"x" * 300_000, b"\xff\n", b""):
        async with sshd(says(answer)) as port:
            with pytest.raises(WorkerGarbage):
                await asyncio.wait_for(link(port).prepare(worker(), DOCUMENT), 10)


async def test_a_machine_that_boots_is_waited_for() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    starting = asyncio.ensure_future(started(port))
    await asyncio.sleep(0.25)
    assert not starting.done()
    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[HOST],
        authorized_client_keys=asyncssh.import_authorized_keys(CLIENT.export_public_key().decode()),
        process_factory=says(READY),
        encoding=None,
    )
    assert (await starting)["event"] == "ready"
    server.close()
    await server.wait_closed()


# ---- whose machine it is


async def test_the_first_key_is_pinned_and_accepted_again() -> None:
    keys = Keys()
    async with sshd(says(READY)) as port:
        await started(port, keys)
        pinned = HOST.export_public_key().decode().split()[:2]
        assert keys == {"i-1": " ".join(pinned)}
        await started(port, keys)


async def test_another_key_than_the_pinned_one_is_refused_before_anything_is_handed_over() -> None:
    received: list[bytes] = []

    async def handler(process: Process) -> None:
        received.append(await process.stdin.read())
        process.exit(0)

    keys = Keys({"i-1": " ".join(HOST.export_public_key().decode().split()[:2])})
    before = dict(keys)
    async with sshd(handler, OTHER_HOST) as port:
        for verb in (
            link(port, keys).start(worker(), DOCUMENT, print),
            link(port, keys).stop(worker(), 5),
            link(port, keys).status(worker()),
            link(port, keys).prepare(worker(), DOCUMENT),
        ):
            with pytest.raises(HostKeyMismatch) as caught:
                await asyncio.wait_for(verb, 10)
            assert "i-1" in caught.value.for_operator()
            assert "i-1" not in caught.value.for_user()
    assert received == []
    assert keys == before


async def test_each_instance_has_its_own_pin() -> None:
    keys = Keys({"i-2": " ".join(OTHER_HOST.export_public_key().decode().split()[:2])})
    async with sshd(says(READY)) as port:
        await started(port, keys)
    assert set(keys) == {"i-1", "i-2"}


async def test_a_refused_login_is_unreachable_and_pins_nothing() -> None:
    keys = Keys()
    async with sshd(says(READY), client=OTHER_HOST) as port:
        with pytest.raises(WorkerUnreachable) as caught:
            await link(port, keys).status(worker())
    assert "PermissionDenied" in caught.value.for_operator()
    assert keys == {}


async def test_a_refused_login_is_tried_again_while_the_machine_boots() -> None:
    async with sshd(says(READY), client=OTHER_HOST) as port:
        starting = asyncio.ensure_future(link(port).start(worker(), DOCUMENT, print))
        await asyncio.sleep(0.4)
        assert not starting.done()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting


# ---- what a worker may say


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"\n"],
        [b"hello\n"],
        [b"\xff\xfe\x00\n"],
        [b"[1,2]\n"],
        [b'"ready"\n'],
        [b"null\n"],
        [b"{}\n"],
        [b'{"event":"stopped"}\n'],
        [b'{"event":["ready"]}\n'],
        [b'{"event":"ready"}'],  # cut off
        [b"[" * 8000 + b"\n"],
        [b"1" * 8000 + b"\n"],
        [b"x" * 9000],
        [b'{"event":"ready","more":"' + b"x" * 20_000 + b'"}\n'],
        [b'{"event":"progress","step":"home"}\n'],
        [b'{"event":"progress","step":"home"}\n', b"oops\n"],
    ],
    ids=range(17),
)
async def test_garbage_is_named_as_such(lines: list[bytes]) -> None:
    async with sshd(says(*lines)) as port:
        with pytest.raises(WorkerGarbage) as caught:
            await started(port)
    assert "does not understand" in caught.value.for_user()


async def test_a_command_that_ends_before_it_reads_is_judged_by_what_it_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def handler(process: Process) -> None:
        process.stdout.write(b"no JSON\n")
        process.exit(1)

    create = asyncssh.SSHClientConnection.create_process

    async def create_slowly(*arguments: Any, **named: Any) -> Any:
        process = await create(*arguments, **named)
        while not process.stdin.is_closing():  # noqa: ASYNC110 - asyncssh tells it no other way
            await asyncio.sleep(0.01)
        return process

    monkeypatch.setattr(asyncssh.SSHClientConnection, "create_process", create_slowly)
    async with sshd(handler) as port:
        with pytest.raises(WorkerGarbage, match="does not understand"):
            await started(port)


@pytest.mark.parametrize("verb", ["stop", "status"])
async def test_a_ready_is_no_answer_to_anything_else(verb: str) -> None:
    async with sshd(says(READY)) as port:
        call = link(port).stop(worker(), 5) if verb == "stop" else link(port).status(worker())
        with pytest.raises(WorkerGarbage):
            await call


@pytest.mark.parametrize(
    "chunk", [b"x" * 4096, b'{"event":"progress","step":"home"}\n' * 100], ids=["line", "lines"]
)
async def test_output_without_end_is_ended(chunk: bytes) -> None:
    written = 0

    async def handler(process: Process) -> None:
        nonlocal written
        try:
            while True:
                process.stdout.write(chunk)
                written += len(chunk)
                await process.stdout.drain()
        except (OSError, asyncssh.Error):
            return

    async with sshd(handler) as port:
        with pytest.raises(WorkerGarbage):
            await started(port)
    assert written < 16 * 1024 * 1024, "and not read for ever"


async def test_what_a_worker_writes_beside_its_answer_is_not_taken_in() -> None:
    sent = 0

    async def handler(process: Process) -> None:
        nonlocal sent
        await process.stdin.read()
        with contextlib.suppress(BrokenPipeError, ConnectionError, asyncssh.Error):
            while True:
                process.stderr.write(b"x" * 32768)
                await process.stderr.drain()
                sent += 32768

    async with sshd(handler) as port:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(link(port).start(worker(), DOCUMENT, lambda step: None), 2)
    assert sent < 8 * 2**20  # what fits into windows and buffers on the way


async def test_steps_are_slugs_or_nothing() -> None:
    steps: list[str] = []
    odd = ["<b>x</b>", "\x1b[31mred", "a" * 33, "two words", "line\nline", 7, None, {"a": 1}]
    lines = [json.dumps({"event": "progress", "step": s}).encode() + b"\n" for s in odd]
    async with sshd(says(*lines, READY)) as port:
        await started(port, steps=steps)
    assert steps == ["connected", *["?"] * len(odd)]


async def test_an_error_with_markup_and_terminal_codes_reaches_nobody_as_such() -> None:
    detail = "<script>alert(1)</script>\x1b[2J\r\nFAKE LOG LINE\u202e" + "z" * 3000
    line = json.dumps({"event": "error", "code": "disk-full", "detail": detail}).encode() + b"\n"
    async with sshd(says(line, exit_code=1)) as port:
        with pytest.raises(WorkerRefused) as caught:
            await started(port)
    error = caught.value
    assert error.reason == "disk-full"
    assert "<script>" not in error.for_user()
    assert "FAKE" not in error.for_user()
    logged = error.for_operator()
    assert "\x1b" not in logged
    assert "\n" not in logged
    assert "\r" not in logged
    assert "\u202e" not in logged
    assert len(logged) < 900


@pytest.mark.parametrize("code", sorted(STUDENT_WORDS))
async def test_each_error_has_words_for_a_student(code: str) -> None:
    line = json.dumps({"event": "error", "code": code, "detail": "vol-123 /dev/nvme1n1"})
    async with sshd(says(line.encode() + b"\n")) as port:
        with pytest.raises(WorkerRefused) as caught:
            await started(port)
    assert caught.value.reason == code
    for internal in ("vol-123", "nvme", "ec2spawner", "SSH"):
        assert internal not in caught.value.for_user()
    assert "vol-123" in caught.value.for_operator()


@pytest.mark.parametrize("code", ["<b>", "", None, 7, ["disk-full"], "x" * 99])
async def test_an_error_of_no_known_kind_is_still_an_error(code: object) -> None:
    line = json.dumps({"event": "error", "code": code}).encode() + b"\n"
    async with sshd(says(line)) as port:
        with pytest.raises(WorkerRefused) as caught:
            await started(port)
    assert caught.value.reason == "?"


# ---- silence and broken connections


async def test_silence_is_waited_out_by_the_caller_and_leaves_nothing_behind() -> None:
    closed = asyncio.Event()

    async def handler(process: Process) -> None:
        await process.stdin.read()
        await process.channel.wait_closed()
        closed.set()

    async with sshd(handler) as port:
        starting = asyncio.ensure_future(link(port).start(worker(), DOCUMENT, print))
        await asyncio.sleep(0.3)
        assert not starting.done()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("verb", ["stop", "status"])
async def test_a_stop_or_status_without_an_answer_ends(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LOGIN_SECONDS", 0.5)

    async def handler(process: Process) -> None:
        await asyncio.Event().wait()

    async with sshd(handler) as port:
        begun = time.monotonic()
        call = link(port).stop(worker(), 0.1) if verb == "stop" else link(port).status(worker())
        with pytest.raises(WorkerGarbage):
            await call
        assert time.monotonic() - begun < 5


async def test_a_connection_that_is_cut_is_unreachable() -> None:
    async def handler(process: Process) -> None:
        await process.stdin.read()
        process.stdout.write(b'{"event":"progress","step":"home"}\n')
        await process.stdout.drain()
        process.channel.get_connection().abort()

    async with sshd(handler) as port:
        with pytest.raises(WorkerError) as caught:
            await started(port)
    assert "Traceback" not in caught.value.for_operator()


async def test_a_worker_that_is_cut_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "KEEPALIVE_SECONDS", 0.1)
    through = asyncio.Event()
    through.set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            await through.wait()
            writer.write(chunk)
        writer.close()

    async def handler(process: Process) -> None:
        await process.stdin.read()
        through.clear()  # nothing passes any more, and nobody is told
        await asyncio.sleep(60)

    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []
    async with sshd(handler) as port:

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection("127.0.0.1", port)
            writers.extend((writer, there[1]))
            tasks.append(asyncio.ensure_future(forward(reader, there[1])))
            tasks.append(asyncio.ensure_future(forward(there[0], writer)))

        middle = await asyncio.start_server(relay, "127.0.0.1", 0)
        async with middle:
            with pytest.raises(WorkerUnreachable):
                await started(middle.sockets[0].getsockname()[1])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in writers:
                writer.transport.abort()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-x\r\n" + b"\xff" * 4096,
        b"SSH-2.0-\xff\xfe\r\n",
        b"SSH-2.0-x\r\n" + (12).to_bytes(4, "big") + bytes([10, 20]) + bytes(10),
        b"SSH-2.0-x\r\n" + bytes(64),
    ],
)
async def test_something_else_on_the_port_is_unreachable(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LOGIN_SECONDS", 1.0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises(WorkerUnreachable):
            await link(server.sockets[0].getsockname()[1]).status(worker())


async def test_a_port_that_listens_and_says_nothing_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "LOGIN_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(WorkerUnreachable) as caught:
            await link(port).status(worker())
        assert await probe("127.0.0.1", port) is Probe.LISTENING
    assert "i-1" in caught.value.for_operator()
    assert "i-1" not in caught.value.for_user()


async def test_probing_a_closed_port_is_refused() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert await probe("127.0.0.1", closed.getsockname()[1]) is Probe.REFUSED


async def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    async with sshd(says(READY)) as port:
        await started(port)
    assert "s3cret" not in caplog.text
    assert "PRIVATE KEY" not in caplog.text


@pytest.mark.parametrize("says", [b"HTTP/1.1 200 OK\r\n\r\n", b""])
async def test_a_web_server_answers_if_it_says_anything_at_all(
    says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.2)
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(says)
        await reader.read()  # without a word, until the other end is tired of it
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await answers("127.0.0.1", port, "/user/ann/api") is bool(says)
    server.close()
    assert heads[0].startswith(b"GET /user/ann/api HTTP/1.1\r\n")
    assert not await answers("127.0.0.1", port, "/")


# ---- a class at once


class SlowClock:
    """A clock that goes on only while somebody sleeps, and tells how long that was."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def test_connections_of_a_class_are_begun_one_after_the_other() -> None:
    clock = SlowClock()
    private = CLIENT.export_private_key().decode()
    async with sshd(says(READY)) as port:
        one = WorkerLink(private, Keys(), port=port, clock=clock, sleep=clock.sleep)
        count = int(remote.DIALS.size) + 3
        starts = (one.start(worker(f"i-{n}"), DOCUMENT, lambda _: None) for n in range(count))
        await asyncio.wait_for(asyncio.gather(*starts), 20)
    apart = 1 / remote.DIALS.refill_per_second
    dials = [seconds for seconds in clock.slept if seconds >= apart - 1e-9]
    assert sorted(dials) == pytest.approx([apart, 2 * apart, 3 * apart])


async def test_machines_that_boot_share_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SlowClock()
    count = int(remote.PROBES.size) + 2
    probed: list[str] = []
    all_probed = asyncio.Event()

    async def unanswered(address: str, port: int) -> Probe:
        probed.append(address)
        if len(probed) == count:
            all_probed.set()
        return await asyncio.Future()

    monkeypatch.setattr(remote, "probe", unanswered)
    private = CLIENT.export_private_key().decode()
    one = WorkerLink(private, Keys(), port=1, clock=clock, sleep=clock.sleep)
    starts = [one.start(worker(f"i-{n}"), DOCUMENT, lambda _: None) for n in range(count)]
    tasks = [asyncio.ensure_future(start) for start in starts]
    await asyncio.wait_for(all_probed.wait(), 10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    apart = 1 / remote.PROBES.refill_per_second
    assert clock.slept == pytest.approx([apart, 2 * apart])
