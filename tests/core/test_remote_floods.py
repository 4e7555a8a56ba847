"""A worker that floods the link with what is no answer: ended by a bound on bytes, not by time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import String, UInt32

from ec2spawner import remote
from ec2spawner.errors import WorkerGarbage, WorkerUnreachable

from .test_remote import CLIENT, HOST, READY, Process, link, says, sshd, started, worker

IGNORE, DEBUG, CHANNEL_WINDOW_ADJUST = 2, 4, 93  # RFC 4253, 4254
Send = Callable[[Any], None]

FLOODS: dict[str, Send] = {
    "to be ignored": lambda conn: conn.send_packet(IGNORE, String(b"")),
    "for debugging": lambda conn: conn.send_packet(DEBUG, b"\1", String(b"x" * 3000), String(b"")),
    "a wider window": lambda conn: conn.send_packet(CHANNEL_WINDOW_ADJUST, UInt32(0), UInt32(0)),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_packets_that_are_no_answer_are_refused_in_bulk(kind: str) -> None:
    sent = 0

    async def handler(process: Process) -> None:
        nonlocal sent
        connection: Any = process.channel.get_connection()
        while (transport := connection._transport) and not transport.is_closing():
            for _ in range(50):
                FLOODS[kind](connection)
            sent += 50
            await asyncio.sleep(0.001)

    async with sshd(handler) as port:
        with pytest.raises(WorkerGarbage) as caught:
            await started(port)
    assert remote.ENDLESS in caught.value.for_operator()
    assert sent < 100_000


async def test_an_answer_of_the_greatest_size_is_within_the_bound() -> None:
    line = b'{"event":"progress","step":"home"}' + b" " * 4000 + b"\n"
    lines = [line] * (remote.MAX_ANSWER_BYTES // len(line) - 1)
    steps: list[str] = []
    async with sshd(says(*lines, READY)) as port:
        await started(port, steps=steps)
    assert len(steps) == len(lines) + 1


async def test_a_key_exchange_that_is_costly_is_refused() -> None:
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[HOST],
        authorized_client_keys=asyncssh.import_authorized_keys(CLIENT.export_public_key().decode()),
        process_factory=says(READY),
        encoding=None,
        kex_algs=["diffie-hellman-group18-sha512"],
    )
    with pytest.raises(WorkerUnreachable, match="does not answer"):
        await asyncio.wait_for(link(server.get_port()).status(worker()), 10)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("depth", [50, 400, 900, 950, 980, 990, 1000, 4000])
@pytest.mark.parametrize("place", ["code", "detail", "event", "step"])
async def test_an_answer_however_deep_is_an_error_and_no_traceback(place: str, depth: int) -> None:
    event = {"event": "progress" if place == "step" else "error", place: "DEEP"}
    line = str(event).replace("'", '"').replace('"DEEP"', "[" * depth + "]" * depth)
    async with sshd(says(line.encode() + b"\n")) as port:
        with pytest.raises((WorkerGarbage, remote.WorkerRefused)):
            await started(port)
