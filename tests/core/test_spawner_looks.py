"""Looking after a server: pages that ask for it wait a moment, the hub is told whenever it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from core.virtual import in_virtual_time
from ec2spawner.spawner import PAGE_WAITS_SECONDS, EC2Spawner


class Server(EC2Spawner):
    """A spawner of whose server it takes ``seconds`` to find out ``status``."""

    owner = "ann"
    log = logging.getLogger(__name__)
    _callbacks: list[Any] = []  # noqa: RUF012 - each gets a list of its own

    def __init__(self, seconds: float, status: int | Exception | None) -> None:
        self.seconds, self.status = seconds, status
        self.polls = 0
        self.told: list[float] = []
        self._look = None
        self._callbacks = [lambda: self.told.append(now())]

    async def poll(self) -> int | None:
        self.polls += 1
        await asyncio.sleep(self.seconds)
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

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
