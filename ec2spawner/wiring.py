"""Builds the running parts of a cluster from its configuration file, once in a process.

The one place where gateway, fleet and SSH link meet. Must not decide anything.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jupyterhub import orm
from markupsafe import escape
from sqlalchemy import event
from sqlalchemy.orm import Session, object_session
from tornado import web
from traitlets.log import get_logger

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import CredentialsError, Denied, NameTaken
from ec2spawner.execution import LaunchSettings
from ec2spawner.fleet import Fleet
from ec2spawner.journal import Journal
from ec2spawner.model import Owner
from ec2spawner.placement import Profile, Subnet
from ec2spawner.remote import WorkerLink
from ec2spawner.servers import Servers
from ec2spawner.settings import ServerConfig, find_server_config, load_server_config
from ec2spawner.wishes import Policy

log = logging.getLogger(__name__)

JOURNAL_NAME = "ec2spawner_journal.json"
DEFAULT_PROFILE = "default"
DAY_SECONDS = 86400.0
SLACK_SECONDS = 1.0
"""So much longer than another may a call be on its way to AWS, and AWS need not refuse one."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: what it is, and its users' servers."""

    config: ServerConfig
    servers: Servers
    loop: asyncio.AbstractEventLoop


_clusters: dict[Path, Cluster] = {}


def cluster_for(config_path: str | None = None, journal_dir: Path | None = None) -> Cluster:
    """The cluster of a configuration file, begun if it does not run yet in this event loop.

    Without a path, the file is looked for as ``jupyterhub_config.py`` does. Raises ``ConfigError``.
    """
    path = Path(config_path) if config_path else find_server_config(os.environ, Path.cwd())
    path = path.resolve()
    loop = asyncio.get_running_loop()
    known = _clusters.get(path)
    if known is None or known.loop is not loop:
        config, _notices = load_server_config(path)
        known = build(config, journal_dir or Path.cwd())
        _clusters[path] = known
    return known


def build(config: ServerConfig, journal_dir: Path) -> Cluster:
    """Wire a cluster up and begin to reconcile it."""
    gateway = Gateway(config.REGION, slack_seconds=SLACK_SECONDS)
    ec2 = EC2(gateway, config.CLUSTER_NAME)
    journal = Journal(journal_dir / JOURNAL_NAME)
    log.info("What the hub remembers beside EC2's tags is in %s", journal_dir / JOURNAL_NAME)
    fleet = Fleet(ec2, policy_of(config), launch_settings_of(config), journal, turn=gateway.turn)

    async def open_link() -> WorkerLink:
        key = await ec2.secret(config.SSH_KEY_PARAMETER)
        return WorkerLink(key, journal, port=config.WORKER_SSH_PORT)

    fleet.start()
    return Cluster(config, Servers(fleet, open_link), asyncio.get_running_loop())


def policy_of(config: ServerConfig) -> Policy:
    """What the configuration says, as decisions need it."""
    profile = Profile(DEFAULT_PROFILE, (config.WORKER_INSTANCE_TYPE,), config.USER_HOME_EBS_SIZE)
    return Policy(
        profiles=MappingProxyType({DEFAULT_PROFILE: profile}),
        subnets=tuple(Subnet(s.SUBNET_ID, s.ZONE) for s in config.WORKER_SUBNETS),
        reaper_grace_seconds=config.REAPER_GRACE_SECONDS,
        delete_grace_seconds=config.DELETE_GRACE_DAYS * DAY_SECONDS,
        snapshot_expire_seconds=config.SNAPSHOT_EXPIRE_DAYS * DAY_SECONDS,
    )


def launch_settings_of(config: ServerConfig) -> LaunchSettings:
    """What is the same in every launch."""
    return LaunchSettings(
        config.LAUNCH_TEMPLATE_ID,
        MappingProxyType(config.operator_tags),
        root_device=config.ROOT_DEVICE_NAME,
        root_gib=config.WORKER_EBS_SIZE,
    )


def begin(config_path: str) -> None:
    """Let the cluster be looked after from the hub's start on, also while nobody logs in.

    For ``jupyterhub_config.py``, which the hub reads inside its event loop; where there is none
    (another sub-command of ``jupyterhub``), nothing is begun.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    _log_like_the_hub()
    cluster_for(config_path)
    if not event.contains(orm.User.name, "set", _on_rename):
        event.listen(orm.User.name, "set", _on_rename)


def _log_like_the_hub() -> None:
    """Write into the hub's own log, at its level and in its form."""
    hub_log = get_logger()
    if isinstance(hub_log, logging.Logger):
        ours = logging.getLogger("ec2spawner")
        ours.parent = hub_log
        ours.setLevel(hub_log.level)


def _on_rename(user: orm.User, new: str, old: Any, initiator: object) -> None:
    """The hub has no hook for a user's new name: its worker and home are told of it here."""
    if not isinstance(old, str) or old == new:
        return
    session = object_session(user)
    for cluster in _clusters.values():
        for server in sorted({"", *user.orm_spawners}):
            owners = Owner(old, server), Owner(new, server)
            _follow(session, cluster.servers.fleet, row_of(user), *owners)


def row_of(user: orm.User) -> str:
    """What tells a user's row from every other, also from one that has its number later."""
    return f"{user.id} {user.created}"


def _follow(session: Session | None, fleet: Fleet, row: str, old: Owner, new: Owner) -> None:
    """Rename worker and home if, and when, the hub's database has taken the user's new name."""
    try:
        promise = fleet.promises.propose_rename(row, old, new)
    except NameTaken as error:
        raise web.HTTPError(409, error.for_user()) from None

    is_open = True

    def end(is_taken: bool) -> None:
        nonlocal is_open
        if not is_open:
            return
        is_open = False
        if promise:
            (fleet.promises.confirm if is_taken else fleet.promises.withdraw)(promise)
        if is_taken:
            fleet.follow_rename(old, new)

    if session is None:  # never stored: nobody has that name
        end(False)
        return
    event.listen(session, "after_commit", lambda _: end(True), once=True)
    event.listen(session, "after_rollback", lambda _: end(False), once=True)


class Announcement:
    """The hub's announcement on every page while AWS does not answer; nothing otherwise."""

    def _text(self) -> str:
        problems = [c.servers.fleet.problem for c in _clusters.values()]
        if not any(problems):
            return ""
        if any(isinstance(p, (Denied, CredentialsError)) for p in problems):
            return (
                "The Amazon cloud does not let this hub in at the moment. Servers that run go on; "
                "none can be started or stopped. Nothing is lost. The people who run this hub find "
                "the reason in its log."
            )
        return (
            "The Amazon cloud does not answer at the moment. Servers that run go on; starting or "
            "stopping one may take longer. Nothing is lost, and the hub keeps trying."
        )

    def __bool__(self) -> bool:
        return bool(self._text())

    def __html__(self) -> str:
        return str(escape(self._text()))

    def __str__(self) -> str:
        return self._text()
