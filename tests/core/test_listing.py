"""Expectations: how long a call of ours is believed, and what it makes of a listing."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from core.builders import (
    ANN,
    BOB,
    NOW,
    PENDING,
    RUNNING,
    STOPPED,
    STOPPING,
    TERMINATED,
    home,
    listing,
    snapshot,
    worker,
)
from ec2spawner.listing import (
    EXPECTATION_BOUND_SECONDS,
    UNANSWERED_BOUND_SECONDS,
    Expectation,
    Launching,
    Listing,
    has_tags,
    overlay,
)
from ec2spawner.model import TAG_DELETED, TAG_OWNER, DeletedMark, InstanceState

STARTED = Expectation(
    NOW - 5,
    NOW - 4,
    states={f"i-{n}": (frozenset({STOPPED}), PENDING) for n in range(3)},
)
CLAIMED = Expectation(
    NOW - 5, NOW - 4, tags={"i-1": {TAG_OWNER: ANN.key}, "vol-1": {TAG_OWNER: ANN.key}}
)


def test_a_call_under_way_is_believed_for_as_long_as_it_takes() -> None:
    sent = Expectation(1.0, states={"i-1": (frozenset({STOPPED}), PENDING)})
    view = listing(worker("i-1", RUNNING))
    assert sent.rest(view, NOW + 9999) is sent


@pytest.mark.parametrize(
    ("is_certain", "bound"),
    [(True, EXPECTATION_BOUND_SECONDS), (False, UNANSWERED_BOUND_SECONDS)],
)
def test_what_never_shows_is_believed_up_to_its_bound(is_certain: bool, bound: float) -> None:
    said = replace(STARTED, is_certain=is_certain)
    view = listing(*(worker(f"i-{n}", STOPPED) for n in range(3)), full_at=NOW + 9999)
    assert said.rest(view, NOW - 4 + bound) == said
    assert said.rest(view, NOW - 4 + bound + 1) is None


def test_what_a_later_listing_shows_is_over_id_by_id() -> None:
    view = listing(worker("i-0", STOPPED), worker("i-1", RUNNING), worker("i-2", PENDING))
    left = STARTED.rest(view, NOW)
    assert left is not None
    assert set(left.states) == {"i-0"}
    again = listing(worker("i-0", STOPPED), worker("i-1", STOPPED), worker("i-2", STOPPED))
    seen = overlay(again, [left]).workers
    assert seen["i-1"].state is STOPPED, "stopped since, and not hidden by its neighbour"
    assert seen["i-0"].state is PENDING


def test_what_an_earlier_listing_shows_proves_nothing() -> None:
    view = listing(*(worker(f"i-{n}", RUNNING) for n in range(3)), full_at=NOW - 4.5)
    assert STARTED.rest(view, NOW) == STARTED
    seen = replace(view, seen_at=MappingProxyType({"i-1": NOW - 1}))
    left = STARTED.rest(seen, NOW)
    assert left is not None
    assert set(left.states) == {"i-0", "i-2"}


@pytest.mark.parametrize(
    ("said", "before", "after"),
    [
        (Expectation(NOW - 5, NOW - 4, types={"i-1": "large"}), "small", "large"),
        (Expectation(NOW - 5, NOW - 4, detached={"vol-1": "i-1"}), "i-1", None),
    ],
    ids=["type", "detached"],
)
def test_a_change_of_type_and_a_detachment_are_over_when_they_show(
    said: Expectation, before: str, after: str | None
) -> None:
    def view(value: str | None) -> Listing:
        if said.types:
            return listing(replace(worker("i-1", STOPPED), instance_type=value or ""))
        return listing(home("vol-1", ANN, value))

    assert said.rest(view(before), NOW) == said
    assert said.rest(view(after), NOW) is None


def test_a_launch_is_believed_to_its_bound_since_an_older_listing_can_follow() -> None:
    launched = {f"i-{n}": worker(f"i-{n}", PENDING) for n in range(2)}
    said = Expectation(NOW - 5, NOW - 4, launched=launched)
    shown = listing(worker("i-0", TERMINATED), worker("i-1", RUNNING))
    left = said.rest(shown, NOW)
    assert left is not None
    seen = overlay(shown, [left]).workers
    assert (seen["i-0"].state, seen["i-1"].state) == (TERMINATED, RUNNING)
    assert set(overlay(listing(), [left]).workers) == {"i-0", "i-1"}
    assert said.rest(listing(), NOW - 4 + EXPECTATION_BOUND_SECONDS + 1) is None


def test_a_launch_under_way_is_never_over() -> None:
    said = Expectation(NOW - 5, launching=Launching("default", True, "a", 1))
    assert said.rest(listing(full_at=NOW + 1e6), NOW + 1e6) is said


def test_tags_are_believed_to_their_bound_since_an_older_listing_can_follow() -> None:
    left = CLAIMED.rest(listing(worker("i-1", PENDING, ANN), home("vol-1", ANN)), NOW)
    assert left is not None
    older = overlay(listing(worker("i-1", PENDING), home("vol-1", None, "i-1")), [left])
    assert older.workers["i-1"].owner == older.volumes["vol-1"].owner == ANN.key
    assert CLAIMED.rest(listing(), NOW - 4 + EXPECTATION_BOUND_SECONDS + 1) is None


def test_a_removal_is_over_when_it_is_gone() -> None:
    said = Expectation(NOW - 5, NOW - 4, removed=frozenset({"vol-1", "snap-1"}))
    left = said.rest(listing(home("vol-1")), NOW)
    assert left is not None
    assert left.removed == {"vol-1"}
    assert said.rest(listing(), NOW) is None


def test_a_full_listing_without_snapshots_proves_nothing_of_them() -> None:
    begun = {"snap-1": snapshot("snap-1", "vol-1")}
    said = Expectation(NOW - 5, NOW - 4, snapshots=begun)
    without = replace(listing(snapshot("snap-1", "vol-1")), snapshots_at=NOW - 50)
    assert said.rest(without, NOW) == said
    assert said.rest(replace(without, snapshots_at=NOW - 1), NOW) is None


def test_an_attachment_is_over_when_it_is_listed_there() -> None:
    said = Expectation(NOW - 5, NOW - 4, attached={"vol-1": "i-1"})
    assert said.rest(listing(home("vol-1")), NOW) == said
    assert said.rest(listing(home("vol-1", None, "i-2")), NOW) == said
    assert said.rest(listing(home("vol-1", None, "i-1")), NOW) is None


# ---- overlays


@pytest.mark.parametrize(
    ("listed", "seen"),
    [(STOPPED, PENDING), (PENDING, PENDING), (RUNNING, RUNNING), (STOPPING, STOPPING)],
)
def test_only_the_state_before_a_call_is_read_as_the_one_after(
    listed: InstanceState, seen: InstanceState
) -> None:
    assert overlay(listing(worker("i-1", listed)), [STARTED]).workers["i-1"].state is seen


def test_later_calls_win() -> None:
    first = Expectation(NOW - 9, tags={"i-1": {TAG_OWNER: ANN.key}})
    second = Expectation(NOW - 8, tags={"i-1": {TAG_OWNER: BOB.key}})
    view = listing(worker("i-1"))
    for order in ([first, second], [second, first]):
        assert overlay(view, order).workers["i-1"].owner == BOB.key


def test_a_tag_that_is_removed_is_not_there() -> None:
    mark = DeletedMark(1, "row")
    removed = Expectation(NOW - 1, tags={"i-1": {TAG_DELETED: None}})
    assert overlay(listing(worker("i-1", deleted=mark)), [removed]).workers["i-1"].deleted is None


def test_an_overlay_leaves_the_listing_as_it_is() -> None:
    view = listing(worker("i-1", STOPPED), home("vol-1"))
    before = (dict(view.workers), dict(view.volumes))
    overlay(view, [STARTED, CLAIMED, Expectation(NOW, removed=frozenset({"vol-1"}))])
    assert (dict(view.workers), dict(view.volumes)) == before


def test_whose_resources_are_counted() -> None:
    mark = DeletedMark(1, "row")
    view = listing(
        worker("i-1", RUNNING, ANN),
        worker("i-2", TERMINATED, ANN),
        worker("i-3", RUNNING, ANN, deleted=mark),
        worker("i-4", RUNNING, ANN, role="builder"),
        home("vol-1", ANN, generation=1),
        home("vol-2", ANN, deleted=mark, generation=9),
        home("vol-3", ANN, generation=9, role="builder"),
        replace(home("vol-4", ANN, "i-1", generation=9), device="/dev/sda1"),
    )
    assert [w.instance_id for w in view.workers_of(ANN.key)] == ["i-1"]
    assert [v.volume_id for v in view.homes_of(ANN.key)] == ["vol-1"]
    assert view.workers_of(BOB.key) == ()


def test_what_is_gone_has_any_tags() -> None:
    assert has_tags(listing(), "i-9", {"a": "b"})
    assert not has_tags(listing(worker("i-1")), "i-1", {"a": "b"})
    assert has_tags(listing(worker("i-1")), "i-1", {"a": None})


def test_what_an_owner_gave_up_is_found_by_its_owner_and_is_nobody_elses() -> None:
    mark = DeletedMark(1.0, "row")
    gone, gone_home = worker("i-1", owner=ANN, deleted=mark), home("vol-9", ANN, deleted=mark)
    others = worker("i-3", owner=BOB, deleted=mark)
    view = listing(gone, gone_home, worker("i-2", owner=ANN), others)
    assert view.given_up_by(ANN.key) == (gone, gone_home)
    assert [w.instance_id for w in view.workers_of(ANN.key)] == ["i-2"]
    assert view.given_up_by("nobody") == ()


def test_tags_that_stand_already_make_no_new_picture_of_a_worker() -> None:
    claimed = worker("i-1", owner=ANN)
    view = overlay(listing(claimed), [Expectation(1.0, tags={"i-1": {TAG_OWNER: ANN.key}})])
    assert view.workers["i-1"] is claimed
