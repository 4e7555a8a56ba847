"""The hub's REST API, as far as the users' list needs it.

Owns the requests, their paging, and the words for what goes wrong. The token is held in memory and
sent to the one hub that was named: no redirection is followed. Must not decide who is changed.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from ec2spawner.errors import ConfigError, EC2SpawnerError

from .userlist import Person

TOKEN_ENVIRONMENT = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - the name of a variable, not a token
URL_ENVIRONMENT = "JUPYTERHUB_URL"
PAGING = "application/jupyterhub-pagination+json"
PAGE_SIZE = 200  # api_page_max_limit's default (JupyterHub 6.1)
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 4
BACKOFF_SECONDS = 1.0
BUSY = frozenset({429, 502, 503, 504})
SCOPES = "admin:users, admin:groups, list:users, list:groups and read:users"


class HubError(EC2SpawnerError):
    """A request that the hub did not carry out."""

    code = "hub"

    def __init__(self, what: str, *, why: str = "", next_step: str = "", status: int = 0) -> None:
        super().__init__(what, why=why, next_step=next_step)
        self.status = status


def api_address(hub: str) -> str:
    """The address of the API of a hub that was named in any of the usual ways; or ConfigError."""
    try:
        parts = urlsplit(hub)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ConfigError(
            f"The hub's address {hub!r} cannot be used.",
            next_step='Write one such as "https://hub.example.org" after --hub or in'
            f" {URL_ENVIRONMENT}.",
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/hub/api"):
        path = f"{path}/api" if path.endswith("/hub") else f"{path}/hub/api"
    return f"{parts.scheme}://{parts.netloc}{path}"


def is_in_the_open(address: str) -> bool:
    """Whether a token that is sent there can be read on its way."""
    parts = urlsplit(address)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True


@dataclass(frozen=True)
class Hub:
    """What there is in the hub: its users, its groups, and whose the token is (None: nobody's)."""

    people: Mapping[str, Person]
    groups: tuple[str, ...]
    oneself: str | None


class HubAPI:
    """One hub. Every request may be made twice: what is there already is no failure."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self.address = address
        self._sleep = sleep
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"token {token}", "Accept": PAGING},
            timeout=TIMEOUT_SECONDS,
            follow_redirects=False,
            transport=transport,
        )

    async def close(self) -> None:
        """End its connections."""
        await self._client.aclose()

    async def look(self) -> Hub:
        """All that is there."""
        oneself = await self._request("GET", "user")
        users = await self._pages("users")
        groups = await self._pages("groups")
        people = {entry["name"]: _person(entry) for entry in users}
        name = oneself.get("name") if oneself.get("kind") == "user" else None
        return Hub(people, tuple(entry["name"] for entry in groups), name)

    async def add(self, names: Sequence[str], *, as_admins: bool) -> None:
        """Add users; those that are there already stay as they are."""
        body = {"usernames": list(names), "admin": as_admins}
        await self._request("POST", "users", body, fine=(409,))

    async def set_admin(self, name: str, *, is_admin: bool) -> None:
        """Make a user an admin, or one no more."""
        await self._request("PATCH", f"users/{_quoted(name)}", {"admin": is_admin})

    async def add_group(self, group: str) -> None:
        """Make a group."""
        await self._request("POST", f"groups/{_quoted(group)}", {}, fine=(409,))

    async def join(self, group: str, names: Sequence[str]) -> None:
        """Put users into a group."""
        body = {"users": list(names)}
        await self._request("POST", f"groups/{_quoted(group)}/users", body)

    async def leave(self, group: str, names: Sequence[str]) -> None:
        """Take users out of a group."""
        body = {"users": list(names)}
        await self._request("DELETE", f"groups/{_quoted(group)}/users", body)

    async def remove(self, name: str) -> None:
        """Remove a user, whose server is stopped first."""
        await self._request("DELETE", f"users/{_quoted(name)}", fine=(404,))

    async def _pages(self, path: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        offset = 0
        while True:
            page = await self._request("GET", f"{path}?offset={offset}&limit={PAGE_SIZE}")
            if not isinstance(page, dict) or "items" not in page:
                raise self._strange("it answers without pages: it is older than JupyterHub 2")
            entries += page["items"]
            following = page.get("_pagination", {}).get("next")
            if not following or following["offset"] <= offset:
                return entries
            offset = following["offset"]

    async def _request(
        self, method: str, path: str, body: Any = None, fine: tuple[int, ...] = ()
    ) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            is_last = attempt == ATTEMPTS
            try:
                answer = await self._client.request(method, f"{self.address}/{path}", json=body)
            except httpx.TransportError as error:
                if is_last:
                    raise self._unreachable(error) from error
            else:
                if answer.status_code not in BUSY or is_last:
                    return self._read(answer, fine)
            await self._sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("not reached")

    def _read(self, answer: httpx.Response, fine: tuple[int, ...]) -> Any:
        status = answer.status_code
        if status in fine or (200 <= status < 300 and not answer.content):
            return None
        if 200 <= status < 300:
            try:
                return answer.json()
            except ValueError:
                raise self._strange("it answers something that is not JSON") from None
        if status in (401, 403):
            raise HubError(
                "The hub does not allow it with this token.",
                why=_message(answer),
                next_step=f"Put a token of an admin, or of a service with the scopes {SCOPES}, into"
                f" {TOKEN_ENVIRONMENT}. Only a token of an admin can make others admins.",
                status=status,
            )
        if 300 <= status < 400:
            raise self._strange(f"it sends on to {answer.headers.get('location', 'elsewhere')}")
        raise HubError(
            f"The hub did not do it (HTTP {status}).",
            why=_message(answer),
            next_step="Mend what it says and run the same command again.",
            status=status,
        )

    def _unreachable(self, error: Exception) -> HubError:
        return HubError(
            f"The hub at {self.address} cannot be reached.",
            why=str(error) or type(error).__name__,
            next_step="Check the address, and whether the hub runs; then run it again.",
        )

    def _strange(self, why: str) -> HubError:
        return HubError(
            f"What is at {self.address} is no hub's API.",
            why=why,
            next_step="Name the hub's public address with --hub.",
        )


def _person(entry: Mapping[str, Any]) -> Person:
    missing = [key for key in ("admin", "groups") if key not in entry]
    if missing:
        raise HubError(
            f"The token does not show everything of a user ({', '.join(missing)}).",
            next_step=f"It needs the scopes {SCOPES}.",
        )
    return Person(entry["name"], bool(entry["admin"]), frozenset(entry["groups"]))


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _message(answer: httpx.Response) -> str:
    """What the hub says, in one bounded line."""
    try:
        text = str(answer.json().get("message", ""))
    except (ValueError, AttributeError):
        text = ""
    return " ".join(text.split())[:400]
