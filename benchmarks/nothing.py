"""A spawner that does nothing: what is left is JupyterHub itself, the baseline of every figure.

Its servers are one small web server, which the benchmark runs outside of the hub.
"""

from __future__ import annotations

import os
from typing import Any

from aiohttp import web
from jupyterhub import __version__ as hub_version
from jupyterhub.spawner import Spawner

URL_VARIABLE = "EC2SPAWNER_BENCH_NOTHING_URL"


class NothingSpawner(Spawner):  # type: ignore[misc]  # jupyterhub ships no types
    """Everybody's server is there already."""

    _runs = False

    def load_state(self, state: dict[str, Any]) -> None:
        """What was saved."""
        super().load_state(state)
        self._runs = bool(state.get("runs"))

    def get_state(self) -> dict[str, Any]:
        """Whether it was started."""
        return {**super().get_state(), "runs": self._runs}

    async def start(self) -> str:
        """The one address."""
        self._runs = True
        return os.environ[URL_VARIABLE]

    async def stop(self, now: bool = False) -> None:
        """Nothing to end."""
        self._runs = False

    async def poll(self) -> int | None:
        """None while it was started."""
        return None if self._runs else 0


async def serve(port: int) -> web.AppRunner:
    """Answer as any user's server; clean the result up at the end."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"version": "0"}, headers={"X-JupyterHub-Version": hub_version})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner
