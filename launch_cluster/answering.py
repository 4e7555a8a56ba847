"""Waits until the manager's hub answers on its public address.

Owns what counts as an answer, and the words while there is none. Must not know CloudFormation.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from ec2spawner.errors import EC2SpawnerError
from ec2spawner.loginconfig import callback_url
from ec2spawner.manager.place import RELEASE_HEADER

from .reporter import Elapsed, Reporter

HEALTH = "/hub/health"
PROBE_SECONDS = 5.0
POLL_SECONDS = (0.2, 5.0)
"""Pauses between looks: in the first seconds, and then."""
WAIT_SECONDS = 1500.0
"""A first boot installs Node and two Python environments, which takes 5 to 10 minutes."""
CONSOLE_EVERY_SECONDS = 20.0
CONSOLE_LINES = 15
PHASE, FAILED = "ec2spawner-manager: phase ", "ec2spawner-manager: failed "
HTTP_PORT = 80
SILENT_ADVICE = (
    "Run the same command later: it waits on. To look: a session by Systems Manager, and"
    " `journalctl -u cloud-final`; --replace-manager makes the machine anew."
)


class HubSilent(EC2SpawnerError):
    """The hub does not answer; ``faults`` are the last lines of its machine's console."""

    code = "hub-silent"

    def __init__(self, what: str, console: str, next_step: str) -> None:
        self.faults = tuple(console.splitlines()[-CONSOLE_LINES:])
        super().__init__(what, why="\n".join(self.faults), next_step=next_step)


@dataclass(frozen=True)
class Site:
    """Where the hub is to answer."""

    address: str  # the public one
    domain: str = ""
    http_port: int = HTTP_PORT
    release: str = ""  # which the hub must have, if it says which it has; "": any
    public_url: str = ""  # PUBLIC_URL, which holds where there is no domain

    @property
    def url(self) -> str:
        """What users type."""
        if self.domain:
            return f"https://{self.domain}"
        return f"http://{self.address}" + (f":{self.http_port}" * (self.http_port != HTTP_PORT))

    @property
    def callback(self) -> str:
        """What an OAuth application must be told: what the hub says (``siteaddress``)."""
        return callback_url("" if self.domain else self.public_url) or callback_url(self.url)


@dataclass(frozen=True)
class Answer:
    """What came of one look."""

    is_up: bool
    is_unnamed: bool = False  # the domain does not lead to the hub yet
    release: str = ""  # which the hub says that it has


@dataclass(frozen=True)
class Want:
    """What the hub cannot start without, and the operator must give."""

    state: str  # for a line of progress
    lines: tuple[str, ...]  # what to do, said before the wait
    next_step: str  # the same, after it


async def _nothing() -> Want | None:
    return None


def look_at(site: Site) -> Answer:
    """Ask once; blocks for some seconds.

    Only the hub's own word counts: Caddy leads on to HTTPS by itself. It lets through by plain
    HTTP what is asked here.
    """
    if site.domain and not _points_to(site.domain, site.address):
        answer = _judge(site, f"http://{site.address}:{site.http_port}{HEALTH}")
        return replace(answer, is_unnamed=True)
    return _judge(site, f"{site.url}{HEALTH}")


def words_of(site: Site, answer: Answer) -> str:
    """Where a hub that is up can be reached."""
    if answer.is_unnamed:
        return (
            f"The hub is up at {site.address}; {site.domain} does not point there yet: make its A"
            f" record {site.address}"
        )
    return f"The hub answers at {site.url}"


def _judge(site: Site, url: str) -> Answer:
    status, release = _ask(url)
    is_right = not site.release or release in ("", site.release)
    return Answer(status == 200 and is_right, release=release)


def _points_to(domain: str, address: str) -> bool:
    try:
        found = socket.getaddrinfo(domain, None, socket.AF_INET)
    except OSError:
        return False
    return address in {info[4][0] for info in found}


class _Stay(urllib.request.HTTPRedirectHandler):
    """What leads elsewhere is not followed."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _ask(url: str) -> tuple[int | None, str]:
    """Status, None if nobody answers, and the release that the answer tells of."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)
    try:
        with opener.open(url, timeout=PROBE_SECONDS) as reply:
            return int(reply.status), str(reply.headers.get(RELEASE_HEADER, ""))
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except (OSError, ValueError, http.client.HTTPException):
        return None, ""


async def wait_for_hub(
    site: Site,
    console: Callable[[], Awaitable[str]],
    reporter: Reporter,
    *,
    find_want: Callable[[], Awaitable[Want | None]] = _nothing,
    look: Callable[[Site], Answer] = look_at,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """The answer, once there is one; HubSilent after a bounded time, or when its script failed."""
    answer = await asyncio.to_thread(look, site)
    if answer.is_up:
        return answer
    want = await find_want()
    reporter.show(want.lines if want else ())
    elapsed = Elapsed(reporter, clock, f"Waiting for the hub at {site.url}")
    looked_at, said = float("-inf"), "booting"
    while True:
        if elapsed.seconds - looked_at >= CONSOLE_EVERY_SECONDS:
            looked_at = elapsed.seconds
            said = _phase(await console(), site) or said
            want = want and await find_want()
        elapsed.tick(f"{want.state}; {said}" if want else said)
        if elapsed.seconds > WAIT_SECONDS:
            raise HubSilent(
                f"The hub at {site.url} does not answer after {elapsed.seconds:.0f} s.",
                await console(),
                want.next_step if want else SILENT_ADVICE,
            )
        await sleep(POLL_SECONDS[elapsed.seconds > POLL_SECONDS[1]])
        answer = await asyncio.to_thread(look, site)
        if answer.is_up:
            reporter.progress(f"{words_of(site, answer)}, after {elapsed.seconds:.0f} s")
            return answer


def _phase(console: str, site: Site) -> str:
    lines = [line.strip() for line in console.splitlines()]
    failed = [line for line in lines if FAILED in line]
    if failed:
        raise HubSilent(
            f"The manager at {site.address} could not be set up.",
            console,
            "Mend what its console says; then --replace-manager makes the machine anew.",
        )
    phases = [line.partition(PHASE)[2] for line in lines if PHASE in line]
    return phases[-1] if phases else ""
