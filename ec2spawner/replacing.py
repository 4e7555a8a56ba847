"""Workers that go wrong: which are broken, and what becomes of them and of the homes they hold.

Pure. Owns the bounds within which a worker must answer and a stop must end, and the rules by which
a retired worker goes: stopped, by force only if nothing else helps, kept, and removed at last. Must
not decide who gets another one instead: that is the plan's.
"""

from __future__ import annotations

from collections.abc import Iterator

from ec2spawner.errors import LaunchFailed
from ec2spawner.listing import Listing, current_worker
from ec2spawner.model import InstanceState, Volume, Worker
from ec2spawner.wishes import Memory, Policy, Wishes

BOOT_BOUND_SECONDS = 300.0
"""A worker that EC2 calls running and that its waiting user cannot reach for so long is broken: a
first boot takes 40 s to its service (AWS.md), and this is seven times that."""
SHORTEST_BOOT_SECONDS = 90.0
"""The same bound where a start may not take long: twice a first boot, and never less."""
IMPAIRED_BOUND_SECONDS = 90.0
"""The same where EC2 says that a status check fails. It says so only after minutes of failing
(EC2 user guide, "Status checks", 2026), so no boot that is just slow is meant."""
CUT_OFF_SECONDS = 600.0
"""A worker on which somebody works is given up after so long a silence: a network's hiccup, or a
notebook that takes all memory, is over by then; the worker's own switch acts after 30 min."""
CUT_OFF_IMPAIRED_SECONDS = 180.0
"""The same where EC2 says that a status check fails: what was in memory is lost already."""
FRESH_SECONDS = 120.0
"""A listing older than this is no ground for calling a worker broken."""

STOP_BOUND_SECONDS = 300.0
"""A stop that lasts longer, while its user waits, will not end by itself: systemd ends what does
not end by itself after 90 s, and most instances stop within some minutes."""
FORCE_AFTER_SECONDS = 120.0
"""A retired worker that is still stopping then is stopped by force, which EC2 has for instances
that are stuck (EC2 user guide, "Methods for stopping an instance", 2026); and again, so often."""
STUCK_SECONDS = 600.0
"""What is still stopping then, needs an operator, and perhaps AWS."""

REPLACEMENTS_MAX = 2
"""Workers that may be found broken for one owner within an hour: more, and not they are at fault,
but the image or the network; another one would not come up either."""
REPLACEMENTS_SECONDS = 3600.0
EPIDEMIC_WORKERS = 5
"""When so many are silent at once, and more than answer, the hub's network is at fault."""


def boot_bound(start_timeout_seconds: float) -> float:
    """How long a worker may be silent, if its replacement is to fit into the same start."""
    half = max(SHORTEST_BOOT_SECONDS, start_timeout_seconds / 2)
    return min(BOOT_BOUND_SECONDS, half)


def is_epidemic(silent: int, answering: int) -> bool:
    """Whether so many are silent at once that no machine is to blame."""
    return silent >= EPIDEMIC_WORKERS and silent > answering


def is_cut_off(silent_seconds: float, silent: int, answering: int, *, is_impaired: bool) -> bool:
    """Whether a server that does not answer is to be given up, though its machine runs.

    ``silent``: how many servers do not answer, this one with them. If most do not, it is the hub's
    network, and they are left at work.
    """
    if silent > 1 and silent > answering:
        return False
    bound = CUT_OFF_IMPAIRED_SECONDS if is_impaired else CUT_OFF_SECONDS
    return silent_seconds >= bound


# ---- what is broken


def broken_workers(
    view: Listing, wishes: Wishes, policy: Policy, memory: Memory, now: float
) -> Iterator[tuple[Worker, str]]:
    """Owners' current workers that do not serve, each with the reason as a slug."""
    if now - view.full_at > FRESH_SECONDS:
        return
    served = {demand.instance_id for demand in wishes.wanted.values()}
    for instance_id in sorted({*memory.silent, *memory.stopping} - served):
        worker = view.workers.get(instance_id)
        if worker and worker.owner and current_worker(view, worker.owner) is worker:
            reason = _why_broken(worker, wishes, policy, memory, now)
            if reason:
                yield worker, reason


def _why_broken(
    worker: Worker, wishes: Wishes, policy: Policy, memory: Memory, now: float
) -> str | None:
    if worker.state is InstanceState.RUNNING:
        silent = memory.silent.get(worker.instance_id, 0.0)
        if worker.instance_id in memory.impaired and silent >= IMPAIRED_BOUND_SECONDS:
            return "impaired"
        return "silent" if silent >= policy.boot_bound_seconds else None
    if worker.state is InstanceState.STOPPING:
        demand = wishes.wanted.get(worker.owner or "")
        stopping = now - memory.stopping.get(worker.instance_id, now)
        if demand and demand.is_waiting and stopping >= STOP_BOUND_SECONDS:
            return "stuck"
    return None


def too_many(view: Listing, owner_key: str, now: float) -> LaunchFailed | None:
    """Why an owner gets no further worker in the place of a broken one for now."""
    lately = [
        w.instance_id
        for w in view.retired_of(owner_key)
        if w.broken and now - w.broken.at < REPLACEMENTS_SECONDS
    ]
    if len(lately) < REPLACEMENTS_MAX:
        return None
    return LaunchFailed(
        "Your machine does not answer, and neither did the ones before it.",
        why=f"broken within the last hour: {', '.join(sorted(lately))}",
        next_step="Your files are safe. Tell the people who run this hub.",
    )


# ---- what becomes of it


def is_worked_on(worker: Worker, wishes: Wishes) -> bool:
    """Whether somebody's server answers on it, retired or not."""
    return any(d.instance_id == worker.instance_id for d in wishes.wanted.values())


def holder_of(view: Listing, home: Volume) -> Worker | None:
    """The retired worker that still has a home, if one has it."""
    holder = view.workers.get(home.attached_to or "")
    return holder if holder and holder.is_retired else None


def is_to_be_forced(worker: Worker, memory: Memory, now: float) -> bool:
    """Whether the stop of a worker that nobody will use again does not end by itself.

    Of one that was just given up, or is a spare, nobody waits for the home: it has more time.
    """
    stopping = now - memory.stopping.get(worker.instance_id, now)
    if worker.is_retired:
        return stopping >= FORCE_AFTER_SECONDS
    is_nobodys = worker.owner is None or worker.deleted is not None
    return is_nobodys and stopping >= STOP_BOUND_SECONDS


def may_end(worker: Worker, policy: Policy, now: float) -> bool:
    """Whether a retired, stopped worker has been kept for inspection long enough."""
    if worker.broken:
        return now - worker.broken.at >= policy.keep_broken_seconds
    return worker.replaced is not None and worker.replaced.at <= now


def stuck(worker: Worker, memory: Memory, now: float) -> LaunchFailed | None:
    """What a waiting user is told of a machine that holds the home and does not stop."""
    since = memory.stopping.get(worker.instance_id, now)
    if worker.state is not InstanceState.STOPPING or now - since < STUCK_SECONDS:
        return None
    return LaunchFailed(
        "Your old machine does not switch itself off, and holds on to your files.",
        why=f"{worker.instance_id} has been stopping for {(now - since) / 60:.0f} min, also by "
        "force; its home was left on it",
        next_step="Nothing is lost. Tell the people who run this hub, and try again later.",
    )
