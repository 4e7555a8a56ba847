"""Adding users, in the panel or by the API: whom an admin adds comes in for good.

Owns what the hub's requests for it do beyond JupyterHub's own: they take the mark of a membership
from whoever has it, for whom JupyterHub has only "already exists"; and a name in the address is
checked as one in a list is, which JupyterHub 6.1 does not. Must not know providers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.apihandlers.users import UserAPIHandler, UserListAPIHandler
from jupyterhub.roles import assign_default_roles
from jupyterhub.scopes import needs_scope
from tornado.web import HTTPError

from .memberships import is_mark

CREATED, REFUSED, EXISTS = 201, 400, 409


def let_in(handler: APIHandler, names: Sequence[str], *, as_admins: bool) -> list[Any]:
    """Take the mark from whoever of these came by a membership; the users of whom it was taken."""
    normalize = handler.authenticator.normalize_username
    found = [handler.find_user(normalize(name)) for name in dict.fromkeys(names)]
    marked = [user for user in found if user and any(is_mark(g.name) for g in user.groups)]
    for user in marked:
        user.sync_groups([group.name for group in user.groups if not is_mark(group.name)])
        if as_admins:
            user.admin = True
            assign_default_roles(handler.db, entity=user)
        handler.log.info("%s comes in without a membership now", user.name)
    handler.db.commit()
    return marked


class AddUsers(UserListAPIHandler):  # type: ignore[misc]  # no types there
    """``POST users``."""

    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        """Add users; who is there by a membership alone is added, too."""
        exist: HTTPError | None = None
        try:
            await super().post()
        except HTTPError as error:
            if error.status_code != EXISTS:
                raise
            exist = error
        body = self.get_json_body()
        added = let_in(self, body["usernames"], as_admins=bool(body.get("admin")))
        if exist and not added:
            raise exist
        if exist:
            self.write(json.dumps([self.user_model(user) for user in added]))
            self.set_status(CREATED)


class AddUser(UserAPIHandler):  # type: ignore[misc]  # no types there
    """``POST users/NAME``."""

    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str) -> None:
        """Add a user; who is there by a membership alone is added, too."""
        name = self.authenticator.normalize_username(user_name)
        if not self.authenticator.validate_username(name):
            raise HTTPError(REFUSED, f"Invalid username: {name}")
        body = self.get_json_body() or {}
        try:
            await super().post(name)
        except HTTPError as error:
            if error.status_code != EXISTS:
                raise
            as_admin = bool(body.get("admin")) and self.current_user.admin
            added = let_in(self, [name], as_admins=as_admin)
            if not added:
                raise
            self.write(json.dumps(self.user_model(added[0])))
            self.set_status(CREATED)


HANDLERS = ((r"/api/users", AddUsers), (r"/api/users/([^/]+)", AddUser))
"""For ``Authenticator.get_handlers``, which come before JupyterHub's own."""
