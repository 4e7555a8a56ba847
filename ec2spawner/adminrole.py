"""What an admin of the hub may do where admins may not enter a user's server.

JupyterHub 6.1 has no switch for it: its role ``admin`` can do anything and cannot be overridden by
configuration (roles.py, ``create_role``). So the list of default roles, from which the role is made
and checked at each start, is another here; and a user's name, which no scope of its own guards, is
changed by services only. Owns both. Must not know logins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Roles = list[dict[str, Any]]
Patch = Callable[[Any, str], Awaitable[None]]

WITHHELD = frozenset({"access:servers", "tokens", "shares", "admin:services", "proxy"})
"""Entering servers; and making tokens in another's name, shares and services, or changing what the
proxy is, by which an admin could get in all the same."""


def without_entry(default_roles: Callable[[], Roles]) -> Callable[[], Roles]:
    """The same roles, but for what an admin may not do."""

    def limited() -> Roles:
        return [
            {**role, "scopes": [scope for scope in role["scopes"] if scope not in WITHHELD]}
            if role["name"] == "admin"
            else role
            for role in default_roles()
        ]

    return limited


def without_names(patch: Patch) -> Patch:
    """The same change of a user, but for the name: machine and home go with it, and an admin could
    make it that of an account of their own. Services are the operator's."""

    async def limited(handler: Any, user_name: str) -> None:
        from jupyterhub import orm
        from tornado.web import HTTPError

        body = handler.get_json_body()
        is_renaming = isinstance(body, dict) and body.get("name", user_name) != user_name
        if is_renaming and not isinstance(handler.current_user, orm.Service):
            raise HTTPError(403, "Nobody is renamed here, unless ADMIN_ACCESS says so.")
        await patch(handler, user_name)

    return limited


def withhold_entry() -> None:
    """Do so in this process, before the hub makes its roles. For ``jupyterhub_config.py``."""
    from jupyterhub import roles
    from jupyterhub.apihandlers.users import UserAPIHandler

    roles.get_default_roles = without_entry(roles.get_default_roles)
    UserAPIHandler.patch = without_names(UserAPIHandler.patch)
