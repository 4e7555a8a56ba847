"""What a stub worker's notebook server answers.

Owns the few replies. Must not know who asks, nor listen.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

JUPYTERHUB_VERSION = "5.0.0"  # overwritten by the installed one, where there is one


def reply(head: str, version_shown: str) -> bytes:
    """The answer to a request of this head: JupyterHub's probe is told the version."""
    method, _, rest = head.partition(" ")
    path = rest.partition(" ")[0].partition("?")[0].rstrip("/")
    is_api = path.endswith("/api")
    body = json.dumps({"version": version_shown} if is_api else {"stub": True}).encode()
    status = "200 OK" if is_api or "/user/" in path else "404 Not Found"
    head_lines = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"X-JupyterHub-Version: {version_shown}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head_lines.encode() + (b"" if method == "HEAD" else body)


def hub_version() -> str:
    """JupyterHub's, as it is installed here."""
    try:
        return version("jupyterhub")
    except PackageNotFoundError:
        return JUPYTERHUB_VERSION
