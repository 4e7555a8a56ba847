"""The instance metadata of a real machine: answers one HTTP request on stdin, as qemu calls it.

    python -I -S metadata_cmd.py DIRECTORY

Owns IMDSv2's paths, out of ``machine.json`` and the notice of an interruption in the machine's
directory. A program of its own, started for every connection that the machine makes to
169.254.169.254: it imports little, and nothing of this package.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

TOKEN = b"emulated-metadata-token"  # it opens nothing
NOTICE_FILE = "instance-action.json"
REQUEST_MAX_BYTES = 16_384
_REASONS = {200: "OK", 401: "Unauthorized", 404: "Not Found"}


def tree(machine: dict[str, Any], notice: str) -> dict[str, Any]:
    """All that /latest/ holds: dicts are folders, texts are values."""
    mac = machine["mac"]
    address = machine["private_ip"]
    host = "ip-" + address.replace(".", "-")
    zone = machine["zone"]
    meta: dict[str, Any] = {
        "ami-id": machine["image_id"],
        "hostname": host,
        "instance-id": machine["instance_id"],
        "instance-life-cycle": "spot" if machine["is_spot"] else "on-demand",
        "instance-type": machine["instance_type"],
        "local-hostname": host,
        "local-ipv4": address,
        "mac": mac,
        "placement": {"availability-zone": zone, "region": zone[:-1]},
        "public-keys": {
            f"{number}={name}": {"openssh-key": key}
            for number, (name, key) in enumerate([("key", k) for k in machine["authorized_keys"]])
        },
        "network": {"interfaces": {"macs": {mac: {"device-number": "0", "mac": mac}}}},
    }
    if notice:
        meta["spot"] = {"instance-action": notice}
    return {"meta-data": meta, "dynamic": {"instance-identity": {"document": _identity(machine)}}}


def _identity(machine: dict[str, Any]) -> str:
    zone = machine["zone"]
    return json.dumps(
        {
            "instanceId": machine["instance_id"],
            "imageId": machine["image_id"],
            "instanceType": machine["instance_type"],
            "availabilityZone": zone,
            "region": zone[:-1],
            "privateIp": machine["private_ip"],
        }
    )


def find(node: Any, path: str) -> str | None:
    """What is at a path: a value, a folder's listing, or None."""
    for part in filter(None, path.split("/")):
        if not isinstance(node, dict):
            return None
        # public-keys lists "0=name" and is entered by the number alone.
        names = {name.partition("=")[0]: name for name in node}
        node = node.get(part, node.get(names.get(part)))
    if isinstance(node, dict):
        return "\n".join(
            f"{name}/" if isinstance(below, dict) and "=" not in name else name
            for name, below in node.items()
        )
    return None if node is None else str(node)


def answer(request: bytes, directory: Path) -> tuple[int, bytes]:
    """(status, body) of a request's head."""
    lines = request.split(b"\r\n")
    method, _, rest = lines[0].partition(b" ")
    path = rest.partition(b" ")[0].decode("ascii", "replace")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    if method == b"PUT" and path == "/latest/api/token":
        return 200, TOKEN
    if method != b"GET" or headers.get(b"x-aws-ec2-metadata-token") != TOKEN:
        return 401, b""
    machine = json.loads((directory / "machine.json").read_text())
    try:
        notice = (directory / NOTICE_FILE).read_text()
    except FileNotFoundError:
        notice = ""
    version, _, below = path.strip("/").partition("/")
    found = find(tree(machine, notice), below) if version else None
    return (404, b"") if found is None else (200, found.encode())


def main() -> None:
    """Read a request, answer it, and hang up."""
    request = b""
    while b"\r\n\r\n" not in request and len(request) < REQUEST_MAX_BYTES:
        chunk = os.read(0, 4096)
        if not chunk:
            return
        request += chunk
    status, body = answer(request.partition(b"\r\n\r\n")[0], Path(sys.argv[1]))
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nServer: EC2ws\r\nContent-Type: text/plain\r\n"
        f"X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reply = head.encode() + body
    while reply:
        reply = reply[os.write(1, reply) :]


if __name__ == "__main__":
    main()
