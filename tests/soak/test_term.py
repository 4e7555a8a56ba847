"""A class's term on the emulated cloud, in which everything happens that can; see ``story``.

The same stories at each run. For others, and for as long as you like: ``make soak``.
"""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test

from soak.runs import settings_for
from soak.story import Story, told
from soak.wires import WholeWorld

STORIES, STEPS = 26, 90
LEAST_STEPS = 2000


class WholeStory(Story):
    """The same by way of boto3, forms and XML, which takes ten times as long."""

    world_of = WholeWorld


def test_nobody_gets_two_machines_or_anothers_files_and_nothing_runs_unwanted() -> None:
    before = told["steps"]
    run_state_machine_as_test(Story, settings=settings_for(STORIES, STEPS))
    assert told["steps"] - before >= LEAST_STEPS


def test_the_same_holds_through_boto3() -> None:
    run_state_machine_as_test(WholeStory, settings=settings_for(2, 15))
