"""What the operator asks for: the command line laid over ``instance_config.json``, all checked.

Owns the form of every option of ``up``; collects all faults before it raises. Must not call AWS.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ec2spawner.addresses import check_hub_url
from ec2spawner.configfile import Fault
from ec2spawner.costs import Usage
from ec2spawner.errors import ConfigError
from ec2spawner.model import slug
from ec2spawner.settings import (
    CLUSTER_NAME_PATTERN,
    CLUSTER_NAME_RULE,
    INSTANCE_CONFIG_NAME,
    MANAGER_SUFFIX,
    NETWORK_SUFFIX,
    Choices,
    InstanceConfig,
    check_stack_name,
    find_server_config,
    load_instance_config,
    load_server_config,
)

from .manager_request import ROLE_ARN, ManagerOptions, ManagerRequest, read_manager
from .sizes import NOBODY, usage_faults

DEFAULT_VPC_CIDR = "10.77.0.0/16"
CIDR_PREFIX_MIN, CIDR_PREFIX_MAX = 16, 24
"""A VPC has at least a /28 and at most a /16 (VPC user guide, 2026); past /24 its subnets, a
quarter and a sixteenth of it, would be smaller than the /28 that a subnet needs."""


class OptionError(ConfigError):
    """Options that cannot be used; ``faults`` are all that were found."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "The command cannot be carried out as it was written.",
            why=" ".join(str(fault) for fault in faults),
            next_step="Correct it and run it again; --help shows the options.",
        )


@dataclass(frozen=True)
class Options:
    """The options of ``up`` as they were typed; None for one that was not given."""

    cluster: str
    base_ami: str | None = None
    private_subnets: str | None = None
    public_subnet: str | None = None
    region: str | None = None
    vpc_cidr: str | None = None
    config: Path | None = None
    config_out: Path = Path("server_config.json")
    hub_connect_url: str | None = None
    hub_address: str | None = None
    worker_ssh_port: int | None = None
    builder_role: str | None = None
    keeps_choices: bool = False
    """Whether, without an instance_config.json, the choices of the cluster as it is hold."""
    vpc_id: str | None = None
    nat: str | None = None
    zones: int | None = None
    usage: Usage = NOBODY
    unchecked_image: bool = False
    manager: ManagerOptions = field(default_factory=ManagerOptions)


@dataclass(frozen=True)
class UpRequest:
    """What is asked for, checked. None: keep what the cluster has, else the default."""

    cluster: str
    choices: InstanceConfig
    config_out: Path
    base_ami: str | None = None
    private_subnets: tuple[str, ...] = ()
    public_subnet: str | None = None
    vpc_cidr: str | None = None
    hub_connect_url: str | None = None
    hub_address: str | None = None
    builder_role: str | None = None
    permissions_boundary: str | None = None  # of roles that are made; "": none
    vpc_id: str | None = None
    nat: str | None = None  # gateway, instance or none
    zones: int | None = None  # of a network that is made
    manager: ManagerRequest | None = None  # None: the hub runs elsewhere
    usage: Usage = NOBODY
    unchecked_image: bool = False  # whether CUSTOM_WORKER_AMI may be one that bears no tags
    newest_base: bool = False  # instead of the one that the image in use was built from

    @property
    def worker_types(self) -> tuple[str, ...]:
        """Every type that a worker may have."""
        named = [kind for p in self.choices.PROFILES for kind in p.INSTANCE_TYPES]
        return tuple(dict.fromkeys([self.choices.WORKER_INSTANCE_TYPE, *named]))

    @property
    def image_id(self) -> str | None:
        """The image that was named, in the file or as BASE_AMI."""
        return self.choices.CUSTOM_WORKER_AMI or self.base_ami

    @property
    def ssh_key_parameter(self) -> str:
        """Name of the SSM parameter with the private half of the cluster's key."""
        return f"/ec2spawner/{self.cluster}/ssh-key"

    @property
    def key_name(self) -> str:
        """Name of the EC2 key pair with the public half."""
        return f"ec2spawner-{self.cluster}"

    @property
    def network_stack(self) -> str:
        """Name of the network's stack."""
        return f"{self.cluster_stack}{NETWORK_SUFFIX}"

    @property
    def cluster_stack(self) -> str:
        """Name of the cluster's stack."""
        return f"ec2spawner-{self.cluster}"

    @property
    def manager_stack(self) -> str:
        """Name of the manager's stack."""
        return f"{self.cluster_stack}{MANAGER_SUFFIX}"


def read_request(options: Options, home: Path | None = None) -> tuple[UpRequest, tuple[str, ...]]:
    """The request and notices on what was read differently; OptionError or ConfigFileError.

    ``home`` is a folder whose instance_config.json is read if there is none in the current one.
    """
    cluster = options.cluster if options.keeps_choices else None
    choices, notices = read_choices(options.config, home, cluster)
    faults: list[Fault] = []
    choices = _override(choices, options, faults)
    faults += [*check_cluster_name(options.cluster), *_ids(options), *_hub(options)]
    faults += usage_faults(options.usage, students_min=0)
    faults += [*_cidr(options.vpc_cidr), *_vpc(options), *_out(options), *_builder_role(options)]
    manager, wrong = read_manager(options.manager, options.hub_connect_url)
    faults += [*wrong, *(_people(choices) if manager else [])]
    if options.unchecked_image and not choices.CUSTOM_WORKER_AMI:
        why = "is for CUSTOM_WORKER_AMI, which names no image"
        faults.append(Fault("--unchecked-image", "", why))
    subnets = _split(options.private_subnets)
    if subnets and options.vpc_cidr:
        faults.append(
            Fault("--vpc-cidr", "", "is for a network that is made, but subnets are given")
        )
    if subnets or options.vpc_id:
        why = "is for a network that is made, but one is named"
        given = (("--nat", options.nat), ("--zones", options.zones))
        faults += [Fault(flag, "", why) for flag, value in given if value]
    if faults:
        raise OptionError(faults)
    request = UpRequest(
        cluster=options.cluster,
        choices=choices,
        config_out=options.config_out,
        base_ami=options.base_ami,
        private_subnets=subnets,
        public_subnet=options.public_subnet,
        vpc_cidr=options.vpc_cidr,
        hub_connect_url=options.hub_connect_url,
        hub_address=options.hub_address,
        builder_role=options.builder_role,
        permissions_boundary=options.manager.permissions_boundary,
        vpc_id=options.vpc_id,
        nat=options.nat,
        zones=options.zones,
        usage=options.usage,
        unchecked_image=options.unchecked_image,
        manager=manager,
    )
    if request.base_ami and choices.CUSTOM_WORKER_AMI:
        notices += ("CUSTOM_WORKER_AMI is used for the workers; BASE_AMI has no effect.",)
    return request, notices


def read_cluster(
    cluster: str, region: str | None, config: Path | None, environ: Mapping[str, str]
) -> tuple[str, str | None]:
    """Cluster and Region of a command, from server_config.json where they were left out.

    A Region of None is left to the AWS configuration. Raises ConfigError.
    """
    if not cluster or config:
        path = config or find_server_config(environ, Path.cwd())
        server, _ = load_server_config(path)
        if cluster and cluster != server.CLUSTER_NAME:
            raise ConfigError(
                f"{path} describes the cluster {server.CLUSTER_NAME}, not {cluster}.",
                next_step="Name the right file with --config, or leave it out.",
            )
        cluster, region = server.CLUSTER_NAME, region or server.REGION
    faults = check_cluster_name(cluster)
    if faults:
        raise OptionError(faults)
    return cluster, region


def read_region(cluster: str, asked: str | None, home: Path | None = None) -> str:
    """Region of a cluster that is there: as asked, else as ``up`` found or noted it.

    Raises ConfigFileError.
    """
    if asked:
        faults: list[Fault] = []
        choices = _override(InstanceConfig(), Options(cluster, region=asked), faults)
        if faults:
            raise OptionError(faults)
        return choices.REGION
    with contextlib.suppress(ConfigError):
        server, _ = load_server_config(find_server_config(os.environ, Path.cwd()))
        if cluster == server.CLUSTER_NAME:
            return server.REGION
    choices, _ = read_choices(None, home)
    return choices.REGION


def read_choices(
    config: Path | None, home: Path | None = None, cluster: str | None = None
) -> tuple[InstanceConfig, tuple[str, ...]]:
    """The operator's choices: of the file that is named, else here, else in ``home``.

    Without any, those that the server_config.json of ``cluster`` holds, if there is one.
    """
    if config:
        return load_instance_config(config)
    places = [Path(INSTANCE_CONFIG_NAME), *([home / INSTANCE_CONFIG_NAME] if home else [])]
    for place in places:
        if place.exists():
            return load_instance_config(place)
    with contextlib.suppress(ConfigError):
        path = find_server_config(os.environ, Path.cwd())
        server, _ = load_server_config(path)
        if cluster == server.CLUSTER_NAME:
            kept = {key: getattr(server, key) for key in Choices.model_fields}
            return InstanceConfig(**kept), (
                f"No {INSTANCE_CONFIG_NAME} here: the choices in {path} are used.",
            )
    return InstanceConfig(), (f"No {INSTANCE_CONFIG_NAME} here: the defaults are used.",)


def _override(choices: InstanceConfig, options: Options, faults: list[Fault]) -> InstanceConfig:
    given: dict[str, Any] = {
        "REGION": options.region,
        "WORKER_SSH_PORT": options.worker_ssh_port,
    }
    given = {key: value for key, value in given.items() if value is not None}
    taken = choices.WORKER_NOTEBOOK_PORT
    port = f"a port, 1 to 65535, other than WORKER_NOTEBOOK_PORT ({taken})"
    option_of = {
        "REGION": ("--region", options.region, '"us-east-1" or another Region'),
        "WORKER_SSH_PORT": ("--worker-ssh-port", options.worker_ssh_port, port),
        "WORKER_NOTEBOOK_PORT": ("--worker-ssh-port", options.worker_ssh_port, port),
    }
    try:
        return InstanceConfig.model_validate({**choices.model_dump(exclude_unset=True), **given})
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            option, value, instead = option_of[str(entry["loc"][0])]
            faults.append(Fault(option, str(value), "is not usable", instead))
        return choices


def check_cluster_name(name: str) -> list[Fault]:
    """Faults of a cluster's name: it becomes part of names of stacks, groups and a bucket."""
    reason = "cannot be a cluster's name"
    if re.fullmatch(CLUSTER_NAME_PATTERN, name):
        try:
            check_stack_name(name)
        except ValueError as error:
            reason = str(error)
        else:
            return []
    better = re.sub(rf"({NETWORK_SUFFIX}|{MANAGER_SUFFIX})+$", "", slug(name).lstrip("0123456789-"))
    instead = f"{CLUSTER_NAME_RULE}, for example {better!r}" if better else CLUSTER_NAME_RULE
    return [Fault("CLUSTER_NAME", repr(name), reason, instead)]


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def _ids(options: Options) -> list[Fault]:
    asked = [("BASE_AMI", "ami", part) for part in [options.base_ami] if part is not None]
    asked += [("PRIVATE_SUBNET_ID", "subnet", part) for part in _split(options.private_subnets)]
    asked += [("PUBLIC_SUBNET_ID", "subnet", p) for p in [options.public_subnet] if p is not None]
    return [
        Fault(name, repr(value), "is not an id", f'one such as "{kind}-0123456789abcdef0"')
        for name, kind, value in asked
        if not re.fullmatch(rf"{kind}-([0-9a-f]{{8}}|[0-9a-f]{{17}})", value)
    ]


def _vpc(options: Options) -> list[Fault]:
    if options.vpc_id is None:
        return []
    if not re.fullmatch(r"vpc-([0-9a-f]{8}|[0-9a-f]{17})", options.vpc_id):
        instead = 'one such as "vpc-0123456789abcdef0"'
        return [Fault("--vpc-id", repr(options.vpc_id), "is not an id", instead)]
    if options.vpc_cidr:
        return [Fault("--vpc-cidr", "", "is for a VPC that is made, but --vpc-id names one")]
    return []


def _hub(options: Options) -> list[Fault]:
    faults: list[Fault] = []
    if options.hub_connect_url is not None:
        try:
            check_hub_url(options.hub_connect_url)
        except ValueError as error:
            faults.append(
                Fault(
                    "--hub-connect-url",
                    repr(options.hub_connect_url),
                    str(error),
                    'one such as "http://10.77.0.5:8081"',
                )
            )
    if options.hub_address is not None:
        try:
            ipaddress.ip_address(options.hub_address)
        except ValueError:
            wrong = repr(options.hub_address)
            faults.append(Fault("--hub-address", wrong, "is not an IP address", '"0.0.0.0"'))
    return faults


def _people(choices: InstanceConfig) -> list[Fault]:
    if choices.AUTHENTICATOR != "dummy":
        return []
    why = "lets everybody in by any name, and the whole world comes to a manager"
    return [Fault("AUTHENTICATOR", "'dummy'", why, '"", or how people log in (docs/logins.md)')]


def _builder_role(options: Options) -> list[Fault]:
    arn = options.builder_role
    if arn is None or re.fullmatch(ROLE_ARN, arn):
        return []
    instead = "the ARN of a role, or of an instance profile that holds it"
    return [Fault("--builder-role", repr(arn), "is not the ARN of a role", instead)]


def _out(options: Options) -> list[Fault]:
    """Faults of --config-out, told before anything is made that it would have to describe."""
    path = options.config_out
    instead = "a file in a folder that exists and that you may write to"
    if path.name == INSTANCE_CONFIG_NAME or path == options.config:
        return [Fault("--config-out", str(path), "is the file of your choices", instead)]
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        return [Fault("--config-out", str(path), "cannot be written", instead)]
    return []


def _cidr(text: str | None) -> list[Fault]:
    if text is None:
        return []
    instead = f"one such as {DEFAULT_VPC_CIDR}, of /{CIDR_PREFIX_MIN} to /{CIDR_PREFIX_MAX}"
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        return [Fault("--vpc-cidr", repr(text), f"is not a network: {error}", instead)]
    if not CIDR_PREFIX_MIN <= network.prefixlen <= CIDR_PREFIX_MAX:
        return [Fault("--vpc-cidr", repr(text), "has a size that does not do", instead)]
    return []
