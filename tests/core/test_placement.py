"""The ladder of offerings, and how far each kind of failure reaches."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from core.builders import NOW, STOPPED, worker
from ec2spawner.errors import CapacityError, CloudError, LaunchFailed, QuotaError, SubnetFull
from ec2spawner.placement import (
    Failure,
    Market,
    Offering,
    Profile,
    Subnet,
    choose,
    choose_type,
    rungs,
    scope_of,
)

SUBNETS = (Subnet("s-a1", "a"), Subnet("s-a2", "a"), Subnet("s-b", "b"))
CHEAP = Profile("cheap", ("t3.large", "m7i.large"), 10, (Market.SPOT, Market.ON_DEMAND))
GPU = Profile("gpu", ("g5.xlarge", "t3.large"), 10)
SPOT, ON_DEMAND = Market.SPOT, Market.ON_DEMAND


def after(
    *failures: tuple[Offering, CloudError], is_start: bool = False
) -> MappingProxyType[object, Failure]:
    return MappingProxyType(
        {scope_of(o, e, is_start=is_start): Failure(e, NOW + 180) for o, e in failures}
    )


def at(kind: str, subnet: str = "s-a1", market: Market = ON_DEMAND) -> Offering:
    return Offering(kind, subnet, {"s-b": "b"}.get(subnet, "a"), market)


def test_all_types_of_the_first_market_come_before_the_second() -> None:
    ladder = [(r.market.value, r.instance_type, r.subnet_id) for r in rungs(CHEAP, SUBNETS)]
    subnets = [s.subnet_id for s in SUBNETS]
    assert ladder == [
        (market, kind, subnet)
        for market in ("spot", "on-demand")
        for kind in ("t3.large", "m7i.large")
        for subnet in subnets
    ]


def test_a_home_binds_the_ladder_to_its_zone() -> None:
    assert {r.subnet_id for r in rungs(CHEAP, SUBNETS, "b")} == {"s-b"}
    assert isinstance(choose(CHEAP, SUBNETS, {}, NOW, "c"), LaunchFailed)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ((), at("t3.large", market=SPOT)),
        # no capacity: all subnets of the zone are left out for this type and market
        (((at("t3.large", market=SPOT), CapacityError("no")),), at("t3.large", "s-b", SPOT)),
        # a full subnet: left out for all types, and nothing else is
        (((at("t3.large", market=SPOT), SubnetFull("no")),), at("t3.large", "s-a2", SPOT)),
        # a quota: all types of its class in this market
        (((at("t3.large", market=SPOT), QuotaError("no")),), at("t3.large")),
        (
            ((at("m7i.large", market=SPOT), QuotaError("no")), (at("t3.large"), SubnetFull("no"))),
            at("t3.large", "s-a2"),
        ),
    ],
)
def test_a_failure_reaches_as_far_as_its_cause(
    failures: tuple[tuple[Offering, CloudError], ...], expected: Offering
) -> None:
    assert choose(CHEAP, SUBNETS, after(*failures), NOW) == expected


def test_a_quota_for_accelerators_leaves_the_other_types() -> None:
    failed = after((at("g5.xlarge"), QuotaError("no")))
    assert choose(GPU, SUBNETS, failed, NOW) == at("t3.large")


def test_a_quota_on_everything_is_what_is_told() -> None:
    quota = QuotaError("no more")
    failed = after((at("t3.large"), quota), (at("t3.large", market=SPOT), quota))
    assert choose(CHEAP, SUBNETS, failed, NOW) is quota


def test_a_failure_is_forgotten_when_its_time_is_over() -> None:
    failed = after((at("t3.large", market=SPOT), QuotaError("no")))
    assert choose(CHEAP, SUBNETS, failed, NOW + 180) == at("t3.large", market=SPOT)


def test_a_stopped_worker_is_started_as_the_best_type_that_has_room_in_its_zone() -> None:
    stopped = worker("i-1", STOPPED, kind="t3.large")
    types = ("t3.large", "m7i.large")
    assert choose_type(stopped, types, {}, NOW) == "t3.large"
    no_room = (at("t3.large"), CapacityError("no"))
    assert choose_type(stopped, types, after(no_room, is_start=True), NOW) == "m7i.large"
    elsewhere = (at("t3.large", "s-b"), CapacityError("no"))
    assert choose_type(stopped, types, after(elsewhere, is_start=True), NOW) == "t3.large"
    # it has its address, whatever its subnet says to others
    full = (Offering("t3.large", "subnet-a", "a"), SubnetFull("no"))
    assert choose_type(stopped, types, after(full), NOW) == "t3.large"
    last = CapacityError("none of these either")
    assert (
        choose_type(stopped, types, after(no_room, (at("m7i.large"), last), is_start=True), NOW)
        is last
    )
