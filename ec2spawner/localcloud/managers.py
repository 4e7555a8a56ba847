"""The managers' stand-ins: a console that tells of a setting-up, and a hub's health to be asked.

No hub runs on an emulated manager. What can be checked of it is: that it was given user data which
names the cluster's bucket, that ``config/server_config.json`` lies there, that SSM has the OAuth
client which that calls for, and that its interface has a public address. Then, and not before, that
address answers as a hub in good health does, and says which package it was installed from. What
upgrades make of it (``upgrades``) is on its disk.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ec2spawner.localcloud.disks import Disks
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID, Instance
from ec2spawner.localcloud.ec2.state import Event
from ec2spawner.localcloud.ec2.views import public_ip
from ec2spawner.localcloud.upgrades import (
    FILES,
    Command,
    Held,
    carry_out,
    read_held,
    set_up,
)
from ec2spawner.model import TAG_ROLE, InstanceState, Role

log = logging.getLogger(__name__)

PORTS = (80, 8078)
"""Port 80, as on a manager; where this program may not have that, the other."""
LOOK_SECONDS = 0.1
RELEASE_HEADER = "X-EC2Spawner-Release"
_PACKAGE = re.compile(r"package/[0-9a-f]{64}\.tar\.gz")
_BUCKET = re.compile(r"ec2spawner-[a-z0-9-]+-\d{12}-[a-z0-9-]+")
OAUTH_AUTHENTICATORS = ("github", "google", "cilogon", "oidc")
_ON = (InstanceState.PENDING, InstanceState.RUNNING)


@dataclass
class _Manager:
    core: EmulatedEC2
    due_at: float  # monotonic
    said: list[str] = field(default_factory=list)
    server: _Server | None = None


class Managers:
    """Sees to it that the public addresses of running managers answer."""

    def __init__(self, disks: Disks, boot_seconds: Callable[[], float]) -> None:
        self._disks = disks
        self._boot_seconds = boot_seconds
        self._known: dict[str, _Manager] = {}
        self.faults: list[str] = []
        """Of the next upgrades: see ``upgrades.FAULTS``."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="managers", daemon=True)

    def start(self) -> None:
        """Begin to look after them."""
        self._thread.start()

    def follow(self, core: EmulatedEC2, event: Event) -> None:
        """Take note of what became of an instance."""
        if event.name in ("booted", "rebooted"):
            self._boot(core, event.id)
        elif event.name in ("stopping", "stopped", "terminating", "terminated"):
            self._stop(event.id)

    def reconcile(self, cores: list[EmulatedEC2]) -> None:
        """After a restart: boot what should run."""
        for core in cores:
            for instance in core.instances.values():
                if instance.state in _ON:
                    self._boot(core, instance.id)

    def close(self) -> None:
        """Let none answer any more."""
        self._closing.set()
        self._thread.join(timeout=2)
        for instance_id in list(self._known):
            self._stop(instance_id)

    def _boot(self, core: EmulatedEC2, instance_id: str) -> None:
        if core.instances[instance_id].tags.get(TAG_ROLE) != Role.MANAGER.value:
            return
        self._stop(instance_id)
        manager = _Manager(core, time.monotonic() + self._boot_seconds())
        with self._lock:
            self._known[instance_id] = manager
        self._say(instance_id, manager, "phase the machine has booted")

    def _stop(self, instance_id: str) -> None:
        with self._lock:
            manager = self._known.pop(instance_id, None)
        if manager and manager.server:
            manager.server.shutdown()
            manager.server.server_close()

    # ---- its agent of Systems Manager

    def has_agent(self, instance_id: str) -> bool:
        """See Agents."""
        manager = self._known.get(instance_id)
        return manager is not None and time.monotonic() >= manager.due_at

    def send(self, instance_id: str, command_id: str, script: str) -> None:
        """See Agents."""
        with self._lock:
            held = read_held(self._file(instance_id)) or Held()
            command = Command(script, time.time() + self._boot_seconds())
            commands = {**held.commands, command_id: command}
            replace(held, commands=commands).write(self._file(instance_id))

    def command(self, instance_id: str, command_id: str) -> Mapping[str, Any] | None:
        """See Agents."""
        with self._lock:
            held = read_held(self._file(instance_id)) or Held()
        found = held.commands.get(command_id)
        return asdict(found) if found else None

    def _file(self, instance_id: str) -> Path:
        return self._disks.instance(instance_id) / "manager.json"

    def _work_off(self, instance_id: str, manager: _Manager) -> None:
        """Carry out the commands whose time has come."""
        held = read_held(self._file(instance_id))
        if held is None:
            return
        for command_id, command in held.commands.items():
            if command.status != "InProgress" or time.time() < command.due_at:
                continue
            fault = self.faults.pop(0) if self.faults else None
            with manager.core.lock, self._lock:
                before = read_held(self._file(instance_id)) or Held()
                if fault == "hang":
                    hanging = replace(command, due_at=float("inf"))
                    after = replace(before, commands={**before.commands, command_id: hanging})
                else:
                    instance = manager.core.instances[instance_id]
                    read = _reader(_bucket_of(_script_of(instance)))
                    after = carry_out(before, command_id, read, fault)
                after.write(self._file(instance_id))
            if manager.server:
                manager.server.held = after

    # ---- booting, and the hub's answers

    def _run(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            for instance_id, manager in list(self._known.items()):
                try:
                    self._see_to(instance_id, manager)
                except Exception:
                    log.exception("The manager %s could not be seen to", instance_id)

    def _see_to(self, instance_id: str, manager: _Manager) -> None:
        if time.monotonic() < manager.due_at:
            return
        self._work_off(instance_id, manager)
        if manager.server:
            return
        with manager.core.lock:
            instance = manager.core.instances.get(instance_id)
            address = public_ip(manager.core, instance) if instance else ""
            missing = _missing(instance, manager.core.region) if instance else ""
        if missing:
            self._say(instance_id, manager, f"phase waiting for {missing}")
        elif address.startswith("127."):
            self._serve(instance_id, manager, address)

    def _serve(self, instance_id: str, manager: _Manager, address: str) -> None:
        held = self._set_up(instance_id, manager)
        for port in PORTS:
            with contextlib.suppress(OSError):
                server = _Server((address, port), _Health)
                server.held = held
                server.daemon_threads = True
                threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
                with self._lock:
                    manager.server = server
                    is_known = self._known.get(instance_id) is manager
                if not is_known:  # it was stopped meanwhile
                    server.shutdown()
                    server.server_close()
                self._say(instance_id, manager, f"done, its stand-in answers on port {port}")
                return
        self._say(instance_id, manager, f"failed no port of {PORTS} is free at {address}")
        manager.due_at = float("inf")

    def _set_up(self, instance_id: str, manager: _Manager) -> Held:
        """What lies on its disk; a machine that boots for the first time is set up."""
        with manager.core.lock, self._lock:
            held = read_held(self._file(instance_id))
            if held and held.taken:
                return held
            script = _script_of(manager.core.instances[instance_id])
            package = _PACKAGE.search(script)
            fresh = set_up(package[0] if package else "", _reader(_bucket_of(script)))
            fresh = replace(fresh, commands=held.commands if held else {})
            fresh.write(self._file(instance_id))
            return fresh

    def _say(self, instance_id: str, manager: _Manager, text: str) -> None:
        if text in manager.said:
            return
        manager.said.append(text)
        directory = self._disks.instance(instance_id)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "console.log").open("a", encoding="utf-8") as console:
            console.write(f"ec2spawner-manager: {text}\n")


def _script_of(instance: Instance) -> str:
    return base64.b64decode(instance.user_data or "").decode(errors="replace")


def _bucket_of(script: str) -> str:
    found = _BUCKET.search(script)
    return found[0] if found else ""


def _reader(bucket_name: str) -> Callable[[str], bytes | None]:
    """What reads the cluster's bucket."""
    from moto.s3.models import s3_backends

    buckets: Any = s3_backends[ACCOUNT_ID]["aws"].buckets
    bucket = buckets.get(bucket_name)

    def read(key: str) -> bytes | None:
        return bytes(bucket.keys[key].value) if bucket and key in bucket.keys else None

    return read


def _missing(instance: Instance, region: str) -> str:
    """What the manager waits for; "" if it has all."""
    bucket = _bucket_of(_script_of(instance))
    if not bucket:
        return "user data that names a bucket"
    config = _reader(bucket)(FILES[0])
    return _missing_client(config, region) if config else f"s3://{bucket}/{FILES[0]}"


def _missing_client(config: bytes, region: str) -> str:
    """The SSM parameter without which a hub with such a configuration ends again and again."""
    from moto.ssm.models import ssm_backends

    chosen: dict[str, Any] = json.loads(config)
    if chosen.get("AUTHENTICATOR") not in OAUTH_AUTHENTICATORS:
        return ""
    halves = [f"/ec2spawner/{chosen['CLUSTER_NAME']}/oauth-client-{h}" for h in ("id", "secret")]
    there = ssm_backends[ACCOUNT_ID][region].get_parameters(halves)
    return next((half for half in halves if half not in there), "")


class _Server(ThreadingHTTPServer):
    """Answers for one manager."""

    held = Held()


class _Health(BaseHTTPRequestHandler):
    """Answers as a hub in good health does."""

    server: _Server

    def do_GET(self) -> None:
        """Answer /hub/health and /hub/api; of itself it says what tests look at."""
        held = self.server.held
        is_known = self.path in ("/hub/health", "/hub/api")
        told = {"version": "none: an emulated manager runs no hub", "domain": held.domain}
        body = json.dumps(told).encode() if is_known else b""
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if held.release:
            self.send_header(RELEASE_HEADER, held.release)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
