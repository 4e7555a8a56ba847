"""Brings the manager to what was planned: its stack by one or two updates, files, and the wait.

Owns the order: addresses and data first, then the files in the bucket, then the instance, which
finds both. Must not decide what is wanted (``hosting``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import CloudError, EC2SpawnerError
from ec2spawner.manager.place import REFRESH, REFRESH_KEY

from . import provisioning
from .answering import Answer, Site, Want, wait_for_hub
from .bundle import Bundle
from .entry import entry_of, first_things, want_of
from .facts import Facts, PackageFacts, StackFacts
from .hosting import MANAGER_OUTPUTS, lives, manager_spec, matter, plan_manager, would_replace
from .hubdata import save
from .manager_looking import find_lacking
from .planning import Finding, ManagerPlan, Network
from .reporter import Reporter
from .request import UpRequest
from .stacks import ResourceChange, StackFailed, Stacks
from .steps import SHOWN
from .upgrading import Upgrading

INSTANCE = "Manager"
"""The instance's name in the template."""


class WouldReplace(EC2SpawnerError):
    """A change would make another machine of the manager, and nobody said that it may."""

    code = "would-replace"


@dataclass
class Managing:
    """The manager's part of one run of ``up``. ``note`` is told what was done."""

    gateway: Gateway
    stacks: Stacks
    request: UpRequest
    template: str
    reporter: Reporter
    note: Callable[[str], None]
    http_port: int

    async def find_replacement(self, plan: ManagerPlan) -> list[Finding]:
        """What CloudFormation would replace the machine for, although nobody allowed it."""
        change = plan.instance
        if change is None or plan.starts or change.is_new:
            return []
        lines = await self.stacks.preview(change)
        found = [line for line in lines if line.resource == INSTANCE and line.is_replaced]
        causes = [", ".join(line.causes) or "the template" for line in found]
        return [would_replace(f"The change of {cause}") for cause in causes]

    async def give_addresses(
        self, facts: Facts, network: Network, outputs: Mapping[str, str]
    ) -> Facts:
        """Make what outlives the instance; ends an instance that is to be replaced."""
        facts = await self._with_data(facts)
        plan = plan_manager(self.request, facts, self.template, network, outputs, None)
        if plan.before is None:
            return facts
        if plan.replaces:
            self.reporter.progress("The hub goes away now; workers go on.")
        return self._with_stack(facts, await self.stacks.apply(plan.before))

    async def _with_data(self, facts: Facts) -> Facts:
        """The facts with a snapshot of what an earlier manager left."""
        manager = facts.manager
        if manager is None or manager.data is None:
            return facts
        snapshot_id = await save(
            self.gateway,
            self.request.cluster,
            manager.data,
            self.reporter,
            sleep=self.stacks.sleep,
            clock=self.stacks.clock,
        )
        data = replace(manager.data, snapshot_id=snapshot_id)
        return replace(facts, manager=replace(manager, data=data))

    async def put_files(self, facts: Facts, files: Mapping[str, str], bucket: str) -> bool:
        """Put what changed into the bucket, before an instance that is made asks for it.

        Whether one that lives is to take it over: that stands in the bucket, too, and before, so
        that whoever comes after an end in the middle finds it.
        """
        known = facts.manager.files if facts.manager else {}
        changed = {key: text for key, text in files.items() if known.get(key) != text}
        is_due = lives(facts.manager) and matter(changed, known, files)
        if is_due:
            changed = {REFRESH_KEY: "", **changed}
        for key, text in changed.items():
            params = {"Bucket": bucket, "Key": key, "Body": text.encode()}
            await self.gateway.call("s3", "put_object", params, effect=Effect.REPEATABLE)
            self.note(f"s3://{bucket}/{key}")
        return is_due

    async def renew(
        self, facts: Facts, package: PackageFacts | None, is_due: bool, bucket: str
    ) -> None:
        """Have a manager that lives change to the package, or take over what is due only."""
        if package:
            word = (await self._put_package(bucket)).sha256
            await self._send(facts, word, f"the manager has the package {word[:SHOWN]}")
        elif is_due:
            await self._send(facts, REFRESH, "the manager has its settings")
        if is_due or (facts.manager and facts.manager.is_refresh_due):
            params = {"Bucket": bucket, "Key": REFRESH_KEY}
            await self.gateway.call("s3", "delete_object", params, effect=Effect.REPEATABLE)

    async def _put_package(self, bucket: str) -> Bundle:
        return await provisioning.put_package(
            self.gateway, bucket, self.reporter, self.stacks.clock
        )

    async def _send(self, facts: Facts, word: str, what: str) -> None:
        stack = facts.manager.stack if facts.manager else None
        instance_id = stack.outputs.get("InstanceId", "") if stack else ""
        site = self.site(facts, None)
        want = want_of(entry_of(self.request, facts), site) if site else None
        self.reporter.show(want.lines if want else ())
        upgrading = Upgrading(self.gateway, self.reporter, self.stacks.sleep, self.stacks.clock)
        if await upgrading.run(instance_id, word):
            self.note(what)

    async def start(self, facts: Facts, network: Network, outputs: Mapping[str, str]) -> Facts:
        """Make the instance, or change the one that lives without making it another."""
        request = _once(self.request)  # what was to be replaced was ended before
        plan = plan_manager(request, facts, self.template, network, outputs, None)
        change = plan.instance
        if change is None:
            return facts
        if plan.starts:
            made = await self._put_package(outputs["Bucket"])
            script = provisioning.manager_script(request, outputs["Bucket"], change, made)
            spec = manager_spec(request, facts, self.template, network, outputs, script)
            change = replace(change, spec=spec)
        return self._with_stack(facts, await self.stacks.apply(change, _refuse_replacement))

    def _with_stack(self, facts: Facts, stack: StackFacts) -> Facts:
        self.note(f"stack {stack.name}")
        if not set(MANAGER_OUTPUTS) <= set(stack.outputs):
            raise StackFailed(
                f"The stack {stack.name} does not say what it holds.",
                next_step="Look at it in the CloudFormation console.",
            )
        manager = facts.manager and replace(facts.manager, stack=stack)
        return replace(facts, manager=manager)

    def site(self, facts: Facts, package: PackageFacts | None) -> Site | None:
        """Where the hub is to answer, with which package; None without a manager."""
        site = site_of(facts, self.http_port)
        release = package.release if package else ""
        return site and replace(site, public_url=self.request.choices.PUBLIC_URL, release=release)

    async def wait(self, site: Site, facts: Facts) -> Answer:
        """The hub's first answer."""
        stack = facts.manager.stack if facts.manager else None
        instance_id = stack.outputs.get("InstanceId", "") if stack else ""
        ec2 = EC2(self.gateway, self.request.cluster)

        async def console() -> str:
            try:
                return await ec2.console(instance_id)
            except CloudError as error:
                return f"(no console: {error.what})"

        entry = entry_of(self.request, facts)

        async def find_want() -> Want | None:
            nonlocal entry
            with suppress(CloudError):  # what was seen before holds
                entry = replace(entry, lacks=await find_lacking(self.gateway, entry.cluster))
            return want_of(entry, site)

        return await wait_for_hub(
            site,
            console,
            self.reporter,
            find_want=find_want,
            sleep=self.stacks.sleep,
            clock=self.stacks.clock,
        )

    def next_things(self, site: Site, answer: Answer, facts: Facts) -> list[str]:
        """What the operator does next."""
        name = self.request.cluster
        things = first_things(entry_of(self.request, facts), site)
        things = [*things, f"Log in at {site.url} and add your users: Admin, Add Users."]
        if answer.is_unnamed:
            point = f"Let {site.domain} point to {site.address} (an A record); HTTPS begins then."
            return [point, *things]
        if not site.domain:
            https = "Give it a name and HTTPS: launch-cluster up NAME --domain HOST --email YOU."
            return [*things, https.replace("NAME", name, 1)]
        return [*things, f"See what it costs: launch-cluster plan {name}."]


def site_of(facts: Facts, http_port: int) -> Site | None:
    """Where the hub is to answer; None if there is no machine."""
    stack = facts.manager.stack if facts.manager else None
    if stack is None or not lives(facts.manager):
        return None
    return Site(stack.outputs["PublicAddress"], stack.parameters.get("Domain", ""), http_port)


def _once(request: UpRequest) -> UpRequest:
    """The request without the permission to replace."""
    manager = request.manager and replace(request.manager, may_be_replaced=False)
    return replace(request, manager=manager)


def _refuse_replacement(lines: list[ResourceChange]) -> None:
    found = [line for line in lines if line.resource == INSTANCE and line.is_replaced]
    if found:
        raise WouldReplace(
            "This change would make another machine of the manager; it was not made.",
            why="; ".join(map(str, found)),
            next_step="Add --replace-manager if the hub may be away for some minutes.",
        )
