"""What ``jupyterhub_config.py`` says about a cluster, so that the file itself stays readable.

Owns the derivation of the hub's settings from ``server_config.json``: addresses, time-outs, the
proxy's command, the idle culler as a managed service. Must not know the running hub, the fleet or
AWS.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ec2spawner.errors import EC2SpawnerError
from ec2spawner.settings import ServerConfig, find_server_config, load_server_config

CULLER_NAME = "idle-culler"
CULLER_SCOPES = ("list:users", "read:users:activity", "read:servers", "delete:servers")
"""What the culler may do: see who is idle, and stop servers. It can read no file and no token."""

ACTIVITY_INTERVAL_MAX_SECONDS = 300  # JupyterHub's default
REPORTS_PER_TIMEOUT = 4
"""A server reports its activity at least this often within the time-out, so that nobody at work
looks idle only because the last report is old."""

REPORT_RETRY_SECONDS = 15
"""After a hub was away, a server's report comes this much later at most, and it may be an old one
that waited (jupyterhub 6.1, singleuser, ``notify_activity``); the next one is right."""

START_MARGIN_SECONDS = 60
"""JupyterHub's own limit on a start comes later than the spawner's, whose message says more."""


def read_config_or_exit(environ: Mapping[str, str], beside: Path) -> ServerConfig:
    """The cluster's ``server_config.json``; a file that cannot be used ends the hub with code 1."""
    try:
        config, notices = load_server_config(find_server_config(environ, beside))
    except EC2SpawnerError as error:
        exit_with(error)
    for notice in notices:
        print(f"Notice: {notice}", file=sys.stderr)
    return config


def exit_with(error: EC2SpawnerError) -> NoReturn:
    """Say what is wrong on stderr, and end with code 1."""
    lines = (error.what, error.why and f"Why: {error.why}", f"Next: {error.next_step}")
    print("\n".join(line for line in lines if line), file=sys.stderr)
    raise SystemExit(1)


def activity_interval_seconds(timeout_seconds: int) -> int:
    """How often a server reports when its user was last active."""
    return max(1, min(ACTIVITY_INTERVAL_MAX_SECONDS, timeout_seconds // REPORTS_PER_TIMEOUT))


def activity_resolution_seconds(timeout_seconds: int) -> int:
    """By how much a report must be newer to be recorded; at least 1, since 0 takes older ones."""
    return max(1, min(30, activity_interval_seconds(timeout_seconds) // 2))


def culler_service(timeout_seconds: int) -> dict[str, Any]:
    """The managed service that stops servers idle for ``timeout_seconds``."""
    interval = activity_interval_seconds(timeout_seconds)
    command = [sys.executable, "-m", "ec2spawner.culler"]
    command += [f"--timeout={timeout_seconds}", f"--cull-every={interval}"]
    first_after = 2 * interval + REPORT_RETRY_SECONDS
    command += [f"--first-after={first_after}", f"--hub-pid={os.getpid()}"]
    return {"name": CULLER_NAME, "command": command}


def culler_role() -> dict[str, Any]:
    """The rights of that service."""
    return {"name": CULLER_NAME, "services": [CULLER_NAME], "scopes": list(CULLER_SCOPES)}


def proxy_command(beside: Path) -> list[str]:
    """The proxy that ``make setup`` put into ``.node``, else the one on PATH."""
    folder = beside.resolve().parent / ".node"
    script = folder / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
    if script.exists():
        return [str(folder / "bin/node"), str(script)]
    return [shutil.which("configurable-http-proxy") or "configurable-http-proxy"]


def hub_connect_ip(listen_address: str) -> str:
    """Where the proxy and the culler, on the same machine as the hub, reach its API."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen_address, listen_address)  # noqa: S104
