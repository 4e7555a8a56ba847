"""The emulated cloud as a whole, without a socket: cores per Region, moto, journal, throttle.

Owns the order of a request: one at a time, changes written to the journal before the reply, events
handed to the machines after it. ``front`` gives it HTTP; a test may use it as it is.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from ec2spawner.localcloud import motomends, motoside, motostate
from ec2spawner.localcloud.clock import Clock, system_clock
from ec2spawner.localcloud.ec2.capacity import CapacityFile
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.records import from_json
from ec2spawner.localcloud.ec2.state import Counter, Event, Timings
from ec2spawner.localcloud.faults import Trouble
from ec2spawner.localcloud.store import Store, StoreError
from ec2spawner.localcloud.throttle import Throttle

Listener = Callable[[EmulatedEC2, Event], None]


class EmulatedCloud:
    """One account in all Regions, kept in ``store`` if there is one.

    A process can hold one of these at a time, since moto's state is the process's; ``close`` makes
    room for the next.
    """

    def __init__(
        self,
        *,
        clock: Clock = system_clock,
        store: Store | None = None,
        timings: Timings | None = None,
        capacity: CapacityFile | None = None,
        throttle: bool = False,
        seed: str | None = None,
    ) -> None:
        motoside.configure()
        self.clock = clock
        self.lock = threading.RLock()
        self.timings = timings or Timings()
        self.capacity = capacity or CapacityFile(None)
        self.throttle = Throttle(clock) if throttle else None
        self.trouble = Trouble()
        self.builder_faults: list[str] = []
        self.listeners: list[Listener] = []
        self.on_new_core: Callable[[EmulatedEC2], None] = lambda core: None
        self.cores: dict[str, EmulatedEC2] = {}
        self._store = store
        self._seed = self._find_seed(seed)
        self._moto = motomends.Moto(self.cores)
        self._moto_is_loaded = False

    def _find_seed(self, seed: str | None) -> str:
        kept = self._store.blob("seed") if self._store else None
        if kept is not None:
            return kept.decode()
        seed = seed if seed is not None else uuid.uuid4().hex
        if self._store:
            self._store.save("", {}, {"seed": seed.encode()})
        return seed

    def restore(self) -> None:
        """Take over what an earlier run left in the store; StoreError if that cannot be read."""
        for scope in self._store.scopes() if self._store else ():
            if scope:
                self.core(scope)
        if self._store and self._store.blob(motostate.GRAPH):
            self.load_moto()

    def core(self, region: str) -> EmulatedEC2:
        """EC2 of one Region; made when first asked for."""
        with self.lock:
            known = self.cores.get(region)
            if known is None:
                known = self._make_core(region)
                self.cores[region] = known
                self.on_new_core(known)
            return known

    def _make_core(self, region: str) -> EmulatedEC2:
        core = EmulatedEC2(
            self.clock,
            motoside.MotoSurroundings(region),
            region=region,
            timings=self.timings,
            capacity=self.capacity,
            seed=f"{self._seed}/{region}",
        )
        core.lock = self.lock
        core.builder_faults = self.builder_faults
        core.take_changes()  # public images are made anew at every start
        rows = self._store.rows(region) if self._store else ()
        core.load(Counter(**r) if k == Counter.kind else from_json(k, r) for k, r in rows)
        return core

    def load_moto(self) -> None:
        """Import moto and put back its state; done at the first need, since it takes a second."""
        with self.lock:
            if self._moto_is_loaded:
                return
            motoside.import_moto()
            self._moto.install()
            data = self._store.blob(motostate.GRAPH) if self._store else None
            self._moto_is_loaded = True
            if data and b"moto.cloudformation" in data:
                self.load_cloudformation()
            if self._store and data:
                _load_moto_state(data, self._store)

    def load_cloudformation(self) -> None:
        """Have CloudFormation ready; its import takes two seconds more."""
        with self.lock:
            self.load_moto()
            self._moto.install_cloudformation()

    def commit(self, *, moto_changed: bool = False) -> None:
        """Write what changed, then tell the listeners what happened."""
        with self.lock:
            events: list[tuple[EmulatedEC2, Event]] = []
            blobs: Mapping[str, bytes | None] = {}
            if self._store and moto_changed:
                blobs = motostate.blobs(self._store.blob_names())
            for region, core in self.cores.items():
                changes = core.take_changes()
                if self._store and changes:
                    rows = {k: r.to_json() if r else None for k, r in changes.items()}
                    self._store.save(region, rows, blobs)
                    blobs = {}
                events += [(core, event) for event in core.take_events()]
            if self._store and blobs:
                self._store.save("", {}, blobs)
            for core, event in events:
                for listener in self.listeners:
                    listener(core, event)

    def settle(self) -> None:
        """Let everything happen whose time has come."""
        with self.lock:
            for core in list(self.cores.values()):
                core.settle()
            self.commit()

    def next_due(self) -> float | None:
        """When something will next happen by itself."""
        with self.lock:
            dues = [d for d in (c.next_due() for c in self.cores.values()) if d is not None]
            return min(dues, default=None)

    def close(self) -> None:
        """Give moto back to the process, and let go of the store."""
        with self.lock:
            if self._moto_is_loaded:
                self._moto.uninstall()
                self._moto_is_loaded = False
            if self._store:
                self._store.close()


def _load_moto_state(graph: bytes, store: Store) -> None:
    try:
        motostate.load(graph, store.blob)
    except Exception as error:  # a pickle of other versions fails in any way
        raise StoreError(
            f"the state directory was written by other versions of this program or of moto "
            f"({error}); remove it to forget it"
        ) from error


def open_store(state_dir: Path) -> Store:
    """The store of a state directory."""
    return Store(state_dir / "cloud.sqlite")
