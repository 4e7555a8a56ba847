"""``python -m benchmarks.control_plane``: AWS calls, the hub's memory, and its event loop's lag.

AWS calls of a first login, of a start of a stopped worker, of 20 of each at once, and of a quiet
minute with 1 and with 50 running servers (two hubs on one cloud, the same minute). Memory of the
hub's process from 0 to 50 running servers, and its event loop's lag during 20 spawns at once,
beside the same hub with a spawner that does nothing. Workers are stubs: no server runs in them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from benchmarks import arithmetic, report
from benchmarks.bed import Bed, Hub, Setting, made
from benchmarks.client import Client, Start
from benchmarks.report import Report, Row, say

SERVERS = 50
AT_ONCE = 20
BOOT_SECONDS = 1.0
STOP_SECONDS = 0.5
POLL_SECONDS = 10
QUIET_SECONDS = 2.5
"""So long without a call that changes anything, and a login is over for the cloud as well."""
SETTLE_SECONDS = 1.0
SAMPLE_SECONDS = 0.25
LISTINGS = frozenset({"DescribeInstances", "DescribeVolumes", "DescribeSnapshots"})
"""What the inventory asks for all workers at once."""
LEASE = frozenset({"PutObject", "GetObject"})
"""With what a hub keeps its lease on the cluster, however many workers there are."""
RENEWALS_PER_MINUTE = 8.0
"""Of the lease, at most: one every 8 to 10 s, and what sampling adds."""


def changing(calls: Mapping[str, int]) -> dict[str, int]:
    """Calls that are neither shared listings nor the lease's."""
    return {action: n for action, n in calls.items() if action not in LISTINGS | LEASE}


def is_of_lease(action: str) -> bool:
    """Whether this is the lease's; the cloud names S3's actions by their service, too."""
    return action.removeprefix("s3:") in LEASE


def beside_lease(calls: Mapping[str, int]) -> dict[str, int]:
    """Calls that are not the lease's."""
    return {action: n for action, n in calls.items() if not is_of_lease(action)}


def of_lease(calls: Mapping[str, int]) -> dict[str, int]:
    """Calls that are the lease's."""
    return {action: n for action, n in calls.items() if is_of_lease(action)}


class Watch:
    """Counts one hub's AWS calls, and measures it, while something is done."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def during(self, work: Callable[[], Awaitable[list[Start]]]) -> Row:
        """Do it; seconds of the starts, calls until the cloud is quiet again, lag meanwhile."""
        await self._hub.reset()
        before = await self._hub.ask("figures")
        begun = time.monotonic()
        starts = await work()
        lasted = time.monotonic() - begun
        ready = await self._hub.ask("figures")
        settled = await self._until_quiet(ready)
        calls = arithmetic.grown(before["aws_calls"], settled["aws_calls"])
        return {
            "click_to_ready": arithmetic.summary([start.seconds for start in starts]),
            "all_ready_seconds": round(lasted, 3),
            "hub_cpu_seconds": round(ready["cpu_seconds"] - before["cpu_seconds"], 3),
            "event_loop_lag": ready["lag"],
            "aws_calls": calls,
            "aws_calls_until_ready": arithmetic.grown(before["aws_calls"], ready["aws_calls"]),
            "aws_calls_beside_listings": changing(calls),
        }

    async def _until_quiet(self, figures: Row) -> Row:
        while True:
            await asyncio.sleep(QUIET_SECONDS)
            later: Row = await self._hub.ask("figures")
            if changing(later["aws_calls"]) == changing(figures["aws_calls"]):
                return later
            figures = later


class Class:
    """Fifty users of one hub, and what is measured while they come."""

    def __init__(self, bed: Bed, hub: Hub) -> None:
        self._bed = bed
        self._hub = hub
        self._client = Client(hub)
        self._watch = Watch(hub)
        self.users = [f"user{number}" for number in range(SERVERS)]
        self.memory: list[Row] = []

    async def note_memory(self, running: int) -> None:
        """What the hub's process takes now."""
        await asyncio.sleep(SETTLE_SECONDS)
        figures = await self._hub.ask("figures")
        kinds = ("rss_bytes", "private_bytes", "tasks", "descriptors")
        self.memory.append({"running": running, **{kind: figures[kind] for kind in kinds}})

    async def _start(self, users: Sequence[str]) -> Row:
        return await self._watch.during(lambda: self._client.start_all(users))

    async def until_still(self) -> None:
        """Wait until the fleet has nothing in transition to look at any more."""
        before: Row = {}
        while before != (now := beside_lease((await self._hub.ask("figures"))["aws_calls"])):
            before = now
            await asyncio.sleep(QUIET_SECONDS)

    async def _stop(self, users: list[str]) -> None:
        await self._client.stop_all(users)
        await self._bed.until_all(users, "stopped")
        for user in users:
            await self._hub.until_stopped(user)

    async def come(self) -> Row:
        """From nobody to fifty: each way alone, twenty at once, and the rest."""
        await self._client.add_users(self.users)
        results: Row = {}
        await self.note_memory(0)
        say("first login of the hub's life")
        results["first_of_the_hub"] = await self._start(self.users[:1])
        await self.note_memory(1)
        say("a first login alone, and a start of its stopped worker")
        results["first_login"] = await self._start(self.users[1:2])
        await self._stop(self.users[1:2])
        results["stopped_worker"] = await self._start(self.users[1:2])
        say(f"{AT_ONCE} first logins at once")
        crowd = self.users[2 : 2 + AT_ONCE]
        results["first_logins_at_once"] = await self._start(crowd)
        await self.note_memory(2 + AT_ONCE)
        say(f"the rest, to {SERVERS} running servers")
        await self._client.start_all(self.users[2 + AT_ONCE :])
        await self.note_memory(SERVERS)
        return results

    async def come_back(self) -> Row:
        """Twenty stop, and start again at once."""
        crowd = self.users[2 : 2 + AT_ONCE]
        say(f"{AT_ONCE} starts of stopped workers at once")
        await self._stop(crowd)
        return {"stopped_workers_at_once": await self._start(crowd)}


class Baseline:
    """The same hub with a spawner that does nothing."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed

    async def measure(self) -> Row:
        """Lag during twenty spawns at once, and memory to fifty servers."""
        hub = await self._bed.hub("nothing", spawner="nothing", poll_seconds=POLL_SECONDS)
        client = Client(hub)
        users = [f"user{number}" for number in range(SERVERS)]
        await client.add_users(users)
        memory = [await self._memory(hub, 0)]
        await client.start_all(users[:2])
        memory.append(await self._memory(hub, 2))
        await hub.reset()
        begun = time.monotonic()
        starts = await client.start_all(users[2 : 2 + AT_ONCE])
        lasted = time.monotonic() - begun
        lag = (await hub.ask("figures"))["lag"]
        await client.start_all(users[2 + AT_ONCE :])
        memory.append(await self._memory(hub, SERVERS))
        await hub.process.stop(STOP_SECONDS + 10)
        return {
            "spawns_at_once": {
                "click_to_ready": arithmetic.summary([start.seconds for start in starts]),
                "all_ready_seconds": round(lasted, 3),
                "event_loop_lag": lag,
            },
            "memory": memory_figures(memory),
        }

    async def _memory(self, hub: Hub, running: int) -> Row:
        await asyncio.sleep(SETTLE_SECONDS)
        return {"running": running, **(await hub.ask("figures"))}


def memory_figures(samples: Sequence[Mapping[str, Any]]) -> Row:
    """Growth per running server: from the first sample, and from the second one, by which all that
    is loaded at a hub's first start is there."""
    first, second, last = samples[0], samples[1], samples[-1]
    return {
        "samples": [
            {
                "running": sample["running"],
                "rss_mib": round(sample["rss_bytes"] / 2**20, 1),
                "private_mib": round(sample["private_bytes"] / 2**20, 1),
                "tasks": sample["tasks"],
                "descriptors": sample["descriptors"],
            }
            for sample in samples
        ],
        "rss_kib_per_server": _kib_per_server(first, last),
        "rss_kib_per_further_server": _kib_per_server(second, last),
    }


def _kib_per_server(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    grown, servers = (after[of] - before[of] for of in ("rss_bytes", "running"))
    return float(round(grown / servers / 1024, 1))


def lag_over(logins: Mapping[str, Any], baseline: Mapping[str, Any]) -> Row:
    """By how much the event loop lags more than with a spawner that does nothing, at once."""
    floor = baseline["spawns_at_once"]["event_loop_lag"]
    return {
        way: {
            q: round(logins[way]["event_loop_lag"][q] - floor[q], 2) for q in ("p50_ms", "p99_ms")
        }
        for way in ("first_logins_at_once", "stopped_workers_at_once")
    }


async def _sampled(hub: Hub, seconds: float) -> list[tuple[float, dict[str, int]]]:
    """The hub's counts of AWS calls, again and again."""
    samples: list[tuple[float, dict[str, int]]] = []
    end = time.monotonic() + seconds
    while not samples or time.monotonic() < end:
        samples.append((time.monotonic(), (await hub.ask("figures"))["aws_calls"]))
        await asyncio.sleep(SAMPLE_SECONDS)
    return samples


async def quiet_minute(bed: Bed, hubs: Mapping[int, Hub], seconds: float) -> Row:
    """Calls of hubs in which nobody does anything, by the number of their running servers."""
    cloud_before = await bed.calls()
    sampled = await asyncio.gather(*(_sampled(hub, seconds) for hub in hubs.values()))
    cloud_calls = beside_lease(arithmetic.grown(cloud_before, await bed.calls()))
    counted = [arithmetic.grown(samples[0][1], samples[-1][1]) for samples in sampled]
    rates = [arithmetic.rates(samples) for samples in sampled]
    return {
        "seconds": seconds,
        "server_polls_per_minute_each": 60 / POLL_SECONDS,
        **{
            f"with_{number}_running": {
                "calls_per_minute": {a: r for a, r in rate.items() if not is_of_lease(a)},
                "calls": beside_lease(calls),
                "calls_beside_listings": changing(calls),
                "lease_calls": of_lease(calls),
                "lease_calls_per_minute": {a: r for a, r in rate.items() if is_of_lease(a)},
            }
            for number, rate, calls in zip(hubs, rates, counted, strict=True)
        },
        "calls_counted_by_the_hubs": sum(sum(beside_lease(c).values()) for c in counted),
        "calls_counted_by_the_cloud": sum(cloud_calls.values()),
    }


def judged(sheet: Report) -> None:
    """Note each bound."""
    results = sheet.results
    beside = {name: row["aws_calls_beside_listings"] for name, row in results["logins"].items()}
    check = sheet.check
    start = {"StartInstances": 1}
    check("calls of a start of a stopped worker", beside["stopped_worker"], start, "", exact=True)
    first = {"CreateTags": 2, "RunInstances": 1}
    check("calls of a first login", beside["first_login"], first, "", exact=True)
    quiet = results["quiet_minute"]
    few, many = quiet["with_1_running"], quiet[f"with_{SERVERS}_running"]
    for kind, unit in (("calls_per_minute", "1/min"), ("calls_beside_listings", "")):
        name = f"{kind.replace('_', ' ')} with {SERVERS} running, as with 1"
        check(name, many[kind], few[kind], unit, exact=True)
    for number, row in ((1, few), (SERVERS, many)):
        renewals = row["lease_calls_per_minute"].get("PutObject", 0.0)
        check(f"lease renewals with {number} running", renewals, RENEWALS_PER_MINUTE, "1/min")
    by_cloud = quiet["calls_counted_by_the_cloud"]
    check(
        "every call is one of the hubs', beside the lease's",
        quiet["calls_counted_by_the_hubs"],
        by_cloud,
        "",
        exact=True,
    )
    check("calls refused by the cloud", results["refused"], {}, "", exact=True)


async def measure(options: argparse.Namespace) -> list[Report]:
    """The report."""
    settings = {
        "servers": SERVERS,
        "spawns_at_once": AT_ONCE,
        "boot_seconds": BOOT_SECONDS,
        "throttle": "aws",
        "poll_interval_seconds": POLL_SECONDS,
        "quiet_seconds": options.quiet_seconds,
        "files": "in memory, where the system has /dev/shm",
    }
    sheet = Report("control_plane", "stub", settings)
    say("control_plane: starting the emulated cloud, the cluster and two hubs")
    setting = Setting("stub", BOOT_SECONDS, STOP_SECONDS, in_memory=True)
    async with made(setting, options.keep) as bed:
        many, one = await asyncio.gather(
            bed.hub("many", poll_seconds=POLL_SECONDS), bed.hub("one", poll_seconds=POLL_SECONDS)
        )
        await bed.control("POST", "calls/reset")
        alone = Client(one)
        await alone.add_users(["single"])
        await alone.start("single")
        school = Class(bed, many)
        logins = await school.come()
        await school.until_still()
        say(
            f"{options.quiet_seconds:.0f} s in which nobody does anything, on both hubs;"
            " the hub with a spawner that does nothing is measured meanwhile"
        )
        quiet, baseline = await asyncio.gather(
            quiet_minute(bed, {1: one, SERVERS: many}, options.quiet_seconds),
            Baseline(bed).measure(),
        )
        await school.note_memory(SERVERS)
        logins |= await school.come_back()
        sheet.results = {
            "logins": logins,
            "lag_over_hub_that_does_nothing": lag_over(logins, baseline),
            "quiet_minute": quiet,
            "memory": memory_figures(school.memory),
            "hub_that_does_nothing": baseline,
            "refused": await bed.refused(),
        }
    sheet.close()
    judged(sheet)
    return [sheet]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument(
        "--quiet-seconds", type=float, default=65.0, help="length of the quiet minute (65)"
    )


if __name__ == "__main__":
    sys.exit(report.main("control_plane", add_options, measure))
