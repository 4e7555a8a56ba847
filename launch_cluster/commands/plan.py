"""``launch-cluster plan``: what ``up`` would do, and what CloudFormation would change for it."""

from __future__ import annotations

import json
from typing import Any

import click

from ..reporter import Reporter
from ..request import read_request
from ..showing import Showing
from ..up import Up
from . import common
from .up import bill_options, network_options, options_of, up_options


@click.command("plan")
@network_options
@up_options
@bill_options
@click.option(
    "--print-policies",
    is_flag=True,
    help="Print, as JSON, what the manager, builders and whoever runs this need to be allowed.",
)
@common.look_options
def plan(print_policies: bool, output: str, **typed: Any) -> None:
    """Show what ``up`` with the same options would do; change nothing.

    What CloudFormation would replace is marked. At its end it says what the cluster will cost a
    month, and with --students what those add.
    """
    reporter = Reporter(as_json=output == "json" or print_policies)

    async def run() -> dict[str, Any]:
        request, notices = read_request(options_of(typed), common.CHECKOUT)
        for notice in notices:
            reporter.progress(f"note: {notice}")
        gateway = common.open_gateway(request.choices.REGION)
        prices = common.known_prices(request.choices.REGION)
        job = Up(gateway, request, reporter, lambda: common.ask_yes(skip=True), prices=prices)
        showing = Showing(job, reporter)
        work = showing.policies() if print_policies else showing.plan()
        return await common.closing(gateway, work)

    result = common.carry_out(reporter, run, lambda: False)
    if print_policies:
        click.echo(json.dumps(result, indent=2))
    else:
        reporter.result(result)
