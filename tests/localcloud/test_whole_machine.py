"""A served cloud with the real emulated machine: SSH, the worker's command, power-off."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncssh

from localcloud.serving import Serving, launch_worker, make_subnet, state_of, until


async def _connect(address: str, key: asyncssh.SSHKey) -> asyncssh.SSHClientConnection:
    for _ in range(1000):
        try:
            return await asyncssh.connect(
                address,
                2222,
                username="ec2spawner",
                client_keys=[key],
                known_hosts=None,
                config=None,
            )
        except OSError:
            await asyncio.sleep(0.02)
    raise AssertionError("never answered")


async def test_a_worker_boots_runs_the_workers_command_and_powers_off(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    with Serving(tmp_path / "state", stand_in=False) as serving:
        ec2 = serving.client()
        ec2.import_key_pair(KeyName="cluster", PublicKeyMaterial=key.export_public_key())
        subnet = make_subnet(ec2, "127.91.5.0/24")
        one = launch_worker(ec2, subnet, KeyName="cluster")
        async with await _connect(one["PrivateIpAddress"], key) as connection:
            status = await connection.run("ec2spawner-worker status", stdin=asyncssh.DEVNULL)
            host_key = connection.get_server_host_key()
        assert json.loads(str(status.stdout))["active"] is False
        console = ec2.get_console_output(InstanceId=one["InstanceId"])["Output"]
        assert "booted after" in console
        pids = await asyncio.to_thread(_machine_processes, serving.state_dir)
        assert pids
        serving.control("POST", f"workers/{one['InstanceId']}/fresh-host-key", {})
        until(lambda: not pids & _machine_processes(serving.state_dir))
        async with await _connect(one["PrivateIpAddress"], key) as connection:
            assert host_key
            assert connection.get_server_host_key() != host_key
        serving.control("POST", f"workers/{one['InstanceId']}/power-off", {})
        until(lambda: state_of(ec2, one["InstanceId"]) == "stopped")
        until(lambda: not _machine_processes(serving.state_dir))
        ec2.start_instances(InstanceIds=[one["InstanceId"]])
        until(lambda: _machine_processes(serving.state_dir))
        serving.kill()
        until(lambda: not _machine_processes(serving.state_dir))


def _machine_processes(state_dir: Path) -> set[int]:
    """Pids of every process that names the state directory, but the cloud's own."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(w.startswith(bytes(state_dir / "instances")) for w in words):
            found.add(int(entry.name))
    return found
