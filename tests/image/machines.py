"""A cloud whose workers are real machines, and a root shell on each of them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
from hub.clouds import Cloud
from hub.hubs import Hub

from ec2spawner.localcloud.vm_workers import HOST_ADDRESS
from ec2spawner.model import TAG_ROLE, Role

BOOT_SECONDS = 900.0
"""For a machine whose processors are emulated, on a computer that may do other things, too."""
PATIENCE = {
    "ec2spawner.replacing:BOOT_BOUND_SECONDS": BOOT_SECONDS / 2,
    "ec2spawner.spawner:SERVER_TIMEOUT_SECONDS": round(BOOT_SECONDS / 2),
    "ec2spawner.remote:LOGIN_SECONDS": 60.0,
    "ec2spawner.remote:ANSWER_SECONDS": 60.0,
}
"""Constants of a hub whose machines are as slow as that."""
SHELL_PAUSE_SECONDS = 5.0
SHELL_WORDS = "systemd.debug_shell=ttyS1 mitigations=off"
"""The shell; and an emulated processor has no leaks to be stopped, which would take a tenth."""
PLAIN_SHELL = b"""\
exec env TERM=dumb SYSTEMD_COLORS=0 SYSTEMD_PAGER=cat COLUMNS=400 sh
stty -echo -onlcr cols 400
PS1= PS2=
"""


class VmCloud(Cloud):
    """A cloud of real machines of one image."""

    def __init__(self, folder: Path, image: Path) -> None:
        super().__init__(folder, "vm", 0)
        self.options = (
            *("--stop-seconds", "120", "--terminate-seconds", "1", "--pending-seconds", "1"),
            *("--vm-image", str(image), "--vm-append", SHELL_WORDS),
            *("--vm-notebook-port", str(self.notebook_port)),
        )

    def machine(self, instance_id: str) -> Path:
        """A machine's directory."""
        return self.folder / "state" / "instances" / instance_id

    def shell(self, instance_id: str) -> Shell:
        """A root shell on a machine that has booted far enough."""
        return Shell(self.machine(instance_id))

    def launch_for_nobody(self) -> str:
        """A machine beside the hub's, of the cluster's own launch template."""
        config = self.server_config
        client = boto3.Session().client(
            "ec2",
            endpoint_url=self.endpoint,
            region_name=config["REGION"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        launched = client.run_instances(
            LaunchTemplate={"LaunchTemplateId": config["LAUNCH_TEMPLATE_ID"]},
            SubnetId=config["WORKER_SUBNETS"][0]["SUBNET_ID"],
            InstanceType=config["WORKER_INSTANCE_TYPE"],
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": TAG_ROLE, "Value": Role.WORKER.value}],
                }
            ],
        )
        return str(launched["Instances"][0]["InstanceId"])

    def console(self, instance_id: str) -> str:
        return (self.machine(instance_id) / "console.log").read_text(errors="replace")


def reach_from_machines(hub: Hub) -> Hub:
    """Have the hub tell its workers the address at which real machines reach it, and wait."""
    hub.choices["HUB_CONNECT_URL"] = f"http://{HOST_ADDRESS}:{hub.api_port}"
    hub.choices.setdefault("START_TIMEOUT_SECONDS", round(BOOT_SECONDS))
    hub.constants |= PATIENCE
    hub.patience_seconds = 120.0
    return hub


class Shell:
    """systemd's debug shell on the second serial port; the image has nothing to do with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, command: str, seconds: float = 240.0) -> tuple[int, str]:
        """Exit code and output of a command; lines are joined as a terminal shows them."""
        deadline = time.monotonic() + seconds
        token = secrets.token_hex(8)
        words = f"printf '%s-%s\\n' BEGIN {token}\n{command}\nprintf '%s-%s %s\\n' END {token} $?\n"
        with self._connected(seconds) as port:
            self._await_shell(port, deadline)
            port.sendall(PLAIN_SHELL)
            self._await_shell(port, deadline)
            port.sendall(words.encode())
            text = ""
            while not (end := re.search(rf"END-{token} (\d+)", text)):
                assert time.monotonic() < deadline, f"no end of: {command}\n{text}"
                text += self._heard(port)
        output = text[: end.start()].rpartition(f"BEGIN-{token}")[2]
        return int(end[1]), output.replace("\r", "").strip()

    def _await_shell(self, port: socket.socket, deadline: float) -> None:
        """Until a shell answers: the terminal's echo is none, and what it hears may yet be lost.

        Lost, too, is the half of a line: there is no quote in it, which would stay open for good.
        """
        token = secrets.token_hex(8)
        text = ""
        while time.monotonic() < deadline:
            port.sendall(f"printf %s-%s\\\\n HERE {token}\n".encode())
            ask_again_at = time.monotonic() + SHELL_PAUSE_SECONDS
            while time.monotonic() < ask_again_at:
                text += self._heard(port)
                if f"HERE-{token}" in text:
                    return
        raise AssertionError(f"no shell at the serial port\n{text}")

    @staticmethod
    def _heard(port: socket.socket) -> str:
        """What is said within some seconds, to the end of what comes at once."""
        with contextlib.suppress(TimeoutError):
            chunk = port.recv(65_536)
            assert chunk, "the machine went off"
            return chunk.decode(errors="replace")
        return ""

    def output(self, command: str, seconds: float = 240.0) -> str:
        """What a command that succeeds says."""
        code, output = self.run(command, seconds)
        assert code == 0, f"{command}: {code}: {output}"
        return output

    @contextlib.contextmanager
    def _connected(self, seconds: float) -> Iterator[socket.socket]:
        """By a descriptor of the directory: names of sockets must be short."""
        deadline = time.monotonic() + seconds
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as port:
                port.settimeout(SHELL_PAUSE_SECONDS)
                while True:
                    try:
                        port.connect(f"/proc/self/fd/{folder}/shell.sock")
                        break
                    except OSError:
                        assert time.monotonic() < deadline, "the machine has no shell"
                        time.sleep(0.2)
                yield port
        finally:
            os.close(folder)
