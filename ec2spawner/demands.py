"""What the hub's users want of the fleet at the moment, and what was seen of their machines.

Owns the demands by owner, the tickets of those who wait, and the memory of what was mounted and
looked at until a tag says so. Must not know the cluster's calls, nor decide anything.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType

from ec2spawner.errors import EC2SpawnerError
from ec2spawner.listing import Listing
from ec2spawner.model import InstanceState, Owner, Worker
from ec2spawner.supply import unprepared
from ec2spawner.wishes import Crowd, Demand, Policy, TagWrite, Wishes


class Ticket:
    """One wait for a worker: whose it is (a rename may change that), and why it was refused."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.refusal: EC2SpawnerError | None = None

    @property
    def key(self) -> str:
        """The owner's key as of now."""
        return self.owner.key


class Demands:
    """The demands on one fleet, by owner key."""

    def __init__(self) -> None:
        self.wanted: dict[str, Demand] = {}
        self.released: set[str] = set()
        self.tickets: dict[str, Ticket] = {}
        self.mounted: set[str] = set()
        """Homes that were mounted, until their tags say so."""
        self.prepared: set[str] = set()
        self.unfit: set[str] = set()
        self._expected: frozenset[str] = frozenset()
        self._crowds: tuple[Crowd, ...] = ()

    # ---- of one owner

    def want(self, demand: Demand) -> Ticket:
        """An owner wants a running worker; who wanted one before, keeps the place."""
        key = demand.owner.key
        known = self.wanted.get(key)
        self.wanted[key] = replace(demand, since=known.since) if known else demand
        self.released.discard(key)
        return self.tickets.setdefault(key, Ticket(demand.owner))

    def forget(self, owner: Owner) -> None:
        """The owner wants nothing any more."""
        self.wanted.pop(owner.key, None)
        self.tickets.pop(owner.key, None)

    def serve(self, owner: Owner, worker: Worker) -> None:
        """The owner's server answers on this worker: nobody waits."""
        demand = self.wanted.get(owner.key)
        if demand:
            served = replace(demand, is_waiting=False, instance_id=worker.instance_id)
            self.wanted[owner.key] = served

    def rename(self, old: Owner, new: Owner) -> None:
        """What is wanted for the owner is wanted under the new name."""
        if old.key in self.released:
            self.released.add(new.key)
        demand = self.wanted.pop(old.key, None)
        if demand:
            self.wanted[new.key] = replace(demand, owner=new)
        ticket = self.tickets.pop(old.key, None)
        if ticket:
            ticket.owner = new
            self.tickets[new.key] = ticket

    def refuse(self, owner_key: str, error: EC2SpawnerError) -> bool:
        """Whether somebody waits who is told now, and was told nothing before."""
        ticket = self.tickets.get(owner_key)
        if ticket is None or ticket.refusal:
            return False
        ticket.refusal = error
        return True

    def refuse_all(self, error: EC2SpawnerError | None) -> None:
        """Tell all who wait why they do so in vain; None: they do not."""
        for ticket in self.tickets.values():
            ticket.refusal = ticket.refusal or error

    # ---- of classes

    def expect(self, owners: Collection[Owner], crowds: tuple[Crowd, ...]) -> bool:
        """Whether it is news that these owners, and these crowds, are about to come."""
        said = (frozenset(owner.key for owner in owners), crowds)
        is_news = said != (self._expected, self._crowds)
        self._expected, self._crowds = said
        return is_news

    @property
    def is_class_near(self) -> bool:
        """Whether anybody is expected."""
        return bool(self._expected or self._crowds)

    # ---- of spares

    def unprepared(self, view: Listing, policy: Policy) -> list[Worker]:
        """Running spares of a pool that were never looked at."""
        looked_at = self.prepared | self.unfit
        return unprepared(view, policy, looked_at, is_class_near=self.is_class_near)

    # ---- all together

    def waiting_keys(self) -> list[str]:
        """Owners who wait for a worker."""
        return [k for k in self.tickets if (d := self.wanted.get(k)) and d.is_waiting]

    def wishes(self, writes: tuple[TagWrite, ...], unsettled: Collection[str]) -> Wishes:
        """All of it as the plan needs it; who is ``unsettled``, does not wait yet."""
        wanted = {
            key: replace(d, is_waiting=False) if key in unsettled else d
            for key, d in self.wanted.items()
        }
        return Wishes(
            wanted=MappingProxyType(wanted),
            released=frozenset(self.released),
            writes=writes,
            mounted=frozenset(self.mounted),
            prepared=frozenset(self.prepared),
            unfit=frozenset(self.unfit),
            expected=self._expected,
            crowds=self._crowds,
        )

    def let_go(self, view: Listing) -> None:
        """Forget what has come about."""
        going = (InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPING)
        self.released = {
            key for key in self.released if any(w.state in going for w in view.workers_of(key))
        }
        volumes, workers = view.volumes, view.workers
        self.mounted = {i for i in self.mounted if i not in volumes or not volumes[i].generation}
        self.prepared = {i for i in self.prepared if i not in workers or not workers[i].is_prepared}
        self.unfit = {i for i in self.unfit if i not in workers or workers[i].is_alive}
