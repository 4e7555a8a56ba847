"""Counts what the cluster consists of, for the metrics: one look at each full listing.

Owns the counting. Must not know how the listing came about, nor decide anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from prometheus_client import Gauge

from ec2spawner import metrics
from ec2spawner.draft import is_spare
from ec2spawner.listing import Listing
from ec2spawner.model import InstanceState, Worker
from ec2spawner.wishes import POOL_LAUNCH, Memory


class Census:
    """Counts at each full listing, and not again before the next."""

    def __init__(self) -> None:
        self._taken_at = 0.0

    def take(self, view: Listing, recall: Callable[[], Memory], now: float) -> None:
        """Set the gauges, unless they show this full listing already."""
        if view.full_at > self._taken_at:
            self._taken_at = view.full_at
            take(view, recall(), now)


def take(view: Listing, memory: Memory, now: float) -> None:
    """Set the gauges of workers, spares, and offerings that are left out."""
    workers = view.workers.values()
    _set(metrics.WORKERS, Counter((w.state.value, w.profile) for w in workers))
    _set(metrics.SPARES, Counter((w.profile, readiness(w)) for w in workers if is_spare(w)))
    failed = [scope[0] for scope, failure in memory.failed.items() if failure.until > now]
    failed += [
        "image" for (kind, _), f in memory.holds.items() if kind == POOL_LAUNCH and f.until > now
    ]
    _set(metrics.FAILED_OFFERINGS, Counter((kind,) for kind in failed))


def readiness(spare: Worker) -> str:
    """How soon somebody can work on a spare: "ready", "booting", "rested" or "unprepared"."""
    if spare.state is InstanceState.STOPPED:
        return "rested" if spare.is_prepared else "unprepared"
    return "ready" if spare.is_prepared else "booting"


def _set(gauge: Gauge, counts: Mapping[tuple[str, ...], int]) -> None:
    gauge.clear()  # what there is no more has no series
    for labels, count in counts.items():
        gauge.labels(*labels).set(count)
