"""A student at work: first login, files, stop, start again, and a server that dies."""

from __future__ import annotations

from .beside import Stage
from .clouds import Row
from .hubs import Hub, User, at_once
from .processes import eventually

CHANGES = ("RunInstances", "StartInstances", "StopInstances", "CreateTags", "AttachVolume")


def messages(events: list[Row]) -> list[str]:
    """The words of a spawn page, without the hub's own first ones."""
    words = [e["message"] for e in events if e.get("message")]
    assert words[0] == "Server requested"
    return words[1:]


def kill_server(user: User) -> None:
    """Kill a user's server; returns when users see that it is gone."""
    user.hub.cloud.on_worker(user.worker()["id"], "kill-server")
    eventually(lambda: user.ask("GET", "api").status_code != 200, 5, "the server is gone")


def test_a_first_login_launches_a_machine_and_the_next_one_starts_it_with_every_file(
    stage: Stage,
) -> None:
    hub = stage.hub(stage.cloud, is_forked=False).start()
    ada = hub.user("ada")
    events = ada.start()
    page = ada.ask("GET", "lab")
    assert page.status_code == 200
    assert "JupyterLab" in page.text

    words = messages(events)
    assert words[0] == "Getting a machine for you, usually 45 s."
    assert any(said.startswith("Starting the notebook server.") for said in words)
    assert len(words) >= 3
    assert len(words) == len(set(words)), words
    percentages = [e["progress"] for e in events]
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100

    first = ada.worker()
    ada.write("notes.txt", "kept")
    ada.stop()
    ada.becomes("stopped")
    ada.start()
    assert ada.worker()["id"] == first["id"]
    assert ada.read("notes.txt") == "kept"
    assert hub.errors() == []


def test_a_login_while_the_machine_stops_waits_and_starts_it(quick_hub: Hub) -> None:
    ben = quick_hub.user("ben")
    ben.start()
    first = ben.worker()
    quick_hub.cloud.control("POST", "timings", {"stopping_seconds": 2.0})
    try:
        ben.stop()
        ben.becomes("stopping")
        events = ben.start()
    finally:
        quick_hub.cloud.control("POST", "timings", {"stopping_seconds": 0.3})
    assert ben.worker()["id"] == first["id"]
    assert messages(events)[0].startswith("Starting your machine, usually ")
    assert any("just stopping" in words for words in messages(events)), events


def test_the_estimate_is_learned_from_earlier_starts(stage: Stage) -> None:
    hub = stage.hub(stage.stub_cloud).start()
    assert messages(hub.user("first").start())[0] == "Getting a machine for you, usually 45 s."
    said = messages(hub.user("second").start())[0]
    usual = said.removeprefix("Getting a machine for you, usually ").removesuffix(" s.")
    assert 1 <= int(usual) <= 15


def test_the_machine_stops_when_its_server_died(quick_hub: Hub) -> None:
    cy = quick_hub.user("cy")
    cy.start()
    kill_server(cy)
    eventually(lambda: cy.server_model() is None, 10, "the hub notices")
    cy.becomes("stopped")


def test_a_start_right_after_the_server_died_takes_no_call_that_changes_anything(
    quick_hub: Hub,
) -> None:
    dee = quick_hub.user("dee")
    dee.start()
    eventually(lambda: "ec2spawner:generation" in dee.home()["tags"], 10, "its home is marked")
    worker = dee.worker()
    before = quick_hub.cloud.calls()
    kill_server(dee)
    dee.start()
    after = quick_hub.cloud.calls()
    assert {a: after.get(a, 0) - before.get(a, 0) for a in CHANGES} == dict.fromkeys(CHANGES, 0)
    assert dee.worker() == worker


def test_a_class_that_clicks_at_once_is_launched_and_started_together(quick_hub: Hub) -> None:
    pupils = [quick_hub.user(f"pupil-{number}") for number in range(12)]
    before = quick_hub.cloud.calls()
    at_once(*(pupil.start for pupil in pupils))
    launched = quick_hub.cloud.calls()
    assert launched["RunInstances"] - before["RunInstances"] <= 3
    assert len({pupil.worker()["id"] for pupil in pupils}) == len(pupils)
    at_once(*(pupil.stop for pupil in pupils))
    for pupil in pupils:
        pupil.becomes("stopped")
    at_once(*(pupil.start for pupil in pupils))
    started = quick_hub.cloud.calls()
    assert started["StartInstances"] - launched.get("StartInstances", 0) <= 3
    assert started["RunInstances"] == launched["RunInstances"]
    at_once(*(pupil.stop for pupil in pupils))
