"""One planning run: what it looks at, what it has planned so far, and what must rest for now.

Pure. Shared by the halves of the plan: owners' workers (``planning``) and the supply of new ones
(``supply``). Owns the rules by which a failure of a moment ago holds an action back, and what a
waiting user is told of it. Must not decide who gets what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ec2spawner.actions import MAX_IDS, Action, Refuse
from ec2spawner.errors import (
    CapacityError,
    CredentialsError,
    Denied,
    EC2SpawnerError,
    QuotaError,
    Rejected,
)
from ec2spawner.listing import Listing
from ec2spawner.model import InstanceState, Role, Worker
from ec2spawner.placement import offering_of, why_not
from ec2spawner.wishes import POOL_LAUNCH, Demand, Memory, Policy, Wishes

FINAL_ERRORS = (CapacityError, QuotaError, Denied, Rejected, CredentialsError)
"""Failures that a user is told at once: more of the same waiting will not mend them."""


@dataclass
class Draft:
    """Collects actions; each worker is used at most once."""

    view: Listing
    answered: Listing
    """The view without calls that EC2 has not answered yet."""
    wishes: Wishes
    policy: Policy
    memory: Memory
    now: float
    actions: list[Action] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    """Spares that are spoken for, and so no business of the reaper."""

    def __post_init__(self) -> None:
        workers = self.view.workers.values()
        unfit = self.wishes.unfit
        found = (w for w in workers if is_spare(w) and w.instance_id not in unfit)
        # One of an image of before is better than none, as long as it is there.
        self.spares = sorted(found, key=lambda w: (self.policy.is_outdated(w), *_readiness(w)))

    def free_spares(self, profile: str) -> list[Worker]:
        """A profile's spares that nobody has taken yet, the readiest first."""
        return [w for w in self.spares if w.profile == profile and w.instance_id not in self.taken]

    def stopping_spares(self, profile: str) -> list[str]:
        """Ids of a profile's spares that will soon rest."""
        return [
            w.instance_id
            for w in self.view.workers.values()
            if w.state is InstanceState.STOPPING and w.profile == profile and _is_nobodys(w)
        ]

    def has_room_to_start(self, worker: Worker) -> bool:
        """Whether a stopped worker's start did not meet a lack of room a moment ago."""
        place = offering_of(worker)
        return why_not(place, self.memory.failed, self.now, is_start=True) is None

    # ---- holds

    def on_hold(self, kind: str, resource_id: str) -> bool:
        """Whether this kind of action failed for this id a moment ago."""
        hold = self.memory.holds.get((kind, resource_id))
        return hold is not None and hold.until > self.now

    def is_image_on_hold(self) -> bool:
        """Whether no spare of the image of new workers came up lately."""
        image = self.policy.image_id
        if image:
            return self.on_hold(POOL_LAUNCH, image)
        # Which one the launch template has is not known: it may be any of those.
        kinds = self.memory.holds
        return any(self.on_hold(kind, i) for kind, i in kinds if kind == POOL_LAUNCH)

    def attempt(
        self, kind: str, resource_id: str, demand: Demand, act: Callable[[], object]
    ) -> None:
        """Act, unless the same failed a moment ago; what waiting cannot mend, the user is told."""
        hold = self.memory.holds.get((kind, resource_id))
        if hold is None or hold.until <= self.now:
            act()
        else:
            self.refuse_if_final((demand.owner.key,), hold.error)

    def refuse_if_final(self, owner_keys: Iterable[str], error: EC2SpawnerError) -> None:
        """Tell those who wait of a failure, if more of the same waiting will not mend it."""
        if isinstance(error, FINAL_ERRORS):
            self.actions += [Refuse(key, error) for key in owner_keys]


def is_spare(worker: Worker) -> bool:
    """Whether a worker is nobody's and may be given to somebody."""
    usable = (InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPED)
    return _is_nobodys(worker) and worker.state in usable


def is_bare(worker: Worker) -> bool:
    """Whether a worker has no home, as far as EC2 shows its volumes in full.

    It shows a launch's volumes only after a while, and need not show all at once.
    """
    is_up = worker.state is not InstanceState.PENDING
    return is_up and worker.home_volume_id is None and bool(worker.volumes)


def _is_nobodys(worker: Worker) -> bool:
    is_worker = worker.role == Role.WORKER.value
    is_free = worker.owner is None and worker.deleted is None and not worker.is_retired
    return is_worker and is_free


def _readiness(worker: Worker) -> tuple[int, str]:
    """A first boot takes longer than a start of what was booted once before (AWS.md)."""
    order = {
        InstanceState.RUNNING: 0 if worker.is_prepared else 1,
        InstanceState.STOPPED: 2 if worker.is_prepared else 4,
        InstanceState.PENDING: 3,
    }
    return order[worker.state], worker.instance_id


def batches(groups: Iterable[list[str]], size: int = MAX_IDS) -> list[tuple[str, ...]]:
    """The ids of each group in parts of at most ``size``."""
    return [tuple(group[i : i + size]) for group in groups for i in range(0, len(group), size)]


def by_kind(view: Listing, ids: Iterable[str]) -> list[list[str]]:
    """One group a (type, zone, market): what has no capacity fails alone."""
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for instance_id in ids:
        worker = view.workers[instance_id]
        kind = (worker.instance_type, worker.zone, worker.market)
        kinds.setdefault(kind, []).append(instance_id)
    return list(kinds.values())
