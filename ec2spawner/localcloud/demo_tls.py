"""HTTPS for the demo: Caddy in front of it, as on a manager, with an authority of its own.

Owns where Caddy comes from, its configuration, and whether it answers. Must not know when it is
started and ended.
"""

from __future__ import annotations

import http.client
import os
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ec2spawner.localcloud.demo_parts import DemoError
from ec2spawner.manager import caddyfile
from ec2spawner.manager.place import Manager

TOOL = Path(__file__).resolve().parents[2] / "tools" / "debian_program.sh"
HOST = "localhost"
FETCH_SECONDS = 400.0  # of the tool's own bounds, the sum


@dataclass(frozen=True)
class Front:
    """Caddy of one demo; ``folder`` keeps its authority, so that a browser knows it again."""

    folder: Path
    port: int
    proxy_port: int

    @property
    def url(self) -> str:
        """The demo's address in the browser."""
        return f"https://{HOST}:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate by which a browser knows the demo, once Caddy has made it."""
        return self.folder / "data/pki/authorities/local/root.crt"

    @property
    def command(self) -> list[str]:
        """Caddy, fetched if need be. Raises DemoError."""
        config = self.folder / "run" / caddyfile.SHOWN
        return [find_caddy(), "run", "--adapter", "caddyfile", "--config", str(config)]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Caddy keeps nothing outside its folder."""
        home = str(self.folder)
        return {**environ, "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}

    def configure(self) -> None:
        """Write Caddy's configuration."""
        runtime = self.folder / "run"
        runtime.mkdir(parents=True, exist_ok=True)
        front = caddyfile.Front(https=self.port, proxy=self.proxy_port, signs_itself=True)
        nobody = Manager("demo", "", "")
        own = os.getuid(), os.getgid()
        caddyfile.write(nobody, self.folder / "ssl", self.folder / "data", runtime, own, front)

    def answers(self) -> bool:
        """Whether the hub's page comes by HTTPS, for a browser that knows the authority."""
        try:
            context = ssl.create_default_context(cafile=str(self.authority))
        except OSError:  # not made yet
            return False
        connection = http.client.HTTPSConnection(HOST, self.port, timeout=2, context=context)
        try:
            connection.request("GET", "/hub/login")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def find_caddy() -> str:
    """Caddy on PATH, else out of Debian's package. DemoError, with what to do, if there is none."""
    try:
        done = subprocess.run(  # noqa: S603 - the repository's own tool
            [TOOL, "caddy", "caddy"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
        )
        why = done.stderr.strip().rpartition("\n")[2]
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    else:
        if done.returncode == 0:
            return done.stdout.strip()
    raise DemoError(
        f"Caddy, which serves HTTPS, cannot be had. {why}.\nInstall it (sudo apt-get install"
        " caddy), or run the demo without HTTPS: make demo"
    )
