"""Builds of an image that are broken off, killed or unheard: run again, they converge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch_cluster import imaging
from launch_cluster.images import Images
from launch_cluster.imaging import Builder

from .clouds import control
from .conftest import Calls, Killed
from .shops import Run, Shop, ask, break_at, made_of

STEPS = (
    *("head_object", "put_object", "run_instances", "get_console_output", "create_image"),
    *("terminate_instances", "put_parameter"),
)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_interrupted_at_any_call_it_ends_its_builder_and_converges_when_run_again(
    shop: Shop, calls: Calls, step: str, when: str
) -> None:
    course = shop.course()
    break_at(calls, step, when, KeyboardInterrupt)
    assert shop.build(*course).exit_code == 130
    if step != "terminate_instances":
        assert shop.builders() == []
    assert shop.build(*course).exit_code == 0
    assert shop.is_tidy()
    assert len(made_of(shop, course)) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_call_the_next_run_goes_on_with_what_it_left(
    shop: Shop, calls: Calls, step: str, when: str
) -> None:
    course = shop.course()
    break_at(calls, step, when, Killed)
    with pytest.raises(Killed):
        shop.build(*course)
    calls.is_dead = False
    result = shop.build(*course)
    assert result.exit_code == 0, result.stderr
    assert shop.is_tidy()
    assert len(made_of(shop, course)) == 1
    launched = calls.made.count("run_instances")
    assert launched == (2 if (step, when) == ("run_instances", "before") else 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_real_process_that_is_told_to_end_or_killed(
    shop: Shop, run: Run, number: int, code: int
) -> None:
    """SIGINT ends the builder, too; SIGKILL leaves it to the next run, which goes on with it."""
    course = shop.course()
    control("builders/next", fault="hang")
    script = "from launch_cluster.cli import main; main()"
    command = [sys.executable, "-c", script, "image", "build", shop.name, "--yes", *course]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr
        assert any(b"installing Python" in line for line in process.stderr)
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(30) == code
    left = [builder["id"] for builder in shop.builders()]
    assert len(left) == (number == signal.SIGKILL)
    if left:
        control(f"workers/{left[0]}/power-off", now=True)
    assert shop.build(*course).exit_code == 0
    assert shop.is_tidy()


def test_a_builder_that_listings_do_not_show_yet_is_not_launched_twice(
    shop: Shop, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = shop.course()
    break_at(calls, "run_instances", "after", Killed)
    with pytest.raises(Killed):
        shop.build(*course)
    calls.is_dead = False
    (left,) = shop.builders()

    async def none(self: Images) -> list[Builder]:
        return []

    monkeypatch.setattr(Images, "builders", none)
    assert shop.build(*course).exit_code == 0
    (image,) = made_of(shop, course)
    assert image["source_instance_id"] == left["id"]
    assert shop.is_tidy()


def test_interrupted_while_ec2_launches_its_builder_it_waits_for_that_and_ends_it(
    shop: Shop, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes when EC2 has the call, and no listing shows the builder yet."""

    async def none(self: Images) -> list[Builder]:
        return []

    monkeypatch.setattr(Images, "builders", none)
    control("builders/next", fault="hang")

    def interrupt_from_outside() -> None:
        calls.before.clear()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    control("faults", action="RunInstances", fault="delay", seconds=1.5)
    calls.before["run_instances"] = interrupt_from_outside
    result = shop.build(*shop.course())
    assert result.exit_code == 130
    assert "Waiting for what EC2 says of the builder" in result.stderr
    assert calls.made.count("terminate_instances") == 1
    assert shop.is_tidy()


def test_two_builds_at_once_leave_each_other_their_builder(shop: Shop, calls: Calls) -> None:
    """Of the other one it is not known whether its run lives: until it is old, it is spared."""
    control("builders/next", fault="hang")
    break_at(calls, "run_instances", "after", Killed)
    with pytest.raises(Killed):
        shop.build(*shop.course())
    calls.is_dead = False
    (other,) = shop.builders()
    result = shop.build(*shop.course())
    assert result.exit_code == 0, result.stderr
    assert f"{other['id']} of another build is left alone" in result.stderr
    assert [builder["id"] for builder in shop.builders()] == [other["id"]]
    ask(shop.gateway, "ec2", "terminate_instances", InstanceIds=[other["id"]])


def test_an_old_builder_of_other_work_that_a_killed_run_left_is_ended(
    shop: Shop, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imaging, "BUILD_MAX_SECONDS", -1.0)
    control("builders/next", fault="hang")
    break_at(calls, "run_instances", "after", Killed)
    with pytest.raises(Killed):
        shop.build(*shop.course())
    calls.is_dead = False
    (left,) = shop.builders()
    result = shop.build(*shop.course())
    assert result.exit_code == 0
    assert f"An earlier run left the builder {left['id']}" in result.stderr
    assert shop.is_tidy()


def test_a_builder_that_failed_while_nobody_looked_gives_way_to_another(
    shop: Shop, calls: Calls
) -> None:
    course = shop.course()
    control("builders/next", fault="fail")
    break_at(calls, "run_instances", "after", Killed)
    with pytest.raises(Killed):
        shop.build(*course)
    calls.is_dead = False
    (left,) = shop.builders()
    while shop.builders()[0]["state"] != "stopped":
        time.sleep(0.02)
    assert shop.build(*course).exit_code == 0
    (image,) = made_of(shop, course)
    assert image["source_instance_id"] != left["id"]
    assert shop.is_tidy()


@pytest.mark.parametrize(
    "action",
    ["PutObject", "RunInstances", "CreateImage", "PutParameter", "TerminateInstances"],
)
def test_a_lost_reply_makes_nothing_twice(shop: Shop, action: str) -> None:
    course = shop.course()
    control("faults", action=action, fault="lose-reply")
    result = shop.build(*course)
    assert result.exit_code == 0, result.stderr
    assert len(made_of(shop, course)) == 1
    assert shop.is_tidy()


@pytest.mark.parametrize("action", ["RunInstances", "CreateImage", "DescribeImages"])
def test_a_throttled_call_is_repeated(shop: Shop, action: str) -> None:
    control("faults", action=action, fault="throttle")
    assert shop.build(*shop.course()).exit_code == 0
    assert shop.is_tidy()
