"""Addresses of a hub, as configuration files and options give them: what is one, and its port.

Owns the words for what is none. Must not know which key or option asks.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

HUB_API_PORT = 8081
"""Port of the hub's API where HUB_CONNECT_URL names no other (JupyterHub's default)."""


def check_hub_url(value: str) -> str:
    """Return a usable hub address unchanged; ValueError with the reason for any other."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("is not an address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http:// or https:// address with a host")
    if not value.isascii():
        raise ValueError("has characters other than ASCII (of such a host, write the xn-- form)")
    if any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError("has spaces or control characters")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("has more than scheme, host, port and path")
    return value


def is_loopback(url: str) -> bool:
    """Whether an address is of this computer alone."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or parts.scheme.startswith("unix+"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hub_port(url: str | None) -> int:
    """Port in a hub address, by its scheme if it names none; JupyterHub's default for None."""
    if url is None:
        return HUB_API_PORT
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
