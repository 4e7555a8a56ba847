"""How many instances the emulated EC2 can run: per type, zone and market, and the vCPU quota.

Owns the form of the capacity file and the arithmetic. The file is written by people and tests,
so what it may hold is checked with words. Pure, but for ``CapacityFile``, which reads it again
when it has changed.

    {"rules": [{"type": "t3.*", "zone": "us-east-1a", "market": "on-demand",
                "max_running": 3, "code": "InsufficientInstanceCapacity",
                "actions": ["RunInstances", "StartInstances"]}],
     "vcpu_quota": {"on-demand": 64, "spot": {"standard": 32, "g": 8}},
     "address_quota": 5}

A quota of vCPUs is one number for all families together, or one for each class of
``quotas.CLASSES``; a class that is left out has none. All parts of a rule but ``max_running`` may
be left out; patterns take ``*`` and ``?``. The instances counted are those pending, running or
stopping that the rule's patterns match.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.quotas import CLASSES, MARKETS, class_of

log = logging.getLogger(__name__)

ACTIONS = ("RunInstances", "StartInstances")
_KEYS = {"rules", "vcpu_quota", "address_quota"}
_RULE_KEYS = {"type", "zone", "market", "max_running", "code", "actions", "message"}

_NO_SPOT = "There is no Spot capacity available that matches your request."
_MESSAGES = {
    "InsufficientInstanceCapacity": (
        "We currently do not have sufficient {type} capacity in the Availability Zone you "
        "requested ({zone}). Our system will be working on provisioning additional capacity."
    ),
    "Unsupported": (
        "Your requested instance type ({type}) is not supported in your requested "
        "Availability Zone ({zone})."
    ),
    "InsufficientHostCapacity": "Insufficient capacity.",
    "MaxSpotInstanceCountExceeded": "Max spot instance count exceeded",
}


class CapacityFormatError(ValueError):
    """The capacity file does not say what it should; the text says where and what instead."""


@dataclass(frozen=True)
class Occupant:
    """A running instance, as far as capacity cares."""

    type: str
    zone: str
    market: str
    vcpus: int


@dataclass(frozen=True)
class Rule:
    """At most ``max_running`` instances match these patterns."""

    max_running: int
    type: str = "*"
    zone: str = "*"
    market: str = "*"
    code: str = "InsufficientInstanceCapacity"
    message: str = ""
    actions: tuple[str, ...] = ACTIONS

    def matches(self, type_: str, zone: str, market: str) -> bool:
        """Whether such an instance counts for this rule."""
        return (
            fnmatchcase(type_, self.type)
            and fnmatchcase(zone, self.zone)
            and fnmatchcase(market, self.market)
        )

    def error(self, type_: str, zone: str, market: str) -> EC2Error:
        """What a call gets that this rule stops."""
        if market == "spot" and self.code == "InsufficientInstanceCapacity" and not self.message:
            return EC2Error(self.code, _NO_SPOT, 500)
        text = self.message or _MESSAGES.get(self.code, "There is no capacity for {type}.")
        status = 500 if self.code.startswith("Insufficient") else 400
        return EC2Error(self.code, text.replace("{type}", type_).replace("{zone}", zone), status)


@dataclass(frozen=True)
class Capacity:
    """What can run; without rules and quota, everything."""

    rules: tuple[Rule, ...] = ()
    vcpu_quota: Mapping[str, int | Mapping[str, int]] | None = None
    address_quota: int | None = None  # of Elastic IPs; None: there is none

    def room(
        self, action: str, wanted: Occupant, occupants: Iterable[Occupant]
    ) -> tuple[int | None, EC2Error | None]:
        """How many more like ``wanted`` can run (None: any number), and why no more."""
        if not self.rules and not self.vcpu_quota:
            return None, None
        running = list(occupants)
        least: int | None = None
        reason: EC2Error | None = None
        for rule in self.rules:
            if action not in rule.actions or not rule.matches(
                wanted.type, wanted.zone, wanted.market
            ):
                continue
            used = sum(1 for o in running if rule.matches(o.type, o.zone, o.market))
            free = max(0, rule.max_running - used)
            if least is None or free < least:
                least, reason = free, rule.error(wanted.type, wanted.zone, wanted.market)
        quota = self.quota(wanted.market, class_of(wanted.type, wanted.market))
        if quota is not None:
            used = sum(o.vcpus for o in running if self._share_a_quota(o, wanted))
            free = max(0, quota - used) // wanted.vcpus
            if least is None or free < least:
                least, reason = free, _quota_error(wanted.market, quota)
        return least, reason

    def quota(self, market: str, class_: str) -> int | None:
        """The vCPU quota of a class of families; None where there is none."""
        quota = (self.vcpu_quota or {}).get(market)
        return quota.get(class_) if isinstance(quota, Mapping) else quota

    def _share_a_quota(self, one: Occupant, other: Occupant) -> bool:
        if one.market != other.market:
            return False
        is_one_for_all = not isinstance((self.vcpu_quota or {}).get(one.market), Mapping)
        return is_one_for_all or class_of(one.type, one.market) == class_of(
            other.type, other.market
        )


def _quota_error(market: str, quota: int) -> EC2Error:
    if market == "spot":
        return EC2Error("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    return EC2Error(
        "VcpuLimitExceeded",
        f"You have requested more vCPU capacity than your current vCPU limit of {quota} allows "
        "for the instance bucket that the specified instance type belongs to. Please visit "
        "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
    )


def parse_capacity(document: Any) -> Capacity:
    """Capacity from the file's JSON, or CapacityFormatError."""
    if not isinstance(document, dict):
        raise CapacityFormatError('capacity must be an object {"rules": [...], "vcpu_quota": {}}')
    unknown = set(document) - _KEYS
    if unknown:
        known = ", ".join(sorted(_KEYS))
        raise CapacityFormatError(f"unknown key {sorted(unknown)[0]!r}; known: {known}")
    rules = document.get("rules", [])
    if not isinstance(rules, list):
        raise CapacityFormatError("rules must be a list of objects")
    return Capacity(
        tuple(_parse_rule(i, r) for i, r in enumerate(rules)),
        _parse_quota(document.get("vcpu_quota", {})),
        _parse_count("address_quota", document.get("address_quota")),
    )


def _parse_rule(index: int, raw: Any) -> Rule:
    where = f"rules[{index}]"
    if not isinstance(raw, dict):
        raise CapacityFormatError(f"{where} must be an object")
    unknown = set(raw) - _RULE_KEYS
    if unknown:
        raise CapacityFormatError(
            f"{where}: unknown key {sorted(unknown)[0]!r}; known: {', '.join(sorted(_RULE_KEYS))}"
        )
    count = raw.get("max_running")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise CapacityFormatError(
            f"{where}.max_running must be a whole number from 0, not {count!r}"
        )
    for key in ("type", "zone", "market", "code", "message"):
        if not isinstance(raw.get(key, ""), str):
            raise CapacityFormatError(f"{where}.{key} must be a text, not {raw[key]!r}")
    actions = raw.get("actions", list(ACTIONS))
    if not isinstance(actions, list) or not set(map(str, actions)) <= set(ACTIONS):
        raise CapacityFormatError(f"{where}.actions must be a list out of {', '.join(ACTIONS)}")
    return Rule(**{**raw, "actions": tuple(actions)})


def _parse_quota(raw: Any) -> dict[str, int | Mapping[str, int]]:
    if not isinstance(raw, dict) or not set(raw) <= set(MARKETS):
        raise CapacityFormatError(f"vcpu_quota must be an object with keys {', '.join(MARKETS)}")
    for market, value in raw.items():
        where = f"vcpu_quota.{market}"
        if not isinstance(value, dict):
            _parse_count(where, value)
            continue
        for class_, vcpus in value.items():
            if class_ not in CLASSES:
                raise CapacityFormatError(
                    f"{where}: unknown class {class_!r}; known: {', '.join(CLASSES)}"
                )
            _parse_count(f"{where}.{class_}", vcpus)
    return raw


def _parse_count(where: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise CapacityFormatError(f"{where} must be a whole number from 0, not {value!r}")
    return value


class CapacityFile:
    """The capacity file, read again when it has changed; without a file, no limits."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._capacity = Capacity()

    def load(self) -> Capacity:
        """Read the file now; CapacityFormatError if it cannot be used."""
        if self.path is None or not self.path.exists():
            self._seen, self._capacity = None, Capacity()
            return self._capacity
        stat = self.path.stat()
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CapacityFormatError(f"{self.path}: not JSON: {error}") from error
        self._capacity = parse_capacity(document)
        self._seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return self._capacity

    def current(self) -> Capacity:
        """What holds now. A file that became unusable leaves the last good one in force."""
        if self.path is None:
            return self._capacity
        try:
            stat = self.path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            seen = None
        if seen != self._seen:
            try:
                self.load()
            except (CapacityFormatError, OSError) as error:
                self._seen = seen
                log.warning("Capacity file ignored, the last good one stays in force: %s", error)
        return self._capacity

    def set(self, document: Any) -> Capacity:
        """Put other limits in force; written to the file, if there is one."""
        capacity = parse_capacity(document)
        if self.path is not None:
            temporary = self.path.with_name(self.path.name + ".new")
            temporary.write_text(json.dumps(document, indent=2), encoding="utf-8")
            temporary.replace(self.path)
            return self.load()
        self._capacity = capacity
        return capacity
