"""``python -m benchmarks.spawn_overhead``: what we add between a click and a working server.

Click to ready (the hub's progress stream says so, and the user's own URL answers through the
proxy) of a first login, of a start of a stopped worker, and of a start on a running worker whose
server died; each against its floor of the same round: the boot seconds that the emulated cloud
was told, and the bare start of ``jupyterhub-singleuser`` on this computer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import arithmetic, report
from benchmarks.bare import KINDS, USER, Bare
from benchmarks.bed import Bed, Hub, Setting, made
from benchmarks.client import Client, Start
from benchmarks.report import Report, Row, say

ADDED_BOUND_SECONDS = 0.5
STOP_SECONDS = 0.3
WARM_UP_USER = "warm-up"
WAYS = {
    "first_login": "first login: launch, boot, home, server",
    "stopped_worker": "start of a stopped worker",
    "running_worker": "start on a running worker whose server has died",
}
PHASE_NAMES = {
    "start": "the hub takes the request and begins",
    "machine": "fleet: the worker is chosen, launched or started, claimed, booting",
    "connected": "the machine boots (the emulated boot seconds are in here), SSH answers",
    "home": "ec2spawner-worker starts, finds the home",
    "format": "a blank home is looked at",
    "mount": "the home is formatted or looked at",
    "server": "the home is mounted",
    "wait": "the server's process is started",
    "answered_worker": "jupyterhub-singleuser starts, until it answers on the worker",
    "saved": "JupyterHub saves the state",
    "wait_up": "JupyterHub's own wait_up",
    "route": "JupyterHub adds the proxy's route",
    "ready_seen": "the progress stream says ready",
    "page": "the user's URL answers through the proxy",
}
"""Each phase by the moment that ends it."""


class Rounds:
    """Measures round by round: in each, every way and every bare start once."""

    def __init__(self, bed: Bed, hub: Hub, client: Client, bare: Bare) -> None:
        self._bed = bed
        self._hub = hub
        self._client = client
        self._bare = bare
        self.bare: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.starts: dict[str, list[Start]] = {way: [] for way in WAYS}

    async def run(self, user: str, *, bare_first: bool) -> None:
        """One round with a new user; the bare starts come before or after the others."""
        if bare_first:
            await self._bare_starts(KINDS)
        await self._start("first_login", user)
        await self._bed.kill_server(user)
        await self._start("running_worker", user)
        await self._stop(user)
        await self._start("stopped_worker", user)
        await self._stop(user)
        if not bare_first:
            await self._bare_starts(KINDS[::-1])

    async def _bare_starts(self, kinds: Sequence[str]) -> None:
        for kind in kinds:
            self.bare[kind].append(await self._bare.seconds(kind))

    async def _start(self, way: str, user: str) -> None:
        self.starts[way].append(await self._client.traced(user))

    async def _stop(self, user: str) -> None:
        await self._client.stop(user)
        await self._hub.until_stopped(user)


def floor(way: str, boot_seconds: float, bare_seconds: float) -> float:
    """What nobody can be faster than: the boot where there is one, and the server's own start."""
    return bare_seconds + (0.0 if way == "running_worker" else boot_seconds)


def results(rounds: Rounds, boot_seconds: float) -> Row:
    """All figures, in seconds."""
    ways = {}
    for way, starts in rounds.starts.items():
        seconds = [start.seconds for start in starts]
        spans = arithmetic.summaries([arithmetic.phases(start.marks()) for start in starts])
        added = {
            kind: arithmetic.differences(seconds, [floor(way, boot_seconds, b) for b in bare])
            for kind, bare in rounds.bare.items()
        }
        ways[way] = {
            "what": WAYS[way],
            "click_to_ready": arithmetic.summary(seconds),
            "added_to_plain_floor": arithmetic.summary(added["plain"]),
            "added_to_our_server_floor": arithmetic.summary(added["ours"]),
            "click_to_accepted": arithmetic.summary([s.accepted - s.sent for s in starts]),
            "phases": {name: {"what": PHASE_NAMES[name], **s} for name, s in spans.items()},
        }
    bare = {kind: arithmetic.summary(seconds) for kind, seconds in rounds.bare.items()}
    return {"unit": "s", "boot_seconds": boot_seconds, "bare_start": bare, **ways}


def own_metrics(metrics: Row) -> Row:
    """Mean seconds of each phase over all starts, as the hub's ``/hub/metrics`` show them."""
    name = "ec2spawner_start_phase_seconds"
    means = {
        phase: round(metrics[f"{name}_sum['{phase}']"] / metrics[f"{name}_count['{phase}']"], 4)
        for phase in ("machine", "ssh", "server")
    }
    return {"what": "mean seconds of each phase, all starts of this hub", **means}


def judged(sheet: Report) -> None:
    """Note each bound."""
    for way in WAYS:
        added = sheet.results[way]["added_to_plain_floor"]["median"]
        sheet.check(f"{way}: added to the floor, median", added, ADDED_BOUND_SECONDS, "s")


async def measure(options: argparse.Namespace) -> list[Report]:
    """The report."""
    settings = {"runs": options.runs, "boot_seconds": options.boot_seconds}
    sheet = Report("spawn_overhead", "process", settings)
    say("spawn_overhead: starting the emulated cloud, the cluster and the hub")
    setting = Setting("process", options.boot_seconds, STOP_SECONDS)
    async with made(setting, options.keep) as bed:
        hub = await bed.hub("hub")
        client = Client(hub)
        names = [f"user{number}" for number in range(options.runs)]
        await client.add_users([USER, WARM_UP_USER, *names])
        bare = Bare(bed, hub)
        say("one round that does not count: it fills this computer's file cache")
        await Rounds(bed, hub, client, bare).run(WARM_UP_USER, bare_first=True)
        rounds = Rounds(bed, hub, client, bare)
        for number, name in enumerate(names):
            await rounds.run(name, bare_first=number % 2 == 0)
            say(f"round {number + 1} of {options.runs}: {_glance(rounds)}")
        sheet.results = results(rounds, options.boot_seconds)
        sheet.results["own_metrics"] = own_metrics((await hub.ask("figures"))["metrics"])
    sheet.close()
    judged(sheet)
    return [sheet]


def _glance(rounds: Rounds) -> str:
    figures = {f"bare {kind}": seconds[-1] for kind, seconds in rounds.bare.items()}
    figures |= {way: starts[-1].seconds for way, starts in rounds.starts.items()}
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in figures.items())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument("--runs", type=int, default=10, help="rounds (10)")
    parser.add_argument("--boot-seconds", type=float, default=2.0, help="of a machine (2)")


if __name__ == "__main__":
    sys.exit(report.main("spawn_overhead", add_options, measure))
