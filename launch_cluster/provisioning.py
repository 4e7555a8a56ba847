"""The seam to what a manager is provisioned from: its package in the bucket, and its user data.

Owns which parameters the manager's script is given. Must not know what the script does.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping

from ec2spawner.cloud import Effect, Gateway

from .hosting import DATA_VOLUME, PARAMETER_MAX_BYTES
from .planning import StackChange
from .request import UpRequest


async def manager_script(
    gateway: Gateway, request: UpRequest, bucket: str, change: StackChange
) -> str:
    """The user data of a manager that is made now; what it fetches is in the bucket then.

    It holds no secret: anybody on the machine reads it. Where the id of the data volume belongs it
    says ``DATA_VOLUME``, once.
    """
    parameters = {
        "CLUSTER": request.cluster,
        "REGION": request.choices.REGION,
        "BUCKET": bucket,
        "DATA_VOLUME_ID": DATA_VOLUME,
        "DOMAIN": change.spec.parameters["Domain"],
        "EMAIL": change.spec.parameters["Email"],
    }
    return check_script(render_script(await _put_package(gateway, bucket), parameters))


async def _put_package(gateway: Gateway, bucket: str) -> str:
    """A placeholder, until there is a package: an empty object; its place."""
    data = b""
    key = f"package/{hashlib.sha256(data).hexdigest()}.tar.gz"
    params = {"Bucket": bucket, "Key": key, "Body": data}
    await gateway.call("s3", "put_object", params, effect=Effect.REPEATABLE)
    return f"s3://{bucket}/{key}"


def render_script(package: str, parameters: Mapping[str, str]) -> str:
    """A placeholder, until there is a bootstrap: it says what it would fetch."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in parameters.items()]
    return "\n".join(["#!/bin/sh", *lines, f"echo {package}", ""])


def check_script(script: str) -> str:
    """The script, if both of its halves fit into the stack's parameters; ValueError if not."""
    halves = script.split(DATA_VOLUME)
    if len(halves) != 2 or any(len(half.encode()) > PARAMETER_MAX_BYTES for half in halves):
        raise ValueError("the manager's script does not fit into the stack's parameters")
    return script
