"""``EC2Spawner``: JupyterHub's contract, kept with the fleet's help.

Owns what JupyterHub expects of a spawner, and the hub's row of a server: its state and its
incarnation. Must not know EC2's calls or SSH; it says what it wants, and waits.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from jupyterhub.spawner import Spawner, SpawnException
from jupyterhub.user import User
from sqlalchemy.orm import object_session
from tornado import web
from traitlets import List, Unicode, default, validate

from ec2spawner import choosing, hubconfig, keeping, story, switch
from ec2spawner.errors import (
    EC2SpawnerError,
    KeepRefused,
    NameTaken,
    ProfileRefused,
    StartTimeout,
    TooOften,
)
from ec2spawner.keeping import Kept
from ec2spawner.model import InstanceState, Owner, Worker
from ec2spawner.placement import Profile
from ec2spawner.rows import row_of
from ec2spawner.servers import Servers, start_kind
from ec2spawner.settings import ServerConfig
from ec2spawner.wiring import Cluster, cluster_for, rows
from ec2spawner.wishes import Demand

STARTING = "starting"
RUNNING = "running"
DOCUMENT_VERSION = 1
PROGRESS_SECONDS = 1.0
DEADLINE_MARGIN_SECONDS = 5.0
SERVER_TIMEOUT_SECONDS = 120
PAGE_WAITS_SECONDS = 0.3  # for a look at a server: enough to be refused where it has died


class EC2Spawner(Spawner):  # type: ignore[misc]  # jupyterhub ships no types
    """Gives every server of a user an EC2 instance and a home volume of its own."""

    server_config_file = Unicode(
        "",
        help="""
        Path of the cluster's ``server_config.json``, which the launch command writes.

        Default: the file that the environment variable EC2SPAWNER_CONFIG names, else the one in
        the working directory, else ``/etc/jupyterhub/server_config.json``. Example::

            c.EC2Spawner.server_config_file = "/srv/hub/server_config.json"
        """,
    ).tag(config=True)

    env_keep: List[list[str]] = List(
        [],
        help="""
        Environment variables of the hub that a user's server gets too.

        Default: none. A worker is another machine: the hub's PATH or PYTHONPATH mean nothing there.
        """,
    ).tag(config=True)

    @default("poll_interval")
    def _default_poll_interval(self) -> int:
        # A third of JupyterHub's: a poll is one TCP probe, and until it finds a lost server out,
        # its user cannot start another.
        return 10

    @default("port")
    def _default_port(self) -> int:
        return self.cluster.config.WORKER_NOTEBOOK_PORT

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase = ""
        self._is_known = False
        self._worker_id = ""
        self._worker_ip = ""
        self._profile = ""
        self._kept: Kept | None = None
        self._be(secrets.token_hex(8))
        self._step = ""
        self._begun_at = 0.0
        self._look: asyncio.Future[int | None] | None = None
        self._cluster: Cluster | None = None

    def _be(self, incarnation: str) -> None:
        """Be this incarnation of a server's row, which keeps its OAuth client when it is renamed.

        JupyterHub names the client after the user, and then a new user of the old name cannot
        start a server.
        """
        self._incarnation = incarnation
        self.oauth_client_id = f"jupyterhub-user-{incarnation}"

    @property
    def cluster(self) -> Cluster:
        """The cluster that this hub serves. Raises ``ConfigError``."""
        if self._cluster is None:
            self._cluster = cluster_for(self.server_config_file or None)
        return self._cluster

    @property
    def servers(self) -> Servers:
        """All servers of the cluster."""
        return self.cluster.servers

    @property
    def config_values(self) -> ServerConfig:
        """The cluster's configuration."""
        return self.cluster.config

    @property
    def owner(self) -> Owner:
        """Whose worker this is about, by the names of this moment."""
        return Owner(self.user.name, self.name)

    # ---- state in the hub's database

    def get_state(self) -> dict[str, Any]:
        """Ids only; where EC2's tags say otherwise, they are right."""
        state: dict[str, Any] = super().get_state()
        state["incarnation"] = self._incarnation
        if self._phase:
            state.update(phase=self._phase, worker=self._worker_id, address=self._worker_ip)
            state["profile"] = self._profile
        if self._phase == RUNNING and self._kept:
            state["kept"] = self._kept.to_state()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what was saved; a running server is wanted from now on."""
        super().load_state(state)
        self._be(state.get("incarnation") or self._incarnation)
        self._is_known = bool(state)
        if state.get("phase") != RUNNING or self.orm_spawner.server is None:
            # The hub died in mid-start, or in mid-stop: the worker stays claimed for the next
            # login, and nobody wants it to run until then.
            return
        self._phase = RUNNING
        self._profile = state.get("profile", "")
        self._kept = keeping.kept_of(state, time.time())
        self._worker_id = state.get("worker", "")
        self._worker_ip = state.get("address", "")
        self.servers.fleet.want(self._demand(is_waiting=False))

    def clear_state(self) -> None:
        """Forget the running server; the row stays the same incarnation."""
        super().clear_state()
        self._phase = self._worker_id = self._worker_ip = ""
        self._kept = None

    def _save_state(self) -> None:
        # JupyterHub saves state only after start() returned; a crash before that must not make
        # this row another incarnation.
        self.orm_spawner.state = self.get_state()
        session = object_session(self.orm_spawner)
        if session:
            session.commit()

    def _demand(self, *, is_waiting: bool) -> Demand:
        self._settle_renames()
        return Demand(
            self.owner,
            self._profile or next(iter(self.servers.fleet.policy.profiles)),
            self._incarnation,
            time.time(),
            is_waiting=is_waiting,
            is_known=self._is_known,
            instance_id="" if is_waiting else self._worker_id,
            is_bounded=is_waiting and self._asking_student() is not None,
        )

    def _settle_renames(self) -> None:
        """That this row bears its name now decides what a hub that died in a rename left open."""
        row = row_of(self.user.orm_user)
        self.servers.fleet.promises.settle_renames(row, self.user.name)

    def _worker(self) -> Worker | None:
        if not self._worker_id:
            return None
        return Worker(self._worker_id, InstanceState.RUNNING, private_ip=self._worker_ip)

    # ---- the kind of machine

    def _offered(self) -> tuple[Profile, ...]:
        groups = [group.name for group in self.user.groups]
        profiles = self.servers.fleet.policy.profiles.values()
        return choosing.allowed(profiles, groups, is_admin=self.user.admin)

    def _choose_profile(self) -> str:
        """What was chosen, if it may be: here, for options come by the API as well as by the form.

        JupyterHub has stored them already; what is refused must not come up at the next start.
        """
        try:
            options: dict[str, Any] = self.user_options
            return choosing.choose(options, self._offered()).slug
        except ProfileRefused:
            self.set_trait("user_options", {})
            self.orm_spawner.user_options = {}
            self._save_state()  # before a request that ends meanwhile rolls it back
            raise

    @validate("user_options")
    def _keep_choice_only(self, proposal: Mapping[str, Any]) -> dict[str, str]:
        return choosing.kept_of(proposal["value"])

    @default("options_form")
    def _default_options_form(self) -> Callable[[Any], str]:
        return _form_of

    @default("options_from_form")
    def _default_options_from_form(self) -> Callable[[Mapping[str, list[str]]], dict[str, Any]]:
        return choosing.options_of

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Callable[[Any, Any], None]:
        return _apply_at_start

    # ---- start

    async def start(self) -> str:
        """Bring the user's server up on the user's worker; its URL."""
        self._check_pace()
        self._phase, self._step, self._begun_at = STARTING, "", time.monotonic()
        self._kept = None
        self._save_state()
        seconds = self._deadline_seconds()
        try:
            self._profile = self._choose_profile()
            return await asyncio.wait_for(self._start(), seconds)
        except asyncio.TimeoutError:
            raise self._failure(self._timeout(seconds)) from None
        except EC2SpawnerError as error:
            raise self._failure(error) from None

    async def _start(self) -> str:
        worker = await self.servers.start(
            self._demand(is_waiting=True), self._document, self._on_step
        )
        self._phase = RUNNING
        self._worker_id, self._worker_ip = worker.instance_id, worker.private_ip
        return f"http://{worker.private_ip}:{self.port}"

    def _asking_student(self) -> User | None:
        """Who asks for this start, unless it is an admin or a service."""
        asking = self.handler.current_user if self.handler else None
        return asking if isinstance(asking, User) and not asking.admin else None

    def _check_pace(self) -> None:
        """Refuse a user, but no admin, who asks for more starts within a minute than they may."""
        asking = self._asking_student()
        if asking is None:
            return
        wait = self.cluster.starts.wait_seconds(asking.id, time.monotonic())
        if wait:
            limit = self.cluster.starts.per_minute
            error = TooOften(
                f"You have asked for {limit} starts within a minute; no more are allowed.",
                why=f"STARTS_PER_MINUTE is {limit}",
                wait_seconds=wait,
            )
            raise self._failure(error, 429)

    def _deadline_seconds(self) -> float:
        """A little before JupyterHub's own, so that the user reads our words."""
        own = float(self.config_values.START_TIMEOUT_SECONDS)
        return min(own, max(1.0, float(self.start_timeout) - DEADLINE_MARGIN_SECONDS))

    def _on_step(self, step: str) -> None:
        self._step = step

    def _document(self, worker: Worker) -> Mapping[str, Any]:
        """What ``ec2spawner-worker start`` is handed over its standard input."""
        self.ip = worker.private_ip
        environment = self.get_env()
        return {
            "version": DOCUMENT_VERSION,
            "owner": self.owner.key,
            "claim": worker.claim,
            "volume_id": worker.home_volume_id,
            "username": self.config_values.WORKER_USERNAME,
            "address": worker.private_ip,
            "port": self.port,
            "environment": environment,
            "args": self.get_args(),
            "limits": {"memory_bytes": self.mem_limit, "cpu": self.cpu_limit},
            "watchdog": switch.terms(environment["JUPYTERHUB_API_URL"], self.config_values),
            "timeout_seconds": SERVER_TIMEOUT_SECONDS,
        }

    def _timeout(self, seconds: float) -> StartTimeout:
        sight = self.servers.fleet.sight(self.owner)
        worker = sight.worker.instance_id if sight.worker else "no worker yet"
        why = f"at the end: {self._step or sight.stage}, {worker}"
        what = f"Your machine was not ready after {story.duration(seconds)}."
        if sight.stage == "aws-away":
            return StartTimeout(
                f"The Amazon cloud does not answer at the moment. {what}",
                why=f"{why}; {self.servers.fleet.problem}",
                next_step="Your files are safe. Start your server again in a few minutes.",
            )
        return StartTimeout(
            what,
            why=why,
            next_step="It is being stopped, and your files are safe. Start your server again; if "
            "it happens twice, tell the people who run this hub.",
        )

    def _failure(self, error: EC2SpawnerError, status_code: int = 503) -> SpawnException:
        failure = SpawnException(
            error.for_user(),
            reason=error.code,
            log_message=f"{self.owner.key}: {error.for_operator()}",
            status_code=status_code,
        )
        # Without it, JupyterHub's spawn page shows the user what is meant for the log.
        failure.jupyterhub_message = error.for_user()
        return failure

    # ---- kept up while nobody works

    @property
    def kept(self) -> Kept | None:
        """Until when, and by whom, the running machine is kept up; None if it is not (any more)."""
        is_kept = self._phase == RUNNING and self._kept and self._kept.until > time.time()
        return self._kept if is_kept else None

    async def keep_up(self, hours: object, by: str) -> Kept | None:
        """Keep the machine up for ``hours`` from now; None ends it.

        Raises ``KeepRefused`` or ``KeepFailed``, or ``TooOften``; then what was promised stands.
        """
        if self._phase != RUNNING or not self._worker_id:
            raise KeepRefused(
                "This server does not run, so its machine cannot be kept up.",
                next_step="Start the server first.",
            )
        now, instance_id, kept, seconds = time.time(), self._worker_id, None, None
        if hours is not None:
            kept = keeping.ask(hours, self.config_values.KEEP_ALIVE_MAX_HOURS, by, now)
            seconds = self._at_work_until(kept) - now
        if wait := self.cluster.keeps.wait_seconds(self.orm_spawner.id, time.monotonic()):
            raise TooOften("This was asked for too often.", wait_seconds=wait)
        await self.servers.keep(self.owner, instance_id, seconds)
        if self._phase == RUNNING and self._worker_id == instance_id:  # not stopped meanwhile
            self._kept = kept
            if kept:
                self._note_at_work(min(now, self._at_work_until(kept)))
            self._save_state()
        return kept

    def _at_work_until(self, kept: Kept) -> float:
        timeout = self.config_values.JUPYTER_NOTEBOOK_TIMEOUT
        grain = hubconfig.activity_resolution_seconds(timeout)
        return keeping.at_work_until(kept, timeout, grain)

    def _note_at_work(self, moment: float) -> None:
        """Before the server's next report, which can come after the culler's next look."""
        at = datetime.fromtimestamp(moment, tz=timezone.utc).replace(tzinfo=None)
        last = self.orm_spawner.last_activity
        self.orm_spawner.last_activity = max(last, at) if last else at

    # ---- progress

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """What happens, in words for a student, with a percentage learned from earlier starts."""
        fleet = self.servers.fleet
        kind = start_kind(fleet.sight(self.owner))
        usual = fleet.journal.usual_seconds(kind)
        yield {"progress": 1, "message": story.opening(kind, usual)}
        told = story.line(story.OPENING_STAGES[kind], 0, usual)
        idle = 0.0
        while True:
            sight = fleet.sight(self.owner)
            stage = sight.stage if sight.stage in story.URGENT_STAGES else self._step or sight.stage
            if stage in story.WAITING_STAGES:
                idle += PROGRESS_SECONDS
            elapsed = time.monotonic() - self._begun_at - idle
            done = story.percent(elapsed, usual)
            words = story.line(stage, elapsed, usual)
            if stage == "in-line":
                words = story.in_line(sight.place, sight.seconds)
            elif stage == "copying":
                words = story.copying(sight.percent)
            if words and words != told:
                told = words
                yield {"progress": done, "message": words}
            else:
                yield {"progress": done}
            await asyncio.sleep(PROGRESS_SECONDS)

    # ---- poll and stop: no error of AWS or a worker leaves them

    async def poll(self) -> int | None:
        """None while the server runs, starts or stops, and in doubt; 0 once it is known not to."""
        if self._phase == STARTING:
            return None
        worker = self._worker()
        if self._phase != RUNNING or worker is None:
            return 0
        base = self.server.base_url if self.server else ""
        path = f"{base}api" if base else ""  # tells its version, and counts as no activity
        if await self.servers.is_dead(self.owner, worker, self.port, path):
            # Spawner.stop() will not be called for a server that died by itself. Its user may come
            # back in a moment, and then finds the machine running; else the reaper stops it.
            self.servers.fleet.forget(self.owner)
            self._phase = ""  # JupyterHub polls twice more before it lets go
            return 0
        return None

    async def poll_and_notify(self) -> int | None:
        """As JupyterHub's, which its home page calls as well: a page does not wait for a machine
        that is slow to answer. What is found later, the hub is told."""
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(super().poll_and_notify())
        look = self._look
        await asyncio.wait({look}, timeout=PAGE_WAITS_SECONDS)
        if look.done():
            return look.result()
        look.add_done_callback(self._report_if_failed)
        return None

    def _report_if_failed(self, look: asyncio.Future[int | None]) -> None:
        if not look.cancelled() and (error := look.exception()):
            self.log.error("Looking after the server of %s failed", self.owner, exc_info=error)

    async def stop(self, now: bool = False) -> None:
        """End the server gracefully; the machine then stops without anybody waiting for it."""
        # A server that never came up has nothing to end gracefully: its machine just stops.
        await self.servers.stop(self.owner, None if now else self._worker())
        self._phase = ""

    # ---- names and deletion

    async def rename(self, old_name: str, new_name: str) -> None:
        """The server keeps worker and home under its new name."""
        if not old_name:  # in its place comes a new one, whose home no bound refuses: ``refusals``
            raise web.HTTPError(400, "The usual server keeps its name.")
        user = self.user.name
        try:
            self.servers.fleet.rename(Owner(user, old_name), Owner(user, new_name))
        except NameTaken as error:
            raise web.HTTPError(409, error.for_user()) from None

    async def delete_forever(self) -> None:
        """Give up worker and home; they are removed after the grace time."""
        try:
            self._save_state()  # a deletion that is cut off is taken back by this incarnation
            self._settle_renames()
            # Of the default server, only a deletion of its user asks for this, and before it
            # looks whether a named server keeps the user from being deleted.
            if not self.name and await self._others_run():
                rows.when_deleted(self.user.orm_user, self._give_up)
                return
            await self.servers.fleet.delete(self.owner, self._incarnation)
        except OSError as error:
            self.log.error("Not marked as deleted, its home stays: %s: %s", self.owner.key, error)

    def _give_up(self) -> None:
        self.servers.fleet.give_up(self.owner, self._incarnation)

    async def _others_run(self) -> bool:
        """Whether a named server of the user still starts or stops, now that all others ended."""
        others = [s for s in self.user.spawners.values() if s is not self]
        ready = [s.name for s in others if s.ready]
        ends = await asyncio.gather(*map(self._stop_other, ready), return_exceptions=True)
        for name, error in zip(ready, ends, strict=True):
            if isinstance(error, Exception):
                self.log.error("Not stopped: %s/%s", self.user.name, name, exc_info=error)
        return any(s.active for s in others)

    async def _stop_other(self, name: str) -> None:
        await self.user.settings["proxy"].delete_user(self.user, name)
        await self.user.stop(name)


def _form_of(spawner: EC2Spawner) -> str:
    chosen = str(spawner.user_options.get(choosing.OPTION, ""))
    return choosing.form(spawner._offered(), chosen, spawner.cluster.prices)


def _apply_at_start(spawner: EC2Spawner, user_options: Mapping[str, Any]) -> None:
    """Options are read by ``start``, where an operator's own hook cannot leave the rules out."""
