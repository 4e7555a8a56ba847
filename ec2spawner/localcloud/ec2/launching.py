"""RunInstances: the request and its launch template, checked, then carried out.

Owns the merging of request and template, every check that EC2 makes before a launch, idempotency
by client token, and the creation of instances with their volumes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ec2spawner.localcloud.ec2.capacity import Occupant
from ec2spawner.localcloud.ec2.failures import (
    EC2Error,
    bad_combination,
    bad_value,
    malformed,
    missing,
    not_found,
)
from ec2spawner.localcloud.ec2.lifecycle import attach, public_address
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID, Image, Instance, Token, Volume
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.surroundings import (
    GroupInfo,
    SubnetInfo,
    TemplateInfo,
    TypeInfo,
)
from ec2spawner.localcloud.ec2.tagging import check_count, read_specifications
from ec2spawner.localcloud.ec2.views import instance_view
from ec2spawner.model import InstanceState

MAX_USER_DATA_BYTES = 16_384  # raw; EC2 user guide, "Instance user data", 2026
MAX_TOKEN_CHARACTERS = 64
TAGGABLE = ("instance", "volume", "network-interface", "spot-instances-request")
_DEFAULT_METADATA = {
    "HttpTokens": "optional",
    "HttpPutResponseHopLimit": 1,
    "HttpEndpoint": "enabled",
    "HttpProtocolIpv6": "disabled",
    "InstanceMetadataTags": "disabled",
}


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


def run_instances(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """RunInstances: between MinCount and MaxCount instances, all in one zone, or none."""
    token = params.get("ClientToken") or ""
    if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        raise bad_value("ClientToken must be at most 64 ASCII characters")
    fingerprint = _fingerprint(params)
    known = ec2.tokens.get(f"RunInstances/{token}") if token else None
    if known:
        return _replay(ec2, known, fingerprint)
    template = (
        ec2.surroundings.template(params["LaunchTemplate"])
        if params.get("LaunchTemplate")
        else None
    )
    plan = plan_launch(ec2, merge(params, template))
    if template:
        plan.tags.setdefault("instance", {}).update(
            {
                "aws:ec2launchtemplate:id": template.id,
                "aws:ec2launchtemplate:version": str(template.version),
            }
        )
    launched = _launch(ec2, plan, token)
    if token:
        ids = [i.id for i in launched]
        ec2.add(Token(f"RunInstances/{token}", fingerprint, ids, ec2.clock()))
    return reservation_view(ec2, launched)


def reservation_view(ec2: State, instances: list[Instance]) -> dict[str, Any]:
    """Instances of one reservation, as RunInstances answers."""
    return {
        "ReservationId": instances[0].reservation_id,
        "OwnerId": ACCOUNT_ID,
        "Groups": [],
        "Instances": [instance_view(ec2, i) for i in instances],
    }


def _fingerprint(params: Mapping[str, Any]) -> str:
    kept = {k: v for k, v in params.items() if k not in ("DryRun", "ClientToken")}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _replay(ec2: State, token: Token, fingerprint: str) -> dict[str, Any]:
    if token.fingerprint != fingerprint:
        raise EC2Error(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in "
            "previous request(s).",
        )
    ended = (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED)
    found = [ec2.instances[i] for i in token.resource_ids if i in ec2.instances]
    if len(found) < len(token.resource_ids) or all(i.state in ended for i in found):
        raise EC2Error(
            "IdempotentInstanceTerminated",
            "The client token is associated with an instance that has been terminated.",
        )
    return reservation_view(ec2, found)


def plan_launch(ec2: State, merged: Mapping[str, Any]) -> LaunchPlan:
    """Check a merged request as EC2 does, before capacity is looked at."""
    least, most = _counts(merged)
    image = _image(ec2, merged)
    type_ = _type(ec2, merged, image)
    _check_user_data(merged)
    _check_key(ec2, merged)
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
    return type_


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
    if ec2.address_owner(address) or address in subnet.used_addresses:
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
    options = merged.get("InstanceMarketOptions") or {}
    if options.get("MarketType") != "spot":
        return {}
    return {"SpotInstanceType": "one-time", **(options.get("SpotOptions") or {})}


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


def _how_many(ec2: State, plan: LaunchPlan) -> int:
    wanted = Occupant(plan.type.name, plan.subnet.zone, plan.market, plan.type.vcpus)
    room, reason = ec2.capacity.current().room("RunInstances", wanted, ec2.occupants())
    if room is not None and room < plan.least and reason:
        raise reason
    addresses = ec2.free_addresses(plan.subnet)
    if addresses < plan.least:
        raise EC2Error(
            "InsufficientFreeAddressesInSubnet",
            f"There are not enough free addresses in subnet '{plan.subnet.id}' to satisfy the "
            "requested number of instances.",
        )
    return min(plan.most, addresses, plan.most if room is None else room)


def _launch(ec2: State, plan: LaunchPlan, token: str) -> list[Instance]:
    count = _how_many(ec2, plan)
    check_count(plan.tags.get("instance", {}))
    reservation = ec2.new_id("r")
    return [_one(ec2, plan, token, reservation, index) for index in range(count)]


def _one(ec2: State, plan: LaunchPlan, token: str, reservation: str, index: int) -> Instance:
    settings, now = plan.settings, ec2.clock()
    instance = Instance(ec2.new_id("i"))
    instance.sequence = ec2.next_number()
    instance.reservation_id, instance.index, instance.client_token = reservation, index, token
    instance.image_id, instance.instance_type = plan.image.id, plan.type.name
    instance.architecture = plan.image.architecture
    instance.root_device = plan.image.root_device
    instance.key_name = settings.get("KeyName") or ""
    instance.zone, instance.subnet_id = plan.subnet.zone, plan.subnet.id
    instance.vpc_id = plan.subnet.vpc_id
    instance.groups = [(g.id, g.name) for g in plan.groups]
    instance.interface_id = ec2.new_id("eni")
    instance.created_at = instance.launched_at = instance.changed_at = now
    instance.due_at = now + ec2.timings.pending_seconds
    _apply_settings(instance, settings, plan)
    _place(ec2, instance, plan)
    instance.tags = dict(plan.tags.get("instance", {}))
    instance.interface_tags = dict(plan.tags.get("network-interface", {}))
    if plan.spot:
        instance.is_spot = True
        instance.spot_is_persistent = plan.spot["SpotInstanceType"] == "persistent"
        instance.spot_request_id = ec2.new_id("sir")
    ec2.add(instance)
    for device in plan.devices:
        _add_volume(ec2, instance, device, plan.tags.get("volume", {}))
    ec2.happened("booted", instance.id)
    return instance


def _apply_settings(instance: Instance, settings: Mapping[str, Any], plan: LaunchPlan) -> None:
    instance.user_data = settings.get("UserData") or ""
    instance.profile_arn = plan.profile_arn
    instance.metadata_options = {**_DEFAULT_METADATA, **(settings.get("MetadataOptions") or {})}
    instance.shutdown_behavior = settings.get("InstanceInitiatedShutdownBehavior") or "stop"
    instance.hibernation = bool((settings.get("HibernationOptions") or {}).get("Configured"))
    instance.cpu_credits = (settings.get("CreditSpecification") or {}).get("CpuCredits") or ""
    instance.monitoring = bool((settings.get("Monitoring") or {}).get("Enabled"))
    instance.ebs_optimized = bool(settings.get("EbsOptimized"))
    instance.disable_api_termination = bool(settings.get("DisableApiTermination"))
    instance.disable_api_stop = bool(settings.get("DisableApiStop"))


def _place(ec2: State, instance: Instance, plan: LaunchPlan) -> None:
    if plan.address:
        ec2.claim_address(plan.address, instance.id)
        instance.private_ip = plan.address
    else:
        instance.private_ip = ec2.take_address(plan.subnet, instance.id) or ""
    instance.wants_public_ip = plan.public
    if plan.public:
        instance.public_ip = public_address(ec2)


def _add_volume(
    ec2: State, instance: Instance, device: DevicePlan, tags: Mapping[str, str]
) -> None:
    is_root = device.device == instance.root_device
    volume = Volume(ec2.new_id("vol"))
    volume.sequence = ec2.next_number()
    volume.zone, volume.size_gib = instance.zone, device.size_gib
    volume.volume_type, volume.iops = device.volume_type, device.iops
    volume.throughput, volume.encrypted = device.throughput, device.encrypted
    volume.snapshot_id, volume.created_at = device.snapshot_id, ec2.clock()
    volume.is_root = is_root
    volume.has_data = is_root or not (ec2.copies_files and device.snapshot_id)
    volume.tags = dict(tags)
    ec2.add(volume)
    ec2.happened("volume-created", volume.id, device.snapshot_id)
    attach(
        ec2,
        instance,
        volume,
        device.device,
        delete_on_termination=device.delete_on_termination,
    )
