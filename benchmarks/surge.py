"""``python -m benchmarks.surge``: a class logs in, first ever and again, beside two other ways.

Every user starts a server over the hub's REST API and waits on its progress stream. The same users
at the same moments with: our spawner; a spawner that does nothing, which is the hub's own limit;
and one that makes its own AWS calls for each user. Three scenes: the class as it was asked for, in
a burst (all within one second, both others' limits), and twice as many within 10 s. Each way has a
hub and an emulated cloud of its own, so that each meets full token buckets; workers are stubs: no
notebook server runs in them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import arithmetic, report
from benchmarks.bed import Bed, Hub, Setting, made
from benchmarks.client import Client, Start
from benchmarks.report import Report, Row, say
from ec2spawner.throttle import REQUEST_LIMITS

NOTHING, OURS, ONE_CALL = "nothing", "ours", "one_call"
WAYS = {
    NOTHING: "a spawner that does nothing: the hub's own limit",
    OURS: "EC2Spawner",
    ONE_CALL: "a spawner with its own AWS calls for each user, blindly repeated",
}
SPAWNERS = {NOTHING: "nothing", OURS: "ec2", ONE_CALL: "one-call"}
FIRST, AGAIN = "first_login", "stopped_worker"
STOP_SECONDS = 1.0
END_SECONDS = 10.0
ADDED_BOUND_SECONDS = 2.0
BURST_BOUND = 1.25
LAG_BOUND_MS = 100.0
SLOWER_BOUND = 4.0
SHOWN_FAILURES = 3
BURST_WITHIN_SECONDS = 1.0
CROWD_TIMES, CROWD_WITHIN_SECONDS = 2, 10.0


@dataclass(frozen=True)
class Scene:
    """So many users within such a time; ``ways`` in the order in which they are measured."""

    name: str
    users: int
    within_seconds: float
    ways: tuple[str, ...]


def scenes(
    users: int, within_seconds: float, *, alone: bool, ways: Collection[str] = WAYS
) -> list[Scene]:
    """What is measured: the class as asked for, and unless ``alone`` the burst and the crowd."""
    all_ways = tuple(way for way in WAYS if way in ways)
    ours = tuple(way for way in all_ways if way != ONE_CALL)
    crowd = Scene("crowd", CROWD_TIMES * users, CROWD_WITHIN_SECONDS, ours)
    if within_seconds <= BURST_WITHIN_SECONDS:  # it is the burst itself
        burst = Scene("burst", users, within_seconds, all_ways)
        return [burst] if alone else [burst, crowd]
    asked = Scene("asked", users, within_seconds, all_ways)
    burst = Scene("burst", users, BURST_WITHIN_SECONDS, ours)
    return [asked] if alone else [asked, burst, crowd]


def outcome(starts: Sequence[Start]) -> Row:
    """How the starts went: seconds of those that came up, words of those that did not."""
    ready = [start.seconds for start in starts if not start.failure]
    failures = Counter(start.failure for start in starts if start.failure)
    found: Row = {"ready": len(ready), "failed": failures.total()}
    if failures:
        found["failures"] = dict(failures.most_common(SHOWN_FAILURES))
    if ready:
        found["seconds"] = arithmetic.spread(ready)
        ended = max(start.answered for start in starts if not start.failure)
        found["wall_seconds"] = round(ended - min(start.sent for start in starts), 2)
    return found


def mean_phases(before: Mapping[str, float], after: Mapping[str, float]) -> Row:
    """Mean seconds of each phase of the starts in between, as our own metrics count them."""
    name = "ec2spawner_start_phase_seconds"
    means = {}
    for phase in ("machine", "ssh", "server"):
        total, count = (
            after.get(f"{name}_{kind}['{phase}']", 0.0)
            - before.get(f"{name}_{kind}['{phase}']", 0.0)
            for kind in ("sum", "count")
        )
        means[phase] = round(total / count, 2) if count else 0.0
    return means


class Way:
    """One spawner's hub, and what is measured while its users come."""

    def __init__(self, bed: Bed, hub: Hub, name: str, scene: Scene) -> None:
        self._bed = bed
        self._hub = hub
        self._name = name
        self._scene = scene
        self._client = Client(hub)

    async def measure(self) -> Row:
        """First logins; then, all stopped, starts of those who had come up."""
        users = [f"user{number}" for number in range(self._scene.users)]
        await self._client.add_users(users)
        first, starts = await self._come(users)
        came_up = [start.user for start in starts if not start.failure]
        await self._go(came_up)
        again, _ = await self._come(came_up)
        return {"what": WAYS[self._name], FIRST: first, AGAIN: again}

    async def _come(self, users: Sequence[str]) -> tuple[Row, list[Start]]:
        await self._hub.reset()
        before = await self._hub.ask("figures")
        await self._bed.control("POST", "calls/reset")
        starts = await self._client.start_over(users, self._scene.within_seconds)
        after = await self._hub.ask("figures")
        cpu_seconds = after["cpu_seconds"] - before["cpu_seconds"]
        row = {
            **outcome(starts),
            "aws_calls": await self._bed.calls(),
            "refused_by_throttling": await self._bed.throttled(),
            "hub_cpu_seconds": round(cpu_seconds, 2),
            "hub_cpu_ms_per_start": round(1000 * cpu_seconds / max(1, len(users)), 1),
            "event_loop_lag": after["lag"],
        }
        if self._name == OURS:
            row["mean_phase_seconds"] = mean_phases(before["metrics"], after["metrics"])
        say(f"{self._scene.name}, {self._name}: {_glance(row)}")
        return row, starts

    async def _go(self, users: Sequence[str]) -> None:
        await self._client.stop_everybody()
        if self._name != NOTHING:
            await self._bed.until_all([*users], "stopped")
        if self._name == OURS:
            for user in users:
                await self._hub.until_stopped(user)


def _glance(row: Mapping[str, Any]) -> str:
    kept = ("ready", "failed", "seconds", "wall_seconds", "refused_by_throttling")
    more = {"cpu": row["hub_cpu_seconds"], "lag": row["event_loop_lag"]["p99_ms"]}
    return ", ".join(f"{k} {v}" for k, v in {**{k: row.get(k) for k in kept}, **more}.items())


async def _measured(scene: Scene, way: str, setting: Setting, keep: Path | None) -> Row:
    say(f"{scene.name}: {scene.users} users within {scene.within_seconds:g} s, {WAYS[way]}")
    folder = keep and keep / f"{scene.name}-{way}"
    async with made(setting, folder) as bed:
        hub = await bed.hub(way.replace("_", "-"), spawner=SPAWNERS[way])
        row = await Way(bed, hub, way, scene).measure()
        await hub.process.stop(END_SECONDS)
        return row


def claims_seconds(users: int) -> float:
    """How long EC2's own limit of CreateTags makes so many claims last, one call for each."""
    limit = REQUEST_LIMITS["CreateTags"]
    return max(0.0, users - limit.size) / limit.refill_per_second


def judged(sheet: Report, boot_seconds: float) -> None:
    """Note each bound."""
    for name in ("asked", "burst"):
        scene = sheet.results.get(name)
        if scene is None:
            continue
        for phase in (FIRST, AGAIN):
            ours, nothing = (scene["ways"][way][phase] for way in (OURS, NOTHING))
            _judge_whole(sheet, f"{name}, {phase}", ours, scene["users"])
            added = ours["event_loop_lag"]["p99_ms"] - nothing["event_loop_lag"]["p99_ms"]
            name_of_lag = f"{name}, {phase}: event loop's lag over the hub's own, p99"
            sheet.check(name_of_lag, round(added, 1), LAG_BOUND_MS, "ms")
    asked, burst = sheet.results.get("asked"), sheet.results.get("burst")
    for phase in (FIRST, AGAIN):
        if asked:
            _judge_seconds(sheet, asked, phase, boot_seconds)
        if burst:
            _judge_burst(sheet, burst, phase, boot_seconds)
        _judge_one_call(sheet, phase)


def _judge_whole(sheet: Report, what: str, ours: Row, users: int) -> None:
    sheet.check(f"{what}: ready", ours["ready"], users, "users", exact=True)
    sheet.check(f"{what}: failed", ours["failed"], 0, "users", exact=True)
    refused = ours["refused_by_throttling"]
    sheet.check(f"{what}: refused by throttling", refused, {}, "calls", exact=True)


def _judge_seconds(sheet: Report, scene: Row, phase: str, boot_seconds: float) -> None:
    ours, nothing = (scene["ways"][way][phase]["seconds"]["p99"] for way in (OURS, NOTHING))
    bound = round(boot_seconds + nothing + ADDED_BOUND_SECONDS, 2)
    sheet.check(f"asked, {phase}: request to ready, p99", ours, bound, "s")


def _judge_burst(sheet: Report, scene: Row, phase: str, boot_seconds: float) -> None:
    ours, nothing = (scene["ways"][way][phase]["wall_seconds"] for way in (OURS, NOTHING))
    claims = claims_seconds(scene["users"]) if phase == FIRST else 0.0
    bound = round(BURST_BOUND * (nothing + max(boot_seconds, claims)), 2)
    sheet.check(f"burst, {phase}: first request to last ready", ours, bound, "s")


def _judge_one_call(sheet: Report, phase: str) -> None:
    for name, scene in sheet.results.items():
        if ONE_CALL in scene["ways"]:
            one_call, ours = (scene["ways"][way][phase] for way in (ONE_CALL, OURS))
            what = f"{name}, {phase}: one call per user is {SLOWER_BOUND:g} times slower"
            worse = is_far_worse(one_call, ours)
            sheet.check(f"{what} or loses users", worse, True, "", exact=True)


def is_far_worse(one_call: Row, ours: Row) -> bool:
    """Whether a way loses users, or takes at least four times as long as ours."""
    if one_call["failed"] or "seconds" not in one_call:
        return True
    return bool(one_call["seconds"]["p99"] >= SLOWER_BOUND * ours["seconds"]["p99"])


async def measure(options: argparse.Namespace) -> list[Report]:
    """The report."""
    chosen = options.ways.split(",")
    planned = scenes(options.users, options.within, alone=options.alone, ways=chosen)
    settings = {
        "users": options.users,
        "within_seconds": options.within,
        "boot_seconds": options.boot_seconds,
        "throttle": options.throttle,
        "files": "in memory, where the system has /dev/shm",
    }
    sheet = Report("surge", options.workers, settings)
    setting = Setting(
        options.workers, options.boot_seconds, STOP_SECONDS, options.throttle, in_memory=True
    )
    for scene in planned:
        begun = time.monotonic()
        ways = {way: await _measured(scene, way, setting, options.keep) for way in scene.ways}
        sheet.results[scene.name] = {
            "users": scene.users,
            "within_seconds": scene.within_seconds,
            "measured_in_seconds": round(time.monotonic() - begun, 1),
            "ways": ways,
        }
    sheet.close()
    if set(chosen) >= WAYS.keys():
        judged(sheet, options.boot_seconds)
    return [sheet]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    add = parser.add_argument
    add("--users", type=int, default=500, help="in the class (500)")
    add("--within", type=float, default=60.0, help="seconds in which all of them come (60)")
    add("--alone", action="store_true", help="no burst and no crowd beside it")
    names = ",".join(WAYS)
    add("--ways", default=names, help=f"some of the ways only, without bounds ({names})")
    add("--boot-seconds", type=float, default=10.0, help="of a machine (10)")
    add("--workers", choices=("stub", "process"), default="stub", help="what a worker is (stub)")
    add("--throttle", choices=("aws", "off"), default="aws", help="EC2's limits, or none (aws)")


if __name__ == "__main__":
    sys.exit(report.main("surge", add_options, measure))
