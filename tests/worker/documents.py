"""Start documents for the worker's tests."""

from __future__ import annotations

import json
from typing import Any

TOKEN = "5ecret-t0ken-of-the-user"
VOLUME_ID = "vol-0123456789abcdef0"
PREFIX = "/user/jo/"


def raw_document(**changes: Any) -> dict[str, Any]:
    """A good document, as the hub writes it, with ``changes``."""
    return {
        "version": 1,
        "owner": "jo-0123456789",
        "claim": "0123456789abcdef",
        "volume_id": VOLUME_ID,
        "username": "jovyan",
        "address": "127.77.250.1",
        "port": 8888,
        "environment": {
            "JUPYTERHUB_API_TOKEN": TOKEN,
            "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:0{PREFIX}",
            "GREETING": 'a "quoted" $value\nwith\ttwo lines \\ and Zoë',
        },
        "args": ["--LabApp.news_url=", "a b"],
        "limits": {"memory_bytes": None, "cpu": None},
        "timeout_seconds": 20,
        **changes,
    }


def encoded(**changes: Any) -> bytes:
    return json.dumps(raw_document(**changes)).encode()
