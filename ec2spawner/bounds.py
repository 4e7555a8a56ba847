"""What the hub takes in from strangers and from users' servers, where JupyterHub 6.1 has no bound.

Owns these bounds, and puts them in force in this process, for ``jupyterhub_config.py``. Must not
know the fleet, nor SSH (``remote`` has its own).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ec2spawner import bodies, choosing, logform

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of one request to the hub: room for a list of 50,000 names. Tornado's default is 100 MB, held in
memory before anybody looks who is asking."""
BODY_SECONDS = 60.0
VERSION_HEADER = "X-JupyterHub-Version"
_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}((a|b|rc)\d{1,6})?(\.(post|dev)\d{1,6})?")

HTTP_CLIENT = {"connector_options": {"limit": 0}}
"""The hub speaks to users' servers and to its proxy by one client, which has 100 connections: that
many servers that take a connection and say nothing would keep the hub from its proxy."""

LOGGING = {"formatters": {"console": {"class": f"{logform.__name__}.{logform.OneLine.__name__}"}}}

WaitUp = Callable[..., Awaitable[Any]]
Prepare = Callable[[Any], Awaitable[None]]


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


def judged(prepare: Prepare) -> Prepare:
    """The same preparation of a request to the API; one that nobody could serve ends with it."""
    from tornado import web

    async def judge(handler: Any) -> None:
        await prepare(handler)
        request = handler.request
        path = str(request.path).removeprefix(f"{handler.hub.base_url}api/")
        if bodies.is_gone(request.method, path):
            raise web.HTTPError(404, "There is no such request.")
        if handler.current_user is None and not path.endswith("/tokens"):
            return  # refused as it is, unread
        name = unquote(path.rpartition("/")[2])
        scopes = handler.parsed_scopes
        fault = bodies.fault_in(request.method, path, request.body, name, scopes)
        if fault:
            raise web.HTTPError(fault.status, "%s", fault.words)

    return judge


def filled_in(prepare: Prepare) -> Prepare:
    """The same preparation of the log-in form; JupyterHub reads its fields, there or not."""
    from tornado import web

    async def judge(handler: Any) -> None:
        await prepare(handler)
        if handler.request.method == "POST" and not handler.get_body_argument("username", ""):
            raise web.HTTPError(400, "The user name is missing.")

    return judge


def keep_choices_only() -> None:
    """Have the hub's database keep of a server's options what ``choosing`` reads; nothing else."""
    from jupyterhub import orm
    from sqlalchemy import event

    def kept(row: object, options: object, old: object, initiator: object) -> object:
        return choosing.kept_of(options)

    event.listen(orm.Spawner.user_options, "set", kept, retval=True)


def put_in_force() -> None:
    """Bound all of it in this process, before the hub listens."""
    from jupyterhub import objects, utils
    from jupyterhub.apihandlers.base import APIHandler
    from jupyterhub.app import JupyterHub
    from jupyterhub.handlers.login import LoginHandler
    from tornado.httpserver import HTTPServer

    JupyterHub._log_formatter_cls = logform.OneLine
    APIHandler.prepare = judged(APIHandler.prepare)
    LoginHandler.prepare = filled_in(LoginHandler.prepare)
    keep_choices_only()
    HTTPServer.configure(None, max_body_size=MAX_BODY_BYTES, body_timeout=BODY_SECONDS)
    objects.wait_for_http_server = distrustful(utils.wait_for_http_server)
