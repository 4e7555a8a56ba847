"""The hub's data that an earlier manager of the cluster left: its volume, or a snapshot of it.

Owns which of them is the newest, and the snapshot by which a new manager gets it, in whatever zone
it is. Must not delete anything: what is taken over stays as it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import EC2SpawnerError
from ec2spawner.model import TAG_CLUSTER, TAG_ROLE, Role, tags_of

from .facts import HubData
from .reporter import Elapsed, Reporter

TAG_BACKUP = "ec2spawner:backup"
"""Of this the daily snapshots are made (``templates/manager.yaml``)."""
TAG_TAKEOVER = "ec2spawner:takeover"
"""On a snapshot that a new manager is to begin from: the volume that it is of."""
POLL_SECONDS = 5.0
SNAPSHOT_DEADLINE_SECONDS = 3600.0
REUSE_SECONDS = 2 * SNAPSHOT_DEADLINE_SECONDS
"""A run that was broken off leaves its snapshot to the next; later somebody may have written to the
volume, and another snapshot of what is the same costs next to nothing."""


class DataNotSaved(EC2SpawnerError):
    """The snapshot of the hub's data did not come to be."""

    code = "data-not-saved"


def newest(
    volumes: Iterable[Mapping[str, Any]], snapshots: Iterable[Mapping[str, Any]]
) -> HubData | None:
    """The newest volume, which is the one in use last; where there is none, the newest snapshot.

    Elements of DescribeVolumes' ``Volumes`` and DescribeSnapshots' ``Snapshots``.
    """
    there = [raw for raw in volumes if raw["State"] in ("available", "in-use")]
    if there:
        raw = max(there, key=lambda v: (_moment(v["CreateTime"]), v["VolumeId"]))
        held = next((a["InstanceId"] for a in raw.get("Attachments") or ()), "")
        return HubData(raw["VolumeId"], raw["Size"], held_by=held)
    saved = [raw for raw in snapshots if raw["State"] == "completed"]
    if not saved:
        return None
    raw = max(saved, key=lambda s: (_moment(s["StartTime"]), s["SnapshotId"]))
    return HubData(raw["SnapshotId"], raw["VolumeSize"], snapshot_id=raw["SnapshotId"])


def _moment(value: datetime) -> float:
    return value.timestamp()


async def find_data(gateway: Gateway, cluster: str) -> HubData | None:
    """The data that an earlier manager left; None if there was none."""
    filters = [
        {"Name": f"tag:{TAG_CLUSTER}", "Values": [cluster]},
        {"Name": f"tag:{TAG_ROLE}", "Values": [Role.MANAGER.value]},
    ]
    volumes = await gateway.pages("ec2", "describe_volumes", {"Filters": filters})
    snapshots = await gateway.pages(
        "ec2", "describe_snapshots", {"Filters": filters, "OwnerIds": ["self"]}
    )
    return newest(
        # The root disk of a manager bears the same tags.
        (v for p in volumes for v in p["Volumes"] if not _goes_with_its_instance(v)),
        (s for p in snapshots for s in p["Snapshots"]),
    )


def _goes_with_its_instance(raw: Mapping[str, Any]) -> bool:
    return any(a.get("DeleteOnTermination") for a in raw.get("Attachments") or ())


def begun_before(snapshots: Iterable[Mapping[str, Any]], volume_id: str, now: float) -> str | None:
    """The newest snapshot that an earlier run began for the same end, not long ago; None: none.

    Elements of DescribeSnapshots' ``Snapshots``; ``now`` in seconds of the epoch.
    """
    fit = [
        raw
        for raw in snapshots
        if tags_of(raw).get(TAG_TAKEOVER) == volume_id
        and raw["State"] in ("pending", "completed")
        and now - _moment(raw["StartTime"]) <= REUSE_SECONDS
    ]
    by_age = sorted(fit, key=lambda s: (_moment(s["StartTime"]), s["SnapshotId"]))
    return str(by_age[-1]["SnapshotId"]) if fit else None


async def save(
    gateway: Gateway,
    cluster: str,
    data: HubData,
    reporter: Reporter,
    *,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """The id of a completed snapshot of the data; the volume is no longer saved daily."""
    if data.snapshot_id:
        return data.snapshot_id
    ec2 = EC2(gateway, cluster)
    snapshot_id = await _begin(gateway, ec2, cluster, data.ident)
    elapsed = Elapsed(reporter, clock, f"Saving the hub's data of {data.ident} ({snapshot_id})")
    while (state := await _state_of(gateway, snapshot_id)) != "completed":
        if state == "error" or elapsed.seconds > SNAPSHOT_DEADLINE_SECONDS:
            raise DataNotSaved(
                f"The snapshot {snapshot_id} of the hub's data in {data.ident} is {state}.",
                next_step="Run the same command again; with --new-data it begins without them.",
            )
        elapsed.tick(state)
        await sleep(POLL_SECONDS)
    await ec2.untag([data.ident], [TAG_BACKUP])
    elapsed.finish("done")
    return snapshot_id


async def _begin(gateway: Gateway, ec2: EC2, cluster: str, volume_id: str) -> str:
    tags = {
        "Name": f"ec2spawner-{cluster}-manager",
        TAG_CLUSTER: cluster,
        TAG_ROLE: Role.MANAGER.value,
        TAG_TAKEOVER: volume_id,
    }
    filters = [
        {"Name": f"tag:{TAG_CLUSTER}", "Values": [cluster]},
        {"Name": f"tag:{TAG_TAKEOVER}", "Values": [volume_id]},
    ]
    params = {"Filters": filters, "OwnerIds": ["self"]}
    pages = await gateway.pages("ec2", "describe_snapshots", params)
    before = begun_before((s for p in pages for s in p["Snapshots"]), volume_id, time.time())
    return before or (await ec2.snapshot(volume_id, tags)).snapshot_id


async def _state_of(gateway: Gateway, snapshot_id: str) -> str:
    filters = [{"Name": "snapshot-id", "Values": [snapshot_id]}]
    params = {"Filters": filters, "OwnerIds": ["self"]}
    reply = await gateway.call("ec2", "describe_snapshots", params)
    return next((str(s["State"]) for s in reply["Snapshots"]), "not listed yet")
