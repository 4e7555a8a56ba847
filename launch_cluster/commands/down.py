"""``launch-cluster down``: its options."""

from __future__ import annotations

from typing import Any

import click

from ..belongings import Choice
from ..down import Down, DownRequest
from ..reporter import Reporter
from ..request import OptionError, check_cluster_name, read_region
from ..workers import check_snapshots
from . import common


@click.command("down")
@click.argument("cluster_name")
@click.option("--delete-homes", is_flag=True, help="Delete the users' files too.")
@click.option(
    "--no-snapshots", is_flag=True, help="Delete homes without keeping a snapshot of each."
)
@click.option("--delete-snapshots", is_flag=True, help="Delete the snapshots of homes.")
@click.option(
    "--delete-hub-data",
    is_flag=True,
    help="Delete the volume of the hub's database, and its daily snapshots.",
)
@click.option("--keep-images", is_flag=True, help="Keep the workers' images.")
@common.common_options
def down(
    cluster_name: str,
    region: str | None,
    no_snapshots: bool,
    dry_run: bool,
    yes: bool,
    output: str,
    **choice: bool,
) -> None:
    """Delete the cluster. Stay, unless told: home volumes, snapshots, the hub's data.

    A hub that runs elsewhere is made to stop writing. Another cluster is never touched. At the end
    all that bears the cluster's name is listed: what stays, and what it failed to delete.
    """
    reporter = Reporter(as_json=output == "json")
    job: Down | None = None

    async def run() -> dict[str, Any]:
        nonlocal job
        faults = check_cluster_name(cluster_name)
        if faults:
            raise OptionError(faults)
        chosen = Choice(**choice)
        check_snapshots(delete_homes=chosen.delete_homes, with_snapshots=not no_snapshots)
        where = read_region(cluster_name, region, common.CHECKOUT)
        request = DownRequest(cluster_name, where, chosen, with_snapshots=not no_snapshots)
        gateway = common.open_gateway(where)
        job = Down(
            gateway,
            request,
            reporter,
            common.known_prices(where),
            lambda: common.ask_name(cluster_name, skip=yes),
        )
        return await common.closing(gateway, job.run(dry_run=dry_run))

    common.finish(reporter, common.carry_out(reporter, run, lambda: bool(job and job.done)))
