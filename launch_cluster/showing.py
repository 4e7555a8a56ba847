"""``launch-cluster plan``: the plan with the changes that CloudFormation would make, and policies.

Owns what is shown and its form. Changes nothing but change sets, which it makes and drops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .changes import mark_of, stack_changes, table
from .facts import Facts
from .hosting import UNKNOWN, manager_spec
from .intrinsics import Resolver, read_template
from .planning import StackChange, Templates, boundary_of, network_of
from .policies import Place, role_policies
from .reporter import Reporter
from .rights import operator_policies
from .stacks import ResourceChange
from .up import Up, outlook


class Showing:
    """Shows what one run of ``up`` would do."""

    def __init__(self, up: Up, reporter: Reporter) -> None:
        self._up = up
        self._reporter = reporter

    async def plan(self) -> dict[str, Any]:
        """The plan and its changes; the result for ``--output json``."""
        plan, facts, _templates, notices = await self._up.look_and_plan()
        self._up.show(plan, facts, notices)
        stacks = {change.spec.name: await self._changes(change) for change in stack_changes(plan)}
        for name, lines in stacks.items():
            self._reporter.show([f"Stack {name}:", *table(lines)])
        bill = self._up.bill(facts)
        self._up.show_bill(bill)
        return {
            **self._up.result(plan, bill, outlook(plan), notices),
            "changes": {name: [_document(c) for c in lines] for name, lines in stacks.items()},
        }

    async def _changes(self, change: StackChange) -> list[ResourceChange]:
        """As CloudFormation says it; of a stack that is not there, what its template holds."""
        if not change.is_new:
            return await self._up.preview(change)
        template = read_template(change.spec.template)
        resolver = Resolver(template, change.spec.parameters)
        return [
            ResourceChange("Add", name, resource["Type"])
            for name, resource in template["Resources"].items()
            if resolver.holds(resource.get("Condition"))
        ]

    async def policies(self) -> dict[str, Any]:
        """By who needs them: the policies that must be granted."""
        _plan, facts, templates, _notices = await self._up.look_and_plan()
        return policies_of(self._up, facts, templates)


def policies_of(up: Up, facts: Facts, templates: Templates) -> dict[str, Any]:
    """The policies of manager, builders (where the cluster has such a role) and operator."""
    request = up.request
    place = Place(request.cluster, request.choices.REGION, facts.account, facts.partition)
    outputs = facts.cluster.outputs if facts.cluster and facts.cluster.is_usable else {}
    found: dict[str, Any] = {"operator": operator_policies(place, boundary_of(request, facts))}
    for name, policies in role_policies(templates.cluster, place, outputs).items():
        found["builder" if "Builder" in name else name] = policies
    if request.manager:
        network = network_of(request, facts)
        spec = manager_spec(request, facts, templates.manager, network, outputs)
        known: Mapping[str, str] = {
            key: f"<{key}>" if value == UNKNOWN else value for key, value in spec.parameters.items()
        }
        roles = role_policies(templates.manager, place, known)
        found |= {"manager": roles["ManagerRole"], "snapshots": roles["SnapshotRole"]}
    return found


def _document(change: ResourceChange) -> dict[str, Any]:
    return {
        "action": change.action,
        "type": change.kind,
        "resource": change.resource,
        "replaced": "yes" if change.is_replaced else mark_of(change),
    }
