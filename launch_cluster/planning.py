"""What ``up`` would do, as plain functions: findings that forbid it, and the plan's steps.

Owns the decisions: which subnets, image and key, which stack must change and why. Must not call
AWS, read a file or print.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from typing import Any

from ec2spawner.addresses import HUB_API_PORT, hub_port
from ec2spawner.costs import Nat
from ec2spawner.model import TAG_CLUSTER
from ec2spawner.settings import (
    EDITABLE_KEYS,
    PEOPLE_KEYS,
    Choices,
    ServerConfig,
    WorkerSubnet,
    server_config_text,
)

from .facts import Facts, HubData, ImageFacts, PackageFacts, StackFacts, StackSpec
from .imaging import (
    TAG_BASE,
    ImageStep,
    WorkerImage,
    decide,
    doubts_about_custom,
    find_by_id,
    left_over,
    recipe_of,
    take_custom,
)
from .request import DEFAULT_VPC_CIDR, UpRequest

ZONES_DEFAULT = 2
ZONE_LETTERS = "ABCD"
"""By which the network's template tells zones apart; the first two are always there."""
NETWORK_OUTPUTS = ("VpcId", "PrivateSubnetA", "PrivateSubnetB", "PublicSubnetA")
CLUSTER_OUTPUTS = (
    *("WorkerSecurityGroupId", "ManagerSecurityGroupId", "LaunchTemplateId", "Bucket"),
    "BuilderProfileArn",
)
"""What the templates' stacks say of themselves, and the rest is made from."""

_UNKNOWN = "(made by the network's stack)"


@dataclass(frozen=True)
class Finding:
    """A fact that stands in the way: what it is about, what is wrong, what to do."""

    subject: str
    reason: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.subject} {self.reason}. {self.next_step}"


class KeyChange(str, Enum):
    """What must be done for the cluster's key to be in both of its places."""

    MAKE = "make"  # neither half is there, and no worker knows a former key
    IMPORT = "import"  # only the private half is there: its public half is derived
    REPLACE = "replace"  # the private half is lost, and no worker knows the public one


@dataclass(frozen=True)
class StackChange:
    """A stack that must be made or changed, with the differences that make it so."""

    spec: StackSpec
    is_new: bool
    remains: str | None = None  # id of the remains of a failed creation, to be deleted before
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """Where workers live."""

    vpc_id: str
    worker_subnets: tuple[WorkerSubnet, ...]
    public_subnet: str | None = None


@dataclass(frozen=True)
class ManagerPlan:
    """What must be done for the manager, in this order; None or (): nothing. See ``hosting``."""

    before: StackChange | None = None  # the stack without an instance
    files: tuple[str, ...] = ()  # keys in the bucket
    instance: StackChange | None = None  # the stack with its instance
    starts: bool = False  # whether that makes an instance
    replaces: bool = False  # whether one lives, and is ended before
    notices: tuple[str, ...] = ()
    data: HubData | None = None  # of an earlier manager, which the new one gets
    package: PackageFacts | None = None  # to which the one that lives is to be brought
    refreshes: bool = False  # whether it is to take over what lies in the bucket

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.before or self.files or self.instance or self.package or self.refreshes)


@dataclass(frozen=True)
class Plan:
    """What ``up`` would do, in this order; None: nothing for that part."""

    network: StackChange | None
    key: KeyChange | None
    cluster: StackChange | None
    image: ImageStep | None
    config: bool  # whether server_config.json must be written
    builders: tuple[str, ...] = ()  # that an earlier run left, to be ended
    notices: tuple[str, ...] = ()
    manager: ManagerPlan = ManagerPlan()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        steps = (self.network, self.key, self.cluster, self.image, self.config, self.builders)
        return not any(steps) and self.manager.is_empty


@dataclass(frozen=True)
class Templates:
    """The CloudFormation templates, as text."""

    network: str
    cluster: str
    manager: str = ""


@dataclass(frozen=True)
class Package:
    """What of this package an image is made from."""

    digest: str  # hash of what is on workers
    jupyterhub: str = ""  # version that workers get


def wanted_image(request: UpRequest, current: WorkerImage | None) -> str | None:
    """The image that was named, else the base of the one in use; None: the newest base image."""
    if request.image_id:
        return request.image_id
    return current.tags.get(TAG_BASE) if current and not request.newest_base else None


def wanted_subnets(
    request: UpRequest, network: StackFacts | None, cluster: StackFacts | None
) -> tuple[tuple[str, ...], str | None]:
    """The operator's own private subnets and public one: as named, else as recorded; () if ours."""
    if request.private_subnets:
        return request.private_subnets, request.public_subnet
    if cluster and cluster.is_usable and not (network and not network.is_remains):
        recorded = tuple(filter(None, cluster.parameters.get("WorkerSubnetIds", "").split(",")))
        public = request.public_subnet or cluster.parameters.get("PublicSubnetId") or None
        return recorded, public
    return (), request.public_subnet


def make_plan(
    request: UpRequest, facts: Facts, templates: Templates, config: str | None, package: Package
) -> Plan:
    """The steps that lead from ``facts`` to ``request``; ``config``: the file's text as it is.

    Only for facts without findings.
    """
    network_change = _network_change(request, facts, templates.network)
    known = network_of(request, facts)
    spec = cluster_spec(request, facts, templates.cluster, known)
    cluster_change = change_of(spec, facts.cluster)
    image_step = image_change(request, facts, package)
    is_written = False
    if known and facts.cluster and not cluster_change and not image_step:
        as_wanted = server_config(request, facts, known, facts.cluster.outputs)
        is_written = as_wanted is not None and server_config_text(as_wanted) == config
    return Plan(
        network=network_change,
        key=key_change(facts),
        cluster=cluster_change,
        image=image_step,
        config=not is_written,
        builders=left_over(facts.builders, facts.worker_images),
        notices=_notices(request, facts, package),
    )


def image_change(request: UpRequest, facts: Facts, package: Package) -> ImageStep | None:
    """What must be done for new workers to get the image that is asked for."""
    image = _image(facts)
    if request.choices.CUSTOM_WORKER_AMI:
        return take_custom(image.image_id, facts.current_image)
    current = find_by_id(facts.worker_images, facts.current_image)
    recipe = recipe_of(request.choices, image.image_id, package.digest, current)
    return decide(recipe, facts.worker_images, facts.current_image, request.choices.WORKER_EBS_SIZE)


def _network_change(request: UpRequest, facts: Facts, template: str) -> StackChange | None:
    if wanted_subnets(request, facts.network, facts.cluster)[0]:
        return None
    return change_of(network_spec(request, facts, template), facts.network)


def change_of(spec: StackSpec, stack: StackFacts | None) -> StackChange | None:
    """What makes a stack what it should be; None if it is so."""
    if stack is None or stack.is_remains:
        return StackChange(spec, is_new=True, remains=stack.stack_id if stack else None)
    found = differences(spec, stack)
    return StackChange(spec, is_new=False, differences=found) if found else None


def differences(spec: StackSpec, stack: StackFacts) -> tuple[str, ...]:
    """What of a stack is not as it should be, in words."""
    found = ["the template"] if spec.template.strip() != stack.template.strip() else []
    found += _changed(spec.parameters, stack.parameters)
    found += [f"tag {text}" for text in _changed(spec.tags, stack.tags)]
    return tuple(found)


def _changed(want: Mapping[str, str], have: Mapping[str, str]) -> list[str]:
    keys = sorted(set(want) | set(have))
    return [
        f"{key}: {have.get(key) or 'none'} -> {want.get(key) or 'none'}"
        for key in keys
        if want.get(key, "") != have.get(key, "")
    ]


def stack_tags(request: UpRequest) -> dict[str, str]:
    """Tags of a stack; CloudFormation passes them on to what it makes."""
    return {**request.choices.operator_tags, TAG_CLUSTER: request.cluster}


def network_spec(request: UpRequest, facts: Facts, template: str) -> StackSpec:
    """The network's stack: an existing one keeps its addresses and zones."""
    old = facts.network.parameters if facts.network and facts.network.is_usable else {}
    cidr, zones = network_size(request, facts)
    parameters = {
        "ClusterName": request.cluster,
        "VpcCidr": cidr,
        **_by_letter("Zone", zones),
        **_nat(request, facts, old),
        **subnet_cidrs(cidr, len(zones)),
    }
    return StackSpec(request.network_stack, template, parameters, stack_tags(request))


def network_size(request: UpRequest, facts: Facts) -> tuple[str, tuple[str, ...]]:
    """Addresses and zones of a network of the cluster's own, as it is or will be."""
    old = facts.network.parameters if facts.network and facts.network.is_usable else {}
    zones = zones_of(old) if old else _best_zones(facts)[: request.zones or ZONES_DEFAULT]
    return request.vpc_cidr or old.get("VpcCidr") or DEFAULT_VPC_CIDR, zones


def _best_zones(facts: Facts) -> tuple[str, ...]:
    """Those that offer WORKER_INSTANCE_TYPE; first those that offer most of the other types."""
    kinds = [*filter(None, facts.kinds.values())]
    if facts.manager and facts.manager.kind:  # its subnet is the first
        kinds.append(facts.manager.kind)
    offered = facts.kind.zones if facts.kind else ()
    return tuple(sorted(offered, key=lambda zone: sum(zone not in k.zones for k in kinds)))


def worker_zones(request: UpRequest, facts: Facts) -> tuple[str, ...]:
    """Where workers will start: the zones of their subnets."""
    private, _ = wanted_subnets(request, facts.network, facts.cluster)
    if private:
        found = (facts.subnets[i].zone for i in private if i in facts.subnets)
        return tuple(dict.fromkeys(found))
    return network_size(request, facts)[1]


def zones_of(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """The zones of a network that is there."""
    return tuple(filter(None, (parameters.get(f"Zone{letter}") for letter in ZONE_LETTERS)))


def _by_letter(name: str, values: Sequence[str]) -> dict[str, str]:
    """One parameter a zone; "" where there is none."""
    return {
        f"{name}{letter}": value
        for letter, value in zip_longest(ZONE_LETTERS, values, fillvalue="")
    }


def nat_of(request: UpRequest, facts: Facts) -> Nat:
    """What a network of the cluster's own has, or gets."""
    if wanted_subnets(request, facts.network, facts.cluster)[0]:
        return Nat.NONE
    old = facts.network.parameters if facts.network and facts.network.is_usable else {}
    return Nat(request.nat or old.get("Nat") or Nat.GATEWAY.value)


def _nat(request: UpRequest, facts: Facts, old: Mapping[str, str]) -> dict[str, str]:
    """How private subnets reach the outside; an instance keeps the image that it has."""
    image = old.get("NatImageId") or facts.nat_image_id or _image(facts).image_id
    return {"Nat": request.nat or old.get("Nat") or "gateway", "NatImageId": image}


def subnet_cidrs(vpc_cidr: str, zones: int) -> dict[str, str]:
    """A VPC's addresses cut up: two sixteenths for public subnets, quarters for private ones.

    A fourth private one gets what is left: an eighth.
    """
    vpc = ipaddress.IPv4Network(vpc_cidr)
    small, eighths, large = (list(vpc.subnets(prefixlen_diff=bits)) for bits in (4, 3, 2))
    private = [str(part) for part in (*large[1:], eighths[1])]
    return {
        "PublicCidrA": str(small[0]),
        "PublicCidrB": str(small[1]),
        **_by_letter("PrivateCidr", private[:zones]),
    }


def network_of(request: UpRequest, facts: Facts) -> Network | None:
    """Where workers live: the operator's own subnets, or those of the network's stack.

    None if that stack is not there yet, or does not say what it holds.
    """
    private, public = wanted_subnets(request, facts.network, facts.cluster)
    if private:
        found = [facts.subnets[i] for i in private]
        subnets = tuple(WorkerSubnet(SUBNET_ID=s.subnet_id, ZONE=s.zone) for s in found)
        return Network(found[0].vpc_id, subnets, public)
    if facts.network is None or not set(NETWORK_OUTPUTS) <= set(facts.network.outputs):
        return None
    out, given = facts.network.outputs, facts.network.parameters
    subnets = tuple(
        WorkerSubnet(SUBNET_ID=out[f"PrivateSubnet{which}"], ZONE=given[f"Zone{which}"])
        for which in ZONE_LETTERS
        if f"PrivateSubnet{which}" in out
    )
    return Network(out["VpcId"], subnets, public or out["PublicSubnetA"])


def cluster_spec(
    request: UpRequest, facts: Facts, template: str, network: Network | None
) -> StackSpec:
    """The cluster's stack; without a network, its ids are left open, for showing the plan."""
    image = _image(facts)
    subnets = [s.SUBNET_ID for s in network.worker_subnets] if network else [_UNKNOWN]
    parameters = {
        "ClusterName": request.cluster,
        "VpcId": network.vpc_id if network else _UNKNOWN,
        "WorkerSubnetIds": ",".join(subnets),
        "PublicSubnetId": (network.public_subnet or "") if network else _UNKNOWN,
        **_builder_parameters(request, facts),
        "RootDeviceName": image.root_device,
        "RootSizeGib": str(request.choices.WORKER_EBS_SIZE),
        "InstanceType": request.choices.WORKER_INSTANCE_TYPE,
        "KeyName": request.key_name,
        "WorkerSshPort": str(request.choices.WORKER_SSH_PORT),
        "WorkerNotebookPort": str(request.choices.WORKER_NOTEBOOK_PORT),
        "HubApiPort": str(hub_port(_hub_url(request, facts))),
    }
    return StackSpec(request.cluster_stack, template, parameters, stack_tags(request))


def boundary_of(request: UpRequest, facts: Facts) -> str:
    """ARN of the policy that bounds the roles which are made, named now or before; "": none."""
    old = facts.cluster.parameters if facts.cluster and facts.cluster.is_usable else {}
    bound = request.permissions_boundary
    return old.get("PermissionsBoundary", "") if bound is None else bound


def _builder_parameters(request: UpRequest, facts: Facts) -> dict[str, str]:
    """The builders' role or profile that was named, now or before; none: the stack makes them,

    within the bound that was named.
    """
    old = facts.cluster.parameters if facts.cluster and facts.cluster.is_usable else {}
    bounds = {"PermissionsBoundary": boundary_of(request, facts)}
    none = dict.fromkeys(("BuilderRoleName", "BuilderRoleArn", "BuilderProfileArn"), "none")
    if request.builder_role is None:
        return bounds | {key: old.get(key) or value for key, value in none.items()}
    if ":instance-profile/" in request.builder_role:
        return bounds | none | {"BuilderProfileArn": request.builder_role}
    name = request.builder_role.rpartition("/")[2]
    return bounds | none | {"BuilderRoleName": name, "BuilderRoleArn": request.builder_role}


def _image(facts: Facts) -> ImageFacts:
    if facts.image is None:
        raise ValueError("a plan needs an image; findings come first")
    return facts.image


def _hub_url(request: UpRequest, facts: Facts) -> str | None:
    if request.manager:
        stack = facts.manager.stack if facts.manager else None
        address = stack.outputs.get("PrivateAddress") if stack else None
        return f"http://{address}:{HUB_API_PORT}" if address else None
    recorded = facts.recorded.HUB_CONNECT_URL if facts.recorded else None
    return request.hub_connect_url or recorded


def key_change(facts: Facts) -> KeyChange | None:
    """What must be done for the cluster's key; the private half decides where both are there."""
    private, public = facts.key.from_parameter, facts.key.from_pair
    if private is None:
        return KeyChange.MAKE if public is None else KeyChange.REPLACE
    if public is None:
        return KeyChange.IMPORT
    return None if private == public else KeyChange.REPLACE


def in_the_file(key: str, request: UpRequest, facts: Facts) -> Any:
    """What server_config.json will say of one of EDITABLE_KEYS."""
    is_given = key in PEOPLE_KEYS & request.choices.model_fields_set
    return getattr(request.choices if is_given else facts.recorded or request.choices, key)


def server_config(
    request: UpRequest, facts: Facts, network: Network, outputs: Mapping[str, str]
) -> ServerConfig | None:
    """The file's content; what may be edited in it after the launch is kept as it was.

    None if the cluster's stack does not say what it holds.
    """
    if not set(CLUSTER_OUTPUTS) <= set(outputs):
        return None
    chosen = {key: getattr(request.choices, key) for key in Choices.model_fields}
    chosen |= {key: in_the_file(key, request, facts) for key in EDITABLE_KEYS}
    listen = request.hub_address or (facts.recorded and facts.recorded.HUB_LISTEN_ADDRESS)
    if listen:
        chosen["HUB_LISTEN_ADDRESS"] = listen
    image = _image(facts)
    return ServerConfig(
        CLUSTER_NAME=request.cluster,
        VPC_ID=network.vpc_id,
        WORKER_SUBNETS=network.worker_subnets,
        WORKER_SECURITY_GROUP_ID=outputs["WorkerSecurityGroupId"],
        MANAGER_SECURITY_GROUP_ID=outputs["ManagerSecurityGroupId"],
        LAUNCH_TEMPLATE_ID=outputs["LaunchTemplateId"],
        WORKER_AMI_ID=facts.current_image or image.image_id,
        ROOT_DEVICE_NAME=image.root_device,
        SSH_KEY_PARAMETER=request.ssh_key_parameter,
        BUCKET=outputs["Bucket"],
        HUB_CONNECT_URL=_hub_url(request, facts),
        **chosen,
    )


def _notices(request: UpRequest, facts: Facts, package: Package) -> tuple[str, ...]:
    notices: list[str] = []
    if request.choices.CUSTOM_WORKER_AMI:
        image = _image(facts)
        notices += doubts_about_custom(
            image.image_id, image.tags, package.jupyterhub, image.further_disks
        )
    asked = request.choices.JUPYTER_NOTEBOOK_TIMEOUT
    if facts.recorded and asked != facts.recorded.JUPYTER_NOTEBOOK_TIMEOUT:
        notices.append(
            f"JUPYTER_NOTEBOOK_TIMEOUT stays {facts.recorded.JUPYTER_NOTEBOOK_TIMEOUT}, as"
            f" {request.config_out} has it (instance_config.json says {asked}): edit it there."
        )
    if facts.recorded and request.choices.CLASS_SCHEDULE != facts.recorded.CLASS_SCHEDULE:
        notices.append(
            f"CLASS_SCHEDULE stays as {request.config_out} has it (instance_config.json says"
            " something else): edit it there."
        )
    zones = facts.kind.zones if facts.kind else ()
    notices += [
        f"{subnet.subnet_id} lies in {subnet.zone}, which does not offer"
        f" {request.choices.WORKER_INSTANCE_TYPE}: no worker will start there."
        for subnet in facts.subnets.values()
        if subnet.zone not in zones and subnet.subnet_id in request.private_subnets
    ]
    return tuple(notices)
