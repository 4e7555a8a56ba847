"""``users import`` and ``export`` against a small hub that fails where a test wants it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import jsonschema
import pytest
from click.testing import CliRunner, Result

from ec2spawner.errors import ConfigError
from launch_cluster import cli
from launch_cluster.commands import users as module
from launch_cluster.hubapi import HubAPI, HubError, api_address, is_in_the_open

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef-the-token"


def document_of(result: Result, command: str) -> dict[str, Any]:
    """The document on stdout, which fits its schema."""
    document: dict[str, Any] = json.loads(result.stdout)
    schema = ROOT / f"docs/schemas/users_{command}_output.schema.json"
    jsonschema.validate(document, json.loads(schema.read_text()))
    return document


class SmallHub:
    """The API of a hub in memory; ``fail`` is asked before and after each request."""

    def __init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        self.groups: list[str] = []
        self.oneself: dict[str, Any] = {"kind": "service", "name": "test"}
        self.requests: list[tuple[str, str]] = []
        self.fail: Callable[[str, str, str], httpx.Response | None] = lambda *_: None

    def add(self, name: str, admin: bool = False, *groups: str) -> None:
        self.users[name] = {"name": name, "admin": admin, "groups": list(groups)}
        self.groups += [group for group in groups if group not in self.groups]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"token {TOKEN}"
        path = request.url.raw_path.decode().removeprefix("/hub/api/")
        self.requests.append((request.method, path))
        early = self.fail("before", request.method, path)
        if early is not None:
            return early
        body = json.loads(request.content) if request.content else None
        answer = self.carry_out(request.method, path, body)
        return self.fail("after", request.method, path) or answer

    def carry_out(self, method: str, path: str, body: Any) -> httpx.Response:
        parts = [unquote(part) for part in path.partition("?")[0].split("/")]
        match (method, *parts):
            case ("GET", "user"):
                return httpx.Response(200, json=self.oneself)
            case ("GET", "users"):
                return self.page(list(self.users.values()), path)
            case ("GET", "groups"):
                return self.page([{"name": group} for group in self.groups], path)
            case ("POST", "users"):
                new = [name for name in body["usernames"] if name not in self.users]
                for name in new:
                    self.add(name, body["admin"])
                return httpx.Response(201 if new else 409, json={"message": "All exist"})
            case ("PATCH", "users", name):
                self.users[name]["admin"] = body["admin"]
            case ("DELETE", "users", name):
                if name not in self.users:
                    return httpx.Response(404, json={})
                del self.users[name]
                return httpx.Response(204)
            case ("POST", "groups", group):
                if group in self.groups:
                    return httpx.Response(409, json={})
                self.groups.append(group)
            case ("POST", "groups", group, "users"):
                assert group in self.groups
                for name in body["users"]:
                    mine = self.users[name]["groups"]
                    mine += [group] if group not in mine else []
            case ("DELETE", "groups", group, "users"):
                for name in body["users"]:
                    mine = self.users[name]["groups"]
                    mine[:] = [other for other in mine if other != group]
            case _:
                raise AssertionError((method, parts))
        return httpx.Response(200, json={})

    def page(self, entries: list[Any], path: str) -> httpx.Response:
        query = dict(pair.split("=") for pair in path.partition("?")[2].split("&"))
        offset, limit = int(query["offset"]), min(int(query["limit"]), 3)
        following = {"offset": offset + limit} if offset + limit < len(entries) else None
        return httpx.Response(
            200,
            json={"items": entries[offset : offset + limit], "_pagination": {"next": following}},
        )

    @property
    def changing(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.requests if method != "GET"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A hub at the usual address."""
    hub = SmallHub()
    monkeypatch.setenv("JUPYTERHUB_URL", "https://hub.example.org")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)

    async def no_time(_: float) -> None:
        return

    monkeypatch.setattr(
        module,
        "HubAPI",
        lambda address, token: HubAPI(
            address, token, transport=httpx.MockTransport(hub), sleep=no_time
        ),
    )
    return hub


@pytest.fixture
def users(tmp_path: Path) -> Run:
    """Runs ``launch-cluster users``; ``listed`` is the file's content."""

    def run(*arguments: str, listed: str | None = None, answer: str = "") -> Result:
        file = tmp_path / "users.txt"
        if listed is not None:
            file.write_text(listed)
            arguments = (arguments[0], str(file), *arguments[1:])
        result = CliRunner().invoke(cli.main, ["users", *arguments], input=answer)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert TOKEN not in result.output
        return result

    return run


LIST = "ann\nbob admin\ncem group=bio\ndan group=bio group=lab\n"


def test_the_list_is_shown_and_a_no_changes_nothing(hub: SmallHub, users: Run) -> None:
    hub.add("bob")
    hub.add("eve", True, "staff")
    result = users("import", listed=LIST, answer="n\n")
    assert result.exit_code == 1
    assert hub.changing == []
    for line in (
        "4 users in the list.",
        "  add (3): ann, cem, dan",
        "  make admins (1): bob",
        "  make groups (2): bio, lab",
        "  into the group bio (2): cem, dan",
        "  not in the list, and left as they are (1): eve",
        "  --remove takes away what the list does not give.",
    ):
        assert line in result.stdout.splitlines()


def test_an_import_makes_the_hub_as_the_list_and_a_second_one_finds_nothing(
    hub: SmallHub, users: Run
) -> None:
    hub.add("bob")
    hub.add("eve", True, "staff")
    assert users("import", listed=LIST, answer="yes\n").exit_code == 0
    assert hub.users == {
        "ann": {"name": "ann", "admin": False, "groups": []},
        "bob": {"name": "bob", "admin": True, "groups": []},
        "cem": {"name": "cem", "admin": False, "groups": ["bio"]},
        "dan": {"name": "dan", "admin": False, "groups": ["bio", "lab"]},
        "eve": {"name": "eve", "admin": True, "groups": ["staff"]},
    }
    count = len(hub.changing)
    again = users("import", "--output", "json", listed=LIST)
    assert again.exit_code == 0
    assert document_of(again, "import")["outcome"] == "nothing to do"
    assert len(hub.changing) == count


def test_remove_takes_away_what_the_list_does_not_give(hub: SmallHub, users: Run) -> None:
    hub.add("ann", True, "bio", "lab")
    hub.add("eve")
    hub.add("me", True)
    hub.oneself = {"kind": "user", "name": "me"}
    result = users("import", "--remove", "--yes", listed="ann group=bio\n")
    assert result.exit_code == 0
    assert "restore NAME brings them back" in result.stdout
    assert "  remove (1): eve" in result.stdout
    assert hub.users == {
        "ann": {"name": "ann", "admin": False, "groups": ["bio"]},
        "me": {"name": "me", "admin": True, "groups": []},
    }


def test_a_large_class_comes_in_batches(hub: SmallHub, users: Run) -> None:
    listed = "".join(f"s{n:04} group=all\n" for n in range(450))
    result = users("import", "--yes", listed=listed)
    assert result.exit_code == 0
    assert "add (450): s0000, s0001" in result.stdout
    assert "… and 430 more" in result.stdout
    assert [path for _, path in hub.changing] == [
        *["users"] * 18,
        "groups/all",
        *["groups/all/users"] * 18,
    ]
    assert all(user["groups"] == ["all"] for user in hub.users.values())


def test_a_bad_line_leaves_the_hub_unasked(hub: SmallHub, users: Run) -> None:
    result = users("import", "--yes", listed="ann\nb/ob\n")
    assert result.exit_code == 2
    assert "line 2: 'b/ob' has a / in it" in result.stderr
    assert hub.requests == []


def test_a_dry_run_shows_and_stops(hub: SmallHub, users: Run) -> None:
    result = users("import", "--dry-run", "--output", "json", listed=LIST)
    assert document_of(result, "import")["outcome"] == "planned"
    assert hub.changing == []


def test_the_columns_that_are_read_are_told(hub: SmallHub, users: Run, tmp_path: Path) -> None:
    file = tmp_path / "class.csv"
    file.write_text("Email,GitHub,Section\na@x.org,ann,bio\n")
    result = users("import", str(file), "--dry-run")
    assert "1 user in the list (name from the column 'GitHub', group from" in result.stdout
    other = users("import", str(file), "--dry-run", "--column", "Email", "--output", "json")
    document = document_of(other, "import")
    assert document["add"] == ["a@x.org"]
    assert document["columns"] == {"name": "Email", "group": "Section"}


def test_a_list_comes_from_stdin_too(hub: SmallHub, users: Run) -> None:
    assert users("import", "-", "--yes", answer="ann\n").exit_code == 0
    assert list(hub.users) == ["ann"]


def test_an_export_is_read_back_to_no_change(hub: SmallHub, users: Run) -> None:
    hub.add("zoë müller", False, "the class")
    hub.add("ann", True, "bio", "staff")
    for number in range(7):
        hub.add(f"s{number}")
    exported = users("export")
    assert exported.exit_code == 0
    assert exported.stdout.splitlines()[:2] == ["ann admin group=bio group=staff", "s0"]
    assert exported.stdout.splitlines()[-1] == '"zoë müller" group="the class"'
    back = users("import", "--remove", "--output", "json", listed=exported.stdout)
    assert document_of(back, "import")["outcome"] == "nothing to do"
    document = document_of(users("export", "--output", "json"), "export")
    assert document["users"][0] == {"name": "ann", "is_admin": True, "groups": ["bio", "staff"]}
    assert len(document["users"]) == 9


def test_an_export_of_people_of_a_provider_is_read_back_to_no_change(
    hub: SmallHub, users: Run
) -> None:
    hub.add("ann", True, "bio", "cilogon:https://idp.example.org/shibboleth", "oidc:/staff")
    hub.add("ida", False, "by-membership:cilogon", "cilogon:https://idp.example.org/shibboleth")
    hub.add("kim", False, "made/by api", "a<b")
    hub.add("Gone")  # nobody can log in by such a name
    before = json.loads(json.dumps(hub.users))
    exported = users("export")
    assert exported.stdout.splitlines() == ["ann admin group=bio", "kim group=a<b"]
    assert "come in by a membership alone, and are not in the list (1): ida" in exported.stderr
    assert "have a name that no list can have (1): 'Gone'" in exported.stderr
    document = document_of(users("export", "--output", "json"), "export")
    assert [user["groups"] for user in document["users"]] == [["bio"], ["a<b"]]
    del hub.users["Gone"], before["Gone"]
    back = users("import", "--remove", "--output", "json", listed=exported.stdout)
    assert document_of(back, "import")["outcome"] == "nothing to do"
    assert hub.users == before


def test_an_import_lets_in_for_good_who_came_by_a_membership(hub: SmallHub, users: Run) -> None:
    hub.add("ida", False, "by-membership:github", "github:uni")
    result = users("import", "--yes", listed="ida\n")
    assert result.exit_code == 0
    assert "  let in without a membership too (1): ida" in result.stdout
    assert hub.users["ida"]["groups"] == ["github:uni"]
    again = document_of(users("import", "--output", "json", listed="ida\n"), "import")
    assert (again["outcome"], again["let_in"]) == ("nothing to do", [])


# ---- failures


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, 7))
def test_a_run_that_was_killed_between_two_requests_is_gone_on_with(
    hub: SmallHub, users: Run, when: str, nth: int
) -> None:
    hub.add("bob")
    hub.add("eve", True, "lab")

    def die(moment: str, method: str, path: str) -> None:
        if moment == when and len(hub.changing) == nth:
            raise KeyboardInterrupt

    hub.fail = die
    first = users("import", "--remove", "--yes", listed=LIST)
    assert first.exit_code == 130
    hub.fail = lambda *_: None
    assert users("import", "--remove", "--yes", listed=LIST).exit_code == 0
    assert hub.users == {
        "ann": {"name": "ann", "admin": False, "groups": []},
        "bob": {"name": "bob", "admin": True, "groups": []},
        "cem": {"name": "cem", "admin": False, "groups": ["bio"]},
        "dan": {"name": "dan", "admin": False, "groups": ["bio", "lab"]},
    }


@pytest.mark.parametrize("when", ["before", "after"])
def test_each_reply_may_be_lost_once(hub: SmallHub, users: Run, when: str) -> None:
    hub.add("eve", True, "lab")
    lost: set[tuple[str, str]] = set()

    def lose(moment: str, method: str, path: str) -> None:
        if moment == when and (method, path) not in lost:
            lost.add((method, path))
            raise httpx.ReadError("the connection broke")

    hub.fail = lose
    result = users("import", "--remove", "--yes", listed=LIST)
    assert result.exit_code == 0, result.stderr
    assert sorted(hub.users) == ["ann", "bob", "cem", "dan"]
    assert len(lost) > 6


def test_a_busy_hub_is_waited_for(hub: SmallHub, users: Run) -> None:
    answers = iter([503, 502, 429])

    def busy(moment: str, method: str, path: str) -> httpx.Response | None:
        status = next(answers, None) if moment == "before" and method == "POST" else None
        return httpx.Response(status, text="<html>") if status else None

    hub.fail = busy
    assert users("import", "--yes", listed="ann\n").exit_code == 0
    assert list(hub.users) == ["ann"]


def test_a_hub_that_goes_away_in_the_middle_leaves_what_is_done(hub: SmallHub, users: Run) -> None:
    def gone(moment: str, method: str, path: str) -> None:
        if path.startswith("groups/"):
            raise httpx.ConnectError("refused")

    hub.fail = gone
    result = users("import", "--yes", listed=LIST)
    assert result.exit_code == 3
    assert "cannot be reached" in result.stderr
    assert "Run the same command again" in result.stderr
    assert "ann" in hub.users


def test_a_user_whose_server_still_stops_holds_up_nobody(hub: SmallHub, users: Run) -> None:
    for name in ("ann", "eve", "fay"):
        hub.add(name)

    def stops(moment: str, method: str, path: str) -> httpx.Response | None:
        if (moment, method, path) == ("before", "DELETE", "users/eve"):
            message = "eve's server is in the process of stopping, please wait."
            return httpx.Response(400, json={"message": message})
        return None

    hub.fail = stops
    result = users("import", "--remove", "--yes", "--output", "json", listed="ann\n")
    assert result.exit_code == 3
    document = document_of(result, "import")
    assert document["outcome"] == "partly done"
    assert "in the process of stopping" in document["failed"][0]
    assert sorted(hub.users) == ["ann", "eve"]


def refused(status: int, message: str = "", **more: Any) -> Any:
    def fail(moment: str, method: str, path: str) -> httpx.Response:
        return httpx.Response(status, json={"message": message}, **more)

    return fail


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (refused(403, "Missing scope"), ["does not allow it", "Missing scope", "admin:users"]),
        (refused(401), ["does not allow it", "JUPYTERHUB_API_TOKEN"]),
        (refused(404, "Not Found"), ["HTTP 404", "Not Found"]),
        (refused(500, "x" * 9000), ["HTTP 500"]),
        (refused(302, headers={"location": "https://evil.example/"}), ["sends on to https://evil"]),
        (lambda *_: httpx.Response(200, text="<html>"), ["is no hub's API"]),
        (lambda *_: httpx.Response(200, json=[]), ["is no hub's API"]),
        (lambda *_: httpx.Response(200, json={"kind": "user"}), ["is no hub's API"]),
    ],
)
def test_what_a_hub_answers_instead_is_said(
    hub: SmallHub, users: Run, fail: Any, words: list[str]
) -> None:
    hub.fail = fail
    result = users("export")
    assert result.exit_code == 1
    assert result.stderr.count("error: ") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert len(result.stderr) < 2000


def test_a_token_that_does_not_show_everything_is_not_enough(hub: SmallHub, users: Run) -> None:
    hub.users["ann"] = {"name": "ann"}
    result = users("import", "--yes", listed="ann\n")
    assert result.exit_code == 1
    assert "does not show everything of a user (admin, groups)" in result.stderr


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        ({"JUPYTERHUB_URL": ""}, (), ["The hub is not named", "--hub"]),
        ({"JUPYTERHUB_API_TOKEN": ""}, (), ["holds no API token", "/hub/token"]),
        ({"JUPYTERHUB_API_TOKEN": " "}, (), ["holds no API token"]),
        ({"JUPYTERHUB_API_TOKEN": "geheim\u00df"}, (), ["holds no API token"]),
        ({}, ("--hub", "hub.example.org"), ["'hub.example.org' cannot be used"]),
        ({}, ("--hub", "https://ann:secret@hub"), ["cannot be used"]),
        ({}, ("--hub", "https://hub:port"), ["cannot be used"]),
    ],
)
def test_where_and_as_whom_must_be_said(
    hub: SmallHub,
    users: Run,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    arguments: tuple[str, ...],
    words: list[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = users("export", *arguments)
    assert result.exit_code == 2
    assert all(word in result.stderr for word in words), result.stderr
    assert hub.requests == []


@pytest.mark.parametrize("arguments", [("import",), ("import", "absent.txt"), ("import", ".")])
def test_a_file_that_is_not_there_is_a_wrong_usage(
    hub: SmallHub, users: Run, arguments: tuple[str, ...]
) -> None:
    assert users(*arguments).exit_code == 2
    assert hub.requests == []


def test_a_file_that_is_too_large_is_refused(
    hub: SmallHub, users: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_MAX_BYTES", 10)
    assert "larger than" in users("import", listed="ann\n" * 9).stderr


@pytest.mark.parametrize(
    ("named", "address"),
    [
        ("https://hub.example.org", "https://hub.example.org/hub/api"),
        ("https://hub.example.org/", "https://hub.example.org/hub/api"),
        ("https://x.org/school/hub", "https://x.org/school/hub/api"),
        ("https://x.org/school/hub/", "https://x.org/school/hub/api"),
        ("https://x.org/school", "https://x.org/school/hub/api"),
        ("http://127.0.0.1:8000/hub/api/", "http://127.0.0.1:8000/hub/api"),
    ],
)
def test_a_hub_may_be_named_in_any_usual_way(named: str, address: str) -> None:
    assert api_address(named) == address


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("https://hub.example.org", False),
        ("http://hub.example.org", True),
        ("http://10.77.0.5:8081", True),
        ("http://127.0.0.1:8000", False),
        ("http://[::1]:8000", False),
        ("http://localhost:8000", False),
    ],
)
def test_a_token_that_can_be_read_on_its_way_is_known(address: str, is_open: bool) -> None:
    assert is_in_the_open(address) is is_open


def test_a_note_says_that_the_token_goes_in_the_open(hub: SmallHub, users: Run) -> None:
    result = users("export", "--hub", "http://hub.example.org")
    assert "note: the token is sent unencrypted" in result.stderr
    assert result.exit_code == 0


def test_no_address_holds_a_token_or_a_query() -> None:
    with pytest.raises(ConfigError):
        api_address("https://token@hub")


def test_a_hub_that_never_answers_is_given_up_after_some_tries() -> None:
    tries: list[float] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async def note(seconds: float) -> None:
        tries.append(seconds)

    async def ask() -> None:
        api = HubAPI(
            "http://127.0.0.1:1/hub/api", "t", transport=httpx.MockTransport(refuse), sleep=note
        )
        try:
            await api.look()
        finally:
            await api.close()

    with pytest.raises(HubError, match="cannot be reached"):
        asyncio.run(ask())
    assert tries == [1.0, 2.0, 4.0]
