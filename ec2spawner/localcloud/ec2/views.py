"""Records as EC2's replies show them.

Owns the shape of Instance, Volume, Snapshot and Image in replies, and which of their fields
filters look at. Pure: takes the state and ``now``, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ec2spawner.localcloud.ec2.filters import Getter
from ec2spawner.localcloud.ec2.records import (
    ACCOUNT_ID,
    Image,
    Instance,
    Snapshot,
    Volume,
)
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.model import InstanceState

STATE_CODES = {
    InstanceState.PENDING: 0,
    InstanceState.RUNNING: 16,
    InstanceState.SHUTTING_DOWN: 32,
    InstanceState.TERMINATED: 48,
    InstanceState.STOPPING: 64,
    InstanceState.STOPPED: 80,
}


def moment(epoch_seconds: float) -> datetime:
    """A time as replies have it: whole seconds, UTC."""
    return datetime.fromtimestamp(int(epoch_seconds), timezone.utc)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as replies have them."""
    return [{"Key": k, "Value": v} for k, v in tags.items()]


def state_view(state: InstanceState) -> dict[str, Any]:
    """An instance state as replies have it."""
    return {"Name": state.value, "Code": STATE_CODES[state]}


def shown_state(ec2: State, instance: Instance) -> InstanceState:
    """The state that a listing shows, which may lag behind the true one."""
    lag = ec2.timings.listing_lag_seconds
    if lag and instance.shown_before and ec2.clock() < instance.changed_at + lag:
        return instance.shown_before
    return instance.state


def private_dns(ec2: State, address: str) -> str:
    """The internal host name that goes with a private address."""
    domain = "ec2.internal" if ec2.region == "us-east-1" else f"{ec2.region}.compute.internal"
    return f"ip-{address.replace('.', '-')}.{domain}" if address else ""


def _mappings(ec2: State, instance: Instance) -> list[dict[str, Any]]:
    if ec2.clock() < instance.created_at + ec2.timings.mappings_hidden_seconds:
        return []
    return [
        {
            "DeviceName": device,
            "Ebs": {
                "VolumeId": m.volume_id,
                "DeleteOnTermination": m.delete_on_termination,
                "AttachTime": moment(m.attached_at),
                "Status": _attachment_state(ec2, m.volume_id),
            },
        }
        for device, m in instance.mappings.items()
    ]


def _attachment_state(ec2: State, volume_id: str) -> str:
    volume = ec2.volumes.get(volume_id)
    return volume.attachment.state if volume and volume.attachment else "attached"


def _interface(ec2: State, instance: Instance) -> dict[str, Any]:
    address = {
        "PrivateIpAddress": instance.private_ip,
        "Primary": True,
        "PrivateDnsName": private_dns(ec2, instance.private_ip),
    }
    return {
        "NetworkInterfaceId": instance.interface_id,
        "SubnetId": instance.subnet_id,
        "VpcId": instance.vpc_id,
        "OwnerId": ACCOUNT_ID,
        "Status": "in-use",
        "SourceDestCheck": instance.source_dest_check,
        "PrivateIpAddress": instance.private_ip,
        "PrivateIpAddresses": [address],
        "Groups": [{"GroupId": i, "GroupName": n} for i, n in instance.groups],
        "Attachment": {
            "AttachmentId": "eni-attach-" + instance.interface_id.partition("-")[2],
            "DeviceIndex": 0,
            "Status": "attached",
            "AttachTime": moment(instance.created_at),
            "DeleteOnTermination": not instance.interface_is_kept,
        },
        "InterfaceType": "interface",
        "MacAddress": mac_address(instance),
    }


def public_ip(ec2: State, instance: Instance) -> str:
    """The instance's own public address, else its interface's."""
    if instance.interface_is_kept and instance.private_ip:
        found = ec2.surroundings.interface(instance.interface_id)
        return found.public_ip if found else ""
    return instance.public_ip


def mac_address(instance: Instance) -> str:
    """Of the instance's one interface, and so the same for as long as it exists."""
    digits = instance.interface_id[-10:]
    return "02:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))


def network_interface_view(ec2: State, instance: Instance) -> dict[str, Any]:
    """The instance's interface as DescribeNetworkInterfaces shows it."""
    view = _interface(ec2, instance)
    view["Attachment"]["InstanceId"] = instance.id
    view["AvailabilityZone"] = instance.zone
    view["TagSet"] = tag_list(instance.interface_tags)
    return view


def instance_view(ec2: State, instance: Instance) -> dict[str, Any]:
    """An instance as DescribeInstances shows it."""
    view: dict[str, Any] = {
        "InstanceId": instance.id,
        "ImageId": instance.image_id,
        "State": state_view(shown_state(ec2, instance)),
        "PrivateDnsName": private_dns(ec2, instance.private_ip),
        "PublicDnsName": "",
        "StateTransitionReason": instance.transition_reason,
        "KeyName": instance.key_name or None,
        "AmiLaunchIndex": instance.index,
        "InstanceType": instance.instance_type,
        "LaunchTime": moment(instance.launched_at),
        "Placement": {
            "AvailabilityZone": instance.zone,
            "GroupName": "",
            "Tenancy": "default",
        },
        "Monitoring": {"State": "enabled" if instance.monitoring else "disabled"},
        "Architecture": instance.architecture,
        "RootDeviceType": "ebs",
        "RootDeviceName": instance.root_device,
        "BlockDeviceMappings": _mappings(ec2, instance),
        "VirtualizationType": "hvm",
        "ClientToken": instance.client_token,
        "Tags": tag_list(instance.tags),
        "Hypervisor": "xen",
        "EbsOptimized": instance.ebs_optimized,
        "EnaSupport": True,
        "MetadataOptions": {"State": "applied", **instance.metadata_options},
        "HibernationOptions": {"Configured": instance.hibernation},
        "CapacityReservationSpecification": {"CapacityReservationPreference": "open"},
    }
    if instance.reason_code:
        view["StateReason"] = {
            "Code": instance.reason_code,
            "Message": instance.reason_message,
        }
    if instance.profile_arn:
        view["IamInstanceProfile"] = {
            "Arn": instance.profile_arn,
            "Id": "AIPA" + instance.id[-12:].upper(),
        }
    if instance.is_spot:
        view["InstanceLifecycle"] = "spot"
        view["SpotInstanceRequestId"] = instance.spot_request_id
    if instance.private_ip:
        view.update(
            PrivateIpAddress=instance.private_ip,
            SubnetId=instance.subnet_id,
            VpcId=instance.vpc_id,
            SourceDestCheck=instance.source_dest_check,
            SecurityGroups=[{"GroupId": i, "GroupName": n} for i, n in instance.groups],
            NetworkInterfaces=[_interface(ec2, instance)],
        )
    if shown := public_ip(ec2, instance):
        view["PublicIpAddress"] = shown
    return view


def volume_view(volume: Volume) -> dict[str, Any]:
    """A volume as DescribeVolumes shows it."""
    return {
        "VolumeId": volume.id,
        "Size": volume.size_gib,
        "AvailabilityZone": volume.zone,
        "State": volume.state.value,
        "CreateTime": moment(volume.created_at),
        "Encrypted": volume.encrypted,
        "SnapshotId": volume.snapshot_id,
        "VolumeType": volume.volume_type,
        "Iops": volume.iops,
        "Throughput": volume.throughput,
        "MultiAttachEnabled": False,
        "Attachments": [attachment_view(volume)] if volume.attachment else [],
        "Tags": tag_list(volume.tags),
    }


def attachment_view(volume: Volume, state: str | None = None) -> dict[str, Any]:
    """A volume's attachment; ``state`` where the reply shows another than the record's."""
    attachment = volume.attachment
    if attachment is None:
        return {}
    return {
        "VolumeId": volume.id,
        "InstanceId": attachment.instance_id,
        "Device": attachment.device,
        "State": state or attachment.state,
        "AttachTime": moment(attachment.at),
        "DeleteOnTermination": attachment.delete_on_termination,
    }


def snapshot_view(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as DescribeSnapshots shows it."""
    return {
        "SnapshotId": snapshot.id,
        "VolumeId": snapshot.volume_id,
        "VolumeSize": snapshot.size_gib,
        "State": snapshot.state.value,
        "StartTime": moment(snapshot.started_at),
        "Progress": "100%" if snapshot.state.value == "completed" else "0%",
        "OwnerId": ACCOUNT_ID,
        "Description": snapshot.description,
        "Encrypted": snapshot.encrypted,
        "StorageTier": snapshot.storage_tier,
        "Tags": tag_list(snapshot.tags),
    }


def image_view(image: Image) -> dict[str, Any]:
    """An image as DescribeImages shows it."""
    created = moment(image.created_at).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return {
        "ImageId": image.id,
        "Name": image.name,
        "Description": image.description,
        "State": image.state,
        "OwnerId": image.owner_id,
        "ImageOwnerAlias": image.owner_alias or None,
        "ImageLocation": f"{image.owner_id}/{image.name}",
        "Architecture": image.architecture,
        "RootDeviceName": image.root_device,
        "RootDeviceType": "ebs",
        "VirtualizationType": "hvm",
        "Hypervisor": "xen",
        "ImageType": "machine",
        "EnaSupport": True,
        "Public": image.is_public,
        "CreationDate": created,
        "SourceInstanceId": image.source_instance_id or None,
        "PlatformDetails": "Linux/UNIX",
        "UsageOperation": "RunInstances",
        "BlockDeviceMappings": [
            {
                "DeviceName": d.device,
                "Ebs": {
                    "SnapshotId": d.snapshot_id,
                    "VolumeSize": d.size_gib,
                    "VolumeType": d.volume_type,
                    "Encrypted": d.encrypted,
                    "DeleteOnTermination": d.delete_on_termination,
                },
            }
            for d in image.devices
        ],
        "Tags": tag_list(image.tags),
    }


def _iso(epoch_seconds: float) -> str:
    return moment(epoch_seconds).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _true(value: bool) -> str:
    return "true" if value else "false"


def instance_filters(ec2: State) -> dict[str, Getter[Instance]]:
    """What the filters of DescribeInstances look at."""
    return {
        "instance-id": lambda i: (i.id,),
        "instance-state-name": lambda i: (shown_state(ec2, i).value,),
        "instance-state-code": lambda i: (str(STATE_CODES[shown_state(ec2, i)]),),
        "reservation-id": lambda i: (i.reservation_id,),
        "availability-zone": lambda i: (i.zone,),
        "instance-type": lambda i: (i.instance_type,),
        "image-id": lambda i: (i.image_id,),
        "subnet-id": lambda i: (i.subnet_id,),
        "vpc-id": lambda i: (i.vpc_id,),
        "network-interface.subnet-id": lambda i: (i.subnet_id,),
        "network-interface.vpc-id": lambda i: (i.vpc_id,),
        "network-interface.network-interface-id": lambda i: (i.interface_id,),
        "private-ip-address": lambda i: (i.private_ip,),
        "private-dns-name": lambda i: (private_dns(ec2, i.private_ip),),
        "ip-address": lambda i: (public_ip(ec2, i),),
        "key-name": lambda i: (i.key_name,),
        "client-token": lambda i: (i.client_token,),
        "instance-lifecycle": lambda i: ("spot",) if i.is_spot else (),
        "launch-time": lambda i: (_iso(i.launched_at),),
        "instance.group-id": lambda i: [g[0] for g in i.groups],
        "instance.group-name": lambda i: [g[1] for g in i.groups],
        "group-id": lambda i: [g[0] for g in i.groups],
        "architecture": lambda i: (i.architecture,),
        "owner-id": lambda i: (ACCOUNT_ID,),
        "root-device-name": lambda i: (i.root_device,),
        "root-device-type": lambda i: ("ebs",),
        "block-device-mapping.device-name": lambda i: i.mappings.keys(),
        "block-device-mapping.volume-id": lambda i: [m.volume_id for m in i.mappings.values()],
        "state-reason-code": lambda i: (i.reason_code,),
        "iam-instance-profile.arn": lambda i: (i.profile_arn,) if i.profile_arn else (),
        "spot-instance-request-id": lambda i: (i.spot_request_id,) if i.is_spot else (),
        "metadata-options.http-tokens": lambda i: (
            str(i.metadata_options.get("HttpTokens", "optional")),
        ),
        "hibernation-options.configured": lambda i: (_true(i.hibernation),),
        "tenancy": lambda i: ("default",),
    }


VOLUME_FILTERS: dict[str, Getter[Volume]] = {
    "volume-id": lambda v: (v.id,),
    "status": lambda v: (v.state.value,),
    "availability-zone": lambda v: (v.zone,),
    "size": lambda v: (str(v.size_gib),),
    "volume-type": lambda v: (v.volume_type,),
    "snapshot-id": lambda v: (v.snapshot_id,),
    "encrypted": lambda v: (_true(v.encrypted),),
    "create-time": lambda v: (_iso(v.created_at),),
    "attachment.instance-id": lambda v: (v.attachment.instance_id,) if v.attachment else (),
    "attachment.device": lambda v: (v.attachment.device,) if v.attachment else (),
    "attachment.status": lambda v: (v.attachment.state,) if v.attachment else (),
    "attachment.delete-on-termination": lambda v: (
        (_true(v.attachment.delete_on_termination),) if v.attachment else ()
    ),
}

SNAPSHOT_FILTERS: dict[str, Getter[Snapshot]] = {
    "snapshot-id": lambda s: (s.id,),
    "status": lambda s: (s.state.value,),
    "volume-id": lambda s: (s.volume_id,),
    "volume-size": lambda s: (str(s.size_gib),),
    "description": lambda s: (s.description,),
    "owner-id": lambda s: (ACCOUNT_ID,),
    "start-time": lambda s: (_iso(s.started_at),),
    "encrypted": lambda s: (_true(s.encrypted),),
    "storage-tier": lambda s: (s.storage_tier,),
    "progress": lambda s: ("100%" if s.state.value == "completed" else "0%",),
}

IMAGE_FILTERS: dict[str, Getter[Image]] = {
    "image-id": lambda i: (i.id,),
    "name": lambda i: (i.name,),
    "description": lambda i: (i.description,),
    "state": lambda i: (i.state,),
    "architecture": lambda i: (i.architecture,),
    "owner-id": lambda i: (i.owner_id,),
    "owner-alias": lambda i: (i.owner_alias,) if i.owner_alias else (),
    "is-public": lambda i: (_true(i.is_public),),
    "root-device-type": lambda i: ("ebs",),
    "root-device-name": lambda i: (i.root_device,),
    "virtualization-type": lambda i: ("hvm",),
    "image-type": lambda i: ("machine",),
    "hypervisor": lambda i: ("xen",),
    "ena-support": lambda i: ("true",),
    "creation-date": lambda i: (_iso(i.created_at),),
    "block-device-mapping.snapshot-id": lambda i: [d.snapshot_id for d in i.devices],
}
