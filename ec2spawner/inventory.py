"""The one poller of a cluster: keeps a ``Listing``, and tells when it changed.

Owns when and what is listed: everything every 30 s; what is in transition, every second. Must not
decide what to do about it. A failure to list degrades: the listing grows old, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol, TypeVar

from ec2spawner import metrics
from ec2spawner.errors import CloudError
from ec2spawner.listing import Listing
from ec2spawner.model import IN_TRANSITION, InstanceState, Snapshot, SnapshotState, Volume, Worker

log = logging.getLogger(__name__)

FULL_SECONDS = 30.0
TRANSITION_SECONDS = 1.0
LOOK_APART_SECONDS = 0.2
"""Two looks are at least so far apart, however many are in a hurry."""
SNAPSHOT_SECONDS = 600.0
"""Snapshots matter only to what is being deleted: they are listed more rarely."""
MAX_BACKOFF_SECONDS = 30.0

R = TypeVar("R")


class Lister(Protocol):
    """What the inventory needs of EC2."""

    async def list_workers(self, ids: Sequence[str] | None = None) -> list[Worker]:
        """Workers of the cluster."""

    async def list_volumes(self, ids: Sequence[str] | None = None) -> list[Volume]:
        """Homes of the cluster."""

    async def list_snapshots(self, ids: Sequence[str] | None = None) -> list[Snapshot]:
        """Snapshots of the cluster."""


class Inventory:
    """Lists the cluster until it is told to end. ``clock`` gives epoch seconds."""

    def __init__(
        self,
        cloud: Lister,
        *,
        clock: Callable[[], float],
        on_change: Callable[[], None] = lambda: None,
        watched: Callable[[], Collection[str]] = frozenset,
        full_seconds: float = FULL_SECONDS,
        transition_seconds: float = TRANSITION_SECONDS,
    ) -> None:
        self.listing = Listing()
        self.problem: CloudError | None = None
        """Why the last attempt to list failed; None while listing works."""
        self._cloud = cloud
        self._clock = clock
        self._on_change = on_change
        self._watched = watched
        self._full_seconds = full_seconds
        self._transition_seconds = transition_seconds
        self._snapshots_at = 0.0
        self._tried_at = 0.0
        self._failures = 0
        self._wake = asyncio.Event()
        self._full_wanted = False
        self._look_now = False

    def age(self) -> float:
        """Seconds since the last full listing was begun."""
        return self._clock() - self.listing.full_at

    def hurry(self, *, full: bool = False) -> None:
        """Look now: something is known to have changed."""
        self._look_now = True
        self._full_wanted = self._full_wanted or full
        self._wake.set()

    def nudge(self) -> None:
        """Think again when to look next: what is watched has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Keep listing; ends only by cancellation."""
        while True:
            await self._wait_until_due()
            try:
                await self.refresh()
            except CloudError as error:
                self._failed(error)
            else:
                self._succeeded()
            metrics.INVENTORY_AGE_SECONDS.set(self.age())
            self._on_change()

    async def _wait_until_due(self) -> None:
        if self._failures:
            await asyncio.sleep(self._backoff())
            return
        while (pause := self._pause()) > 0:
            self._wake.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    def _backoff(self) -> float:
        ceiling = min(MAX_BACKOFF_SECONDS, 2.0**self._failures)
        return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret

    def _pause(self) -> float:
        if not self.listing.is_known or self._full_wanted:
            return 0.0
        if self._look_now:
            return max(0.0, self._tried_at + LOOK_APART_SECONDS - self._clock())
        until_full = self.listing.full_at + self._full_seconds - self._clock()
        if self.hot():
            until_look = self._tried_at + self._transition_seconds - self._clock()
            return max(0.0, min(until_full, until_look))
        return max(0.0, until_full)

    def hot(self) -> set[str]:
        """Ids that are in transition, or that somebody watches."""
        listing = self.listing
        ids = {w.instance_id for w in listing.workers.values() if w.state in IN_TRANSITION}
        ids |= {
            s.snapshot_id for s in listing.snapshots.values() if s.state is SnapshotState.PENDING
        }
        return ids | set(self._watched())

    async def refresh(self) -> None:
        """One look: at everything if that is due, else at what is hot. Raises ``CloudError``."""
        self._tried_at = begun_at = self._clock()
        self._look_now = False
        due = begun_at - self.listing.full_at >= self._full_seconds
        if due or self._full_wanted:
            self._full_wanted = False
            await self._refresh_all(begun_at)
        else:
            await self._refresh_some(begun_at, self.hot())

    async def _refresh_all(self, begun_at: float) -> None:
        snapshots: Mapping[str, Snapshot] = self.listing.snapshots
        with_snapshots = begun_at - self._snapshots_at >= SNAPSHOT_SECONDS
        workers, volumes, *more = await asyncio.gather(
            self._cloud.list_workers(),
            self._cloud.list_volumes(),
            *([self._cloud.list_snapshots()] if with_snapshots else ()),
        )
        if with_snapshots:
            snapshots = {s.snapshot_id: s for s in more[0]}
            self._snapshots_at = begun_at
        self.listing = Listing(
            workers=MappingProxyType({w.instance_id: w for w in workers}),
            volumes=MappingProxyType({v.volume_id: v for v in volumes}),
            snapshots=MappingProxyType(dict(snapshots)),
            full_at=begun_at,
            seen_at=MappingProxyType(
                {i: self.listing.seen_at.get(i, 0.0) for i in snapshots}
                if not with_snapshots
                else {}
            ),
        )
        for state in InstanceState:
            count = sum(w.state is state for w in workers)
            metrics.WORKERS.labels(state.value).set(count)

    async def _refresh_some(self, begun_at: float, ids: Collection[str]) -> None:
        workers, volumes, snapshots = await asyncio.gather(
            _some(self._cloud.list_workers, "i-", ids),
            _some(self._cloud.list_volumes, "vol-", ids),
            _some(self._cloud.list_snapshots, "snap-", ids),
        )
        old = self.listing
        self.listing = replace(
            old,
            workers=_merged(old.workers, ids, {w.instance_id: w for w in workers}),
            volumes=_merged(old.volumes, ids, {v.volume_id: v for v in volumes}),
            snapshots=_merged(old.snapshots, ids, {s.snapshot_id: s for s in snapshots}),
            seen_at=MappingProxyType({**old.seen_at, **dict.fromkeys(ids, begun_at)}),
        )

    def _failed(self, error: CloudError) -> None:
        self._failures += 1
        if self.problem is None or type(self.problem) is not type(error):
            log.error("The cluster cannot be listed, nothing is stopped or removed: %s", error)
        self.problem = error

    def _succeeded(self) -> None:
        if self.problem is not None:
            log.warning("The cluster can be listed again after %d failures", self._failures)
        self._failures = 0
        self.problem = None


async def _some(
    list_ids: Callable[[Sequence[str]], Awaitable[list[R]]], prefix: str, ids: Collection[str]
) -> list[R]:
    of_kind = sorted(i for i in ids if i.startswith(prefix))
    return await list_ids(of_kind) if of_kind else []


def _merged(
    old: Mapping[str, R], asked: Collection[str], found: Mapping[str, R]
) -> Mapping[str, R]:
    """The old values, with those that were asked for as they were found, or not found, now."""
    kept = {i: value for i, value in old.items() if i not in asked}
    return MappingProxyType({**kept, **found})
