"""Userlists: what lines and tables say, what is wrong with them, and what an import changes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2spawner.names import user_fault
from launch_cluster.userlist import (
    BadUserlist,
    Changes,
    Person,
    Userlist,
    changes_of,
    group_fault,
    read_userlist,
    userlist_text,
)


def read(text: str, path: str = "users.txt", column: str | None = None) -> dict[str, Person]:
    return dict(read_userlist(path, text.encode(), column).people)


# ---- lines


def test_a_line_is_a_name_and_what_it_has() -> None:
    people = read(
        "# the class of biology\n"
        "\n"
        "ann\n"
        "Bob admin\n"
        "cem group=biology101 group=lab   # a comment\n"
        "\tdan\tadmin\tgroup=staff\t\n"
        "o'brien\n"
        "a.b+c@x.org\n"
        "c#sharp\n"
        '"Zoë Müller" group="the whole class"\n'
        '"a \\"b\\" \\\\c"\n'
    )
    assert people == {
        p.name: p
        for p in (
            Person("ann"),
            Person("bob", is_admin=True),
            Person("cem", groups=frozenset({"biology101", "lab"})),
            Person("dan", is_admin=True, groups=frozenset({"staff"})),
            Person("o'brien"),
            Person("a.b+c@x.org"),
            Person("c#sharp"),
            Person("zoë müller", groups=frozenset({"the whole class"})),
            Person('a "b" \\c'),
        )
    }


def test_whoever_is_named_twice_has_what_both_lines_give() -> None:
    assert read("ann group=a\nANN admin group=b\n") == {
        "ann": Person("ann", is_admin=True, groups=frozenset({"a", "b"}))
    }


@pytest.mark.parametrize("ending", ["\r\n", "\n", "\r"])
def test_a_file_of_any_system_is_read(ending: str) -> None:
    text = "\ufeff" + ending.join(["ann", "bob admin", ""])
    assert read(text) == {"ann": Person("ann"), "bob": Person("bob", is_admin=True)}


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("ann\nb/ob\n", ["line 2: 'b/ob' has a / in it."]),
        ("..\n", ["line 1: '..' has nothing but dots."]),
        ("%2e%2E\n", ["line 1: '%2e%2E' has nothing but dots."]),
        ("ann\na<b\n", ["line 2: 'a<b' has a < or > in it."]),
        ("<b>\n", ["has a < or > in it"]),
        ('""\n', ["line 1: '' has no name."]),
        ('" ann"\n', ["begins or ends with a space"]),
        ("x" * 256, ["has more than 255 characters"]),
        ("an\u200bn\n", ["has a character that cannot be seen"]),
        ("ann staff\n", ["line 1: 'ann staff' has 'staff', which is neither"]),
        ("ann group\n", ["has 'group', which is neither"]),
        ("ann group=\n", ["line 1: 'ann' names a group that has no name."]),
        ("ann group=github:uni\n", ["line 1: 'ann' names the group 'github:uni', which follows"]),
        ("ann group=by-membership:oidc\n", ["which follows the login's provider"]),
        ("ann group=oidc:/staff\n", ["which follows the login's provider"]),
        ("ann group=a/b\n", ["names a group that has a / in it"]),
        ("ann Admin\n", ["has 'Admin', which is neither"]),
        ('"ann\n', ['has a " without its other one']),
        ('an"n\n', ["line 1: 'an\"n' has"]),
        ("smith,j\n", ["has a comma", "github, username, login, user, email"]),
        ("a/b\nann\nc/d x\n", ["line 1: 'a/b'", "line 3: 'c/d x'"]),
        ("", ["the file names nobody"]),
        ("# nobody\n\n", ["the file names nobody"]),
    ],
)
def test_each_bad_line_is_named_with_its_number_and_reason(text: str, faults: list[str]) -> None:
    with pytest.raises(BadUserlist) as caught:
        read(text)
    found = [str(fault) for fault in caught.value.faults]
    assert "nothing was imported" in caught.value.what
    for fault in faults:
        assert any(fault in line for line in found), found


def test_of_many_bad_lines_the_first_are_shown_and_the_rest_is_counted() -> None:
    with pytest.raises(BadUserlist) as caught:
        read("a/b\n" * 500)
    shown = [str(fault) for fault in caught.value.faults]
    assert len(shown) == 21
    assert shown[0].startswith("line 1:")
    assert shown[-1] == "480 more lines are bad."


def test_text_that_is_not_utf_8_is_named_by_its_line() -> None:
    with pytest.raises(BadUserlist, match="line 2 is not UTF-8 text"):
        read_userlist("users.txt", b"ann\nZo\xeb\n")


# ---- CSV


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Name,GitHub Username,Email", "GitHub Username"),
        ("Username,E-mail", "Username"),
        ("Student;SIS Login ID;Section", "SIS Login ID"),
        ("Last name\tEmail address", "Email address"),
        ("user_id,name", "user_id"),
        ("login,user,email,github", "github"),
        ("email,username", "username"),
    ],
)
def test_the_column_of_names_is_found_by_its_header(header: str, name: str) -> None:
    delimiter = next(c for c in ";\t," if c in header)
    cells = ["x" if cell != name else "ann" for cell in header.split(delimiter)]
    text = f"{header}\n{delimiter.join(cells)}\n"
    found = read_userlist("users", text.encode())
    assert list(found.people) == ["ann"]
    assert found.columns["name"] == name


def test_a_table_has_admins_and_groups() -> None:
    found = read_userlist(
        "class.csv",
        b'login,"Full name",Section,Admin\r\n'
        b'ann,"Smith, Ann",bio; lab,\r\n'
        b"\r\n"
        b"Bob,Bob,bio,Yes\r\n"
        b",,,\r\n"
        b"ann,again,chem|lab,no\r\n"
        b"cem\r\n",
    )
    assert dict(found.people) == {
        "ann": Person("ann", groups=frozenset({"bio", "lab", "chem"})),
        "bob": Person("bob", is_admin=True, groups=frozenset({"bio"})),
        "cem": Person("cem"),
    }
    assert found.columns == {"name": "login", "admin": "Admin", "group": "Section"}


def test_a_column_can_be_named() -> None:
    text = "Matriculation,login\n4711,ann\n"
    assert list(read(text, column="Matriculation")) == ["4711"]
    assert list(read("Matriculation\n4711\n", "class.csv", "Matriculation")) == ["4711"]


@pytest.mark.parametrize(
    ("text", "column", "fault"),
    [
        ("First,Last\nAnn,Smith\n", None, "line 1: 'First', 'Last' has no column"),
        ("login,email\n,a@x.org\n", None, "line 2: ',a@x.org' has no name."),
        ("login,admin\nann,perhaps\n", None, "line 2: 'perhaps' is neither yes nor no"),
        ("login\na/b\n", None, "line 2: 'a/b' has a / in it."),
        ("login\nann\nbob>\n", None, "line 3: 'bob>' has a < or > in it."),
        ("login\n...\n", None, "line 2: '...' has nothing but dots."),
        ("login,group\nann,google:x.org\n", None, "'google:x.org', which follows the login's"),
        ("login,group\nann,a/b\n", None, "names a group that has a / in it"),
        ('login\n"ann\n', None, "is not CSV"),
        ("login,email\nann,x\n", "Login", "--column: 'Login' is no column of 'login', 'email'"),
        ("login,login\nann,x\n", "login", "is more than one column"),
        ("login\n", None, "the file names nobody"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(text: str, column: str | None, fault: str) -> None:
    with pytest.raises(BadUserlist, match=re.escape(fault)):
        read(text, "class.csv", column)


def test_a_line_number_is_the_files_own_after_a_cell_of_several_lines() -> None:
    with pytest.raises(BadUserlist, match=r"line 4: 'a/b'"):
        read('login,note\nann,"two\nlines"\na/b,\n', "class.csv")


def test_a_user_of_the_name_user_is_no_header() -> None:
    assert list(read("user\nlogin\n")) == ["user", "login"]


# ---- what is written can be read

names = st.text(min_size=1, max_size=30).map(str.lower).filter(lambda n: user_fault(n) is None)
# A letter whose small form has another small form would be another user.
stable = names.filter(lambda n: n.lower() == n)
groups = st.text(min_size=1, max_size=20).filter(lambda g: group_fault(g) is None)
people = st.lists(
    st.builds(Person, stable, st.booleans(), st.frozensets(groups, max_size=3)),
    min_size=1,
    max_size=8,
    unique_by=lambda person: person.name,
)


@given(people)
def test_what_was_exported_is_read_to_the_same_people(found: list[Person]) -> None:
    listed = read_userlist("users.txt", userlist_text(found).encode())
    present = {person.name: person for person in found}
    assert dict(listed.people) == present
    there = {group for person in found for group in person.groups}
    assert changes_of(listed, present, there, remove=True, oneself=None).is_empty


@given(people, people, st.booleans())
def test_an_import_leads_to_the_list_and_takes_nothing_away_unasked(
    wanted: list[Person], before: list[Person], remove: bool
) -> None:
    listed = Userlist({p.name: p for p in wanted})
    present = {p.name: p for p in before}
    there = {group for p in before for group in p.groups}
    changes = changes_of(listed, present, there, remove=remove, oneself=None)
    after = applied(changes, present)
    for name, person in listed.people.items():
        if remove:
            assert after[name] == person
        else:
            assert after[name].is_admin >= person.is_admin
            assert after[name].groups >= person.groups
    for name, person in present.items():
        if name not in listed.people:
            assert (name in after) is not remove
        elif not remove:
            assert after[name].is_admin >= person.is_admin
            assert after[name].groups >= person.groups
    groups_after = there | {*changes.new_groups}
    assert all(group in groups_after for group, _ in changes.join)
    assert changes_of(listed, after, groups_after, remove=remove, oneself=None).is_empty


def applied(changes: Changes, present: dict[str, Person]) -> dict[str, Person]:
    admins = {name for name, p in present.items() if p.is_admin}
    admins = (admins | {*changes.add_admins, *changes.grant}) - {*changes.revoke}
    inside = {name: set(p.groups) for name, p in present.items()}
    inside |= {name: set() for name in (*changes.add, *changes.add_admins)}
    for group, members in changes.join:
        for name in members:
            inside[name].add(group)
    for group, members in changes.leave:
        for name in members:
            inside[name].remove(group)
    return {
        name: Person(name, name in admins, frozenset(groups))
        for name, groups in inside.items()
        if name not in changes.remove
    }


def test_whose_token_it_is_stays_an_admin() -> None:
    listed = Userlist({"ann": Person("ann")})
    present = {
        "ann": Person("ann", is_admin=True),
        "root": Person("root", is_admin=True),
    }
    assert changes_of(listed, present, (), remove=True, oneself="root").remove == ()
    assert changes_of(listed, present, (), remove=True, oneself="ann").revoke == ()
    assert changes_of(listed, present, (), remove=True, oneself=None) == Changes(
        revoke=("ann",), remove=("root",)
    )
    kept = changes_of(listed, present, (), remove=False, oneself=None)
    assert kept == Changes(stay=("root",), keep=("ann",))


def test_whom_a_list_names_comes_in_without_the_membership_that_brought_them() -> None:
    mark = "by-membership:github"
    present = {
        "ann": Person("ann", groups=frozenset({mark, "github:uni"})),
        "bob": Person("bob", groups=frozenset({"github:uni"})),
    }
    listed = Userlist({"ann": Person("ann"), "bob": Person("bob")})
    for remove in (False, True):
        changes = changes_of(listed, present, [mark], remove=remove, oneself=None)
        assert changes == Changes(let_in=((mark, ("ann",)),))


def test_remove_leaves_what_is_a_provider_s_and_who_came_by_a_membership_alone() -> None:
    present = {
        "ann": Person("ann", groups=frozenset({"cilogon:https://x.org/idp", "a/b", "lab"})),
        "ida": Person("ida", groups=frozenset({"by-membership:cilogon", "lab"})),
        "old": Person("old", groups=frozenset({"cilogon:https://x.org/idp"})),
    }
    changes = changes_of(Userlist({"ann": Person("ann")}), present, (), remove=True, oneself=None)
    assert changes == Changes(leave=(("lab", ("ann",)),), remove=("old",), stay=("ida",))
