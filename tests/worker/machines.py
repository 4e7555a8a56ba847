"""Emulated machines for the worker's tests, and what is left of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .documents import VOLUME_ID, encoded

ADDRESS = "127.77.250.1"
STAND_IN = [sys.executable, "-I", "-S", str(Path(__file__).with_name("stand_in_server.py"))]
WORKER = [sys.executable, "-m", "ec2spawner.worker.cli"]
INIT_ONLY = (
    "import os, pathlib, sys; from ec2spawner.localcloud.machine import fork_init;"
    "fork_init(pathlib.Path(sys.argv[1]), os.getppid()).recv(1)"
)


def wait_until(what: Callable[[], Any], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return answer


def free_port(address: str = ADDRESS) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def processes_of(directory: Path) -> list[int]:
    """Living processes that were started on this machine: its mark is in their environment."""
    mark = str(directory).encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if mark in text and state != "Z" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


class Machine:
    """One emulated machine with a blank home volume attached, and a stand-in for a server."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.directory = root / "instances" / "i-0123456789abcdef0"
        self.volume = root / "volumes" / VOLUME_ID
        self.home = self.volume / "data"
        self.port = free_port()
        self.ssh_port = free_port()
        (self.directory / "nvme").mkdir(parents=True)
        self.volume.mkdir(parents=True)
        self.attach()
        self.settings = {
            "instance_id": self.directory.name,
            "private_ip": ADDRESS,
            "ssh_port": self.ssh_port,
            "authorized_keys": [],
            "boot_seconds": 0.0,
            "server_argv": STAND_IN,
            **settings,
        }
        (self.directory / "machine.json").write_text(json.dumps(self.settings))
        self.process: subprocess.Popen[bytes] | None = None

    def attach(self) -> None:
        (self.directory / "nvme" / VOLUME_ID.replace("-", "", 1)).symlink_to(self.volume)

    def boot(self, *, sshd: bool = False) -> None:
        argv = ["-m", "ec2spawner.localcloud.machine"] if sshd else ["-c", INIT_ONLY]
        (self.directory / "init.sock").unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, *argv, str(self.directory)])
        wait_until((self.directory / "init.sock").exists)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            wait_until(lambda: not processes_of(self.directory))

    def popen(self, command: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*WORKER, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"EC2SPAWNER_MACHINE": str(self.directory), "PATH": os.environ["PATH"]},
            **options,
        )

    def worker(self, command: str, document: bytes = b"") -> list[dict[str, Any]]:
        """Run ec2spawner-worker; its answer. Nothing may come on stderr."""
        with self.popen(command) as running:
            out, err = running.communicate(document, timeout=30)
        assert err == b""
        told = [json.loads(line) for line in out.splitlines()]
        assert told or command == "watchdog"  # which says only what has changed
        assert running.returncode == (told[-1:] != [] and told[-1].get("event") == "error")
        return told

    def document(self, **changes: Any) -> bytes:
        return encoded(**{"address": ADDRESS, "port": self.port, **changes})

    def start(self, **changes: Any) -> dict[str, Any]:
        return self.worker("start", self.document(**changes))[-1]

    def starts(self) -> int:
        return len((self.home / "starts").read_text().splitlines())

    def tell(self, what: str) -> None:
        """What the stand-in is to do from its next start on; needs a home."""
        (self.home / "told").write_text(what)
