"""``ec2spawner-worker watchdog``: one look of the dead-man switch, made every minute by a timer.

Owns the looking and the order of it; ``deadman`` decides. Must not know systemd or the emulated
cloud. A look that is killed, or that fails, has changed nothing; the next one makes it good.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ec2spawner.worker import activity_file, deadman, hub_probe, records
from ec2spawner.worker.clock import boot_seconds
from ec2spawner.worker.deadman import Seen, Terms, Watch
from ec2spawner.worker.host import Boot, Host
from ec2spawner.worker.protocol import Events, Fault

COMMAND_MAX_SECONDS = 7200.0
"""Longer than any command of a hub takes: its time-out, and a file system to mend before that."""


@dataclass(frozen=True)
class Senses:
    """Time, network and the server's file, for tests to replace."""

    now: Callable[[], float] = boot_seconds
    reaches: Callable[[str], bool] = hub_probe.reaches
    worked_at: Callable[[Path, int], float | None] = activity_file.read


def look_once(host: Host, events: Events, senses: Senses | None = None) -> None:
    """Look, remember, and power the machine off if it is time. Says only what has changed."""
    senses = senses or Senses()
    host.prepare()
    boot = host.boot()
    before = records.read_watch(host.runtime_directory, boot.boot_id)
    seen = _see(host, boot, records.read_terms(host.state_directory), senses)
    now = senses.now()  # after all moments that others wrote
    watch = deadman.look(before, seen, now)
    records.write_watch(host.runtime_directory, boot.boot_id, watch)
    _tell_change(events, before, watch, seen)
    if deadman.reason_to_power_off(watch, seen, now):
        _power_off(host, boot, watch, seen, events, senses)


def _see(host: Host, boot: Boot, terms: Terms | None, senses: Senses) -> Seen:
    is_reached = terms is not None and senses.reaches(terms.hub_url)
    username = _claimed_by(host)
    is_serving = bool(username and host.server_status(username).active)
    return Seen(
        terms=terms,
        is_claimed=username is not None,
        booted_at=boot.began_at,
        commanded_at=records.read_contact(host.runtime_directory, boot.boot_id),
        is_hub_reached=is_reached,
        is_serving=is_serving,
        worked_at=senses.worked_at(*host.activity_file(username))
        if username and is_serving
        else None,
    )


def _claimed_by(host: Host) -> str | None:
    """The user whose server may run here; "" where the record of a claim cannot be read."""
    try:
        claim = records.read_claim(host.state_directory)
    except Fault:
        return ""
    return claim.username if claim else None


def _power_off(
    host: Host, boot: Boot, watch: Watch, seen: Seen, events: Events, senses: Senses
) -> None:
    """Ask once more with the lock held, so that no command of a hub is between."""
    with _lock(host, boot, senses) as is_free:
        commanded_at = records.read_contact(host.runtime_directory, boot.boot_id)
        seen, now = replace(seen, commanded_at=commanded_at), senses.now()
        reason = deadman.reason_to_power_off(watch, seen, now)
        if reason is None or not is_free:
            return
        idle = deadman.idle_seconds(watch, seen, now)
        events.write(event="power-off", reason=reason.value, idle_seconds=round(idle))
        host.power_off()


@contextlib.contextmanager
def _lock(host: Host, boot: Boot, senses: Senses) -> Iterator[bool]:
    """Whether no command is at work; one that takes longer than any may is not waited for."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(records.locked(host.runtime_directory, 0.0))
            is_free = True
        except Fault:
            begun = records.read_contact(host.runtime_directory, boot.boot_id)
            is_free = begun is None or senses.now() - begun > COMMAND_MAX_SECONDS
        yield is_free


def _tell_change(events: Events, before: Watch | None, watch: Watch, seen: Seen) -> None:
    if before is not None and before.is_hub_reached == watch.is_hub_reached:
        return
    away = "away" if seen.terms else "unknown"
    events.write(event="watch", hub="reached" if watch.is_hub_reached else away)
