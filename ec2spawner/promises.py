"""Tags that must come to stand whatever happens: renames and deletions, until EC2 shows them.

Owns what a promise is about and when it is kept; the journal has it on disk. Must not know who
waits for a worker, nor write a tag itself: the plan does, from ``writes()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ec2spawner import marks, planning
from ec2spawner.calls import Calls
from ec2spawner.errors import NameTaken
from ec2spawner.journal import Journal, Promise, Renaming
from ec2spawner.listing import EXPECTATION_BOUND_SECONDS, Listing, has_tags, overlay
from ec2spawner.model import TAG_DELETED, TAG_OWNER, TAG_USER, DeletedMark, Owner
from ec2spawner.wishes import TagWrite, Wishes

PROMISE_SECONDS = 60.0
"""A tag write counts as kept only by a listing begun so long after it was made: EC2's listings
can be older than they look."""


class Promises:
    """The promises of one fleet. ``clock`` gives epoch seconds."""

    def __init__(
        self,
        journal: Journal,
        *,
        clock: Callable[[], float],
        calls: Calls,
        listing: Callable[[], Listing],
        view: Callable[[], Listing],
        on_change: Callable[[], None],
        outdate: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._calls = calls
        self._listing = listing
        self._view = view
        self._on_change = on_change
        self._outdate = outdate
        self._unfound: dict[Promise, float] = {}
        self._begun_at = clock()
        """So long after it, a listing may still lack what the hub before this one did last."""

    def writes(self) -> tuple[TagWrite, ...]:
        """What must come to stand, in the order in which it was promised."""
        ready, _ = self._sorted_out()
        return tuple(p.write for p in ready)

    def unsettled(self) -> frozenset[str]:
        """Owners of whom something is promised, and not known yet of which machine and home.

        Nothing new is theirs until it is: a new user of a deleted one's name would be meant too.
        """
        _, held = self._sorted_out()
        return held

    def _sorted_out(self) -> tuple[list[Promise], frozenset[str]]:
        """The promises to be carried out now, and the owners who must wait.

        What is promised after an unsettled promise, of the same owner, is held back with it:
        whoever was given the name meanwhile would be meant by it, too.
        """
        ready: list[Promise] = []
        held: set[str] = set()
        for promise in self._made():
            if promise.write.ids and held.isdisjoint(_keys(promise)):
                ready.append(promise)
            else:
                held |= _keys(promise)
        return ready, frozenset(held)

    def _made(self) -> list[Promise]:
        """All that hold: no renames that the hub's database may not have taken."""
        return [p for p in self._journal.promises if not p.rename]

    def take_back_deletion(self, owner_key: str, incarnation: str) -> None:
        """The owner's row is there: its deletion, if one is promised, was not finished."""
        for promise in self._journal.promises:
            if promise.owner_key == owner_key and incarnation == _incarnation(promise) != "":
                self._journal.replace(promise, None)

    def propose_rename(self, row: str | None, old: Owner, new: Owner) -> Promise | None:
        """Put down that the owner is about to have another name; None if nothing is its own.

        Nothing changes by it until ``confirm``; without a row, it holds at once. Raises
        ``NameTaken`` where the new name's owner has a machine or files already, ``OSError`` where
        it cannot be put down.
        """
        if self._ids_of(new.key):
            raise NameTaken(
                f"There are files under the name {new.label} already.",
                why=f"owner tag {new.key}",
                next_step="Choose another name, or give those files up first.",
            )
        tags = ((TAG_OWNER, new.key), (TAG_USER, new.label))
        reason = f"{old.label} is now {new.label}"
        rename = Renaming(row, old.user, new.user) if row else None
        return self.make(old, tags, reason, rename)

    def confirm(self, promise: Promise) -> None:
        """A proposed rename has come about."""
        if promise in self._journal.promises:
            self._journal.replace(promise, replace(promise, rename=None))
            self._on_change()

    def withdraw(self, promise: Promise) -> None:
        """A proposed rename has not come about."""
        if promise in self._journal.promises:
            self._journal.replace(promise, None)
            self._on_change()

    def settle_renames(self, row: str, name: str) -> None:
        """A row of the hub's database bears this name: what a dead hub left open shows by it."""
        for promise in self._journal.promises:
            done = promise.rename.is_done(row, name) if promise.rename else None
            if done is not None:
                (self.confirm if done else self.withdraw)(promise)

    def make(
        self,
        owner: Owner,
        tags: tuple[tuple[str, str | None], ...],
        reason: str,
        rename: Renaming | None = None,
    ) -> Promise | None:
        """Promise that these tags will stand on all that is the owner's; None if nothing is.

        Raises ``OSError`` where it cannot be written down.
        """
        ids = self._ids_of(owner.key)
        is_young = self._clock() - self._begun_at < EXPECTATION_BOUND_SECONDS
        if not ids and self._listing().is_known and not is_young:
            return None
        promise = Promise(owner.key, self._clock(), TagWrite(ids, tags, reason), rename)
        # A deletion that cannot be put down is kept in mind at least: the hub goes on with it.
        self._journal.promise(promise, even_unwritten=_incarnation(promise) != "")
        self._on_change()
        return promise

    def _ids_of(self, owner_key: str) -> tuple[str, ...]:
        view = self._view()
        workers = view.workers_of(owner_key)
        homes = (*view.homes_of(owner_key), *view.put_by_of(owner_key))
        # What is retired, too: its mark may be on its way only, and never come to stand.
        retired = view.retired_of(owner_key)
        ids = [w.instance_id for w in (*workers, *retired)] + [v.volume_id for v in homes]
        # A home that came with a launch is on its worker before it is in any listing of volumes,
        # and a listing of volumes can know of a worker that the one of instances lacks.
        ids += [w.home_volume_id for w in workers if w.home_volume_id]
        ids += [v.attached_to for v in homes if v.attached_to and v.attached_to not in view.workers]
        return tuple(dict.fromkeys(ids))

    def is_open(self, promise: Promise) -> bool:
        """Whether the tags were not even accepted yet."""
        if promise not in self._journal.promises:
            return False
        accepted = overlay(self._listing(), self._calls.expectations())
        return self._calls.is_tagging(promise.write.ids) or not all(
            has_tags(accepted, i, dict(promise.write.tags)) for i in promise.write.ids
        )

    def keep(self) -> None:
        """Settle what promises mean once the cluster is listed, and drop those that are kept."""
        raw = self._listing()
        if not raw.is_known:
            return
        still_open: set[str] = set()
        for promise in self._made():
            write = promise.write
            if not write.ids:
                self._settle(promise, raw)
                self._outdate()  # the next promise may be about the new owner
            elif still_open.isdisjoint(write.ids) and self._is_kept(promise, raw):
                self._journal.replace(promise, None)
                self._outdate()
            else:  # were a later one dropped before, this one would be written over it
                still_open.update(write.ids)

    def _settle(self, promise: Promise, raw: Listing) -> None:
        """Find out what a promise is about; nothing, if a second listing shows nothing either."""
        ids = self._ids_of(promise.owner_key)
        missed_at = self._unfound.setdefault(promise, raw.full_at)
        if ids:
            self._journal.replace(promise, replace(promise, write=replace(promise.write, ids=ids)))
        elif raw.full_at >= missed_at + planning.SECOND_LOOK_SECONDS:
            self._journal.replace(promise, None)
        else:
            return
        del self._unfound[promise]

    def _is_kept(self, promise: Promise, raw: Listing) -> bool:
        """Whether its tags stand, or those with which a later promise has replaced them."""
        ready, _ = self._sorted_out()
        final = marks.final_tags(Wishes(writes=tuple(p.write for p in ready)))
        return promise in ready and all(
            raw.looked_at(i) > promise.at + PROMISE_SECONDS
            and has_tags(raw, i, {key: final[i][key] for key, _ in promise.write.tags})
            for i in promise.write.ids
        )


def _keys(promise: Promise) -> frozenset[str]:
    """Owners whom a promise concerns: whose things are meant, and whose they become."""
    return frozenset(
        (promise.owner_key, dict(promise.write.tags).get(TAG_OWNER) or promise.owner_key)
    )


def _incarnation(promise: Promise) -> str:
    """Of a deletion: the row that it was for; "" for anything else."""
    mark = dict(promise.write.tags).get(TAG_DELETED)
    return DeletedMark.from_tag(mark).incarnation if mark else ""
