"""Somebody in front of a browser, as far as HTTP shows: cookies, redirects, and the page read."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import requests

from .hubs import Hub


class Visitor:
    """One browser at one hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.session = requests.Session()
        self.session.trust_env = False

    def go(self, path: str, **more: Any) -> requests.Response:
        """Follow a link to where it leads."""
        return self.session.get(f"{self.hub.url}{path}", timeout=20, **more)

    def log_in(self, next_: str = "") -> requests.Response:
        """Press the log-in button, and go where that leads."""
        return self.go(f"/hub/oauth_login{f'?next={next_}' if next_ else ''}")

    def api(self, method: str, path: str, **more: Any) -> requests.Response:
        """A request of a page's script, with what protects it against pages of others."""
        cookies = [c for c in self.session.cookies if c.name == "_xsrf" and c.path == "/hub/"]
        headers = {"X-XSRFToken": cookies[0].value or "" if cookies else ""}
        url = f"{self.hub.url}/hub/api/{path}"
        return self.session.request(method, url, headers=headers, timeout=20, **more)

    def is_in(self) -> bool:
        """Whether the hub knows who this is."""
        return self.session.get(f"{self.hub.url}/hub/api/user", timeout=20).status_code == 200


def words_of(answer: requests.Response) -> str:
    """What a person reads on a page."""
    main = re.search(r"<main.*?</main>|<div class=\"error\">.*?</div>", answer.text, re.DOTALL)
    body = main[0] if main else answer.text
    body = re.sub(r"<(script|style).*?</\1>", " ", body, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())
