"""``launch-cluster doctor``: its options, those of ``up`` among them."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..doctor import examine_cluster
from ..reporter import Reporter
from ..request import read_request
from ..up import Up
from . import common
from .up import network_options, options_of, up_options


@click.command("doctor")
@network_options
@up_options
@common.look_options
def doctor(output: str, **typed: Any) -> None:
    """Look for all that stands in the way of ``up`` with the same options; change nothing.

    Exit code 1 if anything does.
    """
    reporter = Reporter(as_json=output == "json")

    async def run() -> dict[str, Any]:
        request, notices = read_request(options_of(typed), common.CHECKOUT)
        for notice in notices:
            reporter.progress(f"note: {notice}")
        gateway = common.open_gateway(request.choices.REGION)
        job = Up(gateway, request, reporter, lambda: common.ask_yes(skip=True))
        return await common.closing(gateway, examine_cluster(job, reporter))

    result = common.carry_out(reporter, run, lambda: False)
    reporter.result(result)
    if result["obstacles"]:
        sys.exit(common.EXIT_FAILED)
