"""Commands that are broken off at a call, in an emulated cloud of this process and in virtual time.

Owns the counting of the calls that change something, and the two ends: Ctrl-C, after which the
command's own code still runs, and a kill, after which none of its calls reaches AWS. Must not know
what a command does.
"""

from __future__ import annotations

import asyncio
import pickle
import shutil
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ec2spawner.cloud import Effect, Gateway, default_effect
from ec2spawner.localcloud.clock import ManualClock
from ec2spawner.localcloud.front import _moto_application
from ec2spawner.localcloud.inprocess import ENDPOINT, InProcessCloud, _session
from ec2spawner.localcloud.motoside import import_moto
from launch_cluster import cli, managing
from launch_cluster.answering import Answer, wait_for_hub
from launch_cluster.commands import common
from launch_cluster.commands import down as down_command
from launch_cluster.commands import image as image_command
from launch_cluster.commands import up as up_command
from launch_cluster.down import Down
from launch_cluster.up import Up

READS = ("get_caller_identity",)
WHEN = ("before", "after")
HOW = ("interrupted", "killed")


class Killed(BaseException):
    """What a process that was killed does not notice."""


@dataclass(frozen=True)
class Break:
    """Where a command is broken off, and how."""

    number: int  # of the call, among those that change something
    when: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.when} call {self.number}"


def breaks(count: int, stride: int = 1) -> list[Break]:
    """Each way to break off a command that makes so many calls, or each ``stride``-th of them.

    Of four ways a call, each third leaves none of the calls out, and none of the ways.
    """
    return [Break(n, when, how) for n in range(count) for when in WHEN for how in HOW][::stride]


@dataclass
class Process:
    """One run of a command, from the view of AWS."""

    end: Break | None = None
    made: list[str] = field(default_factory=list)
    is_dead: bool = False

    async def call(self, operation: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send a call, unless the process ends just before."""
        if self.is_dead:
            raise Killed
        if default_effect(operation) is Effect.READ or operation in READS:
            return await send()
        number = len(self.made)
        self.made.append(operation)
        await self._reach(number, "before")
        try:
            return await send()
        finally:  # also of a call whose answer the command itself does not wait for any more
            await self._reach(number, "after")

    async def _reach(self, number: int, when: str) -> None:
        if self.end is None or (self.end.number, self.end.when) != (number, when):
            return
        if self.end.how == "killed":
            self.is_dead = True
            raise Killed
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0)  # here asyncio cancels the command


class _Here(Executor):
    """Makes a call where it is asked for, without a thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            future.set_exception(error)
        return future


class _Agents:
    """The agents of managers, who do at once what they are told."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def has_agent(self, instance_id: str) -> bool:
        return True

    def send(self, instance_id: str, command_id: str, script: str) -> None:
        self.sent.append(command_id)

    def command(self, instance_id: str, command_id: str) -> dict[str, Any] | None:
        done = "ec2spawner-upgrade: done: it is in use\n"
        is_known = command_id in self.sent
        return {"status": "Success", "code": 0, "output": done} if is_known else None


@lru_cache(maxsize=1)
def _application() -> Any:
    """moto's, which takes a second to make, and holds nothing."""
    import_moto()
    return _moto_application()


class World:
    """An emulated cloud, the folder of an operator, and the commands that the operator runs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.process = Process()
        self._clients: dict[str, Any] = {}
        self._patch = monkeypatch
        self.cloud = self._open(None)
        self._install()

    def _open(self, state: Path | None, now: float | None = None) -> InProcessCloud:
        cloud = InProcessCloud(clock=ManualClock(now or time.time()), state_dir=state)
        cloud.front._agents = _Agents()
        cloud.front._moto = _application()
        return cloud

    def reset(self) -> None:
        """An empty cloud, and an empty folder."""
        self.cloud.close()
        self.cloud = self._open(None)
        self._empty_folder()

    def keep(self, base: Path) -> None:
        """An empty cloud that keeps all in a folder of its own; ``restore`` takes it from there."""
        self.cloud.close()
        self.cloud = self._open(base / "cloud")

    def restore(self, base: Path, scratch: Path) -> None:
        """The cloud and the folder as they were when ``save`` was called."""
        self.cloud.close()
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(base, scratch)
        self._empty_folder()
        shutil.copytree(scratch / "here", self.folder, dirs_exist_ok=True)
        self.cloud = self._open(scratch / "cloud", float((base / "now").read_text()))

    def save(self, base: Path) -> None:
        """End the cloud, and have in ``base`` all that it holds."""
        (base / "now").write_text(str(self.cloud.clock()))
        shutil.copytree(self.folder, base / "here")
        self.cloud.close()

    def _empty_folder(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    async def _sleep(self, seconds: float) -> None:
        if self.process.is_dead:
            raise Killed
        self.cloud.clock.advance(seconds)
        await asyncio.sleep(0)

    def _now(self) -> float:
        return self.cloud.clock()

    def client(self, service: str, **more: Any) -> Any:
        """The one client of a service, which asks the cloud of now."""
        if service not in self._clients:
            client = _session().client(service, "us-east-1", endpoint_url=ENDPOINT)
            send = lambda request, **rest: self.cloud._send(request, **rest)  # noqa: E731
            client.meta.events.register_first("before-send", send)
            self._clients[service] = client
        return self._clients[service]

    def gateway(self) -> Gateway:
        """A gateway that no command uses."""
        gateway = Gateway(session_factory=lambda: self, sleep=self._sleep, clock=self._now)
        gateway._threads = _Here()  # type: ignore[assignment]
        return gateway

    def _install(self) -> None:
        world = self

        class Counted(Gateway):
            def __init__(self, region: str | None = None) -> None:
                super().__init__(region, session_factory=lambda: world, sleep=world._sleep)
                self._clock = world._now
                self._threads = _Here()  # type: ignore[assignment]

            async def call(self, service: str, operation: str, *args: Any, **more: Any) -> Any:
                send = partial(super().call, service, operation, *args, **more)
                return await world.process.call(operation, send)

        timed = {"sleep": self._sleep, "clock": self._now}
        self._patch.setattr(common, "Gateway", Counted)
        for module in (up_command, image_command):
            self._patch.setattr(module, "Up", partial(Up, **timed))
        self._patch.setattr(down_command, "Down", partial(Down, **timed))
        self._patch.setattr(managing, "wait_for_hub", partial(wait_for_hub, look=self._look))
        self._patch.setattr(yaml, "load", partial(_load_once, yaml.load))

    def _look(self, site: Any) -> Answer:
        running = [i for i in self.cloud.core().instances.values() if i.state == "running"]
        return Answer(is_up=any(i.tags.get("ec2spawner:role") == "manager" for i in running))

    def run(self, *arguments: str, end: Break | None = None) -> Result | None:
        """What came of a command; None of one that was killed."""
        self.process = Process(end)
        try:
            result = CliRunner().invoke(cli.main, arguments)
        except Killed:
            return None
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ask(self, service: str, operation: str, **params: Any) -> Any:
        """A call of nobody's."""
        return getattr(self.client(service), operation)(**params)

    def holdings(self, cluster: str) -> Counter[str]:
        """How much of each kind there is, a while later, that bears the cluster's tag or name."""
        for _ in range(5):
            self.cloud.clock.advance(120.0)
            self.cloud.core().settle()
        return Counter(_holdings(self, cluster))


_texts: dict[Any, bytes] = {}


def _load_once(load: Callable[..., Any], stream: Any, Loader: Any) -> Any:  # noqa: N803 - yaml's
    """What a text of YAML says: moto reads each template five times, which takes seconds."""
    key = (stream, Loader)
    if not isinstance(stream, str):
        return load(stream, Loader)
    if key not in _texts:
        _texts[key] = pickle.dumps(load(stream, Loader))
    return pickle.loads(_texts[key])


def _holdings(world: World, cluster: str) -> Iterable[str]:
    yield from _of_ec2(world, cluster)
    yield from _stacks(world, cluster)
    named = f"ec2spawner-{cluster}-"
    for bucket in world.ask("s3", "list_buckets")["Buckets"]:
        if bucket["Name"].startswith(named):
            yield "bucket"
            listed = world.ask("s3", "list_object_versions", Bucket=bucket["Name"])
            yield from (f"s3 {v['Key']}" for v in listed.get("Versions", ()))
            yield from (f"s3 marker {v['Key']}" for v in listed.get("DeleteMarkers", ()))
    begins = {"Key": "Name", "Option": "BeginsWith", "Values": [f"/ec2spawner/{cluster}/"]}
    found = world.ask("ssm", "describe_parameters", ParameterFilters=[begins])
    yield from (f"parameter {p['Name']}" for p in found["Parameters"])
    for kind in ("Role", "InstanceProfile"):
        listed = world.ask("iam", "list_roles" if kind == "Role" else "list_instance_profiles")
        names = [thing[f"{kind}Name"] for thing in listed[f"{kind}s"]]
        yield from (f"{kind} {name}" for name in names if name.startswith(named))


def _of_ec2(world: World, cluster: str) -> Iterable[str]:
    core = world.cloud.core()
    own = {"instances": core.instances, "volumes": core.volumes}
    own |= {"snapshots": core.snapshots, "images": core.images}
    gone = ("terminated", "shutting-down", "deregistered")
    for kind, table in own.items():
        for thing in table.values():
            state = getattr(thing.state, "value", thing.state)
            if thing.tags.get("ec2spawner:cluster") == cluster and state not in gone:
                yield f"{kind} {thing.tags.get('ec2spawner:role', '')}"
    filters = [{"Name": "key", "Values": ["ec2spawner:cluster"]}]
    for tag in world.ask("ec2", "describe_tags", Filters=filters)["Tags"]:
        kind = tag["ResourceType"]
        is_gone = kind == "nat-gateway" and tag["ResourceId"] in _deleted(world)
        if tag["Value"] == cluster and f"{kind}s" not in own and not is_gone:
            yield kind


def _deleted(world: World) -> set[str]:
    """NAT gateways are shown for a while after their end."""
    found = world.ask("ec2", "describe_nat_gateways")["NatGateways"]
    return {g["NatGatewayId"] for g in found if g["State"] == "deleted"}


def _stacks(world: World, cluster: str) -> Iterable[str]:
    named = (f"ec2spawner-{cluster}", f"ec2spawner-{cluster}-")
    listed = world.ask("cloudformation", "describe_stacks")["Stacks"]
    for stack in (s for s in listed if s["StackStatus"] != "DELETE_COMPLETE"):
        if stack["StackName"] == named[0] or stack["StackName"].startswith(named[1]):
            yield f"{stack['StackName']} {stack['StackStatus']}"
            asked = {"StackName": stack["StackName"]}
            # moto lists those of all stacks.
            waiting = world.ask("cloudformation", "list_change_sets", **asked)["Summaries"]
            waiting = [c for c in waiting if c["StackName"] == stack["StackName"]]
            yield from ("change set" for c in waiting if c["ExecutionStatus"] == "AVAILABLE")
