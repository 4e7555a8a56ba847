"""Looks at what ``examining`` judges: rights, quotas, routes, a domain name; changes nothing.

What cannot be asked is missing in the answer, with the reason: to look is no duty of the account.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import CloudError

from .examining import ADDRESS_QUOTA, Domain, Health, Quotas, Rights, Way
from .facts import Facts
from .planning import wanted_subnets
from .request import UpRequest
from .rights import NOT_FOR_BUILDING, simulated_actions
from .vcpus import quota_codes

T = TypeVar("T")
_ASSUMED = re.compile(
    r"arn:(?P<partition>[\w-]+):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/"
)


async def look_at_health(gateway: Gateway, request: UpRequest, facts: Facts) -> Health:
    """All of it, at once."""
    private, public = wanted_subnets(request, facts.network, facts.cluster)
    named = [i for i in (*private, public) if i and i in facts.subnets]
    stack = facts.manager.stack if facts.manager else None
    outputs = stack.outputs if stack else {}
    asked = request.manager.domain if request.manager else ""
    name = outputs.get("Domain") if asked is None else asked
    address = outputs.get("PublicAddress")
    rights, quotas, ways, domain = await asyncio.gather(
        look_at_rights(gateway, request.permissions_boundary or ""),
        look_at_quotas(gateway, EC2(gateway, request.cluster), quota_codes(request)),
        look_at_ways(gateway, {i: facts.subnets[i].vpc_id for i in named}),
        look_at_domain(name, address) if name else _nothing(),
    )
    return Health(rights, quotas, ways, domain)


async def _nothing() -> None:
    return None


async def look_at_rights(gateway: Gateway, boundary: str = "") -> Rights:
    """Which of an operator's rights the caller is denied, as IAM's own simulation says.

    It is asked about any resource and without any context: what a policy grants for some
    resources only, or under a condition, is an implicit denial to it (IAM API reference,
    "SimulatePrincipalPolicy", 2026).
    """
    try:
        caller = await gateway.call("sts", "get_caller_identity")
        arn = policy_source(caller["Arn"])
        if arn is None:
            return Rights()
        pages = await gateway.pages(
            "iam",
            "simulate_principal_policy",
            {"PolicySourceArn": arn, "ActionNames": list(simulated_actions(boundary))},
            token_key="Marker",  # noqa: S106 - a field
        )
    except CloudError as error:
        return Rights(unknown=error.aws_code or error.code)
    decisions = {
        result["EvalActionName"]: result["EvalDecision"]
        for page in pages
        for result in page["EvaluationResults"]
    }
    forbidden = {name for name, decision in decisions.items() if decision == "explicitDeny"}
    denied = forbidden - NOT_FOR_BUILDING
    unsure = {name for name, decision in decisions.items() if decision != "allowed"} - denied
    return Rights(tuple(sorted(denied)), tuple(sorted(unsure)))


def policy_source(arn: str) -> str | None:
    """Whose policies decide for a caller; None for the account's root, whom nothing is denied.

    A role's session is simulated as the role. Its path, which the session's ARN lacks, is taken to
    be "/" (IAM user guide, "Identifiers", 2026): for others AWS answers NoSuchEntity, and nothing
    is known.
    """
    if arn.endswith(":root"):
        return None
    session = _ASSUMED.match(arn)
    if session is None:
        return arn
    return f"arn:{session['partition']}:iam::{session['account']}:role/{session['role']}"


async def look_at_quotas(gateway: Gateway, ec2: EC2, codes: Sequence[str]) -> Quotas:
    """Sizes of the vCPU quotas of those codes, and of that of Elastic IPs."""
    unread: dict[str, str] = {}

    async def ask(what: str, question: Awaitable[T]) -> T | None:
        try:
            return await question
        except CloudError as error:
            unread[what] = error.aws_code or error.code
            return None

    sizes, addresses, used = await asyncio.gather(
        asyncio.gather(*(ask(f"the vCPU quota {code}", ec2.quota(code)) for code in codes)),
        ask(f"the quota of Elastic IPs {ADDRESS_QUOTA}", ec2.quota(ADDRESS_QUOTA)),
        ask("the number of Elastic IPs in use", _addresses(gateway)),
    )
    known = {code: size for code, size in zip(codes, sizes, strict=True) if size is not None}
    return Quotas(MappingProxyType(known), addresses, used, MappingProxyType(unread))


async def _addresses(gateway: Gateway) -> int:
    return len((await gateway.call("ec2", "describe_addresses"))["Addresses"])


async def look_at_ways(gateway: Gateway, subnets: Mapping[str, str]) -> Mapping[str, Way]:
    """Where each subnet's default route leads; ``subnets``: VPC by subnet id."""
    if not subnets:
        return MappingProxyType({})
    params = {"Filters": [{"Name": "vpc-id", "Values": sorted(set(subnets.values()))}]}
    pages = await gateway.pages("ec2", "describe_route_tables", params)
    tables = [table for page in pages for table in page["RouteTables"]]
    return MappingProxyType({i: way_of(i, vpc, tables) for i, vpc in subnets.items()})


def way_of(subnet_id: str, vpc_id: str, tables: Sequence[Mapping[str, Any]]) -> Way:
    """By the subnet's own route table, else its VPC's main one (VPC user guide, 2026)."""
    own = [t for t in tables if any(a.get("SubnetId") == subnet_id for a in _links(t))]
    main = [t for t in tables if t["VpcId"] == vpc_id and any(a.get("Main") for a in _links(t))]
    routes = [
        route
        for table in (own or main)[:1]
        for route in table.get("Routes") or ()
        if route.get("DestinationCidrBlock") == "0.0.0.0/0"
        and route.get("State", "active") == "active"
    ]
    if not routes:
        return Way.NOWHERE
    route = routes[0]
    if route.get("NatGatewayId") or route.get("InstanceId") or route.get("NetworkInterfaceId"):
        return Way.NAT
    return Way.INTERNET if route.get("GatewayId", "").startswith("igw-") else Way.ELSEWHERE


def _links(table: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return table.get("Associations") or ()


async def look_at_domain(name: str, address: str | None) -> Domain:
    """Where a name leads now, by this machine's own resolver."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return Domain(name, (), address)
    return Domain(name, tuple(sorted({str(entry[4][0]) for entry in found})), address)
