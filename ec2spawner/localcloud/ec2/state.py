"""The emulated EC2's memory: tables of records, ids, what is due, what changed, what happened.

Owns book-keeping only. Must not know what any action means. Whoever changes a record says so
with ``touch``; ``take_changes`` and ``take_events`` hand over what has piled up since last time.
"""

from __future__ import annotations

import hashlib
import heapq
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from ec2spawner.localcloud.clock import Clock
from ec2spawner.localcloud.ec2.capacity import CapacityFile, Occupant
from ec2spawner.localcloud.ec2.failures import not_found
from ec2spawner.localcloud.ec2.records import (
    Image,
    Instance,
    Record,
    Snapshot,
    SpotRequest,
    Token,
    Volume,
)
from ec2spawner.localcloud.ec2.surroundings import SubnetInfo, Surroundings
from ec2spawner.model import InstanceState

RESERVED_ADDRESSES = 4
"""EC2 keeps the first four addresses of a subnet and its last (VPC user guide, 2026)."""


@dataclass
class Timings:
    """How long things take and hide, in seconds; all can be changed while the cloud runs."""

    pending_seconds: float = 5.0
    stopping_seconds: float = 20.0
    shutting_down_seconds: float = 5.0
    volume_seconds: float = 1.0
    attach_seconds: float = 1.0
    snapshot_seconds: float = 5.0
    image_seconds: float = 10.0
    fresh_ids_hidden_seconds: float = 0.0
    mappings_hidden_seconds: float = 0.3
    listing_lag_seconds: float = 0.0
    terminated_shown_seconds: float = 3600.0
    spot_retry_seconds: float = 60.0  # how often EC2 looks whether a spot request can be fulfilled
    builder_seconds: float = 5.0  # from a builder's launch until it switches itself off
    status_check_seconds: float = 60.0  # from a machine's death to its status check's failing
    watchdog_seconds: float = (
        60.0  # between two looks of a machine's dead-man switch; from its boot
    )

    def change(self, values: dict[str, Any]) -> None:
        """Set some of them; ValueError names what is wrong and what is known."""
        known = [f.name for f in fields(self)]
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"unknown timing {name!r}; known: {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")
        for name, value in values.items():
            setattr(self, name, float(value))


@dataclass
class Counter(Record):
    """How many ids were ever given out, so that none is given twice."""

    kind: ClassVar[str] = "counter"
    value: int = 0


@dataclass(frozen=True)
class Event:
    """Something happened that the machines or disks behind the cloud must follow."""

    name: str
    id: str
    other: str = ""


R = TypeVar("R", bound=Record)


class State:
    """All tables, and the clock that they live by."""

    def __init__(
        self,
        clock: Clock,
        surroundings: Surroundings,
        *,
        region: str = "us-east-1",
        timings: Timings | None = None,
        capacity: CapacityFile | None = None,
        seed: str = "",
    ) -> None:
        self.clock = clock
        self.surroundings = surroundings
        self.region = region
        self.timings = timings or Timings()
        self.capacity = capacity or CapacityFile(None)
        self.seed = seed
        self.instances: dict[str, Instance] = {}
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.public_snapshots: dict[str, Snapshot] = {}  # others', which nobody lists
        self.images: dict[str, Image] = {}
        self.spot_requests: dict[str, SpotRequest] = {}
        self.tokens: dict[str, Token] = {}
        self.counters: dict[str, Counter] = {}
        self.console: Callable[[str], bytes] = lambda instance_id: b""
        self.builder_faults: list[str] = []  # of the next builders
        self.copies_files = False  # True where somebody reports when copies are done
        self._due: list[tuple[float, str, str]] = []
        self._changed: dict[tuple[str, str], Record | None] = {}
        self._events: list[Event] = []
        self._addresses: dict[str, str] = {}  # address -> instance id
        self._cursor: dict[str, int] = {}  # subnet id -> last address given

    def table(self, kind: str) -> dict[str, Any]:
        """The table that records of ``kind`` are in."""
        tables: dict[str, dict[str, Any]] = {
            "instance": self.instances,
            "volume": self.volumes,
            "snapshot": self.snapshots,
            "image": self.images,
            "spot-request": self.spot_requests,
            "token": self.tokens,
            "counter": self.counters,
        }
        return tables[kind]

    def load(self, records: Iterable[Record]) -> None:
        """Take over records of an earlier run."""
        for record in sorted(records, key=lambda r: getattr(r, "sequence", 0)):
            self.table(record.kind)[record.id] = record
            self._schedule(record)
            if isinstance(record, Instance) and record.private_ip:
                self._addresses[record.private_ip] = record.id

    def new_id(self, prefix: str) -> str:
        """An id that was never given out; the same row of ids for the same seed."""
        digest = hashlib.sha256(f"{self.seed}:{prefix}:{self.next_number()}".encode())
        return f"{prefix}-{digest.hexdigest()[:17]}"

    def next_number(self) -> int:
        """The next of a row of numbers that never repeats, over restarts too."""
        counter = self.counters.setdefault("all", Counter("all"))
        counter.value += 1
        self.touch(counter)
        return counter.value

    def add(self, record: R) -> R:
        """Put a new record into its table."""
        self.table(record.kind)[record.id] = record
        self.touch(record)
        return record

    def touch(self, record: Record) -> None:
        """Say that a record changed; it is written before the reply is sent."""
        self._changed[(record.kind, record.id)] = record
        self._schedule(record)

    def remove(self, record: Record) -> None:
        """Forget a record."""
        del self.table(record.kind)[record.id]
        self._changed[(record.kind, record.id)] = None

    def happened(self, name: str, id_: str, other: str = "") -> None:
        """Note an event for the machines and disks."""
        self._events.append(Event(name, id_, other))

    def take_changes(self) -> dict[tuple[str, str], Record | None]:
        """Records changed since the last call; None for those that are gone."""
        changed, self._changed = self._changed, {}
        return changed

    def take_events(self) -> list[Event]:
        """Events since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def _schedule(self, record: Record) -> None:
        due_at = getattr(record, "due_at", None)
        if due_at is not None:
            heapq.heappush(self._due, (due_at, record.kind, record.id))

    def next_due(self) -> float | None:
        """When something will next change by itself."""
        return self._due[0][0] if self._due else None

    def pop_due(self) -> Record | None:
        """The next record whose time has come, once for each time; None when there is none."""
        now = self.clock()
        while self._due and self._due[0][0] <= now:
            due_at, kind, id_ = heapq.heappop(self._due)
            record: Record | None = self.table(kind).get(id_)
            if record is not None and getattr(record, "due_at", None) == due_at:
                return record
        return None

    def find(self, kind: str, id_: str) -> Any:
        """The record, or EC2's NotFound."""
        record = self.table(kind).get(id_)
        if record is None:
            raise not_found([id_])
        return record

    def find_instances(self, ids: Iterable[str]) -> list[Instance]:
        """Instances by id as calls on ids see them: fresh ones may be NotFound."""
        wanted = list(dict.fromkeys(ids))
        missing = [i for i in wanted if i not in self.instances or self.is_hidden(i)]
        if missing:
            raise not_found(missing)
        return [self.instances[i] for i in wanted]

    def is_hidden(self, instance_id: str) -> bool:
        """Whether an instance is so fresh that EC2's other halves have not heard of it."""
        hidden = self.timings.fresh_ids_hidden_seconds
        return hidden > 0 and self.clock() < self.instances[instance_id].created_at + hidden

    def occupants(self) -> list[Occupant]:
        """What is running now, as capacity counts it."""
        busy = (InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPING)
        return [self.occupant(i) for i in self.instances.values() if i.state in busy]

    def occupant(self, instance: Instance) -> Occupant:
        """One instance, as capacity counts it."""
        info = self.surroundings.instance_type(instance.instance_type)
        market = "spot" if instance.is_spot else "on-demand"
        return Occupant(instance.instance_type, instance.zone, market, info.vcpus if info else 1)

    def address_owner(self, address: str) -> str | None:
        """The instance that has a private address."""
        return self._addresses.get(address)

    def free_addresses(self, subnet: SubnetInfo) -> int:
        """How many more instances the subnet has addresses for."""
        network = ipaddress.ip_network(subnet.cidr)
        used = sum(1 for i in self.instances.values() if i.subnet_id == subnet.id and i.private_ip)
        reserved = RESERVED_ADDRESSES + 1
        return max(0, network.num_addresses - reserved - used - len(subnet.used_addresses))

    def take_address(self, subnet: SubnetInfo, instance_id: str) -> str | None:
        """A free address of the subnet, in turn, so that one given back is not used at once."""
        network = ipaddress.ip_network(subnet.cidr)
        first, last = RESERVED_ADDRESSES, network.num_addresses - 2
        span = last - first + 1
        if subnet.id not in self._cursor:
            self._cursor[subnet.id] = self._highest_used(subnet, network) + 1
        start = self._cursor[subnet.id] - first
        for step in range(span):
            offset = first + (start + step) % span
            address = str(network[offset])
            if address not in self._addresses and address not in subnet.used_addresses:
                self._cursor[subnet.id] = offset + 1
                self._addresses[address] = instance_id
                return address
        return None

    def claim_address(self, address: str, instance_id: str) -> None:
        """Give a named address to an instance."""
        self._addresses[address] = instance_id

    def release_address(self, address: str) -> None:
        """Take an address back."""
        self._addresses.pop(address, None)

    def _highest_used(self, subnet: SubnetInfo, network: Any) -> int:
        base = int(network.network_address)
        used = [
            int(ipaddress.ip_address(i.private_ip)) - base
            for i in self.instances.values()
            if i.subnet_id == subnet.id and i.private_ip
        ]
        return max(used, default=RESERVED_ADDRESSES - 1)
