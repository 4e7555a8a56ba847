"""The bare start of a single-user server on this computer: from its process to its first answer.

Two kinds. "plain": the command and environment of JupyterHub's own spawner of local processes.
"ours": the same environment through ``ec2spawner.worker.singleuser``, as a worker starts it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bed import Bed, Hub
from ec2spawner.localcloud.demo_parts import LOOPBACK
from ec2spawner.worker import probe

KINDS = ("plain", "ours")
USER = "bare"
BOUND_SECONDS = 120.0
POLL_SECONDS = 0.01


class Bare:
    """Starts servers of one user of a hub, one at a time, by hand."""

    def __init__(self, bed: Bed, hub: Hub) -> None:
        self._bed = bed
        self._hub = hub
        self._home = bed.folder / "bare-home"
        self._home.mkdir(exist_ok=True)

    async def seconds(self, kind: str) -> float:
        """One start."""
        port = self._bed.port()
        given = await self._hub.ask(f"bare/{USER}/{port}")
        command, environment = self._plain(given) if kind == "plain" else self._ours(given)
        part = self._bed.part(f"bare-{kind}", command, environment)
        part.folder = self._home
        begun = time.monotonic()
        await part.start()
        try:
            await asyncio.to_thread(_until_answers, port, given["environment"])
            return time.monotonic() - begun
        finally:
            await part.stop(BOUND_SECONDS)

    def _plain(self, given: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        programs = Path(sys.executable).parent
        name, *rest = given["command"]
        command = [str(programs / name), *rest, *given["arguments"]]
        return command, {**given["environment"], "HOME": str(self._home)}

    def _ours(self, given: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        place = self._bed.folder / "bare-credentials"
        place.mkdir(exist_ok=True, mode=0o700)
        kept = {k: v for k, v in given["environment"].items() if k.startswith(("JUPYTER", "JPY"))}
        arguments = [a for a in given["arguments"] if a != "--allow-root"]
        (place / "server.json").write_text(json.dumps({"environment": kept, "args": arguments}))
        command = [sys.executable, "-I", "-m", "ec2spawner.worker.singleuser"]
        environment = {
            "PATH": given["environment"]["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self._home),
            "USER": USER,
            "LOGNAME": USER,
            "SHELL": "/bin/bash",
            "CREDENTIALS_DIRECTORY": str(place),
            "RUNTIME_DIRECTORY": str(place),
        }
        return command, environment


def _until_answers(port: int, environment: dict[str, str]) -> None:
    prefix = environment["JUPYTERHUB_SERVICE_PREFIX"]
    deadline = time.monotonic() + BOUND_SECONDS
    while not probe.answers(LOOPBACK, port, prefix):
        if time.monotonic() > deadline:
            raise TimeoutError(f"a bare server does not answer after {BOUND_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
