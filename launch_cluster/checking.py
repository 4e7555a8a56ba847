"""What stands in the way of ``up``: every finding at once, as plain functions.

Must not call AWS. A finding says what is wrong and what to do; a plan is made only without any.
"""

from __future__ import annotations

from collections.abc import Iterator

from ec2spawner.costs import Nat
from ec2spawner.model import TAG_CLUSTER
from ec2spawner.settings import INSTANCE_CONFIG_NAME

from .facts import Facts, StackFacts
from .imagechecks import findings_about_image
from .planning import (
    ZONES_DEFAULT,
    Finding,
    KeyChange,
    key_change,
    wanted_subnets,
    worker_zones,
    zones_of,
)
from .request import UpRequest


def find_obstacles(request: UpRequest, facts: Facts) -> list[Finding]:
    """All that stands in the way, in the order in which an operator would look at it."""
    foreign = foreign_stacks(request, facts)
    if foreign:  # what they hold would only lead to more, about another cluster
        return foreign
    return [
        *_of_stacks(request, facts),
        *_of_type(request, facts),
        *findings_about_image(request, facts),
        *_of_profiles(request, facts),
        *_of_subnets(request, facts),
        *_of_key(request, facts),
        *_of_machines_in_use(request, facts),
        *_of_file(request, facts),
    ]


def foreign_stacks(request: UpRequest, facts: Facts) -> list[Finding]:
    """Stacks of the cluster's names that belong to another one."""
    return list(_of_foreign_stacks(request, facts))


def _of_foreign_stacks(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    for stack in filter(None, _stacks(facts)):
        marks = (stack.parameters.get("ClusterName"), stack.tags.get(TAG_CLUSTER))
        others = {mark for mark in marks if mark} - {request.cluster}
        if others:
            yield Finding(
                f"The stack {stack.name}",
                f"belongs to the cluster {min(others)}, not to {request.cluster}",
                "Choose another name for the cluster.",
            )


def _stacks(facts: Facts) -> tuple[StackFacts | None, ...]:
    return facts.network, facts.cluster, facts.manager.stack if facts.manager else None


def _of_stacks(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    for stack in _stacks(facts):
        if stack and not stack.is_usable and not stack.is_remains:
            yield Finding(
                f"The stack {stack.name}",
                f"is in the state {stack.status}, which cannot be changed",
                "Look at its events in the CloudFormation console, then continue or delete it.",
            )
    network = facts.network if facts.network and facts.network.is_usable else None
    if network:
        yield from _of_own_network(request, network)


def _of_own_network(request: UpRequest, network: StackFacts) -> Iterator[Finding]:
    cidr = network.parameters.get("VpcCidr", "")
    if request.vpc_cidr and request.vpc_cidr != cidr:
        yield Finding(
            f"--vpc-cidr {request.vpc_cidr}",
            f"would replace the cluster's network, which has {cidr}",
            "Leave the option out, or make another cluster.",
        )
    ours = {value for key, value in network.outputs.items() if "Subnet" in key}
    if not set(request.private_subnets) <= ours:
        yield Finding(
            "PRIVATE_SUBNET_ID",
            f"names other subnets than the network that was made for {request.cluster}",
            "Leave the subnets out, or make another cluster.",
        )
    yield from _of_nat(request.nat, network)


def _of_nat(asked: str | None, network: StackFacts) -> Iterator[Finding]:
    """One address serves gateway and instance, of which the new one cannot have it.

    CloudFormation makes before it deletes: EC2 would refuse it, and the update be taken back.
    """
    has = network.parameters.get("Nat") or Nat.GATEWAY.value
    if asked in (None, has) or Nat.NONE.value in (asked, has):
        return
    yield Finding(
        f"--nat {asked}",
        f"cannot take the place of the network's NAT {has}, which has its public address",
        f"Leave the option out; or run this with --nat none first, and then with --nat {asked}:"
        " in between workers reach nothing outside, and the address becomes another.",
    )


def _of_machines_in_use(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    """What the hub would no longer find on the machines that there are: they would be silent."""
    if not facts.workers:
        return
    stack, recorded = facts.cluster, facts.recorded
    ports = stack.parameters if stack and stack.is_usable else {}
    are_ours = recorded is not None and request.cluster == recorded.CLUSTER_NAME
    was = {
        "WORKER_SSH_PORT": ports.get("WorkerSshPort"),
        "WORKER_NOTEBOOK_PORT": ports.get("WorkerNotebookPort"),
        "WORKER_USERNAME": recorded.WORKER_USERNAME if recorded and are_ours else None,
    }
    for key, before in was.items():
        wanted = str(getattr(request.choices, key))
        if before not in (None, wanted):
            yield Finding(
                f"{key} {wanted}",
                f"is not what the {facts.workers} workers that there are have ({before}):"
                " the hub would take them for broken, and replace them",
                f"Leave it at {before}, or run launch-cluster terminate-workers {request.cluster}"
                " first; homes are kept.",
            )


def _of_type(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    name, kind = request.choices.WORKER_INSTANCE_TYPE, facts.kind
    subject = f"WORKER_INSTANCE_TYPE {name}"
    other = f"Choose another in {INSTANCE_CONFIG_NAME}, for example t3.medium."
    if kind is None:
        yield Finding(subject, f"is not a type in {request.choices.REGION}", other)
        return
    if not kind.has_nvme:
        why = "has no NVMe volumes, by which a worker finds its home"
        yield Finding(subject, why, other)
    if not wanted_subnets(request, facts.network, facts.cluster)[0]:
        yield from _of_zones(request, facts, kind.zones)


def _of_zones(request: UpRequest, facts: Facts, offered: tuple[str, ...]) -> Iterator[Finding]:
    """Whether a network can have the zones that are asked for, or has them."""
    name = request.choices.WORKER_INSTANCE_TYPE
    if facts.network is None or not facts.network.is_usable:
        if len(offered) < (request.zones or ZONES_DEFAULT):
            there = ", ".join(offered) or "none"
            yield Finding(
                f"WORKER_INSTANCE_TYPE {name}",
                f"is offered in too few zones for a network ({there})",
                f"Choose another in {INSTANCE_CONFIG_NAME}, for example t3.medium"
                + (", or fewer --zones." if request.zones else "."),
            )
        return
    has = len(zones_of(facts.network.parameters))
    if request.zones not in (None, has):
        yield Finding(
            f"--zones {request.zones}",
            f"cannot change the network, which was made over {has} zones",
            "Leave the option out, or make another cluster.",
        )


def _of_profiles(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    """Every worker gets the one image, so that every type must run it; and its users a machine."""
    where = worker_zones(request, facts)
    other = f"Choose another in {INSTANCE_CONFIG_NAME}."
    for name, kind in facts.kinds.items():
        if facts.kind is None or name == facts.kind.name:
            continue
        subject = f"The type {name} in PROFILES"
        if kind is None:
            yield Finding(subject, "is not there in this Region", other)
            continue
        if not kind.has_nvme:
            yield Finding(subject, "has no NVMe volumes, by which a worker finds its home", other)
        if where and not set(where) & set(kind.zones):
            offered = ", ".join(kind.zones) or "no zone"
            why = f"is offered in none of the workers' zones ({', '.join(where)}), but in {offered}"
            yield Finding(subject, why, other)
        if facts.image and facts.image.architecture not in kind.architectures:
            runs = "/".join(kind.architectures)
            yield Finding(
                subject,
                f"runs {runs}, but the workers' image is for {facts.image.architecture}",
                "Choose types of one architecture, and WORKER_INSTANCE_TYPE of the same.",
            )


def _of_subnets(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    private, public = wanted_subnets(request, facts.network, facts.cluster)
    named = [*private, *([public] if public else [])]
    for subnet_id in dict.fromkeys(named):
        if subnet_id not in facts.subnets:
            why = f"does not exist in {request.choices.REGION}"
            yield Finding(f"The subnet {subnet_id}", why, "Look up its id in the VPC console.")
    found = [facts.subnets[i] for i in named if i in facts.subnets]
    for subnet in found:
        if subnet.state != "available":
            yield Finding(f"The subnet {subnet.subnet_id}", f"is {subnet.state}", "Name another.")
        elif subnet.subnet_id in private and subnet.free_addresses < 1:
            why = "has no free address"
            yield Finding(f"The subnet {subnet.subnet_id}", why, "Name another or a further one.")
    yield from _of_placement(facts, private, public)


def _of_placement(facts: Facts, private: tuple[str, ...], public: str | None) -> Iterator[Finding]:
    found = [
        facts.subnets[i] for i in [*private, *([public] if public else [])] if i in facts.subnets
    ]
    networks = {subnet.subnet_id: subnet.vpc_id for subnet in found}
    if len(set(networks.values())) > 1:
        where = ", ".join(f"{subnet} in {vpc}" for subnet, vpc in networks.items())
        yield Finding("The subnets", f"lie in several VPCs ({where})", "Name subnets of one VPC.")
    if public in private:
        why = "is named as private and as public"
        yield Finding(f"The subnet {public}", why, "Name a public one with a route to a gateway.")
    zones = {facts.subnets[i].zone for i in private if i in facts.subnets}
    if facts.kind and zones and not zones & set(facts.kind.zones):
        offered = ", ".join(facts.kind.zones) or "no zone"
        yield Finding(
            "The private subnets",
            f"lie where {facts.kind.name} is not offered (it is in {offered})",
            "Name a subnet in one of those zones, or choose another type.",
        )


def _of_key(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    is_renewed = key_change(facts) in (KeyChange.MAKE, KeyChange.REPLACE)
    if not is_renewed or not facts.workers:
        return
    lost = facts.key.from_parameter is None
    why = "is lost" if lost else f"does not belong to the key pair {request.key_name}"
    yield Finding(
        f"The private key in {request.ssh_key_parameter}",
        f"{why}, and {facts.workers} workers know only the old one",
        "Restore the parameter, or end the workers (launch-cluster terminate-workers; homes are"
        " kept) and run this again: a new key is made then.",
    )


def _of_file(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    if facts.recorded and request.cluster != facts.recorded.CLUSTER_NAME:
        yield Finding(
            str(request.config_out),
            f"describes another cluster, {facts.recorded.CLUSTER_NAME}",
            "Name another file with --config-out.",
        )
