"""Whose the lease on a cluster is, and what follows from it: the decisions, without any call.

Owns what the lease's object says, and the rules by which one hub at a time holds it. Must not read
or write it: ``lease.py`` does.

No clocks of two machines are compared. The holder counts from the moment at which its last
successful renewal was *sent*; a challenger counts from the moment at which it first *saw* the
object as it still is, which is later, and waits longer. Only a process that is known to be gone is
not waited for: its own machine can tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Protocol

from ec2spawner.errors import AnotherHub, CloudError, Denied, NotFound, Rejected
from ec2spawner.identity import Process
from ec2spawner.s3 import Stored

LEASE_SECONDS = 30.0
"""So long must a challenger have seen the object unchanged before it takes over."""
MARGIN_SECONDS = 5.0
"""By so much earlier the holder stops writing: for calls that are on their way, and for clocks of
which one goes faster than the other."""


def key_of(cluster: str) -> str:
    """The object's key in the bucket; several clusters may share one bucket."""
    return f"hub-lease/{cluster}.json"


# ---- what is in the object


@dataclass(frozen=True)
class Record:
    """What a holder writes: who it is. No two writes are the same, so each changes the ETag."""

    holder: str  # random, of one process
    beat: int  # of this holder's writes
    since: str  # for people, by the holder's own clock
    process: Process
    is_ended: bool = False

    def to_bytes(self) -> bytes:
        """The object's content."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def read_record(body: bytes) -> Record | None:
    """What an object says; None for what no hub has written."""
    try:
        raw = json.loads(body)
        fields = Process.__dataclass_fields__
        process = Process(**{name: raw["process"][name] for name in fields})
        record = Record(raw["holder"], raw["beat"], raw["since"], process, raw["is_ended"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = (record.holder, record.since, process.host, process.boot_id, process.pid_namespace)
    numbers = (record.beat, process.pid, process.started)
    is_sound = all(isinstance(text, str) for text in (*texts, process.instance_id)) and all(
        isinstance(number, int) and number >= 0 for number in numbers
    )
    return record if is_sound and process.pid > 0 and isinstance(record.is_ended, bool) else None


@dataclass(frozen=True)
class Seen:
    """The object as it is, as far as is known."""

    etag: str
    record: Record | None  # None: of no hub
    at: float
    """Since when it is known to be so; monotonic."""
    is_alive: bool = False
    """Whether its holder was seen to write: it had written before."""


# ---- decisions


class Step(Enum):
    """What to do next."""

    CREATE = "create"
    RENEW = "renew"
    TAKE = "take"
    WAIT = "wait"


class Standing(Enum):
    """Whose the lease is."""

    UNKNOWN = "unknown"  # not known yet
    HELD = "held"
    LAPSED = "lapsed"  # ours, as far as is known, but not renewed in time
    ANOTHERS = "another's"


def look(before: Seen | None, stored: Stored | None, now: float) -> Seen | None:
    """What is known after the object was read at ``now``; None: there is none."""
    if stored is None:
        return None
    if before and before.etag == stored.etag:
        return before
    record = read_record(stored.body)
    known = before.record if before else None
    wrote = record is not None and known is not None and record.holder == known.holder
    return Seen(stored.etag, record, now, is_alive=wrote)


def decide(seen: Seen | None, holder: str, is_dead: bool, now: float) -> Step:
    """The next step of ``holder``; ``is_dead``: the process that wrote is known to be gone."""
    if seen is None:
        return Step.CREATE
    if seen.record and seen.record.holder == holder:
        return Step.RENEW
    if seen.record and (seen.record.is_ended or is_dead):
        return Step.TAKE
    return Step.TAKE if now - seen.at >= LEASE_SECONDS else Step.WAIT


def held_until(sent_at: float) -> float:
    """How long a holder is one by a write that it sent at that moment; both monotonic."""
    return sent_at + LEASE_SECONDS - MARGIN_SECONDS


def another_hub(seen: Seen, place: str, *, was_ours: bool) -> AnotherHub:
    """The error that names the other hub."""
    record = seen.record
    who = "is something that no hub has written"
    if record:
        process = record.process
        verb = "was" if record.is_ended else "is"
        machine = process.host + (f" ({process.instance_id})" if process.instance_id else "")
        who = f"{verb} held by process {process.pid} on {machine} since {record.since}"
    return AnotherHub(
        "Another hub serves this cluster.",
        why=f"the lease {place} {who}" + (", it was this hub's before" if was_ours else ""),
        next_step="Stop one of both hubs. This one starts, stops and changes nothing"
        + (" until it is restarted." if was_ours else " as long as the other one runs."),
    )


# ---- what the fleet needs of it


class Tenancy(Protocol):
    """Whether this hub may write."""

    on_change: Callable[[], None]

    @property
    def standing(self) -> Standing:
        """Whose the lease is now."""

    @property
    def problem(self) -> CloudError | None:
        """Why it is not ours; None while it is, or where nothing is known yet."""

    async def run(self) -> None:
        """Keep it; ends only by cancellation, and gives it back then."""


class SoleHub:
    """The tenancy of a hub that is certainly the only one: nothing is asked, all is permitted."""

    standing = Standing.HELD
    problem: CloudError | None = None

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Nothing to keep."""


def is_final(problem: CloudError | None) -> bool:
    """Whether waiting will not mend what keeps the lease from being ours."""
    return isinstance(problem, (AnotherHub, Denied, NotFound, Rejected))
