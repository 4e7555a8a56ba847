"""When a worker powers itself off, as plain functions of what was seen: the dead-man switch.

Owns the rule. Must not know hosts, networks or a clock. All moments are seconds on one clock that
nobody sets (``clock``), within one boot.

- The hub has been out of reach for its ``hub_lost_seconds``, and nobody has worked here for
  ``idle_seconds``, by the rule by which the hub stops idle servers (``activity``).
- The hub is in reach, and a claimed worker has been idle for four times that: the hub's culler has
  failed.
- No hub has ever said here who it is: it died right after the launch.
- While the hub is in reach, all else is the hub's business: spares, and what is prepared ahead.

The boot, a command of a hub, and a gap between two looks (the machine slept, or stood still) begin
all spans anew. What a dead hub leaves goes off, and so does not what a new one has just taken up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DEFAULT_HUB_LOST_SECONDS = 1800.0
DEFAULT_IDLE_SECONDS = 3600.0
"""For workers that no hub has told better; the hub's own defaults (``settings``)."""
HUB_LOST_MAX_SECONDS = 7 * 86_400.0
IDLE_MAX_SECONDS = 30 * 86_400.0
CULLER_FAILED_FACTOR = 4
GAP_SECONDS = 300.0
"""Looks are a minute apart; after so long without one, nothing is known of the time between."""


class Reason(str, Enum):
    """Why a worker powers itself off."""

    HUB_LOST = "hub-lost"
    CULLER_FAILED = "culler-failed"
    NO_HUB = "no-hub"


@dataclass(frozen=True)
class Terms:
    """What a hub has told a worker: where it is, and how long is long."""

    hub_url: str
    hub_lost_seconds: float
    idle_seconds: float


@dataclass(frozen=True)
class Seen:
    """What one look found.

    ``terms``: None where no hub ever told any. ``commanded_at``: the last command of a hub in this
    boot. ``worked_at``: when its user last worked, as the server says that runs; None where it says
    nothing, or nothing that can be.
    """

    terms: Terms | None
    is_claimed: bool
    booted_at: float
    commanded_at: float | None
    is_hub_reached: bool
    is_serving: bool
    worked_at: float | None


@dataclass(frozen=True)
class Watch:
    """What one look leaves for the next; ``hub_since``: since when the hub has been as it is."""

    looked_at: float
    awake_since: float
    is_hub_reached: bool
    hub_since: float
    served_at: float | None


def look(before: Watch | None, seen: Seen, now: float) -> Watch:
    """Join one look to the ones before; ``before`` is None at the first in a boot."""
    if before is None:
        return Watch(
            looked_at=now,
            awake_since=seen.booted_at,
            is_hub_reached=seen.is_hub_reached,
            hub_since=now,
            served_at=now if seen.is_serving else None,
        )
    is_gap = not 0 <= now - before.looked_at <= GAP_SECONDS
    is_same = not is_gap and before.is_hub_reached == seen.is_hub_reached
    return Watch(
        looked_at=now,
        awake_since=now if is_gap else before.awake_since,
        is_hub_reached=seen.is_hub_reached,
        hub_since=before.hub_since if is_same else now,
        served_at=now if seen.is_serving else before.served_at,
    )


def idle_seconds(watch: Watch, seen: Seen, now: float) -> float:
    """For how long nobody has worked here.

    A server that says nothing may be young or stuck: then it counts from the command that started
    it. Where none runs, it counts from when one was last seen.
    """
    said = seen.worked_at if seen.is_serving else watch.served_at
    fresh = _fresh_since(watch, seen)
    if said is None or said > now:  # a moment that is still to come is none
        return now - fresh
    return now - max(fresh, said)


def reason_to_power_off(watch: Watch, seen: Seen, now: float) -> Reason | None:
    """Why the worker should power itself off now; None where it should not."""
    if seen.terms is None:
        return _without_terms(watch, seen, now)
    idle, limit = idle_seconds(watch, seen, now), seen.terms.idle_seconds
    if not watch.is_hub_reached:
        lost = now - max(watch.hub_since, _fresh_since(watch, seen))
        is_lost = lost >= seen.terms.hub_lost_seconds
        return Reason.HUB_LOST if is_lost and idle >= limit else None
    # A hub that has just come back gets the time to see to it itself.
    had_time = now - watch.hub_since >= limit
    is_left = seen.is_claimed and had_time and idle >= CULLER_FAILED_FACTOR * limit
    return Reason.CULLER_FAILED if is_left else None


def _without_terms(watch: Watch, seen: Seen, now: float) -> Reason | None:
    """A claim without terms comes from a hub that knows no switch, and may well be in reach."""
    if seen.is_claimed:
        is_left = idle_seconds(watch, seen, now) >= CULLER_FAILED_FACTOR * DEFAULT_IDLE_SECONDS
        return Reason.CULLER_FAILED if is_left else None
    is_lost = now - _fresh_since(watch, seen) >= DEFAULT_HUB_LOST_SECONDS
    return Reason.NO_HUB if is_lost else None


def _fresh_since(watch: Watch, seen: Seen) -> float:
    moments = (seen.booted_at, watch.awake_since, seen.commanded_at)
    return max(moment for moment in moments if moment is not None)
