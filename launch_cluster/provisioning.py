"""The seam to what a manager is provisioned from: its package in the bucket, and its user data.

Owns which parameters the manager's script is given. Must not know what the script does.
"""

from __future__ import annotations

from collections.abc import Mapping

from ec2spawner.cloud import Gateway
from ec2spawner.model import Role

from .bootstrap import render_bootstrap
from .bundle import Bundle, find_sources, put_bundle
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


async def _put_package(gateway: Gateway, bucket: str) -> Bundle:
    return await put_bundle(gateway, bucket, find_sources())


def render_script(bundle: Bundle, parameters: Mapping[str, str]) -> str:
    """The bootstrap of a manager that is provisioned from ``bundle``."""
    package = bundle.package(parameters["BUCKET"], parameters["REGION"])
    return render_bootstrap(package, Role.MANAGER, parameters)


def check_script(script: str) -> str:
    """The script, if both of its halves fit into the stack's parameters; ValueError if not."""
    halves = script.split(DATA_VOLUME)
    if len(halves) != 2 or any(len(half.encode()) > PARAMETER_MAX_BYTES for half in halves):
        raise ValueError("the manager's script does not fit into the stack's parameters")
    return script
