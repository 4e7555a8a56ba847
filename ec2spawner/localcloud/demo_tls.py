"""HTTPS for the demo: Caddy in front of it, as on a manager, with an authority of its own.

Owns where Caddy comes from, its configuration, and whether it answers. Must not know when it is
started and ended.
"""

from __future__ import annotations

import http.client
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ec2spawner.localcloud.demo_parts import DemoError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "debian_program.sh"
CONFIGURER = "ec2spawner.manager"
CONFIGURE_SECONDS = 60.0
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
        config = self.folder / "run" / "Caddyfile"
        return [find_caddy(), "run", "--adapter", "caddyfile", "--config", str(config)]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Caddy keeps nothing outside its folder."""
        home = str(self.folder)
        return {**environ, "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}

    def configure(self) -> None:
        """Have the manager's own command write Caddy's configuration."""
        ports = str(self.port), str(self.proxy_port)
        subprocess.run(  # noqa: S603 - this package's own command
            [sys.executable, "-m", CONFIGURER, "demo-caddyfile", str(self.folder), *ports],
            check=True,
            timeout=CONFIGURE_SECONDS,
        )

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
