"""The emulated cloud's price list, asked through boto3."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ec2spawner.localcloud.inprocess import InProcessCloud


def rule(field: str, value: str, kind: str = "TERM_MATCH") -> dict[str, str]:
    return {"Type": kind, "Field": field, "Value": value}


@pytest.fixture
def pricing() -> Any:
    with InProcessCloud() as cloud:
        yield cloud.client("pricing")


def test_a_type_has_one_price_on_linux(pricing: Any) -> None:
    reply = pricing.get_products(
        ServiceCode="AmazonEC2",
        Filters=[
            rule("instanceType", "t3.medium"),
            rule("regionCode", "eu-west-1"),
            rule("operatingSystem", "Linux"),
        ],
    )
    (offer,) = map(json.loads, reply["PriceList"])
    assert offer["product"]["attributes"]["usagetype"] == "EU-BoxUsage:t3.medium"
    (term,) = offer["terms"]["OnDemand"].values()
    (tier,) = term["priceDimensions"].values()
    assert tier["unit"] == "Hrs"
    assert float(tier["pricePerUnit"]["USD"]) == 0.04


def test_the_list_comes_in_pages(pricing: Any) -> None:
    pages = pricing.get_paginator("get_products").paginate(
        ServiceCode="AmazonEC2", PaginationConfig={"PageSize": 7}
    )
    sizes = [len(page["PriceList"]) for page in pages]
    assert set(sizes[:-1]) == {7}
    assert sum(sizes) > 100


def test_a_part_of_a_usage_type_finds_its_neighbours_too(pricing: Any) -> None:
    reply = pricing.get_products(
        ServiceCode="AmazonEC2",
        Filters=[
            rule("usagetype", "NatGateway-Hours", "CONTAINS"),
            rule("regionCode", "us-east-1"),
        ],
    )
    found = [json.loads(o)["product"]["attributes"]["usagetype"] for o in reply["PriceList"]]
    assert found == ["NatGateway-Hours", "RegionalNatGateway-Hours"]


def test_what_is_not_emulated_is_refused(pricing: Any) -> None:
    with pytest.raises(ClientError, match="ANY_OF is not emulated"):
        pricing.get_products(ServiceCode="AmazonEC2", Filters=[rule("x", "y", "ANY_OF")])
    with pytest.raises(ClientError, match="is not emulated"):
        pricing.describe_services()
