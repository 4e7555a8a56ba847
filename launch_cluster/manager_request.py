"""What the operator asks for about the manager: its options, checked.

Owns their form, and which go together. Must not call AWS.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ec2spawner.configfile import Fault

ROLE_ARN = r"arn:aws[a-z-]*:iam::\d{12}:(role|instance-profile)/[\w+=,.@/-]+"
POLICY_ARN = r"arn:aws[a-z-]*:iam::(\d{12}|aws):policy/[\w+=,.@/-]+"
DOMAIN = r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])"
EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]+"
KEY_NAME = r"[ -~]{1,255}"  # EC2 API reference, "CreateKeyPair", read 2026
NONE = "none"


@dataclass(frozen=True)
class ManagerOptions:
    """The options as they were typed; None for one that was not given, "" to take it back."""

    is_left_out: bool = False
    domain: str | None = None
    email: str | None = None
    role_arn: str | None = None
    permissions_boundary: str | None = None
    ssh_cidr: str | None = None
    key_name: str | None = None
    may_be_replaced: bool = False
    has_new_data: bool = False
    is_upgraded: bool = False


@dataclass(frozen=True)
class ManagerRequest:
    """The manager as it is asked for. None: keep what it has, else the default; "": none."""

    domain: str | None = None
    email: str | None = None
    role_name: str | None = None
    profile_name: str | None = None
    permissions_boundary: str | None = None
    ssh_cidr: str | None = None
    key_name: str | None = None
    may_be_replaced: bool = False
    has_new_data: bool = False  # what an earlier manager left is not taken over
    is_upgraded: bool = False  # to the package of the command that runs


BOUNDARY = "--permissions-boundary"
"""The one of them that holds for the builders' role, too."""
FLAGS: tuple[tuple[str, str], ...] = (
    ("domain", "--domain"),
    ("email", "--email"),
    ("role_arn", "--manager-role"),
    ("permissions_boundary", BOUNDARY),
    ("ssh_cidr", "--ssh-cidr"),
    ("key_name", "--key-name"),
    ("may_be_replaced", "--replace-manager"),
    ("has_new_data", "--new-data"),
    ("is_upgraded", "--upgrade"),
)


def read_manager(
    options: ManagerOptions, hub_connect_url: str | None
) -> tuple[ManagerRequest | None, list[Fault]]:
    """The request, None with ``--no-manager``; and all that is wrong with the options."""
    if options.is_left_out:
        given = [flag for name, flag in FLAGS if getattr(options, name)]
        why = "is for the manager, but --no-manager leaves it out"
        wrong = [fault for fault in _faults(options) if fault.key == BOUNDARY]
        return None, [*(Fault(flag, "", why) for flag in given if flag != BOUNDARY), *wrong]
    faults = list(_faults(options))
    if hub_connect_url is not None:
        why = "is for a hub that runs elsewhere: a manager has an address of its own"
        faults.append(Fault("--hub-connect-url", repr(hub_connect_url), why, "also --no-manager"))
    return _request(options), faults


def _request(options: ManagerOptions) -> ManagerRequest:
    role = profile = None
    if options.role_arn is not None:
        name = options.role_arn.rpartition("/")[2]
        is_profile = ":instance-profile/" in options.role_arn
        role, profile = ("", name) if is_profile else (name, "")
    return ManagerRequest(
        domain=options.domain and options.domain.lower(),
        email=options.email,
        role_name=role,
        profile_name=profile,
        permissions_boundary=options.permissions_boundary,
        ssh_cidr=options.ssh_cidr,
        key_name=options.key_name,
        may_be_replaced=options.may_be_replaced,
        has_new_data=options.has_new_data,
        is_upgraded=options.is_upgraded,
    )


def _faults(options: ManagerOptions) -> Iterator[Fault]:
    checks: tuple[tuple[str, str | None, Callable[[str], str | None], str], ...] = (
        ("--domain", options.domain, _like(DOMAIN, "a host name"), '"hub.example.org"'),
        ("--email", options.email, _like(EMAIL, "an address"), '"admin@example.org"'),
        (
            "--manager-role",
            options.role_arn,
            _like(ROLE_ARN, "the ARN of a role or instance profile"),
            '"arn:aws:iam::123456789012:role/hub"',
        ),
        (
            BOUNDARY,
            options.permissions_boundary,
            _like(POLICY_ARN, "the ARN of a policy"),
            '"arn:aws:iam::123456789012:policy/boundary"',
        ),
        ("--ssh-cidr", options.ssh_cidr, _ssh_cidr, '"203.0.113.0/24"'),
        ("--key-name", options.key_name, _like(KEY_NAME, "a key pair's name"), '"operators"'),
    )
    for flag, value, check, instead in checks:
        reason = check(value) if value else None
        if reason:
            yield Fault(flag, repr(value), reason, f"one such as {instead}")
    if options.email and options.domain == "":
        yield Fault("--email", repr(options.email), "is for certificates, which need --domain")


def _like(pattern: str, what: str) -> Callable[[str], str | None]:
    def check(value: str) -> str | None:
        is_right = re.fullmatch(pattern, value, re.IGNORECASE if pattern == DOMAIN else 0)
        return None if is_right else f"is not {what}"

    return check


def _ssh_cidr(value: str) -> str | None:
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError as error:
        return f"is not a network: {error}"
    return "would open port 22 to the world" if network.prefixlen == 0 else None
