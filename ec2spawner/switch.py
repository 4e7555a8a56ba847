"""What the hub tells a worker's dead-man switch: where the hub is, and how long is long.

Owns the form of that, which is the worker's to read. Must not know spawners, pools or SSH.
"""

from __future__ import annotations

from typing import Any

from ec2spawner.settings import ServerConfig

DOCUMENT_VERSION = 1


def terms(hub_url: str, config: ServerConfig) -> dict[str, Any]:
    """The key ``watchdog`` of a document; ``hub_url``: the hub's API, as workers reach it."""
    return {
        "hub_url": hub_url,
        "hub_lost_seconds": config.HUB_LOST_SECONDS,
        "idle_seconds": config.JUPYTER_NOTEBOOK_TIMEOUT,
    }


def prepare_document(hub_url: str, config: ServerConfig) -> dict[str, Any]:
    """What ``ec2spawner-worker prepare`` is handed over its standard input."""
    return {"version": DOCUMENT_VERSION, "watchdog": terms(hub_url, config)}
