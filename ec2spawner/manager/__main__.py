"""``python -m ec2spawner.manager COMMAND``: what the manager's units and scripts run.

Owns the commands' words and exit codes: 0 done, 1 failed, 3 nothing that could be done here.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import pwd
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ec2spawner.errors import ConfigError, EC2SpawnerError
from ec2spawner.manager import place
from ec2spawner.worker.protocol import Fault

NOT_HERE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an expected failure is one message on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except Fault as fault:
        print(f"{fault.slug.value}: {fault.detail}", file=sys.stderr)
    except EC2SpawnerError as error:
        print(error.for_operator(), file=sys.stderr)
        return NOT_HERE if error.code == "no-copy" else 1
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ec2spawner.manager")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> Any:
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        return command

    add("volume", _volume, "find the data volume, make it ready, link to it").add_argument(
        "link", type=Path
    )
    add("folders", _folders, "what lies on the data volume, made once")
    add("config", _config, "wait for server_config.json in the bucket, once").add_argument(
        "asked", type=Path
    )
    add("refresh", _refresh, "take over what the launch command has left in the bucket since")
    add("caddyfile", _caddyfile, "Caddy's configuration").add_argument("runtime", type=Path)
    demo = add("demo-caddyfile", _demo_caddyfile, "the same for make demo")
    demo.add_argument("folder", type=Path)
    demo.add_argument("https_port", type=int)
    demo.add_argument("proxy_port", type=int)
    add("routing", _routing, "the proxy's environment: how it tells users' servers apart")
    add("backup", _backup, "copy the hub's database into the bucket")
    add("copy", _copy, "copy the hub's database").add_argument("file", type=Path)
    add("restore", _restore, "put a copy in its place").add_argument("file", type=Path)
    add("health", _health, "wait until the hub answers").add_argument("seconds", type=float)
    package = add("package", _package, "fetch a package from the bucket")
    package.add_argument("sha256")
    package.add_argument("folder", type=Path)
    return parser


def _volume(options: argparse.Namespace) -> None:
    from ec2spawner.manager.volume import prepare_volume
    from ec2spawner.worker.systemd_host import SystemdHost

    volume_id = place.Manager.of(os.environ).volume_id
    print(prepare_volume(SystemdHost(), volume_id, options.link))


def _folders(_: argparse.Namespace) -> None:
    from ec2spawner.manager.volume import prepare_folders

    prepare_folders(place.DATA)


def _config(options: argparse.Namespace) -> None:
    from ec2spawner.manager.fetching import await_server_config
    from ec2spawner.settings import SYSTEM_CONFIG

    bucket, asked = place.Manager.of(os.environ).bucket, options.asked
    done = _with_gateway(lambda g: await_server_config(g, bucket, SYSTEM_CONFIG, asked))
    print(f"{SYSTEM_CONFIG}: {'written' if done else 'kept as it is'}")


def _refresh(_: argparse.Namespace) -> None:
    from ec2spawner.manager.fetching import refresh
    from ec2spawner.settings import SYSTEM_CONFIG

    bucket = place.Manager.of(os.environ).bucket
    changed = _with_gateway(lambda g: refresh(g, bucket, SYSTEM_CONFIG, place.PARAMETERS))
    print(f"new: {', '.join(changed)}" if changed else "nothing new in the bucket")


def _caddyfile(options: argparse.Namespace) -> None:
    from ec2spawner.manager import caddyfile

    user = pwd.getpwnam(place.CADDY_USER)
    warning = caddyfile.write(
        place.Manager.of(os.environ),
        place.SSL,
        place.DATA / place.CADDY_FOLDER,
        options.runtime,
        (user.pw_uid, user.pw_gid),
        caddyfile.Front(users_below=_users_below()),
    )
    if warning:
        print(f"<4>{warning}", file=sys.stderr)  # systemd.journal: a warning


def _demo_caddyfile(options: argparse.Namespace) -> None:
    from ec2spawner.manager import caddyfile

    folder: Path = options.folder
    front = caddyfile.Front(https=options.https_port, proxy=options.proxy_port, signs_itself=True)
    nobody = place.Manager("demo", "", "")
    (folder / "run").mkdir(parents=True, exist_ok=True)
    own = os.getuid(), os.getgid()
    caddyfile.write(nobody, folder / "ssl", folder / "data", folder / "run", own, front)


def _routing(_: argparse.Namespace) -> None:
    config = _config_if_usable()
    by_host = config is not None and config.SUBDOMAINS
    print(f"PROXY_OPTIONS={'--host-routing' if by_host else ''}")


def _users_below() -> str:
    from ec2spawner.siteaddress import users_below

    config = _config_if_usable()
    return users_below(config, os.environ) if config else ""


def _config_if_usable() -> Any:
    """The cluster's configuration, or None; the hub says what is wrong with it."""
    from ec2spawner.settings import SYSTEM_CONFIG, load_server_config

    try:
        return load_server_config(SYSTEM_CONFIG)[0]
    except ConfigError:
        return None


def _backup(_: argparse.Namespace) -> None:
    from ec2spawner.manager.backup import back_up, parse

    bucket = place.Manager.of(os.environ).bucket
    url, now = parse(place.database_url(os.environ)), datetime.now(timezone.utc)
    print(f"s3://{bucket}/{_with_gateway(lambda g: back_up(g, bucket, url, now))}")


def _copy(options: argparse.Namespace) -> None:
    from ec2spawner.manager.backup import copy_database, parse

    copy_database(parse(place.database_url(os.environ)), options.file)


def _restore(options: argparse.Namespace) -> int:
    from ec2spawner.manager.backup import is_sqlite, parse, restore_sqlite

    url = parse(place.database_url(os.environ))
    if not is_sqlite(url):
        print("The database is another machine's; it stays as it is.", file=sys.stderr)
        return NOT_HERE
    restore_sqlite(url, options.file)
    return 0


def _health(options: argparse.Namespace) -> int:
    from ec2spawner.manager.health import await_hub

    return 0 if await_hub(options.seconds) else 1


def _package(options: argparse.Namespace) -> None:
    from ec2spawner.manager.fetching import fetch_package

    bucket = place.Manager.of(os.environ).bucket
    _with_gateway(lambda g: fetch_package(g, bucket, options.sha256, options.folder))


def _with_gateway(work: Callable[[Any], Awaitable[Any]]) -> Any:
    from ec2spawner.cloud import Gateway

    async def run() -> Any:
        gateway = Gateway(place.Manager.of(os.environ).region)
        try:
            return await work(gateway)
        finally:
            gateway.close()

    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
