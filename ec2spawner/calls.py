"""What our own calls must still change: from the moment each is sent until a listing shows it.

Owns the expectations of the running hub. Must not make a call, nor decide about one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

from ec2spawner.errors import OutcomeUnknown
from ec2spawner.listing import Expectation, Listing
from ec2spawner.model import TAG_DELETED, TAG_MOVING, TAG_OWNER, InstanceState, Worker


class Call:
    """One call under way; what it says in the end can be more than was expected of it."""

    def __init__(self, expected: Expectation) -> None:
        self.expected = expected


class Calls:
    """The calls whose effects the listing need not show yet. ``clock`` gives epoch seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        listing: Callable[[], Listing],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._listing = listing
        self._on_change = on_change
        self._expected: dict[int, Expectation] = {}
        self._number = 0
        self._providing: frozenset[str] | None = None

    @contextmanager
    def begun(self, expected: Expectation) -> Iterator[Call]:
        """Expect this of the calls made inside: longer when they succeed, not when they fail.

        Where it ends with ``OutcomeUnknown``, the effect is believed for a shorter time.
        """
        number = self._put(expected)
        call = Call(expected)
        try:
            yield call
        except OutcomeUnknown:
            self._settle(number, replace(call.expected, is_certain=False))
            raise
        except BaseException:
            self._drop(number)
            raise
        self._settle(number, call.expected)

    @contextmanager
    def changing(
        self, ids: Sequence[str], before: InstanceState, after: InstanceState
    ) -> Iterator[None]:
        """Let these count as being in their new state until all calls made inside are over."""
        states = MappingProxyType(dict.fromkeys(ids, (frozenset({before}), after)))
        number = self._put(Expectation(self._clock(), states=states))
        try:
            yield
        finally:
            self._drop(number)

    def _put(self, expected: Expectation) -> int:
        self._outrun(expected.states)
        self._number += 1
        self._expected[self._number] = expected
        self._changed()
        return self._number

    def _outrun(self, states: Collection[str]) -> None:
        """No earlier change of these instances' states is believed any more: it was seen.

        A listing that was begun just before the answer came may have shown it, and does not count
        for that; the next one shows what came after it, and would be misread.
        """
        for number, expected in self._expected.items():
            if expected.settled_at is not None and not expected.states.keys().isdisjoint(states):
                left = {i: change for i, change in expected.states.items() if i not in states}
                self._expected[number] = replace(expected, states=MappingProxyType(left))

    def _settle(self, number: int, expected: Expectation) -> None:
        self._expected[number] = replace(expected, settled_at=self._clock())
        self._supersede(number)
        self._changed()

    def _supersede(self, number: int) -> None:
        """Of two answered calls that write the same tag, only the later one is believed.

        The earlier one's effect will never show, and would be believed again once the later
        one's has shown.
        """
        for other, expected in list(self._expected.items()):
            mine = self._expected[number]
            if other == number or expected.settled_at is None:
                continue
            if not expected.tags.keys().isdisjoint(mine.tags):
                older, newer = min(other, number), max(other, number)
                left = _without_tags(self._expected[older], self._expected[newer].tags)
                self._expected[older] = left

    def _drop(self, number: int) -> None:
        del self._expected[number]
        self._changed()

    def _changed(self) -> None:
        self._providing = None
        self._on_change()

    # ---- what is believed

    def expectations(self) -> list[Expectation]:
        """The effects that the listing does not show yet."""
        listing, now = self._listing(), self._clock()
        for number, expected in list(self._expected.items()):
            rest = expected.rest(listing, now)
            if rest is None:
                del self._expected[number]
            else:
                self._expected[number] = rest
        return list(self._expected.values())

    def unseen_ids(self) -> set[str]:
        """Ids whose state, volume or existence will change by a call of ours, and has not yet."""
        ids: set[str] = set()
        for expected in self._expected.values():
            ids.update(expected.states, expected.types, expected.snapshots)
            ids.update(expected.attached, expected.attached.values(), expected.detached)
            ids.update(i for i in expected.launched if not self._is_listed(i))
            ids.update(i for i in expected.created if i not in self._listing().volumes)
            ids.update(i for i in expected.removed if i.startswith("snap-"))
        return ids

    def _is_listed(self, instance_id: str) -> bool:
        """Whether a launched worker is listed with its volumes, which show a while later."""
        worker = self._listing().workers.get(instance_id)
        return worker is not None and bool(worker.volumes)

    def is_providing(self, worker: Worker) -> bool:
        """Whether a call that gives the worker, or its home, to its owner is not answered yet."""
        if self._providing is None:
            under_way = [e for e in self._expected.values() if e.settled_at is None]
            claims = {TAG_OWNER, TAG_DELETED, TAG_MOVING}
            claimed = (i for e in under_way for i, t in e.tags.items() if not claims.isdisjoint(t))
            attached = (volume_id for e in under_way for volume_id in e.attached)
            self._providing = frozenset((*claimed, *attached))
        return worker.instance_id in self._providing or worker.home_volume_id in self._providing

    def is_tagging(self, ids: Collection[str]) -> bool:
        """Whether tags of one of ``ids`` are being written."""
        return any(
            e.settled_at is None and not e.tags.keys().isdisjoint(ids)
            for e in self._expected.values()
        )


def _without_tags(
    expected: Expectation, others: Mapping[str, Mapping[str, str | None]]
) -> Expectation:
    left = {
        i: {k: v for k, v in tags.items() if k not in others.get(i, {})}
        for i, tags in expected.tags.items()
    }
    return replace(expected, tags=MappingProxyType({i: tags for i, tags in left.items() if tags}))


def same_tags(
    ids: Sequence[str], tags: Mapping[str, str | None]
) -> Mapping[str, Mapping[str, str | None]]:
    """The same tags for each id, as an expectation says it."""
    return MappingProxyType(dict.fromkeys(ids, MappingProxyType(dict(tags))))
