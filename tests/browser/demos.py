"""The demo, run as ``make demo`` runs it, on ports and addresses that no other run uses.

Owns its process and its state directory, and what the emulated cloud's control endpoint tells of
a user's machine.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import requests
from hub.clouds import Network
from hub.processes import (
    REPOSITORY,
    clean_environment,
    eventually,
    start_process,
)

from ec2spawner.localcloud.demo import CLUSTER_NAME
from ec2spawner.localcloud.demo_parts import is_free
from ec2spawner.model import TAG_CLUSTER, TAG_OWNER, Owner

BOOT_SECONDS = 1.0
STOP_SECONDS = 0.5
START_BOUND_SECONDS = 90.0
LOG_LINES = 100
PROFILES = [
    {"SLUG": "usual", "NAME": "Usual", "INSTANCE_TYPES": ["t3.medium"]},
    {
        "SLUG": "spot",
        "NAME": "Spot",
        "INSTANCE_TYPES": ["t3.medium"],
        "MARKET": "spot",
        "DESCRIPTION": "Costs less. Amazon may take the machine back.",
        "GROUPS": ["nobody"],
    },
]
"""The admin may choose; the others have no choice, as in a demo without this."""
Row = dict[str, Any]


def port_with_neighbours() -> int:
    """One that is free, as are those after it, below what the system gives to connections: the
    demo takes its neighbours some seconds later."""
    for port in random.sample(range(20_000, 32_000, 8), 100):
        if all(is_free(port + n) for n in range(5)):
            return port
    raise AssertionError("no five free ports in a row")


class Demo:
    """A running demo; everybody's password is ``demo``."""

    password = "demo"

    def __init__(
        self,
        folder: Path,
        choices: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        hub_config: str = "",
    ) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        # The launch command reads it in the folder in which the demo runs it.
        (self.state / "instance_config.json").write_text(
            json.dumps({"PROFILES": PROFILES, **(choices or {})})
        )
        (folder / "hub_config.py").write_text(hub_config)
        self._log = folder / "demo.log"
        self._network = Network()
        self._http = requests.Session()
        self._http.trust_env = False
        self._process = start_process(
            [
                *(sys.executable, "-m", "ec2spawner.localcloud.demo", "--end-with-parent"),
                *("--port", str(port_with_neighbours()), "--state-dir", str(self.state)),
                *("--vpc-cidr", self._network.cidr, "--hub-config", str(folder / "hub_config.py")),
                *("--boot-seconds", str(BOOT_SECONDS), "--stop-seconds", str(STOP_SECONDS)),
            ],
            REPOSITORY,
            self._log,
            {**clean_environment(), **(environment or {})},
        )
        self.url = ""

    def until_ready(self) -> None:
        """Wait for the line that says where it is."""

        def address() -> str:
            assert self._process.is_alive, self._log.read_text()
            found = re.search(r"^ready: (\S+)$", self._log.read_text(), re.MULTILINE)
            return found[1] if found else ""

        self.url = eventually(address, START_BOUND_SECONDS, "the demo is ready")

    def end(self) -> None:
        """SIGTERM, as Ctrl-C does; fails if a process of it is left."""
        self._process.end(20)
        self._process.close()
        self._http.close()
        self._network.close()
        eventually(lambda: not self._left(), 5, "no process of the demo is left")

    def _left(self) -> list[Row]:
        """Processes that this demo's state directory has started, wherever they hang."""
        found = []
        for process in psutil.process_iter():
            try:
                traces = (*process.cmdline(), process.cwd(), *process.environ().values())
            except psutil.Error:
                continue
            if any(str(self.state) in t for t in traces) and process.status() != "zombie":
                found.append({"pid": process.pid, "command": process.cmdline()})
        return found

    def hub_log(self) -> str:
        """The end of the hub's log."""
        lines = (self.state / "logs" / "hub.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    # ---- the emulated cloud

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the control endpoint; fails unless it is answered with 200."""
        endpoint = re.findall(r"ready: (\S+)", (self.state / "logs" / "cloud.log").read_text())[-1]
        answer = self._http.request(method, f"{endpoint}/_localcloud/{path}", json=body, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def workers_of(self, user: str, server: str = "") -> list[Row]:
        """The instances, not terminated, that are a server's."""
        mine = {TAG_CLUSTER: CLUSTER_NAME, TAG_OWNER: Owner(user, server).key}
        return [
            row
            for row in self.control("GET", "state")["instances"]
            if row["state"] != "terminated" and mine.items() <= row["tags"].items()
        ]

    def becomes(self, state: str, user: str, server: str = "") -> None:
        """Wait until the one worker of a server is in this state."""
        eventually(
            lambda: [w["state"] for w in self.workers_of(user, server)] == [state],
            20,
            f"the worker of {user} is {state}",
        )
