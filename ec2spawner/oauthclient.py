"""The hub's client at GitHub, Google or another provider: id and secret, in memory only.

Owns where they lie and how they are read: the hub's environment first, then SSM. Must not know
which provider it is, nor the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ec2spawner.cloud import Gateway
from ec2spawner.errors import ConfigError, NotFound

ID_PARAMETER = "/ec2spawner/{}/oauth-client-id"
SECRET_PARAMETER = "/ec2spawner/{}/oauth-client-secret"  # noqa: S105 - a name

ID_VARIABLE = "OAUTH_CLIENT_ID"
SECRET_VARIABLE = "OAUTH_CLIENT_SECRET"  # noqa: S105 - a name


@dataclass(frozen=True)
class OAuthClient:
    """What the provider knows this hub by."""

    id: str
    secret: str = field(repr=False)


def find_client(
    environ: Mapping[str, str], make_gateway: Callable[[], Gateway], cluster: str
) -> OAuthClient | None:
    """From the environment, else from SSM; None where neither has it.

    Raises ``ConfigError`` where one half is missing, ``CloudError``. For a configuration file.
    """
    id_, secret = environ.get(ID_VARIABLE, ""), environ.get(SECRET_VARIABLE, "")
    if bool(id_) != bool(secret):
        there, missing = (ID_VARIABLE, SECRET_VARIABLE)[:: 1 if id_ else -1]
        raise ConfigError(
            f"{missing} is not set.",
            why=f"{there} is, and nobody can log in with one of them.",
            next_step="Set both in the hub's environment, or neither and both in SSM.",
        )
    return OAuthClient(id_, secret) if id_ else client_now(make_gateway, cluster)


async def read_client(gateway: Gateway, cluster: str) -> OAuthClient | None:
    """Both halves; None where neither is there. ConfigError where one is, ``CloudError``."""
    names = [name.format(cluster) for name in (ID_PARAMETER, SECRET_PARAMETER)]
    id_, secret = [await _parameter(gateway, name) for name in names]
    if bool(id_) != bool(secret):
        there, missing = names if id_ else reversed(names)
        raise ConfigError(
            f"The SSM parameter {missing} is missing.",
            why=f"{there} is there, and nobody can log in with one of them.",
            next_step=f"aws ssm put-parameter --type SecureString --name {missing} --value …",
        )
    return OAuthClient(id_, secret) if id_ and secret else None


async def _parameter(gateway: Gateway, name: str) -> str | None:
    params = {"Name": name, "WithDecryption": True}
    try:
        reply = await gateway.call("ssm", "get_parameter", params)
    except NotFound:
        return None
    return str(reply["Parameter"]["Value"]).strip()


def client_now(make_gateway: Callable[[], Gateway], cluster: str) -> OAuthClient | None:
    """``read_client`` for a configuration file: the hub's event loop stands still meanwhile."""

    async def read() -> OAuthClient | None:
        gateway = make_gateway()
        try:
            return await read_client(gateway, cluster)
        finally:
            gateway.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(read())).result()
