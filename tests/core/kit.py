"""A hub's fleet over a ``FakeCloud``: begun, killed at any moment, begun again."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from types import MappingProxyType

from core.fakes import FakeCloud
from core.virtual import clock, until
from ec2spawner.execution import LaunchSettings
from ec2spawner.fleet import Fleet
from ec2spawner.journal import Journal
from ec2spawner.model import Owner, Worker
from ec2spawner.placement import Profile, Subnet
from ec2spawner.wishes import Demand, Policy

POLICY = Policy(
    profiles=MappingProxyType({"default": Profile("default", ("t3.medium",), 10)}),
    subnets=(Subnet("subnet-a", "a"), Subnet("subnet-b", "b")),
)
SETTINGS = LaunchSettings("lt-1", MappingProxyType({"Owner": "school"}))


def demand(user: str, server: str = "", incarnation: str = "", **more: bool) -> Demand:
    """A wish of today; a user's row in the hub is named after the user unless told otherwise."""
    owner = Owner(user, server)
    row = incarnation or f"row{owner.key}".replace("-", "")
    return Demand(owner, "default", row, clock(), **more)


__all__ = ["POLICY", "SETTINGS", "Hub", "demand", "until"]


class Hub:
    """One life of a hub: its fleet; ``kill`` ends it as SIGKILL does, ``close`` as SIGTERM."""

    def __init__(self, cloud: FakeCloud, folder: Path, policy: Policy = POLICY) -> None:
        self.cloud = cloud
        self.folder = folder
        self.policy = policy
        self.fleet = Fleet(cloud, policy, SETTINGS, Journal(folder / "journal.json"), clock=clock)
        self.fleet.start()

    async def log_in(
        self, user: str, server: str = "", incarnation: str = "", **more: bool
    ) -> Worker:
        """What ``Servers.start`` does of it: wait for the machine, note that the home is open."""
        ticket = self.fleet.want(demand(user, server, incarnation, **more))
        while True:
            worker = await self.fleet.provided(ticket)
            lost = asyncio.ensure_future(self.fleet.lost(ticket, worker))
            booted = asyncio.ensure_future(self._answers(worker))
            try:
                await asyncio.wait({lost, booted}, return_when=asyncio.FIRST_COMPLETED)
                if not lost.done():
                    self.fleet.note_served(ticket.owner, worker)
                    self.fleet.note_mounted(worker)
                    return worker
            finally:
                lost.cancel()
                booted.cancel()
                self.fleet.watch(worker, on=False)

    async def _answers(self, worker: Worker) -> None:
        for tries in itertools.count():
            if self.cloud.answers(worker.instance_id):
                self.fleet.note_answer(worker)
                return
            if tries % 50 == 49:
                self.fleet.note_silence(worker)
            if tries == 20:
                self.fleet.watch(worker, on=True)
            await asyncio.sleep(0.1)

    def kill(self) -> Hub:
        """The hub dies without a last word; the next one, which finds what it left."""
        for task in self.fleet._tasks.running:
            task.cancel()
        later = self.fleet.journal._later
        if later:
            later.cancel()
        return Hub(self.cloud, self.folder, self.policy)
