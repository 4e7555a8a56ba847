"""moto, which plays every service but EC2's instances and volumes: set up and asked.

Owns the door to moto: its settings, its import, and the look-ups that launches need. Where it falls
short, ``motomends`` mends it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID
from ec2spawner.localcloud.ec2.surroundings import (
    GroupInfo,
    InterfaceInfo,
    SubnetInfo,
    TemplateInfo,
    TypeInfo,
)

if TYPE_CHECKING:
    pass

_SETTINGS = {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false", "MOTO_ALLOW_NONEXISTENT_REGION": "false"}


def configure() -> None:
    """Set what moto reads from the environment; must come before moto is imported."""
    os.environ.update(_SETTINGS)


_importing = threading.Lock()


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Have a module missing for a while.

    moto imports jsonschema, which imports this grammar of IRIs where it is installed, which takes
    two seconds; jsonschema does without it where it is not.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment] # that is how Python marks it missing
    try:
        yield
    finally:
        del sys.modules[module]


def import_moto() -> None:
    """Import the large parts of moto, which takes seconds; others who need them wait.

    Two threads that import moto's modules, which import each other, would find them half made.
    """
    with _importing, _without("rfc3987_syntax"):
        configure()
        import moto.cloudformation.models
        import moto.ec2.models
        import moto.moto_server.werkzeug_app
        import moto.ssm.models  # noqa: F401 - imported for their being there


class MotoSurroundings:
    """What launches in one Region must know of its network, as moto has it."""

    def __init__(self, region: str) -> None:
        self.region = region

    @property
    def backend(self) -> Any:
        """moto's EC2 of this Region."""
        from moto.ec2.models import ec2_backends

        return ec2_backends[ACCOUNT_ID][self.region]

    def subnet(self, subnet_id: str) -> SubnetInfo | None:
        """See Surroundings."""
        for zone in self.backend.subnets.values():
            if subnet_id in zone:
                return self.info_of(zone[subnet_id])
        return None

    def info_of(self, subnet: Any) -> SubnetInfo:
        """A subnet of moto's, with the addresses that its interfaces have."""
        used = frozenset(
            interface.private_ip_address
            for interface in self.backend.get_all_network_interfaces()
            if interface.subnet.id == subnet.id
        )
        return SubnetInfo(
            subnet.id,
            subnet.vpc_id,
            subnet.availability_zone,
            str(subnet.cidr_block),
            str(subnet.map_public_ip_on_launch).lower() == "true",
            used,
        )

    def default_subnet(self, zone: str | None) -> SubnetInfo | None:
        """See Surroundings."""
        for name, subnet in sorted(self.backend.get_default_subnets().items()):
            if zone in (None, name):
                return self.info_of(subnet)
        return None

    def group(self, group_id: str) -> GroupInfo | None:
        """See Surroundings."""
        group = self.backend.get_security_group_from_id(group_id)
        return GroupInfo(group.id, group.name, group.vpc_id) if group else None

    def default_group(self, vpc_id: str) -> GroupInfo | None:
        """See Surroundings."""
        group = self.backend.get_security_group_from_name("default", vpc_id)
        return GroupInfo(group.id, group.name, group.vpc_id) if group else None

    def template(self, wanted: Mapping[str, Any]) -> TemplateInfo:
        """See Surroundings."""
        template_id, name = wanted.get("LaunchTemplateId"), wanted.get("LaunchTemplateName")
        if bool(template_id) == bool(name):
            raise EC2Error(
                "MissingParameter", "Give either launch template ID or launch template name"
            )
        template = self._find_template(template_id, name)
        version = str(wanted.get("Version") or "$Default")
        if version not in ("$Latest", "$Default") and (
            not version.isdigit() or not 1 <= int(version) <= len(template.versions)
        ):
            raise EC2Error(
                "InvalidLaunchTemplateId.VersionNotFound",
                f"Could not find launch template version {version} for {template.id}",
            )
        found = template.get_version(version)
        return TemplateInfo(template.id, found.number, template_data(found.data))

    def _find_template(self, template_id: str | None, name: str | None) -> Any:
        backend = self.backend
        if name:
            template_id = backend.launch_template_name_to_ids.get(name)
            if not template_id:
                raise EC2Error(
                    "InvalidLaunchTemplateName.NotFoundException",
                    f"The specified launch template, with template name {name}, does not exist.",
                )
        template = backend.launch_templates.get(template_id)
        if template is None:
            raise EC2Error(
                "InvalidLaunchTemplateId.NotFound",
                f"The specified launch template, with template ID {template_id}, does not exist.",
            )
        return template

    def has_key(self, key_name: str) -> bool:
        """See Surroundings."""
        return key_name in self.backend.key_pairs

    def public_key(self, key_name: str) -> str | None:
        """A key pair's public half, as a line of OpenSSH."""
        pair = self.backend.key_pairs.get(key_name)
        return str(pair.public_key).strip() if pair else None

    def instance_type(self, name: str) -> TypeInfo | None:
        """See Surroundings."""
        return _types(self.region).get(name)

    def zones(self) -> Sequence[str]:
        """See Surroundings."""
        return [z.name for z in self.backend.describe_availability_zones()]

    def profile_arn(self, wanted: Mapping[str, Any]) -> str | None:
        """See Surroundings."""
        from moto.iam.models import iam_backends

        profiles = iam_backends[ACCOUNT_ID]["aws"].instance_profiles.values()
        for profile in profiles:
            if wanted.get("Name") == profile.name or wanted.get("Arn") == profile.arn:
                return str(profile.arn)
        return None

    def parameter(self, name: str) -> tuple[str, str] | None:
        """See Surroundings."""
        from moto.ssm.models import ssm_backends

        found = ssm_backends[ACCOUNT_ID][self.region].get_parameter(name)
        return (found.value, found.data_type) if found else None

    def tag_others(self, resource_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """See Surroundings."""
        from moto.ec2.models import validate_resource_ids

        with refusals():
            validate_resource_ids(list(resource_ids))
            self.backend.do_resources_exist(list(resource_ids))
            self.backend.create_tags(list(resource_ids), dict(tags))

    def untag_others(self, resource_ids: Sequence[str], tags: Mapping[str, str | None]) -> None:
        """See Surroundings."""
        with refusals():
            self.backend.delete_tags(list(resource_ids), dict(tags))

    def tags_of_others(self) -> list[tuple[str, str, str, str]]:
        """See Surroundings."""
        there = _ids_by_kind(self.backend)
        return [
            (t["resource_id"], t["resource_type"], t["key"], t["value"])
            for t in self.backend.describe_tags()
            if t["resource_id"] in there.get(t["resource_type"], (t["resource_id"],))
        ]

    def interface(self, interface_id: str) -> InterfaceInfo | None:
        """See Surroundings."""
        found = self.backend.enis.get(interface_id)
        if found is None:
            return None
        return InterfaceInfo(
            found.id,
            found.subnet.id,
            tuple(group.id for group in found.group_set),
            found.private_ip_address,
            found.public_ip or "",
        )

    def other_interfaces(self) -> list[dict[str, Any]]:
        """See Surroundings."""
        return [
            {
                "NetworkInterfaceId": interface.id,
                "SubnetId": interface.subnet.id,
                "VpcId": interface.subnet.vpc_id,
                "AvailabilityZone": interface.subnet.availability_zone,
                "Description": interface.description or "",
                "Status": interface.status,
                "OwnerId": ACCOUNT_ID,
                "PrivateIpAddress": interface.private_ip_address,
                "Groups": [{"GroupId": g.id, "GroupName": g.name} for g in interface.group_set],
                "InterfaceType": "interface",
                "TagSet": [],
            }
            for interface in self.backend.get_all_network_interfaces()
        ]


class refusals:  # noqa: N801 - reads as a statement: "with refusals():"
    """Turns moto's own errors into EC2Error."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        code = getattr(error, "code", None)
        if error is not None and isinstance(code, str) and not isinstance(error, EC2Error):
            raise EC2Error(code, getattr(error, "message", str(error))) from error


@lru_cache(maxsize=8)
def _types(region: str) -> dict[str, TypeInfo]:
    from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

    zones: dict[str, set[str]] = defaultdict(set)
    for offer in INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, ()):
        zones[offer["InstanceType"]].add(offer["Location"])
    return {
        name: TypeInfo(
            name,
            int(data["VCpuInfo"]["DefaultVCpus"]),
            tuple(data["ProcessorInfo"]["SupportedArchitectures"]),
            frozenset(zones[name]),
            bool(data["BurstablePerformanceSupported"]),
        )
        for name, data in INSTANCE_TYPES.items()
        if name in zones
    }


def template_data(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A template's data with EC2's types: CloudFormation passes numbers and truths as text."""
    from ec2spawner.localcloud.wire import service_model

    shape = service_model().shape_for("RequestLaunchTemplateData")
    result: dict[str, Any] = _coerce(shape, raw)
    return result


def _coerce(shape: Any, value: Any) -> Any:
    kind = shape.type_name
    if kind == "structure" and isinstance(value, Mapping):
        members = shape.members
        return {
            name: _coerce(members[name], item)
            for name, item in value.items()
            if name in members and item is not None
        }
    if kind == "list" and isinstance(value, (list, tuple)):
        return [_coerce(shape.member, item) for item in value]
    if kind in ("integer", "long"):
        return int(value)
    if kind == "boolean":
        return str(value).lower() == "true"
    return str(value) if kind == "string" else value  # moto has a text type of its own


def _ids_by_kind(backend: Any) -> dict[str, set[str]]:
    """What is there of the kinds whose tags moto keeps after their end, as EC2 does not."""
    return {
        "vpc": set(backend.vpcs),
        "subnet": {i for zone in backend.subnets.values() for i in zone},
        "internet-gateway": set(backend.internet_gateways),
        "route-table": set(backend.route_tables),
        "vpc-endpoint": set(backend.vpc_end_points),
        "vpc-elastic-ip": {address.allocation_id for address in backend.addresses},
        "security-group": {i for network in backend.groups.values() for i in network},
        "launch-template": set(backend.launch_templates),
        "key-pair": {pair.id for pair in backend.key_pairs.values()},
        "network-interface": set(backend.enis),
    }
