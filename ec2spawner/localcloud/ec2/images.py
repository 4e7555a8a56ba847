"""AMIs: Ubuntu's, which exist from the start, and those that CreateImage makes.

Owns images and the snapshots that they stand on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ec2spawner.localcloud.ec2.failures import EC2Error, malformed, missing, wrong_state
from ec2spawner.localcloud.ec2.filters import choose, page
from ec2spawner.localcloud.ec2.records import (
    ACCOUNT_ID,
    CANONICAL_ACCOUNT_ID,
    Image,
    ImageDevice,
    Instance,
    Snapshot,
)
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.storage import new_snapshot
from ec2spawner.localcloud.ec2.tagging import read_specifications
from ec2spawner.localcloud.ec2.views import IMAGE_FILTERS, image_view
from ec2spawner.model import InstanceState, SnapshotState

UBUNTU_SERIAL = "20251022"
ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}
_CREATABLE = (InstanceState.RUNNING, InstanceState.STOPPED)


def ubuntu_image_id(region: str, debian_architecture: str) -> str:
    """Id of Ubuntu 24.04's image in a Region; "amd64" or "arm64"."""
    digest = hashlib.sha256(f"noble/{region}/{debian_architecture}".encode()).hexdigest()
    return f"ami-{digest[:17]}"


def add_public_images(ec2: State) -> None:
    """Ubuntu 24.04 for both architectures, as Canonical publishes them."""
    for debian, architecture in ARCHITECTURES.items():
        image_id = ubuntu_image_id(ec2.region, debian)
        if image_id in ec2.images:
            continue
        snapshot = Snapshot("snap-" + image_id.partition("-")[2])
        snapshot.size_gib, snapshot.state = 8, SnapshotState.COMPLETED
        snapshot.description, snapshot.image_id = "Ubuntu 24.04", image_id
        published = datetime.strptime(UBUNTU_SERIAL, "%Y%m%d").replace(tzinfo=timezone.utc)
        snapshot.started_at = published.timestamp()
        image = Image(image_id)
        image.name = f"ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{debian}-server-{UBUNTU_SERIAL}"
        image.description = f"Canonical, Ubuntu, 24.04, {debian} noble image"
        image.owner_id, image.owner_alias = CANONICAL_ACCOUNT_ID, ""
        image.architecture, image.state, image.is_public = architecture, "available", True
        image.created_at = snapshot.started_at
        image.devices = [ImageDevice("/dev/sda1", snapshot.id, 8)]
        ec2.add(image)
        ec2.public_snapshots[snapshot.id] = snapshot


def create_image(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """CreateImage: snapshots of all mapped volumes; pending for a while."""
    (instance,) = ec2.find_instances([params.get("InstanceId") or "i-"])
    name = params.get("Name")
    if not name:
        raise missing("name")
    if instance.state not in _CREATABLE:
        raise wrong_state(
            f"The instance '{instance.id}' is not in a state from which an image can be made."
        )
    taken = next((i for i in ec2.images.values() if i.name == name), None)
    if taken and taken.owner_id == ACCOUNT_ID:
        raise EC2Error(
            "InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {taken.id}"
        )
    tags = read_specifications(params.get("TagSpecifications") or (), ("image", "snapshot"))
    image = _new_image(ec2, instance, name, params)
    image.tags = tags.get("image", {})
    for device in image.devices:
        ec2.snapshots[device.snapshot_id].tags = dict(tags.get("snapshot", {}))
    if not params.get("NoReboot") and instance.state is InstanceState.RUNNING:
        ec2.happened("rebooted", instance.id)
    return {"ImageId": image.id}


def _new_image(ec2: State, instance: Instance, name: str, params: Mapping[str, Any]) -> Image:
    now, seconds = ec2.clock(), ec2.timings.image_seconds
    image = Image(ec2.new_id("ami"))
    image.sequence, image.name = ec2.next_number(), name
    image.description = params.get("Description") or ""
    image.architecture, image.root_device = instance.architecture, instance.root_device
    image.created_at, image.due_at = now, now + seconds
    image.source_instance_id = instance.id
    left_out = {
        d.get("DeviceName") for d in params.get("BlockDeviceMappings") or () if "NoDevice" in d
    }
    for device, mapped in instance.mappings.items():
        volume = ec2.volumes.get(mapped.volume_id)
        if volume is None or device in left_out:
            continue
        snapshot = new_snapshot(ec2, volume, f"Created by CreateImage({instance.id})", seconds)
        snapshot.image_id = image.id
        image.devices.append(
            ImageDevice(
                device,
                snapshot.id,
                volume.size_gib,
                volume.volume_type,
                volume.encrypted,
                mapped.delete_on_termination,
            )
        )
    return ec2.add(image)


def deregister_image(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DeregisterImage: the image goes, its snapshots stay unless told otherwise."""
    image = _own(ec2, params.get("ImageId") or "ami-")
    ec2.remove(image)
    if not params.get("DeleteAssociatedSnapshots"):
        return {"Return": True}
    deleted = [d.snapshot_id for d in image.devices if d.snapshot_id in ec2.snapshots]
    for snapshot_id in deleted:
        ec2.remove(ec2.snapshots[snapshot_id])
        ec2.happened("snapshot-deleted", snapshot_id)
    results = [{"SnapshotId": i, "ReturnCode": "success"} for i in deleted]
    return {"Return": True, "DeleteSnapshotResults": results}


def _own(ec2: State, image_id: str) -> Image:
    image: Image = ec2.find("image", image_id)
    if image.owner_id != ACCOUNT_ID:
        raise EC2Error("AuthFailure", f"Not authorized for image:{image_id}")
    return image


def modify_image_attribute(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """ModifyImageAttribute: who else may launch it, and its description."""
    image = _own(ec2, params.get("ImageId") or "ami-")
    permission = params.get("LaunchPermission") or {}
    if permission.get("Add") and any(d.encrypted for d in image.devices):
        # Code and words as in hashicorp/packer#7410 (read 2026); every key here is the default one.
        raise EC2Error(
            "InvalidParameter",
            "Snapshots encrypted with the AWS Managed CMK can't be shared. Specify another "
            "snapshot.",
        )
    for change in permission.get("Add") or ():
        if change.get("Group") == "all":
            image.is_public = True
        elif change.get("UserId") and change["UserId"] not in image.launch_accounts:
            image.launch_accounts.append(change["UserId"])
    for change in permission.get("Remove") or ():
        if change.get("Group") == "all":
            image.is_public = False
        elif change.get("UserId") in image.launch_accounts:
            image.launch_accounts.remove(change["UserId"])
    description = params.get("Description")
    if isinstance(description, Mapping) and "Value" in description:
        image.description = description["Value"]
    ec2.touch(image)
    return {}


def describe_image_attribute(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeImageAttribute: launchPermission and description."""
    image: Image = ec2.find("image", params.get("ImageId") or "ami-")
    result: dict[str, Any] = {"ImageId": image.id}
    if params.get("Attribute") == "launchPermission":
        result["LaunchPermissions"] = [{"UserId": a} for a in image.launch_accounts]
        if image.is_public:
            result["LaunchPermissions"].append({"Group": "all"})
    elif params.get("Attribute") == "description":
        result["Description"] = {"Value": image.description}
    return result


def describe_images(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeImages."""
    ids = params.get("ImageIds") or ()
    for one in ids:
        if not one.startswith("ami-"):
            raise malformed(one, "ami")
    images = [ec2.find("image", i) for i in ids] if ids else list(ec2.images.values())
    owners = {_owner(o) for o in params.get("Owners") or ()}
    if owners:
        images = [i for i in images if i.owner_id in owners or i.owner_alias in owners]
    chosen = choose(images, params.get("Filters") or (), IMAGE_FILTERS)
    shown, token = page(chosen, params, "ImageIds", least=1)
    return {"Images": [image_view(i) for i in shown], "NextToken": token}


def _owner(name: str) -> str:
    return ACCOUNT_ID if name == "self" else name
