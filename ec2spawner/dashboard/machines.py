"""One row for each machine of the cluster, as admins see it.

Pure. Owns what is told of a machine, and the order of rows. Must not know the hub's classes, nor
HTML: everything here is text as it came, from users and tags too, and whoever shows it escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from ec2spawner import keeping
from ec2spawner.keeping import Kept
from ec2spawner.listing import Listing
from ec2spawner.model import TAG_USER, InstanceState, Owner, Role, Worker

UP = (InstanceState.PENDING, InstanceState.RUNNING)


@dataclass(frozen=True)
class Server:
    """A server of the hub's, as its database has it; moments are epoch seconds."""

    owner: Owner
    is_running: bool
    last_activity: float | None = None
    kept: Kept | None = None


@dataclass(frozen=True)
class Machine:
    """What is told of one machine; moments are epoch seconds, None where nobody knows them."""

    user: str
    server: str
    instance_id: str
    profile: str
    instance_type: str
    market: str
    zone: str
    state: str
    since: float | None
    stops_at: float | None
    kept_until: float | None
    kept_by: str
    note: str

    @property
    def words(self) -> str:
        """All that the filter looks through, in small letters."""
        told = (self.user, self.server, self.instance_id, self.profile, self.instance_type)
        return " ".join((*told, self.market, self.zone, self.state, self.note)).lower()

    def to_json(self) -> dict[str, Any]:
        """As the API tells it."""
        row = asdict(self)
        for key in ("since", "stops_at", "kept_until"):
            row[key] = iso(row[key])
        return row


def machines(
    view: Listing, servers: Iterable[Server], names: Mapping[str, str], timeout_seconds: float
) -> list[Machine]:
    """All machines, by user and server; those of nobody come last.

    ``names``: of profiles, by their slugs.
    """
    by_key = {server.owner.key: server for server in servers}
    workers = [w for w in view.workers.values() if w.role == Role.WORKER.value and w.is_alive]
    rows = [_row(w, by_key.get(w.owner or ""), names, timeout_seconds) for w in workers]
    return sorted(rows, key=lambda row: (not row.user, row.user, row.server, row.instance_id))


def _row(
    worker: Worker, server: Server | None, names: Mapping[str, str], timeout_seconds: float
) -> Machine:
    serves = server is not None and server.is_running and worker.state is InstanceState.RUNNING
    kept = server.kept if serves and server else None
    return Machine(
        user=server.owner.user if server else worker.tags.get(TAG_USER, worker.owner or ""),
        server=server.owner.server if server else "",
        instance_id=worker.instance_id,
        profile=names.get(worker.profile, worker.profile),
        instance_type=worker.instance_type,
        market=worker.market,
        zone=worker.zone,
        state=worker.state.value,
        since=since(worker),
        stops_at=keeping.stops_at(server.last_activity, kept, timeout_seconds)
        if serves and server
        else None,
        kept_until=kept.until if kept else None,
        kept_by=kept.by if kept else "",
        note=_note(worker, server),
    )


def _note(worker: Worker, server: Server | None) -> str:
    """What is unusual about it; "" where nothing is."""
    if worker.deleted:
        return "given up"
    if worker.broken:
        return "broken"
    if worker.replaced:
        return "replaced"
    if worker.owner is None:
        return "spare"
    return "" if server else "its server is not in this hub"


def since(worker: Worker) -> float | None:
    """Since when it has been up, or down; None where EC2 does not say."""
    moment = worker.launched_at if worker.state in UP else worker.stopped_at
    return moment or None


def iso(moment: float | None) -> str | None:
    """As HTML's ``time`` and JSON want it: UTC, to the second."""
    if moment is None:
        return None
    at = datetime.fromtimestamp(moment, tz=timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def in_words(moment: float | None) -> str:
    """For people whose browser does not write it in their own time."""
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
