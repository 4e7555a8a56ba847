"""Looking after a server: pages that ask for it wait a moment, the hub is told whenever it ends."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from core.virtual import in_virtual_time
from ec2spawner.spawner import LOOK_HOLDS, PAGE_WAITS_SECONDS, RUNNING, EC2Spawner


class Server(EC2Spawner):
    """A spawner of whose server it takes ``seconds`` to find out ``status``."""

    owner = "ann"
    log = logging.getLogger(__name__)
    _callbacks: list[Any] = []  # noqa: RUF012 - each gets a list of its own

    def __init__(self, seconds: float, status: int | Exception | None) -> None:
        self.seconds, self.status = seconds, status
        self.polls = 0
        self._phase = ""
        self.told: list[float] = []
        self._look = None
        self._not_dead = ("", 0.0)
        self._callbacks = [lambda: self.told.append(now())]

    async def poll(self) -> int | None:
        self.polls += 1
        await asyncio.sleep(self.seconds)
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

    def stop_polling(self) -> None:
        pass


class Running(EC2Spawner):
    """A spawner with a running server, of which its machine (or the listing) says what ``is_dead``
    (or ``is_gone``) is; ``looks`` counts how often the machine was asked."""

    owner = "ann"
    server = None
    port = 8888
    poll_interval = 10
    is_dead = False
    is_gone = False

    def __init__(self) -> None:
        self.looks = 0
        self._look = None
        self._not_dead = ("", 0.0)
        self._callbacks = []
        self._phase, self._worker_id, self._worker_ip = RUNNING, "i-1", "127.0.0.2"

    @property
    def servers(self) -> Any:
        fleet = SimpleNamespace(is_gone=lambda owner, worker_id: self.is_gone, forget=str)
        return SimpleNamespace(fleet=fleet, is_dead=self._ask)

    async def _ask(self, *_: object) -> bool:
        self.looks += 1
        return self.is_dead

    def stop_polling(self) -> None:
        pass


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_a_page_does_not_wait_for_a_machine_that_is_silent() -> None:
    server = Server(2.0, None)
    assert await server.poll_and_notify() is None
    assert now() == pytest.approx(PAGE_WAITS_SECONDS, abs=0.01)


@in_virtual_time
async def test_what_is_found_later_is_told_the_hub_by_one_look() -> None:
    server = Server(2.0, 0)
    assert [await server.poll_and_notify() for _ in range(3)] == [None] * 3
    await asyncio.sleep(5)
    assert (server.polls, server.told) == (1, [pytest.approx(2.0, abs=0.01)])


@in_virtual_time
async def test_what_is_found_at_once_is_told_the_page_too() -> None:
    server = Server(0.1, 0)
    assert await server.poll_and_notify() == 0
    assert server.told == [pytest.approx(0.1, abs=0.01)]
    assert await server.poll_and_notify() == 0
    assert server.polls == 2


@in_virtual_time
async def test_a_look_that_fails_later_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    await Server(2.0, ValueError("broken")).poll_and_notify()
    await asyncio.sleep(5)
    assert "Looking after the server of ann failed" in caplog.text
    assert "broken" in caplog.text


@in_virtual_time
async def test_a_page_soon_after_another_does_not_ask_the_machine_again() -> None:
    server = Running()
    assert [await server.poll_and_notify() for _ in range(5)] == [None] * 5
    assert server.looks == 1
    await asyncio.sleep(LOOK_HOLDS * server.poll_interval)
    assert await server.poll_and_notify() is None
    assert server.looks == 2


@in_virtual_time
@pytest.mark.parametrize("change", ["gone", "stopped", "moved"])
async def test_a_page_is_told_at_once_what_the_hub_knows(change: str) -> None:
    server = Running()
    assert await server.poll_and_notify() is None
    server.is_dead = True
    if change == "gone":
        server.is_gone = True
    elif change == "stopped":
        server._phase = ""
    else:
        server._worker_id = "i-2"
    assert await server.poll_and_notify() == 0


@in_virtual_time
async def test_a_server_that_died_is_found_out_by_the_next_look_of_the_hub() -> None:
    server = Running()
    assert await server.poll_and_notify() is None
    server.is_dead = True
    await asyncio.sleep(server.poll_interval)
    assert await server.poll_and_notify() == 0
