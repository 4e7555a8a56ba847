"""Somebody who reads the hub's pages and sends their forms: a browser without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import requests

from .hubs import Hub


class Reader:
    """Logged in as a user of the hub; a context, which ends the session."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub = hub
        self.name = name
        self._session = requests.Session()
        self._session.trust_env = False

    def __enter__(self) -> Reader:
        self.get("login")
        login = {"username": self.name, "password": self.hub.password}
        answer = self.send("login", login, params={"next": "/hub/home"})
        assert answer.status_code == 200, answer.text
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()

    @property
    def xsrf(self) -> str:
        """What the page's forms send along."""
        return str(self._session.cookies.get("_xsrf", path="/hub/"))

    def get(self, path: str) -> requests.Response:
        """A page below ``/hub/``."""
        return self._session.get(f"{self.hub.url}/hub/{path}", timeout=20)

    def send(
        self, path: str, fields: Mapping[str, Any], *, with_xsrf: bool = True, **more: Any
    ) -> requests.Response:
        """A form, and the page that it leads to."""
        known = {"_xsrf": self.xsrf} if with_xsrf else {}
        url = f"{self.hub.url}/hub/{path}"
        return self._session.post(url, data={**known, **fields}, timeout=20, **more)
