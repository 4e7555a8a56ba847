"""How well workers are, as far as the hub saw: since when they are silent, or stopping.

Owns the observations of the running hub. A hub that is restarted begins anew: nobody is called
broken for what was not seen. Must not decide what follows, nor ask anybody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ec2spawner import replacing
from ec2spawner.listing import Listing
from ec2spawner.model import InstanceState, Worker

log = logging.getLogger(__name__)

UNSEEN_SECONDS = 120.0
"""A silence that was not looked at for so long is no longer known to be one."""
ANSWERED_SECONDS = 120.0
"""Who gave a sign of life within this time, counts as answering."""
ASK_AFTER_SECONDS = 60.0
"""A silence of this length is a reason to ask EC2 for its status checks: longer than a boot."""


@dataclass(frozen=True)
class _Silence:
    launched_at: float  # of the boot that is silent
    since: float
    looked_at: float


class Vitals:
    """What was seen of workers' answers and states. ``clock`` gives epoch seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._silences: dict[str, _Silence] = {}
        self._answered: dict[str, float] = {}
        self._stopping: dict[str, float] = {}
        self._lacked: dict[str, float] = {}  # by id: the first full listing without it
        self._reported: set[str] = set()
        self._is_epidemic = False
        self.impaired: frozenset[str] = frozenset()
        """Instances of which EC2 last said that a status check fails."""

    # ---- observations

    def note_answer(self, instance_id: str) -> None:
        """The worker gave a sign of life."""
        self._silences.pop(instance_id, None)
        self._answered[instance_id] = self._clock()

    def note_silence(self, worker: Worker) -> None:
        """The worker, as it is listed, was looked at and does not answer."""
        if worker.state is not InstanceState.RUNNING:
            return  # it need not answer yet, or no more
        now = self._clock()
        self._answered.pop(worker.instance_id, None)
        known = self._silences.get(worker.instance_id)
        is_same = known is not None and known.launched_at == worker.launched_at
        since = known.since if known and is_same and self._is_seen(known, now) else now
        self._silences[worker.instance_id] = _Silence(worker.launched_at, since, now)

    def note_listed(self, instance_id: str) -> None:
        """A listing has it."""
        self._lacked.pop(instance_id, None)

    def is_lacked(self, instance_id: str, full_at: float) -> bool:
        """Whether two full listings lacked it, of which the last began at ``full_at``."""
        return full_at > self._lacked.setdefault(instance_id, full_at)

    @staticmethod
    def _is_seen(silence: _Silence, now: float) -> bool:
        return now - silence.looked_at < UNSEEN_SECONDS

    def look(self, listing: Listing) -> None:
        """Follow the listing: who stops, since when; and who runs no more, is not silent."""
        now, workers = self._clock(), listing.workers
        stopping = {i for i, w in workers.items() if w.state is InstanceState.STOPPING}
        self._stopping = {i: self._stopping.get(i, now) for i in stopping}
        self._silences = {
            i: silence
            for i, silence in self._silences.items()
            if i in workers
            and workers[i].state is InstanceState.RUNNING
            and workers[i].launched_at == silence.launched_at
            and self._is_seen(silence, now)
        }
        self._answered = {i: at for i, at in self._answered.items() if now - at < ANSWERED_SECONDS}
        self._report_stuck(now)

    def _report_stuck(self, now: float) -> None:
        stuck = {i for i, at in self._stopping.items() if now - at >= replacing.STUCK_SECONDS}
        for instance_id in sorted(stuck - self._reported):
            log.error(
                "Stuck while it stops, for %.0f min: nothing is taken off it. Stop it by force in "
                "the console, or ask AWS for help: %s",
                replacing.STUCK_SECONDS / 60,
                instance_id,
            )
        self._reported = stuck

    # ---- what follows from them

    @property
    def stopping(self) -> Mapping[str, float]:
        """By id: since when it was seen to stop."""
        return MappingProxyType(dict(self._stopping))

    def is_silent(self, instance_id: str) -> bool:
        """Whether it did not answer when it was last looked at."""
        return instance_id in self._silences

    def silent_seconds(self, instance_id: str) -> float:
        """For how long a worker has been looked at, and has not answered."""
        silence = self._silences.get(instance_id)
        return silence.looked_at - silence.since if silence else 0.0

    def silent(self) -> Mapping[str, float]:
        """The same of all that are silent; nobody, while the fault cannot be the machines'."""
        seconds = {i: self.silent_seconds(i) for i in self._silences}
        is_epidemic = replacing.is_epidemic(*self._counts())
        if is_epidemic and not self._is_epidemic:
            log.error(
                "%d machines do not answer, more than do: the hub's way to them is broken, or their"
                " image is. None is replaced",
                len(seconds),
            )
        self._is_epidemic = is_epidemic
        return MappingProxyType({} if is_epidemic else seconds)

    def _counts(self) -> tuple[int, int]:
        """How many have been silent for longer than a boot, and how many answer."""
        silent = sum(self.silent_seconds(i) >= ASK_AFTER_SECONDS for i in self._silences)
        return silent, len(self._answered)

    def is_cut_off(self, instance_id: str) -> bool:
        """Whether somebody's server is to be given up because its machine is out of reach."""
        return replacing.is_cut_off(
            self.silent_seconds(instance_id),
            *self._counts(),
            is_impaired=instance_id in self.impaired,
        )

    @property
    def is_in_doubt(self) -> bool:
        """Whether EC2 is to be asked for its status checks."""
        silent, _ = self._counts()
        return silent > 0
