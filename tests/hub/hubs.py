"""A real JupyterHub with the real configuration, as a process; its users, over HTTP.

Owns a hub's folder (database, journal, ``server_config.json``, log), its ports, its starts and
ends, and the REST requests of the tests.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from ec2spawner.hubconfig import proxy_command

from .clouds import Cloud, Row, View
from .kernels import Kernel
from .processes import (
    HERE,
    REPOSITORY,
    Nursery,
    Process,
    eventually,
    free_port,
    start_process,
)

BASE_CONFIG = REPOSITORY / "jupyterhub_config.py"
HUB_CONFIG = HERE / "hub_config.py"
START_SECONDS = 25.0
INVENTORY_DEFAULTS = "ec2spawner.inventory:Inventory.__init__.__kwdefaults__"
SHORT_CALLS: dict[str, Any] = {
    "ec2spawner.cloud:Gateway.call.__kwdefaults__": {"deadline_seconds": 2.0},
    "ec2spawner.ec2:LISTING_DEADLINE_SECONDS": 2.0,
    "ec2spawner.inventory:MAX_BACKOFF_SECONDS": 2.0,
}
"""Constants of a hub that gives calls up after 2 s and makes them again after 2 s, where a real hub
takes a minute and half a minute."""
ANNOUNCED = "The Amazon cloud does not answer at the moment."
TRACEBACK = "Traceback (most recent call last)"


class Proxy:
    """The proxy as a service of its own, which goes on when the hub is restarted."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self.port, self.api_port = free_port(), free_port()
        self.token = secrets.token_hex(16)
        self.process = start_process(
            [
                *proxy_command(BASE_CONFIG),
                *("--ip", "127.0.0.1", "--port", str(self.port)),
                *("--api-ip", "127.0.0.1", "--api-port", str(self.api_port)),
                *("--default-target", "http://127.0.0.1:9", "--error-target", "http://127.0.0.1:9"),
            ],
            folder,
            folder / "proxy.log",
            {**environment, "CONFIGPROXY_AUTH_TOKEN": self.token},
        )

    def close(self) -> None:
        self.process.close()


class Hub:
    """One hub on a cluster of its own: nothing that another test does can meet it.

    ``choices`` are values of ``server_config.json``, ``config`` of JupyterHub's configuration
    ({"Spawner": {...}}), ``constants`` and ``die`` are as ``hooks.py`` says. All of them may be
    changed between two starts.
    """

    def __init__(
        self,
        cloud: Cloud,
        folder: Path,
        nursery: Nursery | None = None,
        *,
        proxy: Proxy | None = None,
        **choices: Any,
    ) -> None:
        self.cloud = cloud
        self.folder = folder
        self.cluster = f"hub-{uuid.uuid4().hex[:12]}"
        self.choices = choices
        self.config: dict[str, dict[str, Any]] = {"Spawner": {"poll_interval": 1}}
        self.constants: dict[str, Any] = {INVENTORY_DEFAULTS: {"full_seconds": 2.0}}
        self.environment: dict[str, str] = {}  # besides the cloud's
        self._death: dict[str, Any] = {}
        self.patience_seconds = 20.0  # for one answer of a user's server
        self.process: Process | None = None
        self.log = folder / "hub.log"
        self.clock = folder / "clock"
        self.password = secrets.token_hex(8)
        self.token = secrets.token_hex(16)
        self._nursery = nursery
        self._proxy = proxy
        self.port = proxy.port if proxy else free_port()
        self._proxy_port = proxy.api_port if proxy else free_port()
        self._proxy_token = proxy.token if proxy else secrets.token_hex(16)
        self.api_port = free_port()
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        folder.mkdir(parents=True)

    @property
    def url(self) -> str:
        """The address that users know."""
        return f"http://127.0.0.1:{self.port}"

    # ---- life

    def start(self, *, wait: bool = True) -> Hub:
        """Start the hub; with ``wait``, return when it answers through the proxy."""
        self._write_files()
        environment = {
            **self.cloud.environment(),
            **self.environment,
            "EC2SPAWNER_CONFIG": str(self.folder / "server_config.json"),
            "EC2SPAWNER_TEST_OPTIONS": str(self.folder / "options.json"),
        }
        arguments = ["--config", str(HUB_CONFIG)]
        if self._nursery:
            self.process = self._nursery.start(arguments, self.folder, self.log, environment)
        else:
            command = [sys.executable, "-m", "jupyterhub", *arguments]
            self.process = start_process(command, self.folder, self.log, environment)
        if wait:
            bound = max(START_SECONDS, self.patience_seconds)
            eventually(self._is_up, bound, "the hub answers")
        return self

    def _write_files(self) -> None:
        server_config = {
            **self.cloud.server_config,
            "CLUSTER_NAME": self.cluster,
            "HUB_CONNECT_URL": f"http://127.0.0.1:{self.api_port}",
            **self.choices,
        }
        (self.folder / "server_config.json").write_text(json.dumps(server_config))
        options = {
            "base_config": str(BASE_CONFIG),
            "hooks": str(HERE),
            "folder": str(self.folder),
            "clock": str(self.clock),
            "port": self.port,
            "proxy_port": self._proxy_port,
            "proxy_token": self._proxy_token,
            "proxy_apart": self._proxy is not None,
            "password": self.password,
            "logins": bool(self.choices.get("AUTHENTICATOR")),
            "token": self.token,
            "config": self.config,
            "constants": self.constants,
        }
        (self.folder / "options.json").write_text(json.dumps(options))

    def _is_up(self) -> bool:
        assert self.process
        assert self.process.is_alive, "the hub ended while it started"
        return self._says("JupyterHub is now running") and self._answers()

    def _says(self, words: str) -> bool:
        return self.log.exists() and words in self.story().rpartition("Using Authenticator")[2]

    def _answers(self) -> bool:
        try:
            return self.http.get(f"{self.url}/hub/api/", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """SIGTERM, and wait."""
        assert self.process
        self.process.signal(signal.SIGTERM)
        assert self.process.wait(10), "the hub did not end within 10 s of SIGTERM"

    def kill(self) -> None:
        """SIGKILL, and wait."""
        assert self.process
        self.process.kill()

    def restart(self, *, gently: bool = True) -> Hub:
        """SIGTERM or SIGKILL, and a new start."""
        (self.stop if gently else self.kill)()
        return self.start()

    def die_at(self, at: str, when: str = "before", nth: int = 1) -> None:
        """Have the running hub kill itself at a point of ``hooks.POINTS``, the nth time."""
        self._death = {"at": at, "when": when, "nth": nth}
        fresh = self.folder / "die.new"
        fresh.write_text(json.dumps(self._death))
        fresh.replace(self.folder / "die")

    def dies(self, seconds: float = 15.0) -> None:
        """Wait for the death that was arranged, and for no other."""
        assert self.process
        assert self.process.wait(seconds), f"{self._death} was not reached"
        reached = self.folder / "reached"
        assert reached.exists(), "the hub ended by something else"
        assert reached.read_text().split() == [self._death["when"], self._death["at"]]
        reached.unlink()
        self.process.close()
        self.process = None

    def close(self) -> None:
        """End it, in whatever state it is."""
        if self.process:
            self.process.end(5)
            self.process.close()
        self.http.close()

    def story(self) -> str:
        """All that the hub has logged, over its restarts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def advance(self, seconds: float) -> None:
        """Let that much time pass on the fleet's clock."""
        now = float(self.clock.read_text()) if self.clock.exists() else 0.0
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(str(now + seconds))
        fresh.replace(self.clock)

    # ---- what there is

    def api(self, method: str, path: str, **more: Any) -> requests.Response:
        """A REST request of the admin's service."""
        headers = {"Authorization": f"token {self.token}", **more.pop("headers", {})}
        url = f"{self.url}/hub/api/{path}"
        return self.http.request(method, url, headers=headers, timeout=30, **more)

    def start_patiently(self) -> Hub:
        """Start, and wait until the cluster was listed: for tests with a short limit on starts."""
        self.start()
        listed = 'ec2spawner_aws_calls_total{action="DescribeVolumes",outcome="ok"}'
        eventually(lambda: listed in self.api("GET", "metrics").text, 15, "the cluster is listed")
        return self

    def page(self) -> str:
        """The log-in page, which everybody sees first."""
        return self.http.get(f"{self.url}/hub/login", timeout=5).text

    def user(self, name: str) -> User:
        """A user, added to the hub if need be."""
        user = User(self, name)
        answer = self.api("POST", f"users/{user.path}")
        assert answer.status_code in (201, 409), answer.text
        return user

    def view(self) -> View:
        """Instances and volumes of this hub's cluster."""
        return self.cloud.view(self.cluster)

    def errors(self, since: int = 0) -> list[str]:
        """Lines of the log (from a character on) of level ERROR and worse, and tracebacks."""
        return [
            line
            for line in self.story()[since:].splitlines()
            if (re.match(r"\[[EC] |.*\b(ERROR|CRITICAL)\b", line) or TRACEBACK in line)
            and "Received signal SIGTERM" not in line
        ]


class User:
    """A user of a hub, acting through it."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub = hub
        self.name = name
        self._token = ""

    @property
    def path(self) -> str:
        """The name as a part of a path."""
        return quote(self.name, safe="@~")

    # ---- the hub's side

    def model(self) -> Row:
        """The user as the hub knows it."""
        answer = self.hub.api("GET", f"users/{self.path}")
        assert answer.status_code == 200, answer.text
        model: Row = answer.json()
        return model

    def server_model(self, server: str = "") -> Row | None:
        """An active server, or None."""
        found: Row | None = self.model()["servers"].get(server)
        return found if found and (found["ready"] or found["pending"]) else None

    def is_ready(self, server: str = "") -> bool:
        """Whether the hub says that the server is up."""
        model = self.server_model(server)
        return bool(model and model["ready"])

    def _server_path(self, server: str) -> str:
        return (
            f"users/{self.path}/servers/{quote(server, safe='')}"
            if server
            else (f"users/{self.path}/server")
        )

    def ask_start(self, server: str = "") -> requests.Response:
        """Ask for a start, as a click does; returns at once."""
        return self.hub.api("POST", self._server_path(server))

    def ask_start_of_a_mortal(self, server: str = "") -> None:
        """Ask for a start of which the hub may die before it answers."""
        with contextlib.suppress(requests.ConnectionError):
            self.ask_start(server)

    def start(self, server: str = "", seconds: float = START_SECONDS) -> list[Row]:
        """Start a server and wait until it is ready; the events of its spawn page."""
        answer = self.ask_start(server)
        assert answer.status_code in (201, 202), answer.text
        return self.wait_ready(server, seconds)

    def wait_ready(self, server: str = "", seconds: float = START_SECONDS) -> list[Row]:
        """Wait for a start that is under way; the events of its spawn page."""
        events: list[Row] = []
        deadline = time.monotonic() + seconds
        for event in self.progress(server):
            events.append(event)
            assert time.monotonic() < deadline, f"not ready within {seconds} s: {events}"
        assert events[-1].get("ready"), events[-1]
        return events

    def fail_to_start(self, server: str = "") -> str:
        """Start a server that cannot be; the message that the user reads."""
        answer = self.ask_start(server)
        if answer.status_code >= 400:
            return str(answer.json()["message"])
        last = list(self.progress(server))[-1]
        assert last.get("failed"), last
        message = str(last["message"])
        assert message.startswith("Spawn failed: "), message
        return message[len("Spawn failed: ") :]

    def progress(self, server: str = "") -> Iterator[Row]:
        """The events of the spawn page, until the last one."""
        path = f"{self._server_path(server)}/progress"
        with self.hub.api("GET", path, stream=True) as answer:
            assert answer.status_code == 200, answer.text
            for line in answer.iter_lines():
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def ask_stop(self, server: str = "", *, remove: bool = False) -> requests.Response:
        """Ask for a stop; returns at once."""
        body = {"remove": True} if remove else None
        return self.hub.api("DELETE", self._server_path(server), json=body)

    def stop(self, server: str = "", *, remove: bool = False) -> None:
        """Stop a server and wait until the hub has let it go."""
        answer = self.ask_stop(server, remove=remove)
        assert answer.status_code in (202, 204), answer.text
        patience = self.hub.patience_seconds
        eventually(lambda: self.server_model(server) is None, patience, "the server is stopped")

    def delete(self) -> None:
        """Delete the user, as the panel does."""
        answer = self.hub.api("DELETE", f"users/{self.path}")
        assert answer.status_code == 204, answer.text

    # ---- the machine

    def workers(self, server: str = "") -> list[Row]:
        return self.hub.view().workers_of(self.name, server)

    def worker(self, server: str = "") -> Row:
        """The one worker."""
        workers = self.workers(server)
        assert len(workers) == 1, workers
        return workers[0]

    def homes(self, server: str = "") -> list[Row]:
        return self.hub.view().homes_of(self.name, server)

    def home(self, server: str = "") -> Row:
        """The one home."""
        homes = self.homes(server)
        assert len(homes) == 1, homes
        return homes[0]

    def becomes(self, state: str, server: str = "", seconds: float = 10.0) -> None:
        """Wait for a state of the worker."""
        eventually(
            lambda: [w["state"] for w in self.workers(server)] == [state],
            seconds,
            f"the worker is {state}",
        )

    # ---- the server

    @property
    def token(self) -> str:
        """A token of this user's own."""
        if not self._token:
            answer = self.hub.api("POST", f"users/{self.path}/tokens", json={"note": "test"})
            assert answer.status_code == 201, answer.text
            self._token = answer.json()["token"]
        return self._token

    def server_url(self, path: str, server: str = "") -> str:
        """Below the user's server, as a browser asks for it."""
        name = f"{quote(server, safe='')}/" if server else ""
        return f"{self.hub.url}/user/{self.path}/{name}{path}"

    def ask(self, method: str, path: str, server: str = "", **more: Any) -> requests.Response:
        """A request to the user's server through the proxy, with the user's token."""
        headers = {"Authorization": f"token {self.token}"}
        url = self.server_url(path, server)
        timeout = self.hub.patience_seconds
        return self.hub.http.request(method, url, headers=headers, timeout=timeout, **more)

    def write(self, name: str, text: str, server: str = "") -> None:
        """Save a file by the contents API."""
        body = {"type": "file", "format": "text", "content": text}
        answer = self.ask("PUT", f"api/contents/{quote(name)}", server, json=body)
        assert answer.status_code in (200, 201), answer.text

    def read(self, name: str, server: str = "") -> str | None:
        """A file's text; None where there is none."""
        answer = self.ask("GET", f"api/contents/{quote(name)}", server, params={"type": "file"})
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        return str(answer.json()["content"])

    def kernel(self, server: str = "") -> Kernel:
        """A new kernel."""
        answer = self.ask("POST", "api/kernels", server)
        assert answer.status_code == 201, answer.text
        kernel_id = answer.json()["id"]
        url = self.server_url(f"api/kernels/{kernel_id}/channels", server).replace("http:", "ws:")
        return Kernel(kernel_id, url, self.token, self.hub.patience_seconds)


def at_once(*work: Any) -> list[Any]:
    """Run functions in threads of their own; their results, in order."""
    results: list[Any] = [None] * len(work)
    failures: list[BaseException] = []

    def one(index: int) -> None:
        try:
            results[index] = work[index]()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failures.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
