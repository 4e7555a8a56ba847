"""The seam to what a manager is provisioned from: its package in the bucket, and its user data.

Owns which parameters the manager's script is given. Must not know what the script does.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

from ec2spawner.cloud import Effect, Gateway

from .bootstrap import render_bootstrap
from .hosting import DATA_VOLUME, PARAMETER_MAX_BYTES
from .request import UpRequest


async def put_package(gateway: Gateway, bucket: str) -> str:
    """Put the package into the bucket; its sha256."""
    data = _package()
    sha256 = hashlib.sha256(data).hexdigest()
    params = {"Bucket": bucket, "Key": f"package/{sha256}.tar.gz", "Body": data}
    await gateway.call("s3", "put_object", params, effect=Effect.REPEATABLE)
    return sha256


def _package() -> bytes:
    """The placeholder of the package: an empty archive, the same at every run."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w"):
        pass
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as file:
        file.write(plain.getvalue())
    return packed.getvalue()


def manager_script(request: UpRequest, bucket: str, sha256: str, domain: str, email: str) -> str:
    """The user data of a manager that is made now. It holds no secret: anybody there reads it.

    Where the id of the data volume belongs it says ``DATA_VOLUME``, once.
    """
    parameters = {
        "CLUSTER_NAME": request.cluster,
        "REGION": request.choices.REGION,
        "BUCKET": bucket,
        "DATA_VOLUME_ID": DATA_VOLUME,
        "DOMAIN": domain,
        "EMAIL": email,
    }
    script = render_bootstrap(bucket, sha256, "manager", parameters)
    halves = script.split(DATA_VOLUME)
    if len(halves) != 2 or any(len(half.encode()) > PARAMETER_MAX_BYTES for half in halves):
        raise ValueError("the manager's script does not fit into the stack's parameters")
    return script
