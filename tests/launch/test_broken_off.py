"""``up``, ``image build`` and ``down``, broken off at every call that changes something.

Each call, before and after it took effect, by Ctrl-C and by a kill: run again, the command comes to
the same end as one that nobody disturbed, and nothing is left over. That is 250 lives of a cluster,
some minutes; a third of them, in which each call and each way comes up, is done unless
EC2SPAWNER_TEST_BREAKS is ``all`` (of the change of a running cluster a seventh: its calls are the
same as those of the making). At the end, real processes are killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.settings import load_server_config
from launch_cluster import building
from launch_cluster.commands import common

from .breaking import Break, World, breaks
from .clouds import control, of_cluster
from .conftest import Calls

IS_WHOLE = os.environ.get("EC2SPAWNER_TEST_BREAKS") == "all"
STRIDE = 1 if IS_WHOLE else 3
CHANGE_STRIDE = 1 if IS_WHOLE else 7
PARTS = 8
NAME = "bio"
UP = ("up", NAME, "--yes")
BUILD = ("image", "build", NAME, "--apt", "apt.txt", "--yes")
DOWN = ("down", NAME, "--delete-homes", "--delete-hub-data", "--yes")


@dataclass(frozen=True)
class Undisturbed:
    """A command's calls, and what is there at its end."""

    calls: tuple[str, ...]
    holdings: Counter[str]

    def part(self, number: int, stride: int = STRIDE) -> list[Break]:
        """The ways to break it off that one test tries."""
        return breaks(len(self.calls), stride)[number::PARTS]


_known: dict[tuple[str, ...], Undisturbed] = {}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_builds: None) -> Iterator[World]:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(common, "CHECKOUT", folder)
    monkeypatch.setattr(building, "POLL_SECONDS", (20.0,))  # nobody waits for them
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "EC2SPAWNER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    world = World(folder, monkeypatch)
    yield world
    world.cloud.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a cluster with manager and workers is kept, once it is made."""
    return tmp_path_factory.mktemp("base")


def done(world: World, command: tuple[str, ...]) -> Result:
    result = world.run(*command)
    assert result
    assert result.exit_code == 0, result.output
    return result


def break_off(world: World, command: tuple[str, ...], end: Break) -> None:
    result = world.run(*command, end=end)
    if end.how == "killed":
        assert result is None, end
        return
    assert result, end
    assert result.exit_code == 130, f"{end}: {result.output}"
    assert "Run the same command again" in result.stderr


def undisturbed(world: World, command: tuple[str, ...]) -> Undisturbed:
    """What comes of a command; looked at once."""
    if command not in _known:
        done(world, command)
        calls = tuple(world.process.made)
        _known[command] = Undisturbed(calls, world.holdings(NAME))
    return _known[command]


def make_base(world: World, base: Path, scratch: Path) -> Callable[[], None]:
    """What brings a cluster with two workers and an image of its own back, as it was once."""
    if not (base / "now").exists():
        world.keep(base)
        done(world, UP)
        (world.folder / "apt.txt").write_text("gnuplot\n")
        config, _ = load_server_config(world.folder / "server_config.json")
        request = LaunchRequest(
            launch_template_id=config.LAUNCH_TEMPLATE_ID,
            instance_type="t3.medium",
            subnet_id=config.WORKER_SUBNETS[0].SUBNET_ID,
            count=2,
            profile="default",
            home_gib=1,
            cost_tags={},
        )
        asyncio.run(EC2(world.gateway(), NAME).launch(request, "token"))
        world.holdings(NAME)  # they have booted
        world.save(base)
    return lambda: world.restore(base, scratch)


# ---- up


@pytest.mark.parametrize("part", range(PARTS))
def test_up_broken_off_converges_by_up_and_goes_by_down(world: World, part: int) -> None:
    known = undisturbed(world, UP)
    for number, end in enumerate(known.part(part)):
        world.reset()
        break_off(world, UP, end)
        if (number + part) % 2 == 0 or IS_WHOLE:
            done(world, UP)
            assert world.holdings(NAME) == known.holdings, end
            again = done(world, UP)
            assert "nothing to do" in again.stdout, end
            assert world.process.made == [], end
        if (number + part) % 2 == 1 or IS_WHOLE:
            done(world, DOWN)
            assert world.holdings(NAME) == {}, end
            assert "Nothing to do." in done(world, DOWN).stdout, end


def test_up_makes_all_kinds_of_calls_that_are_broken_off(world: World) -> None:
    calls = Counter(undisturbed(world, UP).calls)
    assert calls["execute_change_set"] == 4  # network, cluster, manager and its machine
    wanted = {"run_instances", "create_image", "terminate_instances", "import_key_pair"}
    assert wanted | {"put_parameter", "put_object"} <= set(calls)


CHANGE = (*UP, "--ssh-cidr", "203.0.113.0/24")


@pytest.mark.parametrize("part", range(PARTS))
def test_a_change_of_a_running_cluster_broken_off_converges(
    world: World, base: Path, tmp_path: Path, part: int
) -> None:
    restore = make_base(world, base, tmp_path / "scratch")
    larger = '{"MANAGER_INSTANCE_TYPE": "m5.large", "WORKER_INSTANCE_TYPE": "m5.large"}'

    def change() -> None:
        restore()
        (world.folder / "instance_config.json").write_text(larger)

    change()
    known = undisturbed(world, CHANGE)
    assert known.calls.count("execute_change_set") == 2
    for end in known.part(part, CHANGE_STRIDE):
        change()
        break_off(world, CHANGE, end)
        done(world, CHANGE)
        assert world.holdings(NAME) == known.holdings, end
        assert "nothing to do" in done(world, CHANGE).stdout, end


# ---- image build and down


@pytest.mark.parametrize("part", range(PARTS))
def test_image_build_broken_off_builds_one_image(
    world: World, base: Path, tmp_path: Path, part: int
) -> None:
    restore = make_base(world, base, tmp_path / "scratch")
    restore()
    before = world.holdings(NAME)
    restore()
    known = undisturbed(world, BUILD)
    made = {kind: n for kind, n in (known.holdings - before).items() if "course/" not in kind}
    assert made == {"images image": 1, "snapshots image": 1}
    for end in known.part(part):
        restore()
        break_off(world, BUILD, end)
        done(world, BUILD)
        assert world.holdings(NAME) == known.holdings, end
        assert "nothing to do" in done(world, BUILD).stdout, end


@pytest.mark.parametrize("part", range(PARTS))
def test_down_broken_off_leaves_what_was_chosen_to_stay(
    world: World, base: Path, tmp_path: Path, part: int
) -> None:
    restore = make_base(world, base, tmp_path / "scratch")
    restore()
    known = undisturbed(world, DOWN)
    assert known.holdings == {"snapshots worker": 2}  # of the homes, one each
    for end in known.part(part):
        restore()
        break_off(world, DOWN, end)
        done(world, DOWN)
        assert world.holdings(NAME) == known.holdings, end
        assert "Nothing to do." in done(world, DOWN).stdout, end


# ---- real processes


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("up", "--no-manager"), "Making the stack ec2spawner-{}-network"),
        (("up", "--no-manager"), "Launched the builder"),
        (("down",), "Deleting the stack ec2spawner-{}-network"),
    ],
)
def test_a_process_that_is_killed_leaves_nothing_that_the_next_does_not_find(
    run: Callable[..., Result],
    cluster: str,
    aws: Path,
    command: tuple[str, ...],
    line: str,
    calls: Calls,
) -> None:
    """SIGKILL; image build's is in test_image_breaks."""
    if command[0] == "down":
        assert run("up", cluster, "--no-manager", "--yes").exit_code == 0
    name, *more = command
    script = "from launch_cluster.cli import main; main()"
    started = [sys.executable, "-c", script, name, cluster, *more, "--yes"]
    with subprocess.Popen(started, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr
        wanted = line.format(cluster).encode()
        assert any(wanted in said for said in process.stderr)
        process.send_signal(signal.SIGKILL)
        process.stderr.read()
        assert process.wait(30) == -signal.SIGKILL
    again = run(name, cluster, *more, "--yes")
    assert again.exit_code == 0, again.stderr
    kept = control("state")
    builders = of_cluster(kept["instances"], cluster, "builder")
    assert {b["state"] for b in builders} <= {"shutting-down", "terminated"}
    assert len(of_cluster(kept["images"], cluster, "image")) == (name == "up")
    calls.made.clear()
    assert "othing to do" in run(name, cluster, *more, "--yes").stdout
    assert calls.changing == []
