"""What tests ask the emulated cloud, and tell it, beside AWS's calls."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any


def control(path: str, **document: Any) -> Any:
    """Ask the control endpoint of the emulated cloud that is AWS; POST if a document is given."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/_localcloud/{path}"
    data = json.dumps(document).encode() if document else None
    with urllib.request.urlopen(urllib.request.Request(url, data=data)) as reply:
        return json.load(reply)


def of_cluster(rows: list[dict[str, Any]], cluster: str, role: str) -> list[dict[str, Any]]:
    """The rows of ``GET state`` that bear the cluster's tag and the role's."""
    wanted = {"ec2spawner:cluster": cluster, "ec2spawner:role": role}
    return [row for row in rows if wanted.items() <= row["tags"].items()]
