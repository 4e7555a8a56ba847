"""Status checks, kernel panics, consoles, and instances that are stuck."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from ec2spawner.localcloud.ec2 import health
from localcloud.support import Cloud


def impaired(cloud: Cloud, check: str = "instance-status") -> dict[str, float]:
    """Ids whose check fails, with the moment since when."""
    filters = [{"Name": f"{check}.status", "Values": ["impaired"]}]
    found = cloud.call("DescribeInstanceStatus", Filters=filters)["InstanceStatuses"]
    name = {
        "instance-status": "InstanceStatus",
        "system-status": "SystemStatus",
        "attached-ebs-status": "AttachedEbsStatus",
    }[check]
    return {
        s["InstanceId"]: s[name]["Details"][0]["ImpairedSince"].timestamp()
        for s in found
        if s[name]["Details"][0]["Status"] == "failed"
    }


def do(cloud: Cloud, what: Callable[..., None], instance_id: str, *more: str) -> None:
    """What the control endpoint does with an instance."""
    cloud.ec2.settle()
    what(cloud.ec2, cloud.ec2.instances[instance_id], *more)


def console(cloud: Cloud, instance_id: str) -> str:
    output = cloud.call("GetConsoleOutput", InstanceId=instance_id)["Output"]
    return base64.b64decode(output).decode()


@pytest.mark.parametrize(
    ("check", "shown"),
    [
        ("instance", "instance-status"),
        ("system", "system-status"),
        ("ebs", "attached-ebs-status"),
    ],
)
def test_an_impaired_instance_is_found_by_its_check(cloud: Cloud, check: str, shown: str) -> None:
    one, _ = cloud.running(2)
    cloud.clock.advance(100)
    do(cloud, health.impair, one, check)
    since = cloud.clock.now
    cloud.clock.advance(50)
    checks = ("instance-status", "system-status", "attached-ebs-status")
    assert {c: impaired(cloud, c) for c in checks} == {
        c: {one: since} if c == shown else {} for c in checks
    }
    assert cloud.state(one) == "running"
    do(cloud, health.heal, one)
    assert impaired(cloud, shown) == {}


def test_status_checks_know_reachability_and_no_tags(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.clock.advance(100)
    passed = [{"Name": "instance-status.reachability", "Values": ["passed"]}]
    found = cloud.call("DescribeInstanceStatus", Filters=passed)["InstanceStatuses"]
    assert [s["InstanceId"] for s in found] == [one]
    tagged = [{"Name": "tag:a", "Values": ["b"]}]
    cloud.refused("InvalidParameterValue", "DescribeInstanceStatus", Filters=tagged)


def test_statuses_come_in_pages(cloud: Cloud) -> None:
    ids = cloud.running(12)
    shown: list[str] = []
    more: dict[str, Any] = {}
    while True:
        reply = cloud.call("DescribeInstanceStatus", MaxResults=5, **more)
        shown += [s["InstanceId"] for s in reply["InstanceStatuses"]]
        if not reply["NextToken"]:
            break
        more = {"NextToken": reply["NextToken"]}
    assert shown == ids
    cloud.refused("InvalidParameterValue", "DescribeInstanceStatus", MaxResults=4)
    cloud.refused(
        "InvalidParameterCombination", "DescribeInstanceStatus", MaxResults=5, InstanceIds=ids
    )


def test_a_panic_is_seen_by_the_check_a_while_later_and_on_the_console(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.clock.advance(100)
    assert "panic" not in console(cloud, one)
    do(cloud, health.panic, one)
    assert cloud.ec2.take_events()[-1].name == "panicked"
    cloud.clock.advance(cloud.timings.status_check_seconds - 1)
    assert impaired(cloud) == {}
    cloud.clock.advance(1)
    assert impaired(cloud) == {one: cloud.clock.now}
    assert cloud.state(one) == "running"
    assert "Kernel panic - not syncing" in console(cloud, one)


def test_a_console_stays_readable_when_the_panicked_machine_is_stopped(cloud: Cloud) -> None:
    (one,) = cloud.running()
    do(cloud, health.panic, one)
    cloud.call("StopInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.stopping_seconds)
    assert cloud.state(one) == "stopped"
    assert "Kernel panic" in console(cloud, one)


def test_a_new_boot_makes_well(cloud: Cloud) -> None:
    by_reboot, by_start = cloud.running(2)
    for one in (by_reboot, by_start):
        do(cloud, health.panic, one)
    cloud.clock.advance(100)
    assert set(impaired(cloud)) == {by_reboot, by_start}
    cloud.call("RebootInstances", InstanceIds=[by_reboot])
    cloud.call("StopInstances", InstanceIds=[by_start])
    cloud.clock.advance(cloud.timings.stopping_seconds)
    cloud.call("StartInstances", InstanceIds=[by_start])
    cloud.clock.advance(100)
    assert impaired(cloud) == {}
    assert "panic" not in console(cloud, by_reboot) + console(cloud, by_start)


def test_a_reboot_does_not_mend_the_host_a_start_does(cloud: Cloud) -> None:
    (one,) = cloud.running()
    do(cloud, health.impair, one, "system")
    cloud.call("RebootInstances", InstanceIds=[one])
    assert set(impaired(cloud, "system-status")) == {one}
    cloud.call("StopInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.stopping_seconds)
    assert impaired(cloud, "system-status") == {}
    cloud.call("StartInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.pending_seconds)
    assert impaired(cloud, "system-status") == {}


@pytest.mark.parametrize("before", [True, False], ids=["before its stop", "while it stops"])
def test_what_is_stuck_stays_stopping_until_it_is_healed(cloud: Cloud, before: bool) -> None:
    (one,) = cloud.running()
    if before:
        do(cloud, health.stick, one)
    cloud.call("StopInstances", InstanceIds=[one])
    if not before:
        do(cloud, health.stick, one)
    cloud.clock.advance(86_400)
    cloud.call("StopInstances", InstanceIds=[one])
    cloud.clock.advance(86_400)
    assert cloud.state(one) == "stopping"
    cloud.refused("IncorrectInstanceState", "StartInstances", InstanceIds=[one])
    do(cloud, health.heal, one)
    assert cloud.state(one) == "stopped"


def test_a_forced_stop_ends_what_is_stuck_after_the_time_of_a_stop(cloud: Cloud) -> None:
    (one,) = cloud.running()
    do(cloud, health.stick, one)
    cloud.call("StopInstances", InstanceIds=[one])
    cloud.clock.advance(1000)
    cloud.call("StopInstances", InstanceIds=[one], Force=True)
    assert cloud.state(one) == "stopping"
    cloud.clock.advance(cloud.timings.stopping_seconds)
    assert cloud.state(one) == "stopped"


def test_a_forced_stop_from_running_is_a_stop(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.call("StopInstances", InstanceIds=[one], Force=True)
    cloud.clock.advance(cloud.timings.stopping_seconds)
    assert cloud.state(one) == "stopped"
