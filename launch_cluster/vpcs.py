"""Finds the subnets of a VPC that others own: the private ones by NAT, a public one by gateway.

Owns the questions, and what makes a subnet private or public (a pure function).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ec2spawner.cloud import Gateway

from .examining import Way
from .looking import described
from .probing import way_of


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
    """By their default routes, in the order of zones; what has none is left out."""
    private, public = [], []
    for subnet in sorted(subnets, key=lambda s: (s["AvailabilityZone"], s["SubnetId"])):
        way = way_of(subnet["SubnetId"], subnet["VpcId"], tables)
        if way is Way.INTERNET:
            public.append(subnet["SubnetId"])
        elif way is not Way.NOWHERE:
            private.append(subnet["SubnetId"])
    return FoundSubnets(tuple(private), tuple(public))
