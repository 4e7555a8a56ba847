"""What an admin of the hub may do where admins may not enter a user's server.

JupyterHub 6.1 has no switch for it: its role ``admin`` can do anything and cannot be overridden by
configuration (roles.py, ``create_role``). So the list of default roles, from which the role is made
and checked at each start, is another here. Owns that list. Must not know logins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Roles = list[dict[str, Any]]

WITHHELD = frozenset({"access:servers", "tokens", "shares", "admin:services"})
"""Entering servers; and making tokens in another's name, shares and services, by which an admin
could get in all the same."""


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


def withhold_entry() -> None:
    """Do so in this process, before the hub makes its roles. For ``jupyterhub_config.py``."""
    from jupyterhub import roles

    roles.get_default_roles = without_entry(roles.get_default_roles)
