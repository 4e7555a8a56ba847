"""``launch-cluster status``: what a cluster is made of and what it does now. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import NotFound
from ec2spawner.model import InstanceState, Role, Volume, Worker
from ec2spawner.s3 import Objects
from ec2spawner.settings import worker_image_parameter
from ec2spawner.tenancy import key_of, read_record

from .belongings import INSTANCE, Belonging, Belongings
from .facts import StackFacts
from .looking import account_of
from .reporter import Reporter
from .stacks import Stacks

GONE = (InstanceState.TERMINATED, InstanceState.SHUTTING_DOWN)


@dataclass(frozen=True)
class Status:
    """What was found; no stack at all: there is no such cluster."""

    account: str
    stacks: tuple[StackFacts, ...]
    things: tuple[Belonging, ...]
    workers: tuple[Worker, ...]
    homes: tuple[Volume, ...]
    image_id: str | None
    hub: str | None
    """Who wrote the lease last, and whether that hub has ended."""

    @property
    def url(self) -> str | None:
        """The hub's address, where the cluster has a manager."""
        for outputs in (stack.outputs for stack in self.stacks):
            if outputs.get("Domain"):
                return f"https://{outputs['Domain']}"
            if outputs.get("PublicAddress"):
                return f"http://{outputs['PublicAddress']}"
        return None

    def machines(self) -> dict[str, dict[str, int]]:
        """Workers by profile and by state; those of nobody are spares."""
        counted: dict[str, Counter[str]] = {}
        for worker in self.workers:
            state = worker.state.value + ("" if worker.owner else " (spare)")
            counted.setdefault(worker.profile or "default", Counter())[state] += 1
        return {profile: dict(states) for profile, states in sorted(counted.items())}

    def document(self, cluster: str, region: str) -> dict[str, Any]:
        """The result for ``--output json``."""
        return {
            "cluster": cluster,
            "region": region,
            "account": self.account,
            "exists": bool(self.stacks),
            "stacks": {stack.name: stack.status for stack in self.stacks},
            "url": self.url,
            "hub": self.hub,
            "worker_image": self.image_id,
            "workers": self.machines(),
            "other_instances": [
                {"id": thing.ident, "role": thing.role, "state": thing.state}
                for thing in self._others()
            ],
            "homes": {"count": len(self.homes), "gib": sum(home.size_gib for home in self.homes)},
        }

    def _others(self) -> Sequence[Belonging]:
        return [t for t in self.things if t.kind == INSTANCE and t.role != Role.WORKER.value]

    def lines(self, cluster: str, region: str) -> list[str]:
        """The same for people."""
        head = f"Cluster {cluster} ({region}, account {self.account})"
        if not self.stacks:
            return [f"{head}: there is none.", *(f"  left: {thing}" for thing in self.things)]
        gib = sum(home.size_gib for home in self.homes)
        return [
            f"{head}:",
            *(f"  stack {stack.name}: {stack.status}" for stack in self.stacks),
            *([f"  address {self.url}"] if self.url else []),
            f"  hub: {self.hub or 'none has run yet'}",
            *(f"  {t.role or 'other'} {t.ident}: {t.state}" for t in self._others()),
            f"  image of the workers: {self.image_id or 'none'}",
            *_machine_lines(self.machines()),
            f"  homes: {len(self.homes)}, {gib} GiB",
        ]


def _machine_lines(machines: Mapping[str, Mapping[str, int]]) -> list[str]:
    if not machines:
        return ["  no workers"]
    return [
        f"  workers, profile {profile}: "
        + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        for profile, states in machines.items()
    ]


async def look(gateway: Gateway, cluster: str, region: str, reporter: Reporter) -> Status:
    """All that a status says."""
    account = await account_of(gateway)
    stacks = Stacks(gateway, reporter)
    names = [f"ec2spawner-{cluster}{suffix}" for suffix in ("-network", "", "-manager")]
    found = [await stacks.look(name) for name in names]
    ec2 = EC2(gateway, cluster)
    bucket = f"ec2spawner-{cluster}-{account}-{region}"
    workers = [w for w in await ec2.list_workers() if w.state not in GONE]
    return Status(
        account=account,
        stacks=tuple(stack for stack in found if stack),
        things=tuple(await Belongings(gateway, cluster, bucket).look()),
        workers=tuple(workers),
        homes=tuple(v for v in await ec2.list_volumes() if v.is_home),
        image_id=await ec2.parameter(worker_image_parameter(cluster)),
        hub=await _hub(Objects(gateway, bucket), cluster),
    )


async def _hub(bucket: Objects, cluster: str) -> str | None:
    try:
        stored = await bucket.get(key_of(cluster))
    except NotFound:
        return None
    record = read_record(stored.body) if stored else None
    if record is None:
        return None
    where = f"process {record.process.pid} on {record.process.host}"
    return f"{where}, since {record.since}" + (", has ended" if record.is_ended else "")


async def run(gateway: Gateway, cluster: str, region: str, reporter: Reporter) -> dict[str, Any]:
    """Look, and say it."""
    status = await look(gateway, cluster, region, reporter)
    reporter.show(status.lines(cluster, region))
    return status.document(cluster, region)
