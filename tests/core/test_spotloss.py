"""Spot machines that are lost: replaced with the same home, and nothing is left behind for them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from core.builders import (
    ANN,
    NOW,
    POLICY,
    RUNNING,
    STOPPED,
    STOPPING,
    TERMINATED,
    home,
    listing,
    planned,
    wants,
    worker,
)
from core.fakes import FakeCloud
from core.kit import POLICY as KIT_POLICY
from core.kit import Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner.actions import CancelSpot, Detach, Refuse, Start, Tag, Terminate
from ec2spawner.errors import CapacityError, OutcomeUnknown
from ec2spawner.listing import Listing
from ec2spawner.model import (
    HOME_DEVICE,
    SPOT_INTERRUPTED,
    TAG_BROKEN,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_REPLACED,
    TAG_ROLE,
    InstanceState,
    Mark,
    SpotRequest,
    Worker,
)
from ec2spawner.placement import Failure, Market, Profile, offering_of, rungs, scope_of
from ec2spawner.wishes import Memory

SPOT_POLICY = replace(
    KIT_POLICY,
    profiles=MappingProxyType(
        {
            "default": Profile("default", ("t3.medium",), 10, (Market.SPOT, Market.ON_DEMAND)),
            "large": Profile("large", ("t3.large",), 10, (Market.SPOT, Market.ON_DEMAND)),
        }
    ),
)
HOME = home("vol-1", ANN, "i-1", generation=1)


def spot(
    state: InstanceState = STOPPED,
    *,
    interrupted: bool = False,
    mark: str = "",
    tag: str = TAG_REPLACED,
) -> Worker:
    one = worker("i-1", state, ANN)
    tags = {**one.tags, **({tag: Mark(NOW - 5, mark).to_tag()} if mark else {})}
    return replace(
        one,
        is_spot=True,
        spot_request_id="sir-1",
        state_reason=SPOT_INTERRUPTED if interrupted else "",
        tags=MappingProxyType(tags),
    )


def full(*more: tuple[str, ...]) -> Memory:
    failure = Failure(CapacityError("full"), NOW + 60)
    return Memory(failed=MappingProxyType(dict.fromkeys(more, failure)))


def replaced(actions: list[object]) -> list[tuple[str, ...]]:
    return [a.ids for a in actions if isinstance(a, Tag) and TAG_REPLACED in a.changes]


# ---- whose machine is lost


def test_an_interrupted_machine_whose_user_waits_is_replaced_and_never_started() -> None:
    actions = planned(listing(spot(interrupted=True), HOME), wants(ANN))
    assert actions == [
        Tag(("i-1",), ((TAG_REPLACED, f"{NOW:.0f} interrupted"),), "it cannot be started")
    ]
    assert planned(listing(spot(interrupted=True), HOME)) == [], "nobody waits for it"


def test_an_interrupted_machine_that_still_stops_is_waited_for() -> None:
    assert planned(listing(spot(STOPPING, interrupted=True), HOME), wants(ANN)) == []


def test_nobodys_interrupted_machine_is_started_ahead_of_a_class() -> None:
    wishes = replace(wants(), expected=frozenset({ANN.key}))
    assert planned(listing(spot(interrupted=True), HOME), wishes) == []
    assert [type(a) for a in planned(listing(spot(), HOME), wishes)] == [Start]


def test_a_spot_machine_without_room_is_replaced_by_what_the_ladder_has() -> None:
    view = listing(spot(), HOME)
    error = CapacityError("full")
    memory = full(scope_of(offering_of(spot()), error, is_start=True))
    assert replaced(planned(view, wants(ANN), memory=memory)) == [("i-1",)]


def test_where_the_ladder_has_nothing_either_the_user_is_told_and_keeps_the_machine() -> None:

    ladder = rungs(POLICY.profiles["default"], POLICY.subnets, "a")
    scopes = [scope_of(rung, CapacityError("full")) for rung in ladder]
    actions = planned(listing(spot(interrupted=True), HOME), wants(ANN), memory=full(*scopes))
    assert [type(a) for a in actions] == [Refuse]


def test_the_replaced_one_ends_with_its_request_and_is_not_merely_detached() -> None:
    actions = planned(listing(spot(interrupted=True, mark="interrupted"), HOME), wants(ANN))
    ended = [a.ids for a in actions if isinstance(a, Terminate)]
    assert ended == [("i-1",)]
    assert not [a for a in actions if isinstance(a, Detach)]


@pytest.mark.parametrize(("interrupted", "kind"), [(True, Terminate), (False, Detach)])
def test_a_broken_one_that_ec2_could_start_again_is_not_kept(
    interrupted: bool, kind: type[Terminate | Detach]
) -> None:
    """Else its owner would have two machines at once."""
    broken = spot(interrupted=interrupted, mark="stuck", tag=TAG_BROKEN)
    actions = planned(listing(broken, HOME), wants(ANN))
    assert [type(a) for a in actions if isinstance(a, (Terminate, Detach))] == [kind]


@pytest.mark.parametrize("state", [RUNNING, STOPPING])
def test_it_is_ended_only_when_it_is_stopped(state: InstanceState) -> None:
    actions = planned(listing(spot(state, mark="spot"), HOME), wants(ANN))
    assert not [a for a in actions if isinstance(a, (Terminate, Detach))]


# ---- requests


def with_request(request: SpotRequest, *resources: Worker, looked: bool = True) -> Listing:
    return replace(
        listing(*resources),
        spot_requests=MappingProxyType({request.request_id: request}),
        spot_at=NOW - 1 if looked else NOW - 200,
    )


def request(instance_id: str | None = "i-1", state: str = "active") -> SpotRequest:
    tags = MappingProxyType({TAG_CLUSTER: "class"})
    return SpotRequest("sir-1", state, instance_id=instance_id, tags=tags)


STRAY_TAGS = {
    TAG_CLUSTER: "class",
    TAG_ROLE: "worker",
    TAG_REPLACED: Mark(NOW - 5, "stray").to_tag(),
}
OLD = Memory(unwanted=MappingProxyType({"sir-1": (NOW - 900, NOW - 100)}))
CANCEL = [CancelSpot(("sir-1",), "it has no worker of ours")]


def test_an_open_request_without_a_machine_is_cancelled_after_grace_and_a_second_look() -> None:
    view = with_request(request(None, "open"))
    assert planned(view, memory=OLD) == CANCEL
    assert planned(view) == []
    young = Memory(unwanted=MappingProxyType({"sir-1": (NOW - 10, NOW - 100)}))
    assert planned(view, memory=young) == []
    assert planned(with_request(request(None, "open"), looked=False), memory=OLD) == []


def test_a_request_whose_machine_is_alive_is_left_alone() -> None:
    theirs = worker("i-1", STOPPED, ANN)
    assert planned(with_request(request(), theirs), memory=OLD) == []


def test_a_request_whose_machine_was_ended_is_cancelled_before_another_comes() -> None:
    ended = worker("i-1", TERMINATED, ANN)
    assert planned(with_request(request(), ended), memory=OLD) == CANCEL


def test_what_ec2_launched_by_itself_is_taken_in_as_a_retired_machine() -> None:
    (tag,) = planned(with_request(request("i-7")), memory=OLD)
    assert isinstance(tag, Tag)
    assert tag.ids == ("i-7",)
    assert tag.changes == {
        TAG_CLUSTER: "class",
        TAG_ROLE: "worker",
        TAG_REPLACED: f"{NOW:.0f} stray",
    }


@pytest.mark.parametrize("state", [RUNNING, STOPPING, STOPPED])
def test_its_blank_disk_is_taken_in_as_soon_as_it_is_seen(state: InstanceState) -> None:
    """Were the machine ended first, in the console, nothing would tell of the disk."""
    stray = replace(spot(state, mark="stray"), tags=MappingProxyType(dict(STRAY_TAGS)))
    tagged = [a for a in planned(listing(stray)) if isinstance(a, Tag)]
    assert [(a.ids, a.changes) for a in tagged] == [
        (("vol-1",), {TAG_CLUSTER: "class", TAG_ROLE: "worker"})
    ]
    known = listing(stray, home("vol-1", on="i-1"))
    assert not [a for a in planned(known) if isinstance(a, Tag)]


# ---- the whole way


class Town:
    """Ann has a spot machine, and works on it or not."""

    def __init__(self, folder: Path) -> None:
        self.cloud = FakeCloud()
        tags = {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}
        self.first = self.cloud.put_instance(STOPPED, tags)
        self.cloud._make_spot(self.cloud.instances[self.first])
        self.home = self.cloud.instances[self.first].volumes.at(clock())[HOME_DEVICE]
        self.hub = Hub(self.cloud, folder, SPOT_POLICY)


@pytest.mark.parametrize("lost", [None, "CreateTags", "TerminateInstances", "AttachVolume"])
@in_virtual_time
async def test_who_comes_back_after_an_interruption_has_another_machine_and_the_same_files(
    tmp_path: Path, lost: str | None
) -> None:
    town = Town(tmp_path)
    await town.hub.log_in("ann")
    town.cloud.interrupt(town.first)
    await until(lambda: town.hub.fleet.is_gone(ANN, town.first), 90)
    town.hub.fleet.forget(ANN)
    if lost:
        town.cloud.fail(lost, OutcomeUnknown("lost", action=lost), after=True)
    worker = await asyncio.wait_for(town.hub.log_in("ann"), 120)
    assert worker.instance_id != town.first
    assert worker.home_volume_id == town.home
    assert [w.instance_id for w in town.cloud.alive()] == [worker.instance_id]
    assert len(town.cloud.requests) == worker.is_spot
    assert "DetachVolume" not in town.cloud.count()
    assert not town.cloud.sins


@in_virtual_time
async def test_a_machine_that_ec2_gives_back_in_time_is_used_again(tmp_path: Path) -> None:
    town = Town(tmp_path)
    await town.hub.log_in("ann")
    town.cloud.interrupt(town.first)
    await asyncio.sleep(60)
    town.hub.fleet.forget(ANN)
    town.cloud.give_back(town.first)
    await asyncio.sleep(40)
    assert (await asyncio.wait_for(town.hub.log_in("ann"), 60)).instance_id == town.first


@in_virtual_time
async def test_a_spot_machine_of_another_kind_than_is_wanted_now_is_replaced(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    await town.hub.log_in("ann")
    town.hub.fleet.forget(ANN)
    ticket = town.hub.fleet.want(replace(demand("ann"), profile="large"))
    worker = await asyncio.wait_for(town.hub.fleet.provided(ticket), 120)
    assert worker.instance_type == "t3.large"
    assert worker.home_volume_id == town.home
    assert not town.cloud.sins


@in_virtual_time
async def test_what_a_termination_in_the_console_makes_ec2_launch_is_removed_with_its_disk(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    await asyncio.sleep(1)
    town.cloud.terminate_behind_our_back(town.first)
    await asyncio.sleep(5)
    (request_id,) = town.cloud.requests
    stray = town.cloud.launch_again(request_id)
    assert stray
    (blank,) = set(town.cloud.volumes) - {town.home}
    await asyncio.sleep(4000)
    assert not town.cloud.alive()
    assert not town.cloud.requests
    assert town.cloud.volumes[blank].gone_at < clock()
    assert town.cloud.volumes[town.home].gone_at > clock()
    assert not town.cloud.sins


@in_virtual_time
async def test_a_request_that_a_termination_in_the_console_left_open_is_cancelled(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    await asyncio.sleep(1)
    town.cloud.terminate_behind_our_back(town.first)
    await asyncio.sleep(2000)
    assert not town.cloud.requests
    assert town.cloud.count()["CancelSpotInstanceRequests"] == 1


@in_virtual_time
async def test_without_a_spot_market_no_request_is_ever_listed(tmp_path: Path) -> None:
    cloud = FakeCloud()
    Hub(cloud, tmp_path)
    await asyncio.sleep(2000)
    assert "DescribeSpotInstanceRequests" not in cloud.count()


@in_virtual_time
async def test_a_request_for_which_ec2_launched_another_is_not_cancelled_with_the_first(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    await asyncio.sleep(31)  # the listing is as old as it can be
    town.cloud.terminate_behind_our_back(town.first)
    (request_id,) = town.cloud.requests
    await asyncio.sleep(0)
    town.cloud.instances[town.first].tags.set(
        clock(), {**town.cloud.tags(town.first), TAG_REPLACED: Mark(clock(), "spot").to_tag()}
    )
    stray = town.cloud.launch_again(request_id)
    assert stray
    await town.hub.fleet._executor.execute(Terminate((town.first,), "it was replaced"))
    assert town.cloud.requests[request_id].instance_id == stray
    await asyncio.sleep(4000)
    assert not town.cloud.alive()
    assert not town.cloud.requests
