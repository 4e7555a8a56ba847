"""What the account, the network and the domain have to say against a cluster: findings, as plain
functions.

Owns the further checks of ``doctor`` and of ``up``'s beginning, besides those that a plan needs
(``checking``). Must not call AWS. All findings come at once; each says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network
from types import MappingProxyType
from urllib.parse import urlsplit

from .entry import of_client
from .facts import Facts, StackFacts, SubnetFacts
from .planning import Finding, network_size, subnet_cidrs, wanted_subnets
from .request import DEFAULT_VPC_CIDR, UpRequest
from .vcpus import judge, needs_of

ADDRESS_QUOTA = "L-0263D0A3"
"""EC2-VPC Elastic IPs (docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html, 2026)."""

RESERVED_ADDRESSES = 5
"""Of each subnet, for AWS (VPC user guide, "Subnet sizing", 2026)."""


class Way(str, Enum):
    """Where a subnet's default route leads."""

    NAT = "nat"  # a NAT gateway, or an instance that does the same
    INTERNET = "internet"
    ELSEWHERE = "elsewhere"  # a transit gateway, an appliance, a peering
    NOWHERE = "nowhere"


@dataclass(frozen=True)
class Rights:
    """Which actions the caller may not use; ``unknown`` is why that could not be asked, if so."""

    denied: tuple[str, ...] = ()  # whatever else is granted
    unsure: tuple[str, ...] = ()  # not granted at all, or for some resources or conditions only
    unknown: str = ""


@dataclass(frozen=True)
class Quotas:
    """Sizes of quotas, and what counts against them; what AWS did not say is missing, or None."""

    vcpus: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # by code
    addresses: float | None = None
    addresses_used: int | None = 0
    unread: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What could not be asked, in words, and why."""


@dataclass(frozen=True)
class Domain:
    """A domain name, where it leads, and where it should."""

    name: str
    leads_to: tuple[str, ...] = ()
    address: str | None = None  # of the manager; None while there is none


@dataclass(frozen=True)
class Health:
    """All that is looked at besides the facts of a plan."""

    rights: Rights = field(default_factory=Rights)
    quotas: Quotas = field(default_factory=Quotas)
    ways: Mapping[str, Way] = field(default_factory=lambda: MappingProxyType({}))
    domain: Domain | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What stands in the way, and what an operator should know."""

    obstacles: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def examine(request: UpRequest, facts: Facts, health: Health) -> Diagnosis:
    """All findings."""
    return Diagnosis(
        obstacles=(*_of_rights(health.rights), *_of_ways(request, facts, health.ways)),
        warnings=(
            *_of_unknown_rights(health.rights),
            *_of_dead_ends(request, facts, health.ways),
            *_of_vcpus(request, facts, health.quotas),
            *_of_unread_quotas(health.quotas),
            *_of_addresses(request, facts, health.quotas),
            *_of_free_addresses(request, facts),
            *_of_domain(health.domain),
            *_of_names(request, health.domain),
            *of_client(request, facts),
        ),
    )


def _of_rights(rights: Rights) -> Iterator[Finding]:
    if rights.denied:
        yield Finding(
            "Your AWS credentials",
            f"may not {', '.join(rights.denied)}",
            "Ask whoever manages the account for these rights"
            " (launch-cluster plan --print-policies prints them as a policy).",
        )


def _of_unknown_rights(rights: Rights) -> Iterator[Finding]:
    if rights.unsure:
        yield Finding(
            "Your AWS credentials",
            f"are not granted without condition: {', '.join(rights.unsure)}",
            "If they are granted for this cluster alone, all is well; if not, ask whoever manages"
            " the account (launch-cluster plan --print-policies prints a policy that does).",
        )
    if rights.unknown:
        yield Finding(
            "Your rights",
            f"could not be checked ({rights.unknown})",
            "Nothing follows from that; a right that is missing shows when it is needed.",
        )


def _of_ways(request: UpRequest, facts: Facts, ways: Mapping[str, Way]) -> Iterator[Finding]:
    private, public = wanted_subnets(request, facts.network, facts.cluster)
    for subnet_id in private:
        way = ways.get(subnet_id)
        if way is Way.INTERNET:
            yield Finding(
                f"The private subnet {subnet_id}",
                "has its default route to an internet gateway, which serves no machine without a"
                " public address: workers could not reach packages",
                "Name a subnet whose default route leads to a NAT gateway.",
            )
    if public and request.manager and ways.get(public, Way.INTERNET) is not Way.INTERNET:
        yield Finding(
            f"The public subnet {public}",
            "has no default route to an internet gateway: nobody could reach the hub",
            "Name a subnet whose route table has 0.0.0.0/0 to an internet gateway.",
        )


def _of_dead_ends(request: UpRequest, facts: Facts, ways: Mapping[str, Way]) -> Iterator[Finding]:
    for subnet_id in wanted_subnets(request, facts.network, facts.cluster)[0]:
        if ways.get(subnet_id) is Way.NOWHERE:
            yield Finding(
                f"The private subnet {subnet_id}",
                "has no default route: workers reach nothing but what lies in the VPC or behind"
                " its endpoints, and no package index",
                "If that is not meant, give its route table a route 0.0.0.0/0 to a NAT gateway.",
            )


def _of_vcpus(request: UpRequest, facts: Facts, quotas: Quotas) -> Iterator[Finding]:
    for need in needs_of(request, facts):
        if need.code in quotas.vcpus:
            found = judge(need, quotas.vcpus[need.code], request.usage.students)
            if found:
                yield found


def _of_unread_quotas(quotas: Quotas) -> Iterator[Finding]:
    for what, why in quotas.unread.items():
        yield Finding(
            what[:1].upper() + what[1:],
            f"could not be looked up ({why})",
            "Look at it in the Service Quotas console; nothing else follows from that.",
        )


def needed_addresses(request: UpRequest, facts: Facts) -> int:
    """Elastic IPs that are to be had: one for NAT, of either kind, and one for the manager."""
    makes_network = not wanted_subnets(request, facts.network, facts.cluster)[0]
    makes_nat = makes_network and not _is_there(facts.network) and request.nat != "none"
    stack = facts.manager.stack if facts.manager else None
    return makes_nat + (request.manager is not None and not _is_there(stack))


def _is_there(stack: StackFacts | None) -> bool:
    return stack is not None and not stack.is_remains


def _of_addresses(request: UpRequest, facts: Facts, quotas: Quotas) -> Iterator[Finding]:
    if quotas.addresses is None or quotas.addresses_used is None:
        return
    needed = needed_addresses(request, facts)
    free = int(quotas.addresses) - quotas.addresses_used
    if max(0, free) < needed:
        yield Finding(
            f"The quota of Elastic IPs {ADDRESS_QUOTA}",
            f"is {quotas.addresses:.0f}, and {quotas.addresses_used} are in use; {needed} more"
            f" {'is' if needed == 1 else 'are'} needed",
            "Release some, or ask for more: aws service-quotas request-service-quota-increase"
            f" --service-code ec2 --quota-code {ADDRESS_QUOTA} --desired-value"
            f" {quotas.addresses_used + needed}",
        )


def _of_free_addresses(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    students = request.usage.students
    private, _ = wanted_subnets(request, facts.network, facts.cluster)
    subnets = [facts.subnets[i] for i in private if i in facts.subnets]
    free = sum(subnet.free_addresses for subnet in subnets)
    if subnets and free < students:
        yield Finding(
            _named(subnets),
            f"{'has' if len(subnets) == 1 else 'have'} {free} free addresses for {students}"
            " students",
            "Name a further subnet.",
        )
    elif not private:
        yield from _of_own_addresses(request, facts, students)


def _of_own_addresses(request: UpRequest, facts: Facts, students: int) -> Iterator[Finding]:
    """Whether the network that is, or was, made for the cluster is large enough."""
    cidr, zones = network_size(request, facts)
    private = [v for k, v in subnet_cidrs(cidr, len(zones)).items() if v and "Private" in k]
    room = sum(IPv4Network(v).num_addresses - RESERVED_ADDRESSES for v in private)
    if zones and room < students:
        yield Finding(
            f"The network {cidr} over {len(zones)} zones",
            f"has room for {room} workers in its private subnets, for {students} students",
            "Make another cluster with a larger --vpc-cidr: that of a network cannot be changed."
            if _is_there(facts.network)
            else f"Choose a larger --vpc-cidr, for example {DEFAULT_VPC_CIDR}.",
        )


def _named(subnets: list[SubnetFacts]) -> str:
    ids = ", ".join(subnet.subnet_id for subnet in subnets)
    return f"The private subnet {ids}" if len(subnets) == 1 else f"The private subnets {ids}"


def _of_domain(domain: Domain | None) -> Iterator[Finding]:
    if domain is None:
        return
    if not domain.leads_to:
        where = f" to {domain.address}" if domain.address else " to the address that `up` prints"
        yield Finding(
            f"The name {domain.name}", "leads nowhere", f"Have it lead{where}, by an A record."
        )
    elif domain.address and domain.address not in domain.leads_to:
        yield Finding(
            f"The name {domain.name}",
            f"leads to {', '.join(domain.leads_to)}, not to the hub's address {domain.address}",
            f"Change its A record to {domain.address}.",
        )


def _of_names(request: UpRequest, domain: Domain | None) -> Iterator[Finding]:
    """What follows from whether users' servers have names, and so origins, of their own."""
    choices = request.choices
    if choices.SUBDOMAINS and domain:
        yield Finding(
            f"SUBDOMAINS with the domain {domain.name}",
            f"needs a certificate of your own for {domain.name} and *.{domain.name}: the one that"
            " Caddy gets by itself is for one name, and without the other nothing is served",
            "Have it in /etc/jupyterhub/ssl on the manager, and an A record for"
            f" *.{domain.name}, before people come (docs/manager.md).",
        )
    name = domain.name if domain else urlsplit(choices.PUBLIC_URL).hostname
    if name and not choices.SUBDOMAINS:
        yield Finding(
            "SUBDOMAINS",
            f"is false, so that the server of each student has the origin of {name}: whoever is"
            " logged in and follows a link to it can lose their files and their login to that"
            " student, admins also the hub",
            "Set it to true, unless all who have a server may do what an admin may do"
            " (docs/security.md).",
        )
