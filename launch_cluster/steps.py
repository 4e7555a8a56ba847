"""The words for what ``up`` would do to stacks, key, image and manager. Pure."""

from __future__ import annotations

from ec2spawner.version import __version__

from .facts import HubData
from .imaging import CONTENT_SHOWN, ImageChange, ImageStep
from .planning import KeyChange, ManagerPlan, Plan, StackChange, zones_of

KEY_WORDS = {
    KeyChange.MAKE: "make the cluster's SSH key: private half to SSM {parameter}, public half to"
    " the key pair {pair}",
    KeyChange.IMPORT: "import the public half of the key in {parameter} as key pair {pair}",
    KeyChange.REPLACE: "renew the key pair {pair} to go with {parameter}; no worker uses it",
}
SHOWN = 12
"""Digits of a package's SHA-256."""


def stack_line(change: StackChange) -> str:
    """What becomes of a stack."""
    spec = change.spec
    if not change.is_new:
        return f"change the stack {spec.name}: " + "; ".join(change.differences)
    again = ", after removing what a failed creation left behind" if change.remains else ""
    what = "security groups, launch template, bucket"
    if "VpcCidr" in spec.parameters:
        *others, last = zones_of(spec.parameters)
        where = f"{', '.join(others)} and {last}"
        nat = {"gateway": "NAT gateway", "instance": "NAT instance", "none": "no NAT"}
        given = spec.parameters
        what = f"VPC {given['VpcCidr']}, subnets in {where}, {nat[given['Nat']]}"
    return f"make the stack {spec.name} ({what}){again}"


def image_line(step: ImageStep, parameter: str) -> str:
    """What a step does, for the plan."""
    if step.change is ImageChange.TAKE:
        return f"have new workers get the image {step.image_id} ({step.reason}; {parameter})"
    base, content = ("", "")
    if step.recipe:
        base, content = step.recipe.base_image, step.recipe.content[:CONTENT_SHOWN]
    return (
        f"build the worker image from {base} on a builder of its own ({step.reason}; content"
        f" {content}); it takes some minutes"
    )


def image_lines(plan: Plan, parameter: str) -> list[str]:
    """What becomes of the workers' image beside the rest of a plan."""
    if plan.image is None:
        return []
    after = "; new workers get it once the hub has changed over" * bool(plan.manager.package)
    return [image_line(plan.image, parameter) + after]


def builders_line(ids: tuple[str, ...]) -> str:
    """What becomes of builders that an earlier run left, for the plan."""
    return f"end what an earlier run left: {', '.join(ids)}"


def manager_lines(plan: ManagerPlan) -> list[str]:
    """What becomes of the manager."""
    lines = []
    if plan.before and plan.before.is_new:
        what = "role, interface, address, data volume, daily snapshots"
        lines.append(f"make the stack {plan.before.spec.name} ({what})")
        lines += [_data_line(plan.data)] if plan.data else []
    if plan.replaces:
        lines.append("END the manager's machine: the hub is away until the new one is set up")
    elif plan.before and not plan.before.is_new:
        lines.append(stack_line(plan.before))
    lines += [f"put {key} into the cluster's bucket" for key in plan.files]
    if plan.instance and plan.starts:
        kind = plan.instance.spec.parameters["InstanceType"]
        lines.append(f"make the manager's machine ({kind}) and wait for its hub")
    elif plan.instance:
        stops = any(d.startswith("InstanceType:") for d in plan.instance.differences)
        away = " (stops the hub for some minutes; workers go on)" if stops else ""
        lines.append(stack_line(plan.instance) + away)
    return lines + _taking_over(plan)


def _data_line(data: HubData) -> str:
    """What becomes of the hub's data that an earlier manager left."""
    source = f"{data.ident} ({data.size_gib} GiB)"
    if data.snapshot_id:
        return f"take the hub's data over from the snapshot {source}"
    return (
        f"take the hub's data over from the volume {source}, by a snapshot; it stays as it is:"
        " delete it once the new hub has shown its users"
    )


def _taking_over(plan: ManagerPlan) -> list[str]:
    away = "its hub starts anew, and workers go on"
    if plan.package:
        package = f"ec2spawner {__version__}, package {plan.package.sha256[:SHOWN]}"
        return [f"bring the manager to {package}: {away}; back if the hub then fails"]
    return [f"have the manager take that over: {away}"] if plan.refreshes else []
