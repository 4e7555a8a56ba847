"""Never more calls than EC2 allows, in the order in which they were asked for."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from core.botos import THROTTLED, FakeBoto, gateway
from core.virtual import in_virtual_time
from ec2spawner.throttle import Bucket, Limit, Throttle

# docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
DOCUMENTED = {
    "RunInstances": (5, 2),
    "StartInstances": (5, 2),
    "StopInstances": (50, 5),
    "TerminateInstances": (100, 5),
    "ModifyInstanceAttribute": (50, 5),
    "AttachVolume": (50, 5),
    "CreateImage": (50, 5),
    "CancelSpotInstanceRequests": (50, 5),
    "GetConsoleOutput": (100, 20),
    "CreateTags": (100, 10),
    "DeleteTags": (100, 10),
    "CreateVolume": (100, 5),
    "DeleteVolume": (100, 5),
    "CreateSnapshot": (100, 5),
    "DeleteSnapshot": (100, 5),
    "DescribeInstances": (100, 20),
    "DescribeVolumes": (100, 20),
    "DescribeTags": (100, 20),
}
INSTANCES = {
    "RunInstances": (1000, 2),
    "StartInstances": (1000, 2),
    "StopInstances": (1000, 20),
    "TerminateInstances": (1000, 20),
}


def most_in_any_window(times: list[float], size: float, rate: float) -> float:
    """By how much the calls ever exceed a full bucket and what it gains; <= 0 is allowed."""
    excess = 0.0
    for i, begin in enumerate(times):
        for j in range(i, len(times)):
            excess = max(excess, (j - i + 1) - size - rate * (times[j] - begin))
    return excess


@pytest.mark.parametrize("action", sorted(DOCUMENTED))
def test_a_burst_stays_within_the_documented_rate(action: str) -> None:
    size, rate = DOCUMENTED[action]
    throttle = Throttle(0.0)
    times = [throttle.reserve(action, 0, 0.0) for _ in range(size + 40)]
    assert times[:size] == [0.0] * size
    assert times[size] == pytest.approx(1 / rate)
    assert times == sorted(times)
    assert most_in_any_window(times, size, rate) < 1e-6


@pytest.mark.parametrize("action", sorted(INSTANCES))
def test_instances_count_too(action: str) -> None:
    size, rate = INSTANCES[action]
    throttle = Throttle(0.0)
    assert throttle.reserve(action, size, 0.0) == 0.0
    assert throttle.reserve(action, 100, 10.0) == pytest.approx(max(0, 100 - 10 * rate) / rate)


def test_actions_do_not_hold_up_each_other_but_describes_share_a_bucket() -> None:
    throttle = Throttle(0.0)
    for _ in range(200):
        throttle.reserve("CreateTags", 0, 0.0)
    assert throttle.reserve("StartInstances", 1, 0.0) == 0.0
    for _ in range(100):
        throttle.reserve("DescribeInstances", 0, 0.0)
    assert throttle.reserve("DescribeVolumes", 0, 0.0) > 0


def test_an_action_that_nobody_limits_is_not_held_up() -> None:
    throttle = Throttle(0.0)
    assert {throttle.reserve("GetParameter", 0, 0.0) for _ in range(999)} == {0.0}


@settings(deadline=None, max_examples=200, database=None)
@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
    st.integers(1, 9),
    st.floats(0.5, 20),
)
def test_whenever_calls_come_no_window_holds_more_than_the_bucket_gives(
    gaps: list[float], size: int, rate: float
) -> None:
    bucket = Bucket(Limit(size, rate), 0.0)
    now, sent = 0.0, []
    for gap in gaps:
        now += gap
        sent.append(now + bucket.reserve(1, now))
    assert sent == sorted(sent), "first come, first served"
    assert most_in_any_window(sent, size, rate) < 1e-6


@in_virtual_time
async def test_the_gateway_sends_a_class_of_claims_within_the_bucket_and_in_order() -> None:
    session = FakeBoto({})
    aws = gateway(session)
    calls = [aws.call("ec2", "create_tags", {"n": n}) for n in range(160)]
    await asyncio.gather(*calls)
    assert [p["n"] for _, _, p in session.requests] == list(range(160))
    assert most_in_any_window(session.times, 100, 10) < 0.1
    assert session.times[-1] == pytest.approx(6.0, abs=0.2)


@in_virtual_time
async def test_a_retry_takes_its_turn_too() -> None:
    session = FakeBoto(*[THROTTLED] * 6, {})
    aws = gateway(session, jitter=0.0)
    await asyncio.gather(*(aws.call("ec2", "run_instances") for _ in range(6)))
    assert most_in_any_window(session.times, 5, 2) < 0.1


@in_virtual_time
async def test_other_services_are_not_ec2s_business() -> None:
    session = FakeBoto({})
    aws = gateway(session)
    await asyncio.gather(*(aws.call("ssm", "describe_parameters") for _ in range(300)))
    assert session.times[-1] < 0.1


@in_virtual_time
async def test_the_metrics_show_at_every_moment_what_the_limits_admit() -> None:
    session = FakeBoto({})
    aws = gateway(session)
    aws.show_buckets()

    def shown(action: str, what: str = "requests") -> float | None:
        labels = {"action": action, "what": what}
        return REGISTRY.get_sample_value("ec2spawner_bucket_tokens", labels)

    assert shown("CreateTags") == 100
    calls = asyncio.gather(*(aws.call("ec2", "create_tags", {"n": n}) for n in range(130)))
    launch = asyncio.ensure_future(aws.call("ec2", "run_instances", instances=100))
    await asyncio.sleep(1)
    assert shown("CreateTags") == pytest.approx(-20), "so many wait"
    assert (shown("RunInstances"), shown("RunInstances", "instances")) == (5, 902)
    await asyncio.gather(calls, launch)
    await asyncio.sleep(100)
    assert shown("CreateTags") == 100
    await aws.call("ec2", "describe_volumes")
    assert shown("Describe*") == pytest.approx(99, abs=1)
