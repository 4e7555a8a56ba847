"""Students of a class at one hub: by HTTP alone, and in real browsers; every page they open is
timed.

Owns their sessions and the order of their clicks. Must not know what is made of the figures.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

import aiohttp
from playwright.async_api import Browser, Error, Page, Request

from benchmarks.bed import KEEP_ALIVE_SECONDS

PASSWORD = ""  # the benchmarks' hub takes any
THINK_SECONDS = (0.5, 2.5)
HOME_VISITS = 4
READY_SECONDS = 120.0
BROWSER_SECONDS = 60.0
SPAWN = "spawn"
"""The one page whose time is not the hub's alone: it begins the start of a machine."""


@dataclass(frozen=True)
class Opened:
    """One page, from the request to the last byte; ``status`` of HTTP."""

    kind: str
    seconds: float
    status: int


@dataclass
class Diary:
    """What one student went through; ``failure`` says why it did not go on."""

    name: str
    pages: list[Opened] = field(default_factory=list)
    ready_seconds: float | None = None
    usable_seconds: float | None = None
    failure: str = ""


def kind_of(path: str) -> str:
    """What page a path is, without anybody's name."""
    parts = path.strip("/").split("/")
    if parts[0] == "user":
        return "server" if len(parts) < 3 else parts[2]
    return parts[1] if len(parts) > 1 else "hub"


class Student:
    """One of the class, without a browser: pages, forms, and the progress stream."""

    def __init__(self, http: aiohttp.ClientSession, url: str, name: str, seed: int) -> None:
        self._http = http
        self._url = url
        self._draw = random.Random(seed)
        self.diary = Diary(name)

    async def come(self) -> Diary:
        """Log in, start the server, look around, stop, log out."""
        try:
            await self._log_in()
            await self._start()
            await self._look_around()
            await self._stop()
            await self._open("/hub/logout")
        except (aiohttp.ClientError, asyncio.TimeoutError, RuntimeError) as error:
            self.diary.failure = f"{type(error).__name__}: {error}"
        return self.diary

    async def _open(self, path: str, form: dict[str, str] | None = None) -> str:
        """A page, and each page that it leads on to; where that ended."""
        while True:
            begun = time.monotonic()
            method = "GET" if form is None else "POST"
            url = f"{self._url}{path}"
            async with self._http.request(method, url, data=form, allow_redirects=False) as answer:
                await answer.read()
            self._note(method, path, time.monotonic() - begun, answer.status)
            if answer.status != 302:
                return path
            path, form = answer.headers["Location"], None

    def _note(self, method: str, path: str, seconds: float, status: int) -> None:
        kind = kind_of(urlsplit(path).path)
        named = kind if method == "GET" else f"{kind} sent"
        self.diary.pages.append(Opened(named, seconds, status))
        if status >= 400:
            raise RuntimeError(f"{method} {path} answered {status}")

    async def _think(self) -> None:
        await asyncio.sleep(self._draw.uniform(*THINK_SECONDS))

    def _xsrf(self) -> str:
        cookies: SimpleCookie = self._http.cookie_jar.filter_cookies(f"{self._url}/hub/")  # type: ignore[arg-type,assignment]
        return cookies["_xsrf"].value

    async def _log_in(self) -> None:
        await self._open("/hub/login?next=%2Fhub%2Fhome")
        await self._think()
        form = {"username": self.diary.name, "password": PASSWORD, "_xsrf": self._xsrf()}
        ended = await self._open("/hub/login?next=%2Fhub%2Fhome", form)
        if ended != "/hub/home":
            raise RuntimeError(f"the login led to {ended}")

    async def _start(self) -> None:
        begun = time.monotonic()
        await self._open("/hub/spawn")
        await asyncio.wait_for(self._follow(), READY_SECONDS)
        self.diary.ready_seconds = time.monotonic() - begun
        await self._open(f"/user/{self.diary.name}/")

    async def _follow(self) -> None:
        url = f"{self._url}/hub/api/users/{self.diary.name}/server/progress?_xsrf={self._xsrf()}"
        async with self._http.get(url) as answer:
            async for line in answer.content:
                event = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if event.get("failed"):
                    raise RuntimeError(str(event.get("message")))
                if event.get("ready"):
                    return
        raise RuntimeError(f"the progress ended without a last word, {answer.status}")

    async def _look_around(self) -> None:
        for _ in range(HOME_VISITS):
            await self._think()
            await self._open("/hub/home")
        await self._think()
        await self._open("/hub/token")

    async def _stop(self) -> None:
        url = f"{self._url}/hub/api/users/{self.diary.name}/server"
        headers = {"X-XSRFToken": self._xsrf()}
        async with self._http.delete(url, headers=headers) as answer:
            if answer.status not in (202, 204):
                raise RuntimeError(f"the stop answered {answer.status}: {await answer.text()}")
        await self._open("/hub/home")


@asynccontextmanager
async def student(url: str, name: str, seed: int) -> AsyncIterator[Student]:
    """A student with connections and cookies of their own."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_SECONDS),
        cookie_jar=aiohttp.CookieJar(unsafe=True),  # the host is an address
        timeout=aiohttp.ClientTimeout(total=READY_SECONDS),
    ) as http:
        yield Student(http, url, name, seed)


class Guest:
    """One of the class in a real browser: JupyterLab, and the hub's pages beside it."""

    def __init__(self, page: Page, url: str, name: str) -> None:
        self._page = page
        self._url = url
        self.diary = Diary(name)
        self._notes: set[asyncio.Task[None]] = set()
        page.on("requestfinished", self._see)

    def _see(self, request: Request) -> None:
        if request.is_navigation_request() and request.frame == self._page.main_frame:
            self._notes.add(asyncio.ensure_future(self._note(request)))

    async def _note(self, request: Request) -> None:
        answer = await request.response()
        if answer is None:
            return
        kind = kind_of(urlsplit(request.url).path)
        named = kind if request.method == "GET" else f"{kind} sent"
        seconds = request.timing["responseEnd"] / 1000
        self.diary.pages.append(Opened(named, seconds, answer.status))

    async def come(self) -> Diary:
        """Log in, start the server, compute in a notebook, look at the home page, log out."""
        try:
            await self._log_in()
            await self._start()
            await self._compute()
            for path in (*HOME_VISITS * ["/hub/home"], "/hub/token", "/hub/logout"):
                await self._page.goto(f"{self._url}{path}")
        except Error as error:
            self.diary.failure = f"{type(error).__name__}: {error}"
        await asyncio.gather(*self._notes)
        return self.diary

    async def _log_in(self) -> None:
        page = self._page
        await page.goto(f"{self._url}/hub/login?next=%2Fhub%2Fhome")
        await page.get_by_label("Username:").fill(self.diary.name)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/hub/home")
        await page.wait_for_function("window._jupyterhub_page_loaded")

    async def _start(self) -> None:
        begun = time.monotonic()
        await self._page.get_by_role("button", name="Start My Server").click()
        await self._page.wait_for_url(f"**/user/{self.diary.name}/**", timeout=READY_SECONDS * 1000)
        self.diary.ready_seconds = time.monotonic() - begun
        await self._page.locator(".jp-LauncherCard").first.wait_for()
        self.diary.usable_seconds = time.monotonic() - begun

    async def _compute(self) -> None:
        page = self._page
        await page.get_by_role("button", name="No", exact=True).click()  # no news of Jupyter
        await page.locator(".jp-LauncherCard[title*='Python 3']").first.click()
        await page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
        cell = page.locator(".jp-NotebookPanel .jp-Cell .cm-content").last
        await cell.click()
        await page.keyboard.type("print(6*7)")
        await page.keyboard.press("Shift+Enter")
        output = page.locator(".jp-OutputArea-output").get_by_text("42", exact=True)
        await output.wait_for()


@asynccontextmanager
async def guest(browser: Browser, url: str, name: str) -> AsyncIterator[Guest]:
    """A student with a browser window of their own."""
    context = await browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(BROWSER_SECONDS * 1000)
    yield Guest(await context.new_page(), url, name)
    await context.close()
