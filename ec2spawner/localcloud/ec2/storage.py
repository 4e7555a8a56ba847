"""EBS: volumes, attachments and snapshots, and the rules of the calls on them.

Owns what each call checks and changes. The files on a volume are kept by ``disks``; here a record
only knows whether they are there yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ec2spawner.localcloud.ec2.failures import EC2Error, bad_value, missing, wrong_state
from ec2spawner.localcloud.ec2.filters import choose, page
from ec2spawner.localcloud.ec2.lifecycle import attach, begin_detach, delete_volume
from ec2spawner.localcloud.ec2.records import Snapshot, Token, Volume
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.tagging import read_specifications
from ec2spawner.localcloud.ec2.views import (
    SNAPSHOT_FILTERS,
    VOLUME_FILTERS,
    attachment_view,
    snapshot_view,
    volume_view,
)
from ec2spawner.model import InstanceState, SnapshotState, VolumeState

_SIZES = {"gp3": (1, 65_536), "gp2": (1, 16_384), "io2": (4, 65_536), "st1": (125, 16_384)}
"""Least and largest size in GiB per volume type (EBS user guide, 2026)."""


def create_volume(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """CreateVolume: blank or from a snapshot, in one zone; idempotent by client token."""
    zone = params.get("AvailabilityZone")
    if not zone:
        raise missing("AvailabilityZone")
    if zone not in ec2.surroundings.zones():
        raise EC2Error("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
    token = params.get("ClientToken") or ""
    kept = {k: v for k, v in params.items() if k not in ("ClientToken", "DryRun")}
    fingerprint = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    known = ec2.tokens.get(f"CreateVolume/{token}") if token else None
    if known:
        if known.fingerprint != fingerprint:
            raise EC2Error("IdempotentParameterMismatch", "The client token was used before.")
        return volume_view(ec2.find("volume", known.resource_ids[0]))
    volume = _new_volume(ec2, params, zone)
    if token:
        ec2.add(Token(f"CreateVolume/{token}", fingerprint, [volume.id], ec2.clock()))
    return volume_view(volume)


def _new_volume(ec2: State, params: Mapping[str, Any], zone: str) -> Volume:
    snapshot_id = params.get("SnapshotId") or ""
    kind = params.get("VolumeType") or "gp2"
    size = _size(ec2, params.get("Size"), snapshot_id, kind)
    tags = read_specifications(params.get("TagSpecifications") or (), ("volume",))
    volume = Volume(ec2.new_id("vol"))
    volume.sequence, volume.zone, volume.size_gib = ec2.next_number(), zone, size
    volume.volume_type, volume.snapshot_id = kind, snapshot_id
    volume.iops, volume.throughput = params.get("Iops"), params.get("Throughput")
    volume.encrypted = bool(params.get("Encrypted", False))
    if snapshot_id and ec2.snapshots[snapshot_id].encrypted:
        volume.encrypted = True
    volume.created_at = ec2.clock()
    volume.due_at = volume.created_at + ec2.timings.volume_seconds
    volume.has_data = not (ec2.copies_files and snapshot_id)
    volume.tags = tags.get("volume", {})
    ec2.add(volume)
    ec2.happened("volume-created", volume.id, snapshot_id)
    return volume


def _size(ec2: State, size: int | None, snapshot_id: str, kind: str) -> int:
    if kind not in _SIZES:
        raise bad_value(f"Invalid value '{kind}' for volumeType.")
    least, most = _SIZES[kind]
    if snapshot_id:
        snapshot: Snapshot = ec2.find("snapshot", snapshot_id)
        if snapshot.state is not SnapshotState.COMPLETED:
            raise EC2Error(
                "IncorrectState", f"Snapshot is in invalid state - {snapshot.state.value}"
            )
        if snapshot.storage_tier == "archive":
            raise EC2Error("IncorrectState", "Snapshot is archived")
        size = snapshot.size_gib if size is None else size
        if size < snapshot.size_gib:
            raise bad_value(
                f"The size of a volume must be greater than or equal to the size of its snapshot, "
                f"{snapshot.size_gib} GiB"
            )
    if size is None:
        raise missing("size/snapshot")
    if not least <= size <= most:
        raise bad_value(f"Volume of {size}GiB is out of range for {kind}: {least} to {most} GiB")
    return size


def delete_volume_call(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DeleteVolume: only one that is not attached."""
    volume: Volume = ec2.find("volume", params.get("VolumeId") or "vol-")
    if volume.attachment:
        raise EC2Error(
            "VolumeInUse",
            f"Volume {volume.id} is currently attached to {volume.attachment.instance_id}",
        )
    delete_volume(ec2, volume)
    return {}


def describe_volumes(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeVolumes."""
    ids = params.get("VolumeIds") or ()
    volumes = [ec2.find("volume", i) for i in ids] if ids else ec2.volumes.values()
    chosen = choose(volumes, params.get("Filters") or (), VOLUME_FILTERS)
    shown, token = page(chosen, params, "VolumeIds")
    return {"Volumes": [volume_view(v) for v in shown], "NextToken": token}


def attach_volume(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """AttachVolume: once, in the volume's zone, to an instance that runs or is stopped."""
    volume: Volume = ec2.find("volume", params.get("VolumeId") or "vol-")
    (instance,) = ec2.find_instances([params.get("InstanceId") or "i-"])
    device = params.get("Device")
    if not device:
        raise missing("device")
    if volume.attachment:
        raise EC2Error(
            "VolumeInUse",
            f"{volume.id} is already attached to an instance",
        )
    if volume.state is not VolumeState.AVAILABLE:
        raise EC2Error("IncorrectState", f"Volume {volume.id} is not 'available'.")
    if instance.state not in (InstanceState.RUNNING, InstanceState.STOPPED):
        raise wrong_state(
            f"Instance '{instance.id}' is not in a state that allows it ({instance.state.value})."
        )
    if volume.zone != instance.zone:
        raise EC2Error(
            "InvalidVolume.ZoneMismatch",
            f"The volume '{volume.id}' is not in the same availability zone as instance "
            f"'{instance.id}'",
        )
    if device in instance.mappings:
        raise bad_value(f"Invalid value '{device}' for unixDevice. Attachment point is in use")
    attach(ec2, instance, volume, device)
    return attachment_view(volume)


def detach_volume(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DetachVolume: the root only from a stopped instance."""
    volume: Volume = ec2.find("volume", params.get("VolumeId") or "vol-")
    attachment = volume.attachment
    if attachment is None:
        raise EC2Error("IncorrectState", f"Volume '{volume.id}' is in the 'available' state.")
    for name, value in (
        ("InstanceId", attachment.instance_id),
        ("Device", attachment.device),
    ):
        if params.get(name) and params[name] != value:
            raise EC2Error(
                "InvalidAttachment.NotFound",
                f"The volume '{volume.id}' is not attached as {params[name]}",
            )
    instance = ec2.instances.get(attachment.instance_id)
    if volume.is_root and instance and instance.state is not InstanceState.STOPPED:
        raise EC2Error(
            "OperationNotPermitted", f"Unable to detach root volume '{volume.id}' from instance"
        )
    if attachment.state != "detaching":
        begin_detach(ec2, volume)
    return attachment_view(volume)


def modify_volume(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """ModifyVolume: grows a volume; done at once."""
    volume: Volume = ec2.find("volume", params.get("VolumeId") or "vol-")
    before = volume.size_gib
    size = params.get("Size") or before
    if size < before:
        raise bad_value("New size cannot be smaller than existing size")
    volume.size_gib = size
    volume.volume_type = params.get("VolumeType") or volume.volume_type
    ec2.touch(volume)
    return {
        "VolumeModification": {
            "VolumeId": volume.id,
            "ModificationState": "completed",
            "OriginalSize": before,
            "TargetSize": size,
            "Progress": 100,
        }
    }


def create_snapshot(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """CreateSnapshot: pending until its time is over and its files are copied."""
    volume: Volume = ec2.find("volume", params.get("VolumeId") or "vol-")
    tags = read_specifications(params.get("TagSpecifications") or (), ("snapshot",))
    snapshot = new_snapshot(
        ec2, volume, params.get("Description") or "", ec2.timings.snapshot_seconds
    )
    snapshot.tags = tags.get("snapshot", {})
    return snapshot_view(snapshot)


def new_snapshot(ec2: State, volume: Volume, description: str, seconds: float) -> Snapshot:
    """A snapshot of a volume, pending for ``seconds``."""
    snapshot = Snapshot(ec2.new_id("snap"))
    snapshot.sequence, snapshot.volume_id = ec2.next_number(), volume.id
    snapshot.size_gib, snapshot.encrypted = volume.size_gib, volume.encrypted
    snapshot.description, snapshot.started_at = description, ec2.clock()
    snapshot.due_at = snapshot.started_at + seconds
    snapshot.has_data = volume.is_root or not ec2.copies_files
    ec2.add(snapshot)
    ec2.happened("snapshot-created", snapshot.id, volume.id)
    return snapshot


def delete_snapshot(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DeleteSnapshot: not while an image needs it."""
    snapshot: Snapshot = ec2.find("snapshot", params.get("SnapshotId") or "snap-")
    if snapshot.image_id in ec2.images:
        raise EC2Error(
            "InvalidSnapshot.InUse",
            f"The snapshot {snapshot.id} is currently in use by {snapshot.image_id}",
        )
    ec2.remove(snapshot)
    ec2.happened("snapshot-deleted", snapshot.id)
    return {}


def modify_snapshot_attribute(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """ModifySnapshotAttribute: who else may make volumes of it.

    Every encrypted snapshot here is under the account's default key, and EC2 lets nobody share such
    a one (EBS user guide, "Share an Amazon EBS snapshot"; code and words as in
    hashicorp/packer#7499; read 2026).
    """
    snapshot: Snapshot = ec2.find("snapshot", params.get("SnapshotId") or "snap-")
    permission = params.get("CreateVolumePermission") or {}
    added = [c["UserId"] for c in permission.get("Add") or () if c.get("UserId")]
    removed = [c["UserId"] for c in permission.get("Remove") or () if c.get("UserId")]
    if params.get("Attribute") == "createVolumePermission":
        (added if params.get("OperationType") == "add" else removed).extend(params["UserIds"])
    if added and snapshot.encrypted:
        raise EC2Error(
            "OperationNotPermitted", "Encrypted snapshots with EBS default key cannot be shared"
        )
    kept = [a for a in snapshot.volume_accounts if a not in removed]
    snapshot.volume_accounts = list(dict.fromkeys([*kept, *added]))
    ec2.touch(snapshot)
    return {}


def describe_snapshot_attribute(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeSnapshotAttribute: createVolumePermission."""
    snapshot: Snapshot = ec2.find("snapshot", params.get("SnapshotId") or "snap-")
    accounts = [{"UserId": a} for a in snapshot.volume_accounts]
    return {"SnapshotId": snapshot.id, "CreateVolumePermissions": accounts}


def describe_snapshots(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeSnapshots: this account's; nobody else publishes any here."""
    ids = params.get("SnapshotIds") or ()
    snapshots = [ec2.find("snapshot", i) for i in ids] if ids else ec2.snapshots.values()
    chosen = choose(snapshots, params.get("Filters") or (), SNAPSHOT_FILTERS)
    shown, token = page(chosen, params, "SnapshotIds")
    return {"Snapshots": [snapshot_view(s) for s in shown], "NextToken": token}
