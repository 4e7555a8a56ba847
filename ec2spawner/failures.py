"""What failed lately, and so is not tried again at once: the executor's memory.

Owns how long each kind of failure is remembered and under which name, and what a machine that
comes down by itself right after its launch or start means. Must not know EC2's calls, nor plan.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ec2spawner.actions import (
    Action,
    Attach,
    CancelSpot,
    ChangeType,
    Claim,
    DeleteSnapshot,
    DeleteVolume,
    Detach,
    MakeSnapshot,
    MoveStep,
    Start,
    Stop,
    Tag,
    Terminate,
)
from ec2spawner.errors import (
    CapacityError,
    CloudError,
    NotFound,
    OutcomeUnknown,
    QuotaError,
    Rejected,
    SubnetFull,
    Throttled,
    Unreachable,
    WrongState,
)
from ec2spawner.listing import Listing
from ec2spawner.model import InstanceState, Worker
from ec2spawner.placement import FAILED_OFFERING_SECONDS, Failure, Offering, Scope, scope_of
from ec2spawner.wishes import POOL_LAUNCH, Memory

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Pause after a failure that passes by itself (the gateway has tried for a minute before)."""
FINAL_SECONDS = 15.0
"""Pause after a failure that only an operator or time can mend; until then it is answered from
memory instead of being asked of AWS again for each user."""
YOUNG_SECONDS = 300.0
"""A machine that comes down by itself so soon after it was launched or started, never came up."""
MAX_COME_DOWNS = 2
"""Starts in a row that may end with the machine coming down by itself, before its user is told."""
MAX_UNFIT = 3
"""Spares of one image that turn out unfit within ``UNFIT_SECONDS``, and none fit: then no more of
it are launched for the pool."""
UNFIT_SECONDS = 3600.0
IMAGE_HOLD_SECONDS = 3600.0
"""How long the pool then does without: each spare of a broken image runs for ten minutes."""

PASSING = (Throttled, Unreachable, OutcomeUnknown, NotFound, WrongState)
NO_ROOM = (CapacityError, QuotaError)


class Failures:
    """Remembers failures until their time is over. ``clock`` gives epoch seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._places: dict[Scope, Failure] = {}
        self._holds: dict[tuple[str, str], Failure] = {}
        self._launches: dict[str, tuple[Offering, float]] = {}
        self._starts: dict[str, list[float]] = {}
        self._unfit: dict[str, tuple[float, ...]] = {}
        """By image: when its spares turned out unfit, since the last that was not."""

    def memory(self, unwanted: Mapping[str, tuple[float, float]] = MappingProxyType({})) -> Memory:
        """All that is still remembered, for the plan."""
        now = self._clock()
        self._places = {k: f for k, f in self._places.items() if f.until > now}
        self._holds = {k: f for k, f in self._holds.items() if f.until > now}
        return Memory(
            failed=MappingProxyType(dict(self._places)),
            holds=MappingProxyType(dict(self._holds)),
            unwanted=unwanted,
        )

    def next_retry_at(self) -> float | None:
        """When the first thing that failed may be tried again."""
        return min((f.until for f in self._holds.values()), default=None)

    # ---- failed calls

    def hold(self, kind: str, ids: Sequence[str], error: CloudError) -> None:
        """Let this kind of action rest for these ids."""
        passes = isinstance(error, PASSING)
        seconds = RETRY_SECONDS if passes else FINAL_SECONDS
        report = log.warning if passes else log.error
        report("Cannot %s, again in %.0f s: %s: %s", kind, seconds, error, ",".join(ids))
        until = self._clock() + seconds
        self._holds.update({(kind, i): Failure(error, until) for i in ids})

    def rest(self, kind: str, ids: Sequence[str], seconds: float) -> None:
        """This kind of action was done for these ids, and is not to be repeated before its time."""
        done = WrongState("Done a moment ago.")
        self._holds.update({(kind, i): Failure(done, self._clock() + seconds) for i in ids})

    def note_launch(self, offering: Offering, profile: str, error: CloudError) -> None:
        """Remember a launch that failed: the offering if it has no room, else the profile."""
        if isinstance(error, NotFound):  # the image, group or key: it will not come by waiting
            error = Rejected(
                error.what, why=error.why, action=error.action, aws_code=error.aws_code
            )
        if isinstance(error, NO_ROOM):
            self.leave_out(offering, error)
        else:
            self.hold("launch", [profile], error)

    def leave_out(self, offering: Offering, error: CloudError, *, is_start: bool = False) -> None:
        """Remember that there is no room: for the type in its zone, in the subnet, or at all."""
        scope = scope_of(offering, error, is_start=is_start)
        self._places[scope] = Failure(error, self._clock() + FAILED_OFFERING_SECONDS)
        report = log.error if isinstance(error, SubnetFull) else log.warning
        report("Not tried again for 3 min: %s: %s", " ".join(scope), error)

    # ---- machines that come down by themselves

    def launched(self, offering: Offering, ids: Sequence[str]) -> None:
        """These were launched by us, and are to come up."""
        now = self._clock()
        self._launches = {
            i: (offering_, at)
            for i, (offering_, at) in self._launches.items()
            if now - at < YOUNG_SECONDS
        }
        self._launches.update(dict.fromkeys(ids, (offering, now)))

    def started(self, ids: Sequence[str]) -> None:
        """These were started by us, and are to come up."""
        now = self._clock()
        for instance_id in ids:
            times = [t for t in self._starts.get(instance_id, ()) if now - t < YOUNG_SECONDS]
            self._starts[instance_id] = [*times, now]

    def ended(self, ids: Sequence[str]) -> None:
        """These come down because we want it, or have served: nothing is wrong with them."""
        for instance_id in ids:
            self._launches.pop(instance_id, None)
            self._starts.pop(instance_id, None)

    def look(self, listing: Listing) -> None:
        """Find the launched that ended by themselves: their offering does not work now."""
        for instance_id, (offering, _) in list(self._launches.items()):
            worker = listing.workers.get(instance_id)
            if worker and worker.state in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED):
                del self._launches[instance_id]
                self.leave_out(offering, why_it_ended(worker))

    def without_come_downs(self, ids: Sequence[str]) -> tuple[str, ...]:
        """The ids that may be started; the others came down again and again, and rest."""
        now = self._clock()
        down = [
            i
            for i in ids
            if sum(now - t < YOUNG_SECONDS for t in self._starts.get(i, ())) >= MAX_COME_DOWNS
        ]
        if down:
            self.hold("start", down, came_down())
            self.ended(down)
        return tuple(i for i in ids if i not in down)

    # ---- images that make nothing fit

    def note_unfit(self, spare: Worker) -> None:
        """A spare did not come up; several of one image mean that the image is to blame."""
        image, now = spare.image_id, self._clock()
        self._unfit[image] = lately_unfit((*self._unfit.get(image, ()), now), now)
        hold = self._holds.get((POOL_LAUNCH, image))
        if len(self._unfit[image]) < MAX_UNFIT or (hold and hold.until > now):
            return
        error = broken_image(image)
        log.error("%s", error)
        self._holds[POOL_LAUNCH, image] = Failure(error, now + IMAGE_HOLD_SECONDS)

    def note_fit(self, worker: Worker) -> None:
        """A worker came up and was as it should be: its image is not to blame for others."""
        self.ended([worker.instance_id])
        self._unfit.pop(worker.image_id, None)
        self._holds.pop((POOL_LAUNCH, worker.image_id), None)


def lately_unfit(times: Sequence[float], now: float) -> tuple[float, ...]:
    """Those of the moments that still count."""
    return tuple(at for at in times if now - at < UNFIT_SECONDS)


def broken_image(image_id: str) -> CloudError:
    """Machines of this image do not come up."""
    return Rejected(
        f"No spare machines are launched from the image {image_id or 'of the launch template'} "
        f"for {IMAGE_HOLD_SECONDS / 60:.0f} min.",
        why=f"{MAX_UNFIT} of them within {UNFIT_SECONDS / 60:.0f} min did not come up",
        next_step="Look at the console of one of them. Build the image anew (launch-cluster image "
        "build); users' own machines are launched from it meanwhile, as ever.",
        action="RunInstances",
    )


def why_it_ended(worker: Worker) -> CloudError:
    """What EC2's state reason says of a launch that ended by itself."""
    reason = worker.state_reason
    kind: type[CloudError] = Rejected
    if "LimitExceeded" in reason:
        kind = QuotaError
    elif "Capacity" in reason:
        kind = CapacityError
    return kind(
        "The machine that was launched for you ended by itself.",
        why=f"{worker.instance_id}: {reason or 'EC2 gives no reason'}",
        next_step="Try again in a few minutes; if it happens twice, tell the people who run this "
        "hub.",
        action="RunInstances",
        aws_code=reason,
    )


def came_down() -> CloudError:
    """A machine that was started several times and did not stay up."""
    return Rejected(
        "Your machine switches itself off while it is starting.",
        why=f"started {MAX_COME_DOWNS} times within {YOUNG_SECONDS:.0f} s, and stopped again by "
        "itself each time",
        next_step="Your files are safe. Tell the people who run this hub.",
        action="StartInstances",
    )


def subjects_of(action: Action) -> tuple[str, tuple[str, ...]]:
    """What a failed action is remembered by."""
    if isinstance(action, Claim):
        return "claim", (action.instance_id,)
    if isinstance(action, (Attach, Detach)):
        return type(action).__name__.lower(), (action.volume_id,)
    if isinstance(action, CancelSpot):
        return "cancel", action.request_ids
    if isinstance(action, Stop) and action.is_forced:
        return "force", action.ids
    if isinstance(action, ChangeType):
        return "change-type", (action.instance_id,)
    if isinstance(action, (Tag, Start, Stop, Terminate)):
        return type(action).__name__.lower(), action.ids
    if isinstance(action, (MakeSnapshot, DeleteVolume)):
        return "retire", (action.volume_id,)
    if isinstance(action, DeleteSnapshot):
        return "retire", (action.snapshot_id,)
    if isinstance(action, MoveStep):
        return "move", (action.subject,)
    return type(action).__name__.lower(), ()


def no_more(launched: int, asked: int) -> CapacityError:
    """That a launch brought fewer machines than were asked for."""
    return CapacityError(
        "AWS launched fewer machines than were asked for.",
        why=f"{launched} of {asked}",
        next_step="The others are tried elsewhere.",
        action="RunInstances",
    )


def unforeseen(action: Action, error: Exception) -> Rejected:
    """A defect of ours, or an answer that nobody foresaw, as an error like any other."""
    return Rejected(
        "The hub met a fault of its own.",
        why=f"{type(action).__name__}: {type(error).__name__}",
        next_step="See the traceback in the hub's log.",
    )
