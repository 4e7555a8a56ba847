"""Stub workers: SSH and a notebook server without anything behind them."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from ec2spawner.localcloud.machines import MachineSpec
from ec2spawner.localcloud.stub_workers import StubWorkers

ADDRESS = "127.91.9.1"
SSH_PORT = 2222
WEB_PORT = 8888


@pytest.fixture(scope="module")
def key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def stubs() -> Iterator[StubWorkers]:
    stubs = StubWorkers(server_seconds=0.0)
    yield stubs
    stubs.close()


def _spec(directory: Path, key: asyncssh.SSHKey, address: str = ADDRESS) -> MachineSpec:
    line = key.export_public_key().decode().strip()
    spec = MachineSpec(f"i-{address}", directory / address, address, SSH_PORT, (line,), 0.0)
    spec.write()
    return spec


def _document(claim: str = "0" * 16, **more: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "owner": "ada-1",
        "claim": claim,
        "volume_id": "vol-1",
        "username": "jovyan",
        "address": ADDRESS,
        "port": WEB_PORT,
        "environment": {"JUPYTERHUB_API_TOKEN": "secret"},
        "args": [],
        "limits": {},
        "timeout_seconds": 5,
        **more,
    }


async def _connect(key: asyncssh.SSHKey, user: str = "ec2spawner") -> asyncssh.SSHClientConnection:
    for _ in range(200):
        try:
            return await asyncssh.connect(
                ADDRESS, SSH_PORT, username=user, client_keys=[key], known_hosts=None, config=None
            )
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
    raise AssertionError("never listened")


async def _run(key: asyncssh.SSHKey, verb: str, document: Any = None) -> list[dict[str, Any]]:
    async with await _connect(key) as connection:
        command = f"ec2spawner-worker {verb}"
        if document is None:
            result = await connection.run(command, stdin=asyncssh.DEVNULL)
        else:
            result = await connection.run(command, input=json.dumps(document))
    return [json.loads(line) for line in str(result.stdout).splitlines()]


def _get(path: str) -> tuple[int, Any, Any]:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:{WEB_PORT}{path}", timeout=5) as reply:
            return reply.status, json.load(reply), reply.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None, error.headers


async def test_it_starts_answers_and_stops(
    stubs: StubWorkers, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    stubs.start(_spec(tmp_path, key))
    events = await _run(key, "start", _document())
    assert [e["event"] for e in events] == ["progress"] * 4 + ["ready"]
    assert events[-1]["reused"] is False
    status, body, headers = await asyncio.to_thread(_get, "/user/ada/api")
    assert (status, body["version"]) == (200, headers["X-JupyterHub-Version"])
    assert (await asyncio.to_thread(_get, "/elsewhere"))[0] == 404
    (again,) = await _run(key, "start", _document())
    assert again["reused"] is True
    (shown,) = await _run(key, "status")
    assert (shown["active"], shown["owner"]) == (True, "ada-1")
    (stopped,) = await _run(key, "stop")
    assert stopped["event"] == "stopped"
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(_get, "/user/ada/api")


async def test_a_claim_is_kept_over_a_stop(
    stubs: StubWorkers, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    spec = _spec(tmp_path, key)
    stubs.start(spec)
    await _run(key, "start", _document("a" * 16))
    stubs.stop(spec.instance_id)
    stubs.kill(spec.instance_id)
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(_get, "/user/ada/api")
    stubs.start(spec)
    (error,) = await _run(key, "start", _document("b" * 16))
    assert (error["event"], error["code"]) == ("error", "owner-mismatch")
    assert (await _run(key, "start", _document("a" * 16)))[-1]["event"] == "ready"


async def test_it_takes_only_its_key_and_user(
    stubs: StubWorkers, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    stubs.start(_spec(tmp_path, key))
    await _run(key, "status")
    with pytest.raises(asyncssh.PermissionDenied):
        await _connect(asyncssh.generate_private_key("ssh-ed25519"))
    with pytest.raises(asyncssh.PermissionDenied):
        await _connect(key, "root")


async def test_the_host_key_is_the_disks(
    stubs: StubWorkers, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    spec = _spec(tmp_path, key)
    seen = []
    for _ in range(2):
        stubs.start(spec)
        async with await _connect(key) as connection:
            host_key = connection.get_server_host_key()
            assert host_key
            seen.append(host_key.export_public_key())
        stubs.kill(spec.instance_id)
    assert seen[0] == seen[1]


async def test_nonsense_on_stdin_is_a_bad_document(
    stubs: StubWorkers, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    stubs.start(_spec(tmp_path, key))
    (error,) = await _run(key, "start", [1, 2])
    assert error["code"] == "bad-document"


async def test_a_killed_server_leaves_the_machine_on(
    stubs: StubWorkers, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    spec = _spec(tmp_path, key)
    stubs.start(spec)
    await _run(key, "start", _document())
    assert await asyncio.to_thread(stubs.kill_server, spec.instance_id)
    (shown,) = await _run(key, "status")
    assert shown["active"] is False


async def test_a_cut_network_answers_nothing_and_comes_back(
    stubs: StubWorkers, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    spec = _spec(tmp_path, key)
    stubs.start(spec)
    await _run(key, "status")
    stubs.cut_network(spec.instance_id, cut=True)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(_connect(key), 0.3)
    stubs.cut_network(spec.instance_id, cut=False)
    await _run(key, "status")
