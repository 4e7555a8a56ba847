"""Tags: their rules, TagSpecifications, and the actions on them.

Owns what EC2 accepts as a tag. Tags of what is not kept here (VPCs, subnets, ...) are handed on
to the surroundings.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from ec2spawner.localcloud.ec2.failures import EC2Error, bad_value, missing, not_found
from ec2spawner.localcloud.ec2.filters import choose
from ec2spawner.localcloud.ec2.records import Instance
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.model import InstanceState

MAX_TAGS = 50
MAX_KEY = 127  # characters; EC2 user guide, "Tag restrictions", 2026
MAX_VALUE = 256

_TABLES = {
    "i": "instance",
    "vol": "volume",
    "snap": "snapshot",
    "ami": "image",
    "sir": "spot-request",
}
_TYPES = {
    "instance": "instance",
    "volume": "volume",
    "snapshot": "snapshot",
    "image": "image",
    "spot-request": "spot-instances-request",
}


def read_tags(raw: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tags of a request, checked."""
    tags: dict[str, str] = {}
    for one in raw:
        key, value = one.get("Key"), one.get("Value") or ""
        if not key:
            raise bad_value("Tag keys cannot be null or empty.")
        if key.lower().startswith("aws:"):
            raise bad_value("Tag keys starting with 'aws:' are reserved for internal use")
        if len(key) > MAX_KEY:
            raise bad_value(f"Tag key exceeds the maximum length of {MAX_KEY} characters")
        if len(value) > MAX_VALUE:
            raise bad_value(f"Tag value exceeds the maximum length of {MAX_VALUE} characters")
        if key in tags:
            raise bad_value(f"Duplicate tag key '{key}' specified.")
        tags[key] = value
    check_count(tags)
    return tags


def check_count(tags: Mapping[str, str]) -> None:
    """Refuse more tags than a resource may have."""
    if sum(1 for k in tags if not k.startswith("aws:")) > MAX_TAGS:
        raise EC2Error("TagLimitExceeded", "The maximum number of Tags for a resource is 50.")


def read_specifications(
    raw: Sequence[Mapping[str, Any]], allowed: Sequence[str]
) -> dict[str, dict[str, str]]:
    """TagSpecifications of a request, by resource type."""
    result: dict[str, dict[str, str]] = {}
    for one in raw or ():
        kind = str(one.get("ResourceType"))
        if kind not in allowed:
            raise bad_value(f"'{kind}' is not a valid taggable resource type for this operation.")
        result.setdefault(kind, {}).update(read_tags(one.get("Tags") or ()))
    return result


def _bag(ec2: State, resource_id: str) -> tuple[Any, MutableMapping[str, str]] | None:
    """Record and tags of a resource that is kept here; None for others'."""
    prefix = resource_id.partition("-")[0]
    if prefix == "eni":
        owner = next((i for i in ec2.instances.values() if i.interface_id == resource_id), None)
        return (owner, owner.interface_tags) if owner else None
    kind = _TABLES.get(prefix)
    if kind is None:
        return None
    record = ec2.find(kind, resource_id)
    if isinstance(record, Instance) and ec2.is_hidden(resource_id):
        raise not_found([resource_id])
    return record, record.tags


def create_tags(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """CreateTags: all or nothing over at most 1000 resources."""
    ids = _resources(params)
    if not params.get("Tags"):
        raise missing("tagSet")
    tags = read_tags(params["Tags"])
    bags = [(i, _bag(ec2, i)) for i in ids]
    for _, bag in bags:
        if bag:
            check_count({**bag[1], **tags})
    others = [i for i, bag in bags if bag is None]
    if others:
        ec2.surroundings.tag_others(others, tags)
    for _, bag in bags:
        if bag:
            bag[1].update(tags)
            ec2.touch(bag[0])
    return {}


def delete_tags(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DeleteTags: a tag given with a value goes only if it has that value."""
    ids = _resources(params)
    wanted = {t["Key"]: t.get("Value") for t in params.get("Tags") or ()}
    bags = [(i, _bag(ec2, i)) for i in ids]
    others = [i for i, bag in bags if bag is None]
    if others:
        ec2.surroundings.untag_others(others, wanted)
    for _, bag in bags:
        if not bag:
            continue
        record, tags = bag
        keys = wanted or {k: None for k in tags if not k.startswith("aws:")}
        for key, value in keys.items():
            if key in tags and value in (None, tags[key]):
                del tags[key]
        ec2.touch(record)
    return {}


def _resources(params: Mapping[str, Any]) -> list[str]:
    ids = list(dict.fromkeys(params.get("Resources") or ()))
    if not ids:
        raise missing("resourceIdSet")
    if len(ids) > 1000:
        raise bad_value("You may specify at most 1000 resources")
    return ids


@dataclass(frozen=True)
class _TagRow:
    resource_id: str
    resource_type: str
    key: str
    value: str
    sequence: int = 0


def _rows(ec2: State) -> list[_TagRow]:
    rows = [
        _TagRow(record.id, _TYPES[kind], key, value)
        for kind in _TABLES.values()
        for record in ec2.table(kind).values()
        for key, value in record.tags.items()
    ]
    rows += [
        _TagRow(i.interface_id, "network-interface", key, value)
        for i in ec2.instances.values()
        if i.state is not InstanceState.TERMINATED
        for key, value in i.interface_tags.items()
    ]
    rows += [_TagRow(*row) for row in ec2.surroundings.tags_of_others()]
    return sorted(rows, key=lambda r: (r.resource_id, r.key))


def describe_tags(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeTags: filters key, value, resource-id, resource-type and tag:KEY."""
    getters = {
        "key": lambda r: (r.key,),
        "value": lambda r: (r.value,),
        "resource-id": lambda r: (r.resource_id,),
        "resource-type": lambda r: (r.resource_type,),
    }
    filters = []
    for one in params.get("Filters") or ():
        name = one.get("Name", "")
        if name.startswith("tag:"):
            filters.append({"Name": "key", "Values": [name[len("tag:") :]]})
            filters.append({"Name": "value", "Values": one.get("Values")})
        else:
            filters.append(one)
    rows = choose(_rows(ec2), filters, getters)
    start = int(params["NextToken"]) if params.get("NextToken") else 0
    size = params.get("MaxResults") or len(rows) or 1
    shown = rows[start : start + size]
    return {
        "Tags": [
            {
                "ResourceId": r.resource_id,
                "ResourceType": r.resource_type,
                "Key": r.key,
                "Value": r.value,
            }
            for r in shown
        ],
        "NextToken": str(start + size) if start + size < len(rows) else None,
    }
