"""Both configuration files as frozen values: what the operator chooses, what the cluster is.

Owns the keys of ``instance_config.json`` and ``server_config.json``, their bounds and defaults,
and the words for every way in which such a file can be wrong. Must not know AWS, the hub, or the
environment of the process; it prints nothing: what a reader should be told comes back as notices.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, field_validator

from .addresses import check_hub_url, hub_port
from .configfile import ConfigFileError, read_object, write_atomically
from .configmodel import Frozen, a_text, faults_of
from .errors import ConfigError
from .machines import HOME_DEFAULT_GIB, MachineChoices
from .people import PeopleChoices
from .profiles import INSTANCE_TYPE

CONFIG_ENVIRONMENT = "EC2SPAWNER_CONFIG"
SERVER_CONFIG_NAME = "server_config.json"
INSTANCE_CONFIG_NAME = "instance_config.json"
SYSTEM_CONFIG = Path("/etc/jupyterhub") / SERVER_CONFIG_NAME

PEOPLE_KEYS = frozenset(PeopleChoices.model_fields)
"""Those of EDITABLE_KEYS that are what ``instance_config.json`` says, if it says something."""

EDITABLE_KEYS = ("JUPYTER_NOTEBOOK_TIMEOUT", "CLASS_SCHEDULE", *PeopleChoices.model_fields)
"""What may be edited in ``server_config.json`` after the launch, and stays as it is there."""

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


class Choices(PeopleChoices, MachineChoices):
    """What the operator chooses and the hub must know: the keys that both files share."""


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
    ZONE: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d+([a-z]|(-[a-z0-9]+)+)$")


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

    @field_validator("WORKER_SUBNETS")
    @classmethod
    def _subnets_differ(cls, value: tuple[WorkerSubnet, ...]) -> tuple[WorkerSubnet, ...]:
        ids = [subnet.SUBNET_ID for subnet in value]
        if doubles := sorted({one for one in ids if ids.count(one) > 1}):
            raise ValueError(f"names {doubles[0]} twice")
        return value

    @field_validator("BUCKET")
    @classmethod
    def _is_no_address(cls, value: str) -> str:
        if ".." in value or re.fullmatch(r"[0-9.]+", value):
            raise ValueError("is no name that S3 has for a bucket")
        return value

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
