"""What a RunInstances call asks for: request and launch template joined, and checked.

Owns the merging of the two and every check that EC2 makes before it looks at capacity. Changes
nothing: ``launching`` carries the plan out.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ec2spawner.localcloud.ec2.failures import (
    EC2Error,
    bad_combination,
    bad_value,
    malformed,
    missing,
    not_found,
)
from ec2spawner.localcloud.ec2.records import Image
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.surroundings import (
    GroupInfo,
    SubnetInfo,
    Surroundings,
    TemplateInfo,
    TypeInfo,
)
from ec2spawner.localcloud.ec2.tagging import read_specifications

SSM_PREFIX = "resolve:ssm:"
MAX_USER_DATA_BYTES = 16_384  # raw; EC2 user guide, "Instance user data", 2026
TAGGABLE = ("instance", "volume", "network-interface", "spot-instances-request")


@dataclass(frozen=True)
class DevicePlan:
    """A volume that each new instance gets."""

    device: str
    size_gib: int
    snapshot_id: str = ""
    volume_type: str = "gp3"
    iops: int | None = None
    throughput: int | None = None
    encrypted: bool = False
    delete_on_termination: bool = True


@dataclass
class LaunchPlan:
    """A launch that passed every check but capacity."""

    least: int
    most: int
    image: Image
    type: TypeInfo
    subnet: SubnetInfo
    groups: list[GroupInfo]
    settings: Mapping[str, Any]
    devices: list[DevicePlan]
    tags: dict[str, dict[str, str]]
    address: str = ""
    interface_id: str = ""  # one that is there already
    public: bool = False
    profile_arn: str = ""
    spot: Mapping[str, Any] = field(default_factory=dict)

    @property
    def market(self) -> str:
        """The market that the launch draws on."""
        return "spot" if self.spot else "on-demand"


def merge(request: Mapping[str, Any], template: TemplateInfo | None) -> dict[str, Any]:
    """The request over its template: devices join by name, tags by resource type and key."""
    if template is None:
        return dict(request)
    merged = {**template.data, **request}
    merged["BlockDeviceMappings"] = _join_devices(
        template.data.get("BlockDeviceMappings") or (), request.get("BlockDeviceMappings") or ()
    )
    merged["TagSpecifications"] = _join_tags(
        template.data.get("TagSpecifications") or (), request.get("TagSpecifications") or ()
    )
    for name in ("MetadataOptions", "Placement"):
        if template.data.get(name) and request.get(name):
            merged[name] = {**template.data[name], **request[name]}
    if request.get("SecurityGroupIds") and "NetworkInterfaces" not in request:
        merged["SecurityGroupIds"] = request["SecurityGroupIds"]
    return merged


def _join_devices(first: Any, second: Any) -> list[dict[str, Any]]:
    by_name = {d.get("DeviceName"): dict(d) for d in first}
    for device in second:
        known = by_name.get(device.get("DeviceName"), {})
        joined = {**known, **device}
        if "Ebs" in known and "Ebs" in device:
            joined["Ebs"] = {**known["Ebs"], **device["Ebs"]}
        if "Ebs" in device:
            joined.pop("NoDevice", None)
        by_name[device.get("DeviceName")] = joined
    return list(by_name.values())


def _join_tags(first: Any, second: Any) -> list[dict[str, Any]]:
    joined: dict[str, dict[str, str]] = {}
    for specification in (*first, *second):
        tags = joined.setdefault(specification.get("ResourceType"), {})
        tags.update({t["Key"]: t.get("Value", "") for t in specification.get("Tags") or ()})
    return [
        {"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
        for kind, tags in joined.items()
    ]


def plan_launch(ec2: State, merged: Mapping[str, Any]) -> LaunchPlan:
    """Check a merged request as EC2 does, before capacity is looked at."""
    least, most = _counts(merged)
    image = _image(ec2, merged)
    type_ = _type(ec2, merged, image)
    _check_user_data(merged)
    _check_key(ec2, merged)
    merged, interface_id = _with_interface(ec2, merged)
    subnet, interface = _subnet(ec2, merged, type_)
    return LaunchPlan(
        least=least,
        most=most,
        image=image,
        type=type_,
        subnet=subnet,
        groups=_groups(ec2, merged, interface, subnet),
        settings=merged,
        devices=_devices(ec2, merged, image),
        tags=read_specifications(merged.get("TagSpecifications") or (), TAGGABLE),
        address=_address(ec2, merged, interface, subnet, most),
        interface_id=interface_id,
        public=bool(interface.get("AssociatePublicIpAddress", subnet.public)),
        profile_arn=_profile(ec2, merged),
        spot=_spot(merged),
    )


def _counts(merged: Mapping[str, Any]) -> tuple[int, int]:
    least, most = merged.get("MinCount"), merged.get("MaxCount")
    if least is None or most is None:
        raise missing("MinCount" if least is None else "MaxCount")
    if least < 1 or most < 1:
        raise bad_value("Value (0) for parameter MinCount is invalid. It must be 1 or more.")
    if least > most:
        raise bad_value(f"MinCount ({least}) must be at most MaxCount ({most})")
    return least, most


def _image(ec2: State, merged: Mapping[str, Any]) -> Image:
    image_id = merged.get("ImageId")
    if not image_id:
        raise missing("ImageId")
    image_id = resolve_image(ec2.surroundings, image_id)
    if not image_id.startswith("ami-"):
        raise malformed(image_id, "ami")
    image = ec2.images.get(image_id)
    if image is None:
        raise not_found([image_id])
    if image.state != "available":
        raise EC2Error(
            "InvalidAMIID.Unavailable",
            f"The image id '[{image_id}]' is not available (state: {image.state})",
        )
    return image


def resolve_image(surroundings: Surroundings, image_id: str) -> str:
    """The id of an image that may be named by an SSM parameter: ``resolve:ssm:NAME``.

    EC2 takes only parameters of the data type aws:ec2:image, and looks at them also when a launch
    template is made ("SsmInvalidParameter", as in aws/aws-cdk#26712; EC2 Auto Scaling user guide,
    "Use AWS Systems Manager parameters instead of AMI IDs in launch templates"; read 2026).
    """
    if not image_id.startswith(SSM_PREFIX):
        return image_id
    name = image_id.removeprefix(SSM_PREFIX)
    found = surroundings.parameter(name)
    if found is None:
        raise EC2Error("SsmInvalidParameter", f"Parameter {name} not found.")
    value, data_type = found
    if data_type != "aws:ec2:image":
        raise EC2Error(
            "SsmInvalidParameter",
            "Unsupported data type. The following parameter data types are supported: "
            "aws:ec2:image",
        )
    return value


def _type(ec2: State, merged: Mapping[str, Any], image: Image) -> TypeInfo:
    name = merged.get("InstanceType") or "m1.small"
    type_ = ec2.surroundings.instance_type(name)
    if type_ is None:
        raise bad_value(f"Invalid value '{name}' for InstanceType.")
    if image.architecture not in type_.architectures:
        raise bad_value(
            f"The architecture '{','.join(type_.architectures)}' of the specified instance type "
            f"does not match the architecture '{image.architecture}' of the specified AMI."
        )
    _check_credits(merged, type_)
    return type_


def _check_credits(merged: Mapping[str, Any], type_: TypeInfo) -> None:
    """Refuse a credit option, "standard" too, for a type without CPU credits.

    Code and words as in hashicorp/terraform-provider-aws#5067 and #5081, read 2026.
    """
    if merged.get("CreditSpecification") and not type_.has_credits:
        raise EC2Error(
            "InstanceCreditSpecification.NotSupported",
            f"The {type_.name} instance type does not support T2 Unlimited.",
        )


def _check_user_data(merged: Mapping[str, Any]) -> None:
    check_user_data(merged.get("UserData") or "")


def check_user_data(text: str) -> None:
    """Refuse user data that is not base64 or holds more than 16 KiB."""
    try:
        raw = base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise bad_value("Invalid BASE64 encoding of user data.") from error
    if len(raw) > MAX_USER_DATA_BYTES:
        raise bad_value(f"User data is limited to {MAX_USER_DATA_BYTES} bytes")


def _check_key(ec2: State, merged: Mapping[str, Any]) -> None:
    name = merged.get("KeyName")
    if name and not ec2.surroundings.has_key(name):
        raise EC2Error("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")


def _with_interface(ec2: State, merged: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The request with what it takes over from an interface that is there, and that one's id."""
    given = (merged.get("NetworkInterfaces") or [{}])[0]
    interface_id = given.get("NetworkInterfaceId") or ""
    if not interface_id:
        return merged, ""
    found = ec2.surroundings.interface(interface_id)
    if found is None:
        raise EC2Error(
            "InvalidNetworkInterfaceID.NotFound",
            f"The networkInterface ID '{interface_id}' does not exist",
        )
    holders = [i for i in ec2.instances.values() if i.interface_id == interface_id]
    if any(holder.private_ip for holder in holders):
        raise EC2Error(
            "InvalidNetworkInterface.InUse",
            f"Interface: [{interface_id}] in use.",
        )
    taken_over = {
        "NetworkInterfaceId": interface_id,
        "SubnetId": found.subnet_id,
        "Groups": list(found.group_ids),
        "PrivateIpAddress": found.private_ip,
    }
    return {**merged, "NetworkInterfaces": [taken_over]}, interface_id


def _subnet(
    ec2: State, merged: Mapping[str, Any], type_: TypeInfo
) -> tuple[SubnetInfo, Mapping[str, Any]]:
    interfaces = merged.get("NetworkInterfaces") or []
    if interfaces and (merged.get("SubnetId") or merged.get("SecurityGroupIds")):
        raise bad_combination(
            "Network interfaces and an instance-level subnet ID or security groups may not be "
            "specified on the same request"
        )
    interface = interfaces[0] if interfaces else {}
    zone = (merged.get("Placement") or {}).get("AvailabilityZone")
    subnet_id = merged.get("SubnetId") or interface.get("SubnetId")
    if subnet_id:
        subnet = ec2.surroundings.subnet(subnet_id)
        if subnet is None:
            raise EC2Error(
                "InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist"
            )
        if zone and zone != subnet.zone:
            raise bad_value("The Availability Zone and the subnet's do not match")
    else:
        found = ec2.surroundings.default_subnet(zone)
        if found is None:
            raise EC2Error(
                "VPCIdNotSpecified",
                "No default VPC for this user. GroupName is only supported for EC2-Classic and "
                "default VPC.",
            )
        subnet = found
    if subnet.zone not in type_.zones:
        raise EC2Error(
            "Unsupported",
            f"Your requested instance type ({type_.name}) is not supported in your requested "
            f"Availability Zone ({subnet.zone}).",
        )
    return subnet, interface


def _groups(
    ec2: State, merged: Mapping[str, Any], interface: Mapping[str, Any], subnet: SubnetInfo
) -> list[GroupInfo]:
    ids = merged.get("SecurityGroupIds") or interface.get("Groups") or []
    if not ids:
        own = ec2.surroundings.default_group(subnet.vpc_id)
        return [own] if own else []
    groups = []
    for group_id in ids:
        group = ec2.surroundings.group(group_id)
        if group is None:
            raise EC2Error(
                "InvalidGroup.NotFound", f"The security group '{group_id}' does not exist"
            )
        if group.vpc_id != subnet.vpc_id:
            raise EC2Error(
                "InvalidParameter",
                f"Security group {group_id} and subnet {subnet.id} belong to different networks.",
            )
        groups.append(group)
    return groups


def _address(
    ec2: State,
    merged: Mapping[str, Any],
    interface: Mapping[str, Any],
    subnet: SubnetInfo,
    most: int,
) -> str:
    address = str(merged.get("PrivateIpAddress") or interface.get("PrivateIpAddress") or "")
    if not address:
        return ""
    if most > 1:
        raise bad_combination("A private IP address can be given for one instance only")
    if ipaddress.ip_address(address) not in ipaddress.ip_network(subnet.cidr):
        raise bad_value("Address does not fall within the subnet's address range")
    is_its_own = bool(interface.get("NetworkInterfaceId"))
    if ec2.address_owner(address) or (address in subnet.used_addresses and not is_its_own):
        raise EC2Error("InvalidIPAddress.InUse", f"Address {address} is in use.")
    return address


def _profile(ec2: State, merged: Mapping[str, Any]) -> str:
    wanted = merged.get("IamInstanceProfile")
    if not wanted:
        return ""
    arn = ec2.surroundings.profile_arn(wanted)
    if arn is None:
        name = wanted.get("Name") or wanted.get("Arn")
        raise bad_value(f"Value ({name}) for parameter iamInstanceProfile is invalid.")
    return arn


def _spot(merged: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a spot launch, with EC2's defaults; {} for one on demand."""
    options = merged.get("InstanceMarketOptions") or {}
    if options.get("MarketType") != "spot":
        return {}
    given = options.get("SpotOptions") or {}
    kind = given.get("SpotInstanceType") or "one-time"
    behavior = given.get("InstanceInterruptionBehavior") or "terminate"
    if kind not in ("one-time", "persistent"):
        raise bad_value(f"Invalid value '{kind}' for SpotInstanceType.")
    if behavior not in ("hibernate", "stop", "terminate"):
        raise bad_value(f"Invalid value '{behavior}' for InstanceInterruptionBehavior.")
    # EC2 API reference, "SpotMarketOptions", 2026: persistent goes with stop or hibernate only.
    if (kind == "one-time") != (behavior == "terminate"):
        raise bad_combination(
            f"The request with type '{kind}' is not supported when instanceInterruptionBehavior "
            f"is set to '{behavior}'."
        )
    return {"SpotInstanceType": kind, "InstanceInterruptionBehavior": behavior}


def _devices(ec2: State, merged: Mapping[str, Any], image: Image) -> list[DevicePlan]:
    of_image = [
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
    ]
    joined = _join_devices(of_image, merged.get("BlockDeviceMappings") or ())
    kept = [d for d in joined if "NoDevice" not in d and "VirtualName" not in d]
    return [_device(ec2, d) for d in kept]


def _device(ec2: State, raw: Mapping[str, Any]) -> DevicePlan:
    name, ebs = raw.get("DeviceName"), raw.get("Ebs") or {}
    if not name:
        raise missing("deviceName")
    snapshot_id, size = ebs.get("SnapshotId") or "", ebs.get("VolumeSize")
    least = 1
    if snapshot_id:
        snapshot = ec2.snapshots.get(snapshot_id) or ec2.public_snapshots.get(snapshot_id)
        if snapshot is None:
            raise not_found([snapshot_id])
        if snapshot.state.value != "completed":
            raise EC2Error(
                "IncorrectState", f"Snapshot is in invalid state - {snapshot.state.value}"
            )
        least = snapshot.size_gib
    elif size is None:
        raise missing("size or snapshotId")
    size = least if size is None else size
    if size < least:
        raise EC2Error(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size}GB is smaller than snapshot '{snapshot_id}', expect size >= "
            f"{least}GB",
        )
    return DevicePlan(
        device=name,
        size_gib=size,
        snapshot_id=snapshot_id,
        volume_type=ebs.get("VolumeType") or "gp3",
        iops=ebs.get("Iops"),
        throughput=ebs.get("Throughput"),
        encrypted=bool(ebs.get("Encrypted", False)),
        delete_on_termination=bool(ebs.get("DeleteOnTermination", True)),
    )
