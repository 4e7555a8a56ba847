"""Notices in a real Jupyter server, as its tabs get them: each once, and never as work."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from ec2spawner.worker import activity_extension, notice_file
from ec2spawner.worker.metadata import Interruption
from ec2spawner.worker.notice_extension import LOOK_SECONDS, Herald, _idle_notice
from ec2spawner.worker.notice_file import Level, Notice
from ec2spawner.worker.notices import notice_of

from .machines import free_port

TOKEN = "5ecret-t0ken"
ADDRESS = "127.77.250.3"
API = "jupyterlab-notifications-extension/"
STARTED_BEFORE_SECONDS = 60.0


class Server:
    """A Jupyter server with both extensions of a worker, and what JupyterLab's tabs do."""

    def __init__(self, directory: Path) -> None:
        port = free_port(ADDRESS)
        self.url = f"http://{ADDRESS}:{port}/user/jo/"
        self.notices = directory / "notices"
        self.log = directory / "log"
        own = {"JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run", "HOME": "."}
        own |= {notice_file.VARIABLE: "notices"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
                    f"--ServerApp.ip={ADDRESS}",
                    f"--ServerApp.port={port}",
                    "--ServerApp.base_url=/user/jo/",
                    f"--IdentityProvider.token={TOKEN}",
                    "--ServerApp.jpserver_extensions=ec2spawner.worker.activity_extension=True",
                    "--ServerApp.jpserver_extensions=ec2spawner.worker.notice_extension=True",
                ],
                cwd=directory,
                env={**os.environ, **{k: str(directory / v) for k, v in own.items()}},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    async def ask(
        self, path: str, method: str = "GET", body: Any = None, token: str = TOKEN
    ) -> Any:
        request = HTTPRequest(
            self.url + path,
            method,
            headers={"Authorization": f"token {token}", "Sec-Fetch-Mode": "cors"},
            body=None if body is None else json.dumps(body),
        )
        return json.loads((await AsyncHTTPClient().fetch(request)).body)

    async def poll(self) -> list[dict[str, Any]]:
        """What a tab does when it opens, and every 30 s."""
        found: list[dict[str, Any]] = (await self.ask(f"{API}notifications"))["notifications"]
        return found

    async def listen(self) -> WebSocketClientConnection:
        """What a tab keeps open."""
        url = self.url.replace("http:", "ws:") + f"{API}stream"
        return await websocket_connect(
            HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"})
        )

    async def worked_at(self) -> float:
        told = (await self.ask("api/status"))["last_activity"]
        return datetime.fromisoformat(told.replace("Z", "+00:00")).timestamp()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    try:
        deadline = time.monotonic() + STARTED_BEFORE_SECONDS
        while True:
            try:
                await server.ask("api/status")
                break
            except OSError:
                assert server.process.poll() is None, server.log.read_text()
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        yield server
    finally:
        server.process.terminate()
        server.process.wait(10)


async def heard(tab: WebSocketClientConnection) -> dict[str, Any]:
    answer = await asyncio.wait_for(tab.read_message(), 20)
    assert answer
    (notification,) = json.loads(answer)["notifications"]
    return dict(notification)


async def test_what_tabs_get_of_a_notice_in_a_real_server(server: Server) -> None:
    # One server for all: its start is the most of this test.
    one, two = await server.listen(), await server.listen()
    assert await server.poll() == []
    before = await server.worked_at()
    server.notices.mkdir()
    notice_file.write(server.notices, notice_of(Interruption("stop", time.time() + 120)))
    told = await heard(one)
    assert (await heard(two))["id"] == told["id"]
    assert told["message"].startswith("Amazon takes this machine back in about 2 minutes. Save now")
    assert (told["type"], told["autoClose"]) == ("warning", False)
    assert told["actions"][0]["commandId"] == "hub:control-panel"

    await every_tab_gets_it(server, told["id"])
    # Polls, streams and notices are no work: they would keep every machine with an open tab on.
    assert await server.worked_at() == before

    with pytest.raises(HTTPClientError, match="403"):
        await server.ask(f"{API}ingest", "POST", {"message": "from a stranger"}, token="wrong")
    await server.ask(f"{API}ingest", "POST", {"message": "from the user's own program"})
    assert await server.worked_at() == before
    notice_file.remove(server.notices, "interruption")
    await asyncio.sleep(LOOK_SECONDS + 0.5)
    assert [n["message"] for n in await server.poll()] == ["from the user's own program"]
    one.close()
    two.close()
    assert "Traceback" not in server.log.read_text()


async def every_tab_gets_it(server: Server, wanted: str) -> None:
    """A tab that polls takes what is in the queue; the next one finds it again."""
    for _ in range(2):
        deadline = time.monotonic() + 10
        while wanted not in [n["id"] for n in await server.poll()]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


class Desk:
    """Stands for the queue; what it was told."""

    def __init__(self) -> None:
        self.held: list[list[str]] = []
        self.pushed: list[str] = []

    def hold(self, notifications: Any) -> None:
        self.held.append([n["message"] for n in notifications])

    def push(self, notification: Any) -> None:
        self.pushed.append(notification["message"])


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def herald(tmp_path: Path, desk: Desk) -> Herald:
    return Herald(tmp_path, desk, logging.getLogger("server"), lambda: 1000.0)  # type: ignore[arg-type]


STOP = Notice("idle-stop", Level.INFO, "Stops {when}.", 1060.0)


def test_without_a_notice_the_other_extension_is_left_alone(herald: Herald, desk: Desk) -> None:
    herald.look()
    assert desk.held == desk.pushed == []


def test_a_notice_is_told_once_and_held_while_it_stands(
    herald: Herald, desk: Desk, tmp_path: Path
) -> None:
    notice_file.write(tmp_path, STOP)
    herald.look()
    herald.look()
    notice_file.remove(tmp_path, STOP.kind)
    herald.look()
    herald.look()
    notice_file.write(tmp_path, STOP)  # the same again is none
    herald.look()
    words = "Stops in about a minute."
    assert desk.pushed == [words]
    assert desk.held == [[words], [words], [], [words]]


def test_another_time_or_kind_is_told_anew(herald: Herald, desk: Desk, tmp_path: Path) -> None:
    for notice in (
        STOP,
        Notice("idle-stop", Level.INFO, "Stops {when}.", 1600.0),
        Notice("interruption", Level.WARNING, "Amazon.", 1060.0),
    ):
        notice_file.write(tmp_path, notice)
        herald.look()
    assert desk.pushed == ["Stops in about a minute.", "Stops in about 10 minutes.", "Amazon."]


def test_what_cannot_be_shown_is_logged_once_and_the_looking_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Desk):
        def push(self, notification: Any) -> None:
            raise AttributeError("another version")

    class Loop:
        calls: int = 0

        def call_later(self, seconds: float, again: Any, *arguments: Any) -> None:
            assert seconds == LOOK_SECONDS
            self.calls += 1
            if self.calls < 3:
                again(*arguments)

    loop, log = Loop(), logging.getLogger("server")
    notice_file.write(tmp_path, STOP)
    Herald(tmp_path, Broken(), log, lambda: 1000.0).keep_looking(loop, LOOK_SECONDS)  # type: ignore[arg-type]
    assert loop.calls == 3
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR"]


def test_the_warning_of_an_idle_stop_goes_when_somebody_works_again(desk: Desk) -> None:
    now, worked_at = [1000.0], [1000.0]

    class Watching:
        def last_activity(self) -> datetime:
            return datetime.fromtimestamp(worked_at[0], tz=timezone.utc)

    def idle() -> Notice | None:
        return _idle_notice({activity_extension.SETTING: Watching()}, 60.0, now[0])

    log = logging.getLogger("server")
    herald = Herald(None, desk, log, lambda: now[0], idle)  # type: ignore[arg-type]
    herald.look()
    assert desk.held == desk.pushed == []
    now[0] += 31
    herald.look()
    herald.look()
    assert len(desk.pushed) == 1
    assert "stops in less than a minute" in desk.pushed[0]
    worked_at[0] = now[0]
    herald.look()
    assert desk.held[-1] == []
    now[0] += 31
    herald.look()
    assert len(desk.pushed) == 2


def test_without_a_hubs_word_or_an_observer_nothing_is_warned_of() -> None:
    assert _idle_notice({}, 60.0, 1e9) is None
    assert _idle_notice({activity_extension.SETTING: object()}, None, 1e9) is None
