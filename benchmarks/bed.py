"""Where a benchmark runs: an emulated cloud, a cluster built on it by the real launch command, and
real hubs.

Owns processes, ports, addresses and folders, and the questions to the cloud's control endpoint.
Must not know what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import nothing
from ec2spawner.localcloud.demo_parts import LOOPBACK, Part, free_port, no_orphans
from ec2spawner.model import Owner

REPOSITORY = Path(__file__).resolve().parents[1]
MEMORY_FOLDER = Path("/dev/shm")
SSH_PORT = 2222
LOCK_PORT = 39218
BOUND_SECONDS = 120.0
STOP_SECONDS = 10.0
ANSWER_SECONDS = 300.0  # a hub on which a class falls at once lets requests wait
POLL_SECONDS = 0.05
KEEP_ALIVE_SECONDS = 2.0
"""Less than the proxy's (Node's 5 s): else a request can meet a connection that is just closed."""

Row = dict[str, Any]


@contextlib.contextmanager
def network() -> Iterator[str]:
    """A /16 of loopback addresses that no other run of the benchmarks uses."""
    for number in range(20, 70):
        with socket.socket() as lock:
            try:
                lock.bind((f"127.{number}.255.254", LOCK_PORT))
            except OSError:
                continue
            yield f"127.{number}.0.0/16"
            return
    raise RuntimeError("no free loopback network")


GIVING_WAY = (
    *("nice", "-n", "10"),
    *("sh", "-c", 'echo 10 2>&- >/proc/self/autogroup; exec "$@"', "sh"),
)
"""Before a command that begins a session: of what is not on the hub's computer in real life.

Linux weighs the sessions against each other and the processes within each, where it groups
processes by session (``sched_autogroup_enabled``, the default): so both say it.
"""


@dataclass(frozen=True)
class Setting:
    """What the emulated cloud is told."""

    workers: str
    boot_seconds: float
    stop_seconds: float
    throttle: str = "aws"
    in_memory: bool = False
    """Whether all files lie in memory, so that no figure depends on the disk and its users."""
    stub_types: tuple[str, ...] = ()
    """Instance types whose workers are stubs where the others are processes."""
    gives_way: bool = False
    """Whether the cloud with its machines leaves the processors to the hub where both want them."""


def clean_environment(endpoint: str, cidr: str) -> dict[str, str]:
    """This account's environment without its AWS or hub settings; AWS is the emulated cloud."""
    foreign = ("AWS_", "JUPYTERHUB_", "CONFIGPROXY_", "EC2SPAWNER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    no_proxy = f"{LOOPBACK},localhost,127.0.0.0/8,{cidr}"
    return {
        **kept,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PYTHONUNBUFFERED": "1",
    }


class Bed:
    """One emulated cloud with a cluster on it; see ``made``."""

    def __init__(self, folder: Path, setting: Setting, cidr: str) -> None:
        self.folder = folder
        self.setting = setting
        self.cidr = cidr
        self.taken: set[int] = set()
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=ANSWER_SECONDS),
        )
        self.endpoint = f"http://{LOOPBACK}:{self.port()}"
        self.environment = clean_environment(self.endpoint, cidr)
        self.cloud = self.part("cloud", self._cloud_command())
        self._parts = [self.cloud]
        self._endings = contextlib.AsyncExitStack()

    def port(self) -> int:
        """A port that nobody uses."""
        return free_port(0, self.taken)

    def part(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> Part:
        """A process that is yet to be started."""
        log = self.folder / "logs" / f"{name}.log"
        return Part(name, command, environment or self.environment, self.folder / name, log)

    def _cloud_command(self) -> list[str]:
        setting = self.setting
        return [
            *(GIVING_WAY if setting.gives_way else ()),
            *(sys.executable, "-m", "ec2spawner.localcloud", "serve"),
            *("--port", self.endpoint.rpartition(":")[2]),
            *("--state-dir", str(self.state_dir), "--workers", setting.workers),
            *("--boot-seconds", f"{setting.boot_seconds:g}"),
            *("--stop-seconds", f"{setting.stop_seconds:g}"),
            *("--builder-seconds", "0", "--image-seconds", "0"),
            *("--throttle", setting.throttle, "--ssh-port", str(SSH_PORT)),
            *("--stub-types", ",".join(setting.stub_types)),
        ]

    @property
    def state_dir(self) -> Path:
        """What the cloud keeps, and finds again."""
        return self.folder / "state"

    async def serve(self) -> None:
        """Serve the cloud."""
        await self.cloud.start()
        await self.cloud.until(lambda: "ready: " in self.cloud.log.read_text(), BOUND_SECONDS)

    async def launch(self) -> None:
        """Build the cluster."""
        script = REPOSITORY / "launch_cluster" / "launch.py"
        launch = self.part(
            "launch",
            [
                *(sys.executable, str(script), "benchmark", "--no-manager", "--yes"),
                *("--vpc-cidr", self.cidr, "--worker-ssh-port", str(SSH_PORT)),
                *("--hub-address", LOOPBACK, "--hub-connect-url", f"http://{LOOPBACK}:8081"),
                *("--config-out", str(self.folder / "server_config.json")),
            ],
        )
        self._parts.append(launch)
        await launch.start()
        if await asyncio.wait_for(launch.ended(), BOUND_SECONDS):
            raise launch.failure("command failed")

    async def hub(
        self,
        name: str,
        spawner: str = "ec2",
        poll_seconds: int = 30,
        choices: Mapping[str, Any] | None = None,
    ) -> Hub:
        """A hub on a cluster of its own, answering; ``spawner``: "ec2", "nothing" or "one-call".

        ``choices`` are what its ``server_config.json`` says besides.
        """
        hub = Hub(self, name, spawner, poll_seconds, choices or {})
        self._parts.append(hub.process)
        if spawner == "nothing":
            runner = await nothing.serve(hub.nothing_port)
            self._endings.push_async_callback(runner.cleanup)
        await hub.start()
        return hub

    async def close(self) -> None:
        """End all processes."""
        for part in reversed(self._parts):
            await part.stop(STOP_SECONDS)
        await self._endings.aclose()
        await self.http.close()

    # ---- the cloud's control endpoint

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        """One request to it."""
        url = f"{self.endpoint}/_localcloud/{path}"
        async with self.http.request(method, url, json=body) as answer:
            document = await answer.json()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {document}")
            return document

    async def calls(self) -> dict[str, int]:
        """How often each action of AWS was called, whatever came of it."""
        counted = (await self.control("GET", "calls"))["calls"]
        return {action: sum(outcomes.values()) for action, outcomes in counted.items()}

    async def refused(self) -> dict[str, int]:
        """How often each action was not carried out."""
        return await self._counted(lambda outcome: outcome != "ok")

    async def throttled(self) -> dict[str, int]:
        """How often each action was refused because there were too many calls."""
        return await self._counted(lambda outcome: outcome == "RequestLimitExceeded")

    async def _counted(self, counts: Callable[[str], bool]) -> dict[str, int]:
        counted = (await self.control("GET", "calls"))["calls"]
        sums = {a: sum(n for o, n in os.items() if counts(o)) for a, os in counted.items()}
        return {action: count for action, count in sums.items() if count}

    async def instances(self) -> dict[str, Row]:
        """Instances by the key of their owner, without terminated ones."""
        rows = (await self.control("GET", "state"))["instances"]
        owned = {row["tags"].get("ec2spawner:owner"): row for row in rows if _lives(row)}
        return {key: row for key, row in owned.items() if key}

    async def worker_of(self, user: str) -> Row:
        """A user's instance."""
        return (await self.instances())[Owner(user, "").key]

    async def until_all(self, users: list[str], state: str) -> None:
        """Wait until all these users' workers are in a state."""
        keys = {Owner(user, "").key for user in users}
        for _ in range(int(BOUND_SECONDS / POLL_SECONDS / 4)):
            owned = await self.instances()
            if all(owned.get(key, {}).get("state") == state for key in keys):
                return
            await asyncio.sleep(4 * POLL_SECONDS)
        raise TimeoutError(f"not all {state} after {BOUND_SECONDS:.0f} s")

    async def kill_server(self, user: str) -> None:
        """Have a user's server die; its machine goes on."""
        row = await self.worker_of(user)
        done = await self.control("POST", f"workers/{row['id']}/kill-server")
        if not done["killed"]:
            raise RuntimeError(f"no server of {user} to kill")
        port = json.loads((self.folder / "server_config.json").read_text())["WORKER_NOTEBOOK_PORT"]
        while not _refuses(row["private_ip"], port):
            await asyncio.sleep(POLL_SECONDS)


def _refuses(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == errno.ECONNREFUSED


def _lives(row: Row) -> bool:
    return row["state"] not in ("terminated", "shutting-down")


class Hub:
    """One real hub with its proxy, and what is measured inside of it."""

    def __init__(
        self,
        bed: Bed,
        name: str,
        spawner: str,
        poll_seconds: int,
        choices: Mapping[str, Any],
    ) -> None:
        self.bed = bed
        self._choices = choices
        self.name = name
        self.token = secrets.token_hex(16)
        port, proxy_port = bed.port(), bed.port()
        self.api_port, self.inside_port, self.nothing_port = bed.port(), bed.port(), bed.port()
        self.url = f"http://{LOOPBACK}:{port}"
        self._options = {
            "repository": str(REPOSITORY),
            "base_config": str(REPOSITORY / "jupyterhub_config.py"),
            "spawner": spawner,
            "poll_seconds": poll_seconds,
            "port": port,
            "proxy_port": proxy_port,
            "api_port": self.api_port,
            "inside_port": self.inside_port,
            "token": self.token,
        }
        config = str(REPOSITORY / "benchmarks" / "hub_config.py")
        command = [sys.executable, "-m", "jupyterhub", "--config", config]
        self.process = bed.part(name, command, self._environment())

    def _environment(self) -> dict[str, str]:
        folder = self.bed.folder / self.name
        return {
            **self.bed.environment,
            "EC2SPAWNER_CONFIG": str(folder / "server_config.json"),
            "EC2SPAWNER_BENCH_OPTIONS": str(folder / "options.json"),
            nothing.URL_VARIABLE: f"http://{LOOPBACK}:{self.nothing_port}",
        }

    async def start(self) -> None:
        """Start it, and wait until it answers through its proxy."""
        folder = self.process.folder
        folder.mkdir(parents=True)
        config = json.loads((self.bed.folder / "server_config.json").read_text())
        config["CLUSTER_NAME"] = f"{config['CLUSTER_NAME']}-{self.name}"
        config["HUB_CONNECT_URL"] = f"http://{LOOPBACK}:{self.api_port}"
        (folder / "server_config.json").write_text(json.dumps({**config, **self._choices}))
        (folder / "options.json").write_text(json.dumps(self._options))
        await self.process.start()
        await self.process.until(self._is_running, BOUND_SECONDS)

    def _is_running(self) -> bool:
        return bool(re.search("JupyterHub is now running", self.process.log.read_text()))

    async def ask(self, path: str) -> Any:
        """A question to what is measured inside."""
        url = f"http://{LOOPBACK}:{self.inside_port}/{path}"
        async with self.bed.http.get(url) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def until_stopped(self, user: str) -> None:
        """Wait until the fleet has seen a user's worker stopped."""
        while await self.ask(f"stage/{user}") != "starting":
            await asyncio.sleep(POLL_SECONDS)

    async def reset(self) -> None:
        """Sample the event loop's lag anew."""
        url = f"http://{LOOPBACK}:{self.inside_port}/reset"
        async with self.bed.http.post(url) as answer:
            answer.raise_for_status()


def _new_folder(in_memory: bool) -> Path:
    parent = MEMORY_FOLDER if in_memory and MEMORY_FOLDER.is_dir() else None
    return Path(tempfile.mkdtemp(prefix="ec2spawner-bench-", dir=parent))


@contextlib.asynccontextmanager
async def made(
    setting: Setting,
    keep: Path | None = None,
    *,
    prepare: Callable[[Path], None] | None = None,
) -> AsyncIterator[Bed]:
    """A bed that is gone at the end, with all its processes; its folder stays if ``keep`` is it.

    With ``prepare``, which fills the cloud's state directory, no cluster is built.
    """
    folder = (keep or _new_folder(setting.in_memory)).absolute()
    with network() as cidr, no_orphans():
        bed = Bed(folder, setting, cidr)
        try:
            if prepare:
                prepare(bed.state_dir)
            await bed.serve()
            if not prepare:
                await bed.launch()
            yield bed
        finally:
            await bed.close()
            if keep is None:
                shutil.rmtree(folder, ignore_errors=True)
