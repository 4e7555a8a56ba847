"""A userlist: who may use the hub, who is an admin, and who is in which group. Pure.

Owns both forms that are read: lines of ``name [admin] [group=NAME …]``, and CSV with a header, as
course systems write it; and the one form that is written. Must not know the hub.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ec2spawner.configfile import Fault
from ec2spawner.errors import ConfigError
from ec2spawner.memberships import is_mark, is_provider_group
from ec2spawner.names import name_fault, normalize, user_fault

DELIMITERS = ",;\t"
FAULTS_SHOWN = 20

NAME_COLUMNS: Mapping[str, tuple[str, ...]] = {
    # kinds of columns, the best first; a header is compared by its letters and digits alone
    "github": ("github", "githubusername", "githublogin", "githubuser", "githubid", "githubname"),
    "username": ("username", "nickname"),
    "login": ("login", "loginid", "loginname", "userlogin", "sisloginid", "uid"),
    "user": ("user", "userid"),
    "email": ("email", "emailaddress", "mail", "useremail"),
}
ADMIN_COLUMNS = ("admin", "isadmin")
GROUP_COLUMNS = ("group", "groups", "section", "sections", "course", "coursegroup")
_YES = {"yes", "y", "true", "1", "x", "admin"}
_NO = {"no", "n", "false", "0", "", "-"}


class BadUserlist(ConfigError):
    """A userlist that cannot be used; ``faults`` are its bad lines."""

    def __init__(self, path: str, faults: list[Fault]) -> None:
        shown = faults[:FAULTS_SHOWN]
        if len(faults) > len(shown):
            shown.append(Fault(f"{len(faults) - len(shown)} more", "", "lines are bad"))
        self.faults = tuple(shown)
        super().__init__(
            f"{path} cannot be used; nothing was imported.",
            why=" ".join(str(fault) for fault in self.faults),
            next_step="Correct these lines and run it again.",
        )


@dataclass(frozen=True)
class Person:
    """One user, as the list or the hub has them."""

    name: str
    is_admin: bool = False
    groups: frozenset[str] = frozenset()

    @property
    def own_groups(self) -> frozenset[str]:
        """Those that a list can name; the others follow the login's provider."""
        return frozenset(group for group in self.groups if group_fault(group) is None)

    @property
    def marks(self) -> frozenset[str]:
        """The groups that say that a membership alone brought this user."""
        return frozenset(group for group in self.groups if is_mark(group))


@dataclass(frozen=True)
class Userlist:
    """What a file says; ``columns`` of a CSV are those that were read, by what they hold."""

    people: Mapping[str, Person]
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def group_fault(group: str) -> str | None:
    """Why a list cannot put anybody into this group."""
    if is_provider_group(group):
        return f"names the group {group[:60]!r}, which follows the login's provider"
    reason = name_fault(group)
    return reason and f"names a group that {reason}"


# ---- reading


def read_userlist(path: str, data: bytes, column: str | None = None) -> Userlist:
    """The list in a file; BadUserlist with every bad line.

    ``column`` names the column of a CSV that holds the names, where it is not to be found by its
    header.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        reason = "is not UTF-8 text: save the file as UTF-8"
        raise BadUserlist(path, [Fault(f"line {line}", "", reason)]) from None
    delimiter = _delimiter(path, text, column)
    faults: list[Fault] = []
    if delimiter is None:
        columns: Mapping[str, str] = {}
        entries: Iterable[tuple[int, str, bool, list[str]]] = _plain_entries(text, faults)
    else:
        columns, entries = _csv_entries(text, delimiter, column, faults)
    people = _people(entries, faults)
    if not people and not faults:
        faults.append(Fault("the file", "", "names nobody"))
    if faults:
        raise BadUserlist(path, sorted(faults, key=_line_of))
    return Userlist(MappingProxyType(people), MappingProxyType(dict(columns)))


def _line_of(fault: Fault) -> int:
    found = re.fullmatch(r"line (\d+)", fault.key)
    return int(found[1]) if found else 0


def _people(
    entries: Iterable[tuple[int, str, bool, list[str]]], faults: list[Fault]
) -> dict[str, Person]:
    """Who is named; whoever is named twice has what both lines give."""
    people: dict[str, Person] = {}
    for line, written, is_admin, groups in entries:
        name = normalize(written)
        reasons = [user_fault(name), *(group_fault(group) for group in groups)]
        found = [Fault(f"line {line}", repr(written), reason) for reason in reasons if reason]
        faults += found
        if not found:
            known = people.get(name, Person(name))
            joined = known.groups | frozenset(groups)
            people[name] = Person(name, known.is_admin or is_admin, joined)
    return people


_TOKEN = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+|"')


def _plain_entries(text: str, faults: list[Fault]) -> Iterator[tuple[int, str, bool, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        tokens = _tokens(line)
        if not tokens:
            continue
        head, *rest = tokens
        name, groups, is_admin = _unquoted(head), [], False
        bad: str | None = None
        if name is None:
            bad = 'has a " without its other one'
        elif head == name and any(c in name for c in DELIMITERS):
            known = ", ".join(NAME_COLUMNS)
            bad = (
                f'has a comma: write the name in "", or give the file a header with one of {known}'
            )
        for token in rest:
            key, equals, value = token.partition("=")
            inner = _unquoted(value)
            if token == "admin":  # noqa: S105 - a word of the list, not a secret
                is_admin = True
            elif key == "group" and equals and inner is not None:
                groups.append(inner)
            else:
                bad = bad or f'has {token!r}, which is neither "admin" nor "group=NAME"'
        if bad:
            faults.append(Fault(f"line {number}", repr(line.strip())[:60], bad))
        else:
            yield number, name or "", is_admin, groups


def _tokens(line: str) -> list[str]:
    """The words of a line; what follows a word that begins with # is a comment."""
    tokens: list[str] = []
    for found in _TOKEN.finditer(line):
        if found[0].startswith("#"):
            break
        tokens.append(found[0])
    return tokens


def _unquoted(token: str) -> str | None:
    """A word without its quotes; None where one is missing."""
    if '"' not in token:
        return token
    if re.fullmatch(r'"(?:[^"\\]|\\.)*"', token):
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    return None


# ---- CSV


def _delimiter(path: str, text: str, column: str | None) -> str | None:
    """What parts the columns of a CSV; None for a list of lines."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    is_named = path.lower().endswith((".csv", ".tsv"))
    if is_named or column is not None:
        return delimiter
    if delimiter not in first:
        return None
    header = next(csv.reader([first], delimiter=delimiter), [])
    return delimiter if _name_column(header) is not None else None


def _csv_entries(
    text: str, delimiter: str, column: str | None, faults: list[Fault]
) -> tuple[dict[str, str], list[tuple[int, str, bool, list[str]]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    entries: list[tuple[int, str, bool, list[str]]] = []
    columns: dict[str, str] = {}
    places: dict[str, int] = {}
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not places:
                places = _places(row, column, reader.line_num, faults)
                columns = {what: row[place].strip() for what, place in places.items()}
                if not places:
                    break
                continue
            entry = _csv_entry(row, places, reader.line_num, delimiter, faults)
            if entry:
                entries.append(entry)
    except csv.Error as error:
        faults.append(Fault(f"line {reader.line_num}", "", f"is not CSV: {error}"))
    return columns, entries


def _csv_entry(
    row: list[str], places: Mapping[str, int], line: int, delimiter: str, faults: list[Fault]
) -> tuple[int, str, bool, list[str]] | None:
    cell = {w: row[place].strip() if place < len(row) else "" for w, place in places.items()}
    if not cell["name"]:
        faults.append(Fault(f"line {line}", repr(delimiter.join(row))[:60], "has no name"))
        return None
    admin = cell.get("admin", "").lower()
    if admin not in _YES | _NO:
        faults.append(Fault(f"line {line}", repr(admin), "is neither yes nor no for an admin"))
        return None
    groups = [part.strip() for part in re.split(r"[;|]", cell.get("group", "")) if part.strip()]
    return line, cell["name"], admin in _YES, groups


def _places(
    header: list[str], column: str | None, line: int, faults: list[Fault]
) -> dict[str, int]:
    """Where the columns are that are read; {} without one that holds names."""
    cells = [cell.strip() for cell in header]
    named = ", ".join(repr(cell) for cell in cells)
    if column is None:
        place = _name_column(header)
        if place is None:
            reason = "has no column of which the names are known; name one with --column"
            faults.append(Fault(f"line {line}", named, reason))
            return {}
    elif cells.count(column) != 1:
        count = "no" if column not in cells else "more than one"
        faults.append(Fault("--column", repr(column), f"is {count} column of {named}"))
        return {}
    else:
        place = cells.index(column)
    found = {"name": place}
    for what, known in (("admin", ADMIN_COLUMNS), ("group", GROUP_COLUMNS)):
        matching = [n for n, cell in enumerate(cells) if _bare(cell) in known and n != place]
        if matching:
            found[what] = matching[0]
    return found


def _name_column(header: list[str]) -> int | None:
    bare = [_bare(cell) for cell in header]
    for known in NAME_COLUMNS.values():
        for name in known:
            if name in bare:
                return bare.index(name)
    return None


def _bare(cell: str) -> str:
    return re.sub(r"[^a-z0-9]", "", cell.lower())


# ---- writing


def is_listable(person: Person) -> bool:
    """Whether a list names this user of the hub: one who came by a membership alone is not in it,
    since a list lets in for good."""
    is_readable = user_fault(person.name) is None and normalize(person.name) == person.name
    return is_readable and not person.marks


def userlist_text(people: Iterable[Person]) -> str:
    """The list as lines, by name; reading it gives the same people."""
    lines = (_line(person) for person in sorted(people, key=lambda p: p.name))
    return "".join(f"{line}\n" for line in lines)


def _line(person: Person) -> str:
    words = [_word(person.name)]
    words += ["admin"] if person.is_admin else []
    words += [f"group={_word(group)}" for group in sorted(person.own_groups)]
    return " ".join(words)


def _word(text: str) -> str:
    if re.fullmatch(r'[^\s"#,;][^\s",;]*', text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


# ---- what an import changes


@dataclass(frozen=True)
class Changes:
    """What makes the hub's users those of the list; nothing is taken away unless it was asked."""

    add: tuple[str, ...] = ()
    add_admins: tuple[str, ...] = ()
    let_in: tuple[tuple[str, tuple[str, ...]], ...] = ()  # for good; by the group that marks them
    new_groups: tuple[str, ...] = ()
    grant: tuple[str, ...] = ()  # become admins
    join: tuple[tuple[str, tuple[str, ...]], ...] = ()  # by group
    revoke: tuple[str, ...] = ()  # are admins no more
    leave: tuple[tuple[str, tuple[str, ...]], ...] = ()  # by group
    remove: tuple[str, ...] = ()
    stay: tuple[str, ...] = ()
    """Users that the list does not name, and that are kept."""
    keep: tuple[str, ...] = ()
    """Users who keep a right or a group that the list does not give."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (
            self.add
            or self.add_admins
            or self.let_in
            or self.new_groups
            or self.grant
            or self.join
            or self.revoke
            or self.leave
            or self.remove
        )


def changes_of(
    wanted: Userlist,
    present: Mapping[str, Person],
    groups: Iterable[str],
    *,
    remove: bool,
    oneself: str | None,
) -> Changes:
    """What is to be done. ``oneself``, whose token it is, is neither removed nor deprived.

    Groups that follow a provider, and who came by a membership alone, are not the list's to take.
    """
    people = wanted.people
    new = [p for name, p in people.items() if name not in present]
    both = [(p, present[name]) for name, p in people.items() if name in present]
    others = sorted(name for name in present if name not in people)
    joined = _by_group((p.name, p.groups - _groups(present, p.name)) for p in people.values())
    lost = [(p, was) for p, was in both if p.name != oneself]
    revoke = sorted(p.name for p, was in lost if was.is_admin and not p.is_admin)
    left = _by_group((p.name, was.own_groups - p.groups) for p, was in both)
    spared = {name for name in others if name == oneself or present[name].marks}
    gone = [name for name in others if name not in spared] if remove else []
    kept = {*revoke, *(name for _, names in left for name in names)}
    return Changes(
        add=tuple(sorted(p.name for p in new if not p.is_admin)),
        add_admins=tuple(sorted(p.name for p in new if p.is_admin)),
        let_in=_by_group((p.name, was.marks) for p, was in both),
        new_groups=tuple(sorted({group for group, _ in joined} - {*groups})),
        grant=tuple(sorted(p.name for p, was in both if p.is_admin and not was.is_admin)),
        join=joined,
        revoke=tuple(revoke) if remove else (),
        leave=left if remove else (),
        remove=tuple(gone),
        stay=tuple(name for name in others if name not in gone),
        keep=() if remove else tuple(sorted(kept)),
    )


def _groups(present: Mapping[str, Person], name: str) -> frozenset[str]:
    return present[name].groups if name in present else frozenset()


def _by_group(
    memberships: Iterable[tuple[str, frozenset[str]]],
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, list[str]] = {}
    for name, groups in memberships:
        for group in groups:
            found.setdefault(group, []).append(name)
    return tuple((group, tuple(sorted(names))) for group, names in sorted(found.items()))
