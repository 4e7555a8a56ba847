"""A machine on which nobody works is kept up as long as its user asked, and no longer."""

from __future__ import annotations

import re
import time
from typing import Any

import requests

from .beside import Beside, Stage, Step
from .hubs import Hub, User
from .processes import eventually
from .visitors import enter

TIMEOUT_SECONDS = 6
KEPT_SECONDS = 40.0
"""A culler that begins anew waits for 17 s before its first look."""
HOUR_SECONDS = 3600.0


def ask(user: User, hours: Any, asking: User | None = None) -> requests.Response:
    """By the API, with the token of ``asking``."""
    headers = {"Authorization": f"token {(asking or user).token}"}
    path = f"ec2spawner/users/{user.path}/server/keep"
    return user.hub.api("POST", path, headers=headers, json={"hours": hours})


def known_until(hub: Hub, user: str) -> list[str | None]:
    """Of each machine of a user, as admins see it."""
    rows = hub.api("GET", "ec2spawner/machines").json()["machines"]
    return [row["kept_until"] for row in rows if row["user"] == user]


def kept_until(hub: Hub, user: str) -> str | None:
    """The same, of a user who has one machine."""
    (until,) = known_until(hub, user)
    return until


@Beside
def alive(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud, proxy=stage.proxy(), JUPYTER_NOTEBOOK_TIMEOUT=TIMEOUT_SECONDS)
    hub.start()
    ann = hub.user("ann")
    ann.start()
    asked_at = time.time()
    answer = ask(ann, KEPT_SECONDS / HOUR_SECONDS)
    assert answer.status_code == 200, answer.text
    until = answer.json()["kept_until"]
    with step("hub restarted"):
        hub.kill()
        hub.start()
        eventually(lambda: known_until(hub, "ann") == [until], 10, "the new hub knows it")
    with step("kept"):
        while time.time() < asked_at + KEPT_SECONDS - 4:
            assert ann.is_ready(), "it was stopped too early"
            time.sleep(0.5)
    with step("warned"):
        words = "this machine stops in less than a minute"
        path = "jupyterlab-notifications-extension/notifications"
        eventually(lambda: words in ann.ask("GET", path).text, 5, "JupyterLab is told")
        assert ann.is_ready()
    with step("over"):
        eventually(lambda: ann.server_model() is None, 15, "it is stopped at its time")
        assert time.time() >= asked_at + KEPT_SECONDS - 1
        ann.becomes("stopped")
        assert kept_until(hub, "ann") is None
    assert not hub.errors()


@Beside
def asking(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, KEEP_ALIVE_MAX_HOURS=3)
    hub.constants["ec2spawner.wiring:KEEPS_PER_MINUTE"] = 4
    hub.start()
    ann, bob = hub.user("ann"), hub.user("bob")
    ann.start()
    with enter(hub, "ann") as reader:
        with step("form"):
            home = reader.go("/hub/home").text
            assert re.findall(r'<option value="(\d+)">', home) == ["1", "2", "3"]
            assert "t3.medium" in home
            done = reader.send("/hub/keep", {"server": "", "hours": "2"})
            assert done.status_code == 200
            assert done.url.endswith("/hub/home")
            assert "as ann asked" in done.text
            until = kept_until(hub, "ann")
            assert until
            in_seconds = time.mktime(time.strptime(until, "%Y-%m-%dT%H:%M:%SZ")) - time.mktime(
                time.gmtime()
            )
            assert 2 * HOUR_SECONDS - 60 < in_seconds <= 2 * HOUR_SECONDS
        with step("refused"):
            forged = reader.send("/hub/keep", {"server": "", "hours": "1"}, with_xsrf=False)
            assert forged.status_code == 403
            for hours in ("4", "-1", "nan", "inf", "soon", ""):
                answer = reader.send("/hub/keep", {"server": "", "hours": hours})
                assert answer.status_code == 400, hours
                assert "at most 3 hours" in answer.text
                assert 'href="/hub/home"' in answer.text
            assert reader.send("/hub/keep", {"server": "none", "hours": "1"}).status_code == 404
            for wrong in (4, -1, 0, True, "1", None, [1], {"a": 1}):
                assert ask(ann, wrong).status_code == 400, wrong
            assert ask(ann, 1, asking=bob).status_code == 404
            assert kept_until(hub, "ann") == until
        with step("by an admin"):
            path = "ec2spawner/users/ann/server/keep"
            answer = hub.api("POST", path, json={"hours": 1})
            assert answer.json()["kept_by"] == "the service test"
            assert "as the service test asked" in reader.go("/hub/home").text
        with step("no answer"):
            before = kept_until(hub, "ann")
            machine = ann.worker()["id"]
            hub.cloud.on_worker(machine, "cut-network")
            answer = ask(ann, 2)
            assert answer.status_code == 503
            assert "does not answer" in answer.json()["message"]
            assert kept_until(hub, "ann") == before
            hub.cloud.on_worker(machine, "restore-network")
        with step("no longer"):
            done = reader.send("/hub/keep", {"server": "", "hours": "1", "end": "1"})
            assert done.url.endswith("/hub/home")
            assert "Kept up" not in done.text
            assert kept_until(hub, "ann") is None
        with step("too often"):
            answer = ask(ann, 2)
            assert answer.status_code == 429
            assert int(answer.headers["Retry-After"]) <= 60
    with step("ended"):
        assert [line for line in hub.errors() if " 503 POST " not in line] == []


def test_it_outlives_a_hub_that_was_killed() -> None:
    alive.outcome("hub restarted")


def test_an_idle_machine_stays_up_for_the_time_that_was_asked_for() -> None:
    alive.outcome("kept")


def test_jupyterlab_is_told_before_it_is_stopped() -> None:
    alive.outcome("warned")


def test_it_is_stopped_when_that_time_is_over() -> None:
    alive.outcome("over")


def test_the_home_page_offers_what_is_allowed_and_says_what_holds() -> None:
    asking.outcome("form")


def test_more_than_is_allowed_others_servers_and_forged_forms_are_refused() -> None:
    asking.outcome("refused")


def test_whoever_asked_is_named() -> None:
    asking.outcome("by an admin")


def test_a_machine_that_does_not_answer_is_told_and_changes_nothing() -> None:
    asking.outcome("no answer")


def test_a_promise_can_be_taken_back() -> None:
    asking.outcome("no longer")


def test_asking_again_and_again_is_refused_for_a_while() -> None:
    asking.outcome("too often")
    asking.outcome("ended")
