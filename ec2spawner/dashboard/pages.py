"""The hub's pages and API about machines, in the hub's own look.

    GET    /hub/machines                                          for admins
    GET    /hub/api/ec2spawner/machines                           the same as JSON
    POST   /hub/keep                                              the form of the home page
    POST   /hub/api/ec2spawner/users/NAME/server/keep             {"hours": 3}
    POST   /hub/api/ec2spawner/users/NAME/servers/SERVER/keep
    DELETE the same                                               keep it up no longer

Owns who may ask, and how it is answered. Must not decide what is told or allowed: ``machines``,
``keeping`` and the spawner do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from ec2spawner import keeping
from ec2spawner.dashboard import home, machines
from ec2spawner.dashboard.home import HomeMachine
from ec2spawner.dashboard.machines import Machine, Server
from ec2spawner.errors import EC2SpawnerError, KeepFailed, TooOften
from ec2spawner.model import Owner
from ec2spawner.wiring import Cluster, profile_names

FindCluster = Callable[[], Cluster]


class Shown:
    """What the templates ask for, by the name ``ec2spawner``."""

    iso = staticmethod(machines.iso)
    in_words = staticmethod(machines.in_words)
    in_hours = staticmethod(keeping.in_hours)

    def __init__(self, find_cluster: FindCluster) -> None:
        self._find_cluster = find_cluster

    def machines_of(self, user: Any) -> list[HomeMachine]:
        """The user's own machines."""
        return home.machines_of(user, self._find_cluster())

    def offered_hours(self) -> tuple[int, ...]:
        """For how long a machine can be kept up."""
        return keeping.offered_hours(self._find_cluster().config.KEEP_ALIVE_MAX_HOURS)


class _OfTheCluster(BaseHandler):  # type: ignore[misc]  # jupyterhub ships no types
    """Knows the cluster, and reads its machines."""

    def initialize(self, find_cluster: FindCluster) -> None:
        """As tornado hands it over."""
        self._find_cluster = find_cluster

    def all_machines(self) -> tuple[list[Machine], float]:
        """All rows, and when the cluster was last listed in full (epoch seconds, 0: never)."""
        cluster = self._find_cluster()
        view, config = cluster.servers.fleet.view(), cluster.config
        rows = machines.machines(
            view, self._servers(), profile_names(config), config.JUPYTER_NOTEBOOK_TIMEOUT
        )
        return rows, view.full_at

    def _servers(self) -> list[Server]:
        row = orm.Spawner
        columns = (row.name, row.state, row.last_activity, row.started, row.server_id)
        found = self.db.query(orm.User.name.label("user"), *columns).join(row.user)
        now = time.time()
        return [server_of(each, now) for each in found]


def server_of(row: Any, now: float) -> Server:
    """A row of the hub's, as the list of machines wants it."""
    state = row.state or {}
    return Server(
        Owner(row.user, row.name),
        is_running=row.server_id is not None and state.get("phase") == "running",
        last_activity=home.last_activity(row),
        kept=keeping.kept_of(state, now),
    )


class MachinesPage(_OfTheCluster):
    """The table for admins."""

    @web.authenticated
    @needs_scope("admin-ui")  # type: ignore[untyped-decorator]
    @needs_scope("read:servers")  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        """All machines, sorted; the browser filters."""
        rows, listed_at = self.all_machines()
        self.finish(
            await self.render_template("machines.html", machines=rows, listed_at=listed_at or None)
        )


class MachinesAPI(_OfTheCluster, APIHandler):  # type: ignore[misc]
    """The same for programs."""

    @needs_scope("read:servers")  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        """``{"machines": [...], "listed_at": ...}``."""
        rows, listed_at = self.all_machines()
        self.finish(
            {
                "machines": [row.to_json() for row in rows],
                "listed_at": machines.iso(listed_at or None),
            }
        )


class KeepForm(BaseHandler):  # type: ignore[misc]
    """What the home page sends: about a server of one's own only."""

    @web.authenticated
    async def post(self) -> None:
        """Keep a machine up, or no longer; then the home page again."""
        is_end = bool(self.get_body_argument("end", ""))
        hours = None if is_end else _number(self.get_body_argument("hours", ""))
        await keep(self.current_user, self.get_body_argument("server", ""), hours, self)
        self.redirect(f"{self.hub.base_url}home")


class KeepAPI(APIHandler):  # type: ignore[misc]
    """The same for programs, and for admins about anybody's."""

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """``{"hours": 3}``; answers with until when, and by whom."""
        body = self.get_json_body()
        hours = body.get("hours") if isinstance(body, dict) else None
        await self._keep(user_name, server_name, "" if hours is None else hours)

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Keep it up no longer."""
        await self._keep(user_name, server_name, None)

    async def _keep(self, user_name: str, server_name: str, hours: object) -> None:
        kept = await keep(self.find_user(user_name), server_name, hours, self)
        until = machines.iso(kept.until) if kept else None
        self.finish({"kept_until": until, "kept_by": kept.by if kept else None})


async def keep(user: Any, server: str, hours: object, handler: Any) -> keeping.Kept | None:
    """Have a user's server kept up in the name of whoever asks; what fails is an HTTP error."""
    if user is None or server not in user.orm_user.orm_spawners:
        raise web.HTTPError(404, "There is no such server.")
    asking = handler.current_user
    by = asking.name if not isinstance(asking, orm.Service) else f"the service {asking.name}"
    try:
        kept: keeping.Kept | None = await user.spawners[server].keep_up(hours, by)
    except EC2SpawnerError as error:
        handler.log.warning("%s/%s: %s", user.name, server, error.for_operator())
        raise refusal(error) from error
    handler.log.info(
        "Kept up until %s by %s: %s/%s",
        machines.iso(kept.until) if kept else "idle",
        by,
        user.name,
        server,
    )
    return kept


def refusal(error: EC2SpawnerError) -> web.HTTPError:
    """An error as HTTP, with the words for its user."""
    status = 429 if isinstance(error, TooOften) else 503 if isinstance(error, KeepFailed) else 400
    failure = web.HTTPError(status, "%s", error.for_user())
    if isinstance(error, TooOften):  # JupyterHub sets these on the answer
        vars(failure)["headers"] = {"Retry-After": str(error.wait_seconds)}
    return failure


def _number(text: str) -> object:
    """What a form says, as JSON would; anything but a number is left as it is, to be refused."""
    try:
        return float(text)
    except ValueError:
        return text


def handlers(find_cluster: FindCluster) -> list[tuple[Any, ...]]:
    """For ``c.JupyterHub.extra_handlers``."""
    known = {"find_cluster": find_cluster}
    users = r"/api/ec2spawner/users/([^/]+)"
    return [
        (r"/machines", MachinesPage, known),
        (r"/api/ec2spawner/machines", MachinesAPI, known),
        (r"/keep", KeepForm),
        (rf"{users}/server/keep", KeepAPI),
        (rf"{users}/servers/([^/]+)/keep", KeepAPI),
    ]
