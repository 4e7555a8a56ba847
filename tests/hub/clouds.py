"""The emulated cloud and the cluster on it, as the hub tests use them.

Owns the cloud's process, its network on this computer's loopback addresses, the run of the real
launch command, and the control endpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from ec2spawner.model import TAG_CLUSTER, TAG_OWNER, Owner

from .processes import REPOSITORY, Process, clean_environment, eventually, start_process

FIRST_SSH_PORT = 2222
FIRST_NOTEBOOK_PORT = 8888
LOCK_PORT = 39217
BOOT_SECONDS = 0.5
STOP_SECONDS = 0.3
Row = dict[str, Any]


class Network:
    """A /16 of loopback addresses that no other run of these tests uses."""

    def __init__(self) -> None:
        for number in range(80, 250):
            self._lock = socket.socket()
            try:
                self._lock.bind((f"127.{number}.255.254", LOCK_PORT))
            except OSError:
                self._lock.close()
            else:
                self.cidr = f"127.{number}.0.0/16"
                return
        raise RuntimeError("no free loopback network")

    def close(self) -> None:
        self._lock.close()


@dataclass
class Outcome:
    """What a command did."""

    code: int
    output: str


class Cloud:
    """A served cloud with one cluster; ``workers``: "process" or "stub".

    Clouds that run at the same time have the same addresses, so each has a ``number`` of its own,
    and ports by that.
    """

    def __init__(self, folder: Path, workers: str, number: int) -> None:
        self.folder = folder
        self.workers = workers
        self.ssh_port = FIRST_SSH_PORT + number
        self.notebook_port = FIRST_NOTEBOOK_PORT + number
        self.options: tuple[str, ...] = ()  # more of the command line
        self.log = folder / "cloud.log"
        self.process: Process | None = None
        self.endpoint = ""
        self._http = requests.Session()
        self._http.trust_env = False
        folder.mkdir(parents=True)

    # ---- life

    def start(self) -> None:
        """Serve; again with the same state after ``process.kill()``."""
        begins = self.log.stat().st_size if self.log.exists() else 0
        port = self.endpoint.rpartition(":")[2] or "0"
        self.process = start_process(
            [
                *(sys.executable, "-m", "ec2spawner.localcloud", "serve", "--port", port),
                *("--state-dir", str(self.folder / "state"), "--workers", self.workers),
                *("--boot-seconds", str(BOOT_SECONDS), "--stop-seconds", str(STOP_SECONDS)),
                *("--pending-seconds", "0.2", "--snapshot-seconds", "0.5"),
                *("--builder-seconds", "0", "--image-seconds", "0"),
                *("--throttle", "off", "--ssh-port", str(self.ssh_port)),
                *self.options,
            ],
            self.folder,
            self.log,
            clean_environment(),
        )

        def address() -> str:
            assert self.process
            assert self.process.is_alive, self.log.read_text()
            found = re.findall(r"ready: (\S+)", self.log.read_text()[begins:])
            return found[-1] if found else ""

        self.endpoint = eventually(address, 30, "the emulated cloud is served")

    def close(self) -> None:
        if self.process:
            self.process.end()
            self.process.close()
        self._http.close()

    def environment(self) -> dict[str, str]:
        """What a process must see to take this cloud for AWS."""
        return clean_environment(
            AWS_ENDPOINT_URL=self.endpoint,
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_CONFIG_FILE=os.devnull,
            AWS_SHARED_CREDENTIALS_FILE=os.devnull,
            AWS_EC2_METADATA_DISABLED="true",
        )

    def launch_cluster(self, cidr: str, hub_connect_url: str = "http://127.0.0.1:8081") -> None:
        """Run the real launch command."""
        outcome = self.run(
            *("launch.py", "hubtest", "--no-manager", "--yes", "--vpc-cidr", cidr),
            *("--hub-connect-url", hub_connect_url, "--hub-address", "127.0.0.1"),
            *("--worker-ssh-port", str(self.ssh_port)),
            *("--config-out", str(self.folder / "server_config.json")),
        )
        assert outcome.code == 0, outcome.output
        shutil.copytree(self.folder / "state", self.folder / "state-without-workers")

    def take_over(self, other: Cloud) -> None:
        """Begin with the cluster of another cloud, as it was built."""
        shutil.copytree(other.folder / "state-without-workers", self.folder / "state")
        shutil.copy(other.folder / "server_config.json", self.folder)

    def run(self, script: str, *arguments: str) -> Outcome:
        """Run a command of ``launch_cluster/``."""
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "launch_cluster" / script), *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Outcome(done.returncode, done.stdout + done.stderr)

    @property
    def server_config(self) -> Row:
        """What the launch command wrote, with this cloud's ports."""
        config: Row = json.loads((self.folder / "server_config.json").read_text())
        ports = {"WORKER_SSH_PORT": self.ssh_port, "WORKER_NOTEBOOK_PORT": self.notebook_port}
        return {**config, **ports}

    # ---- the control endpoint

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """One request; fails unless it is answered with 200."""
        url = f"{self.endpoint}/_localcloud/{path}"
        answer = self._http.request(method, url, json=body, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def fault(self, **rule: Any) -> int:
        """Put a fault in force; its number."""
        return int(self.control("POST", "faults", rule)["id"])

    def fail(self, action: str, code: str, status: int = 400, **more: Any) -> int:
        """Have calls of an action answered with an error of AWS."""
        message = f"Emulated {code} for i-0123456789abcdef0 at 10.0.0.7"
        rule = {"fault": "error", "code": code, "message": message, "status": status}
        return self.fault(action=action, **{"count": None, **rule, **more})

    def outage(self, on: bool, kind: str = "refuse") -> None:
        """Have all AWS calls fail, or end that."""
        self.control("POST", "outage", {"on": on, "kind": kind})

    def forgive(self) -> None:
        """Take all faults back."""
        self.control("DELETE", "faults")
        self.control("POST", "workers/hang-boots", {"count": 0})
        self.control("POST", "capacity", {})

    def on_worker(self, instance_id: str, action: str, body: Any = None) -> Any:
        """Do something to one worker."""
        return self.control("POST", f"workers/{instance_id}/{action}", body)

    def calls(self) -> dict[str, int]:
        """How often each action of EC2 was called, whatever came of it."""
        counted = self.control("GET", "calls")["calls"]
        return {action: sum(outcomes.values()) for action, outcomes in counted.items()}

    def home_of(self, volume_id: str) -> Path:
        """The files of a home."""
        return self.folder / "state" / "volumes" / volume_id / "data"

    # ---- one cluster's part of it

    def view(self, cluster: str) -> View:
        """What a cluster consists of now."""
        state = self.control("GET", "state")
        kinds = ("instances", "volumes", "snapshots")
        rows = {k: [r for r in state[k] if r["tags"].get(TAG_CLUSTER) == cluster] for k in kinds}
        return View(**rows)


GONE = ("terminated", "shutting-down")


@dataclass(frozen=True)
class View:
    """Instances, volumes and snapshots of one cluster, as the control endpoint shows them."""

    instances: list[Row]
    volumes: list[Row]
    snapshots: list[Row]

    @property
    def alive(self) -> list[Row]:
        """Instances that are not terminated, nor about to be."""
        return [i for i in self.instances if i["state"] not in GONE]

    @property
    def homes(self) -> list[Row]:
        """Volumes that are no root disks."""
        return [v for v in self.volumes if not v["is_root"] and v["state"] != "deleted"]

    def workers_of(self, user: str, server: str = "") -> list[Row]:
        """An owner's living instances."""
        key = Owner(user, server).key
        return [i for i in self.alive if i["tags"].get(TAG_OWNER) == key]

    def homes_of(self, user: str, server: str = "") -> list[Row]:
        """An owner's homes."""
        key = Owner(user, server).key
        return [v for v in self.homes if v["tags"].get(TAG_OWNER) == key]

    @property
    def spares(self) -> list[Row]:
        """Living instances that are nobody's."""
        return [i for i in self.alive if TAG_OWNER not in i["tags"]]
