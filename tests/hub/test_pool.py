"""Spare machines: looked at over SSH, at rest or running, and taken by first logins."""

from __future__ import annotations

import re
from collections import Counter

from ec2spawner.model import TAG_PREPARED

from .beside import Beside, Stage, Step
from .hubs import Hub, at_once
from .processes import eventually


def spares(hub: Hub) -> Counter[tuple[str, bool]]:
    """How many spares are in which state, and whether they were looked at."""
    return Counter((s["state"], TAG_PREPARED in s["tags"]) for s in hub.view().spares)


def known(hub: Hub) -> Counter[str]:
    """The same as the hub knows it, which is what it decides by: its listing is a little older."""
    found = re.findall(
        r'ec2spawner_spares\{.*readiness="(\w+)"\} (\d+)', hub.api("GET", "metrics").text
    )
    return +Counter({readiness: int(count) for readiness, count in found})


@Beside
def pool(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud, POOL_RUNNING=1, POOL_STOPPED=1, REAPER_GRACE_SECONDS=2).start()
    kept = Counter({("running", True): 1, ("stopped", True): 1})
    with step("kept"):
        eventually(lambda: spares(hub) == kept, 40, "one spare runs and one rests")
        both = Counter(ready=1, rested=1)
        eventually(lambda: known(hub) == both, 40, "the hub knows that one runs and one rests")
    with step("taken"):
        ids = {s["state"]: s["id"] for s in hub.view().spares}
        ann, bob = hub.user("ann"), hub.user("bob")
        at_once(ann.start, bob.start)
        assert {ann.worker()["id"], bob.worker()["id"]} == set(ids.values())
        ann.write("first.txt", "here")
        assert ann.read("first.txt") == "here"
        assert bob.read("first.txt") is None
    with step("topped up"):
        eventually(lambda: spares(hub) == kept, 60, "the pool is full again")
        launches = hub.cloud.calls()["RunInstances"]
    with step("kept by the next hub"):
        hub.kill()
        hub.start()
        hub.user("cem").start()
        eventually(lambda: spares(hub) == kept, 60, "the pool is full again")
        assert hub.cloud.calls()["RunInstances"] <= launches + 1
    assert not hub.errors()


def test_spares_are_looked_at_and_then_run_or_rest() -> None:
    pool.outcome("kept")


def test_first_logins_take_spares() -> None:
    pool.outcome("taken")


def test_the_pool_is_filled_again_also_by_the_next_hub() -> None:
    pool.outcome("topped up")
    pool.outcome("kept by the next hub")
