"""A fleet in a process of its own, for ``steady``: without a hub, for so long, then its figures.

``python -m benchmarks.steady_fleet WORKERS SECONDS FOLDER``; AWS is where the environment says.
Every worker that ``seeded`` made is wanted by its owner.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks import arithmetic, inside, seeded
from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.execution import LaunchSettings
from ec2spawner.fleet import Fleet
from ec2spawner.journal import Journal
from ec2spawner.placement import Profile, Subnet
from ec2spawner.wiring import DEFAULT_PROFILE, SLACK_SECONDS
from ec2spawner.wishes import Demand, Policy

SETTLE_SECONDS = 3.0
POLL_SECONDS = 0.05


def made(folder: Path) -> Fleet:
    """A fleet on the seeded cluster, as a hub wires it."""
    gateway = Gateway(seeded.REGION, slack_seconds=SLACK_SECONDS)
    profile = Profile(DEFAULT_PROFILE, ("t3.medium",), 10)
    policy = Policy(
        profiles=MappingProxyType({DEFAULT_PROFILE: profile}),
        subnets=(Subnet("subnet-0123456789abcdef0", f"{seeded.REGION}a"),),
    )
    settings = LaunchSettings("lt-0123456789abcdef0", MappingProxyType({}))
    journal = Journal(folder / "journal.json")
    return Fleet(EC2(gateway, seeded.CLUSTER), policy, settings, journal, turn=gateway.turn)


def _figures() -> dict[str, Any]:
    times = os.times()
    return {
        "at": time.monotonic(),
        "cpu_seconds": times.user + times.system,
        "aws_calls": inside.aws_calls(),
    }


async def measure(workers: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Want all workers, and do nothing else for so long."""
    fleet = made(folder)
    for number in range(workers):
        owner = seeded.owner_of(number)
        row = f"{number:016x}"
        fleet.want(Demand(owner, DEFAULT_PROFILE, row, time.time(), is_waiting=False))
    fleet.start()
    while not fleet.view().is_known:
        await asyncio.sleep(POLL_SECONDS)
    await asyncio.sleep(SETTLE_SECONDS)
    before, lag = _figures(), inside.LagMeter()
    sampling = asyncio.ensure_future(lag.run())
    await asyncio.sleep(seconds)
    after = _figures()
    sampling.cancel()
    found = {
        "seconds": round(after["at"] - before["at"], 1),
        "cpu_seconds": round(after["cpu_seconds"] - before["cpu_seconds"], 2),
        "aws_calls": arithmetic.grown(before["aws_calls"], after["aws_calls"]),
        "event_loop_lag": lag.report(),
        "rss_bytes": inside.memory()["rss_bytes"],
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "workers_listed": len(fleet.view().workers),
    }
    await fleet.close()
    return found


def main(arguments: list[str]) -> int:
    """The command."""
    workers, seconds, folder = int(arguments[0]), float(arguments[1]), Path(arguments[2])
    found = asyncio.run(measure(workers, seconds, folder))
    (folder / "figures.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
