"""The emulated machine: its SSH, its power, its faults, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from ec2spawner.worker.notice_file import read_all

from .fake_hub import FakeHub
from .machines import ADDRESS, Machine, processes_of, wait_until

KEY = asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, authorized_keys=[KEY.export_public_key().decode().strip()])
    yield machine
    machine.kill()


def connect(machine: Machine, **options: Any) -> Any:
    wanted = {"username": "ec2spawner", "client_keys": [KEY], "known_hosts": None, **options}
    return asyncssh.connect(ADDRESS, machine.ssh_port, config=None, **wanted)


async def connected(machine: Machine, seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await connect(machine)
        except OSError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


def ask(machine: Machine, **request: Any) -> dict[str, Any]:
    directory = os.open(machine.directory, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"/proc/self/fd/{directory}/init.sock")
        os.close(directory)
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answers:
            return dict(json.loads(answers.readline()))


def start_tree(machine: Machine) -> None:
    """A server with kernels and terminals in sessions of their own, some without a parent."""
    machine.start()
    machine.worker("stop")
    machine.tell("offspring")
    machine.start()
    wait_until(lambda: sleepers(machine) == 2)


def sleepers(machine: Machine) -> int:
    """Counts by working directory: these inherited nothing else of the machine that shows."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            here = (entry / "cwd").readlink() == machine.home
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            count += here and state != "Z" and b"sleep" in (entry / "cmdline").read_bytes()
        except OSError:
            continue
    return count


def is_gone(machine: Machine) -> bool:
    """The lock is free once the last process of the machine has ended."""
    with (machine.directory / "machine.lock").open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return not processes_of(machine.directory) and sleepers(machine) == 0


async def test_ssh_runs_commands_for_the_right_key_and_user_only(machine: Machine) -> None:
    machine.boot(sshd=True)
    async with await connected(machine) as connection:
        done = await connection.run("cat; echo err >&2; exit 3", input="hello")
        assert (done.stdout, done.stderr, done.exit_status) == ("hello", "err\n", 3)
        done = await connection.run("echo $EC2SPAWNER_MACHINE; command -v ec2spawner-worker")
        directory, worker = done.stdout.splitlines()
        assert directory == str(machine.directory)
        assert worker == str(Path(sys.executable).parent / "ec2spawner-worker")
        big = await connection.run("head -c 1000000 /dev/zero | tr '\\0' x")
        assert len(big.stdout) == 1_000_000
        killed = await connection.run("kill -9 $$")
        assert killed.exit_status == 137
        shell = await connection.run()
        assert shell.exit_status == 1
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", 22)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.start_sftp_client()
    for wrong in (
        {"username": "root"},
        {"client_keys": [asyncssh.generate_private_key("ssh-ed25519")]},
        {"client_keys": [], "password": "", "agent_path": None},
    ):
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(machine, **wrong)


async def test_the_worker_starts_a_server_over_ssh(machine: Machine) -> None:
    machine.boot(sshd=True)
    async with await connected(machine) as connection:
        done = await connection.run("ec2spawner-worker start", input=machine.document().decode())
        assert json.loads(done.stdout.splitlines()[-1])["event"] == "ready"
    assert machine.worker("status")[0]["active"] is True


async def test_it_boots_in_its_time_and_keeps_its_host_key(machine: Machine) -> None:
    began = time.monotonic()
    machine.settings["boot_seconds"] = 1.0
    (machine.directory / "machine.json").write_text(json.dumps(machine.settings))
    machine.boot(sshd=True)
    async with await connected(machine) as connection:
        key = connection.get_server_host_key().export_public_key()
    assert time.monotonic() - began >= 1.0
    machine.kill()
    machine.settings["boot_seconds"] = 0
    (machine.directory / "machine.json").write_text(json.dumps(machine.settings))
    machine.boot(sshd=True)
    async with await connected(machine) as connection:
        assert connection.get_server_host_key().export_public_key() == key
    machine.kill()
    (machine.directory / "faults.json").write_text('{"host_key": "new"}')
    machine.boot(sshd=True)
    async with await connected(machine) as connection:
        assert connection.get_server_host_key().export_public_key() != key


async def test_ssh_faults_begin_and_end_while_it_runs(machine: Machine) -> None:
    machine.boot(sshd=True)
    async with await connected(machine):
        pass
    faults = machine.directory / "faults.json"
    for fault in ("garbage", "endless", "refuse"):
        faults.write_text(json.dumps({"ssh": fault}))
        with pytest.raises((asyncssh.Error, OSError)):
            await asyncio.wait_for(connect(machine, login_timeout=1), 5)
    faults.write_text('{"ssh": "hang"}')
    with pytest.raises((asyncio.TimeoutError, asyncssh.Error)):
        await asyncio.wait_for(connect(machine), 0.3)
    for fault, status in (("garbage", 0), ("fail", 1)):
        faults.write_text(json.dumps({"command": fault}))
        async with await connected(machine) as connection:
            done = await connection.run("ec2spawner-worker status", encoding=None)
            assert done.exit_status == status
            assert (b"not JSON" in done.stdout) == (fault == "garbage")
    faults.write_text('{"command": "endless"}')
    async with await connected(machine) as connection:
        running = await connection.create_process("ec2spawner-worker status", encoding=None)
        assert len(await running.stdout.readexactly(5_000_000)) == 5_000_000
    faults.unlink()
    async with await connected(machine) as connection:
        assert (await connection.run("true")).exit_status == 0


@pytest.mark.parametrize("keys", [[], [""], ["ssh-ed25519 garbage"]])
async def test_without_a_good_key_it_boots_and_lets_nobody_in(
    machine: Machine, keys: list[str]
) -> None:
    machine.settings["authorized_keys"] = keys
    (machine.directory / "machine.json").write_text(json.dumps(machine.settings))
    machine.boot(sshd=True)
    with pytest.raises(asyncssh.PermissionDenied):
        await connected(machine)


def test_sigterm_ends_the_server_gracefully_and_everything_else(machine: Machine) -> None:
    machine.boot(sshd=True)
    start_tree(machine)
    assert machine.process
    machine.process.terminate()
    assert machine.process.wait(10) == 0
    assert is_gone(machine)


def test_a_power_off_from_within_is_an_exit_with_0(machine: Machine) -> None:
    machine.boot(sshd=True)
    start_tree(machine)
    assert ask(machine, op="poweroff") == {"active": True}
    assert machine.process
    assert machine.process.wait(10) == 0
    assert is_gone(machine)


def test_its_own_watchdog_powers_it_off_with_exit_0(machine: Machine) -> None:
    machine.settings["watchdog_seconds"] = 0.2
    (machine.directory / "machine.json").write_text(json.dumps(machine.settings))
    machine.boot(sshd=True)
    hub = FakeHub()
    terms = {"hub_url": f"http://{ADDRESS}:{hub.port}/hub/api"}
    machine.start(watchdog={**terms, "hub_lost_seconds": 1, "idle_seconds": 1})
    log = machine.directory / "machine.log"
    wait_until(lambda: len(hub.asked) >= 3)
    hub.close()
    assert machine.process
    assert machine.process.wait(20) == 0
    assert is_gone(machine)
    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [e.get("hub") or e["reason"] for e in said] == ["reached", "away", "hub-lost"]


def test_on_a_spot_machine_word_is_left_of_its_interruption(machine: Machine) -> None:
    machine.settings["is_spot"] = True
    (machine.directory / "machine.json").write_text(json.dumps(machine.settings))
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
    (machine.directory / "instance-action.json").write_text(
        json.dumps({"action": "stop", "time": at})
    )
    machine.boot(sshd=True)
    (notice,) = wait_until(lambda: read_all(machine.directory / "run/notices"))
    assert "Amazon takes this machine back in about 2 minutes" in notice.text(time.time())
    log = machine.directory / "machine.log"
    wait_until(lambda: '"action":"stop"' in log.read_text())
    assert len(looking_for_notices(machine)) == 1
    machine.kill()
    assert is_gone(machine)


def looking_for_notices(machine: Machine) -> list[int]:
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in processes_of(machine.directory)}
    return [p for p, line in commands.items() if line.read_bytes().endswith(b"notices\0")]


def test_on_demand_nothing_looks_for_interruptions(machine: Machine) -> None:
    machine.boot(sshd=True)
    wait_until(lambda: "booted" in (machine.directory / "machine.log").read_text(errors="replace"))
    assert looking_for_notices(machine) == []


def test_killed_it_leaves_no_process_behind(machine: Machine) -> None:
    machine.boot(sshd=True)
    start_tree(machine)
    assert machine.process
    machine.process.kill()
    assert machine.process.wait(5) == -9
    wait_until(lambda: is_gone(machine), 2)


def test_with_its_init_killed_it_ends_and_leaves_no_process_behind(machine: Machine) -> None:
    machine.boot(sshd=True)
    start_tree(machine)
    assert machine.process
    children = Path(f"/proc/{machine.process.pid}/task/{machine.process.pid}/children")
    (init,) = children.read_text().split()
    os.kill(int(init), signal.SIGKILL)
    assert machine.process.wait(5) == 1
    wait_until(lambda: is_gone(machine), 2)


def test_when_the_cloud_is_killed_it_ends_and_leaves_no_process_behind(machine: Machine) -> None:
    cloud = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, threading, time\n"
            "start = lambda: subprocess.Popen(sys.argv[1:])\n"
            # From a thread that ends at once: that must not count as the cloud's death.
            "thread = threading.Thread(target=start); thread.start(); thread.join()\n"
            "time.sleep(60)",
            *(sys.executable, "-m", "ec2spawner.localcloud.machine", str(machine.directory)),
        ]
    )
    try:
        wait_until((machine.directory / "init.sock").exists)
        start_tree(machine)
    finally:
        cloud.kill()
        cloud.wait()
    wait_until(lambda: is_gone(machine), 3)


def test_a_server_s_death_takes_its_kernels_along(machine: Machine) -> None:
    machine.boot()
    start_tree(machine)
    os.kill(machine.worker("status")[0]["pid"], signal.SIGKILL)
    wait_until(lambda: sleepers(machine) == 0)
    (status,) = machine.worker("status")
    assert (status["active"], status["exit_code"]) == (False, -9)


def test_a_frozen_machine_is_silent_until_it_thaws(machine: Machine) -> None:
    machine.boot()
    machine.start()
    assert ask(machine, op="freeze")["processes"] >= 2
    with socket.create_connection((ADDRESS, machine.port), timeout=0.3) as silent:
        silent.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(TimeoutError):
            silent.recv(1)
    ask(machine, op="thaw")
    assert machine.start()["reused"] is True


def test_a_second_machine_on_the_same_disk_waits_for_the_first(machine: Machine) -> None:
    machine.boot(sshd=True)
    second = subprocess.Popen(
        [sys.executable, "-m", "ec2spawner.localcloud.machine", str(machine.directory)]
    )
    log = machine.directory / "machine.log"
    assert machine.process
    time.sleep(0.2)
    assert log.read_text().count("pid of init's parent") == 1
    machine.process.kill()
    machine.process.wait()
    machine.process = second
    wait_until(lambda: log.read_text().count("pid of init's parent") == 2)


def test_a_disk_that_is_no_machine_s_or_another_parent(machine: Machine, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-m", "ec2spawner.localcloud.machine", *arguments]
        return subprocess.run(argv, capture_output=True, timeout=10, check=False)

    refused = run(str(tmp_path))
    assert refused.returncode == 2
    assert b"no machine's disk" in refused.stderr
    assert run(str(machine.directory), "--parent", "1").returncode == 1


@pytest.mark.parametrize(
    "line",
    [b"not JSON", b"[]", b"null", b'{"op": "reboot"}', b'{"op": "status"}', b'{"op": "start"}'],
)
def test_init_answers_a_bad_request_and_goes_on(machine: Machine, line: bytes) -> None:
    machine.boot()
    directory = os.open(machine.directory, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"/proc/self/fd/{directory}/init.sock")
        os.close(directory)
        connection.sendall(line + b"\n" + b'{"op": "status", "unit": "x"}\n')
        with connection.makefile("rb") as answers:
            assert "error" in json.loads(answers.readline())
            assert json.loads(answers.readline())["active"] is False
