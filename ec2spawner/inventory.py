"""The one poller of a cluster: keeps a ``Listing``, and tells when it changed.

Owns when and what is listed: everything every 30 s; what is in transition, every second. Must not
decide what to do about it. A failure to list degrades: the listing grows old, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol, TypeVar

from ec2spawner import metrics
from ec2spawner.errors import CloudError, Rejected
from ec2spawner.listing import Listing
from ec2spawner.model import (
    IN_TRANSITION,
    Snapshot,
    SnapshotState,
    SpotRequest,
    Volume,
    Worker,
)

log = logging.getLogger(__name__)

FULL_SECONDS = 30.0
TRANSITION_SECONDS = 1.0
TRANSITION_MAX_SECONDS = 300.0
"""What takes longer than this to start or to stop is stuck, and listed with all others."""
HOT_IDS = 100
"""So many instances, and so many volumes, are looked at in one look at what is in transition: to
read 100 of each out of EC2's XML takes a fifth of a second of the hub's time. More take turns."""
LOOK_APART_SECONDS = 0.2
"""Two looks are at least so far apart, however many are in a hurry."""
SNAPSHOT_SECONDS = 600.0
"""Snapshots matter only to what is being deleted: they are listed more rarely."""
SPOT_SECONDS = 300.0
"""Spot requests matter only where their machines are gone: they are listed more rarely, too."""
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

    async def list_spot_requests(self) -> list[SpotRequest]:
        """Spot requests of the cluster that stand."""


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
        has_spot: bool = False,
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
        self._has_spot = has_spot
        self._tried_at = 0.0
        self._failures = 0
        self._wake = asyncio.Event()
        self._moving_since: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        """By hot id: when it was last looked at by its id."""
        self._is_hot = False
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
        if not self._is_hot:  # else the next look is a second away at most
            self._wake.set()

    async def run(self) -> None:
        """Keep listing; ends only by cancellation."""
        while True:
            await self._wait_until_due()
            try:
                await self.refresh()
            except CloudError as error:
                self._failed(error)
            except Exception as error:
                log.exception("The cluster's listing cannot be understood")
                self._failed(_not_understood(error))
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
            await wait_for_event(self._wake, pause)

    def _backoff(self) -> float:
        ceiling = min(MAX_BACKOFF_SECONDS, 2.0**self._failures)
        return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret

    def _pause(self) -> float:
        if not self.listing.is_known:
            return 0.0
        if self._look_now or self._full_wanted:
            return max(0.0, self._tried_at + LOOK_APART_SECONDS - self._clock())
        until_full = self.listing.full_at + self._full_seconds - self._clock()
        self._is_hot = bool(self.hot())
        if self._is_hot:
            until_look = self._tried_at + self._transition_seconds - self._clock()
            return max(0.0, min(until_full, until_look))
        return max(0.0, until_full)

    def hot(self) -> set[str]:
        """Ids that are in transition, or that somebody watches; few snapshots are that urgent."""
        workers = self.listing.workers.values()
        moving = {w.instance_id for w in workers if w.state in IN_TRANSITION}
        now = self._clock()
        self._moving_since = {i: self._moving_since.get(i, now) for i in moving}
        ids = {i for i in moving if now - self._moving_since[i] < TRANSITION_MAX_SECONDS}
        return ids | {i for i in self._watched() if not i.startswith("snap-") or self._is_urgent(i)}

    def _is_urgent(self, snapshot_id: str) -> bool:
        """Whether somebody waits for a snapshot: it is of a home that moves."""
        known = self.listing.snapshots.get(snapshot_id)
        return known is not None and known.state is SnapshotState.PENDING and bool(known.moving)

    async def refresh(self) -> None:
        """One look: at everything if that is due, else at what is hot. Raises ``CloudError``."""
        self._tried_at = begun_at = self._clock()
        self._look_now = False
        due = begun_at - self.listing.full_at >= self._full_seconds
        if due or self._full_wanted:
            await self._refresh_all(begun_at)
        else:
            await self._refresh_some(begun_at, self._turns(self.hot(), begun_at))

    def _turns(self, hot: Collection[str], now: float) -> list[str]:
        """Those of the hot ids that are looked at now: who waited longest for it, of each kind."""
        self._asked_at = {i: self._asked_at.get(i, 0.0) for i in hot}
        by_age = sorted(hot, key=lambda i: (self._asked_at[i], i))
        kinds = ([i for i in by_age if i.startswith(prefix)] for prefix in ("i-", "vol-", "snap-"))
        chosen = [i for kind in kinds for i in kind[:HOT_IDS]]
        self._asked_at.update(dict.fromkeys(chosen, now))
        return chosen

    def _snapshots_due(self, now: float) -> bool:
        """Rarely, but with each full listing while one is being made or deleted."""
        snapshots = self.listing.snapshots.values()
        return (
            now - self.listing.snapshots_at >= SNAPSHOT_SECONDS
            or any(s.state is SnapshotState.PENDING for s in snapshots)
            or any(i.startswith("snap-") for i in self._watched())
        )

    async def _refresh_all(self, begun_at: float) -> None:
        self._full_wanted = False
        old = self.listing
        try:
            workers, volumes, snapshots, requests = await asyncio.gather(
                self._cloud.list_workers(),
                self._cloud.list_volumes(),
                self._all_snapshots(begun_at),
                self._all_spot_requests(begun_at),
            )
        except BaseException:
            self._full_wanted = True
            raise
        self.listing = Listing(
            workers=MappingProxyType({w.instance_id: w for w in workers}),
            volumes=MappingProxyType({v.volume_id: v for v in volumes}),
            snapshots=old.snapshots if snapshots is None else MappingProxyType(snapshots),
            full_at=begun_at,
            snapshots_at=old.snapshots_at if snapshots is None else begun_at,
            spot_requests=old.spot_requests if requests is None else MappingProxyType(requests),
            spot_at=old.spot_at if requests is None else begun_at,
        )

    async def _all_snapshots(self, begun_at: float) -> dict[str, Snapshot] | None:
        """The cluster's snapshots; None while those of the last listing will do."""
        if not self._snapshots_due(begun_at):
            return None
        return {s.snapshot_id: s for s in await self._cloud.list_snapshots()}

    async def _all_spot_requests(self, begun_at: float) -> dict[str, SpotRequest] | None:
        """The cluster's spot requests; None while those of the last listing will do."""
        if not self._has_spot or begun_at - self.listing.spot_at < SPOT_SECONDS:
            return None
        return {r.request_id: r for r in await self._cloud.list_spot_requests()}

    async def _refresh_some(self, begun_at: float, ids: Collection[str]) -> None:
        workers, volumes, snapshots = await asyncio.gather(
            _some(self._cloud.list_workers, "i-", ids),
            _some(self._cloud.list_volumes, "vol-", ids),
            _some(self._cloud.list_snapshots, "snap-", ids),
        )
        old = self.listing
        found = {*(w.instance_id for w in workers), *(v.volume_id for v in volumes)}
        found.update(s.snapshot_id for s in snapshots)
        known = old.workers.keys() | old.volumes.keys()
        if not found.issuperset(known.intersection(ids)):
            self._full_wanted = True  # only a complete listing is believed that something is gone
        self.listing = replace(
            old,
            workers=MappingProxyType({**old.workers, **{w.instance_id: w for w in workers}}),
            volumes=MappingProxyType({**old.volumes, **{v.volume_id: v for v in volumes}}),
            snapshots=MappingProxyType({**old.snapshots, **{s.snapshot_id: s for s in snapshots}}),
            seen_at=MappingProxyType({**old.seen_at, **dict.fromkeys(found, begun_at)}),
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


async def wait_for_event(event: asyncio.Event, timeout_seconds: float | None) -> bool:
    """Whether the event is set, which is waited for so long (None: as long as it takes).

    ``asyncio.wait_for`` before Python 3.12 loses a cancellation that comes together with the event.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=timeout_seconds)
    finally:
        waiting.cancel()
    return event.is_set()


async def _some(
    list_ids: Callable[[Sequence[str]], Awaitable[list[R]]], prefix: str, ids: Collection[str]
) -> list[R]:
    of_kind = sorted(i for i in ids if i.startswith(prefix))
    return await list_ids(of_kind) if of_kind else []


def _not_understood(error: Exception) -> Rejected:
    return Rejected(
        "The cluster's listing cannot be understood.",
        why=f"{type(error).__name__}: {str(error)[:200]}",
        next_step="See the traceback in the hub's log.",
    )
