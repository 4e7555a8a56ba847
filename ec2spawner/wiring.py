"""Builds the running parts of a cluster from its configuration file, once in a process.

The one place where gateway, fleet and SSH link meet. Must not decide anything.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from jupyterhub.app import JupyterHub
from jupyterhub.utils import url_path_join
from markupsafe import escape
from traitlets.log import get_logger

from ec2spawner.cloud import Gateway
from ec2spawner.costs import Prices
from ec2spawner.ec2 import EC2
from ec2spawner.errors import AnotherHub, CredentialsError, Denied, EC2SpawnerError
from ec2spawner.execution import LaunchSettings
from ec2spawner.fleet import Fleet
from ec2spawner.identity import this_process
from ec2spawner.images import CurrentImage
from ec2spawner.journal import Journal
from ec2spawner.lease import Lease
from ec2spawner.often import Often
from ec2spawner.placement import Market, Profile, Subnet
from ec2spawner.preparing import Preparing
from ec2spawner.pricefile import read_prices, user_file
from ec2spawner.remote import WorkerLink
from ec2spawner.replacing import boot_bound
from ec2spawner.rows import Rows, members_of
from ec2spawner.s3 import Objects
from ec2spawner.schedule import classes_of
from ec2spawner.servers import Servers
from ec2spawner.settings import ServerConfig, find_server_config, load_server_config
from ec2spawner.switch import prepare_document
from ec2spawner.timetable import Timetable
from ec2spawner.wishes import Policy

log = logging.getLogger(__name__)

JOURNAL_NAME = "ec2spawner_journal.json"
DEFAULT_PROFILE = "default"
KEEPS_PER_MINUTE = 6
DAY_SECONDS = 86400.0
SLACK_SECONDS = 1.0
"""So much longer than another may a call be on its way to AWS, and AWS need not refuse one."""
HOUR_SECONDS = 3600.0
GARBAGE_THRESHOLD = 10_000
"""New objects between two of the garbage collector's looks; Python's own is 700 (gc.set_threshold).
Full collections of a hub with 500 users then come twice a minute in a rush, not every two seconds,
for some 10 MB of garbage more."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: what it is, and its users' servers."""

    config: ServerConfig
    servers: Servers
    loop: asyncio.AbstractEventLoop
    starts: Often
    """Starts that each user asks for."""
    keeps: Often
    """Requests about each server to keep its machine up: each is an SSH connection."""
    prices: Prices | None
    """None where no file of prices can be read."""


_clusters: dict[Path, Cluster] = {}
rows = Rows(lambda: [cluster.servers.fleet for cluster in _clusters.values()])
"""The hub's users, whose new names and ends concern their machines."""


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
    gateway.show_buckets()
    ec2 = EC2(gateway, config.CLUSTER_NAME)
    journal = Journal(journal_dir / JOURNAL_NAME)
    log.info("What the hub remembers beside EC2's tags is in %s", journal_dir / JOURNAL_NAME)
    lease = Lease(Objects(gateway, config.BUCKET), config.CLUSTER_NAME, this_process())
    gateway.guard("ec2", lease.permit)
    fleet = Fleet(
        ec2,
        policy_of(config),
        launch_settings_of(config),
        journal,
        lease=lease,
        turn=gateway.turn,
    )

    async def open_link() -> WorkerLink:
        key = await ec2.secret(config.SSH_KEY_PARAMETER)
        return WorkerLink(key, journal, port=config.WORKER_SSH_PORT)

    fleet.start()
    timetable = Timetable(fleet, classes_of(config.CLASS_SCHEDULE), members_of)
    fleet.accompany(timetable.run(), "timetable")
    servers = Servers(fleet, open_link)
    preparing = Preparing(fleet, servers.link, lambda: prepare_document(api_url(config), config))
    fleet.accompany(preparing.run(), "preparing")
    image = CurrentImage(partial(ec2.parameter, config.worker_image_parameter), fleet.use_image)
    fleet.accompany(image.run(), "current image")
    return Cluster(
        config,
        servers,
        asyncio.get_running_loop(),
        starts=Often(config.STARTS_PER_MINUTE),
        keeps=Often(KEEPS_PER_MINUTE),
        prices=known_prices(config.REGION),
    )


def known_prices(region: str) -> Prices | None:
    """What is known of the Region's prices; a file that cannot be read is none of a user's."""
    try:
        return read_prices(region, user_file(os.environ))
    except EC2SpawnerError as error:
        log.warning("No prices are shown: %s", error)
        return None


def api_url(config: ServerConfig) -> str:
    """The API of the hub that runs here, as workers reach it (as ``Spawner.get_env`` makes it)."""
    url = str(JupyterHub.instance().hub.api_url)
    reached = config.HUB_CONNECT_URL
    return url_path_join(reached, urlsplit(url).path) if reached else url


def policy_of(config: ServerConfig) -> Policy:
    """What the configuration says, as decisions need it."""
    return Policy(
        profiles=MappingProxyType({profile.slug: profile for profile in profiles_of(config)}),
        subnets=tuple(Subnet(s.SUBNET_ID, s.ZONE) for s in config.WORKER_SUBNETS),
        reaper_grace_seconds=config.REAPER_GRACE_SECONDS,
        delete_grace_seconds=config.DELETE_GRACE_DAYS * DAY_SECONDS,
        snapshot_expire_seconds=config.SNAPSHOT_EXPIRE_DAYS * DAY_SECONDS,
        boot_bound_seconds=boot_bound(config.START_TIMEOUT_SECONDS),
        keep_broken_seconds=config.KEEP_BROKEN_HOURS * HOUR_SECONDS,
        allow_zone_move=config.ALLOW_ZONE_MOVE,
        refresh_workers=config.REFRESH_WORKERS,
    )


def profiles_of(config: ServerConfig) -> tuple[Profile, ...]:
    """PROFILES, the usual one first; without any, the one of WORKER_INSTANCE_TYPE."""
    home_gib = config.USER_HOME_EBS_SIZE
    if not config.PROFILES:
        usual = Profile(
            DEFAULT_PROFILE,
            (config.WORKER_INSTANCE_TYPE,),
            home_gib,
            pool_running=config.POOL_RUNNING,
            pool_stopped=config.POOL_STOPPED,
        )
        return (usual,)
    return tuple(
        Profile(
            choice.SLUG,
            choice.INSTANCE_TYPES,
            choice.HOME_GIB or home_gib,
            tuple(Market(market) for market in choice.MARKET.split("-then-")),
            choice.NAME,
            choice.DESCRIPTION,
            frozenset(choice.GROUPS),
            choice.POOL_RUNNING,
            choice.POOL_STOPPED,
        )
        for choice in config.PROFILES
    )


def profile_names(config: ServerConfig) -> dict[str, str]:
    """By slug, what people read."""
    return {p.slug: p.name or p.slug for p in profiles_of(config)}


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
    fleet = cluster_for(config_path).servers.fleet
    fleet.accompany(_spare_the_collector(fleet), "garbage collection")
    rows.watch()


async def _spare_the_collector(fleet: Fleet) -> None:
    """Have the garbage collector leave alone what the hub has loaded once it is up, for good.

    boto3's descriptions of the services are hundreds of thousands of objects: each full collection
    would look through them, which holds the hub up for a quarter of a second every two seconds of
    a rush. What comes later, with each of a class's users, is looked through less often.
    """
    while not fleet.view().is_known:
        await fleet.next_change()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])


def _log_like_the_hub() -> None:
    """Write into the hub's own log, at its level and in its form."""
    hub_log = get_logger()
    if isinstance(hub_log, logging.Logger):
        ours = logging.getLogger("ec2spawner")
        ours.parent = hub_log
        ours.setLevel(hub_log.level)


class Announcement:
    """The hub's announcement on every page while it cannot serve anybody; nothing otherwise."""

    def _text(self) -> str:
        problems = [c.servers.fleet.problem for c in _clusters.values()]
        if not any(problems):
            return ""
        if any(isinstance(p, AnotherHub) for p in problems):
            return (
                "Another hub serves this cluster, so this one starts and stops no servers. Nothing "
                "is lost. The people who run this hub find in its log which one, and what to do."
            )
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
