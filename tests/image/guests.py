"""A machine under qemu, on its own disk, with a way in for the tests.

Owns its process, its ports on this computer's loopback address, and the agent inside, which runs
what a test sends it as root. 10.0.2.2 is this computer, seen from inside.
"""

from __future__ import annotations

import http.client
import json
import shlex
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

AGENT_PORT = 9999
AGENT = '''\
"""Runs what the tests send; they alone put this here."""
import http.server, json, subprocess

class Agent(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        done = subprocess.run(["sh", "-c", text], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        body = json.dumps({"code": done.returncode, "output": done.stdout.decode(errors="replace")})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", 9999), Agent).serve_forever()
'''
AGENT_UNIT = """\
[Unit]
Description=The tests' way in
After=network-online.target
Wants=network-online.target
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/tests-agent.py
[Install]
WantedBy=multi-user.target
"""
NETWORK = """\
[Match]
Name=eth0
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
"""
HOST = "10.0.2.2"


def open_to_tests(root: Path) -> None:
    """Put network and agent into a root."""
    (root / "usr/local/lib/tests-agent.py").write_text(AGENT)
    (root / "etc/systemd/system/tests-agent.service").write_text(AGENT_UNIT)
    wanted = {
        "multi-user": ("tests-agent.service", "systemd-networkd.service"),
        "network-online": ("systemd-networkd-wait-online.service",),
    }
    for target, units in wanted.items():
        folder = root / f"etc/systemd/system/{target}.target.wants"
        folder.mkdir(exist_ok=True)
        for unit in units:
            place = "/lib" if unit.startswith("systemd") else "/etc"
            (folder / unit).unlink(missing_ok=True)
            (folder / unit).symlink_to(f"{place}/systemd/system/{unit}")
    (root / "etc/systemd/network/10-tests.network").write_text(NETWORK)
    (root / "etc/cloud/cloud-init.disabled").touch()
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n")
    (root / "etc/machine-id").write_text("")


@dataclass(frozen=True)
class Done:
    """What a command in a guest did."""

    code: int
    output: str


class Guest:
    """One machine. ``volumes``: serial to file; ``ports``: inside to here."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        disk: Path,
        volumes: dict[str, Path],
        inside: tuple[int, ...] = (),
        memory_mib: int = 1536,
    ) -> None:
        self.folder = folder
        self.console = folder / "console.log"
        self.ports = {port: free_port() for port in (AGENT_PORT, *inside)}
        self._command = self._words(root, disk, volumes, memory_mib)
        self._process: subprocess.Popen[bytes] | None = None

    def _words(
        self, root: Path, disk: Path, volumes: dict[str, Path], memory_mib: int
    ) -> list[str]:
        kernel, initrd = (
            sorted((root / "boot").glob(f"{n}-*"))[-1] for n in ("vmlinuz", "initrd.img")
        )
        forwards = "".join(
            f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for there, here in self.ports.items()
        )
        words = [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2"),
            *("-m", str(memory_mib), "-display", "none", "-monitor", "none"),
            *("-serial", f"file:{self.console}"),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off"),
            *("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"),
            *("-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net"),
            *("-device", "virtio-rng-pci"),
        ]
        for number, (serial, file) in enumerate(volumes.items()):
            drive = f"file={file},if=none,id=volume{number},format=raw,cache=unsafe"
            device = f"nvme,drive=volume{number},serial={serial}"
            words += ["-drive", drive, "-device", device]
        return words

    def boot(self, seconds: float = 240) -> Guest:
        """Start it, and return once the agent answers."""
        log = (self.folder / "qemu.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.until("true", seconds)
        return self

    def run(self, script: str, seconds: float = 120) -> Done:
        """Run a script as root; OSError while nobody answers."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.ports[AGENT_PORT], timeout=seconds
        )
        try:
            connection.request("POST", "/", script.encode())
            answer = json.loads(connection.getresponse().read())
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()
        return Done(answer["code"], answer["output"])

    def must(self, script: str, seconds: float = 120) -> str:
        """The output of a script that succeeds."""
        done = self.run(script, seconds)
        assert done.code == 0, f"{script}\n{done.output}\n{self.story()}"
        return done.output

    def until(self, script: str, seconds: float) -> str:
        """The output of a script once it succeeds."""
        deadline = time.monotonic() + seconds
        last = "no answer"
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, self.story()
            try:
                done = self.run(script, 30)
            except OSError as error:
                last = repr(error)
            else:
                if done.code == 0:
                    return done.output
                last = done.output
            time.sleep(1)
        raise AssertionError(f"not within {seconds:.0f} s: {script}\n{last}\n{self.story()}")

    def write(self, path: str, text: str) -> None:
        """A file inside."""
        self.must(f"printf %s {shlex.quote(text)} >{path}")

    def story(self) -> str:
        """The end of its console."""
        if not self.console.exists():
            return ""
        return "\n".join(self.console.read_text(errors="replace").splitlines()[-60:])

    def power_cut(self) -> None:
        """As when the power goes."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    close = power_cut


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
