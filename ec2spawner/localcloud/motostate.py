"""moto's whole state as one pickle, and back.

Owns what pickle alone cannot do for moto: locks, and dicts that a lambda makes. All services go
into one graph, so that what they share (a stack's VPC is EC2's VPC) stays shared.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections import defaultdict
from typing import Any

# Services whose state is nobody's data.
_NOT_KEPT = frozenset({"moto_api", "instance_metadata"})


def _default_dict_of_dicts() -> dict[Any, Any]:
    return defaultdict(dict)


def _rebuild_parameters(account_id: str, region: str) -> Any:
    from moto.ssm.models import ParameterDict

    return ParameterDict(account_id, region)


class _Pickler(pickle.Pickler):
    """Pickles what moto holds and pickle alone cannot: locks, and dicts made by a lambda."""

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if kind.__name__ == "ParameterDict":
            arguments = (thing.account_id, thing.region_name)
            return _rebuild_parameters, arguments, None, None, iter(thing.items())
        if kind is defaultdict and getattr(thing.default_factory, "__name__", "") == "<lambda>":
            return defaultdict, (_default_dict_of_dicts,), None, None, iter(thing.items())
        if kind is type(threading.Lock()):
            return threading.Lock, ()
        if kind is type(threading.RLock()):
            return threading.RLock, ()
        return NotImplemented


def dump() -> bytes:
    """moto's state as one graph, so that what services share stays shared."""
    from moto.core.base_backend import BackendDict

    used: Any = BackendDict
    state = {
        backends.service_name: {account: dict(regions) for account, regions in backends.items()}
        for backends in used._instances
        if backends.service_name not in _NOT_KEPT
    }
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(state)
    return buffer.getvalue()


def load(data: bytes) -> None:
    """Put back what ``dump`` made. The data comes from our own state directory."""
    import moto.backends

    state = pickle.loads(data)  # noqa: S301 - written by this program, in the user's own folder
    for service, accounts in state.items():
        backends: Any = moto.backends.get_backend(service)
        for account, regions in accounts.items():
            for region, backend in regions.items():
                backends[account][region] = backend


def reset() -> None:
    """Forget all of moto's state."""
    from moto.core.base_backend import BackendDict

    BackendDict.reset()
