"""Looking at instances and changing their attributes.

Owns DescribeInstances and its kin, and ModifyInstanceAttribute. Status checks are in ``health``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ec2spawner.localcloud.ec2.failures import (
    EC2Error,
    bad_combination,
    bad_value,
    malformed,
    not_found,
    wrong_state,
)
from ec2spawner.localcloud.ec2.filters import Getter, choose, page
from ec2spawner.localcloud.ec2.launch_plan import check_user_data
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID, Instance
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.views import (
    instance_filters,
    instance_view,
    network_interface_view,
)
from ec2spawner.model import InstanceState


def named_instances(ec2: State, params: Mapping[str, Any]) -> list[Instance]:
    """The instances of a listing's ids, or all that are known yet; not filtered."""
    ids = params.get("InstanceIds") or ()
    for one in ids:
        if not one.startswith("i-"):
            raise malformed(one, "i")
    if ids:
        return ec2.find_instances(ids)
    if ec2.timings.fresh_ids_hidden_seconds:
        return [i for i in ec2.instances.values() if not ec2.is_hidden(i.id)]
    return list(ec2.instances.values())


def describe_instances(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeInstances: MaxResults counts instances; a reservation may span pages."""
    if params.get("InstanceIds") and params.get("MaxResults") is not None:
        raise bad_combination(
            "The parameter instancesSet cannot be used with the parameter maxResults"
        )
    chosen = choose(
        named_instances(ec2, params), params.get("Filters") or (), instance_filters(ec2)
    )
    shown, token = page(chosen, params, "InstanceIds")
    reservations: dict[str, dict[str, Any]] = {}
    for instance in shown:
        reservation = reservations.setdefault(
            instance.reservation_id,
            {
                "ReservationId": instance.reservation_id,
                "OwnerId": ACCOUNT_ID,
                "Groups": [],
                "Instances": [],
            },
        )
        reservation["Instances"].append(instance_view(ec2, instance))
    return {"Reservations": list(reservations.values()), "NextToken": token}


@dataclass(frozen=True)
class _Interface:
    """A network interface as a reply shows it, and its tags for the filters."""

    view: Mapping[str, Any]
    tags: Mapping[str, str]


_INTERFACE_FILTERS: dict[str, Getter[_Interface]] = {
    "network-interface-id": lambda n: (n.view["NetworkInterfaceId"],),
    "subnet-id": lambda n: (n.view["SubnetId"],),
    "vpc-id": lambda n: (n.view["VpcId"],),
    "availability-zone": lambda n: (n.view["AvailabilityZone"],),
    "status": lambda n: (n.view["Status"],),
    "description": lambda n: (n.view.get("Description", ""),),
    "interface-type": lambda n: (n.view["InterfaceType"],),
    "group-id": lambda n: [g["GroupId"] for g in n.view["Groups"]],
    "private-ip-address": lambda n: (n.view["PrivateIpAddress"],),
    "addresses.private-ip-address": lambda n: (n.view["PrivateIpAddress"],),
    "attachment.instance-id": lambda n: (n.view.get("Attachment", {}).get("InstanceId", ""),),
}


def describe_network_interfaces(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeNetworkInterfaces: those of instances and of what else is in the network."""
    known = {
        i.interface_id: _Interface(network_interface_view(ec2, i), i.interface_tags)
        for i in ec2.instances.values()
        if i.private_ip
    }
    for view in ec2.surroundings.other_interfaces():
        known.setdefault(view["NetworkInterfaceId"], _Interface(view, {}))
    wanted = params.get("NetworkInterfaceIds") or list(known)
    unknown = [w for w in wanted if w not in known]
    if unknown:
        raise not_found(unknown)
    chosen = choose([known[w] for w in wanted], params.get("Filters") or (), _INTERFACE_FILTERS)
    return {"NetworkInterfaces": [n.view for n in chosen]}


_ATTRIBUTES: dict[str, tuple[str, Callable[[Instance], Any]]] = {
    "instanceType": ("InstanceType", lambda i: {"Value": i.instance_type}),
    "userData": ("UserData", lambda i: {"Value": i.user_data} if i.user_data else {}),
    "disableApiTermination": (
        "DisableApiTermination",
        lambda i: {"Value": i.disable_api_termination},
    ),
    "disableApiStop": ("DisableApiStop", lambda i: {"Value": i.disable_api_stop}),
    "instanceInitiatedShutdownBehavior": (
        "InstanceInitiatedShutdownBehavior",
        lambda i: {"Value": i.shutdown_behavior},
    ),
    "rootDeviceName": ("RootDeviceName", lambda i: {"Value": i.root_device}),
    "sourceDestCheck": ("SourceDestCheck", lambda i: {"Value": i.source_dest_check}),
    "ebsOptimized": ("EbsOptimized", lambda i: {"Value": i.ebs_optimized}),
    "groupSet": ("Groups", lambda i: [{"GroupId": g, "GroupName": n} for g, n in i.groups]),
}


def describe_instance_attribute(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeInstanceAttribute: one attribute of one instance."""
    (instance,) = ec2.find_instances([params.get("InstanceId") or "i-"])
    name = params.get("Attribute") or ""
    if name == "blockDeviceMapping":
        view = instance_view(ec2, instance)
        return {
            "InstanceId": instance.id,
            "BlockDeviceMappings": view["BlockDeviceMappings"],
        }
    if name not in _ATTRIBUTES:
        raise bad_value(f"Value ({name}) for parameter attribute is invalid. Unknown attribute.")
    key, getter = _ATTRIBUTES[name]
    return {"InstanceId": instance.id, key: getter(instance)}


def modify_instance_attribute(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """ModifyInstanceAttribute: type and user data only while the instance is stopped."""
    (instance,) = ec2.find_instances([params.get("InstanceId") or "i-"])
    changes = _read_changes(params)
    for name in ("InstanceType", "DisableApiTermination"):
        if name in changes and instance.is_spot:
            attribute = name[0].lower() + name[1:]
            raise EC2Error(
                "UnsupportedOperation",
                f"Modifying '{attribute}' is not supported for spot instances.",
            )
    for name in ("InstanceType", "UserData"):
        if name in changes and instance.state is not InstanceState.STOPPED:
            raise wrong_state(f"The instance '{instance.id}' is not in the 'stopped' state.")
    for name, value in changes.items():
        _modify(ec2, instance, name, value)
    _modify_rest(ec2, instance, params)
    ec2.touch(instance)
    return {}


def _read_changes(params: Mapping[str, Any]) -> dict[str, Any]:
    changes = {
        name: params[name].get("Value")
        for name in (
            "InstanceType",
            "UserData",
            "DisableApiTermination",
            "DisableApiStop",
            "InstanceInitiatedShutdownBehavior",
            "SourceDestCheck",
            "EbsOptimized",
        )
        if isinstance(params.get(name), Mapping)
    }
    attribute = params.get("Attribute")
    if attribute:
        value: Any = params.get("Value")
        if attribute in ("disableApiTermination", "disableApiStop", "sourceDestCheck"):
            value = str(value).lower() == "true"
        changes[attribute[0].upper() + attribute[1:]] = value
    return changes


def _modify(ec2: State, instance: Instance, name: str, value: Any) -> None:
    if name == "InstanceType":
        _change_type(ec2, instance, value)
    elif name == "UserData":
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else value or ""
        check_user_data(text)
        instance.user_data = text
    elif name == "InstanceInitiatedShutdownBehavior":
        if value not in ("stop", "terminate"):
            raise bad_value(f"Invalid value '{value}' for InstanceInitiatedShutdownBehavior.")
        instance.shutdown_behavior = value
    elif name in ("DisableApiTermination", "DisableApiStop", "SourceDestCheck", "EbsOptimized"):
        field = {
            "DisableApiTermination": "disable_api_termination",
            "DisableApiStop": "disable_api_stop",
            "SourceDestCheck": "source_dest_check",
            "EbsOptimized": "ebs_optimized",
        }[name]
        setattr(instance, field, bool(value))
    else:
        raise bad_value(f"Value ({name}) for parameter attribute is invalid. Unknown attribute.")


def _change_type(ec2: State, instance: Instance, name: str) -> None:
    type_ = ec2.surroundings.instance_type(name)
    if type_ is None:
        raise bad_value(f"Invalid value '{name}' for InstanceType.")
    if instance.architecture not in type_.architectures:
        raise EC2Error(
            "InvalidInstanceAttributeValue",
            f"Modifying the instance type from {instance.instance_type} to {name} is not allowed.",
        )
    if instance.zone not in type_.zones:
        raise EC2Error(
            "Unsupported",
            f"The instance type '{name}' is not supported in zone {instance.zone}.",
        )
    instance.instance_type = name


def _modify_rest(ec2: State, instance: Instance, params: Mapping[str, Any]) -> None:
    if params.get("Groups"):
        groups = [(g, ec2.surroundings.group(g)) for g in params["Groups"]]
        for group_id, group in groups:
            if group is None:
                raise EC2Error(
                    "InvalidGroup.NotFound", f"The security group '{group_id}' does not exist"
                )
        instance.groups = [(g.id, g.name) for _, g in groups if g]
    for mapping in params.get("BlockDeviceMappings") or ():
        mapped = instance.mappings.get(mapping.get("DeviceName", ""))
        if mapped is None:
            raise EC2Error(
                "InvalidInstanceAttributeValue",
                f"No device is currently mapped at {mapping.get('DeviceName')}",
            )
        keep = (mapping.get("Ebs") or {}).get("DeleteOnTermination")
        if keep is not None:
            mapped.delete_on_termination = keep
            volume = ec2.volumes.get(mapped.volume_id)
            if volume and volume.attachment:
                volume.attachment.delete_on_termination = keep
                ec2.touch(volume)


def modify_instance_metadata_options(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """ModifyInstanceMetadataOptions."""
    (instance,) = ec2.find_instances([params.get("InstanceId") or "i-"])
    for name in (
        "HttpTokens",
        "HttpPutResponseHopLimit",
        "HttpEndpoint",
        "HttpProtocolIpv6",
        "InstanceMetadataTags",
    ):
        if params.get(name) is not None:
            instance.metadata_options[name] = params[name]
    ec2.touch(instance)
    options = {"State": "pending", **instance.metadata_options}
    return {"InstanceId": instance.id, "InstanceMetadataOptions": options}


def describe_instance_credit_specifications(
    ec2: State, params: Mapping[str, Any]
) -> dict[str, Any]:
    """DescribeInstanceCreditSpecifications: of the named instances; of none named, the unlimited.

    A type without CPU credits is shown as standard (EC2 API reference, read 2026).
    """
    named = params.get("InstanceIds") or ()
    options = {
        i.id: _credit_option(ec2, i) for i in ec2.find_instances(named or list(ec2.instances))
    }
    return {
        "InstanceCreditSpecifications": [
            {"InstanceId": id_, "CpuCredits": option}
            for id_, option in options.items()
            if named or option == "unlimited"
        ]
    }


def _credit_option(ec2: State, instance: Instance) -> str:
    kind = ec2.surroundings.instance_type(instance.instance_type)
    if kind is None or not kind.has_credits:
        return "standard"
    default = "standard" if kind.name.startswith("t2.") else "unlimited"
    return instance.cpu_credits or default
