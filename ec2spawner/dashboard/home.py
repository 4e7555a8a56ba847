"""What a user's home page shows of the user's own machines.

Owns the reading of it from the fleet's listing and the hub's rows. Must not decide anything, nor
know HTML: its texts are escaped where they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timezone
from typing import Any

from ec2spawner import keeping
from ec2spawner.dashboard import machines
from ec2spawner.keeping import Kept
from ec2spawner.listing import current_worker
from ec2spawner.model import InstanceState, Owner, Worker
from ec2spawner.wiring import Cluster, profile_names

STATE_WORDS: Mapping[InstanceState, str] = {
    InstanceState.PENDING: "starting",
    InstanceState.RUNNING: "running",
    InstanceState.STOPPING: "stopping",
    InstanceState.STOPPED: "stopped",
}


@dataclass(frozen=True)
class HomeMachine:
    """One of the user's machines; ``stops_at`` (epoch seconds): if nobody works on it."""

    server: str
    profile: str
    instance_type: str
    zone: str
    state: str
    is_serving: bool
    since: float | None
    stops_at: float | None
    kept: Kept | None


def machines_of(user: Any, cluster: Cluster) -> list[HomeMachine]:
    """A JupyterHub user's machines, the usual server's first."""
    return list(_machines_of(user, cluster))


def _machines_of(user: Any, cluster: Cluster) -> Iterator[HomeMachine]:
    view = cluster.servers.fleet.view()
    names = profile_names(cluster.config)
    timeout = cluster.config.JUPYTER_NOTEBOOK_TIMEOUT
    for spawner in user.all_spawners():
        worker = current_worker(view, Owner(user.name, spawner.name).key)
        if worker is not None:
            yield _machine(spawner, worker, names.get(worker.profile, worker.profile), timeout)


def _machine(spawner: Any, worker: Worker, profile: str, timeout: float) -> HomeMachine:
    is_serving = bool(spawner.ready) and worker.state is InstanceState.RUNNING
    kept = getattr(spawner, "kept", None) if is_serving else None
    last = last_activity(spawner) if is_serving else None
    return HomeMachine(
        server=spawner.name,
        profile=profile,
        instance_type=worker.instance_type,
        zone=worker.zone,
        state=STATE_WORDS.get(worker.state, worker.state.value),
        is_serving=is_serving,
        since=machines.since(worker),
        stops_at=keeping.stops_at(last, kept, timeout) if is_serving else None,
        kept=kept,
    )


def last_activity(row: Any) -> float | None:
    """Of a row of the hub's, whose moments are UTC without saying so; else when it was started."""
    moment = row.last_activity or getattr(row, "started", None)
    return moment.replace(tzinfo=timezone.utc).timestamp() if moment else None
