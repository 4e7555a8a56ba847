"""``launch-cluster status``: its options."""

from __future__ import annotations

from typing import Any

import click

from .. import status as showing
from ..reporter import Reporter
from ..request import OptionError, check_cluster_name, read_region
from . import common


@click.command("status")
@click.argument("cluster_name")
@common.look_options
def status(cluster_name: str, region: str | None, output: str) -> None:
    """Show what the cluster is made of, and what its machines do now. Changes nothing."""
    reporter = Reporter(as_json=output == "json")

    async def run() -> dict[str, Any]:
        faults = check_cluster_name(cluster_name)
        if faults:
            raise OptionError(faults)
        where = read_region(cluster_name, region, common.CHECKOUT)
        gateway = common.open_gateway(where)
        work = showing.run(gateway, cluster_name, where, reporter)
        return await common.closing(gateway, work)

    reporter.result(common.carry_out(reporter, run, lambda: False))
