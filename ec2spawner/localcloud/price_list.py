"""A small price list: GetProducts of AWS's Pricing API, which moto lacks.

Owns a handful of products, the same in each Region, and the filters that are asked for. Prices are
round numbers of the emulated cloud's own. Must not know HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ec2spawner.localcloud.ec2.failures import EC2Error

PAGE_SIZE = 100  # Price List API reference, "GetProducts", 2026: 1 to 100
REGIONS: Mapping[str, str] = {
    **{"us-east-1": "USE1", "us-east-2": "USE2", "us-west-2": "USW2"},
    **{"eu-central-1": "EUC1", "eu-west-1": "EU", "ap-southeast-2": "APS2"},
}
TYPES: Mapping[str, float] = {
    **{"t3.micro": 0.01, "t3.small": 0.02, "t3.medium": 0.04, "t3.large": 0.08},
    **{
        "t4g.medium": 0.03,
        "m7i.large": 0.1,
        "m7g.large": 0.08,
        "m7i.8xlarge": 1.6,
        "m7i.4xlarge": 0.8,
    },
    **{"g4dn.xlarge": 0.5, "g5.xlarge": 1.0},
}
USAGE: Mapping[tuple[str, str], tuple[str, float]] = {
    ("AmazonEC2", "EBS:VolumeUsage.gp3"): ("GB-Mo", 0.08),
    ("AmazonEC2", "EBS:VolumeUsage.gp2"): ("GB-Mo", 0.1),
    ("AmazonEC2", "EBS:SnapshotUsage"): ("GB-Mo", 0.05),
    ("AmazonEC2", "EBS:SnapshotUsageUnderBilling"): ("GB-Mo", 0.04),
    ("AmazonEC2", "EBS:SnapshotArchiveStorage"): ("GB-Mo", 0.0125),
    ("AmazonEC2", "NatGateway-Hours"): ("Hrs", 0.05),
    ("AmazonEC2", "RegionalNatGateway-Hours"): ("Hrs", 0.06),
    ("AmazonEC2", "NatGateway-Bytes"): ("GB", 0.05),
    ("AmazonVPC", "PublicIPv4:InUseAddress"): ("Hrs", 0.005),
    ("AmazonVPC", "PublicIPv4:IdleAddress"): ("Hrs", 0.006),
}

Document = Mapping[str, Any]


def answer(action: str, text: str) -> dict[str, Any]:
    """The reply to a call, or EC2Error with the Pricing API's code."""
    if action != "GetProducts":
        raise EC2Error("InvalidParameterException", f"{action} is not emulated.")
    document: Document = json.loads(text)
    filters = document.get("Filters") or []
    offers = [o for o in _offers(document["ServiceCode"]) if all(_fits(o, f) for f in filters)]
    token = str(document.get("NextToken") or "0")
    start = int(token) if token.isdigit() else 0
    size = min(document.get("MaxResults") or PAGE_SIZE, PAGE_SIZE)
    more = {"NextToken": str(start + size)} if start + size < len(offers) else {}
    page = [json.dumps(offer) for offer in offers[start : start + size]]
    return {"FormatVersion": "aws_v1", "PriceList": page, **more}


def _fits(offer: Document, rule: Document) -> bool:
    value = str(offer["product"]["attributes"].get(rule["Field"], ""))
    if rule["Type"] in ("TERM_MATCH", "EQUALS"):
        return value == str(rule["Value"])
    if rule["Type"] == "CONTAINS":
        return str(rule["Value"]) in value
    raise EC2Error("InvalidParameterException", f"The filter {rule['Type']} is not emulated.")


def _offers(service: str) -> list[dict[str, Any]]:
    return [
        offer
        for region, prefix in REGIONS.items()
        for offer in [*_machines(service, region, prefix), *_usage(service, region, prefix)]
    ]


def _machines(service: str, region: str, prefix: str) -> list[dict[str, Any]]:
    if service != "AmazonEC2":
        return []
    return [
        _offer(
            {
                "regionCode": region,
                "instanceType": kind,
                "operatingSystem": system,
                "tenancy": "Shared",
                "preInstalledSw": "NA",
                "capacitystatus": "Used",
                "licenseModel": "No License required",
                "marketoption": "OnDemand",
                "usagetype": f"{prefix}-BoxUsage:{kind}",
            },
            "Hrs",
            usd * (2 if system == "Windows" else 1),
        )
        for kind, usd in TYPES.items()
        for system in ("Linux", "Windows")
    ]


def _usage(service: str, region: str, prefix: str) -> list[dict[str, Any]]:
    # In us-east-1, products of EC2 bear no prefix, and those of VPC do.
    bare = region == "us-east-1" and service == "AmazonEC2"
    return [
        _offer(
            {"regionCode": region, "usagetype": ending if bare else f"{prefix}-{ending}"},
            unit,
            usd,
        )
        for (of_service, ending), (unit, usd) in USAGE.items()
        if of_service == service
    ]


def _offer(attributes: Mapping[str, str], unit: str, usd: float) -> dict[str, Any]:
    tier = {
        "unit": unit,
        "beginRange": "0",
        "endRange": "Inf",
        "pricePerUnit": {"USD": f"{usd:.10f}"},
    }
    return {
        "product": {"attributes": dict(attributes)},
        "terms": {"OnDemand": {"SKU.JRTCKXETXF": {"priceDimensions": {"SKU.JRTCKXETXF.1": tier}}}},
    }
