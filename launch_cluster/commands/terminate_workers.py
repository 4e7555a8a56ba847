"""``launch-cluster terminate-workers``: its options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ec2spawner.ec2 import EC2

from ..reporter import Reporter
from ..workers import TerminateRequest, TerminateWorkers, read_terminate_request
from . import common


@click.command("terminate-workers")
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
@common.common_options
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
        gateway = common.open_gateway(request.region)
        job = TerminateWorkers(
            gateway,
            EC2(gateway, request.cluster),
            request,
            reporter,
            lambda: common.ask_name(request.cluster, skip=yes),
        )
        return await common.closing(gateway, job.run(dry_run=dry_run))

    common.finish(reporter, common.carry_out(reporter, run, lambda: bool(job and job.done)))
