"""Finds the subnets of a VPC that others own: the private ones by NAT, a public one by gateway.

Owns the questions, and what makes a subnet private or public (a pure function).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ec2spawner.cloud import Gateway

from .looking import described

EVERYWHERE = "0.0.0.0/0"


@dataclass(frozen=True)
class FoundSubnets:
    """The subnets of a VPC by where their default route leads."""

    private: tuple[str, ...] = ()
    public: tuple[str, ...] = ()


async def find_subnets(gateway: Gateway, vpc_id: str) -> FoundSubnets | None:
    """The VPC's subnets; None if there is no such VPC."""
    if not await described(gateway, "describe_vpcs", "Vpcs", "vpc-id", [vpc_id]):
        return None
    subnets = await described(gateway, "describe_subnets", "Subnets", "vpc-id", [vpc_id])
    tables = await described(gateway, "describe_route_tables", "RouteTables", "vpc-id", [vpc_id])
    return sort_subnets(subnets, tables)


def sort_subnets(
    subnets: Sequence[Mapping[str, Any]], tables: Sequence[Mapping[str, Any]]
) -> FoundSubnets:
    """By their default routes, in the order of zones; what has none of either kind is left out.

    A subnet without a route table of its own has the VPC's main one (VPC user guide, 2026).
    """
    main: Mapping[str, Any] | None = None
    own: dict[str, Mapping[str, Any]] = {}
    for table in tables:
        for association in table.get("Associations") or ():
            if association.get("Main"):
                main = table
            if association.get("SubnetId"):
                own[association["SubnetId"]] = table
    private, public = [], []
    for subnet in sorted(subnets, key=lambda s: (s["AvailabilityZone"], s["SubnetId"])):
        route = _default_route(own.get(subnet["SubnetId"]) or main or {})
        if str(route.get("GatewayId") or "").startswith("igw-"):
            public.append(subnet["SubnetId"])
        elif any(route.get(key) for key in ("NatGatewayId", "InstanceId", "TransitGatewayId")):
            private.append(subnet["SubnetId"])
    return FoundSubnets(tuple(private), tuple(public))


def _default_route(table: Mapping[str, Any]) -> Mapping[str, Any]:
    routes: Sequence[Mapping[str, Any]] = table.get("Routes") or ()
    return next((r for r in routes if r.get("DestinationCidrBlock") == EVERYWHERE), {})
