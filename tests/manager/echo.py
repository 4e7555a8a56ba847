"""A server that says over a websocket what it is told, and counts who came."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

import tornado.web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.websocket import WebSocketHandler


class Echo:
    """Runs in a thread of its own, on loopback."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        outer = self

        class Handler(WebSocketHandler):
            def check_origin(self, origin: str) -> bool:
                return True

            def open(self) -> None:
                outer.connections += 1

            async def on_message(self, message: str | bytes) -> None:
                await self.write_message(message)

        sockets = bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        server = HTTPServer(tornado.web.Application([(r".*/echo", Handler)]))
        server.add_sockets(sockets)
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._is_up.set()
        await self._end.wait()
        server.stop()
        await server.close_all_connections()

    def __enter__(self) -> Echo:
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop
        assert self._end
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
