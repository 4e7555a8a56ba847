"""Where a login leads: to the hub's own pages, or to a server of whoever logs in.

JupyterHub 6.1 takes any path of its own host for ``next``, and another user's server is one: a link
to the log-in page would bring people, freshly logged in, to a page of another's making. Owns which
paths are taken, and puts that in force in this process, for ``jupyterhub_config.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")
"""What a browser leaves out of an address, or takes for a slash."""

Validate = Callable[[Any, str], str]


def is_own(next_url: str, hub_prefix: str, user_prefix: str) -> bool:
    """Whether an address is a path below one of both, as a browser and the proxy read it.

    The prefixes begin and end with a slash; ``user_prefix`` is "" where nobody is known.
    """
    if not next_url.startswith("/") or next_url.startswith("//") or _UNSAFE.search(next_url):
        return False
    path = urlsplit(next_url).path
    if any(part in (".", "..") for part in unquote(path).split("/")):
        return False
    parts = _parts(path)
    owned = [_parts(prefix.rstrip("/")) for prefix in (hub_prefix, user_prefix) if prefix]
    return any(parts[: len(prefix)] == prefix for prefix in owned)


def _parts(path: str) -> list[str]:
    """As the proxy compares them: decoded, and one by one."""
    return [unquote(part) for part in path.split("/")]


def only_own(validate: Validate) -> Validate:
    """The same check of ``next``, which leaves nothing of what is another's.

    Before it is known who logs in, it is as before: it is judged again when that is known.
    """

    def validate_own(handler: Any, next_url: str) -> str:
        checked = validate(handler, next_url)
        user = getattr(handler, "_jupyterhub_user", None)
        own = getattr(user, "base_url", "")
        if not checked or user is None or is_own(checked, handler.hub.base_url, own):
            return checked
        handler.log.warning("A login does not lead to what is not %s's own: %r", user.name, checked)
        return ""

    return validate_own


def only_own_after(get_next_url: Callable[[Any, Any], str], fallback: Any) -> Any:
    """The same way back from a provider, by whose answer it is known who logs in."""

    def get_own_next_url(handler: Any, user: Any = None) -> Any:
        handler._jupyterhub_user = user
        url = get_next_url(handler, user)
        if user is not None and url == user.url:
            return url
        return handler._validate_next_url(url) or fallback(handler, user)

    return get_own_next_url


def put_in_force() -> None:
    """Do so in this process, before the hub answers."""
    from jupyterhub.handlers.base import BaseHandler
    from jupyterhub.handlers.pages import AcceptShareHandler
    from oauthenticator.oauth2 import OAuthCallbackHandler

    if "_validate_next_url" in vars(AcceptShareHandler):  # a second time
        return
    # Who accepts a share has agreed, on a page of the hub's, to go to another's server.
    AcceptShareHandler._validate_next_url = BaseHandler._validate_next_url
    BaseHandler._validate_next_url = only_own(BaseHandler._validate_next_url)
    OAuthCallbackHandler.get_next_url = only_own_after(
        OAuthCallbackHandler.get_next_url, BaseHandler.get_next_url
    )
