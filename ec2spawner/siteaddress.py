"""Under which address people reach the hub, and what JupyterHub must know for it. Pure.

Owns the choice of that address, names of users' servers below it, and what its cookies are like.
Must not know who serves it, nor by which certificate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ec2spawner.errors import ConfigError
from ec2spawner.people import PeopleChoices

DOMAIN_VARIABLE = "EC2SPAWNER_DOMAIN"
"""On a manager: the name that ``--domain`` gave it."""
COOKIES: dict[str, dict[str, Any]] = {
    "cookie_options": {"samesite": "Lax"},
    # The hub's own pages bear its value; JupyterLab reads a cookie of this name of its server's.
    "xsrf_cookie_kwargs": {"samesite": "Lax", "httponly": True},
}


def public_url(choices: PeopleChoices, environ: Mapping[str, str]) -> str:
    """The address in the browser: a manager's domain, else PUBLIC_URL; "" where neither is set."""
    domain = environ.get(DOMAIN_VARIABLE, "")
    return f"https://{domain}" if domain else choices.PUBLIC_URL


def users_below(choices: PeopleChoices, environ: Mapping[str, str]) -> str:
    """Host below which users' servers have names of their own; "" where they have none."""
    url = public_url(choices, environ)
    return (urlsplit(url).hostname or "") if choices.SUBDOMAINS else ""


def hub_settings(choices: PeopleChoices, environ: Mapping[str, str]) -> dict[str, Any]:
    """Section ``JupyterHub``. ConfigError where SUBDOMAINS has no name to be below of."""
    url = public_url(choices, environ)
    settings: dict[str, Any] = {
        "public_url": url,
        "tornado_settings": {name: dict(values) for name, values in COOKIES.items()},
    }
    if choices.SUBDOMAINS:
        _check_has_name(url)
        settings["subdomain_host"] = url
        # A user's page may set cookies for the whole domain; by their names, these are not among
        # them. They are for HTTPS only.
        settings["cookie_host_prefix_enabled"] = url.startswith("https:")
    return settings


def _check_has_name(url: str) -> None:
    host = urlsplit(url).hostname
    if host and not _is_number(host):
        return
    raise ConfigError(
        "SUBDOMAINS needs a host name, below which each user's server gets one of its own.",
        why=f"PUBLIC_URL is {url}." if url else "The hub does not know its address in the browser.",
        next_step='Set PUBLIC_URL, for example to "https://hub.example.org" (or launch the manager'
        " with --domain), or set SUBDOMAINS to false.",
    )


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
