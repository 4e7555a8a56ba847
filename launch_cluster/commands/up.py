"""``launch-cluster up``: its options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ec2spawner.costs import Usage
from ec2spawner.settings import SERVER_CONFIG_NAME

from ..manager_request import ManagerOptions
from ..planning import ZONE_LETTERS, ZONES_DEFAULT
from ..reporter import Reporter
from ..request import DEFAULT_VPC_CIDR, Options, read_request
from ..sizes import HOURS_A_WEEK_DEFAULT, WEEKS_DEFAULT
from ..up import Up
from . import common


def manager_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the manager; "" takes back what an earlier run was told."""
    for option in reversed(
        (
            click.option("--domain", metavar="HOST", help="Name of the hub, for HTTPS by itself."),
            click.option(
                "--email", metavar="ADDRESS", help="Whom the certificate's issuer writes to."
            ),
            click.option(
                "--manager-role",
                metavar="ARN",
                help="Role, or instance profile, of the manager; no role is made then.",
            ),
            click.option(
                "--permissions-boundary", metavar="ARN", help="Policy that bounds the roles made."
            ),
            click.option(
                "--builder-role",
                metavar="ARN",
                help="Role, or instance profile, of the machine that builds the worker image; no"
                " role is made then.",
            ),
            click.option("--ssh-cidr", metavar="CIDR", help="Open port 22 to these addresses."),
            click.option("--key-name", metavar="NAME", help="EC2 key pair of the manager [none]."),
            click.option(
                "--replace-manager",
                is_flag=True,
                help="Make the manager's machine anew; its addresses and data stay.",
            ),
            click.option(
                "--new-data",
                is_flag=True,
                help="Begin with an empty database, although an earlier manager left its own.",
            ),
            click.option(
                "--upgrade",
                is_flag=True,
                help="Bring the manager to the installed version of ec2spawner, and back if its hub"
                " then fails; workers get it with their image.",
            ),
        )
    ):
        command = option(command)
    return command


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the cluster is called, and where it lies."""
    for option in reversed(
        (
            click.argument("cluster_name"),
            click.argument("base_ami", required=False),
            click.argument("private_subnet_id", required=False, metavar="[PRIVATE_SUBNET_ID[,…]]"),
            click.argument("public_subnet_id", required=False),
            click.option(
                "--vpc-id",
                metavar="VPC",
                help="Use this VPC's subnets: the private ones by NAT, and a public one.",
            ),
            click.option(
                "--vpc-cidr",
                metavar="CIDR",
                help="Addresses of the network that is made when no subnets are given"
                f" [{DEFAULT_VPC_CIDR}].",
            ),
            click.option(
                "--nat",
                type=click.Choice(["gateway", "instance", "none"]),
                help="How workers of such a network reach the outside: an instance costs a tenth of"
                " a gateway, and is yours to keep [gateway].",
            ),
            click.option(
                "--zones",
                type=click.IntRange(ZONES_DEFAULT, len(ZONE_LETTERS)),
                help="Over how many zones such a network is made; in more of them, a machine is"
                f" found more often when one is short of them [{ZONES_DEFAULT}].",
            ),
        )
    ):
        command = option(command)
    return command


def up_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What else can be said of a cluster."""
    command = manager_options(command)
    for option in reversed(
        (
            click.option(
                "--config",
                type=click.Path(path_type=Path),
                help="The choices [./instance_config.json, else the checkout's].",
            ),
            click.option(
                "--config-out",
                type=click.Path(path_type=Path),
                default=Path(SERVER_CONFIG_NAME),
                show_default=True,
                help="File that is written for the hub.",
            ),
            click.option(
                "--no-manager",
                is_flag=True,
                help="Build no manager: the hub runs elsewhere, with the file that --config-out"
                " names.",
            ),
            click.option(
                "--unchecked-image",
                is_flag=True,
                help="Take CUSTOM_WORKER_AMI although it bears no tags of ``image build``, by which"
                " it is known to hold what the hub needs.",
            ),
            click.option(
                "--students",
                type=int,
                default=0,
                metavar="N",
                help="How many will work at the same time: for what it costs, quotas and"
                " addresses. Nothing is limited by it.",
            ),
            click.option(
                "--hub-connect-url", metavar="URL", help="How workers reach the hub's API."
            ),
            click.option(
                "--hub-address", metavar="IP", help="Address on which the hub's API listens."
            ),
            click.option(
                "--worker-ssh-port", type=int, metavar="PORT", help="Port of SSH on workers [22]."
            ),
        )
    ):
        command = option(command)
    return command


def bill_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How long students work, for what it costs."""
    return common.HOURS_A_WEEK(common.WEEKS(command))


@click.command("up")
@network_options
@up_options
@bill_options
@common.common_options
def up(dry_run: bool, yes: bool, output: str, **typed: Any) -> None:
    """Build the cluster, or change it to what is asked; run again, it changes nothing.

    BASE_AMI: what the workers' image is built from (left out: the newest Ubuntu 24.04).
    PRIVATE_SUBNET_ID: one or more subnets for the workers, with commas; left out: a network is
    made, with a NAT gateway. PUBLIC_SUBNET_ID: subnet for the manager.
    """
    reporter = Reporter(as_json=output == "json")
    job: Up | None = None

    async def run() -> dict[str, Any]:
        nonlocal job
        request, notices = read_request(options_of(typed), common.CHECKOUT)
        for notice in notices:
            reporter.progress(f"note: {notice}")
        gateway = common.open_gateway(request.choices.REGION)
        job = Up(
            gateway,
            request,
            reporter,
            lambda: common.ask_yes(skip=yes),
            http_port=common.http_port(),
            prices=common.known_prices(request.choices.REGION),
        )
        return await common.closing(gateway, job.run(dry_run=dry_run))

    reporter.result(common.carry_out(reporter, run, lambda: bool(job and job.done)))


def options_of(typed: dict[str, Any]) -> Options:
    """The options as ``request`` reads them."""
    return Options(
        cluster=typed["cluster_name"],
        base_ami=typed["base_ami"] or None,
        private_subnets=typed["private_subnet_id"] or None,
        public_subnet=typed["public_subnet_id"] or None,
        region=typed["region"],
        vpc_cidr=typed["vpc_cidr"],
        config=typed["config"],
        config_out=typed["config_out"],
        hub_connect_url=typed["hub_connect_url"],
        hub_address=typed["hub_address"],
        worker_ssh_port=typed["worker_ssh_port"],
        builder_role=typed["builder_role"] or None,
        vpc_id=typed["vpc_id"],
        nat=typed["nat"],
        zones=typed["zones"],
        unchecked_image=typed["unchecked_image"],
        usage=Usage(
            typed["students"],
            typed.get("hours_a_week", HOURS_A_WEEK_DEFAULT),
            typed.get("weeks", WEEKS_DEFAULT),
        ),
        manager=ManagerOptions(
            is_left_out=typed["no_manager"],
            domain=typed["domain"],
            email=typed["email"],
            role_arn=typed["manager_role"],
            permissions_boundary=typed["permissions_boundary"],
            ssh_cidr=typed["ssh_cidr"],
            key_name=typed["key_name"],
            may_be_replaced=typed["replace_manager"],
            has_new_data=typed["new_data"],
            is_upgraded=typed["upgrade"],
        ),
    )
