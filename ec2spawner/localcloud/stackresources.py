"""Resource types of CloudFormation that moto leaves out, or keeps in an EC2 of its own.

Instances, volumes and attachments of a stack are the emulated EC2's, as those are that RunInstances
makes; an interface takes an address that no instance has; an address goes to an interface; a
bucket's policy is given to moto's S3; a snapshot policy is kept, and takes no snapshots. Imports
moto: only for who has loaded it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from moto.core.common_models import CloudFormationModel
from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.security_groups import SecurityGroupIngress
from moto.s3.models import s3_backends

from ec2spawner.localcloud.ec2 import lifecycle
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID, Instance, Volume
from ec2spawner.model import InstanceState

Mend = tuple[Any, str, Callable[[Any], Any]]
PUBLIC_RANGE = "127.78.{}.{}"
"""Elastic IP addresses are addresses of this computer, so that a manager's hub can answer there."""
REFUSED_UPDATES = {
    "AWS::EC2::Instance": ("ImageId", "KeyName", "NetworkInterfaces", "BlockDeviceMappings"),
    "AWS::EC2::NetworkInterface": ("SubnetId", "PrivateIpAddress"),
    "AWS::EC2::Volume": ("AvailabilityZone", "Encrypted", "SnapshotId"),
}
"""What CloudFormation makes another resource for. Here such an update fails: of the manager's
resources, none can be made while its predecessor holds the interface, the address or the data."""

_cores: Mapping[str, EmulatedEC2] = {}


def bind(cores: Mapping[str, EmulatedEC2]) -> None:
    """Tell which emulated EC2 the stacks' resources belong to."""
    global _cores
    _cores = cores


def _core(region: str) -> EmulatedEC2:
    return _cores[region]


def _tags(properties: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"Key": t["Key"], "Value": str(t["Value"])} for t in properties.get("Tags") or ()]


def _text(value: Any) -> Any:
    """moto hands over a text type of its own."""
    if isinstance(value, Mapping):
        return {str(k): _text(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_text(v) for v in value]
    return str(value) if isinstance(value, str) else value


class _Resource(CloudFormationModel):
    """What all of them share. ``values`` are the template's properties, resolved."""

    attributes: tuple[str, ...] = ()
    is_tagged = False  # in the emulated EC2

    def __init__(self, id_: str, region: str, values: dict[str, Any]) -> None:
        self.id, self.region, self.values = id_, region, values

    @property
    def physical_resource_id(self) -> str:
        """See moto."""
        return self.id

    def is_created(self) -> bool:
        """See moto."""
        return True

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        """See moto."""
        return attr in cls.attributes

    def get_cfn_attribute(self, attribute_name: str) -> Any:
        """See moto."""
        return self.id

    @staticmethod
    def cloudformation_name_type() -> str:
        """See moto."""
        return ""

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
        **kwargs: Any,
    ) -> Any:
        """See moto."""
        values = _text(cloudformation_json["Properties"])
        return cls(cls._create(region_name, values), region_name, values)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> Any:
        """See moto."""
        values = _text(cloudformation_json["Properties"])
        refuse_replacement(cls.cloudformation_type(), original_resource.values, values)
        original_resource._update(values)
        original_resource.values = values
        return original_resource

    @classmethod
    def _create(cls, region: str, values: dict[str, Any]) -> str:
        raise NotImplementedError

    def _update(self, values: dict[str, Any]) -> None:
        """Nothing to do but for tags."""

    def add_stack_tags(self, tags: Mapping[str, str]) -> None:
        """A stack's tags are passed on to its resources."""
        if tags and self.is_tagged:
            given = [{"Key": key, "Value": value} for key, value in tags.items()]
            _core(self.region).call("CreateTags", {"Resources": [self.id], "Tags": given})

    def delete(self, account_id: str, region_name: str) -> None:
        """Take it away, as the stack's deletion does."""
        raise NotImplementedError


def refuse_replacement(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Fail where CloudFormation would make another resource, and cannot."""
    changed = [k for k in REFUSED_UPDATES.get(kind, ()) if old.get(k) != new.get(k)]
    if changed:
        raise EC2Error(
            "Resource.AlreadyAssociated",
            f"{', '.join(changed)}: another {kind} cannot be made while this one is in use",
        )


class StackBucketPolicy(_Resource, CloudFormationModel):
    """AWS::S3::BucketPolicy."""

    @staticmethod
    def cloudformation_type() -> str:
        """See moto."""
        return "AWS::S3::BucketPolicy"

    @classmethod
    def _create(cls, region: str, values: dict[str, Any]) -> str:
        bucket: str = values["Bucket"]
        policy = json.dumps(values["PolicyDocument"]).encode()
        s3_backends[ACCOUNT_ID]["aws"].put_bucket_policy(bucket, policy)
        return bucket

    def _update(self, values: dict[str, Any]) -> None:
        self._create(self.region, values)

    def delete(self, account_id: str, region_name: str) -> None:
        """See moto."""
        backend = s3_backends[account_id]["aws"]
        if self.id in backend.buckets:
            backend.delete_bucket_policy(self.id)


class StackInstance(_Resource, CloudFormationModel):  # moto finds direct subclasses only
    """AWS::EC2::Instance."""

    attributes = ("InstanceId", "PrivateIp", "AvailabilityZone")
    is_tagged = True

    @staticmethod
    def cloudformation_type() -> str:
        """See moto."""
        return "AWS::EC2::Instance"

    @classmethod
    def _create(cls, region: str, values: dict[str, Any]) -> str:
        params = {k: v for k, v in values.items() if k not in _NOT_OF_RUN_INSTANCES}
        if "IamInstanceProfile" in values:
            params["IamInstanceProfile"] = {"Name": values["IamInstanceProfile"]}
        if "CreditSpecification" in values:
            params["CreditSpecification"] = {
                "CpuCredits": values["CreditSpecification"]["CPUCredits"]
            }
        params["BlockDeviceMappings"] = [_device(d) for d in values.get("BlockDeviceMappings", ())]
        params["TagSpecifications"] = [
            {"ResourceType": kind, "Tags": _tags(values)}
            for kind in ("instance", "volume")
            if kind == "instance" or values.get("PropagateTagsToVolumeOnCreation")
        ]
        reply = _core(region).call("RunInstances", {**params, "MinCount": 1, "MaxCount": 1})
        instance_id: str = reply["Instances"][0]["InstanceId"]
        _settle_now(_core(region), instance_id, InstanceState.PENDING)
        return instance_id

    def _update(self, values: dict[str, Any]) -> None:
        core = _core(self.region)
        instance = core.instances[self.id]
        core.call("CreateTags", {"Resources": [self.id], "Tags": _tags(values)})
        stops = [k for k in ("InstanceType", "UserData") if self.values.get(k) != values.get(k)]
        instance.instance_type = values["InstanceType"]
        instance.user_data = values.get("UserData", "")
        if stops:  # CloudFormation stops it for these, and starts it again
            instance.launched_at = core.clock()
            core.happened("rebooted", instance.id)
        core.touch(instance)

    def delete(self, account_id: str, region_name: str) -> None:
        """See moto."""
        core = _core(self.region)
        if self.id in core.instances:
            core.call("TerminateInstances", {"InstanceIds": [self.id]})
            _settle_now(core, self.id, InstanceState.SHUTTING_DOWN)


_NOT_OF_RUN_INSTANCES = (
    *("Tags", "IamInstanceProfile", "CreditSpecification", "BlockDeviceMappings"),
    "PropagateTagsToVolumeOnCreation",
)


def _device(values: Mapping[str, Any]) -> dict[str, Any]:
    ebs = dict(values["Ebs"])
    ebs["VolumeSize"] = int(ebs["VolumeSize"])
    return {**values, "Ebs": ebs}


def _settle_now(core: EmulatedEC2, instance_id: str, state: InstanceState) -> None:
    """CloudFormation waits for what is under way; here that is over at once."""
    instance: Instance | None = core.instances.get(instance_id)
    if instance and instance.state is state:
        instance.due_at = core.clock()
        core.touch(instance)
        core.settle()


class StackVolume(_Resource, CloudFormationModel):  # moto finds direct subclasses only
    """AWS::EC2::Volume."""

    attributes = ("VolumeId",)
    is_tagged = True

    @staticmethod
    def cloudformation_type() -> str:
        """See moto."""
        return "AWS::EC2::Volume"

    @classmethod
    def _create(cls, region: str, values: dict[str, Any]) -> str:
        params: dict[str, Any] = {k: v for k, v in values.items() if k != "Tags"}
        params["Size"] = int(params["Size"])
        params["TagSpecifications"] = [{"ResourceType": "volume", "Tags": _tags(values)}]
        core = _core(region)
        volume: Volume = core.volumes[core.call("CreateVolume", params)["VolumeId"]]
        volume.due_at = core.clock()
        core.touch(volume)
        core.settle()
        return volume.id

    def _update(self, values: dict[str, Any]) -> None:
        core = _core(self.region)
        core.call("CreateTags", {"Resources": [self.id], "Tags": _tags(values)})
        volume = core.volumes[self.id]
        volume.size_gib = int(values["Size"])
        core.touch(volume)

    def delete(self, account_id: str, region_name: str) -> None:
        """See moto."""
        core = _core(self.region)
        if self.id in core.volumes:
            core.call("DeleteVolume", {"VolumeId": self.id})


class StackAttachment(_Resource, CloudFormationModel):  # moto finds direct subclasses only
    """AWS::EC2::VolumeAttachment."""

    @staticmethod
    def cloudformation_type() -> str:
        """See moto."""
        return "AWS::EC2::VolumeAttachment"

    @classmethod
    def _create(cls, region: str, values: dict[str, Any]) -> str:
        _core(region).call("AttachVolume", values)
        return f"{values['VolumeId']}|{values['InstanceId']}"

    def delete(self, account_id: str, region_name: str) -> None:
        """See moto."""
        core = _core(self.region)
        volume: Volume | None = core.volumes.get(self.values["VolumeId"])
        held = volume.attachment if volume else None
        if volume and held and held.instance_id == self.values["InstanceId"]:
            lifecycle.finish_detach(core, volume)


class StackAddressAssociation(_Resource, CloudFormationModel):  # moto finds direct subclasses only
    """AWS::EC2::EIPAssociation."""

    @staticmethod
    def cloudformation_type() -> str:
        """See moto."""
        return "AWS::EC2::EIPAssociation"

    @classmethod
    def _create(cls, region: str, values: dict[str, Any]) -> str:
        backend: Any = ec2_backends[ACCOUNT_ID][region]
        address = backend.associate_address(
            eni=backend.get_network_interface(values["NetworkInterfaceId"]),
            allocation_id=values["AllocationId"],
        )
        return str(address.association_id)

    def delete(self, account_id: str, region_name: str) -> None:
        """See moto."""
        backend: Any = ec2_backends[account_id][region_name]
        for address in backend.addresses:
            if address.association_id == self.id:
                if address.eni:
                    address.eni.public_ip = None
                address.eni = address.association_id = None


class StackSnapshotPolicy(_Resource, CloudFormationModel):  # moto finds direct subclasses only
    """AWS::DLM::LifecyclePolicy, which is kept as it was written."""

    attributes = ("Arn", "PolicyId")

    @staticmethod
    def cloudformation_type() -> str:
        """See moto."""
        return "AWS::DLM::LifecyclePolicy"

    @classmethod
    def _create(cls, region: str, values: dict[str, Any]) -> str:
        if not values.get("ExecutionRoleArn"):
            raise EC2Error("InvalidRequestException", "The request must contain a role")
        return f"policy-{secrets.token_hex(9)[:17]}"

    def delete(self, account_id: str, region_name: str) -> None:
        """Nothing is left of it."""


# ---- mends of moto's own types


def mends() -> list[Mend]:
    """What to replace in moto, in this order."""
    import moto.cloudformation.parsing
    from moto.ec2.models.elastic_ip_addresses import ElasticAddressBackend
    from moto.iam.models import Role

    return [
        (moto.cloudformation.parsing, "parse_and_update_resource", _keep_what_cannot_change),
        (moto.cloudformation.parsing, "clean_json", _leave_out_no_value),
        (
            NetworkInterface,
            "create_from_cloudformation_json",
            lambda original: classmethod(_create_interface),
        ),
        (
            SecurityGroupIngress,
            "update_from_cloudformation_json",
            lambda original: classmethod(_update_rule),
        ),
        (Role, "update_from_cloudformation_json", lambda original: classmethod(_update_role)),
        (ElasticAddressBackend, "allocate_address", _allocate_here),
    ]


def _keep_what_cannot_change(original: Callable[..., Any]) -> Callable[..., Any]:
    """moto forgets a resource whose type it cannot update."""

    def parse_and_update_resource(
        logical_id: str, resource_json: dict[str, Any], resources_map: Any, **more: Any
    ) -> Any:
        known = resources_map[logical_id]
        return original(logical_id, resource_json, resources_map, **more) or known

    return parse_and_update_resource


def _leave_out_no_value(original: Callable[..., Any]) -> Callable[..., Any]:
    """moto leaves a hole in a list for ``AWS::NoValue``."""

    def clean_json(value: Any, resources_map: Any) -> Any:
        cleaned = original(value, resources_map)
        return [c for c in cleaned if c is not None] if isinstance(value, list) else cleaned

    return clean_json


def _create_interface(
    cls: type[Any],
    /,
    resource_name: str,
    cloudformation_json: dict[str, Any],
    account_id: str,
    region_name: str,
    **kwargs: Any,
) -> Any:
    values = _text(cloudformation_json["Properties"])
    core, backend = _core(region_name), ec2_backends[account_id][region_name]
    subnet = core.surroundings.subnet(values["SubnetId"])
    if subnet is None:
        raise EC2Error("InvalidSubnetID.NotFound", f"There is no subnet {values['SubnetId']}")
    address = str(values.get("PrivateIpAddress") or core.take_address(subnet, "") or "")
    core.release_address(address)  # it is the interface's from now on
    tags = {t["Key"]: t["Value"] for t in _tags(values)}
    interface: Any = backend.create_network_interface(
        backend.get_subnet(subnet.id),
        address,
        group_ids=values.get("GroupSet", []),
        description=values.get("Description"),
        tags=tags,
    )
    return interface


def _update_rule(
    cls: type[Any],
    /,
    original_resource: Any,
    new_resource_name: str,
    cloudformation_json: dict[str, Any],
    account_id: str,
    region_name: str,
) -> Any:
    from ec2spawner.localcloud.stackdeletion import delete_rule

    delete_rule(ec2_backends[account_id][region_name], original_resource)
    return cls.create_from_cloudformation_json(
        new_resource_name, cloudformation_json, account_id, region_name
    )


def _update_role(
    cls: type[Any],
    /,
    original_resource: Any,
    new_resource_name: str,
    cloudformation_json: dict[str, Any],
    account_id: str,
    region_name: str,
) -> Any:
    values = _text(cloudformation_json["Properties"])
    original_resource.policies = {}
    for policy in values.get("Policies", ()):
        original_resource.put_policy(policy["PolicyName"], policy["PolicyDocument"])
    original_resource.permissions_boundary_arn = values.get("PermissionsBoundary", "")
    original_resource.tags = values.get("Tags", [])
    return original_resource


def _allocate_here(original: Callable[..., Any]) -> Callable[..., Any]:
    def allocate_address(
        backend: Any, domain: str, address: str | None = None, tags: Any = None
    ) -> Any:
        quota = _core(backend.region_name).capacity.current().address_quota
        if quota is not None and len(backend.addresses) >= quota:
            words = "The maximum number of addresses has been reached."
            raise EC2Error("AddressLimitExceeded", words)
        taken = {known.public_ip for known in backend.addresses}
        numbers = (PUBLIC_RANGE.format(n // 254, n % 254 + 1) for n in range(254 * 256))
        free = next(text for text in numbers if text not in taken)
        return original(backend, domain, address or free, tags)

    return allocate_address
