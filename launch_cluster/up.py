"""``launch-cluster up``: look, plan, print, confirm, apply.

Owns the order of the steps and what is said about them. Must not decide what is wanted
(``planning.py``) or know how AWS is called.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.errors import ConfigError, EC2SpawnerError
from ec2spawner.settings import ServerConfig, load_server_config, write_server_config

from .checking import find_obstacles
from .facts import Facts, StackFacts
from .keys import ClusterKey
from .looking import look
from .planning import (
    Finding,
    KeyChange,
    Plan,
    StackChange,
    Templates,
    cluster_spec,
    make_plan,
    network_of,
    server_config,
    stack_tags,
)
from .reporter import Reporter
from .request import UpRequest
from .stacks import StackFailed, Stacks

KEY_WORDS = {
    KeyChange.MAKE: "make the cluster's SSH key: private half to SSM {parameter}, public half to"
    " the key pair {pair}",
    KeyChange.IMPORT: "import the public half of the key in {parameter} as key pair {pair}",
    KeyChange.REPLACE: "renew the key pair {pair} to go with {parameter}; no worker uses it",
}


class Obstacles(EC2SpawnerError):
    """What stands in the way of a launch; ``faults`` are all that were found."""

    code = "obstacles"

    def __init__(self, cluster: str, findings: list[Finding]) -> None:
        self.faults = tuple(findings)
        super().__init__(
            f"The cluster {cluster} cannot be launched as asked; nothing was changed.",
            why=" ".join(str(finding) for finding in findings),
            next_step="Mend these and run the same command again.",
        )


@dataclass
class Up:
    """One run of the command. ``done`` tells what was changed so far, however the run ends."""

    gateway: Gateway
    request: UpRequest
    reporter: Reporter
    confirm: Callable[[], Awaitable[None]]  # raises what ends the command if the answer is no
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stacks = Stacks(self.gateway, self.reporter, sleep=self.sleep, clock=self.clock)
        self._key = ClusterKey(
            self.gateway,
            self.request.ssh_key_parameter,
            self.request.key_name,
            stack_tags(self.request),
        )

    async def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Bring the cluster to what was asked; the result for ``--output json``."""
        templates = read_templates()
        recorded, text, notices = _read_recorded(self.request.config_out)
        self.reporter.progress(f"Looking at {self.request.choices.REGION} …")
        facts = await look(self.gateway, self._stacks, self._key, self.request, recorded)
        findings = find_obstacles(self.request, facts)
        if findings:
            raise Obstacles(self.request.cluster, findings)
        plan = make_plan(self.request, facts, templates, text)
        self._show(plan, facts, notices)
        if plan.is_empty or dry_run:
            return self._result(plan, "nothing to do" if plan.is_empty else "planned", notices)
        await self.confirm()
        await self._apply(plan, facts, templates)
        return self._result(plan, "done", notices)

    def _show(self, plan: Plan, facts: Facts, notices: tuple[str, ...]) -> None:
        for notice in (*notices, *plan.notices):
            self.reporter.progress(f"note: {notice}")
        where = f"{self.request.choices.REGION}, account {facts.account}"
        if plan.is_empty:
            self.reporter.show([f"Cluster {self.request.cluster} ({where}): nothing to do."])
            return
        lines = [f"{number}. {line}" for number, line in enumerate(self._lines(plan), 1)]
        self.reporter.show([f"Cluster {self.request.cluster} ({where}):", *lines])

    def _lines(self, plan: Plan) -> list[str]:
        lines = [_stack_line(plan.network)] if plan.network else []
        if plan.key:
            lines.append(
                KEY_WORDS[plan.key].format(
                    parameter=self.request.ssh_key_parameter, pair=self.request.key_name
                )
            )
        lines += [_stack_line(plan.cluster)] if plan.cluster else []
        lines += [f"write {self.request.config_out}"] if plan.config else []
        return lines

    async def _apply(self, plan: Plan, facts: Facts, templates: Templates) -> None:
        if plan.network:
            facts = replace(facts, network=await self._apply_stack(plan.network))
        if plan.key:
            await self._key.apply(plan.key)
            self._note(f"key pair {self.request.key_name}")
        network = network_of(self.request, facts)
        if network is None:
            raise _silent(self.request.network_stack)
        cluster = facts.cluster
        if plan.cluster:
            spec = cluster_spec(self.request, facts, templates.cluster, network)
            cluster = await self._apply_stack(replace(plan.cluster, spec=spec))
        if plan.config and cluster:
            config = server_config(self.request, facts, network, cluster.outputs)
            if config is None:
                raise _silent(cluster.name)
            if write_server_config(self.request.config_out, config):
                self._note(f"{self.request.config_out}")

    async def _apply_stack(self, change: StackChange) -> StackFacts:
        stack = await self._stacks.apply(change)
        self._note(f"stack {change.spec.name}")
        return stack

    def _note(self, what: str) -> None:
        self.done.append(what)
        self.reporter.progress(f"done: {what}")

    def _result(self, plan: Plan, outcome: str, notices: tuple[str, ...]) -> dict[str, Any]:
        if outcome == "done":
            self.reporter.show([f"Cluster {self.request.cluster}: done."])
        return {
            "cluster": self.request.cluster,
            "region": self.request.choices.REGION,
            "outcome": outcome,
            "steps": self._lines(plan),
            "done": self.done,
            "server_config": str(self.request.config_out),
            "notices": [*notices, *plan.notices],
        }


def _stack_line(change: StackChange) -> str:
    spec = change.spec
    if not change.is_new:
        return f"change the stack {spec.name}: " + "; ".join(change.differences)
    again = ", after removing what a failed creation left behind" if change.remains else ""
    what = "security groups, launch template, bucket"
    if "VpcCidr" in spec.parameters:
        where = f"{spec.parameters['ZoneA']} and {spec.parameters['ZoneB']}"
        what = f"VPC {spec.parameters['VpcCidr']}, subnets in {where}, NAT gateway"
    return f"make the stack {spec.name} ({what}){again}"


def _silent(stack: str) -> StackFailed:
    return StackFailed(
        f"The stack {stack} does not say what it holds.",
        why="Some of its outputs are missing.",
        next_step="Look at it in the CloudFormation console; a stack made by hand cannot be used.",
    )


def read_templates() -> Templates:
    """The CloudFormation templates of this package."""
    folder = Path(__file__).parent / "templates"
    return Templates(
        network=(folder / "network.yaml").read_text(encoding="utf-8"),
        cluster=(folder / "cluster.yaml").read_text(encoding="utf-8"),
    )


def _read_recorded(path: Path) -> tuple[ServerConfig | None, str | None, tuple[str, ...]]:
    """What the last run wrote, and the text itself; a file that cannot be used is written anew."""
    if not path.exists():
        return None, None, ()
    try:
        config, notices = load_server_config(path)
        return config, path.read_text(encoding="utf-8"), notices
    except ConfigError as error:
        return None, None, (f"{error.what} It is written anew. ({error.why})",)
