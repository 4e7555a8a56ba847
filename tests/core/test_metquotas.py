"""A quota that is met: the user reads it, no pointless rung is tried, the operator gets figures."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from core.fakes import FakeCloud
from core.kit import POLICY, Hub
from core.virtual import in_virtual_time
from ec2spawner.errors import Denied, QuotaError
from ec2spawner.placement import Profile

MANY_RUNGS = replace(
    POLICY,
    profiles=MappingProxyType({"default": Profile("default", ("t3.medium", "m7i.large"), 10)}),
)


async def a_class_of_five_with_room_for_three(cloud: FakeCloud, folder: Path) -> list[object]:
    cloud.quota_instances = 3
    hub = Hub(cloud, folder, MANY_RUNGS)
    for number in range(3):
        await hub.log_in(f"early{number}")
    late = (hub.log_in(f"late{number}") for number in range(2))
    refused = await asyncio.wait_for(asyncio.gather(*late, return_exceptions=True), 60)
    await asyncio.sleep(2)  # users are told first
    return refused


def told(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """The one line about the quota."""
    (record,) = [r for r in caplog.records if r.getMessage().startswith("The vCPU quota L-1216")]
    return record


@in_virtual_time
async def test_a_met_quota_is_told_to_users_and_operators_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = FakeCloud()
    refused = await a_class_of_five_with_room_for_three(cloud, tmp_path)
    assert all(isinstance(r, QuotaError) for r in refused)
    assert "may not run more machines" in refused[0].for_user()  # type: ignore[attr-defined]
    assert cloud.count()["RunInstances"] == 4  # the last one for both, and no other rung
    words = told(caplog).getMessage()
    assert "it is 6, and this cluster's 3 running machines use 6" in words
    assert "request-service-quota-increase" in words


@in_virtual_time
async def test_a_quota_whose_size_nobody_may_know_is_told_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = FakeCloud()
    cloud.fail("GetServiceQuota", Denied("no", action="GetServiceQuota"))
    refused = await a_class_of_five_with_room_for_three(cloud, tmp_path)
    assert all(isinstance(r, QuotaError) for r in refused)
    record = told(caplog)
    assert record.levelno == logging.WARNING
