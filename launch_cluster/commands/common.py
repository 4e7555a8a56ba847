"""What all commands share: options, the question before a change, exit codes.

Exit codes: 0 done or nothing to do, 1 failed, 2 usage, 3 partly done, 130 interrupted. Must not
decide what is done.
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
from ec2spawner.costs import Prices
from ec2spawner.errors import ConfigError, EC2SpawnerError
from ec2spawner.pricefile import read_prices, user_file

from ..answering import HTTP_PORT
from ..reporter import Reporter
from ..sizes import HOURS_A_WEEK_DEFAULT, WEEKS_DEFAULT

EXIT_FAILED, EXIT_USAGE, EXIT_PARTLY, EXIT_INTERRUPTED = 1, 2, 3, 130
CHECKOUT = Path(__file__).resolve().parents[2]


class Declined(EC2SpawnerError):
    """The operator did not say yes."""

    code = "declined"


def open_gateway(region: str | None) -> Gateway:
    """The gateway of one command; a Region of None is left to the AWS configuration."""
    return Gateway(region=region)


def known_prices(region: str) -> Prices:
    """Prices of a Region as the package and the operator's own file have them."""
    return read_prices(region, user_file(os.environ))


REGION = click.option("--region", help="AWS Region, instead of the file's.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done, and stop.")
YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
OUTPUT = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Form of the result on stdout; progress goes to stderr.",
)
HOURS_A_WEEK = click.option(
    "--hours-a-week",
    type=float,
    default=HOURS_A_WEEK_DEFAULT,
    show_default=True,
    help="Hours for which a student's machine runs in a week.",
)
WEEKS = click.option(
    "--weeks", type=float, default=WEEKS_DEFAULT, show_default=True, help="Length of the course."
)


def http_port() -> int:
    """Port on which a manager's public address answers, where something else than 80 leads there.

    EC2SPAWNER_HTTP_PORT says so: docs/localcloud.md has the one such case.
    """
    text = os.environ.get("EC2SPAWNER_HTTP_PORT", "")
    if not text:
        return HTTP_PORT
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigError(
            f"EC2SPAWNER_HTTP_PORT is {text!r}, which is no port.",
            next_step="Remove it from the environment, or write a number from 1 to 65535.",
        )
    return int(text)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every command has which changes something."""
    for option in (REGION, DRY_RUN, YES, OUTPUT):
        command = option(command)
    return command


def look_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every command has which only looks."""
    for option in (REGION, OUTPUT):
        command = option(command)
    return command


async def closing(gateway: Gateway, job: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The job's result; the gateway is closed however it ends."""
    try:
        return await job
    finally:
        gateway.close()


def carry_out(
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
        fail(reporter, error, is_partly_done=is_partly_done())
    finally:
        reporter.end_bar()


def finish(reporter: Reporter, result: dict[str, Any]) -> None:
    """Give the result out; where some of it failed, end the process with the exit code for that."""
    reporter.result(result)
    if result.get("failed"):
        sys.exit(EXIT_PARTLY if result["done"] else EXIT_FAILED)


def fail(reporter: Reporter, error: EC2SpawnerError, *, is_partly_done: bool = False) -> NoReturn:
    """Say what failed, and end the process with the exit code that goes with it."""
    reporter.error(error)
    if is_partly_done:
        reporter.progress(
            "  Some of it is done. Run the same command again: it goes on from there."
        )
        sys.exit(EXIT_PARTLY)
    sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)


async def ask_yes(*, skip: bool) -> None:
    """Go on only after a yes; Declined else."""
    if skip:
        return
    if (await _answer("Go on? [y/N]")).strip().lower() not in ("y", "yes"):
        raise Declined("Nothing was changed.", next_step="--yes goes on without asking.")


async def ask_name(cluster: str, *, skip: bool) -> None:
    """Go on only after the cluster's name was typed; Declined else."""
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
