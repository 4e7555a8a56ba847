"""Two hubs on one cluster: the second says so and writes nothing, until the first one ends."""

from __future__ import annotations

import re
import time
from typing import Any

from .beside import Beside, Stage, Step
from .hubs import Hub, at_once
from .processes import eventually
from .words import assert_fit_for_a_user

ANOTHER = "Another hub serves this cluster"
CALL = re.compile(r'ec2spawner_aws_calls_total\{action="(\w+)",outcome="([\w-]+)"\} (\d+)')
SHORT_LEASE: dict[str, Any] = {
    "ec2spawner.tenancy:LEASE_SECONDS": 4.0,
    "ec2spawner.tenancy:MARGIN_SECONDS": 1.0,
    "ec2spawner.lease:RENEW_SECONDS": 1.0,
    "ec2spawner.lease:LOOK_SECONDS": 0.3,
}


def metrics(hub: Hub) -> str:
    return str(hub.api("GET", "metrics").text)


def written(hub: Hub) -> list[tuple[str, str]]:
    """Actions and outcomes of the hub's AWS calls that are no reads."""
    calls = CALL.findall(metrics(hub))
    assert ("DescribeInstances", "ok") in [call[:2] for call in calls], "calls are counted"
    return [call[:2] for call in calls if not call[0].startswith(("Describe", "Get"))]


def holds(hub: Hub) -> bool:
    return "\nec2spawner_lease_held 1.0\n" in metrics(hub)


def beside(stage: Stage, first: Hub) -> Hub:
    """Another hub on the cluster, not started, with folder, database and journal of its own."""
    hub = stage.hub(stage.stub_cloud, REAPER_GRACE_SECONDS=1)
    hub.cluster = first.cluster
    return hub


@Beside
def scenario(stage: Stage, step: Step) -> None:
    first = stage.hub(stage.stub_cloud, proxy=stage.proxy(), REAPER_GRACE_SECONDS=1).start()
    ada = first.user("ada")
    ada.start()
    second = beside(stage, first).start()
    with step("says so"):
        eventually(lambda: ANOTHER in second.page(), 10, "the page says so")
        for name in ("ada", "newcomer"):  # one whose worker runs, and one who has none
            message = second.user(name).fail_to_start()
            assert message.startswith(ANOTHER)
            assert_fit_for_a_user(message)
        assert any("Stop one of both" in line for line in second.errors()), second.errors()
        assert ANOTHER not in first.page()
    with step("writes nothing"):
        time.sleep(3)  # longer than its grace: to it, ada's worker is nobody's
        assert written(second) == [("PutObject", "condition")], "it asked whether it is alone"
        assert not holds(second)
    with step("the first goes on"):
        assert ada.is_ready()
        assert ada.ask("GET", "api").status_code == 200
        ben = first.user("ben")
        at_once(ben.start, ada.stop)
        ada.becomes("stopped")
        assert holds(first)
        assert first.errors() == []
    with step("takes over at its end"):
        first.stop()
        eventually(lambda: holds(second), 10, "the second has the lease")
        assert ANOTHER not in second.page()
        second.user("ada").start()
        one, other = ({w["id"] for w in hub.view().alive} for hub in (first, second))
        assert one == other  # their states change meanwhile
    with step("is then the first"):
        first.start()
        eventually(lambda: ANOTHER in first.page(), 10, "the page says so")
        assert holds(second)


def test_a_second_hub_says_so_on_its_pages_in_its_log_and_to_who_waits() -> None:
    scenario.outcome("says so")


def test_a_second_hub_changes_nothing() -> None:
    scenario.outcome("writes nothing")


def test_the_first_hub_goes_on_beside_it() -> None:
    scenario.outcome("the first goes on")


def test_a_hub_that_ends_in_order_leaves_the_cluster_to_the_other_one() -> None:
    scenario.outcome("takes over at its end")


def test_a_hub_that_comes_back_finds_the_other_one_serving() -> None:
    scenario.outcome("is then the first")


@Beside
def killed(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, proxy=stage.proxy()).start()
    cleo = hub.user("cleo")
    cleo.start()
    for round_ in range(2):
        hub.kill()
        begun = time.monotonic()
        hub.start()
        hub.user(f"dan{round_}").start()
        assert cleo.is_ready()
        assert time.monotonic() - begun < 20, "with all of the hub's start: no lease is waited for"
        assert holds(hub)
    assert hub.story().count("Took the lease over from process") == 2
    assert hub.errors() == []


def test_a_killed_hub_that_is_restarted_serves_at_once() -> None:
    killed.outcome()


@Beside
def elsewhere(stage: Stage, step: Step) -> None:
    first = stage.hub(stage.stub_cloud, proxy=stage.proxy())
    second = beside(stage, first)
    for hub in (first, second):
        hub.constants.update(SHORT_LEASE)
        boot = hub.folder / "boot-id"  # as on a machine of its own
        boot.write_text(f"{hub.folder.name}\n")
        hub.constants["ec2spawner.identity:BOOT_ID"] = str(boot)
    first.start()
    eventually(lambda: holds(first), 5, "the first has the lease")
    second.start()
    eventually(lambda: ANOTHER in second.page(), 10, "the second says so")
    first.kill()
    begun = time.monotonic()
    eventually(lambda: holds(second), 15, "the second has the lease")
    assert time.monotonic() - begun > 2, "it cannot know that the first is gone, and waits"
    second.user("eve").start()
    assert len(written(second)) > 2


def test_a_hub_on_another_machine_takes_over_after_the_lease_time() -> None:
    elsewhere.outcome()
