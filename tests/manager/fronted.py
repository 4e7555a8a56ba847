"""A real hub behind Caddy, with HTTPS, and people who come to it as a browser does.

Owns Caddy's and the hub's processes, and requests with a browser's rules for cookies: none for a
host other than the one that set it, unless it said so, and ``Secure`` ones by HTTPS only.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl as tls
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.util.connection
import websocket
from hub.clouds import Cloud
from hub.hubs import Hub
from hub.processes import Nursery, Process, clean_environment, free_port, start_process
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar, get_cookie_header

from ec2spawner.manager import caddyfile
from ec2spawner.manager.caddyfile import PAIRS, SHOWN, Front
from ec2spawner.manager.place import Manager

from .test_caddyfile import make_certificate

STRICT = DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)
REDIRECTS_MAX = 12
PATIENCE_SECONDS = 60.0  # a slow machine is no fault


@dataclass
class Site:
    """Hub and Caddy; ``host`` is the name of the hub in the browser."""

    host: str
    folder: Path
    front: Front
    hub: Hub
    caddy: Process

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.front.https}"

    @property
    def certificate(self) -> str:
        return str(self.folder / "ssl" / PAIRS[0][0])

    def of(self, user: str) -> str:
        """Where a user's server is: below the user's own host, if users have such."""
        own = f"{user}.{self.host}" if self.front.users_below else self.host
        return f"https://{own}:{self.front.https}"


@contextlib.contextmanager
def served(
    cloud: Cloud, nursery: Nursery, caddy: Path, folder: Path, *, names: bool
) -> Iterator[Site]:
    """A site with the real configuration; with ``names``, each user's server has a host."""
    host = "hub.localhost"
    ports = free_port(), free_port()
    url = f"https://{host}:{ports[1]}"
    hub = Hub(cloud, folder / "hub", nursery, PUBLIC_URL=url, SUBDOMAINS=names)
    hub.patience_seconds = PATIENCE_SECONDS
    hub.config["JupyterHub"] = {"trusted_downstream_ips": ["127.0.0.1"]}  # as on a manager
    front = Front(*ports, proxy=hub.port, users_below=host if names else "")
    make_certificate(folder / "ssl", host, f"*.{host}")
    runtime = folder / "run"
    runtime.mkdir()
    manager = Manager("hubtest", "us-east-1", "bucket")
    caddyfile.write(manager, folder / "ssl", folder / "data", runtime, (0, 0), front)
    process = start_process(
        [str(caddy), "run", "--adapter", "caddyfile", "--config", str(runtime / SHOWN)],
        folder,
        folder / "caddy.log",
        clean_environment(HOME=str(folder), XDG_DATA_HOME=str(folder)),
    )
    try:
        hub.start()
        yield Site(host, folder, front, hub, process)
    finally:
        hub.close()
        process.close()


class Person:
    """Somebody with a browser: cookies, redirects, and all answers on the way."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.answers: list[requests.Response] = []
        self._http = requests.Session()
        self._http.trust_env = False
        # requests itself sends a host's cookies to the hosts below it.
        self._http.cookies = RequestsCookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._cookies = CookieJar(STRICT)

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, url: str, **more: Any) -> requests.Response:
        """One request, and where it leads."""
        for _ in range(REDIRECTS_MAX):
            answer = self._ask(method, url, **more)
            self.answers.append(answer)
            if not answer.is_redirect:
                return answer
            method, url, more = "GET", urljoin(url, answer.headers["Location"]), {}
        raise AssertionError(f"{url} leads nowhere")

    def _ask(self, method: str, url: str, **more: Any) -> requests.Response:
        request = self._http.prepare_request(requests.Request(method, url, **more))
        if cookies := get_cookie_header(self._cookies, request):
            request.headers["Cookie"] = cookies
        with _names_are_loopback():
            answer = self._http.send(
                request, allow_redirects=False, timeout=30, verify=self.site.certificate
            )
        extract_cookies_to_jar(self._cookies, request, answer.raw)
        return answer

    def log_in(self) -> None:
        """By the form."""
        page = self.ask("GET", f"{self.site.url}/hub/login")
        found = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
        assert found, page.text
        form = {"username": self.name, "password": self.site.hub.password, "_xsrf": found[1]}
        answer = self.ask("POST", f"{self.site.url}/hub/login?next=/hub/home", data=form)
        assert answer.status_code == 200, answer.text

    def log_out(self) -> None:
        """By the button in the hub's pages."""
        self.ask("GET", f"{self.site.url}/hub/logout")

    def open_lab(self) -> requests.Response:
        """JupyterLab's page, by way of the hub, which vouches for whoever has logged in there."""
        return self.ask("GET", f"{self.server}/lab")

    @property
    def server(self) -> str:
        return f"{self.site.of(self.name)}/user/{self.name}"

    def cookies_for(self, url: str) -> dict[str, str]:
        """What a browser would send there."""
        request = self._http.prepare_request(requests.Request("GET", url))
        header = get_cookie_header(self._cookies, request) or ""
        return dict(pair.split("=", 1) for pair in header.split("; ") if pair)

    def api(self, method: str, path: str, **more: Any) -> requests.Response:
        """As JupyterLab asks its server."""
        url = f"{self.server}/api/{path}"
        headers = {"X-XSRFToken": self.cookies_for(url)["_xsrf"], **more.pop("headers", {})}
        return self.ask(method, url, headers=headers, **more)

    def open_kernel(self, kernel_id: str, origin: str) -> websocket.WebSocket:
        """A websocket to a kernel of one's own, from a page of ``origin``."""
        url = f"{self.server}/api/kernels/{kernel_id}/channels"
        cookies = self.cookies_for(url)
        context = tls.create_default_context(cafile=self.site.certificate)
        plain = socket.create_connection(("127.0.0.1", self.site.front.https), timeout=20)
        secure = context.wrap_socket(plain, server_hostname=urlsplit(url).hostname)
        try:
            return websocket.create_connection(
                url.replace("https:", "wss:"),
                socket=secure,
                origin=origin,
                cookie="; ".join(f"{name}={value}" for name, value in cookies.items()),
            )
        except websocket.WebSocketException:
            secure.close()
            raise


@contextlib.contextmanager
def _names_are_loopback() -> Iterator[None]:
    """``*.localhost`` is this computer, as for a browser; not every resolver knows it."""
    original = urllib3.util.connection.create_connection

    def connect(address: tuple[str, int], *more: Any, **options: Any) -> socket.socket:
        return original(("127.0.0.1", address[1]), *more, **options)

    urllib3.util.connection.create_connection = connect
    try:
        yield
    finally:
        urllib3.util.connection.create_connection = original
