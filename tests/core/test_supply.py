"""The pool of spares: launched, rested, called up, and never at the cost of who waits."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.builders import (
    ANN,
    BOB,
    NOW,
    PENDING,
    POLICY,
    RUNNING,
    STOPPED,
    STOPPING,
    home,
    listing,
    planned,
    unwanted_since,
    wants,
    worker,
)
from ec2spawner.actions import Action, Claim, Launch, Start, Stop, Terminate
from ec2spawner.errors import CapacityError
from ec2spawner.failures import broken_image
from ec2spawner.listing import Expectation, Launching, Listing
from ec2spawner.model import TAG_PREPARED, InstanceState, Owner, Volume, Worker
from ec2spawner.placement import Failure, Offering, Profile, offering_of, scope_of
from ec2spawner.wishes import POOL_LAUNCH, Crowd, Memory, Policy, Wishes


def pool(running: int = 0, stopped: int = 0) -> Policy:
    profile = Profile("default", ("small",), 10, pool_running=running, pool_stopped=stopped)
    return replace(POLICY, profiles=MappingProxyType({"default": profile}))


def spare(number: int, state: InstanceState, *, prepared: bool = True, **more: Any) -> Worker:
    made = worker(f"i-{number}", state, **more)
    tags = {**made.tags, TAG_PREPARED: "1"} if prepared else made.tags
    return replace(made, tags=MappingProxyType(dict(tags)))


def town(*spares: Worker) -> Listing:
    homes: list[Volume] = [
        home(w.home_volume_id, on=w.instance_id) for w in spares if w.home_volume_id
    ]
    return listing(*spares, *homes)


def up(count: int, first: int = 1, **more: Any) -> list[Worker]:
    return [spare(n, RUNNING, **more) for n in range(first, first + count)]


def resting(count: int, first: int = 51) -> list[Worker]:
    return [spare(n, STOPPED) for n in range(first, first + count)]


def told(actions: list[Action]) -> list[tuple[str, int]]:
    """What is done, and with how many."""
    return [
        (type(a).__name__, a.count if isinstance(a, Launch) else len(a.ids))
        for a in actions
        if isinstance(a, (Launch, Start, Stop, Terminate))
    ]


@pytest.mark.parametrize(
    ("there", "policy", "ahead", "expected"),
    [
        ([], pool(), 0, []),
        ([], pool(2, 3), 0, [("Launch", 5)]),
        ([], pool(60, 90), 0, [("Launch", 100), ("Launch", 50)]),
        (up(2) + resting(3), pool(2, 3), 0, []),
        (up(1) + resting(3), pool(2, 3), 0, [("Launch", 1)]),
        (up(5), pool(2, 3), 0, [("Stop", 3)]),
        (up(5, prepared=False), pool(2, 3), 0, []),  # not before they were looked at
        ([spare(n, PENDING) for n in range(5)], pool(2, 3), 0, []),
        (up(2) + [spare(n, STOPPING) for n in range(50, 53)], pool(2, 3), 0, []),
        # a class is about to begin: who rests is called up, then more are launched
        (up(2) + resting(3), pool(2, 3), 2, [("Start", 2)]),
        (up(2) + resting(3), pool(2, 3), 10, [("Start", 3), ("Launch", 7)]),
        (resting(3), pool(0, 3), 3, [("Start", 3)]),
        # and afterwards they rest again
        (up(4) + resting(1), pool(2, 3), 0, [("Stop", 2)]),
        # what is too many and has no place is the reaper's
        (up(4), pool(1, 1), 0, [("Stop", 1)]),
    ],
)
def test_the_pool_is_kept(
    there: list[Worker], policy: Policy, ahead: int, expected: list[tuple[str, int]]
) -> None:
    wishes = Wishes(crowds=(Crowd(ahead, NOW),))
    assert told(planned(town(*there), wishes, policy=policy)) == expected


def test_who_came_is_not_expected_any_more() -> None:
    wishes = replace(wants(ANN, BOB), crowds=(Crowd(5, NOW - 60), Crowd(1, NOW)))
    there = [replace(w, tags=owned) for w, owned in zip(up(2), _owned(ANN, BOB), strict=True)]
    assert told(planned(town(*there), wishes, policy=pool())) == [("Launch", 4)]


def _owned(*owners: Owner) -> list[Any]:
    return [worker("i-1", owner=owner).tags for owner in owners]


def test_newcomers_of_a_group_are_those_without_anything() -> None:
    cem = Owner("cem")
    expected = frozenset({ANN.key, BOB.key, cem.key})
    anns = worker("i-1", STOPPED, ANN)
    view = listing(anns, home("vol-1", ANN, "i-1"), home("vol-9", cem))
    actions = planned(view, Wishes(expected=expected))
    assert told(actions) == [("Start", 1), ("Launch", 1)]
    assert all(a.is_ahead for a in actions if isinstance(a, Start))


def test_spares_of_the_pool_are_not_reaped_and_those_beyond_it_are() -> None:
    there = up(3) + resting(3)
    memory = unwanted_since(9999, *(w.instance_id for w in there))
    actions = planned(town(*there), policy=pool(2, 2), memory=memory)
    assert told(actions) == [("Stop", 1), ("Terminate", 1)]
    assert told(planned(town(*there), policy=pool(3, 3), memory=memory)) == []


def test_a_spare_without_a_home_is_none_of_the_pool() -> None:
    there = [spare(1, RUNNING, home=None)]
    memory = unwanted_since(9999, "i-1")
    actions = planned(town(*there), policy=pool(1), memory=memory)
    assert told(actions) == [("Launch", 1), ("Stop", 1)]


def test_an_unfit_spare_is_given_to_nobody_replaced_and_reaped() -> None:
    memory = unwanted_since(9999, "i-1")
    wishes = replace(wants(ANN), unfit=frozenset({"i-1"}))
    actions = planned(town(*up(1)), wishes, policy=pool(), memory=memory)
    assert told(actions) == [("Launch", 1), ("Stop", 1)]
    alone = planned(town(*up(1)), Wishes(unfit=frozenset({"i-1"})), policy=pool(1), memory=memory)
    assert told(alone) == [("Launch", 1), ("Stop", 1)]


@pytest.mark.parametrize(
    ("now_used", "held", "launched"),
    [("ami-1", "ami-1", 0), ("ami-2", "ami-1", 3), ("", "ami-1", 0), ("", "", 0)],
)
def test_no_spares_are_launched_from_a_broken_image_but_users_machines_are(
    now_used: str, held: str, launched: int
) -> None:
    hold = Failure(broken_image(held), NOW + 9)
    memory = Memory(holds=MappingProxyType({(POOL_LAUNCH, held): hold}))
    policy = replace(pool(3), image_id=now_used)
    spares = planned(town(), policy=policy, memory=memory)
    assert sum(a.count for a in spares if isinstance(a, Launch)) == launched
    (launch,) = planned(town(), wants(ANN), policy=policy, memory=memory)
    assert isinstance(launch, Launch)
    assert launch.for_owners == (ANN.key,)
    later = planned(town(), policy=policy, memory=memory, now=NOW + 9)
    assert sum(a.count for a in later if isinstance(a, Launch)) == 3


def test_launches_that_are_under_way_count() -> None:
    sent = Expectation(NOW - 1, launching=Launching("default", True, "a", 4))
    assert told(planned(town(), policy=pool(2, 3), expectations=[sent])) == [("Launch", 1)]


def test_the_pool_is_not_topped_up_while_somebody_waits_for_a_launch() -> None:
    actions = planned(town(), wants(ANN, BOB), policy=pool(5, 5))
    (launch,) = [a for a in actions if isinstance(a, Launch)]
    assert launch.for_owners == (ANN.key, BOB.key)


def test_the_pool_is_topped_up_when_spares_were_claimed() -> None:
    actions = planned(town(*up(2)), wants(ANN), policy=pool(2))
    assert [a.instance_id for a in actions if isinstance(a, Claim)] == ["i-1"]
    assert told(actions) == [("Launch", 1)]


def test_who_comes_gets_the_readiest_spare() -> None:
    there = [
        spare(1, STOPPED, prepared=False),
        spare(2, PENDING, prepared=False),
        spare(3, STOPPED),
        spare(4, RUNNING, prepared=False),
        spare(5, RUNNING),
    ]
    order = []
    for _ in there:
        left = [w for w in there if w.instance_id not in order]
        actions = planned(town(*left), wants(ANN), policy=pool(5))
        order += [a.instance_id for a in actions if isinstance(a, Claim)]
    assert order == ["i-5", "i-4", "i-3", "i-2", "i-1"]


def test_a_pool_without_room_asks_again_when_the_failure_is_forgotten() -> None:
    places = {("capacity", "small", zone, "on-demand") for zone in "ab"}
    failure = Failure(CapacityError("no"), NOW + 180)
    memory = Memory(failed=MappingProxyType(dict.fromkeys(places, failure)))
    assert told(planned(town(), policy=pool(1), memory=memory)) == []
    (launch,) = planned(town(), policy=pool(1), memory=memory, now=NOW + 180)
    assert isinstance(launch, Launch)
    assert launch.offering == Offering("small", "subnet-a", "a")
    assert launch.for_owners == ()


def test_a_resting_spare_that_met_no_room_is_not_called_up_again_and_again() -> None:
    error = CapacityError("no")
    place = scope_of(offering_of(spare(1, STOPPED)), error, is_start=True)
    memory = Memory(failed=MappingProxyType({place: Failure(error, NOW + 180)}))
    there = town(spare(1, STOPPED))
    assert told(planned(there, policy=pool(1), memory=memory)) == []
    assert told(planned(there, policy=pool(1), memory=memory, now=NOW + 180)) == [("Start", 1)]


STATES = [PENDING, RUNNING, STOPPING, STOPPED]


@given(
    states=st.lists(st.tuples(st.sampled_from(STATES), st.booleans()), max_size=12),
    running=st.integers(0, 5),
    stopped=st.integers(0, 5),
    ahead=st.integers(0, 5),
    coming=st.integers(0, 3),
)
def test_the_pool_comes_to_rest_at_what_was_chosen(
    states: list[tuple[InstanceState, bool]], running: int, stopped: int, ahead: int, coming: int
) -> None:
    """Whatever is there: never more than chosen are launched, and none is stopped and started."""
    spares = [spare(n, state, prepared=is_ready) for n, (state, is_ready) in enumerate(states)]
    sent = [Expectation(NOW - 1, launching=Launching("default", True, "a", coming))]
    wishes = Wishes(crowds=(Crowd(ahead, NOW),))
    actions = planned(
        town(*spares), wishes, policy=pool(running, stopped), expectations=sent if coming else []
    )
    total = max(running + stopped, running + ahead)
    launched = sum(a.count for a in actions if isinstance(a, Launch))
    assert launched == max(0, total - len(spares) - coming)
    started = {i for a in actions if isinstance(a, Start) for i in a.ids}
    rested = {i for a in actions if isinstance(a, Stop) for i in a.ids}
    assert not (started and rested)
    now_up = sum(w.state in (PENDING, RUNNING) for w in spares)
    assert now_up + len(started) - len(rested) >= min(running + ahead, now_up)
    assert not [a for a in actions if isinstance(a, Terminate)]


def test_a_pending_worker_without_a_home_counts_for_who_has_one_already() -> None:
    theirs = home("vol-9", ANN, generation=1)
    pending = worker("i-1", PENDING, home=None)
    assert planned(listing(theirs, pending), wants(ANN)) == []
    brings_one = worker("i-1", PENDING)
    launches = planned(listing(theirs, brings_one, home("vol-1", None, "i-1")), wants(ANN))
    assert [type(a) for a in launches] == [Launch]
