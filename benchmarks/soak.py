"""``python -m benchmarks.soak``: a hub under load for an hour, and whether it grows.

Users come in waves, half of them each time, and all go again; workers are stubs. When a wave has
gone and all machines are stopped, the hub is as it was before it: memory, asyncio tasks, file
descriptors and threads are noted then. Over the second half of the time, none of them may grow.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import arithmetic, report
from benchmarks.bed import Bed, Hub, Setting, made
from benchmarks.client import Client, Start
from benchmarks.report import Report, Row, say

STOP_SECONDS = 1.0
END_SECONDS = 10.0
QUIET_SECONDS = 3.0
SEED = 5
KINDS = ("rss_bytes", "private_bytes", "tasks", "descriptors", "threads")
ALLOWED_SHARE = 0.03
"""Of memory: SQLite's and Python's own caches, and the pages that an allocator has not yet used."""
ALLOWED = {"tasks": 2.0, "descriptors": 2.0, "threads": 1.0}
LEAST_SAMPLES = 3
"""In the second half."""


class Load:
    """The waves of one hub's users, and what the hub was after each."""

    def __init__(self, bed: Bed, hub: Hub, users: int, within_seconds: float) -> None:
        self._bed = bed
        self._hub = hub
        self._client = Client(hub)
        self._within_seconds = within_seconds
        self._draw = random.Random(SEED)
        self.users = [f"user{number}" for number in range(users)]
        self.samples: list[Row] = []
        self.starts = 0
        self.failures: list[str] = []

    async def run(self, seconds: float) -> None:
        """Wave after wave."""
        await self._client.add_users(self.users)
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            coming = self._draw.sample(self.users, max(1, len(self.users) // 2))
            self._note(await self._client.start_over(coming, self._within_seconds))
            await self._client.stop_everybody()
            await self._bed.until_all(await self._owners(), "stopped")
            await asyncio.sleep(QUIET_SECONDS)
            await self._sample(time.monotonic() - begun)

    def _note(self, starts: Sequence[Start]) -> None:
        self.starts += len(starts)
        self.failures += [f"{start.user}: {start.failure}" for start in starts if start.failure]

    async def _owners(self) -> list[str]:
        """Users who have a machine."""
        keys = await self._bed.instances()
        return [user for user in self.users if any(key.startswith(f"{user}-") for key in keys)]

    async def _sample(self, at: float) -> None:
        """What the hub is now; what is kept inside for the benchmarks themselves is let go."""
        for user in self.users:
            await self._hub.ask(f"marks/{user}")
        figures = await self._hub.ask("figures")
        await self._hub.reset()
        self.samples.append({"at_seconds": round(at, 1), **{k: figures[k] for k in KINDS}})
        shown = {**self.samples[-1], "rss_mib": round(figures["rss_bytes"] / 2**20, 1)}
        say(f"{self.starts} starts, {len(self.failures)} failed; {_glance(shown)}")


def _glance(row: Row) -> str:
    kept = ("rss_mib", "tasks", "descriptors", "threads")
    return ", ".join(f"{kind} {row[kind]}" for kind in kept)


def second_half(samples: Sequence[Row]) -> list[Row]:
    """The samples of the second half of the time."""
    end = samples[-1]["at_seconds"] if samples else 0.0
    return [sample for sample in samples if sample["at_seconds"] >= end / 2]


def drifts(samples: Sequence[Row]) -> dict[str, float]:
    """By how much each figure grows over these samples."""
    return {
        kind: round(arithmetic.drift([(s["at_seconds"], s[kind]) for s in samples]), 1)
        for kind in KINDS
    }


def judged(sheet: Report, samples: Sequence[Row]) -> None:
    """Note each bound."""
    late = second_half(samples)
    sheet.check(
        "samples in the second half are enough", len(late) >= LEAST_SAMPLES, True, "", exact=True
    )
    if len(late) < LEAST_SAMPLES:
        return
    grown = drifts(late)
    sheet.results["grown_in_the_second_half"] = grown
    for kind, growth in grown.items():
        allowed = ALLOWED.get(kind, round(ALLOWED_SHARE * late[0][kind]))
        sheet.check(f"growth of {kind} in the second half", growth, allowed, "")


async def measure(options: argparse.Namespace) -> list[Report]:
    """The report."""
    settings: dict[str, Any] = {
        "seconds": options.seconds,
        "users": options.users,
        "within_seconds": options.within,
        "boot_seconds": options.boot_seconds,
    }
    sheet = Report("soak", "stub", settings)
    setting = Setting("stub", options.boot_seconds, STOP_SECONDS, in_memory=True)
    async with made(setting, options.keep) as bed:
        hub = await bed.hub("soak")
        load = Load(bed, hub, options.users, options.within)
        await load.run(options.seconds)
        throttled = await bed.throttled()
        await hub.process.stop(END_SECONDS)
    sheet.results.update(
        starts=load.starts,
        failed=len(load.failures),
        failures=load.failures[:5],
        refused_by_throttling=throttled,
        samples=load.samples,
    )
    sheet.close()
    sheet.check("failed starts", len(load.failures), 0, "starts", exact=True)
    sheet.check("refused by throttling", throttled, {}, "calls", exact=True)
    judged(sheet, load.samples)
    return [sheet]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    add = parser.add_argument
    add("--seconds", type=float, default=3600.0, help="how long (3600)")
    add("--users", type=int, default=60, help="of whom half come in each wave (60)")
    add("--within", type=float, default=10.0, help="seconds in which a wave comes (10)")
    add("--boot-seconds", type=float, default=3.0, help="of a machine (3)")


if __name__ == "__main__":
    sys.exit(report.main("soak", add_options, measure))
