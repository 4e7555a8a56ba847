"""AWS's Pricing API: what it asks today for the products that a cluster is made of.

Owns the requests and how their answers are read. Must not know where prices are kept.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.costs import (
    GP3,
    IPV4_HOUR,
    NAT_GB,
    NAT_HOUR,
    SNAPSHOT,
    SNAPSHOT_ARCHIVE,
    instance,
)
from ec2spawner.errors import EC2SpawnerError

PRICING_REGION = "us-east-1"
"""The API has few endpoints, and each knows all Regions (Billing user guide, "AWS Price List Query
API endpoints", 2026)."""
SOURCE = "AWS Pricing API"

EC2, VPC = "AmazonEC2", "AmazonVPC"
_LINUX: Mapping[str, str] = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "licenseModel": "No License required",
    "marketoption": "OnDemand",
}
_USAGE: Mapping[str, tuple[str, str, str]] = {
    # product: (service, end of the usage type after the Region's prefix, unit)
    GP3: (EC2, "EBS:VolumeUsage.gp3", "GB-Mo"),
    SNAPSHOT: (EC2, "EBS:SnapshotUsage", "GB-Mo"),
    SNAPSHOT_ARCHIVE: (EC2, "EBS:SnapshotArchiveStorage", "GB-Mo"),
    NAT_HOUR: (EC2, "NatGateway-Hours", "Hrs"),
    NAT_GB: (EC2, "NatGateway-Bytes", "GB"),
    IPV4_HOUR: (VPC, "PublicIPv4:InUseAddress", "Hrs"),
}


class NoPrices(EC2SpawnerError):
    """The Pricing API knows nothing of what was asked for."""

    code = "no-prices"


class PriceList:
    """Asks for the prices of one Region. ``gateway`` must be one of ``PRICING_REGION``."""

    def __init__(self, gateway: Gateway, region: str) -> None:
        self._gateway = gateway
        self._region = region

    async def fetch(self, types: Iterable[str]) -> dict[str, float]:
        """The prices by product, of these types and all else; NoPrices where there is none.

        What AWS does not name, or names several prices for, is left out. Raises ``CloudError``.
        """
        kinds = sorted(set(types))
        found = await asyncio.gather(
            *(self._of_type(kind) for kind in kinds), *(self._of_usage(p) for p in _USAGE)
        )
        products = [*(instance(kind) for kind in kinds), *_USAGE]
        usd = {p: price for p, price in zip(products, found, strict=True) if price is not None}
        if not usd:
            raise NoPrices(
                f"AWS's Pricing API knows no price in {self._region}.",
                next_step="Check the name of the Region (--region).",
            )
        return usd

    async def _of_type(self, kind: str) -> float | None:
        offers = await self._ask(EC2, {**_LINUX, "instanceType": kind})
        return _one(p for offer in offers for p in _tiers(offer, "Hrs"))

    async def _of_usage(self, product: str) -> float | None:
        service, ending, unit = _USAGE[product]
        offers = await self._ask(service, {}, ("usagetype", ending))
        # "RegionalNatGateway-Hours" contains "NatGateway-Hours", too
        whole = re.compile(rf"(?:[A-Z0-9]+-)?{re.escape(ending)}")
        return _one(
            p
            for offer in offers
            if whole.fullmatch(_attribute(offer, "usagetype"))
            for p in _tiers(offer, unit)
        )

    async def _ask(
        self, service: str, exact: Mapping[str, str], part: tuple[str, str] | None = None
    ) -> list[Mapping[str, Any]]:
        filters = [
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in {**exact, "regionCode": self._region}.items()
        ]
        if part:
            filters.append({"Type": "CONTAINS", "Field": part[0], "Value": part[1]})
        pages = await self._gateway.pages(
            "pricing", "get_products", {"ServiceCode": service, "Filters": filters}
        )
        return [_read(text) for page in pages for text in page["PriceList"]]


def _read(text: str) -> Mapping[str, Any]:
    offer: Mapping[str, Any] = json.loads(text)
    return offer


def _attribute(offer: Mapping[str, Any], name: str) -> str:
    return str(offer.get("product", {}).get("attributes", {}).get(name, ""))


def _tiers(offer: Mapping[str, Any], unit: str) -> Iterable[float]:
    """Prices on demand from the first unit on; what is free is another offer's shadow."""
    for term in offer.get("terms", {}).get("OnDemand", {}).values():
        for tier in term.get("priceDimensions", {}).values():
            usd = float(tier.get("pricePerUnit", {}).get("USD", 0))
            if tier.get("unit") == unit and tier.get("beginRange", "0") == "0" and usd > 0:
                yield usd


def _one(prices: Iterable[float]) -> float | None:
    """The price, if there is just one: of two that differ, none is known to be ours."""
    found = set(prices)
    return found.pop() if len(found) == 1 else None
