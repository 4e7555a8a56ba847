"""A new image of the workers: known to the hub, taken by new ones, moved to by stopped ones."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from core.builders import (
    ANN,
    BOB,
    NOW,
    POLICY,
    RUNNING,
    STOPPED,
    home,
    listing,
    planned,
    unwanted_since,
    wants,
)
from core.builders import worker as worker_of
from core.fakes import FakeCloud
from core.kit import POLICY as TOWN_POLICY
from core.kit import Hub, until
from core.virtual import clock, in_virtual_time
from ec2spawner.actions import Claim, Launch, Start, Tag, Terminate
from ec2spawner.errors import CapacityError, Denied, Rejected
from ec2spawner.images import LOOK_SECONDS, CurrentImage
from ec2spawner.listing import Listing
from ec2spawner.model import (
    TAG_CLAIM,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_PREPARED,
    TAG_REPLACED,
    Worker,
)
from ec2spawner.placement import Failure, Offering, Profile, scope_of
from ec2spawner.wishes import Memory, Policy

OLD, NEW = "ami-0000000000000000a", "ami-0000000000000000b"
REFRESHING = replace(POLICY, image_id=NEW, refresh_workers=True)


def anns(image_id: str = OLD, *, generation: int | None = 1) -> Listing:
    stopped = replace(worker_of("i-1", STOPPED, ANN), image_id=image_id)
    return listing(stopped, home("vol-1", ANN, "i-1", generation=generation))


# ---- whose worker is of an older image


def test_a_stopped_worker_of_an_older_image_gives_way_when_its_owner_comes() -> None:
    (action,) = planned(anns(), wants(ANN), policy=REFRESHING)
    assert isinstance(action, Tag)
    assert action.ids == ("i-1",)
    assert [key for key, _ in action.tags] == [TAG_REPLACED]


@pytest.mark.parametrize(
    ("policy", "there"),
    [
        (replace(REFRESHING, refresh_workers=False), anns()),  # not asked for
        (replace(REFRESHING, image_id=""), anns()),  # not known which is the current one
        (REFRESHING, anns(NEW)),
        (REFRESHING, anns("")),  # not known of which it is
        (REFRESHING, anns(generation=None)),  # a home that never was mounted
    ],
)
def test_a_worker_is_started_as_it_is(policy: Policy, there: Listing) -> None:
    (action,) = planned(there, wants(ANN), policy=policy)
    assert isinstance(action, Start)


def test_a_worker_stays_where_a_new_one_would_find_no_room() -> None:
    full = Failure(CapacityError("full"), NOW + 60)
    failed = {
        scope_of(Offering(kind, "subnet-a", "a"), full.error): full for kind in ("small", "large")
    }
    there = anns()
    one_zone = replace(REFRESHING, subnets=POLICY.subnets[:1])
    memory = Memory(failed=MappingProxyType(failed))
    actions = planned(there, wants(ANN), policy=one_zone, memory=memory)
    assert not any(isinstance(action, Tag) for action in actions)


def test_nobody_who_works_is_disturbed() -> None:
    there = listing(
        replace(worker_of("i-1", RUNNING, ANN), image_id=OLD), home("vol-1", ANN, "i-1")
    )
    assert planned(there, wants(ANN), policy=REFRESHING) == []


# ---- spares


def spare(number: int, image_id: str) -> Worker:
    made = replace(worker_of(f"i-{number}", STOPPED), image_id=image_id)
    return replace(made, tags=MappingProxyType({**made.tags, TAG_PREPARED: "1"}))


def spares(*images: str) -> Listing:
    made = [spare(n, image) for n, image in enumerate(images, 1)]
    return listing(*made, *(home(f"vol-{n}", on=f"i-{n}") for n in range(1, len(made) + 1)))


def with_pool(policy: Policy) -> Policy:
    profile = Profile("default", ("small",), 10, pool_stopped=2)
    return replace(policy, profiles=MappingProxyType({"default": profile}))


def test_spares_of_an_older_image_are_replaced_and_new_ones_bear_the_new() -> None:
    actions = planned(spares(OLD, NEW), policy=with_pool(replace(POLICY, image_id=NEW)))
    launches = [a for a in actions if isinstance(a, Launch)]
    assert [(a.count, a.image_id) for a in launches] == [(1, NEW)]


def test_an_older_spare_stays_until_one_that_takes_its_place_is_prepared() -> None:
    policy = with_pool(replace(POLICY, image_id=NEW))
    ripe = unwanted_since(900, "i-1", "i-2")

    def ended(there: Listing) -> list[str]:
        actions = planned(there, policy=policy, memory=ripe)
        return [i for action in actions if isinstance(action, Terminate) for i in action.ids]

    assert ended(spares(OLD, OLD)) == []
    assert len(ended(spares(OLD, OLD, NEW))) == 1
    assert sorted(ended(spares(OLD, OLD, NEW, NEW))) == ["i-1", "i-2"]


def test_nobodys_worker_is_given_up_while_launches_fail() -> None:
    hold = Failure(Rejected("no such image"), NOW + 60)
    memory = Memory(holds=MappingProxyType({("launch", "default"): hold}))
    (action,) = planned(anns(), wants(ANN), policy=REFRESHING, memory=memory)
    assert isinstance(action, Start)


def test_a_newcomer_gets_a_spare_of_the_new_image_first_but_rather_an_old_one_than_none() -> None:
    policy = with_pool(replace(POLICY, image_id=NEW))
    actions = planned(spares(OLD, NEW), wants(ANN, BOB), policy=policy)
    claims = [(a.owner, a.instance_id) for a in actions if isinstance(a, Claim)]
    assert claims == [(ANN, "i-2"), (BOB, "i-1")]


# ---- the whole way


OWNED = {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}


@in_virtual_time
async def test_the_next_start_is_on_a_new_worker_with_the_same_home(tmp_path: Path) -> None:
    cloud = FakeCloud()
    old = cloud.put_instance(STOPPED, OWNED, launched_at=clock() - 9000)
    cloud.instances[old].image_id = OLD
    (kept,) = cloud.homes_of(ANN.key)
    hub = Hub(cloud, tmp_path, replace(TOWN_POLICY, refresh_workers=True))
    hub.fleet.use_image(NEW)
    now = await asyncio.wait_for(hub.log_in("ann"), 120)
    assert now.instance_id != old
    assert cloud.instances[now.instance_id].image_id == NEW
    assert now.home_volume_id == kept.volume_id
    assert [v.volume_id for v in cloud.homes_of(ANN.key)] == [kept.volume_id]
    await until(lambda: not cloud.instances[old].seen(clock()).is_alive, 1200)
    assert [v.volume_id for v in cloud.homes_of(ANN.key)] == [kept.volume_id]
    assert not cloud.sins
    await hub.fleet.close()


@pytest.mark.parametrize("died_after", [0.05, 1, 5, 20, 30])
@in_virtual_time
async def test_a_hub_that_dies_meanwhile_loses_nothing(tmp_path: Path, died_after: float) -> None:
    cloud = FakeCloud()
    old = cloud.put_instance(STOPPED, OWNED, launched_at=clock() - 9000)
    cloud.instances[old].image_id = OLD
    (kept,) = cloud.homes_of(ANN.key)
    hub = Hub(cloud, tmp_path, replace(TOWN_POLICY, refresh_workers=True))
    hub.fleet.use_image(NEW)
    start = asyncio.ensure_future(hub.log_in("ann"))
    await asyncio.wait({start}, timeout=died_after)
    start.cancel()
    hub = hub.kill()
    hub.fleet.use_image(NEW)
    now = await asyncio.wait_for(hub.log_in("ann"), 300)
    assert cloud.instances[now.instance_id].image_id == NEW
    assert now.home_volume_id == kept.volume_id
    assert len(cloud.owned_by(ANN.key)) == 1
    assert not cloud.sins
    await hub.fleet.close()


# ---- which image it is


def watching(*answers: str | Exception | None) -> tuple[CurrentImage, list[str], list[float]]:
    left, told, slept = list(answers), [], []

    async def ask() -> str | None:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if not left:
            raise asyncio.CancelledError

    return CurrentImage(ask, told.append, sleep=sleep), told, slept


async def test_the_parameter_is_read_again_and_again_and_a_failure_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    image, told, slept = watching(OLD, Denied("no", why="no right"), ValueError("odd"), NEW, None)
    with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
        await image.run()
    assert told == [OLD, NEW, ""]
    assert slept == [LOOK_SECONDS] * 5
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR"]


async def test_a_parameter_that_names_no_image_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    image, told, _ = watching("rm -rf /; ami-1", NEW)
    with pytest.raises(asyncio.CancelledError):
        await image.run()
    assert told == [NEW]
    assert "something else" in caplog.text
