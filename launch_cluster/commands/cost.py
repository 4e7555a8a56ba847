"""``launch-cluster cost``: its options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ec2spawner.costs import SHARED_GIB_PER_STUDENT, Nat, Shared, Usage
from ec2spawner.pricefile import user_file

from ..costing import Cost, CostOptions, read_cost_request
from ..pricing import PRICING_REGION
from ..reporter import Reporter
from ..request import read_choices
from . import common


@click.command("cost")
@click.argument("cluster_name", required=False)
@click.option("--students", type=int, default=30, show_default=True, help="How many there are.")
@common.HOURS_A_WEEK
@common.WEEKS
@click.option("--profile", metavar="SLUG", help="Kind of machine, one of PROFILES [the first].")
@click.option("--no-manager", is_flag=True, help="The hub runs elsewhere.")
@click.option(
    "--nat",
    type=click.Choice([way.value for way in Nat]),
    default=Nat.GATEWAY.value,
    show_default=True,
    help="How workers reach the internet in a network that is made, as of ``up``.",
)
@click.option("--no-nat", is_flag=True, help="The same as --nat none.")
@click.option(
    "--shared-type",
    metavar="TYPE",
    help="Type of the large machine that is compared with [the one that suits].",
)
@click.option(
    "--shared-gib",
    type=float,
    default=SHARED_GIB_PER_STUDENT,
    show_default=True,
    help="Memory that each student has on the large machine.",
)
@click.option(
    "--refresh-prices",
    is_flag=True,
    help="Ask AWS for today's prices first, and keep them in a file of your own.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The choices [./instance_config.json, else the checkout's].",
)
@common.look_options
def cost(output: str, region: str | None, config: Path | None, **typed: Any) -> None:
    """Say what a cluster costs: before it is built, and, with CLUSTER_NAME, as it is.

    Without CLUSTER_NAME and --refresh-prices, no AWS account is needed. Nothing is ever changed.
    """
    reporter = Reporter(as_json=output == "json")

    async def run() -> dict[str, Any]:
        choices, notices = read_choices(config, common.CHECKOUT)
        for notice in notices:
            reporter.progress(f"note: {notice}")
        request = read_cost_request(_options(typed), choices, user_file(os.environ), region)
        gateway = common.open_gateway(request.choices.REGION)
        pricing = common.open_gateway(PRICING_REGION)
        job = Cost(gateway, pricing, request, reporter).run()
        try:
            return await common.closing(gateway, job)
        finally:
            pricing.close()

    reporter.result(common.carry_out(reporter, run, lambda: False))


def _options(typed: dict[str, Any]) -> CostOptions:
    return CostOptions(
        cluster=typed["cluster_name"],
        usage=Usage(typed["students"], typed["hours_a_week"], typed["weeks"]),
        shared=Shared(typed["shared_type"], typed["shared_gib"]),
        profile=typed["profile"],
        has_manager=not typed["no_manager"],
        nat=Nat.NONE if typed["no_nat"] else Nat(typed["nat"]),
        refresh=typed["refresh_prices"],
    )
