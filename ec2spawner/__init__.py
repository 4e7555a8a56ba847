"""JupyterHub with one EC2 instance per user.

Importing this package does nothing but define names; ``EC2Spawner`` is loaded when asked for, so
that the worker, which holds this package too, needs none of the hub's libraries.
"""

from typing import Any

from ec2spawner.version import __version__

__all__ = ["EC2Spawner", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "EC2Spawner":
        from ec2spawner.spawner import EC2Spawner

        return EC2Spawner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
