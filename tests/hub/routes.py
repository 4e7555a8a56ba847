"""Every route of the hub, judged: what is about others or the hub, and what is about oneself.

"vic" is another user, "ml" a group that the asker is not in. ``test_safety_api`` compares the list
with the hub's own, so that a route which is new is judged before the tests pass again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ALL = ("GET", "POST", "PUT", "PATCH", "DELETE")
KEEP = "ec2spawner/users/vic"

OTHERS = [
    *[("GET", path) for path in ("users", "groups", "services", "proxy", "info", "metrics")],
    *[(method, "users/vic") for method in ("GET", "POST", "PATCH", "DELETE")],
    *[(method, "users/vic/server") for method in ALL],
    *[(method, "users/vic/servers/lab") for method in ALL],
    *[("GET", f"users/vic/{server}/progress") for server in ("server", "servers/lab")],
    *[(method, "users/vic/tokens") for method in ("GET", "POST")],
    *[(method, "users/vic/tokens/a1") for method in ("GET", "DELETE")],
    *[("POST", f"users/vic/{what}") for what in ("activity", "admin-access")],
    ("POST", "groups"),
    *[(method, "groups/ml") for method in ("GET", "POST", "DELETE")],
    *[(method, "groups/ml/users") for method in ("POST", "DELETE")],
    ("PUT", "groups/ml/properties"),
    ("GET", "groups/ml/shared"),
    *[(method, "groups/ml/shared/vic/lab") for method in ("GET", "DELETE")],
    *[(method, "proxy") for method in ("POST", "PATCH")],
    *[(method, "services/test") for method in ("GET", "POST", "DELETE")],
    *[
        (method, f"shares/vic{of}")
        for method in ("GET", "POST", "PATCH", "DELETE")
        for of in ("", "/")
    ],
    *[(method, f"share-codes/vic{of}") for method in ("GET", "POST", "DELETE") for of in ("", "/")],
    *[("GET", f"users/vic/{what}") for what in ("shared", "shared/vic/")],
    ("DELETE", "users/vic/shared/vic/"),
    ("GET", "authorizations/cookie/jupyterhub-hub-login/x"),
    *[(method, "authorizations/token/x") for method in ("GET", "POST")],
    *[(method, "authorizations/token") for method in ("GET", "POST")],
    ("POST", "users"),
    ("POST", "shutdown"),
    ("GET", "ec2spawner/machines"),
    *[(method, f"{KEEP}/server/keep") for method in ("POST", "DELETE")],
    *[(method, f"{KEEP}/servers/lab/keep") for method in ("POST", "DELETE")],
]
"""Routes of the API, below ``/hub/api/``, that are about others or about the hub."""

OWN = {
    ("GET", ""): "the hub's version",
    ("GET", "health"): "that the hub answers",
    ("GET", "user"): "oneself",
    ("GET", "oauth2/authorize"): "a log-in at one's own server; others' ask for the right to it",
    ("POST", "oauth2/authorize"): "the same, by its form",
    ("POST", "oauth2/token"): "a server's part of it, with the server's own secret",
}
"""Routes that anybody may use, and why that harms nobody."""

OTHERS_PAGES = [
    ("GET", "/admin"),
    ("GET", "/machines"),
    ("GET", "/metrics"),
    *[(method, f"/spawn/vic{server}") for method in ("GET", "POST") for server in ("", "/lab")],
    *[("GET", f"/spawn-pending/vic{server}") for server in ("", "/lab")],
]
"""Pages, below ``/hub``, that are about others or about the hub."""

OWN_PAGES = {
    ("GET", ""): "leads on",
    ("GET", "/"): "leads on",
    ("GET", "/home"): "one's own servers",
    ("GET", "/spawn"): "a start of one's own server",
    ("POST", "/spawn"): "its form",
    ("POST", "/keep"): "a form about one's own server",
    ("GET", "/token"): "one's own tokens",
    ("GET", "/accept-share"): "a code that somebody gave",
    ("POST", "/accept-share"): "its form",
    ("GET", "/login"): "public",
    ("POST", "/login"): "public",
    ("GET", "/logout"): "public",
    ("GET", "/error/404"): "the proxy's page of an error",
    ("GET", "/health"): "that the hub answers",
    ("POST", "/security/csp-report"): "a browser's report, for the log",
    ("GET", "/user-redirect/lab"): "leads to one's own server",
    **{
        (method, "/user/vic/lab"): "leads on to a server, or says that it does not run"
        for method in ("GET", "POST", "PATCH", "DELETE")
    },
}


def offered(handlers: Iterable[Any]) -> set[tuple[str, str]]:
    """Pattern and method of all that handlers answer."""
    from tornado.web import RequestHandler

    return {
        (str(pattern), method)
        for pattern, handler, *_ in handlers
        for method in METHODS
        if getattr(handler, method.lower()) is not getattr(RequestHandler, method.lower())
    }


def judged(handlers: Iterable[Any]) -> set[tuple[str, str]]:
    """Pattern and method of what is judged above."""
    patterns = [str(pattern) for pattern, *_ in handlers]
    api = [(method, f"/api/{path}") for method, path in (*OTHERS, *OWN)]
    return {
        (next((p for p in patterns if re.fullmatch(p, path)), path), method)
        for method, path in (*api, *OTHERS_PAGES, *OWN_PAGES)
    }
