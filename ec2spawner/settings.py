"""Both configuration files as frozen values: what the operator chooses, what the cluster is.

Owns the keys of ``instance_config.json`` and ``server_config.json``, their bounds and defaults,
and the words for every way in which such a file can be wrong. Must not know AWS, the hub, or the
environment of the process; it prints nothing: what a reader should be told comes back as notices.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from .classes import CLASSES_MAX, ScheduledClass
from .configfile import ConfigFileError, read_object, write_atomically
from .configmodel import Frozen, a_number, a_text, faults_of
from .errors import ConfigError
from .model import TAG_VALUE_MAX
from .profiles import (
    INSTANCE_TYPE,
    POOL_MAX,
    PROFILES_MAX,
    VOLUME_MAX_GIB,
    ProfileChoice,
    check_profiles,
)

CONFIG_ENVIRONMENT = "EC2SPAWNER_CONFIG"
SERVER_CONFIG_NAME = "server_config.json"
INSTANCE_CONFIG_NAME = "instance_config.json"
SYSTEM_CONFIG = Path("/etc/jupyterhub") / SERVER_CONFIG_NAME

HUB_API_PORT = 8081
"""Port of the hub's API where HUB_CONNECT_URL names no other (JupyterHub's default)."""

CLUSTER_NAME_PATTERN = r"^[a-z](?:[a-z0-9-]{0,22}[a-z0-9])?$"
"""24 characters at most: the bucket's name adds account and Region to it and ends at 63."""

NETWORK_SUFFIX = "-network"
"""Of the name of a network's stack: the stack of a cluster ``x-network`` would be x's network."""

MANAGER_SUFFIX = "-manager"
"""Of the name of a manager's stack, likewise."""

CLUSTER_NAME_RULE = (
    "small letters, digits and dashes, 24 at most, a letter first,"
    f" something other than {NETWORK_SUFFIX} or {MANAGER_SUFFIX} last"
)

HOME_DEFAULT_GIB = 10
ROOT_MIN_GIB = 8  # root snapshot of Ubuntu's and Debian's EC2 images, 2026
TAG_KEY_MAX = 128  # characters; AWS EC2 user guide, "Tag restrictions", 2026
COST_TAGS_MAX = 30  # EC2 allows 50 tags a resource; the rest is the cluster's own

_DAY_SECONDS = 86_400


class Choices(Frozen):
    """What the operator chooses and the hub must know: the keys that both files share."""

    REGION: str = a_text(
        "us-east-1",
        r"^[a-z]{2}(-[a-z]+)+-\d+$",
        'the name of an AWS Region, for example "us-east-1"',
        "AWS Region of the cluster.",
    )
    WORKER_INSTANCE_TYPE: str = a_text(
        "t3.medium",
        INSTANCE_TYPE,
        'an EC2 instance type, for example "t3.medium"',
        "Type of a user's machine.",
    )
    WORKER_EBS_SIZE: int = a_number(
        12, ROOT_MIN_GIB, VOLUME_MAX_GIB, "GiB", "Root disk of a user's machine, in GiB."
    )
    USER_HOME_EBS_SIZE: int = a_number(
        HOME_DEFAULT_GIB,
        1,
        VOLUME_MAX_GIB,
        "GiB",
        "Home volume of a user, in GiB; every home is a volume of its own. 0 is read as 10.",
    )
    WORKER_USERNAME: str = a_text(
        "jovyan",
        r"^[a-z_][a-z0-9_-]{0,31}$",
        'the name of a Linux user other than root or ec2spawner, for example "jovyan"',
        "Linux user under which notebooks run on a worker.",
    )
    WORKER_SSH_PORT: int = a_number(
        22, 1, 65535, "", "Port on which a worker's SSH server listens."
    )
    WORKER_NOTEBOOK_PORT: int = a_number(
        8888, 1024, 65535, "", "Port on which a user's server listens."
    )
    WORKER_SUDO: bool = Field(
        default=False,
        description="Whether the notebook user may use sudo on the worker.",
        json_schema_extra={"x-instead": "true or false, without quotes"},
    )
    SERVER_OWNER: str = a_text(
        "",
        r"^[\w .:/=+@-]*$",
        f"at most {TAG_VALUE_MAX} letters, digits, spaces and .:/=+-@_",
        "Who answers for the cluster; set as the tag Owner.",
    )
    COST_TAGS: dict[str, str] = Field(
        default_factory=dict,
        max_length=COST_TAGS_MAX,
        description="Tags of your own on everything that the cluster makes.",
        json_schema_extra={
            "x-instead": 'an object of texts, for example {"CostCenter": "4711"}; keys must not'
            ' begin with "aws:" or "ec2spawner:", and not be "Name"'
        },
    )
    PROFILES: tuple[ProfileChoice, ...] = Field(
        default=(),
        max_length=PROFILES_MAX,
        description="Kinds of machines that users may choose between, the usual one first; without"
        " any, all have WORKER_INSTANCE_TYPE. See the table below.",
        json_schema_extra={
            "x-instead": 'a list such as [{"SLUG": "usual", "NAME": "Usual",'
            ' "INSTANCE_TYPES": ["t3.medium"]}]'
        },
    )
    POOL_RUNNING: int = a_number(
        0,
        0,
        POOL_MAX,
        "",
        "Spare machines that run: a first login takes one within seconds. With PROFILES, each"
        " profile has its own.",
    )
    POOL_STOPPED: int = a_number(
        0,
        0,
        POOL_MAX,
        "",
        "Spare machines that were booted once and are stopped: cheap, and started faster than a"
        " new one. With PROFILES, each profile has its own.",
    )
    JUPYTER_NOTEBOOK_TIMEOUT: int = a_number(
        3600,
        1,
        30 * _DAY_SECONDS,
        "seconds",
        "Idle time after which a user's machine is stopped, in seconds.",
    )
    START_TIMEOUT_SECONDS: int = a_number(
        600, 10, 7200, "seconds", "Longest time a start may take, in seconds."
    )
    REAPER_GRACE_SECONDS: int = a_number(
        300, 1, _DAY_SECONDS, "seconds", "A machine that nobody wants is stopped after this time."
    )
    HUB_LOST_SECONDS: int = a_number(
        1800,
        1,
        7 * _DAY_SECONDS,
        "seconds",
        "A machine on which nobody works switches itself off when the hub has been out of its reach"
        " for this time; longer than the hub is away for an upgrade.",
    )
    DELETE_GRACE_DAYS: int = a_number(
        7, 0, 365, "days", "A deleted user's home is snapshotted and removed after this time."
    )
    SNAPSHOT_EXPIRE_DAYS: int = a_number(
        30, 1, 3650, "days", "A snapshot of a removed home is kept for this time."
    )
    KEEP_BROKEN_HOURS: int = a_number(
        24,
        0,
        720,
        "hours",
        "A machine that did not serve its user and was replaced is kept, stopped, for this time, so"
        " that you can look at it.",
    )

    CLASS_SCHEDULE: tuple[ScheduledClass, ...] = Field(
        default=(),
        max_length=CLASSES_MAX,
        description="Classes of the week: before each begins, its machines are started.",
        json_schema_extra={
            "x-instead": 'a list such as [{"WEEKDAY": "monday", "TIME": "09:15",'
            ' "TIME_ZONE": "Europe/Berlin", "MINUTES_AHEAD": 15, "GROUP": "biology101",'
            ' "KEEP_MINUTES": 30}], with either GROUP or COUNT (of people)'
        },
    )

    ALLOW_ZONE_MOVE: bool = Field(
        default=False,
        description="Whether a user's home is copied to another zone, by a snapshot, when AWS has"
        " no machine for the user where it lies. That takes some minutes, which the user reads; the"
        " old volume is removed after DELETE_GRACE_DAYS.",
        json_schema_extra={"x-instead": "true or false, without quotes"},
    )

    REFRESH_WORKERS: bool = Field(
        default=False,
        description="Whether a stopped machine of an older image gives way to a new one when its"
        " user comes: the home stays, what was installed outside it goes, and that start takes as"
        " long as a first one. Spare machines of an older image always give way.",
        json_schema_extra={"x-instead": "true or false, without quotes"},
    )

    @field_validator("PROFILES")
    @classmethod
    def _are_different(cls, value: tuple[ProfileChoice, ...]) -> tuple[ProfileChoice, ...]:
        return check_profiles(value)

    @field_validator("POOL_RUNNING", "POOL_STOPPED")
    @classmethod
    def _is_said_once(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("PROFILES"):
            raise ValueError("is for a cluster without PROFILES: write it into a profile")
        return value

    @field_validator("WORKER_NOTEBOOK_PORT")
    @classmethod
    def _is_another_port(cls, value: int, info: ValidationInfo) -> int:
        if value == info.data.get("WORKER_SSH_PORT"):
            raise ValueError("is WORKER_SSH_PORT too")
        return value

    @field_validator("WORKER_USERNAME")
    @classmethod
    def _is_free_name(cls, value: str) -> str:
        if value in ("root", "ec2spawner"):
            raise ValueError("is taken: that user manages the worker")
        return value

    @field_validator("SERVER_OWNER")
    @classmethod
    def _fits_a_tag(cls, value: str) -> str:
        if len(value) > TAG_VALUE_MAX:
            raise ValueError(f"has {len(value)} characters")
        return value

    @field_validator("COST_TAGS")
    @classmethod
    def _are_allowed_tags(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if key.lower().startswith(("aws:", "ec2spawner:")) or key == "Name":
                raise ValueError(f"has the key {key!r}, which is reserved")
            if not 0 < len(key) <= TAG_KEY_MAX or len(text) > TAG_VALUE_MAX:
                raise ValueError(
                    f"has the key {key[:20]!r}; a key has 1 to {TAG_KEY_MAX} characters and a"
                    f" value at most {TAG_VALUE_MAX}"
                )
        return value

    @property
    def operator_tags(self) -> dict[str, str]:
        """COST_TAGS, and SERVER_OWNER as ``Owner``: what every resource bears besides our own."""
        owner = {"Owner": self.SERVER_OWNER} if self.SERVER_OWNER else {}
        return {**owner, **self.COST_TAGS}


class InstanceConfig(Choices):
    """``instance_config.json``: what the operator chooses; read by the launch command."""

    MANAGER_INSTANCE_TYPE: str = a_text(
        "t3.medium",
        INSTANCE_TYPE,
        'an EC2 instance type, for example "t3.medium"',
        "Type of the machine on which the hub runs.",
    )
    CUSTOM_WORKER_AMI: str = a_text(
        "",
        r"^(ami-[0-9a-f]{8,17})?$",
        'the id of an image such as "ami-0123456789abcdef0", or "" for none',
        "Image for the workers, instead of one made from the base image.",
    )


class WorkerSubnet(Frozen):
    """A private subnet in which workers are launched, and its zone."""

    SUBNET_ID: str = Field(pattern=r"^subnet-[0-9a-f]{8,17}$")
    ZONE: str = Field(min_length=1)


def _id_of(kind: str, about: str) -> Any:
    return a_text(
        ..., rf"^{kind}-[0-9a-f]{{8,17}}$", f'an id such as "{kind}-0123456789abcdef0"', about
    )


class ServerConfig(Choices):
    """``server_config.json``: what the cluster is; written by the launch command, read by hubs."""

    CLUSTER_NAME: str = a_text(
        ...,
        CLUSTER_NAME_PATTERN,
        f'{CLUSTER_NAME_RULE}, for example "biology101"',
        "Name of the cluster; its resources bear it as the tag ec2spawner:cluster.",
    )
    VPC_ID: str = _id_of("vpc", "Network of the cluster.")
    WORKER_SUBNETS: tuple[WorkerSubnet, ...] = Field(
        ...,
        min_length=1,
        description="Private subnets in which workers are launched.",
        json_schema_extra={
            "x-instead": 'a list such as [{"SUBNET_ID": "subnet-0123456789abcdef0",'
            ' "ZONE": "us-east-1a"}]'
        },
    )
    WORKER_SECURITY_GROUP_ID: str = _id_of("sg", "Security group of the workers.")
    MANAGER_SECURITY_GROUP_ID: str = _id_of("sg", "Security group of the manager.")
    LAUNCH_TEMPLATE_ID: str = _id_of("lt", "Launch template of the workers.")
    WORKER_AMI_ID: str = _id_of("ami", "Image of the workers.")
    ROOT_DEVICE_NAME: str = a_text(
        "/dev/sda1",
        r"^/dev/[a-z0-9]+$",
        'the name of a device, for example "/dev/sda1"',
        "Device name of the image's root disk.",
    )
    SSH_KEY_PARAMETER: str = a_text(
        ...,
        r"^/[\w./-]+$",
        'the name of an SSM parameter, for example "/ec2spawner/biology101/ssh-key"',
        "SSM SecureString that holds the private half of the cluster's key.",
    )
    BUCKET: str = a_text(
        ...,
        r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        "the name of an S3 bucket",
        "Bucket of the cluster.",
    )
    HUB_CONNECT_URL: str | None = a_text(
        None,
        None,
        'null, or the address under which workers reach the hub, for example "http://10.77.0.5:8081"',
        "How workers reach the hub's API; null: the hub's own address.",
    )
    HUB_LISTEN_ADDRESS: str = a_text(
        "0.0.0.0",  # noqa: S104 - the manager's security group lets in only workers
        None,
        'an IP address of the hub\'s machine, for example "0.0.0.0"',
        "Address on which the hub's API listens.",
    )

    @field_validator("CLUSTER_NAME")
    @classmethod
    def _is_no_networks_name(cls, value: str) -> str:
        return check_stack_name(value)

    @field_validator("HUB_CONNECT_URL")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return value if value is None else check_hub_url(value)

    @field_validator("HUB_LISTEN_ADDRESS")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("is not an IP address") from None
        return value

    @property
    def worker_image_parameter(self) -> str:
        """SSM parameter that says which image new workers have."""
        return worker_image_parameter(self.CLUSTER_NAME)

    @property
    def hub_api_port(self) -> int:
        """Port of the hub's API, as workers reach it."""
        return hub_port(self.HUB_CONNECT_URL)


def worker_image_parameter(cluster: str) -> str:
    """Name of the SSM parameter that says which image new workers have."""
    return f"/ec2spawner/{cluster}/worker-image"


def check_stack_name(cluster: str) -> str:
    """Return a cluster's name if its stack's name is no other's; ValueError with the reason."""
    for suffix in (NETWORK_SUFFIX, MANAGER_SUFFIX):
        if cluster.endswith(suffix):
            other, what = cluster.removesuffix(suffix), suffix.removeprefix("-")
            raise ValueError(f'ends in "{suffix}", and so names the {what} of a cluster {other!r}')
    return cluster


def check_hub_url(value: str) -> str:
    """Return a usable hub address unchanged; ValueError with the reason for any other."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("is not an address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http:// or https:// address with a host")
    if not value.isascii():
        raise ValueError("has characters other than ASCII (of such a host, write the xn-- form)")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("has more than scheme, host, port and path")
    return value


def hub_port(url: str | None) -> int:
    """Port in a hub address, by its scheme if it names none; JupyterHub's default for None."""
    if url is None:
        return HUB_API_PORT
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


_OBSOLETE_IN_BOTH: Mapping[str, str] = {
    "SERVER_USERNAME": "the cluster's image brings its own users",
    "ENVIRONMENT": "it had no effect",
    "PLATFORM": "it had no effect",
}
OBSOLETE_INSTANCE_KEYS: Mapping[str, str] = {
    **_OBSOLETE_IN_BOTH,
    "IGNORE_PERMISSIONS": "there is no key file any more: the cluster's key lies in SSM",
}
OBSOLETE_SERVER_KEYS: Mapping[str, str] = {
    **_OBSOLETE_IN_BOTH,
    "AVAILABILITY_ZONE": "WORKER_SUBNETS names the zones",
    "SUBNET_ID": "WORKER_SUBNETS takes its place",
    "WORKER_SECURITY_GROUPS": "WORKER_SECURITY_GROUP_ID takes its place",
    "WORKER_AMI": "WORKER_AMI_ID takes its place",
    "INSTANCE_TYPE": "WORKER_INSTANCE_TYPE takes its place",
    "WORKER_SERVER_NAME": "a worker's name is made of the cluster and its user",
    "WORKER_SERVER_OWNER": "SERVER_OWNER takes its place",
    "JUPYTER_CLUSTER": "CLUSTER_NAME takes its place",
    "KEY_NAME": "the launch template names the key pair, SSH_KEY_PARAMETER the private half",
    "JUPYTER_MANAGER_IP": "HUB_CONNECT_URL takes its place",
    "MANAGER_IP_ADDRESS": "HUB_CONNECT_URL takes its place",
}

_NEXT_INSTANCE = "Correct the file and run the command again."
_NEXT_SERVER = "Correct the file, or let `launch-cluster up` write it anew."

ConfigT = TypeVar("ConfigT", bound=Choices)


def load_instance_config(path: Path) -> tuple[InstanceConfig, tuple[str, ...]]:
    """The operator's choices and the notices on what was read differently; or ConfigFileError."""
    return _load(InstanceConfig, path, OBSOLETE_INSTANCE_KEYS, _NEXT_INSTANCE)


def load_server_config(path: Path) -> tuple[ServerConfig, tuple[str, ...]]:
    """What the cluster is and the notices on what was read differently; or ConfigFileError."""
    return _load(ServerConfig, path, OBSOLETE_SERVER_KEYS, _NEXT_SERVER)


def find_server_config(environ: Mapping[str, str], beside: Path) -> Path:
    """The file that EC2SPAWNER_CONFIG names, else beside the hub's configuration, else in /etc.

    ``beside`` is the hub's configuration file or its folder. A named file is returned even if it
    is missing; ConfigError if none is named and none is there.
    """
    named = environ.get(CONFIG_ENVIRONMENT)
    if named:
        return Path(named)
    folder = beside if beside.is_dir() else beside.parent
    places = (folder / SERVER_CONFIG_NAME, SYSTEM_CONFIG)
    for place in places:
        if place.exists():
            return place
    raise ConfigError(
        f"No {SERVER_CONFIG_NAME} was found.",
        why=f"{CONFIG_ENVIRONMENT} is not set, and neither {places[0]} nor {places[1]} exists.",
        next_step=f"Run `launch-cluster up`, which writes it, or name one in {CONFIG_ENVIRONMENT}.",
    )


def write_server_config(path: Path, config: ServerConfig) -> bool:
    """Write the file whole or not at all (mode 0644); False if it already held just this."""
    text = server_config_text(config)
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return False
        write_atomically(path, text)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written.",
            why=error.strerror or str(error),
            next_step="Name a file in a folder that exists and that you may write to.",
        ) from error
    return True


def server_config_text(config: ServerConfig) -> str:
    """The file's text: what the cluster is first, then the choices, always in the same order."""
    shared = Choices.model_fields
    values = config.model_dump(mode="json")
    ordered = sorted(values, key=lambda key: key in shared)  # stable: keeps the models' order
    values["COST_TAGS"] = dict(sorted(values["COST_TAGS"].items()))
    return json.dumps({key: values[key] for key in ordered}, indent=2, ensure_ascii=False) + "\n"


def _load(
    kind: type[ConfigT], path: Path, obsolete: Mapping[str, str], next_step: str
) -> tuple[ConfigT, tuple[str, ...]]:
    raw, faults = read_object(path, next_step)
    raw.pop("$schema", None)  # editors look for it
    notices = [
        f"{path}: {key} is no longer used: {obsolete[key]}." for key in raw if key in obsolete
    ]
    values = {key: value for key, value in raw.items() if key not in obsolete}
    if values.get("USER_HOME_EBS_SIZE") == 0 and values["USER_HOME_EBS_SIZE"] is not False:
        values["USER_HOME_EBS_SIZE"] = HOME_DEFAULT_GIB
        notices.append(
            f"{path}: USER_HOME_EBS_SIZE: 0 is read as {HOME_DEFAULT_GIB}: no home lies on a"
            " root disk."
        )
    try:
        config = kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        faults.extend(faults_of(error, kind))
    if faults:
        raise ConfigFileError(path, faults, next_step)
    return config, tuple(notices)
