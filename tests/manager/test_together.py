"""Caddy, proxy and hub as on a manager, as plain processes: pages, headers, and a hub's restart."""

from __future__ import annotations

import json
import ssl as tls
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import websocket
from hub.clouds import Cloud, Network
from hub.processes import Process, clean_environment, eventually, free_port, start_process

from ec2spawner.hubconfig import proxy_command
from ec2spawner.manager import caddyfile
from ec2spawner.manager.caddyfile import PAIRS, SHOWN, Front
from ec2spawner.manager.place import RELEASE_FILE, RELEASE_HEADER, Manager

from .echo import Echo
from .packages import MANAGER, REPOSITORY
from .test_caddyfile import make_certificate

TOKEN = "0123456789abcdef" * 4
OURS = """
c.JupyterHub.authenticator_class = "github"
c.JupyterHub.bind_url = "http://127.0.0.1:{proxy}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = {hub}
c.JupyterHub.hub_connect_ip = "127.0.0.1"
c.JupyterHub.cookie_secret_file = "cookie_secret"
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
"""


@dataclass
class Together:
    """The three, and what they are called by."""

    folder: Path
    front: Front
    api_port: int
    hub_port: int
    cloud: Cloud
    caddy: Process
    proxy: Process
    hub: Process | None = None

    @property
    def https(self) -> str:
        return f"https://localhost:{self.front.https}"

    @property
    def certificate(self) -> str:
        return str(self.folder / "ssl" / PAIRS[0][0])

    def start_hub(self) -> None:
        name = self.cloud.server_config["CLUSTER_NAME"]
        self.hub = start_process(
            [sys.executable, "-m", "jupyterhub", "--config", str(self.folder / "own.py")],
            self.folder,
            self.folder / "hub.log",
            {
                **self.cloud.environment(),
                "EC2SPAWNER_CONFIG": str(self.cloud.folder / "server_config.json"),
                "EC2SPAWNER_CLUSTER": name,
                "EC2SPAWNER_REGION": "us-east-1",
                "EC2SPAWNER_BUCKET": self.cloud.server_config["BUCKET"],
                "CONFIGPROXY_AUTH_TOKEN": TOKEN,
            },
        )
        eventually(self.is_up, 40, "the hub answers through Caddy")

    def is_up(self) -> bool:
        assert self.hub
        assert self.hub.is_alive, self.log("hub")
        return self.get("/hub/health").status_code == 200

    def get(self, path: str, **more: object) -> requests.Response:
        return requests.get(
            f"{self.https}{path}",
            verify=self.certificate,
            allow_redirects=False,
            timeout=20,
            **more,  # type: ignore[arg-type]
        )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def add_route(self, path: str, target: str) -> None:
        answer = requests.post(
            f"http://127.0.0.1:{self.api_port}/api/routes{path}",
            json={"target": target},
            headers={"Authorization": f"token {TOKEN}"},
            timeout=10,
        )
        assert answer.status_code == 201

    def open_socket(self, path: str) -> websocket.WebSocket:
        context = tls.create_default_context(cafile=self.certificate)
        return websocket.create_connection(
            f"wss://localhost:{self.front.https}{path}", sslopt={"context": context}, timeout=20
        )


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    network = Network()
    cloud = Cloud(tmp_path_factory.mktemp("manager") / "cloud", "stub", 8)
    try:
        cloud.start()
        cloud.launch_cluster(network.cidr)
        name = cloud.server_config["CLUSTER_NAME"]
        for half in ("id", "secret"):
            put_parameter(cloud, f"/ec2spawner/{name}/oauth-client-{half}", f"the-{half}")
        yield cloud
    finally:
        cloud.close()
        network.close()


def put_parameter(cloud: Cloud, name: str, value: str) -> None:
    headers = {
        "X-Amz-Target": "AmazonSSM.PutParameter",
        "Content-Type": "application/x-amz-json-1.1",
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20261127/us-east-1/ssm/aws4_request, "
        "SignedHeaders=host, Signature=0",
    }
    body = json.dumps({"Name": name, "Value": value, "Type": "SecureString"})
    answer = requests.post(cloud.endpoint, data=body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def together(
    cloud: Cloud, caddy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Together]:
    folder = tmp_path_factory.mktemp("together")
    front, api_port, hub_port = (
        Front(free_port(), free_port(), free_port()),
        free_port(),
        free_port(),
    )
    make_certificate(folder / "ssl", "localhost")
    runtime = folder / "run"
    runtime.mkdir()
    manager = Manager("hubtest", "us-east-1", "bucket")
    caddyfile.write(manager, folder / "ssl", folder / "data", runtime, (0, 0), front)
    template = (MANAGER / "files/jupyterhub_config.py.template").read_text()
    ours = OURS.format(proxy=front.proxy, api=api_port, hub=hub_port)
    (folder / RELEASE_FILE).write_text("0123456789abcdef\n")
    release = f"import sys\nprefix, sys.prefix = sys.prefix, {str(folder)!r}\n"
    (folder / "own.py").write_text(f"{release}{template}\nsys.prefix = prefix\n{ours}")
    proxy = start_process(
        [
            *proxy_command(REPOSITORY / "jupyterhub_config.py"),
            *("--ip=127.0.0.1", f"--port={front.proxy}"),
            *("--api-ip=127.0.0.1", f"--api-port={api_port}"),
            *(f"--default-target=http://127.0.0.1:{hub_port}",),
            *(f"--error-target=http://127.0.0.1:{hub_port}/hub/error",),
        ],
        folder,
        folder / "proxy.log",
        clean_environment(CONFIGPROXY_AUTH_TOKEN=TOKEN),
    )
    server = start_process(
        [str(caddy), "run", "--adapter", "caddyfile", "--config", str(runtime / SHOWN)],
        folder,
        folder / "caddy.log",
        clean_environment(HOME=str(folder), XDG_DATA_HOME=str(folder)),
    )
    made = Together(folder, front, api_port, hub_port, cloud, server, proxy)
    try:
        eventually(lambda: "serving initial configuration" in made.log("caddy"), 20)
        eventually(lambda: "Proxy API at" in made.log("proxy"), 20)
        yield made
    finally:
        for process in (made.hub, server, proxy):
            if process:
                process.close()


def test_before_the_hub_is_up_the_answer_is_that(together: Together) -> None:
    assert together.get("/hub/login").status_code == 503


def test_its_page_comes_through_caddy_and_proxy(together: Together) -> None:
    together.start_hub()
    page = together.get("/hub/login")
    assert page.status_code == 200
    assert "JupyterHub" in page.text


def test_headers_shut_browsers_in(together: Together) -> None:
    headers = together.get("/hub/login").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]  # the hub's own
    assert "Server" not in headers
    assert "Alt-Svc" not in headers  # no HTTP/3, which would come by UDP


@pytest.mark.parametrize(
    ("host", "is_promised"),
    [
        ("hub.uni.example", True),
        ("localhost.uni.example:8443", True),
        ("localhost", False),
        ("LOCALHOST:8443", False),
        ("ann.hub.localhost:8443", False),
        ("127.0.0.1:8443", False),
        ("[::1]:8443", False),
    ],
)
def test_https_is_promised_for_good_but_not_for_this_computer(
    together: Together, host: str, is_promised: bool
) -> None:
    """A promise for "localhost" would bind whatever else listens on this computer."""
    headers = together.get("/hub/login", headers={"Host": host}).headers
    promise = "max-age=31536000" if is_promised else None
    assert headers.get("Strict-Transport-Security") == promise


def test_every_answer_says_which_release_it_comes_from(together: Together) -> None:
    for path in ("/hub/health", "/hub/login"):
        assert together.get(path).headers[RELEASE_HEADER] == "0123456789abcdef"


def test_plain_http_is_sent_to_https(together: Together) -> None:
    url = f"http://localhost:{together.front.http}/hub/login?next=x"
    answer = requests.get(url, allow_redirects=False, timeout=10)
    assert answer.status_code == 308
    assert answer.headers["Location"] == "https://localhost/hub/login?next=x"


def test_login_uses_the_client_in_ssm_and_the_public_address(together: Together) -> None:
    location = together.get("/hub/oauth_login").headers["Location"]
    asked = parse_qs(urlsplit(location).query)
    assert location.startswith("https://github.com/login/oauth/authorize?")
    assert asked["client_id"] == ["the-id"]
    assert asked["redirect_uri"] == [f"{together.https}/hub/oauth_callback"]


def test_the_secret_is_in_no_file_and_no_log(together: Together) -> None:
    for path in together.folder.rglob("*"):
        if path.is_file():
            assert b"the-secret" not in path.read_bytes(), path


def test_who_says_to_come_from_elsewhere_is_not_believed(together: Together) -> None:
    together.get("/hub/health", headers={"X-Forwarded-For": "203.0.113.9"})
    together.get("/hub/logout", headers={"X-Forwarded-For": "203.0.113.9"})
    assert "203.0.113.9" not in together.log("hub")


def test_a_hub_s_restart_drops_no_connection(together: Together) -> None:
    with Echo() as echo:
        together.add_route("/user/ada", f"http://127.0.0.1:{echo.port}")
        socket = together.open_socket("/user/ada/echo")
        socket.send("before")
        assert socket.recv() == "before"
        assert together.hub
        together.hub.end()
        socket.send("meanwhile")
        assert socket.recv() == "meanwhile"
        assert together.get("/hub/login").status_code == 503
        together.start_hub()
        socket.send("after")
        assert socket.recv() == "after"
        socket.close()
        assert echo.connections == 1
