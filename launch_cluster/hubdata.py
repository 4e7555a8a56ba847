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
from ec2spawner.model import TAG_CLUSTER, TAG_ROLE, Role

from .facts import HubData
from .reporter import Elapsed, Reporter

TAG_BACKUP = "ec2spawner:backup"
"""Of this the daily snapshots are made (``templates/manager.yaml``)."""
POLL_SECONDS = 5.0
SNAPSHOT_DEADLINE_SECONDS = 3600.0


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
    tags = {
        "Name": f"ec2spawner-{cluster}-manager",
        TAG_CLUSTER: cluster,
        TAG_ROLE: Role.MANAGER.value,
    }
    snapshot_id = (await ec2.snapshot(data.ident, tags)).snapshot_id
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


async def _state_of(gateway: Gateway, snapshot_id: str) -> str:
    filters = [{"Name": "snapshot-id", "Values": [snapshot_id]}]
    params = {"Filters": filters, "OwnerIds": ["self"]}
    reply = await gateway.call("ec2", "describe_snapshots", params)
    return next((str(s["State"]) for s in reply["Snapshots"]), "not listed yet")
