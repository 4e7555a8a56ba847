"""What the semantics must be told about the rest of EC2: network, templates, keys, types.

Owns the interface, and ``StaticSurroundings``, a fixed small world for tests in one process.
In the served cloud moto answers instead (``motoside``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class SubnetInfo:
    """A subnet, as far as a launch cares."""

    id: str
    vpc_id: str
    zone: str
    cidr: str
    public: bool = False
    used_addresses: frozenset[str] = frozenset()  # taken by others than instances


@dataclass(frozen=True)
class GroupInfo:
    """A security group."""

    id: str
    name: str
    vpc_id: str


@dataclass(frozen=True)
class InterfaceInfo:
    """A network interface that was made for itself, for an instance to have."""

    id: str
    subnet_id: str
    group_ids: tuple[str, ...]
    private_ip: str
    public_ip: str = ""


@dataclass(frozen=True)
class TypeInfo:
    """An instance type and the zones that offer it."""

    name: str
    vcpus: int
    architectures: tuple[str, ...]
    zones: frozenset[str]
    has_credits: bool  # CPU credits: its performance is burstable


@dataclass(frozen=True)
class TemplateInfo:
    """One version of a launch template; ``data`` is as LaunchTemplateData has it."""

    id: str
    version: int
    data: Mapping[str, Any]


class Surroundings(Protocol):
    """The neighbours of instances. A look-up of what does not exist answers None."""

    def subnet(self, subnet_id: str) -> SubnetInfo | None:
        """The subnet of that id."""

    def default_subnet(self, zone: str | None) -> SubnetInfo | None:
        """The default VPC's subnet in ``zone``, or in any."""

    def group(self, group_id: str) -> GroupInfo | None:
        """The security group of that id."""

    def default_group(self, vpc_id: str) -> GroupInfo | None:
        """The VPC's own group, used where none is named."""

    def template(self, wanted: Mapping[str, Any]) -> TemplateInfo:
        """The version that a LaunchTemplateSpecification names, or EC2Error."""

    def has_key(self, key_name: str) -> bool:
        """Whether a key pair of that name exists."""

    def instance_type(self, name: str) -> TypeInfo | None:
        """The instance type of that name."""

    def zones(self) -> Sequence[str]:
        """The Region's zones."""

    def profile_arn(self, wanted: Mapping[str, Any]) -> str | None:
        """The ARN of an IAM instance profile, by Name or Arn."""

    def parameter(self, name: str) -> tuple[str, str] | None:
        """Value and data type of the SSM parameter of that name."""

    def tag_others(self, resource_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Tag what is not an instance, volume, snapshot or image, or EC2Error."""

    def untag_others(self, resource_ids: Sequence[str], tags: Mapping[str, str | None]) -> None:
        """Take tags off it again; a value of None means whatever its value is."""

    def tags_of_others(self) -> list[tuple[str, str, str, str]]:
        """(resource id, resource type, key, value) of all of them."""

    def interface(self, interface_id: str) -> InterfaceInfo | None:
        """The network interface of that id, if no launch made it."""

    def other_interfaces(self) -> list[dict[str, Any]]:
        """Network interfaces of gateways and endpoints, as DescribeNetworkInterfaces shows them."""


ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")


def _common_types() -> dict[str, TypeInfo]:
    x86, arm = ("x86_64",), ("arm64",)
    sizes = {
        "t3.nano": (2, x86),
        "t3.micro": (2, x86),
        "t3.small": (2, x86),
        "t3.medium": (2, x86),
        "t3.large": (2, x86),
        "t3.xlarge": (4, x86),
        "m7i.large": (2, x86),
        "t4g.medium": (2, arm),
        "m7g.large": (2, arm),
        "g5.xlarge": (4, x86),
    }
    return {n: TypeInfo(n, v, a, frozenset(ZONES), n[0] == "t") for n, (v, a) in sizes.items()}


@dataclass
class StaticSurroundings:
    """One VPC 127.77.0.0/16 with a /20 in each of three zones, one group, one key."""

    subnets: dict[str, SubnetInfo] = field(
        default_factory=lambda: {
            f"subnet-{i:017x}": SubnetInfo(
                f"subnet-{i:017x}", "vpc-0", zone, f"127.77.{16 * i}.0/20"
            )
            for i, zone in enumerate(ZONES, 1)
        }
    )
    groups: dict[str, GroupInfo] = field(
        default_factory=lambda: {"sg-1": GroupInfo("sg-1", "workers", "vpc-0")}
    )
    keys: set[str] = field(default_factory=lambda: {"cluster"})
    types: dict[str, TypeInfo] = field(default_factory=_common_types)
    templates: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    parameters: dict[str, tuple[str, str]] = field(default_factory=dict)

    def subnet(self, subnet_id: str) -> SubnetInfo | None:
        """See Surroundings."""
        return self.subnets.get(subnet_id)

    def default_subnet(self, zone: str | None) -> SubnetInfo | None:
        """See Surroundings."""
        return next((s for s in self.subnets.values() if zone in (None, s.zone)), None)

    def group(self, group_id: str) -> GroupInfo | None:
        """See Surroundings."""
        return self.groups.get(group_id)

    def default_group(self, vpc_id: str) -> GroupInfo | None:
        """See Surroundings."""
        return next((g for g in self.groups.values() if g.vpc_id == vpc_id), None)

    def template(self, wanted: Mapping[str, Any]) -> TemplateInfo:
        """See Surroundings; a template's name is its id here."""
        name = wanted.get("LaunchTemplateId") or wanted.get("LaunchTemplateName") or ""
        versions = self.templates[name]
        version = str(wanted.get("Version", "$Default"))
        number = len(versions) if version == "$Latest" else 1
        number = int(version) if version.isdigit() else number
        return TemplateInfo(name, number, versions[number - 1])

    def has_key(self, key_name: str) -> bool:
        """See Surroundings."""
        return key_name in self.keys

    def instance_type(self, name: str) -> TypeInfo | None:
        """See Surroundings."""
        return self.types.get(name)

    def zones(self) -> Sequence[str]:
        """See Surroundings."""
        return ZONES

    def profile_arn(self, wanted: Mapping[str, Any]) -> str | None:
        """See Surroundings; every profile exists."""
        return str(wanted.get("Arn") or f"arn:aws:iam::profile/{wanted.get('Name')}")

    def parameter(self, name: str) -> tuple[str, str] | None:
        """See Surroundings."""
        return self.parameters.get(name)

    def tag_others(self, resource_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """See Surroundings."""
        for resource_id in resource_ids:
            self.tags.setdefault(resource_id, {}).update(tags)

    def untag_others(self, resource_ids: Sequence[str], tags: Mapping[str, str | None]) -> None:
        """See Surroundings."""
        for resource_id in resource_ids:
            for key in tags:
                self.tags.get(resource_id, {}).pop(key, None)

    def tags_of_others(self) -> list[tuple[str, str, str, str]]:
        """See Surroundings."""
        return [(i, "other", k, v) for i, tags in self.tags.items() for k, v in tags.items()]

    def interface(self, interface_id: str) -> InterfaceInfo | None:
        """See Surroundings; there are none."""
        return None

    def other_interfaces(self) -> list[dict[str, Any]]:
        """See Surroundings; there are none."""
        return []
