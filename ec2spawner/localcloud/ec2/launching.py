"""RunInstances: a plan carried out, once per client token.

Owns idempotency by client token, the count that capacity and addresses allow, and the creation of
instances with their volumes. What is asked for is checked in ``launch_plan``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ec2spawner.localcloud.ec2 import builders
from ec2spawner.localcloud.ec2.capacity import Occupant
from ec2spawner.localcloud.ec2.failures import EC2Error, bad_value
from ec2spawner.localcloud.ec2.launch_plan import DevicePlan, LaunchPlan, merge, plan_launch
from ec2spawner.localcloud.ec2.lifecycle import attach, public_address
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID, Instance, SpotRequest, Token, Volume
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.tagging import check_count
from ec2spawner.localcloud.ec2.views import instance_view
from ec2spawner.model import InstanceState

MAX_TOKEN_CHARACTERS = 64
_DEFAULT_METADATA = {
    "HttpTokens": "optional",
    "HttpPutResponseHopLimit": 1,
    "HttpEndpoint": "enabled",
    "HttpProtocolIpv6": "disabled",
    "InstanceMetadataTags": "disabled",
}


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


def launch_for_request(ec2: State, request: SpotRequest) -> None:
    """Another instance for a spot request, or EC2Error: same parameters, and no tags.

    EC2 hands a request's tags on to nothing (EC2 user guide, "Tag Spot Instance requests", 2026).
    """
    plan = plan_launch(ec2, request.launch)
    _how_many(ec2, plan)
    _one(ec2, plan, "", ec2.new_id("r"), 0, request)


def _request(ec2: State, plan: LaunchPlan) -> SpotRequest:
    request = SpotRequest(ec2.new_id("sir"))
    request.sequence = ec2.next_number()
    request.is_persistent = plan.spot["SpotInstanceType"] == "persistent"
    request.interruption = plan.spot["InstanceInterruptionBehavior"]
    request.created_at = request.changed_at = ec2.clock()
    request.zone = plan.subnet.zone
    request.launch = _without_names(plan.settings)
    request.tags = dict(plan.tags.get("spot-instances-request", {}))
    return ec2.add(request)


def _without_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    left_out = ("TagSpecifications", "ClientToken", "LaunchTemplate", "DryRun")
    kept = {k: v for k, v in settings.items() if k not in left_out}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return {**plain, "MinCount": 1, "MaxCount": 1}


def _one(
    ec2: State,
    plan: LaunchPlan,
    token: str,
    reservation: str,
    index: int,
    request: SpotRequest | None = None,
) -> Instance:
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
    instance.interface_id = plan.interface_id or ec2.new_id("eni")
    instance.interface_is_kept = bool(plan.interface_id)
    instance.created_at = instance.launched_at = instance.changed_at = now
    instance.due_at = now + ec2.timings.pending_seconds
    _apply_settings(instance, settings, plan)
    _place(ec2, instance, plan)
    instance.tags = dict(plan.tags.get("instance", {}))
    if builders.is_builder(instance):
        builders.begin(ec2, instance)
    instance.interface_tags = dict(plan.tags.get("network-interface", {}))
    if plan.spot:
        request = request or _request(ec2, plan)
        instance.is_spot, instance.spot_is_persistent = True, request.is_persistent
        instance.spot_request_id, request.instance_id = request.id, instance.id
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
