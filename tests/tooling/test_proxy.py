"""The proxy: an open tab's traffic is no activity, and no stranger's process is ended."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ec2spawner.proxy import RoutesOnlyProxy

ROUTE = {
    "/user/zo%C3%AB": {
        "target": "http://127.77.1.5:8888",
        "jupyterhub": True,
        "user": "zoë",
        "server_name": "",
        "last_activity": "2026-11-21T09:00:00.000Z",
    }
}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> RoutesOnlyProxy:
    async def api_request(*_: Any, **__: Any) -> Any:
        async def read() -> Any:
            return json.loads(json.dumps(ROUTE))

        return SimpleNamespace(json=read)

    made = RoutesOnlyProxy(auth_token="t", should_start=False, command=["node", "/x/the-proxy"])
    monkeypatch.setattr(made, "api_request", api_request)
    return made


async def test_routes_carry_no_time_of_traffic(proxy: RoutesOnlyProxy) -> None:
    routes = await proxy.get_all_routes()
    (route,) = routes.values()
    assert route["target"] == "http://127.77.1.5:8888"
    assert route["data"]["user"] == "zoë"
    assert "last_activity" not in route["data"]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    # Right after it was started, a process may not have its command line yet.
    code = "import time; print('up', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "/x/the-proxy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n"
        yield started
        started.kill()


def test_old_proxy_of_ours_is_found(
    proxy: RoutesOnlyProxy, process: subprocess.Popen[bytes]
) -> None:
    proxy._check_pid(process.pid)


def test_strangers_process_with_the_old_number_is_left_alone(proxy: RoutesOnlyProxy) -> None:
    with pytest.raises(ProcessLookupError):
        proxy._check_pid(os.getpid())
