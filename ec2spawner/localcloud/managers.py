"""The managers' stand-ins: a console that tells of a setting-up, and a hub's health to be asked.

No hub runs on an emulated manager. What can be checked of it is: that it was given user data which
names the cluster's bucket, that ``config/server_config.json`` lies there, and that its interface
has a public address. Then, and not before, that address answers as a hub in good health does.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ec2spawner.localcloud.disks import Disks
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID, Instance
from ec2spawner.localcloud.ec2.state import Event
from ec2spawner.localcloud.ec2.views import public_ip
from ec2spawner.model import TAG_ROLE, InstanceState, Role

log = logging.getLogger(__name__)

PORTS = (80, 8078)
"""Port 80, as on a manager; where this program may not have that, the other."""
CONFIG_KEY = "config/server_config.json"
LOOK_SECONDS = 0.1
_BUCKET = re.compile(r"ec2spawner-[a-z0-9-]+-\d{12}-[a-z0-9-]+")
_ON = (InstanceState.PENDING, InstanceState.RUNNING)


@dataclass
class _Manager:
    core: EmulatedEC2
    due_at: float  # monotonic
    said: list[str] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None


class Managers:
    """Sees to it that the public addresses of running managers answer."""

    def __init__(self, disks: Disks, boot_seconds: Callable[[], float]) -> None:
        self._disks = disks
        self._boot_seconds = boot_seconds
        self._known: dict[str, _Manager] = {}
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

    def _run(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            for instance_id, manager in list(self._known.items()):
                try:
                    self._see_to(instance_id, manager)
                except Exception:
                    log.exception("The manager %s could not be seen to", instance_id)

    def _see_to(self, instance_id: str, manager: _Manager) -> None:
        if manager.server or time.monotonic() < manager.due_at:
            return
        with manager.core.lock:
            instance = manager.core.instances.get(instance_id)
            address = public_ip(manager.core, instance) if instance else ""
            missing = _missing(instance) if instance else ""
        if missing:
            self._say(instance_id, manager, f"phase waiting for {missing}")
        elif address.startswith("127."):
            self._serve(instance_id, manager, address)

    def _serve(self, instance_id: str, manager: _Manager, address: str) -> None:
        for port in PORTS:
            with contextlib.suppress(OSError):
                server = ThreadingHTTPServer((address, port), _Health)
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

    def _say(self, instance_id: str, manager: _Manager, text: str) -> None:
        if text in manager.said:
            return
        manager.said.append(text)
        directory = self._disks.instance(instance_id)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "console.log").open("a", encoding="utf-8") as console:
            console.write(f"ec2spawner-manager: {text}\n")


def _missing(instance: Instance) -> str:
    """What the manager waits for; "" if it has all."""
    from moto.s3.models import s3_backends

    found = _BUCKET.search(base64.b64decode(instance.user_data or "").decode(errors="replace"))
    if not found:
        return "user data that names a bucket"
    buckets: Any = s3_backends[ACCOUNT_ID]["aws"].buckets
    bucket = buckets.get(found[0])
    return "" if bucket and CONFIG_KEY in bucket.keys else f"s3://{found[0]}/{CONFIG_KEY}"


class _Health(BaseHTTPRequestHandler):
    """Answers as a hub in good health does."""

    def do_GET(self) -> None:
        """Answer /hub/health and /hub/api."""
        is_known = self.path in ("/hub/health", "/hub/api")
        body = b'{"version": "none: an emulated manager runs no hub"}' if is_known else b""
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
