"""Promised tags are kept in order, and count as kept only when that cannot come undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.builders import ANN, BOB, NOW, STOPPED, home, listing, worker
from core.virtual import in_virtual_time
from ec2spawner.calls import Calls
from ec2spawner.journal import Journal, Promise
from ec2spawner.listing import EXPECTATION_BOUND_SECONDS, Listing, overlay
from ec2spawner.marks import with_writes
from ec2spawner.model import TAG_OWNER, Owner
from ec2spawner.promises import PROMISE_SECONDS, Promises
from ec2spawner.wishes import TagWrite, Wishes

CEM = Owner("cem")


class Town:
    """Promises about a listing that tests set."""

    def __init__(self, folder: Path, seen: Listing) -> None:
        self.seen = seen
        self.now = NOW
        self.journal = Journal(folder / "journal.json")
        self.calls = Calls(lambda: self.now, lambda: self.seen)
        self.promises = Promises(
            self.journal,
            clock=lambda: self.now,
            calls=self.calls,
            listing=lambda: self.seen,
            view=self.view,
            on_change=lambda: None,
            outdate=lambda: None,
        )

    def view(self) -> Listing:
        accepted = overlay(self.seen, self.calls.expectations())
        return with_writes(accepted, Wishes(writes=self.promises.writes()))

    def look(self, seen: Listing) -> tuple[str, ...]:
        """A later listing comes in; what is still promised after it."""
        self.now = seen.full_at + 1
        self.seen = seen
        self.promises.keep()
        return tuple(p.write.reason for p in self.journal.promises)


def renaming(reason: str, owner: Owner, *ids: str) -> Promise:
    return Promise(ANN.key, NOW, TagWrite(ids, ((TAG_OWNER, owner.key),), reason))


LATE = NOW + PROMISE_SECONDS + 10


@in_virtual_time
async def test_a_promise_is_kept_when_a_late_enough_listing_shows_its_tags(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1")))
    town.journal.promise(renaming("first", BOB, "i-1", "vol-1"))
    half = (worker("i-1", STOPPED, BOB), home("vol-1", ANN, "i-1"))
    both = (worker("i-1", STOPPED, BOB), home("vol-1", BOB, "i-1"))
    assert town.look(listing(*both, full_at=NOW + 30)) == ("first",), "it may be an older view"
    assert town.look(listing(*half, full_at=LATE)) == ("first",)
    assert town.look(listing(*both, full_at=LATE + 30)) == ()


@in_virtual_time
async def test_a_later_promise_stays_as_long_as_an_earlier_one_could_be_written_over_it(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN)))
    town.journal.promise(renaming("first", BOB, "i-1", "vol-1"))
    town.journal.promise(renaming("second", CEM, "vol-1"))
    lagging = (worker("i-1", STOPPED, ANN), home("vol-1", CEM))
    assert town.look(listing(*lagging, full_at=LATE)) == ("first", "second")
    written = (worker("i-1", STOPPED, BOB), home("vol-1", CEM))
    assert town.look(listing(*written, full_at=LATE + 30)) == ()


@in_virtual_time
async def test_promises_about_different_things_do_not_wait_for_each_other(tmp_path: Path) -> None:
    town = Town(tmp_path, listing(worker("i-1", STOPPED, ANN), worker("i-2", STOPPED, ANN)))
    town.journal.promise(renaming("first", BOB, "i-1"))
    town.journal.promise(renaming("second", CEM, "i-2"))
    seen = (worker("i-1", STOPPED, ANN), worker("i-2", STOPPED, CEM))
    assert town.look(listing(*seen, full_at=LATE)) == ("first",)


@in_virtual_time
async def test_nothing_is_promised_of_who_has_nothing_once_the_hub_would_know(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, listing())
    town.promises.make(ANN, ((TAG_OWNER, BOB.key),), "young")
    town.now = NOW + EXPECTATION_BOUND_SECONDS + 1
    assert town.promises.make(CEM, ((TAG_OWNER, BOB.key),), "old") is None
    assert [p.write.reason for p in town.journal.promises] == ["young"]


@in_virtual_time
async def test_what_the_hub_before_did_last_is_promised_of_though_no_listing_shows_it_yet(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, listing(worker("i-1", STOPPED), home("vol-1", None, "i-1")))
    town.promises.make(ANN, ((TAG_OWNER, BOB.key),), "x")
    town.look(listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"), full_at=NOW + 9))
    (promise,) = town.journal.promises
    assert promise.write.ids == ("i-1", "vol-1")


@in_virtual_time
async def test_what_is_promised_before_anything_is_listed_is_settled_by_the_first_listing(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, Listing())
    town.promises.make(ANN, ((TAG_OWNER, BOB.key),), "x")
    assert town.promises.unsettled() == {ANN.key, BOB.key}, "nothing new for either of them"
    town.look(listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1")))
    (promise,) = town.journal.promises
    assert promise.write.ids == ("i-1", "vol-1")
    assert town.promises.unsettled() == frozenset()


@pytest.mark.parametrize("full_at", [NOW + 1, NOW + 30])
@in_virtual_time
async def test_what_no_listing_shows_is_dropped_by_the_second(
    tmp_path: Path, full_at: float
) -> None:
    town = Town(tmp_path, Listing())
    town.promises.make(ANN, ((TAG_OWNER, BOB.key),), "x")
    assert town.look(listing(full_at=NOW)) == ("x",), "one listing can lack what is there"
    assert town.look(listing(full_at=full_at)) == (("x",) if full_at < NOW + 2 else ())
