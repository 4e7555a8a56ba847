"""What is believed of calls whose effects a listing does not show yet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ec2spawner.calls import Calls, same_tags
from ec2spawner.listing import Expectation, Listing, overlay
from ec2spawner.model import TAG_DELETED, TAG_GENERATION, TAG_OWNER, InstanceState, Worker

ID = "i-0123456789abcdef0"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_tag_that_was_taken_back_is_not_believed_again_once_that_shows() -> None:
    clock = Clock()
    worker = Worker(ID, InstanceState.RUNNING)
    listing = Listing(workers={ID: worker}, full_at=clock())
    calls = Calls(clock, lambda: listing)
    for value in ("given up", None):
        with calls.begun(Expectation(clock(), tags=same_tags([ID], {"mark": value}))):
            pass
    listing = replace(listing, full_at=clock())
    believed = overlay(listing, calls.expectations())
    assert "mark" not in believed.workers[ID].tags
    assert "mark" not in overlay(listing, calls.expectations()).workers[ID].tags


def test_of_two_writes_at_once_the_later_one_is_believed_whichever_is_answered_first() -> None:
    clock = Clock()
    listing = Listing(workers={ID: Worker(ID, InstanceState.RUNNING)}, full_at=clock())
    calls = Calls(clock, lambda: listing)
    earlier = calls.begun(Expectation(clock(), tags=same_tags([ID], {"mark": "1", "kept": "a"})))
    later = calls.begun(Expectation(clock(), tags=same_tags([ID], {"mark": "2"})))
    with earlier, later:
        pass
    believed = overlay(listing, calls.expectations())
    assert dict(believed.workers[ID].tags) == {"mark": "2", "kept": "a"}
    first, second = calls.expectations()
    assert dict(first.tags[ID]) == {"kept": "a"}
    assert dict(second.tags[ID]) == {"mark": "2"}


@pytest.mark.parametrize(
    ("tag", "is_providing"),
    [(TAG_OWNER, True), (TAG_DELETED, True), (TAG_GENERATION, False)],
)
def test_a_worker_whose_owner_is_being_written_is_not_provided_yet(
    tag: str, is_providing: bool
) -> None:
    clock = Clock()
    worker = Worker(ID, InstanceState.RUNNING)
    listing = Listing(workers={ID: worker}, full_at=clock())
    calls = Calls(clock, lambda: listing)
    with calls.begun(Expectation(clock(), tags=same_tags([ID], {tag: None}))):
        assert calls.is_providing(worker) is is_providing
    assert not calls.is_providing(worker)


STARTED = (frozenset({InstanceState.STOPPED}), InstanceState.PENDING)
STOPPED = (frozenset({InstanceState.RUNNING}), InstanceState.STOPPING)


@pytest.mark.parametrize(
    ("earlier", "later", "shown_between", "shown_after"),
    [
        (STARTED, STOPPED, InstanceState.RUNNING, InstanceState.STOPPED),
        (STOPPED, STARTED, InstanceState.STOPPED, InstanceState.RUNNING),
    ],
    ids=["started and stopped", "stopped and started"],
)
def test_what_a_machine_was_told_before_does_not_hide_what_it_was_told_last(
    earlier: Any, later: Any, shown_between: InstanceState, shown_after: InstanceState
) -> None:
    """The listing that showed the first was begun just before its answer came."""
    clock = Clock()
    other = "i-0fedcba9876543210"
    before = Worker(ID, next(iter(earlier[0])))
    listing = Listing(workers={ID: before}, full_at=clock())
    calls = Calls(clock, lambda: listing)
    with calls.begun(Expectation(clock(), states={ID: earlier, other: earlier})):
        listing = Listing(workers={ID: replace(before, state=shown_between)}, full_at=clock())
    assert overlay(listing, calls.expectations()).workers[ID].state is shown_between
    with calls.begun(Expectation(clock(), states={ID: later})):
        pass
    listing = Listing(workers={ID: replace(before, state=shown_after)}, full_at=clock())
    assert overlay(listing, calls.expectations()).workers[ID].state is shown_after
    assert calls.unseen_ids() <= {other}, "its own call may be unseen yet"
