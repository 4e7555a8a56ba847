"""The plan, decision by decision: who gets which worker."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from core.builders import (
    ANN,
    BOB,
    IN_USE,
    NOW,
    PENDING,
    POLICY,
    RUNNING,
    SHUTTING_DOWN,
    STOPPED,
    STOPPING,
    TERMINATED,
    home,
    listing,
    planned,
    wants,
    worker,
)
from ec2spawner.actions import Attach, ChangeType, Claim, Launch, Refuse, Start, Stop, Tag
from ec2spawner.errors import (
    CapacityError,
    CloudError,
    Denied,
    NotFound,
    QuotaError,
    Rejected,
    SubnetFull,
    Throttled,
    Unreachable,
    WrongState,
)
from ec2spawner.listing import Expectation, Launching, Listing
from ec2spawner.model import (
    TAG_DELETED,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_PROFILE,
    TAG_REPLACED,
    DeletedMark,
    InstanceState,
    Owner,
    VolumeState,
)
from ec2spawner.placement import Failure, Offering, Profile, Subnet, scope_of
from ec2spawner.wishes import Demand, Memory, TagWrite, Wishes

A_SMALL = Offering("small", "subnet-a", "a")
B_SMALL = Offering("small", "subnet-b", "b")
A_LARGE = Offering("large", "subnet-a", "a")
B_LARGE = Offering("large", "subnet-b", "b")


def held(kind: str, resource_id: str, error: CloudError) -> Memory:
    return Memory(holds=MappingProxyType({(kind, resource_id): Failure(error, NOW + 1)}))


# ---- an owner's worker is there


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (STOPPED, [Start(("i-1",), "its user wants it")]),
        (STOPPING, []),
        (PENDING, []),
        (RUNNING, []),
    ],
)
def test_later_login_starts_what_is_stopped_and_waits_for_the_rest(
    state: InstanceState, expected: list[object]
) -> None:
    view = listing(worker("i-1", state, ANN), home("vol-1", ANN, "i-1"))
    assert planned(view, wants(ANN)) == expected


def test_nobody_wants_a_stopped_worker_so_it_rests() -> None:
    assert planned(listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"))) == []


def test_start_that_is_on_its_way_is_not_sent_again() -> None:
    view = listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"))
    sent = Expectation(NOW - 1, states={"i-1": (frozenset({STOPPED}), PENDING)})
    assert planned(view, wants(ANN), expectations=[sent]) == []


def test_stop_that_is_on_its_way_is_waited_for() -> None:
    view = listing(worker("i-1", RUNNING, ANN), home("vol-1", ANN, "i-1"))
    sent = Expectation(NOW - 1, states={"i-1": (frozenset({RUNNING}), STOPPING)})
    assert planned(view, wants(ANN), expectations=[sent]) == []


def test_start_that_failed_a_moment_ago_waits() -> None:
    view = listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"))
    memory = held("start", "i-1", WrongState("no"))
    assert planned(view, wants(ANN), memory=memory) == []
    assert planned(view, wants(ANN), memory=memory, now=NOW + 2) != []


@pytest.mark.parametrize("kind", [Rejected, Denied])
def test_start_that_fails_for_good_is_told_to_its_user(kind: type[CloudError]) -> None:
    view = listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"))
    error = kind("no")
    memory = held("start", "i-1", error)
    assert planned(view, wants(ANN), memory=memory) == [Refuse(ANN.key, error)]


def test_worker_without_its_home_has_it_attached() -> None:
    view = listing(worker("i-1", RUNNING, ANN, home=None), home("vol-9", ANN))
    assert planned(view, wants(ANN)) == [Attach("vol-9", "i-1", "its owner's home")]


def test_home_is_attached_only_once_the_claim_of_the_worker_was_answered() -> None:
    view = listing(worker("i-1", RUNNING, home=None), home("vol-9", ANN))
    claim = Expectation(NOW - 1, tags={"i-1": {TAG_OWNER: ANN.key}})
    assert planned(view, wants(ANN), expectations=[claim]) == []
    answered = replace(claim, settled_at=NOW - 0.5)
    assert planned(view, wants(ANN), expectations=[answered]) == [
        Attach("vol-9", "i-1", "its owner's home")
    ]


@pytest.mark.parametrize("zone", ["a", "b"])
def test_home_is_not_attached_to_a_worker_whose_volumes_are_not_listed_yet(zone: str) -> None:
    view = listing(worker("i-1", RUNNING, ANN, known_volumes=False), home("vol-9", ANN, zone=zone))
    assert planned(view, wants(ANN)) == []


@pytest.mark.parametrize("state", [PENDING, STOPPING])
def test_home_is_not_attached_to_a_worker_between_two_states(state: InstanceState) -> None:
    view = listing(worker("i-1", state, ANN, home=None), home("vol-9", ANN))
    assert planned(view, wants(ANN)) == []


@pytest.mark.parametrize("state", [RUNNING, STOPPED])
def test_worker_and_home_in_two_zones_are_told(state: InstanceState) -> None:
    view = listing(worker("i-1", state, ANN, home=None), home("vol-9", ANN, zone="b"))
    (action,) = planned(view, wants(ANN))
    assert isinstance(action, Refuse)
    assert action.owner_key == ANN.key
    assert "vol-9" in action.error.for_operator()
    assert "vol-9" not in action.error.for_user()


def test_running_worker_whose_home_is_nowhere_is_told() -> None:
    (action,) = planned(listing(worker("i-1", RUNNING, ANN, home=None)), wants(ANN))
    assert isinstance(action, Refuse)


def test_home_that_no_listing_shows_yet_is_no_reason_to_refuse() -> None:
    assert planned(listing(worker("i-1", PENDING, ANN)), wants(ANN)) == []
    unknown = worker("i-1", RUNNING, ANN, known_volumes=False)
    assert planned(listing(unknown), wants(ANN)) == []


def test_claim_of_which_only_the_worker_was_tagged_is_completed() -> None:
    view = listing(worker("i-1", RUNNING, ANN), home("vol-1", None, "i-1"))
    assert planned(view, wants(ANN)) == [Claim(ANN, "i-1", "vol-1", "half claimed")]


def test_claim_of_which_only_the_home_was_tagged_is_completed() -> None:
    view = listing(worker("i-1", RUNNING), home("vol-1", ANN, "i-1"))
    assert planned(view, wants(ANN)) == [Claim(ANN, "i-1", "vol-1", "half claimed")]


def test_half_claim_that_fails_waits() -> None:
    view = listing(worker("i-1", RUNNING, ANN), home("vol-1", None, "i-1"))
    memory = held("claim", "i-1", Unreachable("no"))
    assert planned(view, wants(ANN), memory=memory) == []


def test_somebody_elses_home_on_an_owned_worker_is_not_adopted() -> None:
    view = listing(worker("i-1", RUNNING, ANN), home("vol-1", BOB, "i-1"))
    assert not [a for a in planned(view, wants(ANN)) if isinstance(a, Claim)]


# ---- two of something


def test_of_two_workers_the_one_with_the_home_stays_and_the_other_is_stopped() -> None:
    view = listing(
        worker("i-1", RUNNING, ANN, home=None, launched_at=1),
        worker("i-2", RUNNING, ANN, home="vol-9", launched_at=2),
        home("vol-9", ANN, "i-2"),
    )
    assert planned(view, wants(ANN)) == [
        Stop(("i-1",), "its owner has another worker", although_wanted=True)
    ]


def test_of_two_workers_the_one_with_the_home_is_started() -> None:
    view = listing(
        worker("i-1", STOPPED, ANN, home=None, launched_at=1),
        worker("i-2", STOPPED, ANN, home="vol-9", launched_at=2),
        home("vol-9", ANN, "i-2"),
    )
    assert planned(view, wants(ANN)) == [Start(("i-2",), "its user wants it")]


def test_a_double_with_a_home_that_was_never_mounted_does_not_lock_its_owner_out() -> None:
    view = listing(
        worker("i-1", RUNNING, ANN, launched_at=1),
        home("vol-1", ANN, "i-1"),
        home("vol-9", ANN, generation=1),
    )
    launch, stop = planned(view, wants(ANN))
    assert isinstance(launch, Launch)
    assert launch.home_gib == 0, "for the home that was mounted"
    assert stop == Stop(("i-1",), "its owner has another worker", although_wanted=True)


def test_a_worker_whose_own_home_was_mounted_is_no_double() -> None:
    view = listing(
        worker("i-1", STOPPED, ANN),
        home("vol-1", ANN, "i-1", generation=1, created_at=1),
        home("vol-9", ANN, generation=2, created_at=2),
    )
    assert planned(view, wants(ANN)) == [Start(("i-1",), "its user wants it")]


def test_stop_of_a_double_that_failed_waits() -> None:
    view = listing(
        worker("i-1", RUNNING, ANN, home=None, launched_at=1),
        worker("i-2", RUNNING, ANN, home="vol-9", launched_at=2),
        home("vol-9", ANN, "i-2"),
    )
    assert planned(view, wants(ANN), memory=held("stop", "i-1", Throttled("no"))) == []


def test_of_two_homes_the_one_of_the_higher_generation_counts() -> None:
    older = home("vol-1", ANN, generation=2, created_at=1)
    younger = home("vol-2", ANN, generation=1, created_at=2)
    (action,) = planned(listing(worker("i-1", RUNNING, ANN, home=None), older, younger), wants(ANN))
    assert action == Attach("vol-1", "i-1", "its owner's home")


def test_a_home_that_was_never_mounted_does_not_count_beside_one_that_was() -> None:
    mounted = home("vol-1", ANN, generation=1, created_at=1)
    never = home("vol-2", ANN, created_at=2)
    (action,) = planned(listing(worker("i-1", RUNNING, ANN, home=None), mounted, never), wants(ANN))
    assert action == Attach("vol-1", "i-1", "its owner's home")


# ---- no worker


def test_first_login_launches_for_nobody_with_a_blank_home() -> None:
    (action,) = planned(listing(), wants(ANN))
    assert action == Launch(A_SMALL, "default", 10, 1, (ANN.key,), "1 wait for a worker")


def test_terminated_behind_our_back_launches_in_the_homes_zone_without_a_blank_one() -> None:
    view = listing(worker("i-1", TERMINATED, ANN), home("vol-1", ANN, zone="b"))
    (action,) = planned(view, wants(ANN))
    assert isinstance(action, Launch)
    assert (action.offering, action.home_gib) == (B_SMALL, 0)


@pytest.mark.parametrize("state", [VolumeState.IN_USE, VolumeState.CREATING])
def test_home_held_by_a_dying_machine_is_waited_for(state: VolumeState) -> None:
    view = listing(worker("i-1", SHUTTING_DOWN, ANN), home("vol-1", ANN, "i-1", state=state))
    assert planned(view, wants(ANN)) == []


def test_home_in_a_zone_without_a_subnet_is_told() -> None:
    (action,) = planned(listing(home("vol-1", ANN, zone="z")), wants(ANN))
    assert isinstance(action, Refuse)
    assert "zone z" in action.error.for_operator()


def test_spare_without_home_is_claimed_for_who_has_one() -> None:
    view = listing(worker("i-1", RUNNING, home=None), home("vol-9", ANN))
    (action,) = planned(view, wants(ANN))
    assert action == Claim(ANN, "i-1", None, "the owner's worker is gone, the home is there")


def test_spare_in_another_zone_is_no_use_for_a_home() -> None:
    view = listing(worker("i-1", RUNNING, home=None, zone="b"), home("vol-9", ANN, zone="a"))
    (action,) = planned(view, wants(ANN))
    assert isinstance(action, Launch)


def test_spare_with_a_blank_home_is_no_use_for_who_has_one() -> None:
    view = listing(worker("i-1"), home("vol-1", None, "i-1"), home("vol-9", ANN))
    (action,) = planned(view, wants(ANN))
    assert isinstance(action, Launch)


def test_spare_without_home_is_no_use_for_a_first_login() -> None:
    (action,) = planned(listing(worker("i-1", home=None)), wants(ANN))
    assert isinstance(action, Launch)


@pytest.mark.parametrize(
    "spare_home",
    [
        home("vol-1", BOB, "i-1"),
        home("vol-1", None, "i-1", generation=1),
        home("vol-1", None, "i-1", deleted=DeletedMark(1, "x")),
    ],
    ids=["owned", "mounted before", "given up"],
)
def test_spare_whose_home_is_not_blank_is_nobodys_first_home(spare_home: object) -> None:
    actions = planned(listing(worker("i-1"), spare_home), wants(ANN))  # type: ignore[arg-type]
    assert not [a for a in actions if isinstance(a, Claim)]


@pytest.mark.parametrize("state", [PENDING, RUNNING, STOPPED])
def test_first_login_claims_a_spare_with_its_blank_home(state: InstanceState) -> None:
    view = listing(worker("i-1", state), home("vol-1", None, "i-1"))
    assert planned(view, wants(ANN)) == [Claim(ANN, "i-1", "vol-1", "first login")]


@pytest.mark.parametrize("state", [STOPPING, SHUTTING_DOWN, TERMINATED])
def test_spare_on_its_way_down_is_not_claimed(state: InstanceState) -> None:
    (action,) = planned(listing(worker("i-1", state), home("vol-1", None, "i-1")), wants(ANN))
    assert isinstance(action, Launch)


def test_running_spare_comes_before_a_booting_and_a_stopped_one() -> None:
    spares = [worker(f"i-{s.value}", s) for s in (STOPPED, PENDING, RUNNING)]
    (action,) = planned(listing(*spares), wants(ANN))
    assert isinstance(action, Claim)
    assert action.instance_id == "i-running"


@pytest.mark.parametrize(
    "other",
    [
        worker("i-1", role="builder"),
        worker("i-1", role="manager"),
        worker("i-1", role=""),
        worker("i-1", profile="gpu"),
        worker("i-1", deleted=DeletedMark(1, "x")),
    ],
    ids=["builder", "manager", "no role", "other profile", "given up"],
)
def test_what_is_no_spare_of_this_kind_is_left_alone(other: object) -> None:
    (action,) = [a for a in planned(listing(other), wants(ANN)) if not isinstance(a, Stop)]  # type: ignore[arg-type]
    assert isinstance(action, Launch)


def test_two_owners_never_get_one_spare() -> None:
    view = listing(worker("i-1"), home("vol-1", None, "i-1"))
    claim, launch = planned(view, wants(ANN, BOB))
    assert claim == Claim(ANN, "i-1", "vol-1", "first login"), "who came first"
    assert isinstance(launch, Launch)
    assert launch.for_owners == (BOB.key,)


def test_claim_that_fails_for_now_waits_with_its_spare() -> None:
    view = listing(worker("i-1"), home("vol-1", None, "i-1"))
    assert planned(view, wants(ANN), memory=held("claim", "i-1", NotFound("no"))) == []


def test_spare_that_turned_out_to_have_an_owner_is_skipped_and_nobody_is_refused() -> None:
    view = listing(worker("i-1"), worker("i-2"), home("vol-1", None, "i-1"))
    memory = held("claim", "i-1", WrongState("has an owner"))
    assert planned(view, wants(ANN), memory=memory) == [Claim(ANN, "i-2", "vol-2", "first login")]


# ---- what is on its way


def test_launch_that_was_not_answered_yet_counts_once() -> None:
    sent = Expectation(NOW - 1, launching=Launching("default", True, "a", 3))
    owners = [Owner(f"user{n}") for n in range(5)]
    (action,) = planned(listing(), wants(*owners), expectations=[sent])
    assert isinstance(action, Launch)
    assert action.count == 2
    assert action.for_owners == tuple(o.key for o in owners[3:])


def test_launch_for_a_home_does_not_count_for_a_first_login_nor_the_other_way() -> None:
    plain = Expectation(NOW - 1, launching=Launching("default", False, "a", 1))
    (action,) = planned(listing(), wants(ANN), expectations=[plain])
    assert isinstance(action, Launch)
    blank = Expectation(NOW - 1, launching=Launching("default", True, "a", 1))
    (action,) = planned(listing(home("vol-1", ANN)), wants(ANN), expectations=[blank])
    assert isinstance(action, Launch)


def test_launched_worker_that_no_listing_shows_is_claimed_and_not_launched_again() -> None:
    launched = Expectation(NOW - 2, NOW - 1, launched={"i-1": worker("i-1", PENDING)})
    (action,) = planned(listing(), wants(ANN), expectations=[launched])
    assert action == Claim(ANN, "i-1", "vol-1", "first login")


def test_launched_worker_whose_volumes_are_not_known_yet_is_waited_for() -> None:
    fresh = worker("i-1", PENDING, known_volumes=False)
    launched = Expectation(NOW - 2, NOW - 1, launched={"i-1": fresh})
    assert planned(listing(), wants(ANN), expectations=[launched]) == []
    assert planned(listing(home("vol-9", ANN)), wants(ANN), expectations=[launched]) == []


@pytest.mark.parametrize("launched", [0, 1, 2, 3])
def test_workers_whose_volumes_are_not_known_yet_count_for_one_who_waits_each(
    launched: int,
) -> None:
    fresh = {f"i-{n}": worker(f"i-{n}", PENDING, known_volumes=False) for n in range(launched)}
    sent = Expectation(NOW - 2, NOW - 1, launched=fresh)
    view = listing(home("vol-9", ANN))
    actions = planned(view, wants(ANN, BOB), expectations=[sent])
    assert sum(a.count for a in actions if isinstance(a, Launch)) == max(0, 2 - launched)
    assert len(actions) == max(0, 2 - launched)


def test_claim_that_is_on_its_way_is_neither_repeated_nor_given_to_another() -> None:
    view = listing(worker("i-1"), home("vol-1", None, "i-1"))
    tags = {TAG_OWNER: ANN.key}
    sent = Expectation(NOW - 1, tags={"i-1": tags, "vol-1": tags})
    (action,) = planned(view, wants(ANN, BOB), expectations=[sent])
    assert isinstance(action, Launch)
    assert action.for_owners == (BOB.key,)


# ---- many


def test_five_hundred_starts_are_one_call_of_each_type_and_zone() -> None:
    owners = [Owner(f"user{n}") for n in range(1002)]
    resources = [
        r
        for n, o in enumerate(owners)
        for r in (
            worker(f"i-{n}", STOPPED, o, zone="b" if n == 7 else "a"),
            home(f"vol-{n}", o, f"i-{n}"),
        )
    ]
    starts = planned(listing(*resources), wants(*owners))
    assert sorted(len(s.ids) for s in starts if isinstance(s, Start)) == [1, 1, 500, 500]
    assert len({i for s in starts if isinstance(s, Start) for i in s.ids}) == 1002


def test_two_hundred_and_fifty_first_logins_are_launches_of_a_hundred() -> None:
    owners = [Owner(f"user{n}") for n in range(250)]
    launches = planned(listing(), wants(*owners))
    assert [a.count for a in launches if isinstance(a, Launch)] == [100, 100, 50]
    assert [k for a in launches if isinstance(a, Launch) for k in a.for_owners] == [
        o.key for o in owners
    ]


# ---- a stopped worker and the kinds of machines

TWO_KINDS = replace(
    POLICY,
    profiles=MappingProxyType(
        {
            "default": Profile("default", ("small", "large"), 10),
            "gpu": Profile("gpu", ("g5", "p5"), 10),
        }
    ),
)


def wants_kind(profile: str) -> Wishes:
    return Wishes(wanted=MappingProxyType({ANN.key: Demand(ANN, profile, "row", NOW - 1)}))


def anns(state: InstanceState = STOPPED, **more: Any) -> Listing:
    return listing(worker("i-1", state, ANN, **more), home("vol-1", ANN, "i-1", generation=1))


def test_a_stopped_worker_without_room_becomes_another_type_and_then_starts() -> None:
    no_room = failed(a_small=CapacityError("no"), is_start=True)
    (change,) = planned(anns(), wants(ANN), memory=no_room)
    assert isinstance(change, ChangeType)
    assert (change.instance_id, change.instance_type) == ("i-1", "large")
    changed = Expectation(NOW - 1, NOW - 0.5, types={"i-1": "large"})
    assert planned(anns(), wants(ANN), memory=no_room, expectations=[changed]) == [
        Start(("i-1",), "its user wants it")
    ]


def test_a_start_is_tried_although_a_launch_found_no_room() -> None:
    no_room = failed(a_small=CapacityError("no"))
    assert planned(anns(), wants(ANN), memory=no_room) == [Start(("i-1",), "its user wants it")]


def test_a_worker_whose_type_is_being_changed_is_not_started_before_that_is_answered() -> None:
    no_room = failed(a_small=CapacityError("no"), is_start=True)
    changing = Expectation(NOW - 1, types={"i-1": "large"})
    assert planned(anns(), wants(ANN), memory=no_room, expectations=[changing]) == []


def test_a_stopped_worker_goes_back_to_the_best_type_once_there_is_room() -> None:
    (change,) = planned(anns(kind="large"), wants(ANN))
    assert isinstance(change, ChangeType)
    assert change.instance_type == "small"


@pytest.mark.parametrize("error", [CapacityError("no"), QuotaError("no")])
def test_a_stopped_worker_without_room_as_any_type_is_told(error: CloudError) -> None:
    memory = failed(a_small=error, a_large=error, is_start=True)
    assert planned(anns(), wants(ANN), memory=memory) == [Refuse(ANN.key, error)]


def test_a_worker_that_cannot_change_starts_as_it_is() -> None:
    """An operator's new types may be of another architecture."""
    memory = held("change-type", "i-1", Rejected("no"))
    assert planned(anns(kind="old"), wants(ANN), memory=memory) == [
        Start(("i-1",), "its user wants it")
    ]


def test_a_worker_that_cannot_become_what_its_user_chose_is_told() -> None:
    error = Rejected("no")
    memory = held("change-type", "i-1", error)
    assert planned(anns(), wants_kind("gpu"), memory=memory, policy=TWO_KINDS) == [
        Refuse(ANN.key, error)
    ]


def test_a_spot_worker_keeps_its_type() -> None:
    view = anns(kind="large")
    cheap = replace(view.workers["i-1"], is_spot=True)
    view = replace(view, workers=MappingProxyType({"i-1": cheap}))
    assert planned(view, wants(ANN)) == [Start(("i-1",), "its user wants it")]
    (mark,) = planned(view, wants_kind("gpu"), policy=TWO_KINDS)
    assert isinstance(mark, Tag), "another one of that kind takes its place"
    assert mark.tags == ((TAG_REPLACED, f"{NOW:.0f} spot"),)
    failure = Failure(CapacityError("full"), NOW + 9)
    full = {("capacity", kind, "a", "on-demand"): failure for kind in ("g5", "p5")}
    memory = Memory(failed=MappingProxyType(full))
    (refusal,) = planned(view, wants_kind("gpu"), policy=TWO_KINDS, memory=memory)
    assert isinstance(refusal, Refuse)
    assert "cannot become" in refusal.error.for_user()


def test_another_kind_is_another_type_and_a_tag_that_says_so() -> None:
    (change,) = planned(anns(), wants_kind("gpu"), policy=TWO_KINDS)
    assert isinstance(change, ChangeType)
    assert change.instance_type == "g5"
    tag, start = planned(anns(kind="g5"), wants_kind("gpu"), policy=TWO_KINDS)
    assert tag == Tag(("i-1",), ((TAG_PROFILE, "gpu"),), "of another profile now")
    assert isinstance(start, Start)


def test_a_running_worker_of_another_kind_is_stopped_first() -> None:
    assert planned(anns(RUNNING), wants_kind("gpu"), policy=TWO_KINDS) == [
        Stop(("i-1",), "its owner wants another kind", although_wanted=True)
    ]
    assert planned(anns(PENDING), wants_kind("gpu"), policy=TWO_KINDS) == []
    assert planned(anns(STOPPING), wants_kind("gpu"), policy=TWO_KINDS) == []


def test_a_running_worker_of_a_type_that_the_operator_gave_up_goes_on() -> None:
    assert planned(anns(RUNNING, kind="old"), wants(ANN)) == []


def test_a_running_worker_that_serves_is_not_stopped_for_another_kind() -> None:
    served = Demand(ANN, "gpu", "row", NOW - 9, is_waiting=False, instance_id="i-1")
    wishes = Wishes(wanted=MappingProxyType({ANN.key: served}))
    assert planned(anns(RUNNING), wishes, policy=TWO_KINDS) == []


def test_spot_and_on_demand_workers_are_started_apart() -> None:
    cheap = replace(worker("i-2", STOPPED, BOB), is_spot=True)
    view = listing(
        worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"), cheap, home("vol-2", BOB, "i-2")
    )
    starts = [a for a in planned(view, wants(ANN, BOB)) if isinstance(a, Start)]
    assert sorted(s.ids for s in starts) == [("i-1",), ("i-2",)]


# ---- the ladder


def failed(*, is_start: bool = False, **errors: CloudError) -> Memory:
    places = {"a_small": A_SMALL, "b_small": B_SMALL, "a_large": A_LARGE, "b_large": B_LARGE}
    return Memory(
        failed=MappingProxyType(
            {
                scope_of(places[k], e, is_start=is_start): Failure(e, NOW + 180)
                for k, e in errors.items()
            }
        )
    )


NO, FULL, QUOTA = CapacityError("no"), SubnetFull("full"), QuotaError("quota")


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (failed(), A_SMALL),
        (failed(a_small=NO), B_SMALL),
        (failed(a_small=FULL), B_SMALL),
        (failed(a_small=NO, b_small=NO), A_LARGE),
        (failed(a_small=NO, b_small=NO, a_large=NO), B_LARGE),
        (failed(a_small=NO, b_small=NO, a_large=NO, b_large=FULL), FULL),
        (failed(a_small=QUOTA), QUOTA),
        (failed(a_small=NO, b_small=QUOTA), QUOTA),
    ],
)
def test_launch_walks_the_ladder(memory: Memory, expected: object) -> None:
    (action,) = planned(listing(), wants(ANN), memory=memory)
    found = action.offering if isinstance(action, Launch) else action.error  # type: ignore[union-attr]
    assert found == expected


def test_a_rung_is_tried_again_after_its_time() -> None:
    memory = failed(a_small=NO)
    (action,) = planned(listing(full_at=NOW + 180), wants(ANN), memory=memory, now=NOW + 181)
    assert isinstance(action, Launch)
    assert action.offering == A_SMALL


@pytest.mark.parametrize(
    ("error", "is_told"),
    [(Denied("no"), True), (Throttled("no"), False), (Unreachable("no"), False)],
)
def test_launch_that_failed_waits_and_tells_what_waiting_does_not_mend(
    error: CloudError, is_told: bool
) -> None:
    actions = planned(listing(), wants(ANN, BOB), memory=held("launch", "default", error))
    expected = [Refuse(ANN.key, error), Refuse(BOB.key, error)] if is_told else []
    assert actions == expected


def test_a_profile_that_is_no_more_is_told_and_stops_nobody_else() -> None:
    wishes = wants(ANN, BOB)
    wanted = dict(wishes.wanted)
    wanted[ANN.key] = replace(wanted[ANN.key], profile="gone")
    refuse, launch = sorted(
        planned(listing(), replace(wishes, wanted=wanted)), key=lambda a: isinstance(a, Launch)
    )
    assert isinstance(refuse, Refuse)
    assert refuse.owner_key == ANN.key
    assert isinstance(launch, Launch)
    assert launch.for_owners == (BOB.key,)


# ---- nothing is known


def test_a_cluster_that_was_never_listed_is_left_alone() -> None:
    wishes = wants(ANN, released=frozenset({BOB.key}))
    assert planned(Listing(), wishes) == []


def test_an_old_listing_still_serves_logins() -> None:
    view = listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"), full_at=NOW - 3600)
    assert planned(view, wants(ANN)) == [Start(("i-1",), "its user wants it")]


# ---- deletion and rename


MARK = DeletedMark(NOW - 60, "row")


def test_a_new_user_of_a_deleted_name_gets_a_worker_and_home_of_their_own() -> None:
    view = listing(
        worker("i-1", STOPPED, ANN, deleted=MARK), home("vol-1", ANN, "i-1", deleted=MARK)
    )
    actions = planned(view, wants(ANN, incarnation="another row"))
    (launch,) = [a for a in actions if isinstance(a, Launch)]
    assert launch.home_gib == 10


def test_a_deletion_by_the_same_row_is_taken_back() -> None:
    view = listing(
        worker("i-1", STOPPED, ANN, deleted=MARK), home("vol-1", ANN, "i-1", deleted=MARK)
    )
    (tag,) = [a for a in planned(view, wants(ANN)) if not isinstance(a, Stop)][:1]
    assert isinstance(tag, Tag)
    assert set(tag.ids) == {"i-1", "vol-1"}
    assert tag.changes == {TAG_DELETED: None}
    assert not [a for a in planned(view, wants(ANN)) if isinstance(a, (Launch, Claim))]


def test_a_mark_that_nobody_of_ours_wrote_is_not_taken_back() -> None:
    view = listing(home("vol-1", ANN, more={TAG_DELETED: "yes"}))
    assert not [a for a in planned(view, wants(ANN, incarnation="")) if isinstance(a, Tag)]


def test_a_promised_deletion_counts_before_it_is_written() -> None:
    view = listing(worker("i-1", RUNNING, ANN), home("vol-1", ANN, "i-1"))
    write = TagWrite(("i-1", "vol-1"), ((TAG_DELETED, MARK.to_tag()),), "deleted")
    actions = planned(view, wants(ANN, incarnation="new", writes=(write,)))
    assert Tag(("i-1", "vol-1"), write.tags, "deleted") in actions
    assert [a for a in actions if isinstance(a, Launch)]
    assert Stop(("i-1",), "its user is done") in actions


def test_a_promised_deletion_ends_nothing_before_it_is_written() -> None:
    view = listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"))
    write = TagWrite(("i-1", "vol-1"), ((TAG_DELETED, MARK.to_tag()),), "deleted")
    assert planned(view, wants(writes=(write,))) == [Tag(write.ids, write.tags, "deleted")]


def test_a_promised_rename_counts_before_it_is_written() -> None:
    view = listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"))
    write = TagWrite(("i-1", "vol-1"), ((TAG_OWNER, BOB.key),), "renamed")
    actions = planned(view, wants(BOB, ANN, writes=(write,)))
    kinds = [type(a) for a in actions]
    assert kinds == [Tag, Launch, Start]
    (launch,) = [a for a in actions if isinstance(a, Launch)]
    assert launch.for_owners == (ANN.key,)


def test_of_two_renames_only_the_last_is_written() -> None:
    view = listing(worker("i-1", STOPPED, ANN))
    cem = Owner("cem")
    writes = (
        TagWrite(("i-1",), ((TAG_OWNER, BOB.key),), "first"),
        TagWrite(("i-1",), ((TAG_OWNER, cem.key),), "second"),
    )
    assert planned(view, Wishes(writes=writes)) == [
        Tag(("i-1",), ((TAG_OWNER, cem.key),), "second")
    ]
    written = listing(worker("i-1", STOPPED, cem))
    assert planned(written, Wishes(writes=writes)) == []


def test_a_rename_waits_until_the_claim_that_is_under_way_was_answered() -> None:
    view = listing(worker("i-1", PENDING), home("vol-1", None, "i-1"))
    tags = {TAG_OWNER: ANN.key}
    claim = Expectation(NOW - 1, tags={"i-1": tags, "vol-1": tags})
    write = TagWrite(("i-1", "vol-1"), ((TAG_OWNER, BOB.key),), "renamed")
    wishes = wants(BOB, writes=(write,))
    assert planned(view, wishes, expectations=[claim]) == []
    answered = replace(claim, settled_at=NOW - 0.5)
    assert planned(view, wishes, expectations=[answered]) == [
        Tag(("i-1", "vol-1"), write.tags, "renamed")
    ]


def test_tags_that_could_not_be_written_a_moment_ago_wait() -> None:
    view = listing(worker("i-1", STOPPED, ANN))
    write = TagWrite(("i-1",), ((TAG_OWNER, BOB.key),), "renamed")
    memory = held("tag", "i-1", Denied("no"))
    assert planned(view, Wishes(writes=(write,)), memory=memory) == []


def test_a_home_that_was_mounted_gets_its_generation_once() -> None:
    view = listing(worker("i-1", RUNNING, ANN), home("vol-1", ANN, "i-1"))
    wishes = wants(ANN, mounted=frozenset({"vol-1"}))
    (action,) = planned(view, wishes)
    assert action == Tag(("vol-1",), ((TAG_GENERATION, "1"),), "mounted for the first time")
    again = listing(worker("i-1", RUNNING, ANN), home("vol-1", ANN, "i-1", generation=4))
    assert planned(again, wishes) == []


def test_a_plan_for_one_subnet_and_one_type_is_a_plan() -> None:
    policy = replace(
        POLICY,
        profiles=MappingProxyType({"default": Profile("default", ("t",), 3)}),
        subnets=(Subnet("s", "z"),),
    )
    (action,) = planned(listing(), wants(ANN), policy=policy)
    assert isinstance(action, Launch)
    assert (action.offering, action.home_gib) == (Offering("t", "s", "z"), 3)


def test_demands_are_served_in_the_order_of_arrival() -> None:
    late, early = Demand(ANN, "default", "r", NOW - 1), Demand(BOB, "default", "r", NOW - 9)
    wishes = Wishes(wanted=MappingProxyType({ANN.key: late, BOB.key: early}))
    claim = planned(listing(worker("i-1")), wishes)[0]
    assert isinstance(claim, Claim)
    assert claim.owner == BOB


def test_home_in_use_by_a_machine_that_is_not_in_the_listing_is_waited_for() -> None:
    assert planned(listing(home("vol-1", ANN, "i-gone", state=IN_USE)), wants(ANN)) == []
