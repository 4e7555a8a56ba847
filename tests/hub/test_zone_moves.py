"""A zone without machines: the home is copied to another one, and its user goes on there."""

from __future__ import annotations

from .beside import Beside, Stage, Step
from .clouds import Row
from .hubs import Hub

PROFILES = [{"SLUG": "rare", "NAME": "Rare", "INSTANCE_TYPES": ["c5.large"]}]


def no_room(hub: Hub, *zones: str) -> None:
    """These zones have no machines of the type that nobody else uses here."""
    rules = [{"type": "c5.large", "zone": zone, "max_running": 0} for zone in zones]
    hub.cloud.control("POST", "capacity", {"rules": rules})


def current(homes: list[Row]) -> list[Row]:
    """The homes that have not moved."""
    return [home for home in homes if "ec2spawner:replaced" not in home["tags"]]


@Beside
def move(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud, PROFILES=PROFILES, ALLOW_ZONE_MOVE=True).start()
    ann = hub.user("ann")
    ann.start()
    ann.write("thesis.txt", "chapter 1")
    before, first = ann.home(), ann.worker()
    ann.stop()
    ann.becomes("stopped")
    no_room(hub, before["zone"])
    try:
        with step("moved"):
            words = [e["message"] for e in ann.start(seconds=60.0) if e.get("message")]
            (home,) = current(ann.homes())
            (machine,) = (w for w in ann.workers() if w["state"] == "running")
            assert home["zone"] == machine["zone"] != before["zone"]
            assert machine["id"] != first["id"]
            assert ann.read("thesis.txt") == "chapter 1"
            assert any("copying them to another place" in said for said in words), words
            ann.write("thesis.txt", "chapter 2")
    finally:
        no_room(hub)
    with step("stays there"):
        ann.stop()
        hub.kill()
        hub.start()
        ann.start()
        assert ann.read("thesis.txt") == "chapter 2"
        (after,) = current(ann.homes())
        assert after["id"] == home["id"]
        assert after["tags"]["ec2spawner:generation"] == "2"
    assert not hub.errors()


def test_who_meets_a_zone_without_machines_goes_on_in_another_one_with_every_file() -> None:
    move.outcome("moved")


def test_the_home_stays_where_it_has_moved_to() -> None:
    move.outcome("stays there")
