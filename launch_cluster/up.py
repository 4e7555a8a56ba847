"""``launch-cluster up``: look, plan, print, confirm, apply.

Owns the order of the steps and what is said about them. Must not decide what is wanted
(``planning.py``) or know how AWS is called.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.costs import Prices, kinds_of
from ec2spawner.errors import ConfigError, EC2SpawnerError
from ec2spawner.manager.place import CHOICES_KEY, SERVER_CONFIG_KEY
from ec2spawner.settings import (
    ServerConfig,
    load_server_config,
    server_config_text,
    write_server_config,
)

from .answering import HTTP_PORT, look_at, words_of
from .bills import ClusterBill, document_of_bill, hints_of, lines_of_bill, notes_of_bill, reckon
from .building import Building, Workshop
from .bundle import WORKER_LOCK, Sources, find_sources, worker_digest
from .changes import stack_changes, table
from .checking import find_obstacles, foreign_stacks
from .course import Course
from .examining import Diagnosis, examine
from .facts import Facts, StackFacts
from .hosting import (
    choices_text,
    manager_obstacles,
    manager_spec,
    notices_of_image,
    plan_manager,
    with_unknown_image,
)
from .images import Images
from .imaging import ImageChange, ImageStep, locked_versions
from .keys import ClusterKey
from .looking import look
from .manager_looking import look_at_manager
from .managing import Managing, site_of
from .planning import (
    CLUSTER_OUTPUTS,
    Finding,
    ManagerPlan,
    Network,
    Package,
    Plan,
    StackChange,
    Templates,
    cluster_spec,
    make_plan,
    nat_of,
    network_of,
    server_config,
    stack_tags,
    wanted_subnets,
)
from .probing import look_at_health
from .provisioning import look_at_package
from .reporter import Reporter
from .request import UpRequest
from .stacks import ResourceChange, StackFailed, Stacks
from .steps import KEY_WORDS, builders_line, image_lines, manager_lines, stack_line
from .vpcs import find_subnets


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
    sources: Sources = field(default_factory=find_sources)
    http_port: int = HTTP_PORT
    prices: Prices | None = None  # None: no word of costs

    def __post_init__(self) -> None:
        tags = stack_tags(self.request)
        self.images = Images(
            self.gateway,
            self.request.cluster,
            tags,
            reporter=self.reporter,
            sleep=self.sleep,
            clock=self.clock,
        )
        self._stacks = Stacks(self.gateway, self.reporter, sleep=self.sleep, clock=self.clock)
        self._key = ClusterKey(
            self.gateway,
            self.request.ssh_key_parameter,
            self.request.key_name,
            tags,
        )

    async def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Bring the cluster to what was asked; the result for ``--output json``."""
        plan, facts, templates, notices = await self.look_and_plan()
        self.show(plan, facts, notices)
        await self._show_changes(plan)
        bill = self.bill(facts)
        if dry_run or not plan.is_empty:
            self.show_bill(bill)
        if dry_run:
            return self.result(plan, bill, outlook(plan), notices)
        if not plan.is_empty:
            await self.confirm()
            facts = await self._apply(plan, facts, templates)
        hub = await self._wait_for_hub(plan, facts)
        outcome = "done" if self.done else "nothing to do"
        return {**self.result(plan, bill, outcome, notices), **hub}

    async def look_and_plan(self) -> tuple[Plan, Facts, Templates, tuple[str, ...]]:
        """The plan and what it is made from; Obstacles if there are any."""
        templates = read_templates()
        package = read_package(self.sources)
        recorded, text, notices = read_recorded(self.request.config_out)
        self.reporter.progress(f"Looking at {self.request.choices.REGION} …")
        facts, diagnosis = await self.examine(recorded)
        if diagnosis.obstacles:
            raise Obstacles(self.request.cluster, list(diagnosis.obstacles))
        notices += tuple(str(warning) for warning in diagnosis.warnings)
        plan = make_plan(self.request, facts, templates, text, package)
        plan = replace(plan, manager=self._plan_manager(plan, facts, templates))
        self._manager = Managing(
            self.gateway,
            self._stacks,
            self.request,
            templates.manager,
            self.reporter,
            self.note,
            self.http_port,
        )
        findings = await self._manager.find_replacement(plan.manager)
        if findings:
            raise Obstacles(self.request.cluster, findings)
        return plan, facts, templates, notices

    async def examine(self, recorded: ServerConfig | None) -> tuple[Facts, Diagnosis]:
        """All facts, and all findings about them at once."""
        findings = await self._find_network()
        facts = await self.look(recorded)
        seen = await look_at_manager(self.gateway, self._stacks, self.request, facts)
        facts = await self._look_at_release(replace(facts, manager=seen))
        findings += find_obstacles(self.request, facts)
        if not foreign_stacks(self.request, facts):
            public = wanted_subnets(self.request, facts.network, facts.cluster)[1]
            findings += manager_obstacles(self.request, facts, public)
        health = await look_at_health(self.gateway, self.request, facts)
        further = examine(self.request, facts, health)
        return facts, replace(further, obstacles=(*findings, *further.obstacles))

    async def _look_at_release(self, facts: Facts) -> Facts:
        """For an upgrade of a manager that lives: what its hub has, and what it is to have."""
        seen, asked = facts.manager, self.request.manager
        site = site_of(facts, self.http_port)
        if not (seen and asked and asked.is_upgraded and site):
            return facts
        package, answer = await asyncio.gather(look_at_package(), asyncio.to_thread(look_at, site))
        return replace(facts, manager=replace(seen, package=package, release=answer.release))

    async def look(self, recorded: ServerConfig | None) -> Facts:
        """All that a plan is made from, but for the manager."""
        return await look(
            self.gateway, self._stacks, self._key, self.images, self.request, recorded
        )

    async def _find_network(self) -> list[Finding]:
        """Choose the subnets of a VPC that was named, unless they were named, too, or before."""
        request = self.request
        if request.vpc_id is None or request.private_subnets:
            return []
        if await self._stacks.find(request.cluster_stack):
            return []
        found = await find_subnets(self.gateway, request.vpc_id)
        if found is None or not found.private:
            why = "does not exist" if found is None else "has no subnet with a route to NAT"
            return [Finding(f"The VPC {request.vpc_id}", why, "Name another, or the subnets.")]
        public = request.public_subnet or next(iter(found.public), None)
        self.request = replace(request, private_subnets=found.private, public_subnet=public)
        return []

    def _plan_manager(self, plan: Plan, facts: Facts, templates: Templates) -> ManagerPlan:
        network = network_of(self.request, facts)
        outputs = facts.cluster.outputs if facts.cluster and facts.cluster.is_usable else {}
        files = self._files(facts, templates, network, outputs) if network else None
        if files and plan.image:
            files[SERVER_CONFIG_KEY] = with_unknown_image(files[SERVER_CONFIG_KEY])
        found = plan_manager(self.request, facts, templates.manager, network, outputs, files)
        ahead = notices_of_image(self.request, facts, plan.image)
        return replace(found, notices=(*found.notices, *ahead))

    def _files(
        self, facts: Facts, templates: Templates, network: Network, outputs: Mapping[str, str]
    ) -> dict[str, str] | None:
        """What is to lie in the bucket for the manager; None if that is not known yet."""
        config = server_config(self.request, facts, network, outputs)
        if config is None or config.HUB_CONNECT_URL is None:
            return None
        spec = manager_spec(self.request, facts, templates.manager, network, outputs)
        return {SERVER_CONFIG_KEY: server_config_text(config), CHOICES_KEY: choices_text(spec)}

    async def preview(self, change: StackChange) -> list[ResourceChange]:
        """What CloudFormation would do to a stack that is there."""
        return await self._stacks.preview(change)

    async def _show_changes(self, plan: Plan) -> None:
        """Say what becomes of each part of the stacks that are there, before it is agreed to."""
        for change in stack_changes(plan):
            if not change.is_new:
                lines = table(await self.preview(change))
                self.reporter.show([f"Stack {change.spec.name}:", *lines])

    def show(self, plan: Plan, facts: Facts, notices: tuple[str, ...]) -> None:
        """Say what would be done."""
        for notice in (*notices, *plan.notices, *plan.manager.notices):
            self.reporter.progress(f"note: {notice}")
        where = f"{self.request.choices.REGION}, account {facts.account}"
        if plan.is_empty:
            self.reporter.show([f"Cluster {self.request.cluster} ({where}): nothing to do."])
            return
        lines = [f"{number}. {line}" for number, line in enumerate(self._lines(plan), 1)]
        self.reporter.show([f"Cluster {self.request.cluster} ({where}):", *lines])

    def bill(self, facts: Facts) -> ClusterBill | None:
        """What the cluster will cost; None where no prices are at hand."""
        if self.prices is None:
            return None
        request = self.request
        return reckon(
            request.choices,
            kinds_of(request.choices)[0],
            request.usage,
            self.prices,
            manager=request.manager is not None,
            nat=nat_of(request, facts),
        )

    def show_bill(self, bill: ClusterBill | None) -> None:
        """Say what it will cost."""
        if bill:
            notes = notes_of_bill(bill, bill.month.unknown)
            self.reporter.show(["", *lines_of_bill(bill), "", *hints_of(bill), *notes, ""])

    def _lines(self, plan: Plan) -> list[str]:
        lines = [stack_line(plan.network)] if plan.network else []
        if plan.key:
            lines.append(
                KEY_WORDS[plan.key].format(
                    parameter=self.request.ssh_key_parameter, pair=self.request.key_name
                )
            )
        lines += [stack_line(plan.cluster)] if plan.cluster else []
        lines += image_lines(plan, self.images.parameter)
        lines += [builders_line(plan.builders)] if plan.builders else []
        lines += manager_lines(plan.manager)
        lines += [f"write {self.request.config_out}"] if plan.config else []
        return lines

    async def _apply(self, plan: Plan, facts: Facts, templates: Templates) -> Facts:
        if plan.network:
            facts = replace(facts, network=await self._apply_stack(plan.network))
        if plan.key:
            await self._key.apply(plan.key)
            self.note(f"key pair {self.request.key_name}")
        network = network_of(self.request, facts)
        if network is None:
            raise _silent(self.request.network_stack)
        if facts.current_image is None and facts.image:
            # The launch template names the parameter, which EC2 wants to be there.
            await self.images.set_current(facts.image.image_id)
        if plan.cluster:
            spec = cluster_spec(self.request, facts, templates.cluster, network)
            facts = replace(
                facts, cluster=await self._apply_stack(replace(plan.cluster, spec=spec))
            )
        waiting, former = "", facts.current_image
        if plan.image and facts.cluster:
            image_id = await self.make_image(plan.image, facts, network)
            facts = replace(facts, current_image=image_id)
            if plan.manager.package and former:
                waiting = image_id  # a hub that goes back keeps workers of its own release
            else:
                await self.use_image(image_id)
        await self.end_builders(plan.builders)
        outputs = facts.cluster.outputs if facts.cluster else {}
        if not plan.manager.is_empty:
            facts = await self._manager.give_addresses(facts, network, outputs)
        self._write_config(plan, facts, network, outputs)
        if self.request.manager:
            files = self._files(facts, templates, network, outputs) or {}
            is_due = await self._manager.put_files(facts, files, outputs["Bucket"])
            facts = await self._manager.start(facts, network, outputs)
            is_due = is_due or plan.manager.refreshes
            await self._manager.renew(facts, plan.manager.package, is_due, outputs["Bucket"])
        if waiting:
            await self.use_image(waiting)
        return facts

    async def make_image(
        self, step: ImageStep, facts: Facts, network: Network, course: Course | None = None
    ) -> str:
        """Have the image that is wanted; its id."""
        if step.change is not ImageChange.BUILD or not step.recipe:
            return step.image_id
        building = self.building(facts, network)
        try:
            return (await building.build(step.recipe, course)).image_id
        finally:
            self.done += building.done

    async def use_image(self, image_id: str) -> None:
        """Have new workers get an image."""
        await self.images.set_current(image_id)
        self.note(f"worker image {image_id}")

    async def end_builders(self, ids: tuple[str, ...]) -> None:
        """End builders that an earlier run left."""
        for instance_id in ids:
            await self.images.end_builder(instance_id)
            self.note(f"end of the builder {instance_id}")

    def building(self, facts: Facts, network: Network) -> Building:
        """What builds an image in the cluster that ``facts`` tell of."""
        shop = workshop_of(self.request, facts, network)
        if shop is None:
            raise _silent(self.request.cluster_stack)
        return Building(
            self.gateway,
            self.images,
            shop,
            self.sources,
            stack_tags(self.request),
            self.reporter,
            sleep=self.sleep,
            clock=self.clock,
        )

    def _write_config(
        self, plan: Plan, facts: Facts, network: Network, outputs: Mapping[str, str]
    ) -> None:
        if not plan.config:
            return
        config = server_config(self.request, facts, network, outputs)
        if config is None:
            raise _silent(self.request.cluster_stack)
        if write_server_config(self.request.config_out, config):
            self.note(f"{self.request.config_out}")

    async def _wait_for_hub(self, plan: Plan, facts: Facts) -> dict[str, Any]:
        """The hub's address and what comes next, once it answers; {} without a manager."""
        site = self._manager.site(facts, plan.manager.package)
        if site is None:
            return {}
        answer = await self._manager.wait(site, facts)
        things = self._manager.next_things(site, answer, facts)
        self.reporter.show(
            [
                words_of(site, answer),
                f"OAuth callback URL: {site.callback}",
                "Next:",
                *(f"  {number}. {thing}" for number, thing in enumerate(things, 1)),
            ]
        )
        hub = {"url": site.url, "callback": site.callback, "address": site.address}
        return {"hub": hub, "next": things}

    async def _apply_stack(self, change: StackChange) -> StackFacts:
        stack = await self._stacks.apply(change)
        self.note(f"stack {change.spec.name}")
        return stack

    def note(self, what: str) -> None:
        """Say what was changed, and remember it."""
        self.done.append(what)
        self.reporter.progress(f"done: {what}")

    def result(
        self, plan: Plan, bill: ClusterBill | None, outcome: str, notices: tuple[str, ...]
    ) -> dict[str, Any]:
        """The result for ``--output json``."""
        if outcome == "done" or (outcome == "nothing to do" and not plan.is_empty):
            self.reporter.show([f"Cluster {self.request.cluster}: {outcome}."])
        return {
            "cluster": self.request.cluster,
            "region": self.request.choices.REGION,
            "outcome": outcome,
            "steps": self._lines(plan),
            "done": self.done,
            "server_config": str(self.request.config_out),
            "notices": [*notices, *plan.notices, *plan.manager.notices],
            "cost": document_of_bill(bill).model_dump(mode="json") if bill else None,
        }


def outlook(plan: Plan) -> str:
    """How a run ends that only looks."""
    return "nothing to do" if plan.is_empty else "planned"


def workshop_of(request: UpRequest, facts: Facts, network: Network) -> Workshop | None:
    """Where builders work; None if the cluster's stack does not say what it holds."""
    outputs = facts.cluster.outputs if facts.cluster else {}
    if not set(CLUSTER_OUTPUTS) <= set(outputs) or facts.kind is None or facts.image is None:
        return None
    zones = facts.kind.zones
    offered = [s.SUBNET_ID for s in network.worker_subnets if s.ZONE in zones]
    return Workshop(
        region=request.choices.REGION,
        launch_template_id=outputs["LaunchTemplateId"],
        instance_type=facts.kind.name,
        subnets=tuple(offered),
        profile_arn=outputs["BuilderProfileArn"],
        bucket=outputs["Bucket"],
        root_device=facts.image.root_device,
        root_gib=request.choices.WORKER_EBS_SIZE,
    )


def read_package(sources: Sources) -> Package:
    """What of this package an image is made from; BundleError if a part of it is missing."""
    digest = worker_digest(sources)
    lock = (sources.worker / WORKER_LOCK).read_text(encoding="utf-8")
    return Package(digest, locked_versions(lock).get("jupyterhub", ""))


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
        manager=(folder / "manager.yaml").read_text(encoding="utf-8"),
    )


def read_recorded(path: Path) -> tuple[ServerConfig | None, str | None, tuple[str, ...]]:
    """What the last run wrote, and the text itself; a file that cannot be used is written anew."""
    if not path.exists():
        return None, None, ()
    try:
        config, notices = load_server_config(path)
        return config, path.read_text(encoding="utf-8"), notices
    except ConfigError as error:
        return None, None, (f"{error.what} It is written anew. ({error.why})",)
