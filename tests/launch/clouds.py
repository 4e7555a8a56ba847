"""The emulated cloud of a file of tests, and what tests ask it, and tell it, beside AWS's calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """Address and pid of a cloud of stubs, which ends with this process at the latest."""
    command = [
        *(sys.executable, "-m", "ec2spawner.localcloud.demo_child", str(os.getpid())),
        *(sys.executable, "-m", "ec2spawner.localcloud", "serve", "--port", "0"),
        *("--state-dir", str(folder / "state"), "--forget"),
        *("--workers", "stub", "--throttle", "off"),
        *("--boot-seconds", "0", "--stop-seconds", "0.1", "--snapshot-seconds", "0.1"),
        *("--volume-seconds", "0.1", "--image-seconds", "0.1", "--ssh-port", "2923"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        try:
            for line in process.stdout:
                if line.startswith("ready: "):
                    yield line.split()[1], process.pid
                    return
            pytest.fail(f"the emulated cloud ended: {(folder / 'log').read_text()}")
        finally:
            process.terminate()
            process.wait(20)
            process.stdout.close()


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
