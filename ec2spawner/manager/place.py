"""Where things are on the manager, and what this manager was told about itself.

Owns the paths and names that scripts, units and code must agree on, and the reading of
``/etc/ec2spawner/manager.env``. Must not know what is done there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ec2spawner.errors import ConfigError

DATA = Path("/var/lib/jupyterhub")
"""The data volume's mount point: what outlives the instance."""
CONFIG = Path("/etc/jupyterhub")
PARAMETERS = Path("/etc/ec2spawner/manager.env")
SSL = CONFIG / "ssl"
HUB_USER = "ec2spawner-hub"
PROXY_USER = "ec2spawner-proxy"
CADDY_USER = "caddy"
HUB_FOLDER = "hub"
DATABASE = "jupyterhub.sqlite"
COOKIE_SECRET = "cookie_secret"  # noqa: S105 - a file's name
PROXY_SECRET = "secrets/proxy.env"  # noqa: S105 - a file's name
ETC_FOLDER = "etc"
"""Seen as CONFIG."""
CADDY_FOLDER = "caddy"
BACKUP_FOLDER = "backup"

PUBLIC_PROXY = ("127.0.0.1", 8000)
"""Where the proxy listens for Caddy."""
PROXY_API_URL = "http://127.0.0.1:8001"

DB_VARIABLE = "HUB_DB_URL"
SERVER_CONFIG_KEY = "config/server_config.json"
CHOICES_KEY = "config/manager.json"
PACKAGE_KEY = "package/{}.tar.gz"
REFRESH_KEY = "config/refresh-due"
"""There while the manager is still to take over what lies in the bucket."""
BACKUP_PREFIX = "backup/hub/"
"""Copies by date, which the bucket deletes after 90 days (``templates/cluster.yaml``)."""
NEWEST_BACKUP_PREFIX = "backup/newest/"
"""The last copy once more, which the bucket keeps: a hub may be off for longer than that."""

UPGRADE = "/opt/ec2spawner/upgrade.sh"
"""The script that is run with a package's SHA-256, or with REFRESH."""
REFRESH = "refresh"
RELEASE_HEADER = "X-EC2Spawner-Release"
"""In every answer of the hub: which package it was installed from."""
RELEASE_FILE = "package"
"""In a release's folder: the same."""


@dataclass(frozen=True)
class Manager:
    """What the launch command told this machine."""

    cluster: str
    region: str
    bucket: str
    volume_id: str = ""
    domain: str = ""
    email: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Manager:
        """From the variables of ``manager.env``; ConfigError where one is missing."""
        names = ("CLUSTER", "REGION", "BUCKET", "DATA_VOLUME_ID", "DOMAIN", "EMAIL")
        values = {name: environ.get(f"EC2SPAWNER_{name}", "") for name in names}
        if missing := [f"EC2SPAWNER_{name}" for name in names[:3] if not values[name]]:
            raise ConfigError(
                f"This machine was not told {', '.join(missing)}.",
                why="They stand in /etc/ec2spawner/manager.env, which provision.sh writes.",
                next_step="Run this as a unit of the manager, or provision the manager again.",
            )
        return cls(*values.values())


def release_in(folder: Path) -> str:
    """Which package the release in ``folder`` was made from; "" if nobody wrote that down."""
    try:
        return (folder / RELEASE_FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def database_url(environ: Mapping[str, str]) -> str:
    """The hub's database: HUB_DB_URL, else SQLite on the data volume."""
    return environ.get(DB_VARIABLE, "") or f"sqlite:///{DATA / HUB_FOLDER / DATABASE}"
