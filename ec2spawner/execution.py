"""Carries actions out: each one EC2 call for many ids, with what it is expected to change.

Owns the memory of what failed, and the last look before anything is destroyed.
Must not decide what is to be done: that is the plan's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatchmethod
from types import MappingProxyType
from typing import Protocol, TypeVar

from ec2spawner import metrics
from ec2spawner.actions import (
    Action,
    CancelSpot,
    ChangeType,
    Claim,
    HomeAction,
    Launch,
    MoveStep,
    Start,
    Stop,
    Tag,
    Terminate,
)
from ec2spawner.calls import Calls, same_tags
from ec2spawner.ec2 import LaunchRequest
from ec2spawner.errors import (
    CapacityError,
    CloudError,
    CredentialsError,
    NotFound,
    OutcomeUnknown,
    QuotaError,
    Rejected,
    Throttled,
    Unreachable,
    WrongState,
)
from ec2spawner.failures import Failures, no_more, subjects_of, unforeseen
from ec2spawner.homes import Homes, Volumes, may_go, somebodys
from ec2spawner.inventory import Lister
from ec2spawner.line import Line
from ec2spawner.listing import Expectation, Launching, Listing
from ec2spawner.metquotas import MetQuotas, Quotas
from ec2spawner.model import (
    TAG_BROKEN,
    TAG_CLAIM,
    TAG_DELETED,
    TAG_OWNER,
    TAG_REPLACED,
    TAG_USER,
    InstanceState,
    Worker,
)
from ec2spawner.mover import Mover
from ec2spawner.placement import offering_of
from ec2spawner.reaping import is_wanted
from ec2spawner.replacing import FORCE_AFTER_SECONDS
from ec2spawner.throttle import ON_WAIT
from ec2spawner.wishes import Wishes

log = logging.getLogger(__name__)

MAX_HALVINGS = 3
"""How often a batch that EC2 has no room for is halved: at most 15 calls, however large it is."""
REPEAT_SECONDS = 5.0
UNLISTED_SECONDS = 60.0
"""What was tagged and is listed only because of it, is expected in a listing by then."""
CANCELLED_SECONDS = 900.0
"""A spot request that was cancelled is off the rare listing of them by then."""
RETIRED = frozenset({TAG_BROKEN, TAG_REPLACED})
"""Tags with which a worker, or a home, is no longer its owner's."""

R = TypeVar("R")


class Cloud(Lister, Quotas, Volumes, Protocol):
    """What the fleet needs of EC2; ``ec2.EC2`` is the real one."""

    async def launch(self, request: LaunchRequest, token: str) -> list[Worker]:
        """Launch workers for nobody."""

    async def start(self, ids: Sequence[str]) -> None:
        """Start instances, all or none."""

    async def set_type(self, instance_id: str, instance_type: str) -> None:
        """Make a stopped instance one of another type."""

    async def stop(self, ids: Sequence[str], *, force: bool = False) -> None:
        """Stop instances, all or none; by force what does not stop by itself."""

    async def terminate(self, ids: Sequence[str], spot_requests: Sequence[str] = ()) -> None:
        """Terminate instances, all or none, and with them their spot requests."""

    async def cancel_spot(self, request_ids: Sequence[str]) -> None:
        """Cancel spot requests."""

    async def statuses(self) -> dict[str, float | None]:
        """Instances with a failing status check."""


@dataclass(frozen=True)
class LaunchSettings:
    """What is the same in every launch of a cluster."""

    launch_template_id: str
    cost_tags: Mapping[str, str]
    root_device: str = "/dev/sda1"
    root_gib: int = 12


class Executor:
    """Carries out one action at a time or many at once; never raises a ``CloudError``."""

    def __init__(
        self,
        cloud: Cloud,
        settings: LaunchSettings,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wishes: Callable[[], Wishes],
        listing: Callable[[], Listing],
        view: Callable[[], Listing],
        look_again: Callable[[], None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._cloud = cloud
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._wishes = wishes
        self._listing = listing
        self._view = view
        self._look_again = look_again
        self.calls = Calls(clock, listing, on_change)
        self.failures = Failures(clock)
        self._launched_here: set[str] = set()
        self.quotas = MetQuotas(cloud, view)
        self.line = Line()
        self._homes = Homes(cloud, self.calls, clock=clock, view=view, look_again=look_again)
        self._mover = Mover(
            cloud,
            self.calls,
            settings.cost_tags,
            clock=clock,
            until_answered=self._until_answered,
            look_again=look_again,
        )

    # ---- carrying out

    async def execute(self, action: Action) -> None:
        """Carry one action out; what fails is remembered and shows in the next plan."""
        kind = type(action).__name__
        owners = self._waiting_for(action)
        held_back = ON_WAIT.set(lambda s: self.line.enter(owners, self._clock() + s))
        try:
            await self._do(action)
        except CloudError as error:
            metrics.ACTIONS.labels(kind, error.code).inc()
            self._note_failure(action, error)
        except Exception as error:
            # A defect of ours, or an answer that nobody foresaw: the others' workers go on.
            log.exception("%s failed in a way that is not foreseen", kind)
            metrics.ACTIONS.labels(kind, "internal").inc()
            self._note_failure(action, unforeseen(action, error))
        else:
            metrics.ACTIONS.labels(kind, "ok").inc()
        finally:
            ON_WAIT.reset(held_back)
            self.line.leave(owners)

    def _waiting_for(self, action: Action) -> tuple[str, ...]:
        """Keys of the owners who wait for an action."""
        if isinstance(action, Claim):
            return (action.owner.key,)
        if isinstance(action, Launch):
            return action.for_owners
        if isinstance(action, Start):
            workers = self._view().workers
            return tuple(w.owner for i in action.ids if (w := workers.get(i)) and w.owner)
        return ()

    @singledispatchmethod
    async def _do(self, action: Action) -> None:
        raise NotImplementedError(type(action).__name__)

    @_do.register
    async def _launch(self, action: Launch) -> None:
        request = LaunchRequest(
            launch_template_id=self._settings.launch_template_id,
            instance_type=action.offering.instance_type,
            subnet_id=action.offering.subnet_id,
            count=action.count,
            profile=action.profile,
            home_gib=action.home_gib,
            market=action.offering.market.value,
            cost_tags=self._settings.cost_tags,
            root_device=self._settings.root_device,
            root_gib=self._settings.root_gib,
            image_id=action.image_id,
        )
        on_its_way = Launching(
            action.profile, bool(action.home_gib), action.offering.zone, action.count
        )
        with self.calls.begun(Expectation(self._clock(), launching=on_its_way)) as call:
            token = secrets.token_hex(16)
            workers = await self._until_answered(lambda: self._cloud.launch(request, token))
            ids = [w.instance_id for w in workers]
            self._launched_here.update(ids)
            self.failures.launched(action.offering, ids)
            if len(ids) < action.count:  # the others need not ask here again
                self.failures.leave_out(action.offering, no_more(len(ids), action.count))
            launched = MappingProxyType({w.instance_id: w for w in workers})
            call.expected = replace(call.expected, launching=None, launched=launched)
        log.info(
            "Launched %d of %d workers, %s (%s): %s",
            len(workers),
            action.count,
            action.offering.instance_type,
            action.reason,
            ",".join(ids),
        )

    async def _until_answered(self, call: Callable[[], Awaitable[R]]) -> R:
        """Make a call that can safely be repeated again and again until AWS says what became of it.

        A launch goes out with the same token, a claim with the same tags; meanwhile both count as
        under way, so that nothing is planned anew and nobody is served on a maybe. Once it may
        have taken effect, only an answer to the call itself ends this.
        """
        maybe_done = False
        while True:
            try:
                return await call()
            except (OutcomeUnknown, Unreachable, Throttled, CredentialsError) as error:
                maybe_done = maybe_done or isinstance(error, OutcomeUnknown)
                if not maybe_done:
                    raise
                log.warning("A call was not answered, asking again: %s", error)
                await self._sleep(REPEAT_SECONDS)

    @_do.register
    async def _claim(self, action: Claim) -> None:
        known = self._listing().workers.get(action.instance_id)
        ids = tuple(i for i in (action.instance_id, action.volume_id) if i)
        tags = {
            TAG_OWNER: action.owner.key,
            TAG_USER: action.owner.label,
            TAG_CLAIM: (known.claim if known else None) or secrets.token_hex(8),
        }
        with self.calls.begun(Expectation(self._clock(), tags=same_tags(ids, tags))) as call:
            # Only the first claim after the launch may spare the look at the tags: a listing
            # can show a worker without its owner again, much later.
            is_fresh = action.instance_id in self._launched_here
            self._launched_here.discard(action.instance_id)
            if not is_fresh:
                tags[TAG_CLAIM] = await self._claim_of(ids, action.owner.key) or tags[TAG_CLAIM]
            await self._until_answered(lambda: self._cloud.tag(ids, tags))
            call.expected = replace(call.expected, tags=same_tags(ids, tags))
        metrics.CLAIMS.inc()
        log.info("Claimed for %s (%s): %s", action.owner.key, action.reason, ",".join(ids))

    async def _claim_of(self, ids: Sequence[str], owner_key: str) -> str | None:
        """The claim that stands already, if it is the owner's own; any other is refused.

        A listing can lack tags that stand: ask for the tags themselves.
        """
        tags_by_id = await self._cloud.tags_of(ids)
        for resource_id, tags in tags_by_id.items():
            if tags.get(TAG_OWNER, owner_key) != owner_key or TAG_DELETED in tags:
                self._look_again()
                raise WrongState(
                    "The worker that was chosen has an owner already.",
                    why=f"tag {TAG_OWNER} or {TAG_DELETED} of {resource_id}",
                    action="CreateTags",
                )
        return tags_by_id[ids[0]].get(TAG_CLAIM)

    @_do.register
    async def _tag(self, action: Tag) -> None:
        with self.calls.begun(
            Expectation(self._clock(), tags=same_tags(action.ids, action.changes))
        ):
            if self._must_be_known(action.changes):
                await self._until_answered(lambda: self._write(action))
            else:
                await self._write(action)
            self._note_retired(action)
            self._rest_unlisted(action.ids)
        log.info("Tagged (%s): %s", action.reason, ",".join(action.ids))

    @staticmethod
    def _must_be_known(changes: Mapping[str, str | None]) -> bool:
        """Whether nothing may go on before it is known that these tags stand.

        Another takes the place of what is retired; what is taken back from deletion is served.
        """
        return not RETIRED.isdisjoint(changes) or changes.get(TAG_DELETED, "") is None

    def _rest_unlisted(self, ids: Sequence[str]) -> None:
        """What no listing shows, shows no tags either until the next one."""
        view = self._view()
        unlisted = [i for i in ids if i not in view.workers and i not in view.volumes]
        if unlisted:
            self.failures.rest("tag", unlisted, UNLISTED_SECONDS)
            self._look_again()

    @staticmethod
    def _note_retired(action: Tag) -> None:
        if TAG_BROKEN in action.changes:
            metrics.BROKEN_WORKERS.inc(len(action.ids))
            log.warning("Broken, kept for inspection (%s): %s", action.reason, ",".join(action.ids))

    async def _write(self, action: Tag) -> None:
        to_set = {k: v for k, v in action.changes.items() if v is not None}
        to_remove = [k for k, v in action.changes.items() if v is None]
        if to_set:
            await self._cloud.tag(action.ids, to_set)
        if to_remove:
            await self._cloud.untag(action.ids, to_remove)

    @_do.register
    async def _start(self, action: Start) -> None:
        workers = self._view().workers  # a mark may have come to stand since this was planned
        sound = tuple(i for i in action.ids if i not in workers or not workers[i].is_retired)
        ids = self.failures.without_come_downs(sound)
        if ids:
            await self._change_state(
                ids, "start", self._cloud.start, InstanceState.STOPPED, InstanceState.PENDING
            )

    @_do.register
    async def _change_type(self, action: ChangeType) -> None:
        types = MappingProxyType({action.instance_id: action.instance_type})
        with self.calls.begun(Expectation(self._clock(), types=types)):
            await self._until_answered(
                lambda: self._cloud.set_type(action.instance_id, action.instance_type)
            )
        log.info("Now of type %s (%s): %s", action.instance_type, action.reason, action.instance_id)

    @_do.register
    async def _stop(self, action: Stop) -> None:
        # Somebody may have come back since this was planned.
        wishes, workers = self._wishes(), self._view().workers
        ids = tuple(
            i
            for i in action.ids
            if action.although_wanted or (i in workers and not is_wanted(workers[i], wishes))
        )
        if ids and action.is_forced:
            await self._force(ids)
        elif ids:
            self.failures.ended(ids)
            await self._change_state(
                ids, "stop", self._cloud.stop, InstanceState.RUNNING, InstanceState.STOPPING
            )

    async def _force(self, ids: tuple[str, ...]) -> None:
        """Stop by force what has been stopping for too long; not again before its time."""
        self.failures.rest("force", ids, FORCE_AFTER_SECONDS)
        log.warning("Stopping by force: %s", ",".join(ids))
        await self._cloud.stop(ids, force=True)

    @_do.register
    async def _terminate(self, action: Terminate) -> None:
        before, after = InstanceState.STOPPED, InstanceState.SHUTTING_DOWN
        with self.calls.changing(action.ids, before, after):
            requests = await self._requests_of(action.ids)
            tags = await self._cloud.tags_of(action.ids)
            # A deletion may have been taken back since this was planned, and the tags be older.
            ids = tuple(
                i
                for i in action.ids
                if may_go(tags[i], self._cloud.cluster) and not self._is_owned(i)
            )
            for kept in sorted(set(action.ids) - set(ids)):
                self._look_again()
                error = somebodys(kept, "TerminateInstances")
                self.failures.hold("terminate", [kept], error)
            if ids:
                self.failures.ended(ids)
                await self._change_state(
                    ids,
                    "terminate",
                    lambda some: self._cloud.terminate(
                        some, [requests[i] for i in some if i in requests]
                    ),
                    before,
                    after,
                )

    async def _requests_of(self, ids: Sequence[str]) -> Mapping[str, str]:
        """By instance: the spot request that goes with it, or EC2 would launch another for it.

        A request for which it has done so already is left: it alone leads to that other one.
        """
        workers = self._view().workers
        requests = {i: workers[i].spot_request_id for i in ids if i in workers}
        requests = {i: request for i, request in requests.items() if request}
        if not requests:
            return {}
        found = await self._cloud.list_spot_requests()
        now = {r.request_id: r.instance_id for r in found}
        return {i: r for i, r in requests.items() if now.get(r, i) in (None, i)}

    def _is_owned(self, instance_id: str) -> bool:
        """Whether it is to be somebody's again, by what this hub itself has written."""
        worker = self._view().workers.get(instance_id)
        if worker is None or worker.deleted or worker.is_retired:
            return False
        return worker.owner is not None

    async def _change_state(
        self,
        ids: tuple[str, ...],
        verb: str,
        call: Callable[[Sequence[str]], Awaitable[None]],
        before: InstanceState,
        after: InstanceState,
        halvings: int = MAX_HALVINGS,
    ) -> None:
        """One call for all; if one member spoils it, both halves are tried apart.

        What there is no room for is halved a few times only: no member spoils that, and part of
        the batch may still find room.
        """
        change = (frozenset({before}), after)
        states = MappingProxyType(dict.fromkeys(ids, change))
        try:
            with self.calls.begun(Expectation(self._clock(), states=states)):
                await call(ids)
        except (NotFound, WrongState, CapacityError, QuotaError, Rejected) as error:
            self._look_again()
            no_room = isinstance(error, (CapacityError, QuotaError))
            if len(ids) == 1 or (no_room and halvings == 0):
                self._note_unchanged(verb, ids, error)
                return
            log.warning("Cannot %s %d workers at once, trying halves: %s", verb, len(ids), error)
            middle = len(ids) // 2
            with self.calls.changing(ids, before, after):  # no half is planned anew meanwhile
                for half in (ids[:middle], ids[middle:]):
                    await self._change_state(half, verb, call, before, after, halvings - 1)
        else:
            if verb == "start":
                self.failures.started(ids)
            elif verb == "terminate":
                metrics.REAPED.labels("worker").inc(len(ids))
            log.info("Sent %s to %d workers: %s", verb, len(ids), ",".join(ids))

    def _note_unchanged(self, verb: str, ids: tuple[str, ...], error: CloudError) -> None:
        """What has no room is remembered by where it is, so that it is tried as another type."""
        workers = self._view().workers
        places = {offering_of(workers[i]) for i in ids if i in workers}
        if verb == "start" and isinstance(error, (CapacityError, QuotaError)) and places:
            for place in places:
                self.quotas.note(place, error)
                self.failures.leave_out(place, error, is_start=True)
        else:
            self.failures.hold(verb, ids, error)

    @_do.register
    async def _cancel_spot(self, action: CancelSpot) -> None:
        """After a last look: EC2 may have launched something for them in between."""
        found = {r.request_id: r for r in await self._cloud.list_spot_requests()}
        known = self._listing().spot_requests
        same = [i for i in action.request_ids if i in found and found[i] == known.get(i)]
        if same:
            await self._cloud.cancel_spot(same)
            log.info("Cancelled (%s): %s", action.reason, ",".join(same))
        self.failures.rest("cancel", action.request_ids, CANCELLED_SECONDS)

    @_do.register
    async def _move(self, action: MoveStep) -> None:
        await self._mover.carry_out(action)

    @_do.register
    async def _with_home(self, action: HomeAction) -> None:
        await self._homes.carry_out(action)

    # ---- failures

    def _note_failure(self, action: Action, error: CloudError) -> None:
        if isinstance(action, Launch):
            self.quotas.note(action.offering, error)
            self.failures.note_launch(action.offering, action.profile, error)
            return
        if isinstance(error, (NotFound, WrongState, OutcomeUnknown)):
            self._look_again()
        kind, ids = subjects_of(action)
        self.failures.hold(kind, ids, error)
