"""configurable-http-proxy, but its traffic does not count as a user's activity.

Owns what the hub is told about routes. JupyterHub takes the time of a route's last traffic for
its user's last activity; a tab that was left open polls for ever and would keep its machine
running and costing. What a user does is reported by the server itself (``ec2spawner.worker``).
Must not know spawners or the fleet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyterhub.proxy import ConfigurableHTTPProxy


class RoutesOnlyProxy(ConfigurableHTTPProxy):  # type: ignore[misc]  # untyped base
    """The default proxy without the traffic times of its routes."""

    async def get_all_routes(self) -> dict[str, Any]:
        """All routes by their specification, without ``last_activity`` in their data.

        ``JupyterHub.update_last_activity`` (6.1) skips routes without it, and still checks them.
        """
        routes = await super().get_all_routes()
        for route in routes.values():
            route["data"].pop("last_activity", None)
        return routes  # type: ignore[no-any-return]

    def _check_pid(self, pid: int) -> None:
        """Raise ProcessLookupError unless ``pid`` is a proxy of ours.

        JupyterHub ends whatever process has the number in an old pid file; after a reboot that
        may be anybody's.
        """
        super()._check_pid(pid)
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except FileNotFoundError:
            raise ProcessLookupError(pid) from None
        if self.command[-1] not in words:
            raise ProcessLookupError(pid)
