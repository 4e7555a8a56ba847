"""The command line: ``launch-cluster up`` and ``launch-cluster terminate-workers``.

Owns options, the question before a change, and exit codes: 0 done or nothing to do, 1 failed,
2 usage, 3 partly done, 130 interrupted. Must not decide what is done.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import ConfigError, EC2SpawnerError
from ec2spawner.settings import SERVER_CONFIG_NAME
from ec2spawner.version import __version__

from .reporter import Reporter
from .request import DEFAULT_VPC_CIDR, Options, read_request
from .up import Up
from .workers import TerminateRequest, TerminateWorkers, read_terminate_request

EXIT_FAILED, EXIT_USAGE, EXIT_PARTLY, EXIT_INTERRUPTED = 1, 2, 3, 130
CHECKOUT = Path(__file__).resolve().parent.parent


class Declined(EC2SpawnerError):
    """The operator did not say yes."""

    code = "declined"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="ec2spawner")
def main() -> None:
    """Build, change and end a JupyterHub cluster on EC2.

    AWS credentials come from the standard chain (environment, profile, role).
    """


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every command has."""
    for option in (
        click.option("--region", help="AWS Region, instead of the file's."),
        click.option("--dry-run", is_flag=True, help="Show what would be done, and stop."),
        click.option("--yes", "-y", is_flag=True, help="Do not ask."),
        click.option(
            "--output",
            type=click.Choice(["text", "json"]),
            default="text",
            help="Form of the result on stdout; progress goes to stderr.",
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("cluster_name")
@click.argument("base_ami", required=False)
@click.argument("private_subnet_id", required=False, metavar="[PRIVATE_SUBNET_ID[,…]]")
@click.argument("public_subnet_id", required=False)
@click.option(
    "--vpc-cidr",
    metavar="CIDR",
    help=f"Addresses of the network that is made when no subnets are given [{DEFAULT_VPC_CIDR}].",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The choices [./instance_config.json, else the checkout's].",
)
@click.option(
    "--config-out",
    type=click.Path(path_type=Path),
    default=Path(SERVER_CONFIG_NAME),
    show_default=True,
    help="File that is written for the hub.",
)
@click.option(
    "--no-manager",
    is_flag=True,
    help="Required in this version, which does not build a manager: the hub runs elsewhere, with"
    " the file that --config-out names.",
)
@click.option("--hub-connect-url", metavar="URL", help="How workers reach the hub's API.")
@click.option("--hub-address", metavar="IP", help="Address on which the hub's API listens.")
@click.option("--worker-ssh-port", type=int, metavar="PORT", help="Port of SSH on workers [22].")
@_common
def up(no_manager: bool, dry_run: bool, yes: bool, output: str, **typed: Any) -> None:
    """Build the cluster, or change it to what is asked; run again, it changes nothing.

    BASE_AMI: image of the workers (left out: the newest Ubuntu 24.04). PRIVATE_SUBNET_ID: one or
    more subnets for the workers, with commas; left out: a network is made, with a NAT gateway.
    PUBLIC_SUBNET_ID: subnet for the manager.
    """
    reporter = Reporter(as_json=output == "json")
    if not no_manager:
        _fail(
            reporter,
            ConfigError(
                "This version does not build the manager yet.",
                next_step="Add --no-manager and run the hub elsewhere with the"
                " server_config.json that is written.",
            ),
        )
    job: Up | None = None

    async def run() -> dict[str, Any]:
        nonlocal job
        request, notices = read_request(_options(typed), CHECKOUT)
        for notice in notices:
            reporter.progress(f"note: {notice}")
        gateway = Gateway(region=request.choices.REGION)
        job = Up(gateway, request, reporter, lambda: _ask_yes(skip=yes))
        return await _closing(gateway, job.run(dry_run=dry_run))

    reporter.result(_carry_out(reporter, run, lambda: bool(job and job.done)))


def _options(typed: dict[str, Any]) -> Options:
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
    )


@main.command("terminate-workers")
@click.argument("cluster_name", required=False)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="server_config.json that names cluster and Region [as the hub finds it].",
)
@click.option("--delete-homes", is_flag=True, help="Delete the users' files too.")
@click.option(
    "--no-snapshots", is_flag=True, help="Delete homes without keeping a snapshot of each."
)
@_common
def terminate_workers(
    cluster_name: str | None,
    config: Path | None,
    region: str | None,
    delete_homes: bool,
    no_snapshots: bool,
    dry_run: bool,
    yes: bool,
    output: str,
) -> None:
    """End all workers of a cluster. Home volumes stay, unless --delete-homes.

    CLUSTER_NAME may be left out where a server_config.json names it. Another cluster's machines
    are never touched. Users who log in later get a new machine, so stop the hub first if none
    should.
    """
    reporter = Reporter(as_json=output == "json")
    job: TerminateWorkers | None = None

    async def run() -> dict[str, Any]:
        nonlocal job
        request = read_terminate_request(
            TerminateRequest(
                cluster_name or "",
                region,
                delete_homes=delete_homes,
                with_snapshots=not no_snapshots,
            ),
            config,
            os.environ,
        )
        gateway = Gateway(region=request.region)
        job = TerminateWorkers(
            gateway,
            EC2(gateway, request.cluster),
            request,
            reporter,
            lambda: _ask_name(request.cluster, skip=yes),
        )
        return await _closing(gateway, job.run(dry_run=dry_run))

    result = _carry_out(reporter, run, lambda: bool(job and job.done))
    reporter.result(result)
    if result["failed"]:
        sys.exit(EXIT_PARTLY if result["done"] else EXIT_FAILED)


async def _closing(gateway: Gateway, job: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await job
    finally:
        gateway.close()


def _carry_out(
    reporter: Reporter,
    run: Callable[[], Any],
    is_partly_done: Callable[[], bool],
) -> dict[str, Any]:
    """The result of a command; an expected failure ends the process with its exit code."""
    try:
        result: dict[str, Any] = asyncio.run(run())
        return result
    except KeyboardInterrupt:
        reporter.progress("Interrupted. Run the same command again: it goes on from there.")
        sys.exit(EXIT_INTERRUPTED)
    except EC2SpawnerError as error:
        _fail(reporter, error, is_partly_done=is_partly_done())


def _fail(reporter: Reporter, error: EC2SpawnerError, *, is_partly_done: bool = False) -> NoReturn:
    reporter.error(error)
    if is_partly_done:
        reporter.progress(
            "  Some of it is done. Run the same command again: it goes on from there."
        )
        sys.exit(EXIT_PARTLY)
    sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)


async def _ask_yes(*, skip: bool) -> None:
    if skip:
        return
    if (await _answer("Go on? [y/N]")).strip().lower() not in ("y", "yes"):
        raise Declined("Nothing was changed.", next_step="--yes goes on without asking.")


async def _ask_name(cluster: str, *, skip: bool) -> None:
    if skip:
        return
    if (await _answer(f"Type the cluster's name ({cluster}) to go on:")).strip() != cluster:
        raise Declined(
            "Nothing was changed: that is not the cluster's name.",
            next_step="--yes goes on without asking.",
        )


async def _answer(question: str) -> str:
    """A line from stdin; "" at its end. Ctrl-C ends the wait as it ends any other."""
    click.echo(f"{question} ", err=True, nl=False)
    try:
        stdin = sys.stdin.fileno()
    except io.UnsupportedOperation:  # text that is there already
        return sys.stdin.readline()
    line = b""
    while not line.endswith(b"\n"):
        await _until_readable(stdin)
        byte = os.read(stdin, 1)
        if not byte:
            break
        line += byte
    return line.decode(errors="replace")


async def _until_readable(fd: int) -> None:
    """Wait for a terminal or a pipe: a read that blocks would miss a Ctrl-C from just before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(fd, readable.set)
    except PermissionError:  # a file, which lets nobody wait
        return
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
