"""moto's whole state as blobs, and back.

Owns what pickle alone cannot do for moto: locks, and dicts that a lambda makes. All services go
into one graph, so that what they share (a stack's VPC is EC2's VPC) stays shared. But what an
object of S3 holds, which nothing changes, is a blob of its own: megabytes, written only once.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any
from weakref import WeakKeyDictionary

GRAPH = "moto"
CONTENT = "moto/content/"
"""Before the digest of what an object of S3 holds."""

# Services whose state is nobody's data.
_NOT_KEPT = frozenset({"moto_api", "instance_metadata"})


def _default_dict_of_dicts() -> dict[Any, Any]:
    return defaultdict(dict)


def _rebuild_parameters(account_id: str, region: str) -> Any:
    from moto.ssm.models import ParameterDict

    return ParameterDict(account_id, region)


_names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class _Content:
    """Stands in the graph for the bytes that the blob of this name has."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return _content, (self.name,)


def _content(name: str) -> bytes:
    raise LookupError(f"{name} is read by _Unpickler only")


def _rebuild_key(kind: type[Any]) -> Any:
    return object.__new__(kind)


def _rebuild_versions(kind: type[Any], lists: list[tuple[str, list[Any]]]) -> Any:
    store = kind()
    for name, versions in lists:
        store.setlist(name, versions)
    return store


class _Pickler(pickle.Pickler):
    """Pickles what moto holds and pickle alone cannot, but for the contents of S3's objects."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self.contents: dict[str, Any] = {}

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if kind.__name__ == "FakeKey" and not thing.disposed:
            return self._without_content(thing)
        if kind.__name__ == "_VersionedKeyStore":  # whose items are the newest ones only
            return _rebuild_versions, (kind, list(thing.lists()))
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

    def _without_content(self, key: Any) -> tuple[Any, ...]:
        """As ``FakeKey.__getstate__`` has it, with a name for the value."""
        name = _names.get(key)
        if name is None:
            name = _names[key] = CONTENT + hashlib.sha256(key.value).hexdigest()
        self.contents[name] = key
        state = {k: v for k, v in vars(key).items() if k not in ("_value_buffer", "lock")}
        return _rebuild_key, (type(key),), {**state, "value": _Content(name)}


class _Unpickler(pickle.Unpickler):
    def __init__(self, graph: bytes, blob: Callable[[str], bytes | None]) -> None:
        super().__init__(io.BytesIO(graph))
        self._blob = blob

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _content.__name__):
            return self._read
        return super().find_class(module, name)

    def _read(self, name: str) -> bytes:
        content = self._blob(name)
        if content is None:
            raise LookupError(f"the store lacks {name}")
        return content


def blobs(kept: Collection[str]) -> dict[str, bytes | None]:
    """What a store that has the blobs ``kept`` must write, or remove (None), to have the state."""
    from moto.core.base_backend import BackendDict

    used: Any = BackendDict
    state = {
        backends.service_name: {account: dict(regions) for account, regions in backends.items()}
        for backends in used._instances
        if backends.service_name not in _NOT_KEPT
    }
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(state)
    contents = pickler.contents
    fresh = {name: key.value for name, key in contents.items() if name not in kept}
    gone = [name for name in kept if name.startswith(CONTENT) and name not in contents]
    return {GRAPH: buffer.getvalue(), **fresh, **dict.fromkeys(gone)}


def load(graph: bytes, blob: Callable[[str], bytes | None]) -> None:
    """Put back what ``blobs`` made, of which ``blob`` has the others; from our own state
    directory."""
    import moto.backends

    state = _Unpickler(graph, blob).load()
    for service, accounts in state.items():
        backends: Any = moto.backends.get_backend(service)
        for account, regions in accounts.items():
            for region, backend in regions.items():
                backends[account][region] = backend


def reset() -> None:
    """Forget all of moto's state."""
    from moto.core.base_backend import BackendDict

    BackendDict.reset()
