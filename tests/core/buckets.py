"""A bucket in memory with S3's conditions and troubles, in the running loop's (virtual) time."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

from ec2spawner.errors import (
    ConditionFailed,
    Denied,
    NotFound,
    OutcomeUnknown,
    Throttled,
    Unreachable,
)
from ec2spawner.s3 import NO_SUCH_KEY, Stored

TROUBLES = (
    *("ok", "refused", "throttled", "lost-before", "lost-after"),
    *("late", "silent", "slow-before", "slow-after"),
)
"""What can become of one call: see ``Door``."""
LATE_SECONDS = 12.0
SLOW_SECONDS = 3.0


class Bucket:
    """What is stored, by key."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.on_write: Callable[[], None] = lambda: None

    def put(self, key: str, body: bytes, replaces: str | None) -> str:
        """Carry out a conditional write."""
        there = self.objects.get(key)
        if replaces is None and there:
            raise ConditionFailed("It is there.", aws_code="PreconditionFailed")
        if replaces is not None and there is None:
            raise NotFound("It is not there.", aws_code=NO_SUCH_KEY)
        if there and there.etag != replaces:
            raise ConditionFailed("It is another.", aws_code="PreconditionFailed")
        etag = f'"{hashlib.sha256(body).hexdigest()}"'  # by the content alone, as S3's
        self.objects[key] = Stored(etag, body)
        self.on_write()
        return etag


class Door:
    """One hub's way to the bucket; implements ``lease.Store``.

    ``troubles`` says what becomes of each call, in turn: "ok"; "refused" (no connection);
    "throttled"; the answer "lost-before" or "lost-after" the effect; the effect "late", long after
    the call was given up; "silent" (no answer, no effect); "slow-before" or "slow-after" it.
    """

    bucket = "bucket"

    def __init__(self, bucket: Bucket, troubles: Iterator[str] | None = None) -> None:
        self._bucket = bucket
        self._troubles = troubles or iter(())
        self.is_away = False
        self.is_dead = False
        self.may_list = True
        self.calls: Counter[str] = Counter()
        self.latency_seconds = 0.05

    async def get(self, key: str) -> Stored | None:
        self.calls["get"] += 1
        trouble = await self._begin()
        found = self._bucket.objects.get(key)
        if found is None and not self.may_list:
            raise Denied("You may not.", aws_code="AccessDenied")
        if trouble in ("lost-before", "lost-after"):
            raise Unreachable("No answer came.")
        if trouble in ("late", "silent"):
            await asyncio.sleep(1e6)
        await asyncio.sleep(self.latency_seconds)
        return found

    async def put(self, key: str, body: bytes, *, replaces: str | None) -> str:
        self.calls["put"] += 1
        trouble = await self._begin()
        if trouble == "late":
            asyncio.get_running_loop().call_later(LATE_SECONDS, self._late, key, body, replaces)
        if trouble in ("late", "silent"):
            await asyncio.sleep(1e6)
        if trouble == "lost-before":
            raise OutcomeUnknown("No answer came.")
        etag = self._bucket.put(key, body, replaces)
        if trouble == "lost-after":
            raise OutcomeUnknown("No answer came.")
        await asyncio.sleep(SLOW_SECONDS if trouble == "slow-after" else self.latency_seconds)
        return etag

    def _late(self, key: str, body: bytes, replaces: str | None) -> None:
        try:
            self._bucket.put(key, body, replaces)
        except (ConditionFailed, NotFound):
            return

    async def _begin(self) -> str:
        trouble = next(self._troubles, "ok")
        await asyncio.sleep(self.latency_seconds)
        if self.is_dead:
            await asyncio.sleep(1e6)
        if self.is_away or trouble == "refused":
            raise Unreachable("AWS does not answer.")
        if trouble == "throttled":
            raise Throttled("Slow down.", aws_code="SlowDown")
        if trouble == "slow-before":
            await asyncio.sleep(SLOW_SECONDS)
        return trouble
