"""Logins by GitHub: who comes in, who does not, what becomes of teams, and what fails in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from .clouds import Cloud
from .hubs import Hub
from .processes import Nursery
from .providers import CLIENT_ID, CLIENT_SECRET, SLOW_SECONDS, FakeGitHub
from .visitors import Visitor, words_of
from .words import assert_fit_for_a_user

REQUEST_SECONDS = 6  # for which GitHub is waited here


@pytest.fixture(scope="module")
def github() -> Iterator[FakeGitHub]:
    github = FakeGitHub()
    yield github
    github.close()


@pytest.fixture(scope="module")
def hub(stub_cloud: Cloud, folder: Path, nursery: Nursery, github: FakeGitHub) -> Iterator[Hub]:
    hub = Hub(stub_cloud, folder / "login-hub", nursery)
    hub.choices |= {
        "AUTHENTICATOR": "github",
        "PUBLIC_URL": hub.url,
        "ADMIN_USERS": ["Prof"],
        "GITHUB_ORGANIZATIONS": ["uni-bio", "uni-chem:lab"],
    }
    hub.config |= {
        "JupyterHub": {"log_level": 10},
        "GitHubLogin": {"github_url": github.url},
    }
    hub.constants["ec2spawner.loginconfig:REQUEST_SECONDS"] = REQUEST_SECONDS
    hub.environment = {"OAUTH_CLIENT_ID": CLIENT_ID, "OAUTH_CLIENT_SECRET": CLIENT_SECRET}
    yield hub.start()
    hub.close()


@pytest.fixture
def somebody(request: pytest.FixtureRequest, hub: Hub, github: FakeGitHub) -> Iterator[Any]:
    """Somebody who has not logged in yet, by name; all is well with GitHub before and after."""
    request.node.hubs = [hub]

    def come(name: str) -> Visitor:
        github.visitor = name
        return Visitor(hub)

    yield come
    github.faults.clear()
    github.members.clear()
    github.denies = False


def groups_of(hub: Hub, name: str) -> list[str]:
    groups: list[str] = hub.api("GET", f"users/{name}").json()["groups"]
    return sorted(groups)


# ---- who comes in


def test_a_name_that_an_admin_has_added_comes_in(hub: Hub, somebody: Any) -> None:
    assert hub.api("POST", "users", json={"usernames": ["ann", "bea"]}).status_code == 201
    visitor = somebody("Ann")  # GitHub's names have capitals, the hub's have none
    assert visitor.log_in("/hub/token").url == f"{hub.url}/hub/token"
    assert visitor.is_in()
    assert groups_of(hub, "ann") == []


def test_a_name_that_nobody_has_added_is_told_so(hub: Hub, somebody: Any) -> None:
    visitor = somebody("stranger")
    answer = visitor.log_in()
    assert answer.status_code == 403
    words = words_of(answer)
    assert "you are stranger" in words
    assert "Ask the people who run this hub to add it" in words
    assert not visitor.is_in()
    assert hub.api("GET", "users/stranger").status_code == 404


def test_whom_an_admin_has_removed_does_not_come_in_again(hub: Hub, somebody: Any) -> None:
    hub.api("POST", "users/gone")
    assert somebody("gone").log_in("/hub/token").status_code == 200
    assert hub.api("DELETE", "users/gone").status_code == 204
    assert somebody("gone").log_in("/hub/token").status_code == 403


def test_admins_are_those_of_the_configuration_and_of_the_userlist(hub: Hub, somebody: Any) -> None:
    prof = somebody("Prof")
    assert prof.log_in("/hub/admin").url == f"{hub.url}/hub/admin"
    added = prof.api("POST", "users", json={"usernames": ["helper"], "admin": True})
    assert added.status_code == 201, added.text
    assert somebody("helper").log_in("/hub/admin").url == f"{hub.url}/hub/admin"
    hub.api("POST", "users/eve")
    assert somebody("eve").log_in("/hub/admin").status_code == 403


# ---- organisations and teams


def test_members_of_an_organisation_and_of_a_team_come_in(
    hub: Hub, somebody: Any, github: FakeGitHub
) -> None:
    github.members = {"uni-bio": {"mia"}, "uni-chem:lab": {"mia", "lars"}, "uni-chem": {"theo"}}
    assert somebody("mia").log_in("/hub/token").status_code == 200
    assert somebody("lars").log_in("/hub/token").status_code == 200
    assert somebody("theo").log_in("/hub/token").status_code == 403
    assert groups_of(hub, "mia") == [
        *("by-membership:github", "github:uni-bio", "github:uni-chem:lab")
    ]
    assert groups_of(hub, "lars") == ["by-membership:github", "github:uni-chem:lab"]


def test_who_came_by_a_membership_comes_in_for_as_long_as_it_lasts(
    hub: Hub, somebody: Any, github: FakeGitHub
) -> None:
    github.members = {"uni-bio": {"ida"}}
    assert somebody("ida").log_in("/hub/token").status_code == 200
    github.members = {}
    assert somebody("ida").log_in("/hub/token").status_code == 403
    assert hub.api("GET", "users/ida").status_code == 200  # and so the files


def test_groups_of_the_userlist_stay_and_those_of_github_follow_it(
    hub: Hub, somebody: Any, github: FakeGitHub
) -> None:
    hub.api("POST", "users/kim")
    hub.api("POST", "groups/biology101", json={"users": ["kim"]})
    github.members = {"uni-bio": {"kim"}}
    assert somebody("kim").log_in("/hub/token").status_code == 200
    assert groups_of(hub, "kim") == ["biology101", "github:uni-bio"]
    github.members = {}
    assert somebody("kim").log_in("/hub/token").status_code == 200  # by the userlist
    assert groups_of(hub, "kim") == ["biology101"]


@pytest.mark.parametrize("fault", ["502", "403", "hangup"])
def test_where_github_does_not_tell_memberships_nothing_is_taken_away(
    hub: Hub, somebody: Any, github: FakeGitHub, fault: str
) -> None:
    hub.api("POST", "users/lea")
    github.members = {"uni-bio": {"lea", "max"}}
    for name in ("lea", "max"):
        assert somebody(name).log_in("/hub/token").status_code == 200
    github.faults["/api/v3/orgs"] = fault
    assert somebody("lea").log_in("/hub/token").status_code == 200
    assert "github:uni-bio" in groups_of(hub, "lea")
    answer = somebody("max").log_in("/hub/token")  # in by the membership alone
    assert answer.status_code == 503
    assert "does not say at the moment which groups you are in" in words_of(answer)
    assert "github:uni-bio" in groups_of(hub, "max")


@pytest.mark.parametrize("path", ["users", "users/Rita"])
def test_whom_an_admin_adds_comes_in_when_the_membership_ends(
    hub: Hub, somebody: Any, github: FakeGitHub, path: str
) -> None:
    name = "rita" if "/" in path else "rolf"
    github.members = {"uni-bio": {name}}
    assert somebody(name).log_in("/hub/token").status_code == 200
    body = {} if "/" in path else {"usernames": [name, name.upper()], "admin": True}
    prof = somebody("Prof")
    prof.log_in("/hub/admin")
    added = prof.api("POST", path, json=body)
    assert added.status_code == 201, added.text
    model = added.json() if "/" in path else added.json()[0]
    assert (model["name"], model["admin"]) == (name, "admin" in body)
    assert groups_of(hub, name) == ["github:uni-bio"]
    assert prof.api("POST", path, json=body).status_code == 409  # there is nobody to add
    github.members = {}
    assert somebody(name).log_in("/hub/token").status_code == 200


def test_some_are_new_and_some_came_by_a_membership(
    hub: Hub, somebody: Any, github: FakeGitHub
) -> None:
    github.members = {"uni-bio": {"sara"}}
    assert somebody("sara").log_in("/hub/token").status_code == 200
    assert hub.api("POST", "users", json={"usernames": ["sara", "a<b"]}).status_code == 400
    assert "by-membership:github" in groups_of(hub, "sara")  # a bad name adds nobody
    added = hub.api("POST", "users", json={"usernames": ["sara", "udo"]})
    assert (added.status_code, [user["name"] for user in added.json()]) == (201, ["udo"])
    assert groups_of(hub, "sara") == ["github:uni-bio"]


def test_who_is_added_while_a_first_login_goes_on_comes_in_for_good(
    hub: Hub, somebody: Any, github: FakeGitHub
) -> None:
    github.members = {"uni-bio": {"wim"}}
    github.faults["/api/v3/orgs"] = "slow"
    wim = somebody("wim")
    login = threading.Thread(target=wim.log_in, args=("/hub/token",))
    login.start()
    time.sleep(SLOW_SECONDS / 2)  # the hub has looked for wim, and asks for memberships now
    assert hub.api("POST", "users", json={"usernames": ["wim"]}).status_code == 201
    login.join()
    assert wim.is_in()
    assert groups_of(hub, "wim") == ["github:uni-bio"]


@pytest.mark.parametrize("name", ["a%3Cb", "...", "x" * 256])
def test_a_name_in_the_address_is_checked_too(hub: Hub, name: str) -> None:
    assert hub.api("POST", f"users/{name}").status_code == 400
    assert hub.api("GET", f"users/{name}").status_code == 404


def test_a_student_adds_nobody(hub: Hub, somebody: Any, github: FakeGitHub) -> None:
    github.members = {"uni-bio": {"timo"}}
    timo = somebody("timo")
    assert timo.log_in("/hub/token").status_code == 200
    assert timo.api("POST", "users", json={"usernames": ["timo"]}).status_code == 403
    assert timo.api("POST", "users/timo").status_code == 403
    assert "by-membership:github" in groups_of(hub, "timo")


# ---- the session


def test_logging_out_ends_the_session(hub: Hub, somebody: Any) -> None:
    hub.api("POST", "users/nora")
    visitor = somebody("nora")
    visitor.log_in("/hub/token")
    assert visitor.is_in()
    visitor.go("/hub/logout")
    assert not visitor.is_in()
    again = visitor.go("/hub/token", allow_redirects=False)
    assert again.headers["Location"].startswith("/hub/login")


@pytest.mark.parametrize(
    "next_",
    [
        "https://evil.example.org/",
        "//evil.example.org",
        r"\\evil.example.org",
        "/\\evil.example.org",
    ],
)
def test_a_login_leads_nowhere_else(hub: Hub, somebody: Any, next_: str) -> None:
    hub.api("POST", "users/olga")
    visitor = somebody("olga")
    answer = visitor.session.get(
        f"{hub.url}/hub/oauth_login", params={"next": next_}, allow_redirects=False
    )
    callback = visitor.session.get(answer.headers["Location"], allow_redirects=False)
    end = visitor.session.get(callback.headers["Location"], allow_redirects=False)
    place = end.headers["Location"]
    assert place.startswith("/")
    assert not place.startswith(("//", "/\\"))


@pytest.mark.parametrize(
    ("next_", "leads"),
    [
        ("/user/olga/lab/tree/a%20b?reset", "/user/olga/lab/tree/a%20b?reset"),
        ("/hub/token", "/hub/token"),
        ("/user/eve/x", "/hub/spawn"),
        ("/user/%65ve/x", "/hub/spawn"),
        ("https://else.example.org/user/eve/x", "/hub/spawn"),
        ("//user/eve/x", "/hub/spawn"),
        ("/hub/../user/eve/x", "/hub/spawn"),
        ("/user/olga/%2e%2e/eve/x", "/hub/spawn"),
        ("/user/olga\\..\\eve/x", "/hub/spawn"),
        ("/hub/.\t./user/eve/x", "/hub/spawn"),
    ],
)
def test_a_login_leads_to_no_server_of_another_s(
    hub: Hub, somebody: Any, next_: str, leads: str
) -> None:
    hub.api("POST", "users/olga")
    visitor = somebody("olga")
    answer = visitor.go("/hub/oauth_login", params={"next": next_}, allow_redirects=False)
    callback = visitor.session.get(answer.headers["Location"], allow_redirects=False)
    end = visitor.session.get(callback.headers["Location"], allow_redirects=False)
    assert end.headers["Location"] == leads


def test_the_callback_address_is_the_hub_s_own_whatever_the_browser_asks_for(
    hub: Hub, somebody: Any, github: FakeGitHub
) -> None:
    answer = somebody("x").session.get(
        f"{hub.url}/hub/oauth_login",
        headers={"Host": "evil.example.org"},
        allow_redirects=False,
    )
    assert "evil" not in answer.headers["Location"]
    assert f"{hub.url}/hub/oauth_callback" in unquote(answer.headers["Location"])


# ---- what fails, in words


def assert_words(answer: Any, status: int, *parts: str) -> None:
    assert answer.status_code == status, answer.text
    words = words_of(answer)
    for part in parts:
        assert part in words, words


def test_who_says_no_at_github_reads_what_to_do(hub: Hub, somebody: Any, github: Any) -> None:
    github.denies = True
    answer = somebody("pia").log_in()
    assert_words(answer, 403, "was not allowed to tell this hub who you are", "Log in again")
    assert "They said no" not in answer.text  # not the provider's words


def test_a_login_of_another_browser_or_of_long_ago_is_refused(hub: Hub, somebody: Any) -> None:
    hub.api("POST", "users/quin")
    visitor = somebody("quin")
    answer = visitor.session.get(f"{hub.url}/hub/oauth_login", allow_redirects=False)
    callback = visitor.session.get(answer.headers["Location"], allow_redirects=False)
    link = callback.headers["Location"]
    another = Visitor(hub)
    refused = another.session.get(link)
    assert_words(refused, 400, "begun in another window or too long ago", "Log in again")
    assert not another.is_in()
    assert visitor.session.get(link).status_code == 200
    again = visitor.session.get(link)  # a code and its state are good for once
    assert_words(again, 400, "begun in another window")


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        *(("/login/oauth/access_token", f) for f in ("500", "401", "garbage", "hangup")),
        *(("/api/v3/user", f) for f in ("502", "401", "garbage", "hangup")),
    ],
)
def test_a_github_that_fails_is_told_in_words(
    hub: Hub, somebody: Any, github: FakeGitHub, path: str, fault: str
) -> None:
    hub.api("POST", "users/rosa")
    github.faults[path] = fault
    visitor = somebody("rosa")
    answer = visitor.log_in()
    assert_words(answer, 503, "GitHub could not tell this hub who you are", "Try again")
    assert "<script>alert(1)" not in answer.text
    assert not visitor.is_in()
    github.faults.clear()
    assert visitor.log_in("/hub/token").status_code == 200


def test_a_github_that_is_slow_is_waited_for(hub: Hub, somebody: Any, github: FakeGitHub) -> None:
    hub.api("POST", "users/sven")
    github.faults["/api/v3/user"] = "slow"
    began = time.monotonic()
    assert somebody("sven").log_in("/hub/token").status_code == 200
    assert time.monotonic() - began >= SLOW_SECONDS


def test_a_github_that_never_answers_is_given_up(
    hub: Hub, somebody: Any, github: FakeGitHub
) -> None:
    hub.api("POST", "users/sonja")
    github.faults["/api/v3/user"] = "never"
    began = time.monotonic()
    answer = somebody("sonja").log_in("/hub/token")
    took_seconds = time.monotonic() - began
    assert_words(answer, 503, "GitHub could not tell this hub who you are", "Try again")
    assert REQUEST_SECONDS <= took_seconds < REQUEST_SECONDS + 6  # tornado's own limit is 20


def test_an_unknown_error_of_the_provider_is_told_in_our_words(hub: Hub, somebody: Any) -> None:
    visitor = somebody("tom")
    answer = visitor.go("/hub/oauth_callback?error=%3Cb%3Eserver%3C/b%3E&error_description=pay+now")
    assert_words(answer, 503, "could not tell this hub who you are")
    assert "pay now" not in answer.text
    assert "<b>server" not in answer.text


def test_what_people_read_is_fit_for_them(hub: Hub, somebody: Any, github: FakeGitHub) -> None:
    github.faults["/login/oauth/access_token"] = "500"
    words = words_of(somebody("uma").log_in())
    assert_fit_for_a_user(words[words.index("could not tell") :])


# ---- secrets


def test_no_secret_of_a_login_is_in_the_log_at_its_most_talkative(
    hub: Hub, somebody: Any, github: FakeGitHub
) -> None:
    hub.api("POST", "users/vera")
    github.members = {"uni-bio": {"vera"}}
    assert somebody("vera").log_in("/hub/token").status_code == 200
    for path in ("/login/oauth/access_token", "/api/v3/user", "/api/v3/orgs"):
        github.faults = {path: "401"}
        somebody("vera").log_in()
    log = hub.story()
    assert " 200 " in log
    assert "DEBUG" in log or "[D " in log
    leaked = [secret for secret in github.secrets() if secret in log]
    assert leaked == []


def test_no_secret_of_a_login_is_in_the_database(hub: Hub, somebody: Any, github: Any) -> None:
    hub.api("POST", "users/will")
    assert somebody("will").log_in("/hub/token").status_code == 200
    held = b"".join(path.read_bytes() for path in hub.folder.glob("*.sqlite*"))
    assert b"will" in held
    assert [secret for secret in github.secrets() if secret.encode() in held] == []
