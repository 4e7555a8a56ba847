"""What becomes of users' rows in the hub's database, and what follows for machines and homes.

Owns the two things for which JupyterHub has no hook: a row that bears another name from now on,
and a row that goes although one of its homes was not given up yet; and who is in a group. Must not
know EC2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from jupyterhub import orm
from jupyterhub.app import JupyterHub
from sqlalchemy import event
from sqlalchemy.orm import Session, object_session
from tornado import web

from ec2spawner.errors import NameTaken
from ec2spawner.fleet import Fleet
from ec2spawner.journal import Promise
from ec2spawner.model import Owner

log = logging.getLogger(__name__)


def row_of(user: orm.User) -> str:
    """What tells a user's row from every other, also from one that has its number later."""
    return f"{user.id} {user.created}"


def members_of(group: str) -> list[Owner]:
    """The owners of the default servers of a group's members, in the hub that runs here."""
    db = JupyterHub.instance().db if JupyterHub.initialized() else None
    found = orm.Group.find(db, group) if db else None
    return [Owner(user.name) for user in found.users] if found else []


class Rows:
    """Watches the rows of all users; ``fleets`` are those that look after their machines."""

    def __init__(self, fleets: Callable[[], Iterable[Fleet]]) -> None:
        self._fleets = fleets
        self._wills: dict[str, Callable[[], object]] = {}
        """By row: what is to happen if the row should go."""

    def watch(self) -> None:
        """Begin to; once is enough."""
        if not event.contains(orm.User.name, "set", self._on_name):
            event.listen(orm.User.name, "set", self._on_name)
            event.listen(orm.User, "after_delete", self._on_deletion)

    def unwatch(self) -> None:
        """Leave the rows alone again."""
        event.remove(orm.User.name, "set", self._on_name)
        event.remove(orm.User, "after_delete", self._on_deletion)

    def when_deleted(self, user: orm.User, act: Callable[[], object]) -> None:
        """Act if, and when, the row is deleted; what ``act`` raises keeps the row."""
        self._wills[row_of(user)] = act

    def _on_deletion(self, mapper: object, connection: object, user: orm.User) -> None:
        will = self._wills.pop(row_of(user), None)
        if will:
            will()

    def _on_name(self, user: orm.User, new: str, old: Any, initiator: object) -> None:
        if not isinstance(old, str) or old == new:
            return
        servers = sorted({"", *user.orm_spawners})
        rename = _Rename(user, new)
        for fleet in self._fleets():
            for server in servers:
                rename.propose(fleet, Owner(old, server), Owner(new, server))
        rename.await_commit(object_session(user))


class _Rename:
    """A user's new name, which holds if, and when, the hub's database has taken it."""

    def __init__(self, user: orm.User, name: str) -> None:
        self._user = user
        self._name = name
        self._parts: list[tuple[Fleet, Promise | None, Owner, Owner]] = []
        self._is_open = True

    def propose(self, fleet: Fleet, old: Owner, new: Owner) -> None:
        """One server's part of it; if one cannot be, none is."""
        try:
            promise = fleet.promises.propose_rename(row_of(self._user), old, new)
        except NameTaken as error:
            self._end(False)
            raise web.HTTPError(409, error.for_user()) from None
        except OSError:
            self._end(False)
            raise
        self._parts.append((fleet, promise, old, new))

    def await_commit(self, session: Session | None) -> None:
        """Hold with the next commit; not, if that is of something else."""
        if session is None:  # never stored: nobody has that name
            self._end(False)
            return
        event.listen(session, "after_commit", lambda _: self._end(self._is_taken()), once=True)
        event.listen(session, "after_rollback", lambda _: self._end(False), once=True)

    def _is_taken(self) -> bool:
        # As it was written: within a commit, nothing can be read from the database.
        return bool(self._user.__dict__.get("name") == self._name)

    def _end(self, is_taken: bool) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for fleet, promise, old, new in self._parts:
            if promise:
                (fleet.promises.confirm if is_taken else fleet.promises.withdraw)(promise)
            if is_taken:
                fleet.follow_rename(old, new)
