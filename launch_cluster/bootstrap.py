"""The script by which a builder and a manager begin: one file of the bucket, checked and run.

Owns the user data's text. Must not know AWS beyond the bucket's name.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

USER_DATA_MAX_BYTES = 16_384  # EC2 user guide, "User data", read 2026

SCRIPT = """#!/bin/sh
# Fetches the cluster's package with this machine's role, checks it, and lets it set the machine up.
set -eu
{parameters}
python3 -c 'import boto3' 2>/dev/null || {{ apt-get update -q; apt-get install -qy python3-boto3; }}
python3 - <<'END'
import boto3, hashlib, tarfile, time
for left in range(30, -1, -1):
    try:
        body = boto3.client("s3").get_object(Bucket={bucket!r}, Key="package/{sha256}.tar.gz")
        data = body["Body"].read()
        break
    except Exception as error:
        if not left:
            raise
        print(error, flush=True)
        time.sleep(10)
if hashlib.sha256(data).hexdigest() != {sha256!r}:
    raise SystemExit("the package is not the one that was put into the bucket")
open("/opt/ec2spawner-bundle.tar.gz", "wb").write(data)
tarfile.open("/opt/ec2spawner-bundle.tar.gz").extractall("/opt/ec2spawner-bundle")
END
export BUNDLE=/opt/ec2spawner-bundle
exec sh /opt/ec2spawner-bundle/provision/{role}/provision.sh
"""


def render_bootstrap(bucket: str, sha256: str, role: str, parameters: Mapping[str, str]) -> str:
    """The user data of a machine of that role (worker for a builder, or manager)."""
    lines = [f"export {key}={shlex.quote(value)}" for key, value in parameters.items()]
    return SCRIPT.format(parameters="\n".join(lines), bucket=bucket, sha256=sha256, role=role)
