"""Homes that move to another zone, decision by decision."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from core.builders import (
    ANN,
    BOB,
    NOW,
    PENDING,
    POLICY,
    RUNNING,
    STOPPED,
    home,
    listing,
    planned,
    snapshot,
    wants,
    worker,
)
from ec2spawner import moving
from ec2spawner.actions import (
    Attach,
    CallOffMove,
    Claim,
    CopyHome,
    Detach,
    EndMove,
    FollowSource,
    GiveUpCopy,
    Launch,
    MoveStep,
    Refuse,
    SaveHome,
    Start,
    Tag,
)
from ec2spawner.errors import CapacityError, Denied, QuotaError, SubnetFull
from ec2spawner.listing import Expectation, Listing
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_EXPIRES,
    TAG_GENERATION,
    TAG_MOVED_FROM,
    TAG_MOVED_TO,
    TAG_MOVING,
    TAG_REPLACED,
    DeletedMark,
    Mark,
    Origin,
    Owner,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.placement import Failure, rungs, scopes
from ec2spawner.wishes import Memory, Wishes

MOVES = replace(POLICY, allow_zone_move=True)
MOVE = f"{NOW - 50:.3f}"
CREATING = VolumeState.CREATING


def full(*zones: str, kind: Any = CapacityError, **more: Any) -> Memory:
    """Nothing can be launched or started in these zones."""
    failed = {
        scope: Failure(kind("full"), NOW + 60)
        for offering in rungs(POLICY.profiles["default"], POLICY.subnets)
        if offering.zone in zones
        for is_start in (False, True)
        for scope in scopes(offering, is_start=is_start)
        if (scope[0] == "quota") is (kind is QuotaError)
    }
    return Memory(failed=MappingProxyType(failed), **more)


def source(on: str | None = None, **more: str) -> Volume:
    """Ann's home in zone a, at its third generation."""
    return home("vol-1", ANN, on, generation=3, more=more)


def moves(on: str | None = None, **more: str) -> Volume:
    return source(on, **{TAG_MOVING: MOVE, **more})


def moved(to: str = "vol-2", at: float = NOW - 20) -> Volume:
    return moves(**{TAG_REPLACED: Mark(at, moving.MOVED).to_tag(), TAG_MOVED_TO: to})


def copy(
    volume_id: str = "vol-2",
    owner: Owner | None = None,
    on: str | None = None,
    *,
    move: str = MOVE,
    **more: Any,
) -> Volume:
    origin = Origin("vol-1", 3, move).to_tag()
    return home(
        volume_id, owner, on, zone=more.pop("zone", "b"), more={TAG_MOVED_FROM: origin}, **more
    )


def saved(
    state: SnapshotState = SnapshotState.COMPLETED, *, move: str = MOVE, expires: float = NOW + 900
) -> Snapshot:
    tags = {TAG_MOVING: move, TAG_EXPIRES: f"{expires:.0f}"}
    return snapshot("snap-1", "vol-1", state, started_at=NOW - 40, tags=tags)


def bare(zone: str, instance_id: str = "i-7") -> Worker:
    return worker(instance_id, RUNNING, home=None, zone=zone)


def steps(*there: Any, memory: Memory | None = None, wishes: Wishes | None = None) -> list[Any]:
    view = listing(*there)
    memory = memory if memory is not None else full("a")
    return planned(view, wishes or wants(ANN), memory=memory, policy=MOVES)


# ---- whether


@pytest.mark.parametrize("kind", [CapacityError, SubnetFull])
def test_home_whose_zone_has_no_room_is_marked_and_saved(kind: Any) -> None:
    (step,) = steps(source(), memory=full("a", kind=kind))
    assert isinstance(step, SaveHome)
    assert (step.source_id, step.move, step.owner_key) == ("vol-1", f"{NOW:.3f}", ANN.key)
    tags = dict(step.tags)
    assert (tags[TAG_CLUSTER], tags[TAG_GENERATION]) == ("class", "3")
    assert float(tags[TAG_EXPIRES]) == NOW + MOVES.snapshot_expire_seconds


def test_home_in_a_zone_without_any_network_moves_too() -> None:
    (step,) = steps(home("vol-1", ANN, zone="gone"), memory=Memory())
    assert isinstance(step, SaveHome)


@pytest.mark.parametrize(
    ("memory", "policy"),
    [
        (full("a"), POLICY),
        (full("a", "b"), MOVES),
        (full("a", "b", kind=QuotaError), MOVES),
        (full("a"), replace(MOVES, subnets=MOVES.subnets[:1])),
    ],
    ids=["not allowed", "no room anywhere", "a quota", "one zone"],
)
@pytest.mark.parametrize("machine", [True, False])
def test_nothing_moves_where_it_must_not_or_would_not_help(
    memory: Memory, policy: Any, machine: bool
) -> None:
    stopped = [worker("i-1", STOPPED, ANN)] if machine else []
    view = listing(source("i-1" if machine else None), *stopped)
    (refusal,) = planned(view, wants(ANN), memory=memory, policy=policy)
    assert isinstance(refusal, Refuse)


def test_home_stays_where_there_is_room() -> None:
    (launch,) = steps(source(), memory=full("b"))
    assert isinstance(launch, Launch)
    assert launch.offering.zone == "a"


def test_home_stays_where_a_machine_is_free_although_there_is_no_room() -> None:
    (claim,) = steps(source(), bare("a"))
    assert isinstance(claim, Claim)


def test_nobody_waits_so_nothing_moves() -> None:
    assert not steps(source(), wishes=Wishes())


def test_stopped_machine_without_room_is_retired_then_freed_of_its_home() -> None:
    stopped = worker("i-1", STOPPED, ANN)
    (tag,) = steps(source("i-1"), stopped)
    assert isinstance(tag, Tag)
    assert tag.changes == {TAG_REPLACED: Mark(NOW, "no-room").to_tag()}
    retired = replace(stopped, tags=MappingProxyType({**stopped.tags, **tag.changes}))
    assert steps(source("i-1"), retired) == [Detach("vol-1", "i-1", "its worker is retired")]


# ---- forward


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([saved(SnapshotState.PENDING)], None),
        ([saved()], CopyHome),
        ([saved(SnapshotState.PENDING, expires=NOW - 1)], SaveHome),
        ([saved(SnapshotState.ERROR)], SaveHome),
        ([saved(move="other")], SaveHome),
        ([], SaveHome),
        ([saved(), copy(state=CREATING)], Launch),
        ([saved(), copy(state=VolumeState.ERROR)], CopyHome),
        ([saved(), copy(move="other")], CopyHome),
        ([saved(), copy("vol-2", BOB)], CopyHome),
        ([saved(), copy()], Launch),
        ([copy()], Launch),
        ([saved(), copy(), bare("b")], EndMove),
        ([saved(), copy(state=CREATING), bare("b")], None),
        ([saved(), copy(), worker("i-7", PENDING, home=None, zone="b")], None),
        ([saved(), copy("vol-2", ANN)], EndMove),
        ([saved(), copy("vol-2", ANN, "i-9")], EndMove),
        ([saved(), copy(), copy("vol-3", ANN)], EndMove),
    ],
)
def test_a_move_goes_on_from_what_is_there(there: list[Any], expected: type | None) -> None:
    actions = [a for a in steps(moves(), *there) if not isinstance(a, GiveUpCopy)]
    assert [type(a) for a in actions] == ([expected] if expected else [])
    for step in actions:
        if isinstance(step, MoveStep):
            assert (step.source_id, step.move) == ("vol-1", MOVE)
        if isinstance(step, CopyHome):
            assert (step.snapshot_id, step.zone, step.generation) == ("snap-1", "b", 3)
        if isinstance(step, Launch):
            assert (step.offering.zone, step.home_gib) == ("b", 0)
        if isinstance(step, EndMove):
            assert step.copy_id == ("vol-3" if copy("vol-3", ANN) in there else "vol-2")


def test_two_who_move_do_not_count_on_the_same_machine() -> None:
    other = home("vol-5", BOB, generation=1, more={TAG_MOVING: MOVE})
    theirs = home("vol-6", zone="b", more={TAG_MOVED_FROM: Origin("vol-5", 1, MOVE).to_tag()})
    actions = steps(moves(), copy(), other, theirs, bare("b"), wishes=wants(ANN, BOB))
    assert [type(a) for a in actions] == [EndMove, Launch]


def test_copy_whose_zone_has_lost_its_room_is_made_again_elsewhere() -> None:
    subnet = replace(MOVES.subnets[0], subnet_id="subnet-c", zone="c")
    policy = replace(MOVES, subnets=(*MOVES.subnets, subnet))
    view = listing(moves(), saved(), copy())
    (step,) = planned(view, wants(ANN), memory=full("a", "b"), policy=policy)
    assert isinstance(step, CopyHome)
    assert step.zone == "c"


def test_home_that_has_moved_is_served_in_its_new_zone() -> None:
    there = (moved(), copy("vol-2", ANN))
    (claim,) = steps(*there, bare("b"))
    assert isinstance(claim, Claim)
    attached = steps(*there, worker("i-7", RUNNING, ANN, home=None, zone="b"))
    assert attached == [Attach("vol-2", "i-7", "its owner's home")]


def test_first_mount_of_a_copy_makes_it_the_next_generation() -> None:
    view = [moved(), copy("vol-2", ANN, "i-7"), worker("i-7", RUNNING, ANN, home="vol-2", zone="b")]
    wishes = Wishes(mounted=frozenset({"vol-2"}))
    (tag,) = steps(*view, wishes=wishes)
    assert isinstance(tag, Tag)
    assert (tag.ids, tag.changes) == (("vol-2",), {TAG_GENERATION: "4"})


def test_step_that_failed_a_moment_ago_is_told_if_waiting_does_not_mend_it() -> None:
    error = Denied("no")
    memory = replace(full("a"), holds={("move", "vol-1"): Failure(error, NOW + 9)})
    assert steps(moves(), saved(), memory=memory) == [Refuse(ANN.key, error)]


@pytest.mark.parametrize("tags", [{TAG_MOVING: MOVE}, {TAG_MOVING: None}])
def test_no_step_is_taken_while_another_is_not_answered(tags: dict[str, Any]) -> None:
    sent = Expectation(NOW - 1, tags={"vol-1": tags})
    view = listing(moves(), saved())
    actions = planned(view, wants(ANN), memory=full("a"), policy=MOVES, expectations=[sent])
    assert not [a for a in actions if isinstance(a, (SaveHome, EndMove, CallOffMove, Attach))]


# ---- back


@pytest.mark.parametrize(
    ("there", "memory", "expected"),
    [
        ([], Memory(), CallOffMove),
        ([saved()], Memory(), CopyHome),
        ([saved()], full("b"), CallOffMove),
        ([saved(), copy()], full("b"), CallOffMove),
        ([saved(), copy("vol-2", ANN)], full("b"), EndMove),
        ([saved(SnapshotState.PENDING), bare("a")], full("a"), CallOffMove),
        ([saved(), copy("vol-2", ANN), bare("a")], full("a"), EndMove),
        ([saved()], full("a", "b"), Refuse),
    ],
)
def test_a_move_is_called_off_only_as_long_as_the_copy_is_nobodys(
    there: list[Any], memory: Memory, expected: type
) -> None:
    (action,) = steps(moves(), *there, memory=memory)
    assert type(action) is expected
    if isinstance(action, CallOffMove):
        assert (action.source_id, action.move) == ("vol-1", MOVE)
        assert action.snapshot_ids == tuple(s.snapshot_id for s in there if isinstance(s, Snapshot))
        assert action.copy_ids == tuple(v.volume_id for v in there if isinstance(v, Volume))


def test_a_move_is_not_called_off_before_it_is_known_which_snapshot_was_begun() -> None:
    begun = replace(saved(SnapshotState.PENDING), snapshot_id=moving.unnamed("snap", "vol-1"))
    assert steps(moves(), begun, bare("a")) == []


def test_a_move_is_called_off_where_it_is_not_allowed_any_more() -> None:
    view = listing(moves(), saved())
    (action,) = planned(view, wants(ANN), policy=POLICY)
    assert isinstance(action, CallOffMove)


@pytest.mark.parametrize(
    "there",
    [
        (moves(), worker("i-1", RUNNING, ANN, home=None)),
        (moves("i-1"), worker("i-1", RUNNING, ANN)),
        (moves("i-1"), worker("i-1", PENDING, ANN)),
    ],
)
def test_a_machine_of_the_owner_ends_a_move_before_the_home_is_used(there: Any) -> None:
    (action,) = steps(*there)
    assert isinstance(action, CallOffMove)


def test_marked_home_is_not_taken_off_a_retired_machine_before_the_mark_is_gone() -> None:
    stopped = worker("i-1", STOPPED, ANN)
    tags = {**stopped.tags, TAG_REPLACED: Mark(NOW - 5, "no-room").to_tag()}
    retired = replace(stopped, tags=MappingProxyType(tags))
    (action,) = steps(moves("i-1"), retired, saved())
    assert isinstance(action, CallOffMove)


def test_machine_that_was_left_behind_is_retired() -> None:
    left = worker("i-1", RUNNING, ANN, home=None)
    (tag,) = steps(left, moved(), copy("vol-2", ANN))
    assert isinstance(tag, Tag)
    assert tag.changes == {TAG_REPLACED: Mark(NOW, "left-behind").to_tag()}


@pytest.mark.parametrize(
    ("there", "is_void"),
    [
        ((moves(), copy("vol-2", ANN)), False),
        ((moved(), copy("vol-2", ANN)), False),
        ((moved("vol-3"), copy("vol-2", ANN)), True),
        ((source(), copy("vol-2", ANN)), True),
        ((moves(), copy("vol-2", ANN, move="other")), True),
        ((moves(), copy("vol-2", BOB)), True),
        ((source(), copy("vol-2", ANN, generation=4)), False),
        ((source(), copy("vol-2", ANN, "i-9")), False),
        ((source(), copy("vol-2")), False),
        ((copy("vol-2", ANN),), False),
        ((source(), copy("vol-2", ANN, deleted=DeletedMark(NOW, "row"))), False),
        ((moved(), copy("vol-2", BOB)), False),
    ],
)
def test_copy_of_which_nothing_will_become_is_given_up(there: Any, is_void: bool) -> None:
    given_up = [a for a in steps(*there, wishes=Wishes()) if isinstance(a, GiveUpCopy)]
    assert [a.copy_id for a in given_up] == (["vol-2"] if is_void else [])


@pytest.mark.parametrize(
    ("there", "follows"),
    [
        ((moved(), copy("vol-2", BOB)), True),
        ((moved(), copy("vol-2", BOB, "i-9")), True),
        ((moved(), copy("vol-2", ANN)), False),
        ((moved(), copy("vol-2", BOB, generation=4)), False),
        ((moves(), copy("vol-2", BOB)), False),
    ],
)
def test_copy_that_a_rename_has_missed_is_whose_its_home_is(there: Any, follows: bool) -> None:
    actions = steps(*there, wishes=Wishes())
    assert [a.copy_id for a in actions if isinstance(a, FollowSource)] == ["vol-2"] * follows
    assert not follows or not listing(*there).homes_of(BOB.key)


def test_nobody_gets_a_blank_home_while_the_copy_is_anothers_by_name_only() -> None:
    actions = steps(moved(at=NOW - 90000), copy("vol-2", BOB))
    assert [type(a) for a in actions] == [FollowSource]


def test_copy_is_not_given_up_by_an_old_listing() -> None:
    view = listing(source(), copy("vol-2", ANN), full_at=NOW - 500)
    assert not planned(view, Wishes(), policy=MOVES)


# ---- which is the home


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ((source(),), ["vol-1"]),
        ((moves(), copy()), ["vol-1"]),
        ((moves(), copy("vol-2", ANN)), ["vol-1"]),
        ((moved(), copy("vol-2", ANN)), ["vol-2"]),
        ((moved(), copy("vol-2", ANN), copy("vol-0", ANN)), ["vol-2"]),
        ((moved(), copy("vol-2", ANN, generation=4)), ["vol-2"]),
        ((source(), copy("vol-2", ANN, generation=4)), ["vol-2", "vol-1"]),
        ((copy("vol-2", ANN),), ["vol-2"]),
    ],
)
def test_an_owner_has_one_current_home(there: Any, expected: list[str]) -> None:
    view: Listing = listing(*there)
    assert [v.volume_id for v in view.homes_of(ANN.key)] == expected


def test_copy_that_no_listing_shows_yet_is_waited_for_instead_of_a_blank_home() -> None:
    assert steps(moved()) == []
    assert [type(a) for a in steps(moved(at=NOW - 700))] == [Launch]
    assert [type(a) for a in steps(moved(at=NOW + 900))] == [Launch]  # the clock was set back


def test_machine_that_holds_a_fresh_copy_did_not_come_double() -> None:
    there = (source(), copy("vol-2", ANN, "i-7"))
    double = worker("i-7", STOPPED, ANN, home="vol-2", zone="b")
    assert steps(*there, double, memory=Memory()) == [Start(("i-7",), "its user wants it")]


# ---- what goes in the end


def test_nobodys_copy_for_which_somebody_waits_is_not_removed() -> None:
    seen = {"vol-2": (NOW - 900, NOW - 950)}
    memory = full("a", unwanted=MappingProxyType(seen))
    removed = [type(a).__name__ for a in steps(moves(), copy(), memory=memory)]
    assert removed == ["Launch"]
    removed = [type(a).__name__ for a in steps(moves(), copy(), memory=memory, wishes=Wishes())]
    assert removed == ["MakeSnapshot"]


def test_a_moves_snapshot_is_no_last_one() -> None:
    gone = moved(at=NOW - 8 * 86400)
    there = (gone, copy("vol-2", ANN, generation=4), saved(expires=NOW + 86400))
    (action,) = steps(*there, wishes=Wishes())
    assert type(action).__name__ == "MakeSnapshot"
    tags = {TAG_EXPIRES: "9" * 10, TAG_REPLACED: gone.tags[TAG_REPLACED]}
    last = snapshot("snap-2", "vol-1", started_at=NOW - 500, tags=tags)
    (action,) = steps(*there, last, wishes=Wishes())
    assert type(action).__name__ == "DeleteVolume"
    assert action.snapshot_id == "snap-2"


@pytest.mark.parametrize("text", ["", "vol-1", "vol-1 x 7", "vol-1 -1 7", "1 1 1", "vol-1 1 7 8"])
def test_an_origin_that_nobody_of_ours_wrote_is_none(text: str) -> None:
    assert Origin.from_tag(text) is None
    assert home("vol-2", ANN, more={TAG_MOVED_FROM: text}).origin is None


def test_an_origin_is_read_as_it_was_written() -> None:
    origin = Origin("vol-0123456789abcdef0", 12, MOVE)
    assert Origin.from_tag(origin.to_tag()) == origin


# ---- what is seen of it


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([source()], None),
        ([moves()], ("copying", None)),
        ([moves(), replace(saved(SnapshotState.PENDING), percent=40)], ("copying", 40)),
        ([moves(), saved()], ("copied", None)),
        ([moves(), saved(), copy(state=CREATING)], ("copied", None)),
    ],
)
def test_the_stage_says_how_far_it_is(there: list[Any], expected: Any) -> None:
    assert moving.stage_of(listing(*there), there[0], NOW) == expected


def test_what_somebody_waits_for_is_looked_at_often() -> None:
    view = listing(moves(), saved(SnapshotState.PENDING), copy(state=CREATING))
    assert moving.awaited_ids(view, [ANN.key], NOW) == {"snap-1", "vol-2"}
    assert moving.awaited_ids(view, [BOB.key], NOW) == set()
