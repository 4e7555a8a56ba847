"""The extension in a real Jupyter server: kernels, terminals, requests, and an open tab."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from ec2spawner.worker import activity_file
from ec2spawner.worker.activity_extension import Observer, file_seconds
from ec2spawner.worker.clock import boot_seconds

from .machines import free_port

TOKEN = "5ecret-t0ken"
ADDRESS = "127.77.250.2"


class Server:
    """A Jupyter server with the extension, and the requests that tests make."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port(ADDRESS)
        self.url = f"http://{ADDRESS}:{self.port}/user/jo/"
        own = {"JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run", "HOME": "."}
        own |= {"IPYTHONDIR": "ipython", "RUNTIME_DIRECTORY": "."}
        self.file = directory / activity_file.FILE_NAME
        every = {"PS1": "yours> ", "JUPYTERHUB_ACTIVITY_INTERVAL": "1"}
        self.log = (directory / "log").open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
                f"--ServerApp.ip={ADDRESS}",
                f"--ServerApp.port={self.port}",
                "--ServerApp.base_url=/user/jo/",
                f"--IdentityProvider.token={TOKEN}",
                "--ServerApp.jpserver_extensions=ec2spawner.worker.activity_extension=True",
                "--ServerApp.jpserver_extensions=jupyter_server_terminals=True",
                "--ServerApp.terminado_settings=shell_command=['/bin/bash', '--norc']",
            ],
            cwd=directory,
            env={**os.environ, **every, **{k: str(directory / v) for k, v in own.items()}},
            stdout=subprocess.DEVNULL,
            stderr=self.log,
        )

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        request = HTTPRequest(
            self.url + path,
            method,
            headers={"Authorization": f"token {TOKEN}", **headers},
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
        )
        answer = await AsyncHTTPClient().fetch(request)
        is_json = "json" in answer.headers.get("Content-Type", "")
        return json.loads(answer.body or b"null") if is_json else None

    async def connect(self, path: str) -> WebSocketClientConnection:
        url = self.url.replace("http:", "ws:") + path
        return await websocket_connect(
            HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"})
        )

    async def last(self) -> float:
        """Epoch seconds of the last work, as the hub would be told."""
        told = (await self.ask("GET", "api/status"))["last_activity"]
        return datetime.fromisoformat(told.replace("Z", "+00:00")).timestamp()

    def left(self) -> float:
        """Seconds of CLOCK_BOOTTIME of the last work, as the watchdog would read."""
        return activity_file.read(self.file, os.getuid()) or 0.0

    async def settled(self) -> float:
        """The last work, once nothing is under way any more."""
        seen = [0.0]

        async def is_settled() -> bool:
            await asyncio.sleep(0.1)
            seen.append(await self.last())
            return seen[-1] == seen[-2]

        await until(is_settled)
        return seen[-1]

    async def counts(self, action: Awaitable[Any]) -> None:
        """The last work is not before ``action``."""
        mark = time.time()
        await action

        async def has_counted() -> bool:
            return await self.last() >= mark

        await until(has_counted)

    async def counts_not(self, *actions: Awaitable[Any]) -> None:
        before = await self.settled()
        for action in actions:
            await action
        await asyncio.sleep(0.3)
        assert await self.last() == before

    async def is_at_work(self) -> bool:
        """Whether there is work at this moment, not only before it."""
        now = time.time()
        return await self.last() >= now

    async def stays_at_work(self, seconds: float) -> None:
        await until(self.is_at_work)
        end = time.time() + seconds
        while time.time() < end:
            assert await self.is_at_work()
            await asyncio.sleep(0.1)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.02)


async def write(socket: WebSocketClientConnection, text: str) -> None:
    """Send when this is awaited: tornado's own method sends when it is called."""
    await socket.write_message(text)


async def closed(socket: WebSocketClientConnection) -> None:
    socket.close()
    while await socket.read_message() is not None:
        pass


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    try:
        for _ in range(400):
            try:
                await server.ask("GET", "api/status")
                break
            except OSError:
                assert server.process.poll() is None, (tmp_path / "log").read_text()
                await asyncio.sleep(0.05)
        yield server
    finally:
        server.process.terminate()
        server.process.wait(10)
        server.log.close()


def message(kind: str, content: dict[str, Any]) -> str:
    header = {"msg_id": f"{kind}-{time.time()}", "msg_type": kind, "username": "", "session": "s"}
    header |= {"version": "5.3", "date": ""}
    empty: dict[str, Any] = {"parent_header": {}, "metadata": {}, "buffers": []}
    return json.dumps({"channel": "shell", "header": header, "content": content, **empty})


def execute(code: str) -> str:
    return message("execute_request", {"code": code, "silent": False, "stop_on_error": True})


async def test_what_counts_as_work_in_a_real_server(server: Server) -> None:
    # One server for all: its start is the most of this test.
    await the_tab_and_its_user(server)
    await a_kernel(server)
    await a_terminal(server)
    await the_file(server)


async def the_tab_and_its_user(server: Server) -> None:
    polls = ("api/kernels", "api/sessions", "api/terminals", "api/contents/", "api/me")
    await server.counts_not(*(server.ask("GET", path) for path in polls))
    file = {"type": "file", "format": "text", "content": "a"}
    await server.counts(server.ask("PUT", "api/contents/a.txt", file))
    page = {"Sec-Fetch-Mode": "navigate"}
    await server.counts(server.ask("GET", "files/a.txt", **page))
    await server.counts_not(anonymous(server, "PUT", "api/contents/b.txt"))


async def anonymous(server: Server, method: str, path: str) -> None:
    with pytest.raises(HTTPClientError, match="403"):
        await server.ask(method, path, {}, Authorization="")


async def a_kernel(server: Server) -> None:
    kernel = (await server.ask("POST", "api/kernels", {}))["id"]
    path = f"api/kernels/{kernel}/channels"
    channels = await server.connect(path)
    await server.counts(write(channels, execute("1")))
    await becomes(server, kernel, "idle")
    await server.counts(write(channels, execute("import time; time.sleep(2)")))
    await server.stays_at_work(0.6)  # and the cell says nothing
    mark = time.time()
    await becomes(server, kernel, "idle")
    assert await server.settled() > mark  # its end counts

    await closed(channels)
    again = await server.connect(path)  # a tab that reconnects, and asks who is there
    await server.counts_not(
        write(again, message("kernel_info_request", {})),
        write(again, message("comm_info_request", {})),
    )
    await server.counts(write(again, execute("pass")))  # shorter than any look at it
    await becomes(server, kernel, "idle")
    before = await server.settled()
    await closed(again)
    os.kill(process_of(kernel), 9)  # not by a request, which would count
    await asyncio.sleep(0.3)
    assert await server.last() == before


def process_of(kernel: str) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"kernel-{kernel}".encode() in (entry / "cmdline").read_bytes():
                return int(entry.name)
    raise AssertionError("no such kernel")


async def becomes(server: Server, kernel: str, state: str) -> None:
    async def has_become() -> bool:
        model = await server.ask("GET", f"api/kernels/{kernel}")
        return bool(model["execution_state"] == state)

    await until(has_become)


async def a_terminal(server: Server) -> None:
    name = (await server.ask("POST", "api/terminals", {}))["name"]
    socket = await server.connect(f"terminals/websocket/{name}")

    def say(*words: Any) -> Awaitable[None]:
        return write(socket, json.dumps(words))

    await read_until(socket, "yours>")
    await server.counts_not(say("set_size", 30, 90, 0, 0), say("stdin", "\x1b[?1;2c"))
    await server.counts(say("stdin", "\x15sleep 2\r"))
    await server.stays_at_work(0.6)
    await read_until(socket, "yours>")
    await read_until(socket, "yours>")
    await server.counts(say("stdin", "(sleep 0.4; echo la''te) &\r"))
    await server.counts_not(read_until(socket, "late"))  # output alone is no work
    await server.counts(say("stdin", "#"))
    await closed(socket)


async def the_file(server: Server) -> None:
    async def says_the_same() -> bool:
        ago = time.time() - await server.last()
        return abs(boot_seconds() - server.left() - ago) < 0.1

    await server.settled()
    await until(says_the_same)
    kernel = (await server.ask("POST", "api/kernels", {}))["id"]
    channels = await server.connect(f"api/kernels/{kernel}/channels")
    begun = boot_seconds()
    await channels.write_message(execute("import time; time.sleep(6)"))

    async def says_still_at_work() -> bool:
        return server.left() > begun + 1.5

    await until(says_still_at_work, 5)  # before its end, and nothing else happened
    await closed(channels)


class Loop:
    """An event loop's timers, run by hand."""

    def __init__(self) -> None:
        self.waits: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self.waits.append((seconds, lambda: call(*arguments)))

    def pass_on(self) -> float:
        seconds, call = self.waits.pop()
        call()
        return seconds


def quiet_app() -> Any:
    kernels = SimpleNamespace(list_kernel_ids=lambda: [])
    return SimpleNamespace(
        kernel_manager=kernels, web_app=SimpleNamespace(settings={}), io_loop=Loop()
    )


def test_a_wall_clock_that_is_set_does_not_touch_the_file(tmp_path: Path) -> None:
    wall, steady, app = [1e9], [500.0], quiet_app()
    observer = Observer(app, lambda: wall[0], lambda: steady[0])
    observer.keep_file(tmp_path, 15.0)
    file = tmp_path / activity_file.FILE_NAME
    for jump in (9999.0, -5e8):
        wall[0] += jump
        steady[0] += 15
        assert app.io_loop.pass_on() == 15
        assert activity_file.read(file, os.getuid()) == 500.0


def test_a_disk_without_room_is_tried_again(tmp_path: Path) -> None:
    app = quiet_app()
    Observer(app).keep_file(tmp_path / "missing", 15.0)
    (tmp_path / "missing").mkdir()
    app.io_loop.pass_on()
    assert activity_file.read(tmp_path / "missing" / activity_file.FILE_NAME, os.getuid())


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [(None, 15), ("300", 15), ("15", 15), ("4", 4), ("0", 1), ("-3", 1), ("often", 15)],
)
def test_the_file_is_written_as_often_as_the_hub_wants_reports(
    interval: str | None, seconds: float
) -> None:
    environ = {} if interval is None else {"JUPYTERHUB_ACTIVITY_INTERVAL": interval}
    assert file_seconds(environ) == seconds


async def read_until(socket: WebSocketClientConnection, text: str) -> None:
    seen = ""
    while text not in seen:
        answer = await asyncio.wait_for(socket.read_message(), 60)
        assert answer is not None
        kind, *rest = json.loads(answer)
        seen += rest[0] if kind == "stdout" else ""
