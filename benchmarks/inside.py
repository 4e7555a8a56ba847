"""What is measured inside the hub's process: its event loop's lag, memory, and marks in each start.

Loaded by ``hub_config.py``. Owns a small HTTP server of its own on loopback, so that asking costs
the hub's handlers nothing. Changes nothing of what it measures: it wraps, and passes on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import REGISTRY

from benchmarks.arithmetic import percentile

TICK_SECONDS = 0.01
PREFIX = "ec2spawner_"


class LagMeter:
    """How late the event loop is. Every tick counts, also those that a blocked loop has missed:
    what is sampled is what a request that comes at any moment would have met."""

    def __init__(self) -> None:
        self._lags = array("d")

    async def run(self) -> None:
        """Sample until cancelled."""
        due = time.monotonic()
        while True:
            due += TICK_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            while due < now:
                self._lags.append(now - due)
                due += TICK_SECONDS

    def reset(self) -> None:
        """Forget all samples."""
        self._lags = array("d")

    def report(self) -> dict[str, float]:
        """Milliseconds."""
        lags = self._lags or [0.0]
        shares = {"p50": percentile(lags, 50), "p99": percentile(lags, 99), "max": max(lags)}
        in_ms = {f"{name}_ms": round(1000 * lag, 2) for name, lag in shares.items()}
        return {**in_ms, "samples": len(self._lags)}


class Marks:
    """Named moments of each user's start, on the clock that all processes share."""

    def __init__(self) -> None:
        self._marks: dict[str, list[tuple[str, float]]] = {}

    def note(self, user: str, name: str) -> None:
        """This moment."""
        self._marks.setdefault(user, []).append((name, time.monotonic()))

    def take(self, user: str) -> list[tuple[str, float]]:
        """A user's marks since they were last taken."""
        return self._marks.pop(user, [])

    def around(
        self, owner: Any, attribute: str, who: Callable[..., str], before: str, after: str
    ) -> None:
        """Mark before and after a coroutine method ("" for none); ``who`` gets its arguments."""
        original = getattr(owner, attribute)

        @functools.wraps(original)
        async def marked(*arguments: Any, **named: Any) -> Any:
            if before:
                self.note(who(*arguments), before)
            result = await original(*arguments, **named)
            if after:
                self.note(who(*arguments), after)
            return result

        assert inspect.iscoroutinefunction(original), f"{owner} has no coroutine {attribute}"
        setattr(owner, attribute, marked)

    def install(self) -> None:
        """Into the hub, the spawner and the fleet."""
        from jupyterhub.proxy import Proxy
        from jupyterhub.user import User

        from ec2spawner.fleet import Fleet
        from ec2spawner.spawner import EC2Spawner

        self.around(EC2Spawner, "start", lambda s: str(s.user.name), "start", "answered_worker")
        self.around(Fleet, "provided", lambda _, ticket: str(ticket.owner.user), "", "machine")
        self.around(User, "_wait_up", lambda user, *_: str(user.name), "saved", "wait_up")
        self.around(Proxy, "add_user", lambda _, user, *__: str(user.name), "", "route")
        on_step = EC2Spawner._on_step

        def marked_step(spawner: EC2Spawner, step: str) -> None:
            self.note(str(spawner.user.name), step)
            on_step(spawner, step)

        EC2Spawner._on_step = marked_step  # type: ignore[assignment, method-assign]


def memory() -> dict[str, int]:
    """Of this process, in bytes."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    )
    in_bytes = {name: int(value.split()[0]) * 1024 for name, value in fields.items()}
    private = in_bytes["Private_Clean"] + in_bytes["Private_Dirty"]
    return {"rss_bytes": in_bytes["Rss"], "private_bytes": private}


def figures() -> dict[str, float]:
    """Our own metrics, by name and labels."""
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name.startswith(PREFIX) and not sample.name.endswith(("_bucket", "_created"))
    }


def aws_calls() -> dict[str, int]:
    """Attempts of AWS calls by action, whatever came of them."""
    counts: dict[str, int] = {}
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name == "ec2spawner_aws_calls_total":
                action = sample.labels["action"]
                counts[action] = counts.get(action, 0) + int(sample.value)
    return counts


def stage(user_name: str) -> str:
    """What the fleet knows of a user's machine; "starting" is what it says of a stopped one."""
    from jupyterhub.app import JupyterHub

    spawner = JupyterHub.instance().users[user_name].spawners[""]
    return str(spawner.servers.fleet.sight(spawner.owner).stage)


def bare_start(user_name: str, port: int) -> dict[str, Any]:
    """Command and environment with which JupyterHub's own spawner of local processes would start
    this user's server."""
    from jupyterhub.app import JupyterHub
    from jupyterhub.objects import Server
    from jupyterhub.spawner import SimpleLocalProcessSpawner

    user = JupyterHub.instance().users[user_name]
    spawner = user._new_spawner("", spawner_class=SimpleLocalProcessSpawner)
    spawner.ip, spawner.port = "127.0.0.1", port
    spawner.orm_spawner = None  # this server is in no database
    spawner._server = Server(base_url=user.base_url)
    spawner.api_token = user.new_api_token(note="bare start")
    arguments = list(spawner.get_args()) + (["--allow-root"] if os.getuid() == 0 else [])
    return {"command": [*spawner.cmd], "arguments": arguments, "environment": spawner.get_env()}


class Inside:
    """Answers the benchmark's questions."""

    def __init__(self) -> None:
        self._lag = LagMeter()
        self._marks = Marks()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, port: int) -> None:
        """Measure from now on; needs a running event loop."""
        self._marks.install()
        loop = asyncio.get_running_loop()
        self._tasks = {loop.create_task(self._lag.run()), loop.create_task(self._serve(port))}

    async def _serve(self, port: int) -> None:
        app = web.Application()
        app.router.add_get("/figures", self._on_figures)
        app.router.add_post("/reset", self._on_reset)
        app.router.add_get("/marks/{user}", self._on_marks)
        app.router.add_get("/stage/{user}", self._on_stage)
        app.router.add_get("/bare/{user}/{port}", self._on_bare)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    async def _on_figures(self, request: web.Request) -> web.Response:
        times = os.times()
        return web.json_response(
            {
                **memory(),
                "lag": self._lag.report(),
                "cpu_seconds": round(times.user + times.system, 3),
                "tasks": len(asyncio.all_tasks()),
                "threads": threading.active_count(),
                "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - only counted
                "aws_calls": aws_calls(),
                "metrics": figures(),
            }
        )

    async def _on_reset(self, request: web.Request) -> web.Response:
        self._lag.reset()
        return web.json_response({})

    async def _on_marks(self, request: web.Request) -> web.Response:
        return web.json_response(self._marks.take(request.match_info["user"]))

    async def _on_stage(self, request: web.Request) -> web.Response:
        return web.json_response(stage(request.match_info["user"]))

    async def _on_bare(self, request: web.Request) -> web.Response:
        info = request.match_info
        return web.json_response(bare_start(info["user"], int(info["port"])))
