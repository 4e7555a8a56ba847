"""A hub's users, as the benchmarks play them: over the REST API and the progress stream.

Owns requests and the moments of each start. Polls nothing of the hub's while a server starts.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.bed import BOUND_SECONDS, POLL_SECONDS, Hub

ANSWER_POLL_SECONDS = 0.01
ACTIVE_POLL_SECONDS = 1.0
STOPS_AT_ONCE = 20
SEED = 3


@dataclass
class Start:
    """One start of a server, on the clock that all processes share."""

    user: str
    sent: float
    accepted: float = 0.0
    ready: float = 0.0
    answered: float = 0.0
    failure: str = ""
    inside: list[tuple[str, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From the click to the first answer of the user's own server."""
        return self.answered - self.sent

    def marks(self) -> list[tuple[str, float]]:
        """Every moment that is known, named after what was over then."""
        return [
            ("sent", self.sent),
            *self.inside,
            ("ready_seen", self.ready),
            ("page", self.answered),
        ]


class Client:
    """All users of one hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._http = hub.bed.http
        self._headers = {"Authorization": f"token {hub.token}"}

    def _request(self, method: str, path: str, **more: Any) -> Any:
        url = f"{self._hub.url}/{path}"
        return self._http.request(method, url, headers=self._headers, **more)

    async def add_users(self, names: Sequence[str]) -> None:
        """As the panel does."""
        async with self._request("POST", "hub/api/users", json={"usernames": [*names]}) as answer:
            if answer.status != 201:
                raise RuntimeError(await answer.text())

    async def add_group(self, group: str, users: Sequence[str]) -> None:
        """A new group of these users."""
        for path, body in (("", None), ("/users", {"users": [*users]})):
            async with self._request("POST", f"hub/api/groups/{group}{path}", json=body) as answer:
                if answer.status not in (200, 201):
                    raise RuntimeError(await answer.text())

    async def start(self, user: str) -> Start:
        """Click, follow the progress, and open the page; a failed start has its ``failure``."""
        start = Start(user, time.monotonic())
        async with self._request("POST", f"hub/api/users/{user}/server") as answer:
            start.accepted = time.monotonic()
            if answer.status not in (201, 202):
                start.failure = await answer.text()
                return start
        await self._follow(start)
        if not start.failure:
            await self._until_answered(start)
        return start

    async def start_all(self, users: Sequence[str]) -> list[Start]:
        """All at once; raises unless all of them came up."""
        starts = await asyncio.gather(*(self.start(user) for user in users))
        failed = [f"{s.user}: {s.failure}" for s in starts if s.failure]
        if failed:
            raise RuntimeError("; ".join(failed))
        return starts

    async def start_over(self, users: Sequence[str], within_seconds: float) -> list[Start]:
        """All in random order, each at its own moment of a time; those that fail are among them."""
        draw = random.Random(SEED)  # the same moments for every spawner
        moments = [draw.uniform(0, within_seconds) for _ in users]
        return await asyncio.gather(*map(self._start_after, users, moments))

    async def _start_after(self, user: str, seconds: float) -> Start:
        await asyncio.sleep(seconds)
        begun = time.monotonic()
        try:
            return await self.start(user)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            return Start(user, begun, failure=f"{type(error).__name__}: {error}")

    async def traced(self, user: str) -> Start:
        """A start, with the moments that the hub noted; raises if it failed."""
        await self._hub.ask(f"marks/{user}")
        (start,) = await self.start_all([user])
        marks = await self._hub.ask(f"marks/{user}")
        start.inside = [(name, at) for name, at in marks if start.sent <= at <= start.ready]
        return start

    async def _follow(self, start: Start) -> None:
        path = f"hub/api/users/{start.user}/server/progress"
        async with self._request("GET", path) as answer:
            async for line in answer.content:
                if not line.startswith(b"data:"):
                    continue
                event = json.loads(line[5:])
                if event.get("ready"):
                    start.ready = time.monotonic()
                    return
                if event.get("failed"):
                    start.failure = str(event.get("message"))
                    return
        start.failure = "the progress stream ended without a last word"

    async def _until_answered(self, start: Start) -> None:
        path = f"user/{start.user}/api/status"
        while True:
            async with self._request("GET", path, allow_redirects=False) as answer:
                if answer.status == 200:
                    start.answered = time.monotonic()
                    return
            if time.monotonic() > start.ready + BOUND_SECONDS:
                start.failure = f"the page answers {answer.status}"
                return
            await asyncio.sleep(ANSWER_POLL_SECONDS)

    async def stop(self, user: str) -> None:
        """Stop a server, and wait until the hub has let it go."""
        async with self._request("DELETE", f"hub/api/users/{user}/server") as answer:
            if answer.status not in (202, 204):
                raise RuntimeError(await answer.text())
        while await self._is_active(user):
            await asyncio.sleep(POLL_SECONDS)

    async def _is_active(self, user: str) -> bool:
        async with self._request("GET", f"hub/api/users/{user}") as answer:
            model = await answer.json()
        return bool(model["server"] or model["pending"])

    async def stop_all(self, users: Sequence[str]) -> None:
        """All at once."""
        await asyncio.gather(*(self.stop(user) for user in users))

    async def stop_everybody(self) -> None:
        """All who have a server, a few at a time, looked at all together: spares a large hub."""
        few = asyncio.Semaphore(STOPS_AT_ONCE)

        async def stop(user: str) -> None:
            async with few, self._request("DELETE", f"hub/api/users/{user}/server") as answer:
                await answer.read()

        while active := await self._active_users():
            await asyncio.gather(*(stop(user) for user in active))
            await asyncio.sleep(ACTIVE_POLL_SECONDS)

    async def _active_users(self) -> list[str]:
        async with self._request("GET", "hub/api/users?state=active") as answer:
            answer.raise_for_status()
            return [model["name"] for model in await answer.json()]
