"""One hub's hold on the lease of its cluster: of all hubs ever started on it, one may write.

Owns one object in the cluster's bucket, which the holder writes anew every few seconds, and the
answer to "may this hub write now?". Must not know EC2, nor what is written; who may take over, and
when, ``tenancy.py`` decides. A hub that has lost the lease to another one never takes it again:
what it had begun may be the other's meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Protocol, TypeVar

from ec2spawner import metrics
from ec2spawner.errors import (
    AnotherHub,
    CloudError,
    ConditionFailed,
    Denied,
    NotFound,
    NotTheHolder,
    OutcomeUnknown,
    Rejected,
    Unreachable,
)
from ec2spawner.identity import Process, lives
from ec2spawner.s3 import NO_SUCH_KEY, Stored
from ec2spawner.tenancy import (
    Record,
    Seen,
    Standing,
    Step,
    another_hub,
    decide,
    held_until,
    key_of,
    look,
)

log = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
LOOK_SECONDS = 3.0
"""How often a challenger looks."""
ANSWER_SECONDS = 5.0
"""So long is one answer waited for; a lost one leaves time for the next within the lease."""
MAX_RETRY_SECONDS = 4.0
RELEASE_SECONDS = 3.0
"""So long may a hub's end be held up by giving the lease back."""
REMEMBERED_WRITES = 16

R = TypeVar("R")


def monotonic() -> float:
    """Seconds that go on also while the machine is suspended, unlike ``time.monotonic``'s."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Store(Protocol):
    """What the lease needs of S3; ``s3.Objects`` is the real one."""

    bucket: str

    async def get(self, key: str) -> Stored | None:
        """The object, if it is there."""

    async def put(self, key: str, body: bytes, *, replaces: str | None) -> str:
        """Write it, if it is what it is to replace; its new etag."""


class Lease:
    """One hub's hold on the lease of a cluster. ``clock`` is monotonic, ``jitter`` within 0..1."""

    def __init__(
        self,
        store: Store,
        cluster: str,
        process: Process,
        *,
        clock: Callable[[], float] = monotonic,
        jitter: Callable[[], float] = random.random,
        lives: Callable[[Process, Process], bool | None] = lives,
    ) -> None:
        self.place = f"s3://{store.bucket}/{key_of(cluster)}"
        self.on_change: Callable[[], None] = lambda: None
        self.holder = secrets.token_hex(16)
        self._store = store
        self._key = key_of(cluster)
        self._process = process
        self._clock = clock
        self._jitter = jitter
        self._lives = lives
        self._seen: Seen | None = None
        self._must_look = False
        self._record = Record(self.holder, 0, "", process)
        self._sent: dict[int, float] = {}
        """When each of our last writes was sent, by its beat."""
        self._held_until: float | None = None  # None: it was never ours
        self._is_lost = False
        self._is_over = False
        self._failure: CloudError | None = None
        self._failures = 0
        self._told: Standing = Standing.UNKNOWN

    # ---- what is asked of it, from any thread

    @property
    def standing(self) -> Standing:
        """Whose the lease is now."""
        if self._is_lost:
            return Standing.ANOTHERS
        if self._held_until is not None:
            is_ours = self._clock() < self._held_until and not self._is_over
            return Standing.HELD if is_ours else Standing.LAPSED
        seen = self._seen
        if seen and (seen.record is None or seen.record.holder != self.holder) and seen.is_alive:
            return Standing.ANOTHERS
        return Standing.UNKNOWN

    def is_held(self) -> bool:
        """Whether this hub may write now."""
        return self.standing is Standing.HELD

    @property
    def problem(self) -> CloudError | None:
        """Why the lease is not ours; None while it is, or where nothing is known yet."""
        standing, seen = self.standing, self._seen
        if standing is Standing.HELD:
            return None
        if standing is Standing.ANOTHERS and seen:
            return another_hub(seen, self.place, was_ours=self._is_lost)
        return self._failure

    def permit(self) -> CloudError | None:
        """Why no call that changes something may be sent now; None while it may."""
        if self.is_held():
            return None
        problem = self.problem
        if isinstance(problem, AnotherHub):
            return problem
        return NotTheHolder(
            "This hub does not hold its cluster's lease at the moment.",
            why=problem.for_operator() if problem else f"{self.place} is not decided yet",
            next_step="A hub tries again by itself.",
        )

    # ---- the loop

    async def run(self) -> None:
        """Take the lease, keep it, give it back at the end; ends only by cancellation."""
        try:
            while not self._is_lost:
                pause = await self._round()
                self._tell()
                await asyncio.sleep(pause * (0.8 + 0.2 * self._jitter()))
        finally:
            await self._release()

    async def _round(self) -> float:
        """One step; seconds until the next."""
        try:
            pause = await self._step()
        except CloudError as error:
            self._failed(error)
            return self._retry_seconds()
        except Exception as error:
            log.exception("The lease %s cannot be dealt with", self.place)
            self._failed(_unforeseen(error))
            return self._retry_seconds()
        self._failure, self._failures = None, 0
        return pause

    async def _step(self) -> float:
        if self._must_look:
            await self._look_or_create()
        now = self._clock()
        if self._must_look and self._renewed_after_all():
            self._must_look = False
            return RENEW_SECONDS
        step = decide(self._seen, self.holder, self._is_writer_dead(), now)
        if self._is_lost or step is Step.WAIT:
            self._must_look = True
            return LOOK_SECONDS
        self._must_look = True  # unless this write is known to have been made
        await self._write(step)
        self._must_look = False
        return RENEW_SECONDS

    async def _look_or_create(self) -> None:
        try:
            await self._look()
        except Denied:
            # Said also of an object that is not there, to a role that may not list: whether it is
            # there, an attempt to make it tells.
            self._must_look, self._seen = False, None
            raise

    async def _look(self) -> None:
        stored = await _answered(self._store.get(self._key), Unreachable("No answer came."))
        seen = look(self._seen, stored, self._clock())
        record = seen.record if seen else None
        is_ours = record is not None and record.holder == self.holder
        if seen and self._held_until is not None and not is_ours:
            self._is_lost = True
        if seen and record and not is_ours and self._lives(record.process, self._process):
            seen = replace(seen, is_alive=True)  # it need not be watched to be known to live
        self._seen = seen

    def _is_writer_dead(self) -> bool:
        """Whether the process that wrote what is seen is known not to live."""
        record = self._seen.record if self._seen else None
        return record is not None and self._lives(record.process, self._process) is False

    def _renewed_after_all(self) -> bool:
        """Whether the last write, of which no answer came, is what stands now."""
        record = self._seen.record if self._seen else None
        if record is None or record.holder != self.holder or record.beat not in self._sent:
            return False
        self._hold(record.beat)
        return record.beat == self._record.beat

    async def _write(self, step: Step) -> None:
        before = self._seen.record if self._seen else None
        since = self._record.since or datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        self._record = replace(self._record, beat=self._record.beat + 1, since=since)
        record = self._record
        self._note_sent(record.beat)
        try:
            etag = await self._put(record)
        except CloudError as error:
            metrics.LEASE_RENEWALS.labels(error.code).inc()
            raise
        metrics.LEASE_RENEWALS.labels("ok").inc()
        self._seen = Seen(etag, record, self._clock())
        self._hold(record.beat)
        if step is Step.TAKE and before and not before.is_ended:
            log.warning(
                "Took the lease over from process %d on %s, which is gone or silent: %s",
                before.process.pid,
                before.process.host,
                self.place,
            )

    async def _put(self, record: Record) -> str:
        replaces = self._seen.etag if self._seen else None
        return await _answered(
            self._store.put(self._key, record.to_bytes(), replaces=replaces),
            OutcomeUnknown("No answer came.", action="PutObject"),
        )

    def _note_sent(self, beat: int) -> None:
        self._sent[beat] = self._clock()
        for old in [b for b in self._sent if b <= beat - REMEMBERED_WRITES]:
            del self._sent[old]

    def _hold(self, beat: int) -> None:
        until = held_until(self._sent[beat])
        self._held_until = max(until, self._held_until or until)

    def _failed(self, error: CloudError) -> None:
        self._failures += 1
        is_race = isinstance(error, ConditionFailed) or _is_gone(error)
        self._failure = None if is_race else error
        report = log.debug if is_race else log.info
        report("The lease was not written or read (%s), trying again: %s", error, self.place)

    def _retry_seconds(self) -> float:
        """At once after the first failure of a row: a look shows what became of it."""
        if self._failures == 1:
            return 0.0
        return float(min(MAX_RETRY_SECONDS, 2.0 ** (self._failures - 2)))

    # ---- words

    def _tell(self) -> None:
        """Say once what has changed."""
        standing, told = self.standing, self._told
        self._told = standing
        metrics.LEASE_HELD.set(standing is Standing.HELD)
        if standing is not told:
            self._log_change(told, standing)
        if standing is not told or standing is not Standing.HELD:
            self.on_change()

    def _log_change(self, told: Standing, standing: Standing) -> None:
        if standing is Standing.ANOTHERS:
            log.error("%s", self.problem)
        elif standing is Standing.LAPSED:
            log.warning(
                "The lease could not be renewed in time, nothing is written until it is (%s): %s",
                self._failure,
                self.place,
            )
        elif standing is Standing.HELD:
            report = log.warning if told is Standing.LAPSED else log.info
            report("This hub holds the lease: %s", self.place)

    # ---- the end

    async def _release(self) -> None:
        """Give the lease back, so that any hub may have it at once; raises no ``CloudError``."""
        is_ours, self._is_over = self.is_held(), True
        metrics.LEASE_HELD.set(0)
        if not is_ours:
            return
        try:
            await asyncio.wait_for(self._give_back(), RELEASE_SECONDS)
        except (CloudError, asyncio.TimeoutError) as error:
            log.warning("The lease was not given back (%s): %s", error, self.place)
        else:
            log.info("The lease was given back: %s", self.place)

    async def _give_back(self) -> None:
        ended = replace(self._record, beat=self._record.beat + 1, is_ended=True)
        if not self._must_look:  # no write is under way whose outcome is not known
            with contextlib.suppress(ConditionFailed):
                await self._put(ended)
                return
        await self._look()
        if not self._is_lost:
            await self._put(ended)


def _is_gone(error: CloudError) -> bool:
    return isinstance(error, NotFound) and error.aws_code == NO_SUCH_KEY


def _unforeseen(error: Exception) -> Rejected:
    return Rejected(
        "The hub's lease met a fault of the hub's own.",
        why=f"{type(error).__name__}: {str(error)[:200]}",
        next_step="See the traceback in the hub's log.",
    )


async def _answered(call: Awaitable[R], no_answer: CloudError) -> R:
    """The call's result; ``no_answer`` is raised where none comes in time.

    What is under way in a thread goes on, and may take effect later.
    """
    task: asyncio.Future[Any] = asyncio.ensure_future(call)
    try:
        await asyncio.wait({task}, timeout=ANSWER_SECONDS)
    finally:
        if not task.done():
            task.cancel()
    if task.cancelled() or not task.done():
        raise no_answer
    result: R = task.result()
    return result
