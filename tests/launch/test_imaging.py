"""Decisions about worker images, without AWS: recipe, choice, pruning; the console; a course."""

from __future__ import annotations

import io
import tarfile
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2spawner.model import InstanceState
from ec2spawner.settings import InstanceConfig
from ec2spawner.version import __version__
from launch_cluster.console import ConsoleLog, join
from launch_cluster.course import CourseFiles, read_course
from launch_cluster.imaging import (
    TAG_BASE,
    TAG_CONTENT,
    TAG_COURSE,
    TAG_JUPYTERHUB,
    TAG_NOTEBOOK_PORT,
    TAG_PACKAGE,
    TAG_SSH_PORT,
    TAG_STAMP,
    TAG_USERNAME,
    TAG_VERSION,
    Builder,
    ImageChange,
    Recipe,
    Usage,
    WorkerImage,
    age_of,
    decide,
    doubts_about_custom,
    image_tags,
    left_over,
    locked_versions,
    plan_pruning,
    recipe_of,
    take_custom,
)

RECIPE = Recipe("ami-0123456789abcdef0", "digest")


def image(number: int = 1, recipe: Recipe = RECIPE, **more: Any) -> WorkerImage:
    """An available image of ``recipe``, the newer the higher its number."""
    made = WorkerImage(
        f"ami-{number:017x}",
        f"image {number}",
        "available",
        f"2026-01-{number:02}T00:00:00.000Z",
        "x86_64",
        "/dev/sda1",
        12,
        (f"snap-{number}",),
        recipe.encrypted,
        MappingProxyType(image_tags("bio", recipe, {"jupyterhub": "6.1.1"}, {})),
    )
    return replace(made, **more)


# ---- the recipe


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe)])
def test_whatever_an_image_is_made_from_is_in_its_content_hash(name: str) -> None:
    value = getattr(RECIPE, name)
    other = not value if isinstance(value, bool) else type(value)(f"{value}1")
    assert replace(RECIPE, **{name: other}).content != RECIPE.content
    assert replace(RECIPE).content == RECIPE.content


def test_the_provisioning_gets_what_the_choices_say() -> None:
    choices = InstanceConfig(WORKER_USERNAME="ada", WORKER_SUDO=True, WORKER_SSH_PORT=2222)
    recipe = recipe_of(choices, "ami-0", "digest", None)
    assert recipe.parameters() == {
        "WORKER_USERNAME": "ada",
        "WORKER_NOTEBOOK_PORT": "8888",
        "WORKER_SSH_PORT": "2222",
        "WORKER_SUDO": "1",
    }


def test_what_the_choices_say_nothing_of_stays_as_in_the_image_in_use() -> None:
    old = replace(RECIPE, course="c" * 64, stamp="then", encrypted=False)
    taken = recipe_of(InstanceConfig(), "ami-new", "new", image(1, old))
    assert (taken.course, taken.stamp, taken.encrypted) == ("c" * 64, "then", False)
    assert (taken.base_image, taken.package) == ("ami-new", "new")
    foreign = image(1, tags=MappingProxyType({TAG_COURSE: "x"}))
    assert recipe_of(InstanceConfig(), "ami-new", "new", foreign).course == ""


def test_tags_say_what_an_image_holds_and_none_is_empty() -> None:
    tags = image_tags("bio", RECIPE, {"jupyterhub": "6.1.1"}, {"CostCenter": "4711"})
    assert tags["CostCenter"] == "4711"
    assert tags["ec2spawner:cluster"] == "bio"
    assert tags["ec2spawner:role"] == "image"  # not worker: a home's snapshot would be that
    assert tags[TAG_CONTENT] == RECIPE.content
    assert tags[TAG_JUPYTERHUB] == "6.1.1"
    assert tags[TAG_PACKAGE] == RECIPE.package
    assert (tags[TAG_USERNAME], tags[TAG_NOTEBOOK_PORT], tags[TAG_SSH_PORT]) == (
        *("jovyan", "8888", "22"),
    )
    assert not {TAG_COURSE, TAG_STAMP, "ec2spawner:jupyterlab"} & set(tags)
    assert all(tags.values())


def test_versions_are_read_from_a_lock() -> None:
    lock = "jupyterhub==6.1.1 \\\n    --hash=sha256:00\nJupyterLab==4.5 ; python_version < '4'\n"
    assert locked_versions(lock) == {"jupyterhub": "6.1.1", "jupyterlab": "4.5"}


# ---- is there one?


def test_nothing_is_done_where_new_workers_get_such_an_image() -> None:
    assert decide(RECIPE, [image()], image().image_id, 12) is None


def test_without_any_one_is_built() -> None:
    step = decide(RECIPE, [], "ami-base", 12)
    assert step
    assert (step.change, step.recipe) == (ImageChange.BUILD, RECIPE)


def test_one_that_was_built_before_is_taken_the_newest_first() -> None:
    other = image(9, replace(RECIPE, course="c"))
    step = decide(RECIPE, [image(1), image(2), other], other.image_id, 12)
    assert step
    assert (step.change, step.image_id) == (ImageChange.TAKE, image(2).image_id)


@pytest.mark.parametrize("state", ["pending", "failed", "deregistered"])
def test_one_that_cannot_be_launched_from_is_no_image_yet(state: str) -> None:
    step = decide(RECIPE, [image(state=state)], image().image_id, 12)
    assert step
    assert step.change is ImageChange.BUILD


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"base_image": "ami-new"}, "is made from ami-0123456789abcdef0"),
        ({"course": "c"}, "another course's packages"),
        ({"stamp": "now"}, "asked for anew"),
        ({"package": "other"}, "from other settings or files"),
        ({"sudo": True}, "from other settings or files"),
    ],
)
def test_the_plan_says_why_one_is_built(changed: dict[str, Any], reason: str) -> None:
    step = decide(replace(RECIPE, **changed), [image()], image().image_id, 12)
    assert step
    assert reason in step.reason


def test_an_image_of_another_version_is_built_anew() -> None:
    old = image(tags=MappingProxyType({**image().tags, TAG_VERSION: "0.0.1", TAG_CONTENT: "x"}))
    step = decide(RECIPE, [old], old.image_id, 12)
    assert step
    assert "holds version 0.0.1" in step.reason


def test_an_image_that_needs_a_larger_root_disk_is_built_anew() -> None:
    large = image(root_gib=20)
    assert decide(RECIPE, [large], large.image_id, 20) is None
    step = decide(RECIPE, [large], large.image_id, 12)
    assert step
    assert step.change is ImageChange.BUILD
    assert "needs a root disk of 20 GiB" in step.reason


def test_an_operators_own_image_is_taken_and_not_twice() -> None:
    step = take_custom("ami-mine", "ami-other")
    assert step
    assert (step.change, step.image_id) == (ImageChange.TAKE, "ami-mine")
    assert take_custom("ami-mine", "ami-mine") is None


def test_doubts_about_an_operators_own_image() -> None:
    ours = {TAG_VERSION: __version__, TAG_JUPYTERHUB: "6.1.1"}
    assert list(doubts_about_custom("ami-1", ours, "6.1.1")) == []
    (doubt,) = doubts_about_custom("ami-1", ours, "7.0")
    assert "JupyterHub 6.1.1, the hub is 7.0" in doubt
    (doubt,) = doubts_about_custom("ami-1", {**ours, TAG_VERSION: "0.0.1"}, "6.1.1")
    assert f"holds ec2spawner 0.0.1, the hub {__version__}" in doubt
    (doubt,) = doubts_about_custom("ami-1", {TAG_BASE: "x"}, "6.1.1")
    assert "does not say" in doubt
    (doubt,) = doubts_about_custom("ami-1", ours, "6.1.1", ("/dev/sdb",))
    assert "further disks (/dev/sdb)" in doubt


# ---- builders that are left over


@pytest.mark.parametrize(
    ("state", "content", "hours", "is_left"),
    [
        (InstanceState.STOPPED, "x", 1.9, False),  # perhaps a colleague's, whose image is begun
        (InstanceState.RUNNING, "x", 1.9, False),
        (InstanceState.PENDING, "x", 0, False),
        (InstanceState.STOPPED, "x", 2.1, True),
        (InstanceState.RUNNING, "x", 2.1, True),
        (InstanceState.RUNNING, RECIPE.content, 0, True),  # its image is there
    ],
)
def test_a_builder_is_left_over_when_nobody_can_wait_for_it(
    state: InstanceState, content: str, hours: float, is_left: bool
) -> None:
    found = left_over([Builder("i-1", state, content, hours * 3600)], [image()])
    assert found == (("i-1",) if is_left else ())


# ---- pruning

IMAGES = st.lists(
    st.tuples(
        st.integers(1, 28), st.sampled_from(["available", "pending", "failed"]), st.booleans()
    ),
    unique_by=lambda t: t[0],
    max_size=8,
)


@given(IMAGES, st.integers(0, 4))
def test_pruning_never_takes_what_is_used_or_made_and_keeps_the_newest(
    drawn: list[tuple[int, str, bool]], keep: int
) -> None:
    images = [image(number, state=state) for number, state, _ in drawn]
    used = {image(number).image_id for number, _, is_used in drawn if is_used}
    usage = Usage(MappingProxyType(dict.fromkeys(used, ("somebody",))))
    snapshots = ["snap-orphan", *(s for i in images for s in i.snapshots)]
    plan = plan_pruning(images, snapshots, usage, keep)
    going = {i.image_id for i in plan.images}
    assert not going & used
    assert not [i for i in plan.images if i.state == "pending"]
    kept = [i for i, _ in plan.kept]
    assert {i.image_id for i in kept} | going == {i.image_id for i in images}
    spared = [i for i in kept if i.image_id not in used and i.state == "available"]
    unused = [i for i in images if i.image_id not in used and i.state == "available"]
    assert len(spared) == min(keep, len(unused))
    gone = [i.created for i in plan.images if i.state == "available"]
    assert not gone or not spared or max(gone) < min(i.created for i in spared)
    is_making = any(i.state == "pending" for i in images)
    assert plan.snapshots == (() if is_making else ("snap-orphan",))


@pytest.mark.parametrize(
    ("created", "words"),
    [
        ("2026-03-01T10:00:00.000Z", "today"),
        ("2026-02-28T10:00:00.000Z", "1 day old"),
        ("2026-01-30T10:00:00.000Z", "30 days old"),
        ("", ""),
        ("yesterday", ""),
    ],
)
def test_an_age_in_words(created: str, words: str) -> None:
    assert age_of(created, datetime(2026, 3, 1, 12, tzinfo=timezone.utc)) == words


# ---- the console


@given(st.text(alphabet="abc\n", max_size=600), st.data())
def test_pieces_of_a_console_make_the_whole_while_they_overlap(whole: str, data: Any) -> None:
    # Lines are told apart by their numbers, as times do it on a real console.
    whole = "\n".join(f"{i} {line}" for i, line in enumerate(whole.split("\n")))
    seen = ""
    at = 0
    while at < len(whole):
        at = data.draw(st.integers(at + 1, len(whole)))
        start = data.draw(st.integers(0, max(0, len(seen) - 250)))
        seen = join(seen, whole[start:at])
        assert seen == whole[:at]
    assert join(seen, whole) == whole


def test_a_gap_in_a_console_loses_nothing_of_what_was_seen() -> None:
    assert join("first\n", "later\n") == "first\nlater\n"
    assert join("first\n", "") == "first\n"


def test_phases_are_told_once_also_behind_other_text_on_the_line() -> None:
    log = ConsoleLog()
    first = "[ 1.0] cloud-init[812]: ec2spawner-image: phase installing\n"
    assert log.add(first) == ["installing"]
    assert log.add(first) == []
    assert log.add(f"{first}ec2spawner-image: phase sealing\n") == ["sealing"]
    assert log.phase == "sealing"
    assert not log.is_over


@pytest.mark.parametrize(
    ("text", "is_done", "failure"),
    [
        ("ec2spawner-image: done\n", True, ""),
        ("ec2spawner-image: failed in provision.sh (exit code 1)\n", False, "in provision.sh"),
        ("ec2spawner-image: failed: no network\n", False, "no network"),
        ("ec2spawner-image: done\nec2spawner-image: failed late\n", False, "late"),
        ("ec2spawner-image: failed early\nec2spawner-image: done\n", True, ""),
        ("nothing that counts: done\n", False, ""),
        ("ec2spawner-image: donefailed\n", False, ""),
    ],
)
def test_the_last_word_counts(text: str, is_done: bool, failure: str) -> None:
    log = ConsoleLog()
    log.add(text)
    assert log.is_done is is_done
    assert log.failure.startswith(failure)
    assert bool(log.failure) is bool(failure)


def test_a_line_that_does_not_end_is_cut() -> None:
    log = ConsoleLog()
    log.add(f"ec2spawner-image: failed {'x' * 100_000}\n")
    assert len(log.failure) <= 300
    assert max(map(len, log.lines())) <= 300


# ---- a course


def test_a_course_is_packed_under_the_names_of_repo2docker_and_the_same_each_time(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_text("gdal-bin  # maps\nlibproj-dev=9.1\n\n")
    (tmp_path / "p").write_text("#!/bin/bash\necho hello\n")
    files = CourseFiles(apt=tmp_path / "a", post_build=tmp_path / "p")
    course, faults = read_course(files)
    assert faults == []
    assert course
    with tarfile.open(fileobj=io.BytesIO(course.data)) as tar:
        assert tar.getnames() == ["apt.txt", "postBuild"]
    (tmp_path / "a").touch()
    again, _ = read_course(files)
    assert again == course
    (tmp_path / "a").write_text("gdal-bin\n")
    other, _ = read_course(files)
    assert other
    assert other.sha256 != course.sha256


def test_without_files_there_is_no_course() -> None:
    assert read_course(CourseFiles()) == (None, [])


def test_all_faults_of_a_course_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("  \n")
    files = CourseFiles(tmp_path / "empty", tmp_path / "absent", tmp_path / "empty")
    course, faults = read_course(files)
    assert course is None
    assert len(faults) == 4
