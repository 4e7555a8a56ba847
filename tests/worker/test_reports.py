"""The real single-user server, started by the worker, and what it reports to its hub."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from .documents import TOKEN
from .machines import ADDRESS, Machine, wait_until


class FakeHub:
    """The few answers that a single-user server wants; can go away and come back."""

    def __init__(self) -> None:
        self.reports: list[float] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({"version": "6.1.1"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Authorization"] == f"token {TOKEN}"
                told = body["servers"][""]["last_activity"]
                moment = datetime.fromisoformat(told.replace("Z", "+00:00"))
                hub.reports.append(moment.timestamp())
                self.answer({})

            def answer(self, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("X-JupyterHub-Version", "6.1.1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.handler = Handler
        self.port = 0
        self.come()

    def come(self) -> None:
        self.server = http.server.ThreadingHTTPServer((ADDRESS, self.port), self.handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def go_away(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    yield hub
    hub.go_away()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, server_argv=[])
    machine.boot()
    yield machine
    machine.kill()


def environment(hub: FakeHub) -> dict[str, str]:
    api = f"http://{ADDRESS}:{hub.port}/hub/api"
    return {
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JUPYTERHUB_API_URL": api,
        "JUPYTERHUB_ACTIVITY_INTERVAL": "1",
        "JUPYTERHUB_ACTIVITY_URL": f"{api}/users/jo/activity",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-jo",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": "[]",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/jo/oauth_callback",
        "JUPYTERHUB_SERVER_NAME": "",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/jo/",
        "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:0/user/jo/",
        "JUPYTERHUB_USER": "jo",
    }


def test_a_report_is_repeated_until_the_hub_is_back(machine: Machine, hub: FakeHub) -> None:
    ready = machine.start(environment=environment(hub), args=[])
    assert ready["event"] == "ready"
    answered_at = time.time()
    wait_until(lambda: len(hub.reports) >= 2)
    assert set(hub.reports) == {hub.reports[0]}  # nobody is at work: the same moment each time
    assert hub.reports[0] <= answered_at
    hub.go_away()
    log = machine.directory / "server.log"
    wait_until(lambda: "Error notifying Hub of activity" in log.read_text(), 5)
    count = len(hub.reports)
    hub.come()
    wait_until(lambda: len(hub.reports) > count, 20)
    assert TOKEN not in log.read_text()

    (stopped,) = machine.worker("stop")
    assert stopped["seconds"] < 5
    assert machine.worker("status")[0]["exit_code"] == 0  # it ended by itself
