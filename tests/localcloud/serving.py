"""A served cloud for tests: the real command, on a free port, ended for certain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.config import Config

from ec2spawner.localcloud.inprocess import _session
from localcloud.support import AMI, tags

STAND_IN = Path(__file__).with_name("stand_in_machine.py")
BOUND_SECONDS = 15.0


class Serving:
    """``python -m ec2spawner.localcloud serve``, which ends with this process at the latest."""

    def __init__(self, state_dir: Path, *options: str, stand_in: bool = True) -> None:
        machine = ("--machine-command", f"{sys.executable} {STAND_IN}") if stand_in else ()
        self._command = [
            *(sys.executable, "-m", "ec2spawner.localcloud.demo_child", str(os.getpid())),
            *(sys.executable, "-m", "ec2spawner.localcloud", "serve", "--port", "0"),
            *("--state-dir", str(state_dir), "--throttle", "off", "--boot-seconds", "0.1"),
            *("--stop-seconds", "0.3", "--volume-seconds", "0", "--snapshot-seconds", "0.1"),
            *machine,
            *options,
        ]
        self.state_dir = state_dir
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Serving:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with (self.state_dir.parent / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("ready: "), (self.state_dir.parent / "serve.log").read_text()
        self.url = line.split()[1]

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, and wait for the end."""
        assert self.process
        assert self.process.stdout
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(BOUND_SECONDS)
        self.process.stdout.close()
        return code

    def client(self, service: str = "ec2") -> Any:
        """A boto3 client without retries."""
        return _session().client(
            service,
            region_name="us-east-1",
            endpoint_url=self.url,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=20),
        )

    def control(self, method: str, path: str, document: Any = None) -> Any:
        """A request to the control endpoint."""
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"{self.url}/_localcloud/{path}", data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return {"status": error.code, **json.load(error)}


def make_subnet(ec2: Any, cidr: str) -> str:
    """A VPC with one subnet; tests use ranges of their own, for the ports are this computer's."""
    vpc = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
    made = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone="us-east-1a")
    return str(made["Subnet"]["SubnetId"])


def launch_worker(ec2: Any, subnet: str, *, role: str = "worker", **more: Any) -> dict[str, Any]:
    """One instance, which gets a machine if it is a worker."""
    (instance,) = ec2.run_instances(
        ImageId=AMI,
        InstanceType="t3.medium",
        SubnetId=subnet,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[tags("instance", **{"ec2spawner:role": role})],
        BlockDeviceMappings=[
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 10, "DeleteOnTermination": False}}
        ],
        **more,
    )["Instances"]
    return dict(instance)


def state_of(ec2: Any, instance_id: str) -> str:
    """An instance's state."""
    found = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]
    return str(found["Instances"][0]["State"]["Name"])


def until(test: Callable[[], Any], bound_seconds: float = BOUND_SECONDS) -> Any:
    """Poll until ``test`` is truthy."""
    end = time.monotonic() + bound_seconds
    while not (value := test()):
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def pid_of(state_dir: Path, instance_id: str) -> int:
    """The stand-in machine's pid, once it has booted."""
    path = state_dir / "instances" / instance_id / "boots"
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text().split()[-1])


def boots(state_dir: Path, instance_id: str) -> int:
    """How often a machine has booted."""
    path = state_dir / "instances" / instance_id / "boots"
    return len(path.read_text().split()) if path.exists() else 0


def exists(pid: int) -> bool:
    """Whether the pid is taken, zombies included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
