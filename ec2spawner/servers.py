"""Users' servers on their workers: started, ended and looked after, by fleet and SSH together.

Owns the way from "this owner wants a server" to "it answers". Must not know JupyterHub: the spawner
brings the document that the worker is handed, and the words.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ec2spawner import metrics
from ec2spawner.demands import Ticket
from ec2spawner.errors import EC2SpawnerError, KeepFailed, WorkerUnreachable
from ec2spawner.fleet import Fleet
from ec2spawner.listing import current_worker
from ec2spawner.model import Owner, Worker
from ec2spawner.remote import Probe, WorkerLink, answers, probe
from ec2spawner.sights import Sight
from ec2spawner.wishes import Demand

log = logging.getLogger(__name__)

SHOULD_ANSWER_SECONDS = 2.0
"""A worker that is listed as running and silent for so long is listed anew every second."""
SILENCE_SECONDS = 5.0
"""How often it is put down that a worker still does not answer."""
ASK_SERVER_SECONDS = 60.0
"""How often a server is not only connected to, but asked something: oftener while it is silent."""
RECHECK_SECONDS = 0.5
SECOND_PROBE_SECONDS = 0.1
GRACEFUL_STOP_SECONDS = 10.0
KEY_SECONDS = 5.0
KEEP_VERSION = 1

MakeDocument = Callable[[Worker], Mapping[str, Any]]
Tell = Callable[[str], None]


class Servers:
    """All users' servers of one cluster. ``open_link`` gets the cluster's key, at first use."""

    def __init__(self, fleet: Fleet, open_link: Callable[[], Awaitable[WorkerLink]]) -> None:
        self.fleet = fleet
        self._open_link = open_link
        self._link: WorkerLink | None = None
        self._opening: asyncio.Future[WorkerLink] | None = None
        self._asked_at: dict[str, float] = {}

    async def link(self) -> WorkerLink:
        """The link to the workers. Raises ``CloudError`` while the key cannot be had."""
        if self._link is None:
            # A class that starts at once asks for the key once, and learns of a failure together.
            if self._opening is None or self._opening.done():
                self._opening = asyncio.ensure_future(self._open_link())
            self._link = await asyncio.shield(self._opening)
        return self._link

    async def start(self, demand: Demand, make_document: MakeDocument, tell: Tell) -> Worker:
        """The worker on which the owner's server answers now.

        ``tell`` is called with the slug of each step on the worker. Waits as long as it takes; the
        caller has the deadline. Raises an ``EC2SpawnerError``.
        """
        begun, phases = time.monotonic(), _Phases()
        kind = start_kind(self.fleet.sight(demand.owner))
        ticket = self.fleet.want(demand)
        link = await self.link()
        while True:
            worker = await self.fleet.provided(ticket)
            phases.ends("machine")
            try:
                if await self._start_on(link, ticket, worker, make_document(worker), tell, phases):
                    self.fleet.note_served(ticket.owner, worker)
                    self.fleet.note_mounted(worker)
                    self.fleet.journal.note_start(kind, time.monotonic() - begun)
                    return worker
                if self.fleet.is_retired(worker):
                    tell("replaced")
            except WorkerUnreachable as error:
                # A first boot restarts its sshd; the worker's command can be given again.
                log.info("Lost contact, trying again: %s", error)
                await asyncio.sleep(RECHECK_SECONDS)

    async def _start_on(
        self,
        link: WorkerLink,
        ticket: Ticket,
        worker: Worker,
        document: Mapping[str, Any],
        tell: Tell,
        phases: _Phases,
    ) -> bool:
        """Whether the server answers; False if the worker was lost meanwhile."""
        connected = asyncio.Event()

        def progress(step: str) -> None:
            self.fleet.note_answer(worker)
            if step == "connected":
                connected.set()
                phases.ends("ssh")
            tell(step)

        starting = asyncio.ensure_future(link.start(worker, document, progress))
        losing = asyncio.ensure_future(self.fleet.lost(ticket, worker))
        watching = asyncio.ensure_future(self._watch_if_silent(worker, connected))
        try:
            await asyncio.wait({starting, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return False
            starting.result()
            phases.ends("server")
            return True
        finally:
            await _cancel(starting, losing, watching)
            self.fleet.watch(worker, on=False)

    async def _watch_if_silent(self, worker: Worker, connected: asyncio.Event) -> None:
        """Watch a worker until its server answers: it may fall silent at any step."""
        try:
            await asyncio.wait_for(connected.wait(), SHOULD_ANSWER_SECONDS)
        except asyncio.TimeoutError:
            self.fleet.watch(worker, on=True)
        while True:
            self.fleet.note_silence(worker)
            await asyncio.sleep(SILENCE_SECONDS)

    async def stop(self, owner: Owner, worker: Worker | None) -> None:
        """End the owner's server gracefully if it can be reached, and let the machine stop.

        Never raises: what cannot be ended goes down with its machine. Another hub's servers are
        left alone.
        """
        try:
            if worker and worker.private_ip and not self.fleet.is_anothers:
                link = await asyncio.wait_for(self.link(), KEY_SECONDS)
                await link.stop(worker, GRACEFUL_STOP_SECONDS)
        except (EC2SpawnerError, asyncio.TimeoutError) as error:
            log.warning("Not ended gracefully (%s): %s", error, owner.key)
        except Exception:
            log.exception("Not ended gracefully: %s", owner.key)
        finally:
            if worker:
                self._asked_at.pop(worker.instance_id, None)
            self.fleet.release(owner)

    async def keep(self, owner: Owner, instance_id: str, at_work_seconds: float | None) -> None:
        """Have the owner's machine count its user as at work for so long; None: no longer.

        Raises ``KeepFailed``. Where no answer came, the machine may have heard it all the same.
        """
        worker = current_worker(self.fleet.view(), owner.key)
        if self.fleet.is_anothers or worker is None or worker.instance_id != instance_id:
            raise _not_told(f"{instance_id} is not known to be the machine of {owner.key}")
        document = {
            "version": KEEP_VERSION,
            "claim": worker.claim,
            "at_work_seconds": at_work_seconds,
        }
        try:
            link = await asyncio.wait_for(self.link(), KEY_SECONDS)
            await link.keep(worker, document)
        except (EC2SpawnerError, asyncio.TimeoutError) as error:
            raise _not_told(f"{instance_id}: {error or type(error).__name__}") from error

    async def is_dead(self, owner: Owner, worker: Worker, port: int, path: str = "") -> bool:
        """Whether the owner's server is known not to run, or silent for too long; in doubt it runs.

        ``path`` is one that it answers; without any, taking connections is taken for an answer.
        """
        if self.fleet.is_gone(owner, worker.instance_id):
            return True
        met = await self._probed(worker, port, path)
        if met is Probe.SILENT:
            return self.fleet.is_cut_off(worker)
        if met is Probe.LISTENING:
            return False
        await asyncio.sleep(SECOND_PROBE_SECONDS)
        return await probe(worker.private_ip, port) is Probe.REFUSED

    async def _probed(self, worker: Worker, port: int, path: str) -> Probe:
        met = await probe(worker.private_ip, port)
        if met is Probe.LISTENING and path:
            if not self._is_to_be_asked(worker):
                return met
            if not await answers(worker.private_ip, port, path):
                met = Probe.SILENT
        if met is Probe.SILENT:
            self.fleet.note_silence(worker)
        else:
            self.fleet.note_answer(worker)
        return met

    def _is_to_be_asked(self, worker: Worker) -> bool:
        now = time.monotonic()
        asked_at = self._asked_at.get(worker.instance_id, now - ASK_SERVER_SECONDS)
        is_due = now - asked_at >= ASK_SERVER_SECONDS or self.fleet.is_silent(worker)
        if is_due:
            self._asked_at[worker.instance_id] = now
        return is_due


def _not_told(why: str) -> KeepFailed:
    return KeepFailed(
        "Your machine does not answer the hub at the moment, so nothing was changed.",
        why=why,
        next_step="Your server goes on as before. Try again in a minute.",
    )


def start_kind(sight: Sight) -> str:
    """Which estimate holds for a start from here: "launch", "start" or "running"."""
    if sight.worker is None:
        return "launch"
    return "running" if sight.stage == "running" else "start"


class _Phases:
    """Counts the seconds of each phase of one start, from the end of the phase before."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def ends(self, phase: str) -> None:
        """This phase is over."""
        now = time.monotonic()
        metrics.START_PHASE_SECONDS.labels(phase).observe(now - self._begun)
        self._begun = now


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, EC2SpawnerError):
                await task
