"""Somebody in front of a browser, as far as HTTP shows: cookies, redirects, and the page read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from types import TracebackType
from typing import Any

import requests

from .hubs import Hub


class Visitor:
    """One browser, without scripts, at one hub; as a context it is closed at the end."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> Visitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.close()

    @property
    def xsrf(self) -> str:
        """What the hub's pages send along, against pages of others."""
        return str(self.session.cookies.get("_xsrf", path="/hub/", default=""))

    def go(self, path: str, **more: Any) -> requests.Response:
        """Follow a link to where it leads."""
        return self.session.get(f"{self.hub.url}{path}", timeout=20, **more)

    def log_in(self, next_: str = "") -> requests.Response:
        """Press the log-in button, and go where that leads."""
        return self.go(f"/hub/oauth_login{f'?next={next_}' if next_ else ''}")

    def send(
        self, path: str, fields: Mapping[str, Any], *, with_xsrf: bool = True, **more: Any
    ) -> requests.Response:
        """A form of a page, and the page that it leads to."""
        known = {"_xsrf": self.xsrf} if with_xsrf else {}
        url = f"{self.hub.url}{path}"
        return self.session.post(url, data={**known, **fields}, timeout=20, **more)

    def api(self, method: str, path: str, **more: Any) -> requests.Response:
        """A request of a page's script."""
        headers = {"X-XSRFToken": self.xsrf}
        url = f"{self.hub.url}/hub/api/{path}"
        return self.session.request(method, url, headers=headers, timeout=20, **more)

    def is_in(self) -> bool:
        """Whether the hub knows who this is."""
        return self.session.get(f"{self.hub.url}/hub/api/user", timeout=20).status_code == 200


def enter(hub: Hub, name: str) -> Visitor:
    """Somebody who has logged in by the tests' password, at the home page."""
    visitor = Visitor(hub)
    visitor.go("/hub/login")
    form = {"username": name, "password": hub.password}
    answer = visitor.send("/hub/login", form, params={"next": "/hub/home"})
    assert answer.status_code == 200, answer.text
    return visitor


def words_of(answer: requests.Response) -> str:
    """What a person reads on a page."""
    main = re.search(r"<main.*?</main>|<div class=\"error\">.*?</div>", answer.text, re.DOTALL)
    body = main[0] if main else answer.text
    body = re.sub(r"<(script|style).*?</\1>", " ", body, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())
