"""``launch-cluster users``: its sub-commands and their options."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ec2spawner.configfile import Fault
from ec2spawner.ec2 import EC2
from ec2spawner.errors import ConfigError
from ec2spawner.model import Owner
from ec2spawner.names import normalize, user_fault
from ec2spawner.settings import find_server_config, load_server_config

from ..hubapi import TOKEN_ENVIRONMENT, URL_ENVIRONMENT, HubAPI, api_address, is_in_the_open
from ..reporter import Reporter
from ..request import OptionError
from ..restore import Restore, RestoreRequest
from ..userlist import Userlist, read_userlist
from ..users import ImportUsers, export_users
from . import common

SERVER_NAME = r"(?!.*--)[a-z](?:[a-z0-9-]{0,28}[a-z0-9])?"
"""JupyterHub takes no other for a new server (``slugs.is_valid_safe_slug``, 6.1)."""
FILE_MAX_BYTES = 10 * 1024 * 1024


@click.group("users")
def users() -> None:
    """Import and export the hub's users; bring back a deleted user's files.

    Import and export talk to the hub, with an admin's API token in JUPYTERHUB_API_TOKEN.
    """


def hub_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of what talks to the hub."""
    hub = click.option("--hub", metavar="URL", help=f"The hub's address [${URL_ENVIRONMENT}].")
    for option in (hub, common.OUTPUT):
        command = option(command)
    return command


@users.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--column", metavar="NAME", help="Column of a CSV that holds the names.")
@click.option(
    "--remove", is_flag=True, help="Remove users, rights and group members that are not in FILE."
)
@common.DRY_RUN
@common.YES
@hub_options
def import_users(
    file: Path,
    column: str | None,
    remove: bool,
    dry_run: bool,
    yes: bool,
    hub: str | None,
    output: str,
) -> None:
    """Make the hub's users those of FILE (- for stdin).

    A line is `name`, `name admin` or `name group=biology101`; or FILE is a CSV with a header, from
    a course system. Nothing is done if a line is bad, and nothing is taken away without --remove.
    """
    reporter = Reporter(as_json=output == "json")
    job: ImportUsers | None = None

    async def run() -> dict[str, Any]:
        nonlocal job
        wanted = _read(file, column)
        api = _open_hub(hub, reporter)
        job = ImportUsers(api, wanted, reporter, lambda: common.ask_yes(skip=yes), remove=remove)
        try:
            return await job.run(dry_run=dry_run)
        finally:
            await api.close()

    result = common.carry_out(reporter, run, lambda: bool(job and job.done))
    reporter.result(result)
    if result["failed"]:
        sys.exit(common.EXIT_PARTLY)


@users.command("export")
@hub_options
def export(hub: str | None, output: str) -> None:
    """Print the hub's users as a list that `import` reads."""
    reporter = Reporter(as_json=output == "json")

    async def run() -> dict[str, Any]:
        api = _open_hub(hub, reporter)
        try:
            text, document = await export_users(api, reporter)
        finally:
            await api.close()
        if not reporter.as_json:
            click.echo(text, nl=False)
        return document

    reporter.result(common.carry_out(reporter, run, lambda: False))


@users.command("restore")
@click.argument("name")
@click.argument("snapshot", required=False)
@click.option("--server", default="", metavar="SERVER", help="Of this named server of NAME's.")
@click.option(
    "--as",
    "as_server",
    metavar="SERVER",
    help="As the home of this named server, beside the home that NAME has now.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="server_config.json of the cluster [as the hub finds it].",
)
@common.common_options
def restore(
    name: str,
    snapshot: str | None,
    server: str,
    as_server: str | None,
    config: Path | None,
    region: str | None,
    dry_run: bool,
    yes: bool,
    output: str,
) -> None:
    """Bring back the files of NAME, whom the hub or --remove deleted.

    SNAPSHOT (or a volume's id) may be left out for what was deleted last. Nothing is deleted by it,
    and it is refused where NAME has other files in use. It needs AWS credentials, and no token.
    """
    reporter = Reporter(as_json=output == "json")
    job: Restore | None = None

    async def run() -> dict[str, Any]:
        nonlocal job
        request = _restoration(name, snapshot, server, as_server, config)
        gateway = common.open_gateway(region or request.config.REGION)
        job = Restore(
            EC2(gateway, request.config.CLUSTER_NAME),
            request,
            reporter,
            lambda: common.ask_yes(skip=yes),
        )
        return await common.closing(gateway, job.run(dry_run=dry_run))

    reporter.result(common.carry_out(reporter, run, lambda: bool(job and job.done)))


def _restoration(
    name: str, snapshot: str | None, server: str, as_server: str | None, config: Path | None
) -> RestoreRequest:
    faults = []
    reason = user_fault(normalize(name))
    if reason:
        faults.append(Fault("NAME", repr(name), reason))
    if snapshot is not None and not re.fullmatch(r"(snap|vol)-[0-9a-f]{8,17}", snapshot):
        instead = 'one such as "snap-0123456789abcdef0"'
        faults.append(Fault("SNAPSHOT", repr(snapshot), "is not an id", instead))
    for option, value in (("--server", server), ("--as", as_server)):
        is_default = option == "--server" and value == ""
        if value is not None and not is_default and not re.fullmatch(SERVER_NAME, value):
            reason = "is no name of a server"
            instead = 'small letters, digits and dashes, for example "restored"'
            faults.append(Fault(option, repr(value), reason, instead))
    if faults:
        raise OptionError(faults)
    path = config or find_server_config(os.environ, Path.cwd())
    found, _ = load_server_config(path)
    source = Owner(normalize(name), server)
    target = source if as_server is None else Owner(normalize(name), as_server)
    return RestoreRequest(source, target, snapshot, found)


def _read(file: Path, column: str | None) -> Userlist:
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(FILE_MAX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read.",
            why=error.strerror or str(error),
            next_step="Name a file with a line for each user.",
        ) from error
    if len(data) > FILE_MAX_BYTES:
        raise ConfigError(f"{file} is larger than 10 MiB.", next_step="Part it.")
    return read_userlist(str(file), data, column)


def _open_hub(hub: str | None, reporter: Reporter) -> HubAPI:
    named = hub or os.environ.get(URL_ENVIRONMENT)
    token = os.environ.get(TOKEN_ENVIRONMENT, "").strip()
    if not named:
        raise ConfigError(
            "The hub is not named.",
            next_step=f"Write its address after --hub, or into {URL_ENVIRONMENT}.",
        )
    address = api_address(named)
    if not token or not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"{TOKEN_ENVIRONMENT} holds no API token.",
            next_step="Request one on the hub's token page (/hub/token) as an admin, and put it"
            " there; it is never taken from the command line.",
        )
    if is_in_the_open(address):
        reporter.progress("note: the token is sent unencrypted, since the address is not https.")
    return HubAPI(address, token)
