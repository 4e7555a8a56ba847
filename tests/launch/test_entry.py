"""What ``up`` says of logins while something of them is missing, and the hub that waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ec2spawner.errors import Denied, Unreachable
from ec2spawner.settings import InstanceConfig
from launch_cluster import answering
from launch_cluster.answering import Answer, HubSilent, Site, Want, wait_for_hub
from launch_cluster.entry import (
    Entry,
    client_parameters,
    entry_of,
    first_things,
    of_client,
    want_of,
)
from launch_cluster.facts import Facts
from launch_cluster.reporter import Reporter

from .conftest import Calls
from .test_hosting import ASKED, Clock, with_stack

Run = Callable[..., Result]
ID, SECRET = client_parameters("bio")
SITE = Site("198.51.100.7")
GITHUB = Entry("bio", "us-east-1", "github", has_admins=True, lacks=(ID, SECRET))
PUT_ID = (
    "aws ssm put-parameter --region us-east-1 --type SecureString --name"
    " /ec2spawner/bio/oauth-client-id --value ID"
)
PUT_SECRET = (
    "aws ssm put-parameter --region us-east-1 --type SecureString --name"
    " /ec2spawner/bio/oauth-client-secret --value file://secret.txt"
)


# ---- decisions


def test_whoever_waits_reads_address_callback_and_both_commands() -> None:
    want = want_of(GITHUB, SITE)
    assert want
    assert "Address: 198.51.100.7" in want.lines
    assert "OAuth callback URL: http://198.51.100.7/hub/oauth_callback" in want.lines
    assert (f"  {PUT_ID}", f"  {PUT_SECRET}") == want.lines[-3:-1]
    assert want.next_step.startswith("The OAuth application's client is missing.")
    for word in (PUT_ID, PUT_SECRET, SITE.callback):
        assert word in want.next_step
    assert "--replace-manager" not in want.next_step


def test_of_a_domain_the_record_to_make_is_told_as_well() -> None:
    want = want_of(GITHUB, Site("198.51.100.7", "hub.org"))
    assert want
    assert "Let hub.org point to 198.51.100.7 (an A record)." in want.lines
    assert "OAuth callback URL: https://hub.org/hub/oauth_callback" in want.lines


def test_only_the_half_that_is_missing_is_asked_for() -> None:
    assert replace(GITHUB, lacks=(SECRET,)).commands == [PUT_SECRET]


@pytest.mark.parametrize(
    "entry", [replace(GITHUB, lacks=()), replace(GITHUB, authenticator="")], ids=["there", "none"]
)
def test_a_hub_that_can_start_wants_nothing(entry: Entry) -> None:
    assert want_of(entry, SITE) is None


def test_first_comes_what_lets_people_in() -> None:
    empty = replace(GITHUB, authenticator="", has_admins=False)
    first, client, again = first_things(empty, SITE)
    assert first.startswith("Set AUTHENTICATOR and ADMIN_USERS in instance_config.json")
    assert "nobody can log in" in first
    for word in (SITE.callback, PUT_ID, PUT_SECRET):
        assert word in client
    assert again.endswith("launch-cluster up bio")
    assert len(first_things(replace(empty, lacks=()), SITE)) == 2
    first, _again = first_things(replace(GITHUB, has_admins=False), SITE)
    assert first.startswith("Set ADMIN_USERS in instance_config.json")
    assert first_things(replace(GITHUB, lacks=()), SITE) == []


def chosen(**choices: Any) -> Any:
    return replace(ASKED, choices=InstanceConfig(**choices))


def test_what_was_edited_after_the_launch_counts_where_the_choices_are_silent() -> None:
    facts = with_stack(lacks=(ID,))

    class Recorded:
        AUTHENTICATOR, ADMIN_USERS = "google", ("ann",)

    recorded: Any = Recorded()
    facts = replace(facts, recorded=recorded)
    entry = entry_of(ASKED, facts)
    assert (entry.authenticator, entry.has_admins, entry.is_shut) == ("google", True, True)
    entry = entry_of(chosen(AUTHENTICATOR=""), facts)
    assert (entry.authenticator, entry.has_admins, entry.is_shut) == ("", True, False)


def test_a_missing_client_is_a_note_and_says_more_where_a_manager_lives() -> None:
    asked = chosen(AUTHENTICATOR="github")
    assert not list(of_client(ASKED, with_stack(lacks=(ID, SECRET))))
    assert not list(of_client(asked, with_stack()))
    assert not list(of_client(replace(asked, manager=None), Facts("1")))
    (new,) = of_client(asked, with_stack(lacks=(ID, SECRET), lives=False))
    assert PUT_ID in str(new)
    assert "`up` prints its callback URL before it waits" in str(new)
    (living,) = of_client(asked, with_stack(lacks=(ID, SECRET)))
    assert PUT_SECRET in str(living)
    assert "goes back to its former settings" in str(living)


# ---- the wait


async def waited(wants: list[Want | None], answers: list[Answer]) -> Answer:
    clock, left, seen = Clock(), iter(wants), iter(answers)

    async def said() -> str:
        return "ec2spawner-manager: phase services"

    async def find_want() -> Want | None:
        return next(left, None)

    return await wait_for_hub(
        SITE,
        said,
        Reporter(),
        find_want=find_want,
        look=lambda site: next(seen, Answer(False)),
        sleep=clock.sleep,
        clock=clock,
    )


WANT = Want("waits for a client", ("put it",), "The client is missing.")


async def test_what_the_hub_wants_is_said_once_and_in_each_line_of_progress(capsys: Any) -> None:
    answers = [Answer(False)] * 30 + [Answer(True)]
    assert await waited([WANT] * 9, answers) == Answer(True)
    shown = capsys.readouterr()
    assert shown.out == "put it\n"
    assert "hub at http://198.51.100.7: waits for a client; services, 10 s\n" in shown.err


async def test_at_the_bound_the_advice_is_what_is_missing_then() -> None:
    with pytest.raises(HubSilent) as caught:
        await waited([WANT] * 999, [])
    assert caught.value.next_step == WANT.next_step
    with pytest.raises(HubSilent) as caught:
        await waited([WANT] * 5, [])  # it was given meanwhile
    assert "--replace-manager" in caught.value.next_step
    assert caught.value.next_step == answering.SILENT_ADVICE


async def test_of_a_hub_that_answers_at_once_nothing_is_said(capsys: Any) -> None:
    """Its environment has the client."""
    assert await waited([WANT], [Answer(True)]) == Answer(True)
    assert capsys.readouterr().out == ""


# ---- the command, in the emulated cloud


@pytest.fixture
def up(run: Run, aws: Path, cluster: str, calls: Calls) -> Run:
    def up(*more: str, **choices: Any) -> Result:
        (aws / "instance_config.json").write_text(json.dumps(choices))
        return run("up", cluster, "--vpc-cidr", "127.79.0.0/16", "--yes", *more)

    return up


@pytest.fixture
def ssm(aws: Path, shared_session: Any) -> Any:
    return shared_session.client("ssm", region_name="us-east-1")


def put(ssm: Any, cluster: str) -> None:
    for name in client_parameters(cluster):
        ssm.put_parameter(Name=name, Value="x", Type="SecureString")


def looks(calls: Calls, cluster: str) -> int:
    """How often the client was looked for."""
    names = {"Names": list(client_parameters(cluster))}
    return calls.requests.count(("get_parameters", names))


def test_up_says_how_to_give_the_client_before_it_waits_and_ends_when_it_is_there(
    up: Run, cluster: str, ssm: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give() -> None:
        """Whoever runs the command does so once it has said how, and looks again."""
        if looks(calls, cluster) == 3:
            put(ssm, cluster)

    def fail() -> None:
        if looks(calls, cluster) == 2:
            raise Unreachable("AWS did not answer.", next_step="Check the network.")

    monkeypatch.setattr(answering, "CONSOLE_EVERY_SECONDS", 0.2)
    calls.before["get_parameters"] = fail  # what was seen before holds
    calls.after["get_parameters"] = give
    result = up(AUTHENTICATOR="github", ADMIN_USERS=["ann"])
    assert result.exit_code == 0, result.stderr
    assert looks(calls, cluster) >= 3
    before, after = result.stdout.split("The hub answers at")
    for name in client_parameters(cluster):
        assert f"--type SecureString --name {name} --value" in before
        assert name not in after
    assert "OAuth callback URL: http://127.78." in before
    assert "1. Log in at" in after
    assert "is missing in SSM" not in up(AUTHENTICATOR="github", ADMIN_USERS=["ann"]).stderr


def test_without_a_client_the_command_ends_with_that_and_the_next_run_waits_on(
    up: Run, cluster: str, ssm: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = {"AUTHENTICATOR": "github", "ADMIN_USERS": ["ann"]}
    with monkeypatch.context() as patch:
        patch.setattr(answering, "WAIT_SECONDS", 1.0)
        for code in (3, 1):  # partly done; then nothing is left to do
            result = up(**choices)
            assert result.exit_code == code
            assert "Next: The OAuth application's client is missing." in result.stderr
            assert "--replace-manager" not in result.stderr
            assert "OAuth callback URL: http://127.78." in result.stdout
    put(ssm, cluster)
    calls.made.clear()
    result = up(**choices)
    assert (result.exit_code, calls.changing) == (0, []), result.stderr
    assert "is missing" not in result.stderr


def test_doctor_and_plan_note_a_missing_client(
    up: Run, run: Run, aws: Path, cluster: str, calls: Calls, ssm: Any
) -> None:
    (aws / "instance_config.json").write_text('{"AUTHENTICATOR": "google"}')
    for command in ("doctor", "plan"):
        calls.requests.clear()
        result = run(command, cluster)
        assert result.exit_code == 0, result.stderr
        words = "note: The OAuth client of AUTHENTICATOR google is missing in SSM"
        assert words in result.stdout + result.stderr
        assert looks(calls, cluster) == 1
    put(ssm, cluster)
    assert "is missing in SSM" not in run("doctor", cluster).stdout


def test_nothing_is_claimed_by_whoever_may_not_look(
    run: Run, aws: Path, cluster: str, calls: Calls
) -> None:
    def refuse() -> None:
        raise Denied("No.", next_step="Ask.")

    (aws / "instance_config.json").write_text('{"AUTHENTICATOR": "google"}')
    calls.before["get_parameters"] = refuse
    result = run("doctor", cluster)
    assert result.exit_code == 0, result.stderr
    assert looks(calls, cluster) == 1
    assert "is missing in SSM" not in result.stdout


def test_who_follows_what_comes_next_gets_in(
    up: Run, aws: Path, cluster: str, ssm: Any, calls: Calls
) -> None:
    """First nothing is chosen; then all that the first run has named is done, in its order."""
    result = up("--output", "json")
    assert result.exit_code == 0, result.stderr
    first, client, again, _login, _https = json.loads(result.stdout)["next"]
    assert first.startswith("Set AUTHENTICATOR and ADMIN_USERS in instance_config.json")
    put(ssm, cluster)
    assert all(name in client for name in client_parameters(cluster))
    assert again.endswith(f"launch-cluster up {cluster}")
    result = up("--output", "json", AUTHENTICATOR="github", ADMIN_USERS=["ann"])
    assert result.exit_code == 0, result.stderr
    assert "the manager has its settings" in result.stderr
    assert json.loads(result.stdout)["next"][0].startswith("Log in at")


def test_how_to_give_the_client_is_said_too_where_a_manager_that_lives_is_to_need_it(
    up: Run, cluster: str, calls: Calls
) -> None:
    assert up().exit_code == 0
    result = up(AUTHENTICATOR="github", ADMIN_USERS=["ann"])
    assert "goes back to its former settings" in result.stderr
    shown, _ = result.stdout.split("The hub answers")
    for name in client_parameters(cluster):
        assert f"--name {name} --value" in shown
