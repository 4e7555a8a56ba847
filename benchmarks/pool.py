"""``python -m benchmarks.pool``: from a click to a working server, where a spare worker runs.

Each round waits until a spare of the pool runs and was looked at, and has a new user log in, who
gets it; beside it, the bare start of a single-user server on this computer.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from benchmarks import arithmetic, report
from benchmarks.bare import KINDS, USER, Bare
from benchmarks.bed import POLL_SECONDS, Bed, Hub, Setting, made
from benchmarks.client import Client, Start
from benchmarks.report import Report, Row, say
from benchmarks.spawn_overhead import ADDED_BOUND_SECONDS, STOP_SECONDS, WARM_UP_USER
from ec2spawner.model import TAG_OWNER, TAG_PREPARED

POOL = 1
SPARE_SECONDS = 30.0
"""From a login until the next spare runs and was looked at, at most."""
SETTLE_SECONDS = 1.5
"""From a spare's tag until the hub has seen it, and the looking at it is over."""


class NoSpare(Exception):
    """The hub keeps no spare running, although it was told to."""


class Rounds:
    """Measures round by round."""

    def __init__(self, bed: Bed, client: Client, bare: Bare) -> None:
        self._bed = bed
        self._client = client
        self._bare = bare
        self.bare: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.starts: list[Start] = []
        self.from_spares = 0
        self.looked_at = 0

    async def run(self, user: str) -> None:
        """One round with a new user."""
        for kind in KINDS:
            self.bare[kind].append(await self._bare.seconds(kind))
        spares = await self._ready_spares()
        self.starts.append(await self._client.traced(user))
        taken = (await self._bed.worker_of(user))["id"]
        self.from_spares += taken in spares
        await self._client.stop(user)

    async def _ready_spares(self) -> set[str]:
        """Ids of running spares: of such that were looked at, if there are any in a while."""
        deadline = time.monotonic() + SPARE_SECONDS
        while True:
            spares = await self._spares()
            looked_at = {i for i, is_prepared in spares.items() if is_prepared}
            if looked_at:
                self.looked_at += 1
                await asyncio.sleep(SETTLE_SECONDS)
                return looked_at
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        if not spares:
            raise NoSpare
        return set(spares)

    async def _spares(self) -> dict[str, bool]:
        """Running spares by id, and whether they were looked at."""
        rows = (await self._bed.control("GET", "state"))["instances"]
        return {
            row["id"]: TAG_PREPARED in row["tags"]
            for row in rows
            if row["state"] == "running" and TAG_OWNER not in row["tags"]
        }


def results(rounds: Rounds) -> Row:
    """All figures, in seconds."""
    seconds = [start.seconds for start in rounds.starts]
    spans = [arithmetic.phases(start.marks()) for start in rounds.starts]
    bare = rounds.bare
    return {
        "unit": "s",
        "logins_that_got_a_spare": rounds.from_spares,
        "spares_looked_at_before": rounds.looked_at,
        "click_to_ready": arithmetic.summary(seconds),
        "bare_start": {kind: arithmetic.summary(bare[kind]) for kind in KINDS},
        "added_to_plain_start": arithmetic.summary(arithmetic.differences(seconds, bare["plain"])),
        "added_to_our_server": arithmetic.summary(arithmetic.differences(seconds, bare["ours"])),
        "phases": arithmetic.summaries(spans),
    }


def judged(sheet: Report, runs: int) -> None:
    """Note each bound."""
    if "missing" in sheet.results:
        sheet.check("the hub has a pool", False, True, "", exact=True)
        return
    got = sheet.results["logins_that_got_a_spare"]
    sheet.check("logins that got a spare", got, runs, "", exact=True)
    added = sheet.results["added_to_plain_start"]["median"]
    sheet.check("click to ready over a bare start, median", added, ADDED_BOUND_SECONDS, "s")


async def _all_rounds(bed: Bed, hub: Hub, runs: int) -> Rounds:
    client = Client(hub)
    names = [f"user{number}" for number in range(runs)]
    await client.add_users([USER, WARM_UP_USER, *names])
    bare = Bare(bed, hub)
    say("one round that does not count: it fills this computer's file cache")
    await Rounds(bed, client, bare).run(WARM_UP_USER)
    rounds = Rounds(bed, client, bare)
    for name in names:
        await rounds.run(name)
        say(f"{name}: {rounds.starts[-1].seconds:.2f} s, bare {rounds.bare['plain'][-1]:.2f} s")
    return rounds


async def measure(options: argparse.Namespace) -> list[Report]:
    """The report."""
    settings = {
        "runs": options.runs,
        "boot_seconds": options.boot_seconds,
        "POOL_RUNNING": POOL,
    }
    sheet = Report("pool", "process", settings)
    say("pool: starting the emulated cloud, the cluster and the hub")
    setting = Setting("process", options.boot_seconds, STOP_SECONDS)
    async with made(setting, options.keep) as bed:
        hub = await bed.hub("hub", choices={"POOL_RUNNING": POOL})
        try:
            sheet.results = results(await _all_rounds(bed, hub, options.runs))
        except NoSpare:
            say("pool: this hub keeps no spare running: it has no pool")
            sheet.results = {"missing": "no spare was ever running"}
    sheet.close()
    judged(sheet, options.runs)
    return [sheet]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument("--runs", type=int, default=5, help="rounds (5)")
    parser.add_argument("--boot-seconds", type=float, default=2.0, help="of a machine (2)")


if __name__ == "__main__":
    sys.exit(report.main("pool", add_options, measure))
