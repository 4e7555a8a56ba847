"""What the hub takes in from strangers and from users' servers, where JupyterHub 6.1 has no bound.

Owns these bounds, and puts them in force in this process, for ``jupyterhub_config.py``. Must not
know the fleet, nor SSH (``remote`` has its own).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of one request to the hub: room for a list of 50,000 names. Tornado's default is 100 MB, held in
memory before anybody looks who is asking."""
BODY_SECONDS = 60.0
VERSION_HEADER = "X-JupyterHub-Version"
_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}((a|b|rc)\d{1,6})?(\.(post|dev)\d{1,6})?")

USERNAME_PATTERN = r"[^<>\x00-\x1f\x7f]+\Z"
"""JupyterHub's page.html writes the name of whoever looks into a script, where ``</script>`` ends
it. No provider has names with these characters; all others are allowed."""

HTTP_CLIENT = {"connector_options": {"limit": 0}}
"""The hub speaks to users' servers and to its proxy by one client, which has 100 connections: that
many servers that take a connection and say nothing would keep the hub from its proxy."""

WaitUp = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Greeting:
    """What is believed of a server's first answer."""

    headers: dict[str, str] = field(default_factory=dict)


def greeting_of(version: str | None) -> Greeting:
    """The version that a server claims to have, if it can be one.

    JupyterHub parses it, and what is no version ends the start of the hub.
    """
    if version is None or not _VERSION.fullmatch(version):
        return Greeting()
    return Greeting({VERSION_HEADER: version})


def distrustful(wait_up: WaitUp) -> WaitUp:
    """The same wait for a server's first answer, of which nothing more is read than is needed."""

    async def wait(*args: Any, **kwargs: Any) -> Greeting:
        response = await wait_up(*args, **kwargs)
        response.close()
        return greeting_of(response.headers.get(VERSION_HEADER))

    return wait


def put_in_force() -> None:
    """Bound both in this process, before the hub listens."""
    from jupyterhub import objects, utils
    from tornado.httpserver import HTTPServer

    HTTPServer.configure(None, max_body_size=MAX_BODY_BYTES, body_timeout=BODY_SECONDS)
    objects.wait_for_http_server = distrustful(utils.wait_for_http_server)
