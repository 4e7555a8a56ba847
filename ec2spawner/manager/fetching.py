"""What the manager takes out of the cluster's bucket: its configuration, and new packages.

Owns that a file is there whole, as announced, or not at all. Must not know what is done with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import shutil
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ec2spawner.cloud import Gateway
from ec2spawner.configfile import write_atomically
from ec2spawner.errors import CloudError, ConfigError, Denied, EC2SpawnerError, NotFound
from ec2spawner.manager.place import CHOICES_KEY, PACKAGE_KEY, SERVER_CONFIG_KEY
from ec2spawner.settings import EDITABLE_KEYS, ServerConfig, load_server_config, write_server_config

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
LOOKS_PER_LINE = 12
PART_BYTES = 1024 * 1024  # what the gateway reads of one reply
PACKAGE_MAX_BYTES = 256 * PART_BYTES
CHOICES = {
    "DOMAIN": r"([a-z0-9-]+(\.[a-z0-9-]+)+)?",
    "EMAIL": r"([A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+)?",
}
"""What may change on a manager that lives, and its form, as provision.sh takes it."""
PAST_THE_END = "InvalidRange"


class PackageRefused(EC2SpawnerError):
    """A package that is not what was announced."""

    code = "package-refused"


async def await_server_config(
    gateway: Gateway,
    bucket: str,
    target: Path,
    asked: Path,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> bool:
    """Wait until the launch command has left the configuration, and keep it; False if it is kept.

    Whatever is wrong with it may be mended from outside; so this waits, and says why. ``asked`` is
    a mark on the machine's own disk: a new machine with the old one's file asks whether it is still
    right, and goes on with it if there is no answer.
    """
    looks = 0
    done = False
    if target.exists() and not asked.exists():  # noqa: ASYNC240 - nobody else waits
        done = await _renew(gateway, bucket, target)
    while not target.exists():  # noqa: ASYNC240 - as above
        try:
            body = await read_object(gateway, bucket, SERVER_CONFIG_KEY)
            keep_config(body, target)
        except (CloudError, ConfigError) as error:
            if looks % LOOKS_PER_LINE == 0:
                where = f"s3://{bucket}/{SERVER_CONFIG_KEY}"
                # S3 denies what is missing to a role that may not list (see s3.py).
                is_missing = isinstance(error, (NotFound, Denied))
                log.warning("Waiting for %s%s", where, "" if is_missing else f": {error}")
            looks += 1
            await sleep(LOOK_SECONDS)
        else:
            done = True
    asked.touch()  # noqa: ASYNC240 - as above
    return done


async def _renew(gateway: Gateway, bucket: str, target: Path) -> bool:
    try:
        body = await read_if_there(gateway, bucket, SERVER_CONFIG_KEY)
        return body is not None and keep_config(body, target)
    except (CloudError, ConfigError) as error:
        log.warning("Going on with %s as it was here: %s", target, error)
        return False


def keep_config(body: bytes, target: Path) -> bool:
    """Write a configuration that can be used, and whether it is another; ConfigError for none.

    What may be edited here and was, so that it is not what was fetched last, stays.
    """
    fresh, last = (target.with_name(f".server_config.{kind}.json") for kind in ("new", "fetched"))
    try:
        fresh.write_bytes(body)
        config, _notices = load_server_config(fresh)
    finally:
        fresh.unlink(missing_ok=True)
    here, before = _read(target), _read(last)
    edited = {
        key: getattr(here, key)
        for key in EDITABLE_KEYS
        if here and before and getattr(here, key) != getattr(before, key)
    }
    is_new = write_server_config(target, config.model_copy(update=edited))
    write_server_config(last, config)
    return is_new


def _read(path: Path) -> ServerConfig | None:
    try:
        return load_server_config(path)[0]
    except ConfigError:
        return None


async def refresh(gateway: Gateway, bucket: str, config: Path, parameters: Path) -> list[str]:
    """Take over what the launch command has left since; the names of the files that changed.

    Raises ``CloudError`` and ``ConfigError``. What is not in the bucket changes nothing.
    """
    changed = []
    body = await read_if_there(gateway, bucket, SERVER_CONFIG_KEY)
    if body is not None and keep_config(body, config):
        changed.append(config.name)
    body = await read_if_there(gateway, bucket, CHOICES_KEY)
    if body is not None and take_over(body, parameters):
        changed.append(parameters.name)
    return changed


async def read_if_there(gateway: Gateway, bucket: str, key: str) -> bytes | None:
    """An object; None for one that is missing (see s3.py for Denied)."""
    try:
        return await read_object(gateway, bucket, key)
    except (NotFound, Denied):
        return None


def take_over(body: bytes, parameters: Path) -> bool:
    """Domain and address for certificates into ``manager.env``; whether they are others."""
    text = parameters.read_text(encoding="utf-8")
    try:
        raw = json.loads(body)
        chosen = {name: str(raw.get(name, "")) for name in CHOICES}
    except (ValueError, AttributeError):
        chosen = {}
    if not all(re.fullmatch(CHOICES[name], value) for name, value in chosen.items()) or not chosen:
        raise ConfigError(
            f"s3://…/{CHOICES_KEY} cannot be used.",
            why=f"It is no JSON object with {' and '.join(CHOICES)} of the usual form.",
            next_step="Run launch-cluster up again, which writes it.",
        )
    lines = [
        line
        for line in text.splitlines()
        if line.partition("=")[0] not in [f"EC2SPAWNER_{name}" for name in chosen]
    ]
    lines += [f"EC2SPAWNER_{name}={value}" for name, value in chosen.items()]
    fresh = "\n".join(lines) + "\n"
    if sorted(fresh.splitlines()) == sorted(text.splitlines()):
        return False
    write_atomically(parameters, fresh)
    return True


async def read_object(gateway: Gateway, bucket: str, key: str) -> bytes:
    """All of an object, a part at a time. Raises ``CloudError``."""
    parts: list[bytes] = []
    while sum(map(len, parts)) < PACKAGE_MAX_BYTES:
        begin = len(parts) * PART_BYTES
        span = f"bytes={begin}-{begin + PART_BYTES - 1}"
        params = {"Bucket": bucket, "Key": key, "Range": span}
        try:
            reply = await gateway.call("s3", "get_object", params)
        except CloudError as error:
            if error.aws_code != PAST_THE_END:
                raise
            break
        parts.append(bytes(reply["Body"]))
        if len(parts[-1]) < PART_BYTES:
            break
    return b"".join(parts)


async def fetch_package(gateway: Gateway, bucket: str, sha256: str, folder: Path) -> None:
    """Unpack ``package/SHA256.tar.gz`` into ``folder``, which is whole once it is there."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise PackageRefused(
            "A package is named by its SHA-256: 64 hexadecimal digits.",
            next_step="Use launch-cluster up --upgrade, which knows the name.",
        )
    if folder.exists():  # noqa: ASYNC240 - as all in here: nobody else waits
        return
    key = PACKAGE_KEY.format(sha256)
    body = await read_object(gateway, bucket, key)
    if (found := hashlib.sha256(body).hexdigest()) != sha256:
        raise PackageRefused(
            f"s3://{bucket}/{key} is not what it is called; nothing was changed.",
            why=f"Its SHA-256 is {found}.",
            next_step="Run launch-cluster up --upgrade again.",
        )
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    archive = fresh / "package.tar.gz"
    archive.write_bytes(body)
    with tarfile.open(archive) as tar:
        _check_members(tar)
        tar.extractall(fresh)  # noqa: S202 - members were checked above
    archive.unlink()
    fresh.replace(folder)


def _check_members(tar: tarfile.TarFile) -> None:
    for member in tar:
        inside = not member.name.startswith("/") and ".." not in Path(member.name).parts
        if not inside or not (member.isfile() or member.isdir()):
            raise PackageRefused(
                f"The package holds {member.name!r}, which is no plain file inside it.",
                next_step="Make the package anew: launch-cluster up --upgrade.",
            )
