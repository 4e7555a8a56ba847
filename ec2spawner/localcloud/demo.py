"""``make demo``: emulated cloud, real launch command and real hub, on one computer.

Owns the order in which the parts start and end, their options, and what the person in front of it
reads. Must not know how they work: it starts them as commands and asks for their pages.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import shlex
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ec2spawner.localcloud import demo_tls
from ec2spawner.localcloud.demo_parts import (
    LOOPBACK,
    DemoError,
    Part,
    answers,
    check_addresses_are_free,
    free_port,
    is_free,
    no_orphans,
    only_one,
)
from ec2spawner.localcloud.machine_tree import die_with_parent

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch_cluster" / "launch.py"
HUB_CONFIG = REPOSITORY / "jupyterhub_config.py"
DEMO_HUB = "ec2spawner.localcloud.demo_hub"
DEMO_HUB_CONFIG = Path(__file__).with_name("demo_hub_config.py")

CLUSTER_NAME = "demo"
WORKER_SSH_PORT = 2222  # a plain user cannot listen on 22

BUILDER_SECONDS, IMAGE_SECONDS = "1", "0.5"  # people wait for the first start

CLOUD_BOUND_SECONDS = 60.0
LAUNCH_BOUND_SECONDS = 300.0
HUB_BOUND_SECONDS = 120.0
CADDY_BOUND_SECONDS = 30.0
STOP_BOUND_SECONDS = 10.0


@dataclass(frozen=True)
class Ports:
    """Where the parts listen, all on loopback; only ``public`` is chosen by the user."""

    public: int
    proxy_api: int
    hub_api: int
    cloud: int
    behind_tls: int = 0
    """Where the proxy listens if Caddy has the public port; 0 if it does not."""

    @property
    def proxy(self) -> int:
        """Where the hub's pages are, by plain HTTP."""
        return self.behind_tls or self.public


def choose_ports(public: int, tls: bool = False) -> Ports:
    """The neighbours of the public port where they are free; DemoError if that one is not."""
    if not is_free(public):
        raise DemoError(
            f"Port {public} of {LOOPBACK} is taken by another program, or not yours to use."
            f" End that program, or use another port: make demo PORT={public + 123}"
        )
    taken = {public}
    neighbours = (1, 2, 3, 4) if tls else (1, 2, 3)
    return Ports(public, *(free_port(public + n, taken) for n in neighbours))


def aws_settings(ports: Ports) -> dict[str, str]:
    """What makes the emulated cloud somebody's AWS, and keeps the real one out."""
    return {
        "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{ports.cloud}",
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def demo_environment(environ: Mapping[str, str], ports: Ports, cidr: str) -> dict[str, str]:
    """What the parts see: nothing of this account's AWS settings, only the emulated cloud."""
    foreign = ("AWS_", "JUPYTERHUB_", "CONFIGPROXY_", "EC2SPAWNER_")
    kept = {name: value for name, value in environ.items() if not name.startswith(foreign)}
    no_proxy = ",".join(filter(None, (environ.get("NO_PROXY"), LOOPBACK, "localhost", cidr)))
    return {
        **kept,
        **aws_settings(ports),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PYTHONUNBUFFERED": "1",
    }


class Demo:
    """One run: its parts, and how they depend on each other."""

    def __init__(self, options: argparse.Namespace, ports: Ports) -> None:
        self.options = options
        self.ports = ports
        self.state: Path = options.state_dir
        self.server_config = self.state / "server_config.json"
        self.environment_file = self.state / "environment"
        environment = demo_environment(os.environ, ports, options.vpc_cidr)
        self.cloud = self._part("cloud", self._cloud_command(), environment, self.state)
        self.launch = self._part("launch", self._launch_command(), environment, self.state)
        self.front: demo_tls.Front | None = None
        self.caddy: Part | None = None
        if ports.behind_tls:
            self.front = demo_tls.Front(self.state / "caddy", ports.public, ports.behind_tls)
        self.hub = self._part("hub", self._hub_command(), self._hub_environment(environment))
        if self.front:
            outside = self.front.environment(environment)
            self.caddy = self._part("caddy", self.front.command, outside)

    def _part(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        folder: Path | None = None,
    ) -> Part:
        log = self.state / "logs" / f"{name}.log"
        return Part(name, command, environment, folder or self.state / name, log)

    @property
    def _address(self) -> str:
        return self.front.url if self.front else f"http://{LOOPBACK}:{self.ports.public}"

    def _cloud_command(self) -> list[str]:
        options = self.options
        return [
            *(sys.executable, "-m", "ec2spawner.localcloud", "serve"),
            *("--port", str(self.ports.cloud)),
            *("--state-dir", str(self.state / "cloud")),
            *("--workers", "process"),
            *("--boot-seconds", f"{options.boot_seconds:g}"),
            *("--stop-seconds", f"{options.stop_seconds:g}"),
            *("--builder-seconds", BUILDER_SECONDS, "--image-seconds", IMAGE_SECONDS),
        ]

    def _launch_command(self) -> list[str]:
        return [
            *(sys.executable, str(LAUNCH), CLUSTER_NAME, "--no-manager", "--yes"),
            *("--vpc-cidr", self.options.vpc_cidr),
            *("--worker-ssh-port", str(WORKER_SSH_PORT)),
            *("--hub-connect-url", f"http://{LOOPBACK}:{self.ports.hub_api}"),
            *("--hub-address", LOOPBACK),
            *("--config-out", str(self.server_config)),
        ]

    def _hub_command(self) -> list[str]:
        return [sys.executable, "-m", DEMO_HUB, "--config", str(DEMO_HUB_CONFIG)]

    def _hub_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {
            **environment,
            "EC2SPAWNER_CONFIG": str(self.server_config),
            "EC2SPAWNER_DEMO_BASE_CONFIG": str(HUB_CONFIG),
            "EC2SPAWNER_DEMO_PORT": str(self.ports.proxy),
            "EC2SPAWNER_DEMO_ADDRESS": self._address,
            "EC2SPAWNER_DEMO_OWN_CONFIG": str(self.options.hub_config or ""),
            "EC2SPAWNER_DEMO_PROXY_PORT": str(self.ports.proxy_api),
        }

    async def run(self) -> None:
        """Start everything, say so, and watch; DemoError once a part has ended by itself."""
        try:
            began = time.monotonic()
            await self._start()
            _say(self._welcome(time.monotonic() - began))
            await self._watch()
        finally:
            await self._stop()

    async def _start(self) -> None:
        settings = {**aws_settings(self.ports), "EC2SPAWNER_CONFIG": str(self.server_config)}
        exports = (f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
        self.environment_file.write_text("unset AWS_PROFILE AWS_SESSION_TOKEN\n" + "".join(exports))
        if self.front and self.caddy:
            await asyncio.to_thread(self.front.configure)
            await self.caddy.start()
        _say("Starting the emulated cloud ...")
        await self.cloud.start()
        await self.cloud.until(lambda: answers(self.ports.cloud, "/"), CLOUD_BOUND_SECONDS)
        _say("Running the launch command, which builds the cluster or finds it as it should be ...")
        await self.launch.start()
        before = self._server_config_text()
        if before:  # of an earlier run; it most likely stays as it is
            await self.hub.start()
        await self._until_launched()
        if before != self._server_config_text():
            await self.hub.stop(STOP_BOUND_SECONDS)
            await self.hub.start()
        _say("Starting the hub ...")
        await self.hub.until(self._is_hub_ready, HUB_BOUND_SECONDS)
        if self.front and self.caddy:
            await self.caddy.until(self.front.answers, CADDY_BOUND_SECONDS)

    def _server_config_text(self) -> str:
        return self.server_config.read_text() if self.server_config.exists() else ""

    async def _until_launched(self) -> None:
        try:
            code = await asyncio.wait_for(self.launch.ended(), LAUNCH_BOUND_SECONDS)
        except asyncio.TimeoutError:
            raise self.launch.failure("does not end") from None
        if code:
            raise self.launch.failure(f"command ended with code {code}")

    def _is_hub_ready(self) -> bool:
        # In this order: a request by way of the proxy before the hub listens is an error in the log
        return answers(self.ports.hub_api, "/hub/api", 200) and answers(
            self.ports.proxy, "/hub/login", 200
        )

    async def _watch(self) -> None:
        watched = [part for part in (self.cloud, self.hub, self.caddy) if part]
        parts = {asyncio.ensure_future(part.ended()): part for part in watched}
        done, waiting = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        task = done.pop()
        raise parts[task].failure(f"ended with code {task.result()}, so the demo ends")

    async def _stop(self) -> None:
        for part in (self.caddy, self.hub, self.launch, self.cloud):
            if part:
                await part.stop(STOP_BOUND_SECONDS)

    def _welcome(self, seconds: float) -> str:
        return WELCOME.format(
            seconds=seconds,
            state=self.state,
            logs=self.state / "logs",
            environment=self.environment_file,
            address=self._address,
            cloud=self.ports.cloud,
            tls=TLS_WORDS.format(front=self.front) if self.front else "",
        )


WELCOME = """
JupyterHub runs, with an emulated cloud; nothing here costs money or leaves this computer.

  address   {address}
{tls}  logins    student, and the admin admin, password demo; any other name gets in with it too
  logs      {logs}: hub.log, cloud.log, launch.log; of each machine: under {state}/cloud
  cloud     http://127.0.0.1:{cloud}/_localcloud/: look into it, or make it fail (README)
            . {environment}: AWS settings for a shell of yours
  state     {state}; kept when the demo ends. make demo-clean forgets it
  end       Ctrl-C

The machines here are processes of your own account: a notebook can read whatever you can read.
On AWS each is a machine of its own. Let nobody in whom you would not let sit at your keyboard.

started in {seconds:.1f} s
ready: {address}"""
TLS_WORDS = """\
  HTTPS     your browser does not know who signed this, and warns: go on all the same, or import
            {front.authority}
            into a browser profile of its own, for who can read {front.folder},
            a notebook too, can pretend to be any site to a browser that has it
"""


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader may be gone, and the parts must still end
        print(text, flush=True)


def _loopback_network(text: str) -> str:
    network = ipaddress.ip_network(text)
    if not network.is_loopback or network.version != 4:
        raise argparse.ArgumentTypeError(f"{text}: not within 127.0.0.0/8")
    return text


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ec2spawner.localcloud.demo")
    parser.add_argument("--port", type=int, default=8000, help="of the hub's page (8000)")
    parser.add_argument("--tls", action="store_true", help="Caddy in front: HTTPS on that port")
    parser.add_argument("--state-dir", type=Path, default=Path(".demo"), help="(.demo)")
    parser.add_argument(
        "--vpc-cidr",
        type=_loopback_network,
        default="127.77.0.0/16",
        help="addresses of the machines, within 127.0.0.0/8 (127.77.0.0/16)",
    )
    parser.add_argument("--boot-seconds", type=float, default=4.0, help="of a machine (4)")
    parser.add_argument("--stop-seconds", type=float, default=2.0, help="of a machine (2)")
    parser.add_argument(
        "--hub-config", type=Path, help="more of JupyterHub's configuration, read last (none)"
    )
    parser.add_argument(
        "--end-with-parent", action="store_true", help="end when the calling process is gone"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.port <= 65535:
        parser.error(f"--port {options.port}: must be from 1 to 65535")
    if options.hub_config and not options.hub_config.is_file():
        parser.error(f"--hub-config {options.hub_config}: no such file")
    options.state_dir = options.state_dir.absolute()
    options.hub_config = options.hub_config and options.hub_config.absolute()
    return options


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``; a signal to end cancels it, and further ones are ignored meanwhile."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def end() -> None:
        if not asked.is_set():
            asked.set()
            _say("\nEnding ...")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    try:
        await task
    except asyncio.CancelledError:
        if not asked.is_set():
            raise


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when the user ended the demo, 1 when it could not go on."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.end_with_parent:
        die_with_parent()
    try:
        if not HUB_CONFIG.exists():
            raise DemoError("The demo runs from a clone of the repository: make demo")
        check_addresses_are_free(options.vpc_cidr)
        with only_one(options.state_dir), no_orphans():
            ports = choose_ports(options.port, options.tls)
            if options.tls:
                _say("Looking for Caddy ...")
            demo = Demo(options, ports)
            asyncio.run(_until_signal(demo.run()))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
