"""``launch-cluster users import`` and ``export``: look, plan, print, confirm, apply.

Owns the order in which a hub's users become those of a list, in batches, so that a run after a
break goes on from there. What is changed is ``userlist``'s to decide.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ec2spawner.configmodel import Frozen

from .hubapi import HubAPI, HubError
from .reporter import Reporter
from .userlist import Changes, Userlist, changes_of, is_listable, userlist_text

BATCH = 25
"""The hub does nothing else while it adds them (about 25 ms each, JupyterHub 6.1 with SQLite on a
busy core): its users are to notice nothing."""
NAMES_SHOWN = 20


class MembersOutput(Frozen):
    """Users of one group."""

    group: str
    users: tuple[str, ...]


class ImportOutput(Frozen):
    """What ``launch-cluster users import --output json`` prints."""

    hub: str
    outcome: str
    users: int
    columns: dict[str, str]
    add: tuple[str, ...]
    add_admins: tuple[str, ...]
    let_in: tuple[str, ...]
    new_groups: tuple[str, ...]
    grant: tuple[str, ...]
    join: tuple[MembersOutput, ...]
    revoke: tuple[str, ...]
    leave: tuple[MembersOutput, ...]
    remove: tuple[str, ...]
    stay: tuple[str, ...]
    keep: tuple[str, ...]
    failed: tuple[str, ...]


class PersonOutput(Frozen):
    """One user of the hub."""

    name: str
    is_admin: bool
    groups: tuple[str, ...]


class ExportOutput(Frozen):
    """What ``launch-cluster users export --output json`` prints."""

    hub: str
    users: tuple[PersonOutput, ...]


@dataclass
class ImportUsers:
    """One run. ``done`` tells what was changed so far, however the run ends."""

    api: HubAPI
    wanted: Userlist
    reporter: Reporter
    confirm: Callable[[], Awaitable[None]]
    remove: bool = False
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Bring the hub's users to the list; the result for ``--output json``."""
        self.reporter.progress(f"Looking at {self.api.address} …")
        hub = await self.api.look()
        changes = changes_of(
            self.wanted, hub.people, hub.groups, remove=self.remove, oneself=hub.oneself
        )
        self.reporter.show(self._lines(changes))
        if changes.is_empty or dry_run:
            return self._result(changes, "nothing to do" if changes.is_empty else "planned")
        await self.confirm()
        await self._apply(changes)
        self._show_end()
        return self._result(changes, "partly done" if self.failed else "done")

    async def _apply(self, changes: Changes) -> None:
        for as_admins, names in ((False, changes.add), (True, changes.add_admins)):
            for some in _batches(names):
                await self.api.add(some, as_admins=as_admins)
                self._note(f"{len(some)} {'admins' if as_admins else 'users'} added")
        for mark, names in changes.let_in:
            for some in _batches(names):
                await self.api.leave(mark, some)
                self._note(f"{len(some)} users come in without a membership")
        for name in changes.grant:
            await self.api.set_admin(name, is_admin=True)
            self._note(f"{name} is an admin")
        for group in changes.new_groups:
            await self.api.add_group(group)
            self._note(f"group {group} made")
        for group, names in changes.join:
            for some in _batches(names):
                await self.api.join(group, some)
                self._note(f"{len(some)} users joined {group}")
        for group, names in changes.leave:
            for some in _batches(names):
                await self.api.leave(group, some)
                self._note(f"{len(some)} users left {group}")
        for name in changes.revoke:
            await self.api.set_admin(name, is_admin=False)
            self._note(f"{name} is no admin any more")
        for name in changes.remove:
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        """Remove one; who cannot be removed now, a server of whom still stops, holds up nobody."""
        try:
            await self.api.remove(name)
        except HubError as error:
            if error.status != 400:
                raise
            self.failed.append(f"{name}: {error.why}")
            self.reporter.progress(f"not removed: {name} ({error.why})")
        else:
            self._note(f"{name} removed")

    def _note(self, what: str) -> None:
        self.done.append(what)
        self.reporter.progress(f"done: {what}")

    def _show_end(self) -> None:
        if self.failed:
            self.reporter.show([f"{len(self.failed)} could not be removed yet; run it again."])
        else:
            self.reporter.show(["Done."])

    def _lines(self, changes: Changes) -> list[str]:
        columns = self.wanted.columns
        read = ", ".join(f"{what} from the column {name!r}" for what, name in columns.items())
        count = len(self.wanted.people)
        named = f"{count} user{'s' if count != 1 else ''} in the list"
        lines = [f"{named} ({read})." if read else f"{named}."]
        for words, names in (
            ("add", changes.add),
            ("add as admins", changes.add_admins),
            ("let in without a membership too", _members_of(changes.let_in)),
            ("make admins", changes.grant),
            ("make groups", changes.new_groups),
        ):
            lines += _named(words, names)
        for group, names in changes.join:
            lines += _named(f"into the group {group}", names)
        for group, names in changes.leave:
            lines += _named(f"out of the group {group}", names)
        lines += _named("no admins any more", changes.revoke)
        lines += _named("remove", changes.remove)
        if changes.remove:
            lines.append(
                "  Their files are kept for DELETE_GRACE_DAYS, and as snapshots after that;"
                " launch-cluster users restore NAME brings them back."
            )
        if changes.is_empty:
            lines.append("Nothing to do.")
        lines += _named("not in the list, and left as they are", changes.stay)
        lines += _named(
            "with more rights or groups than in the list, left as they are", changes.keep
        )
        if (changes.stay or changes.keep) and not self.remove:
            lines.append("  --remove takes away what the list does not give.")
        return lines

    def _result(self, changes: Changes, outcome: str) -> dict[str, Any]:
        output = ImportOutput(
            hub=self.api.address,
            outcome=outcome,
            users=len(self.wanted.people),
            columns=dict(self.wanted.columns),
            add=changes.add,
            add_admins=changes.add_admins,
            let_in=_members_of(changes.let_in),
            new_groups=changes.new_groups,
            grant=changes.grant,
            join=_members(changes.join),
            revoke=changes.revoke,
            leave=_members(changes.leave),
            remove=changes.remove,
            stay=changes.stay,
            keep=changes.keep,
            failed=tuple(self.failed),
        )
        return output.model_dump(mode="json")


async def export_users(api: HubAPI, reporter: Reporter) -> tuple[str, dict[str, Any]]:
    """The hub's users as a list that ``import`` reads, and as a document."""
    hub = await api.look()
    everybody = sorted(hub.people.values(), key=lambda person: person.name)
    people = [person for person in everybody if is_listable(person)]
    by_membership = [person.name for person in everybody if person.marks]
    unreadable = [p.name for p in everybody if not is_listable(p) and not p.marks]
    for line in (
        *_named("note: come in by a membership alone, and are not in the list", by_membership),
        *_named("note: have a name that no list can have", [repr(n)[:60] for n in unreadable]),
    ):
        reporter.progress(line.strip())
    output = ExportOutput(
        hub=api.address,
        users=tuple(
            PersonOutput(name=p.name, is_admin=p.is_admin, groups=tuple(sorted(p.own_groups)))
            for p in people
        ),
    )
    return userlist_text(people), output.model_dump(mode="json")


def _members(groups: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[MembersOutput, ...]:
    return tuple(MembersOutput(group=group, users=names) for group, names in groups)


def _members_of(groups: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    return tuple(sorted({name for _, names in groups for name in names}))


def _named(words: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:NAMES_SHOWN])
    more = f" … and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"  {words} ({len(names)}): {shown}{more}"]


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]
