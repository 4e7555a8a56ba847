"""What is wired together for one cluster, as far as no hub is needed to see it."""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from pathlib import Path

import pytest

from core.botos import FakeBoto, answered, gateway
from core.fakes import FakeCloud
from core.kit import Hub
from core.virtual import in_virtual_time
from ec2spawner import wiring
from ec2spawner.errors import AnotherHub, Denied, NotTheHolder
from ec2spawner.settings import ServerConfig, WorkerSubnet
from ec2spawner.tenancy import Standing

CONFIG = ServerConfig(
    CLUSTER_NAME="biology101",
    VPC_ID="vpc-0123456789abcdef0",
    WORKER_SUBNETS=(WorkerSubnet(SUBNET_ID="subnet-0123456789abcdef0", ZONE="us-east-1a"),),
    WORKER_SECURITY_GROUP_ID="sg-0123456789abcdef0",
    MANAGER_SECURITY_GROUP_ID="sg-0123456789abcdef1",
    LAUNCH_TEMPLATE_ID="lt-0123456789abcdef0",
    WORKER_AMI_ID="ami-0123456789abcdef0",
    SSH_KEY_PARAMETER="/ec2spawner/biology101/ssh-key",
    BUCKET="bucket",
)


@in_virtual_time
async def test_nothing_is_sent_to_ec2_that_changes_it_without_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = FakeBoto(answered("AccessDenied", status=403))
    monkeypatch.setattr(wiring, "Gateway", lambda region, **_: gateway(session))
    fleet = wiring.build(CONFIG, tmp_path).servers.fleet
    ec2 = fleet._executor._cloud
    with pytest.raises(NotTheHolder):
        await ec2.stop(["i-1"])
    await ec2_reads(ec2)
    sent = [operation for _, operation, _ in session.requests]
    assert "stop_instances" not in sent
    assert "describe_tags" in sent
    await fleet.close()


async def ec2_reads(ec2: wiring.EC2) -> None:
    with pytest.raises(Denied):
        await ec2.tags_of(["i-1"])


@in_virtual_time
async def test_the_pages_say_what_keeps_the_hub_from_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "Gateway", lambda region, **_: gateway(FakeBoto({})))
    cluster = wiring.build(CONFIG, tmp_path)
    monkeypatch.setattr(wiring, "_clusters", {tmp_path: cluster})
    lease = cluster.servers.fleet._lease
    said = []
    for problem in (None, AnotherHub("x"), Denied("x"), NotTheHolder("x")):
        monkeypatch.setattr(type(lease), "problem", property(lambda _, p=problem: p))
        standing = Standing.LAPSED if problem else Standing.HELD
        monkeypatch.setattr(type(lease), "standing", property(lambda _, s=standing: s))
        said.append(str(wiring.Announcement()))
    assert said[0] == ""
    assert said[1].startswith("Another hub serves this cluster")
    assert "does not let this hub in" in said[2]
    assert "does not answer" in said[3]
    await cluster.servers.fleet.close()


@in_virtual_time
async def test_what_the_hub_has_loaded_is_not_looked_through_for_garbage_again_and_again(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(gc.set_threshold, *gc.get_threshold()))
    request.addfinalizer(gc.unfreeze)
    gc.unfreeze()
    cloud = FakeCloud(away=True)
    hub = Hub(cloud, tmp_path)
    hub.fleet.accompany(wiring._spare_the_collector(hub.fleet), "garbage collection")
    await asyncio.sleep(60)
    assert not gc.get_freeze_count(), "AWS was not spoken to yet, so not all is loaded"
    cloud.away = False
    await asyncio.sleep(60)
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] == wiring.GARBAGE_THRESHOLD
    made = [[]]
    assert any(one is made for one in gc.get_objects()), "what comes later is looked at"
    await hub.fleet.close()


@pytest.mark.parametrize(
    ("key", "value", "field", "means"),
    [
        ("REFRESH_WORKERS", True, "refresh_workers", True),
        ("REFRESH_WORKERS", False, "refresh_workers", False),
        ("ALLOW_ZONE_MOVE", True, "allow_zone_move", True),
        ("ALLOW_ZONE_MOVE", False, "allow_zone_move", False),
        ("REAPER_GRACE_SECONDS", 777, "reaper_grace_seconds", 777),
        ("DELETE_GRACE_DAYS", 3, "delete_grace_seconds", 3 * 86400),
        ("SNAPSHOT_EXPIRE_DAYS", 9, "snapshot_expire_seconds", 9 * 86400),
        ("KEEP_BROKEN_HOURS", 5, "keep_broken_seconds", 5 * 3600),
        ("START_TIMEOUT_SECONDS", 900, "boot_bound_seconds", wiring.boot_bound(900)),
    ],
)
def test_decisions_heed_what_the_configuration_says(
    key: str, value: object, field: str, means: object
) -> None:
    policy = wiring.policy_of(CONFIG.model_copy(update={key: value}))
    assert getattr(policy, field) == means


def test_decisions_know_the_subnets_and_the_profiles() -> None:
    policy = wiring.policy_of(CONFIG)
    assert [(s.subnet_id, s.zone) for s in policy.subnets] == [
        ("subnet-0123456789abcdef0", "us-east-1a")
    ]
    assert list(policy.profiles) == [profile.slug for profile in wiring.profiles_of(CONFIG)]
