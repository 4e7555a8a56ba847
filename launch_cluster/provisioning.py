"""The seam to what a manager is provisioned from: its package in the bucket, and its user data.

Owns which parameters the manager's script is given. Must not know what the script does.
"""

from __future__ import annotations

from ec2spawner.cloud import Gateway
from ec2spawner.model import Role

from .bootstrap import Package, render_bootstrap
from .bundle import find_sources, put_bundle
from .hosting import DATA_VOLUME, PARAMETER_MAX_BYTES
from .request import UpRequest


async def put_package(gateway: Gateway, bucket: str) -> str:
    """Put the package into the bucket; its sha256."""
    return (await put_bundle(gateway, bucket, find_sources())).sha256


def manager_script(request: UpRequest, bucket: str, sha256: str, domain: str, email: str) -> str:
    """The user data of a manager that is made now. It holds no secret: anybody there reads it.

    Where the id of the data volume belongs it says ``DATA_VOLUME``, once.
    """
    parameters = {
        "CLUSTER": request.cluster,
        "REGION": request.choices.REGION,
        "BUCKET": bucket,
        "DATA_VOLUME_ID": DATA_VOLUME,
        "DOMAIN": domain,
        "EMAIL": email,
    }
    package = Package(bucket, request.choices.REGION, f"package/{sha256}.tar.gz", sha256)
    script = render_bootstrap(package, Role.MANAGER, parameters)
    halves = script.split(DATA_VOLUME)
    if len(halves) != 2 or any(len(half.encode()) > PARAMETER_MAX_BYTES for half in halves):
        raise ValueError("the manager's script does not fit into the stack's parameters")
    return script
