"""The manager's stack as it should be, and by which updates it comes to be so; plain functions.

Owns what may change on a manager that lives, and what makes it another one. Must not call AWS,
read a file or print.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ec2spawner.costs import MANAGER_DATA_GIB, MANAGER_ROOT_GIB
from ec2spawner.credits import STANDARD, has_credits
from ec2spawner.manager.place import CHOICES_KEY, SERVER_CONFIG_KEY
from ec2spawner.settings import INSTANCE_CONFIG_NAME
from ec2spawner.version import __version__

from .facts import Facts, ManagerFacts, StackFacts, StackSpec
from .imaging import TAG_VERSION, ImageStep, find_by_id, has_package
from .manager_request import NONE, ManagerRequest
from .planning import (
    Finding,
    ManagerPlan,
    Network,
    StackChange,
    change_of,
    stack_tags,
    worker_zones,
)
from .request import UpRequest

MANAGER_OUTPUTS = ("PrivateAddress", "PublicAddress")
ROOT_GIB = MANAGER_ROOT_GIB  # Node, two Python environments and a package being unpacked take 5
DATA_GIB = MANAGER_DATA_GIB
DATA_VOLUME = "@DATA_VOLUME_ID@"
"""Stands in the script where CloudFormation writes the id of the volume that it makes."""
PARAMETER_MAX_BYTES = 4096  # CloudFormation user guide, "Quotas", read 2026
LASTING = (
    *("ImageId", "RootDeviceName", "RootSizeGib", "KeyName"),
    *("UserDataHead", "UserDataTail"),
)
"""What stays as it is for as long as the instance lives: other values would make it another one,
or, of user data, stop it for nothing."""
UNKNOWN = "(known later)"


def lives(manager: ManagerFacts | None) -> bool:
    """Whether the stack holds an instance."""
    stack = manager.stack if manager else None
    return bool(stack and stack.is_usable and stack.parameters.get("WithInstance") == "yes")


def plan_manager(
    request: UpRequest,
    facts: Facts,
    template: str,
    network: Network | None,
    outputs: Mapping[str, str],
    files: Mapping[str, str] | None,
) -> ManagerPlan:
    """The way from ``facts`` to what is asked; ``files``: their texts, None if not known yet."""
    manager = facts.manager
    if request.manager is None or manager is None:
        return ManagerPlan()
    wanted = manager_spec(request, facts, template, network, outputs)
    due = tuple(
        key
        for key in (SERVER_CONFIG_KEY, CHOICES_KEY)
        if files is None or manager.files.get(key) != files.get(key)
    )
    is_alive, is_replaced = lives(manager), request.manager.may_be_replaced
    notices = tuple(_notices(wanted))
    if is_alive and not is_replaced:
        package = None if _has_package(manager) else manager.package
        return ManagerPlan(
            files=due,
            instance=change_of(wanted, manager.stack),
            notices=notices,
            package=package,
            refreshes=manager.is_refresh_due or matter(due, manager.files, files or {}),
        )
    without = change_of(without_instance(wanted, manager.stack), manager.stack)
    there = StackChange(wanted, is_new=False, differences=("WithInstance: no -> yes",))
    notices += tuple(_of_base(request, wanted))
    return ManagerPlan(without, due, there, True, is_alive, notices, data=manager.data)


def matter(keys: Iterable[str], old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether a hub that runs must take over the files that changed.

    Not for another image of the workers alone: what new workers get stands in SSM.
    """
    return any(
        key != SERVER_CONFIG_KEY or _without_image(old.get(key)) != _without_image(new.get(key))
        for key in keys
    )


def with_unknown_image(config: str) -> str:
    """The text of server_config.json while the workers' image is still to be built."""
    return json.dumps({**json.loads(config), "WORKER_AMI_ID": UNKNOWN}, indent=2)


def _without_image(text: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(text or "")
        return {key: value for key, value in found.items() if key != "WORKER_AMI_ID"}
    except (ValueError, AttributeError):
        return None


def _has_package(manager: ManagerFacts) -> bool:
    """Whether the hub says that it has the package that it is to have."""
    return manager.package is not None and manager.package.release == manager.release


def _of_base(request: UpRequest, wanted: StackSpec) -> Iterator[str]:
    if request.base_ami and wanted.parameters["ImageId"] == request.base_ami:
        yield (
            f"The manager is made of {request.base_ami}, too. Without amazon-ssm-agent in it"
            " (Ubuntu's images have it, Debian's have not) no session and no --upgrade reaches it."
        )


def _notices(wanted: StackSpec) -> Iterator[str]:
    given = {wanted.parameters["GivenRoleName"], wanted.parameters["GivenProfileName"]}
    if given != {NONE}:
        yield (
            "Daily snapshots of the manager's data are not set up, for they need a role that this"
            " command would make: see docs/security.md."
        )


def notices_of_image(request: UpRequest, facts: Facts, step: ImageStep | None) -> tuple[str, ...]:
    """That workers are to get another ec2spawner, and the hub that lives keeps its own."""
    asked, current = request.manager, find_by_id(facts.worker_images, facts.current_image)
    is_kept = asked and not (asked.is_upgraded or asked.may_be_replaced) and lives(facts.manager)
    if not (is_kept and current and step and step.recipe) or has_package(current, step.recipe):
        return ()
    return (
        f"New workers get ec2spawner {__version__} as it is installed here (now they get"
        f" {current.tags.get(TAG_VERSION) or 'another'}), but the hub keeps the release that it"
        f" has. To bring both to the same: launch-cluster up {request.cluster} --upgrade.",
    )


def without_instance(spec: StackSpec, stack: StackFacts | None) -> StackSpec:
    """The same stack without its instance; what only the instance needs stays as it was."""
    old = stack.parameters if stack and stack.is_usable else {}
    kept = {key: old[key] for key in LASTING if key in old}
    return replace(spec, parameters={**spec.parameters, **kept, "WithInstance": "no"})


def manager_spec(
    request: UpRequest,
    facts: Facts,
    template: str,
    network: Network | None,
    outputs: Mapping[str, str],
    script: str = "",
) -> StackSpec:
    """The manager's stack with its instance; ids that are not known yet are left open.

    ``script`` is the bootstrap's, for an instance that is made by it; one that lives keeps its own.
    """
    manager, asked = facts.manager, request.manager
    if manager is None or asked is None:
        raise ValueError("no manager is asked for")
    old = manager.stack.parameters if manager.stack and manager.stack.is_usable else {}
    head, _, tail = script.partition(DATA_VOLUME)
    image, data = manager.image, manager.data
    parameters = {
        "ClusterName": request.cluster,
        "WithInstance": "yes",
        "SubnetId": _subnet(old, network),
        "Zone": old.get("Zone") or manager.zone or _zone(network),
        "SecurityGroupId": outputs.get("ManagerSecurityGroupId", UNKNOWN),
        "ImageId": image.image_id if image else UNKNOWN,
        "RootDeviceName": image.root_device if image else UNKNOWN,
        "RootSizeGib": str(max(ROOT_GIB, image.root_gib if image else 0)),
        "DataSizeGib": old.get("DataSizeGib") or str(max(DATA_GIB, data.size_gib if data else 0)),
        # Another would make CloudFormation make another volume: it is said once.
        "DataSnapshotId": old.get("DataSnapshotId")
        or (data.snapshot_id or UNKNOWN if data else ""),
        "InstanceType": request.choices.MANAGER_INSTANCE_TYPE,
        "CpuCredits": STANDARD if has_credits(request.choices.MANAGER_INSTANCE_TYPE) else "",
        "UserDataHead": head,
        "UserDataTail": tail,
        "Bucket": outputs.get("Bucket", UNKNOWN),
        "LaunchTemplateId": outputs.get("LaunchTemplateId", UNKNOWN),
        "WorkerSecurityGroupId": outputs.get("WorkerSecurityGroupId", UNKNOWN),
        "WorkerSubnetArns": _subnet_arns(request, facts, network),
        "WorkerKeyName": request.key_name,
        "UsesSpot": "yes" if _uses_spot(request) else "no",
        "BuilderRoleArn": outputs.get("BuilderRoleArn", ""),
        "PrivateImageArn": _private_image_arn(request, facts),
        **_chosen(asked, old),
    }
    if lives(manager) and not asked.may_be_replaced:
        parameters |= {key: old[key] for key in LASTING if key in old}
    return StackSpec(request.manager_stack, template, parameters, stack_tags(request))


def _chosen(asked: ManagerRequest, old: Mapping[str, str]) -> dict[str, str]:
    """The options: as they were typed, else as they were at the last run."""
    named = {
        "Domain": (asked.domain, ""),
        "Email": (asked.email, ""),
        "SshCidr": (asked.ssh_cidr, ""),
        "KeyName": (asked.key_name, ""),
        "PermissionsBoundary": (asked.permissions_boundary, ""),
        "GivenRoleName": (asked.role_name, NONE),
        "GivenProfileName": (asked.profile_name, NONE),
    }
    return {
        key: (value if value is not None else old.get(key, "")) or default
        for key, (value, default) in named.items()
    }


def _subnet(old: Mapping[str, str], network: Network | None) -> str:
    return old.get("SubnetId") or (network and network.public_subnet) or UNKNOWN


def _uses_spot(request: UpRequest) -> bool:
    return any("spot" in profile.MARKET for profile in request.choices.PROFILES)


def _zone(network: Network | None) -> str:
    """Of a network that is made: its first public subnet lies where its first private one does."""
    return network.worker_subnets[0].ZONE if network else UNKNOWN


def _subnet_arns(request: UpRequest, facts: Facts, network: Network | None) -> str:
    if network is None:
        return UNKNOWN
    place = f"arn:{facts.partition}:ec2:{request.choices.REGION}:{facts.account}:subnet/"
    return ",".join(f"{place}{subnet.SUBNET_ID}" for subnet in network.worker_subnets)


def _private_image_arn(request: UpRequest, facts: Facts) -> str:
    """Of the base of the workers' image, or their own, if the hub may not launch from it anyway."""
    if facts.image is None or facts.image.is_public:
        return ""
    return f"arn:{facts.partition}:ec2:{request.choices.REGION}::image/{facts.image.image_id}"


def choices_text(spec: StackSpec) -> str:
    """``config/manager.json``: what may change on a manager that lives, for its provisioning."""
    chosen = {"DOMAIN": spec.parameters["Domain"], "EMAIL": spec.parameters["Email"]}
    return json.dumps(chosen, indent=2) + "\n"


# ---- what stands in the way


def manager_obstacles(request: UpRequest, facts: Facts, public: str | None) -> Iterator[Finding]:
    """What stands in the way of the manager; ``public``: the subnet that was named for it."""
    manager, asked = facts.manager, request.manager
    if manager is None or asked is None:
        return
    yield from _of_type_and_image(request, facts, manager)
    stack = manager.stack if manager.stack and manager.stack.is_usable else None
    old = stack.parameters if stack else {}
    makes_network = facts.network is not None or not request.private_subnets
    if not (old or public or makes_network):
        yield Finding(
            "PUBLIC_SUBNET_ID",
            "is missing: the manager needs a subnet with a route to an internet gateway",
            "Name it after the private subnets, or add --no-manager.",
        )
    if old and public and public != old.get("SubnetId"):
        yield Finding(
            f"The subnet {public}",
            f"is not the manager's, which is {old.get('SubnetId')}: its address and its data would"
            " stay behind",
            "Leave the subnet out, or make another cluster.",
        )
    if asked.key_name and not manager.has_key:
        yield Finding(
            f"--key-name {asked.key_name}",
            f"is not a key pair in {request.choices.REGION}",
            "Import it in the EC2 console, or leave the option out.",
        )
    if manager.data and manager.data.held_by:
        yield Finding(
            f"The hub's data volume {manager.data.ident}",
            f"of an earlier manager is attached to {manager.data.held_by}, which may write to it",
            "Detach it or end that instance, or begin without it by --new-data.",
        )
    yield from _of_replacement(asked, manager, old)
    domain, email = _chosen(asked, old)["Domain"], asked.email
    if email and not domain:
        why = "is for certificates, which need a domain"
        yield Finding(f"--email {email}", why, "Add --domain.")


def _of_type_and_image(
    request: UpRequest, facts: Facts, manager: ManagerFacts
) -> Iterator[Finding]:
    name, kind = request.choices.MANAGER_INSTANCE_TYPE, manager.kind
    subject = f"MANAGER_INSTANCE_TYPE {name}"
    other = f"Choose another in {INSTANCE_CONFIG_NAME}, for example t3.medium."
    if kind is None:
        yield Finding(subject, f"is not a type in {request.choices.REGION}", other)
        return
    if not kind.has_nvme:
        yield Finding(subject, "has no NVMe volumes, by which it finds its data", other)
    zones = worker_zones(request, facts)
    # A network of the cluster's own has its public subnet in the first zone.
    zone = manager.zone or (zones[0] if zones and not request.private_subnets else "")
    if zone and zone not in kind.zones:
        yield Finding(subject, f"is not offered in {zone}, where its subnet lies", other)
    if manager.image is None:
        yield Finding("An image for the manager", "cannot be found", "Name one as BASE_AMI.")
    elif manager.image.architecture not in kind.architectures:
        runs = "/".join(kind.architectures)
        why = f"runs {runs}, but the manager's image is for {manager.image.architecture}"
        yield Finding(subject, why, f"{other} --replace-manager makes it anew.")


def _of_replacement(
    asked: ManagerRequest, manager: ManagerFacts, old: Mapping[str, str]
) -> Iterator[Finding]:
    is_other_key = asked.key_name is not None and asked.key_name != old.get("KeyName", "")
    if lives(manager) and is_other_key and not asked.may_be_replaced:
        yield would_replace(f"--key-name {asked.key_name}")


def would_replace(what: str) -> Finding:
    """A change that only another instance can have."""
    return Finding(
        what,
        "would replace the manager's machine: the hub is away for some minutes, workers go on",
        "Add --replace-manager if it may be.",
    )
