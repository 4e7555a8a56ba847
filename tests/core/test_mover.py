"""The last look before each step of a move: EC2's own tags decide, not what a listing showed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.fakes import RUNNING, FakeCloud
from core.virtual import clock, in_virtual_time
from ec2spawner.actions import (
    CallOffMove,
    CopyHome,
    EndMove,
    FollowSource,
    GiveUpCopy,
    MoveStep,
    SaveHome,
)
from ec2spawner.calls import Calls
from ec2spawner.errors import WrongState
from ec2spawner.listing import Listing
from ec2spawner.model import (
    TAG_DELETED,
    TAG_GENERATION,
    TAG_MOVED_FROM,
    TAG_MOVED_TO,
    TAG_MOVING,
    TAG_OWNER,
    TAG_REPLACED,
    TAG_USER,
    Origin,
    Owner,
)
from ec2spawner.mover import Mover

ANN, BOB = Owner("ann"), Owner("bob")
MOVE = "77.000"
MARK = {TAG_MOVING: MOVE}
GONE = {TAG_REPLACED: "9 moved"}
TO = {**GONE, TAG_MOVED_TO: "vol-00002"}


class Scene:
    """Ann's home, and its copy in zone b, as they are in EC2."""

    def __init__(self, source: dict[str, str], copy: dict[str, str]) -> None:
        self.cloud = FakeCloud(snapshot_seconds=0.0)
        self.looks = 0
        self.source = self.cloud.put_volume({TAG_OWNER: ANN.key, **source})
        origin = Origin(self.source, 3, MOVE).to_tag()
        self.copy = self.cloud.put_volume({TAG_MOVED_FROM: origin, **copy}, zone="b")
        self.mover = Mover(
            self.cloud,
            Calls(clock, Listing),
            {"Owner": "school"},
            clock=clock,
            until_answered=self.answered,
            look_again=self.look,
        )
        self.steps: dict[str, MoveStep] = {
            "save": SaveHome(self.source, MOVE, "", ANN.key, ()),
            "end": EndMove(self.source, MOVE, "", ANN, self.copy),
            "call off": CallOffMove(self.source, MOVE, "", (), (self.copy,)),
            "follow": FollowSource(self.source, MOVE, "", self.copy),
            "give up": GiveUpCopy(self.source, MOVE, "", self.copy),
        }

    @staticmethod
    async def answered(call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    def look(self) -> None:
        self.looks += 1

    def tags(self) -> tuple[Any, Any]:
        return dict(self.cloud.tags(self.source)), dict(self.cloud.tags(self.copy))


@pytest.mark.parametrize(
    ("step", "source", "copy"),
    [
        ("save", {TAG_DELETED: "9 row"}, {}),
        ("save", GONE, {}),
        ("save", {TAG_OWNER: BOB.key}, {}),
        ("save", {TAG_MOVING: "another"}, {}),
        ("end", {}, {}),
        ("end", {TAG_MOVING: "another"}, {}),
        ("end", {**MARK, TAG_DELETED: "9 row"}, {}),
        ("end", {**MARK, **GONE}, {}),
        ("end", {**MARK, TAG_OWNER: BOB.key}, {}),
        ("end", MARK, {TAG_OWNER: BOB.key}),
        ("end", MARK, {TAG_DELETED: "9 row"}),
        ("end", MARK, GONE),
        ("end", MARK, {TAG_MOVED_FROM: "vol-1 1 another"}),
        ("call off", {TAG_MOVING: "another"}, {}),
        ("call off", MARK, {TAG_OWNER: ANN.key}),
        ("call off", {**MARK, TAG_MOVED_TO: "vol-9"}, {}),
        ("follow", {**GONE, TAG_MOVED_TO: "vol-9"}, {TAG_OWNER: BOB.key}),
        ("follow", TO, {TAG_OWNER: BOB.key, TAG_GENERATION: "4"}),
        ("follow", TO, {TAG_OWNER: BOB.key, TAG_DELETED: "9 row"}),
        ("give up", MARK, {TAG_OWNER: ANN.key}),
        ("give up", {}, {TAG_OWNER: ANN.key, TAG_GENERATION: "4"}),
        ("give up", TO, {TAG_OWNER: ANN.key}),
    ],
)
@in_virtual_time
async def test_a_step_is_not_taken_where_the_tags_say_otherwise(
    step: str, source: dict[str, str], copy: dict[str, str]
) -> None:
    scene = Scene(source, copy)
    before = scene.tags()
    with pytest.raises(WrongState):
        await scene.mover.carry_out(scene.steps[step])
    assert scene.tags() == before
    assert scene.looks == 1
    assert not scene.cloud.snapshots


@pytest.mark.parametrize(
    ("step", "source", "copy", "changes", "copys_changes"),
    [
        ("save", {}, {}, MARK, {}),
        ("save", MARK, {}, {}, {}),
        (
            "end",
            MARK,
            {},
            {TAG_REPLACED: "1000000 moved", TAG_MOVED_TO: "vol-00002"},
            {TAG_OWNER: ANN.key, TAG_USER: "ann"},
        ),
        (
            "end",
            MARK,
            {TAG_OWNER: ANN.key},
            {TAG_REPLACED: "1000000 moved", TAG_MOVED_TO: "vol-00002"},
            {},
        ),
        ("follow", TO, {TAG_OWNER: BOB.key}, {}, {TAG_OWNER: ANN.key}),
        (
            "follow",
            {**TO, TAG_DELETED: "9 row"},
            {TAG_OWNER: ANN.key},
            {},
            {TAG_DELETED: "9 row"},
        ),
        ("give up", {}, {TAG_OWNER: ANN.key}, {}, {TAG_REPLACED: "1000000 called-off"}),
        ("give up", MARK, {TAG_OWNER: BOB.key}, {}, {TAG_REPLACED: "1000000 called-off"}),
        (
            "give up",
            {**MARK, TAG_DELETED: "9 row"},
            {TAG_OWNER: ANN.key},
            {},
            {TAG_REPLACED: "1000000 called-off"},
        ),
    ],
)
@in_virtual_time
async def test_a_step_writes_what_makes_it_hold_and_nothing_else(
    step: str,
    source: dict[str, str],
    copy: dict[str, str],
    changes: dict[str, str],
    copys_changes: dict[str, str],
) -> None:
    scene = Scene(source, copy)
    before = scene.tags()
    await scene.mover.carry_out(scene.steps[step])
    assert scene.tags() == ({**before[0], **changes}, {**before[1], **copys_changes})


@in_virtual_time
async def test_a_home_that_somebody_has_attached_is_not_saved() -> None:
    scene = Scene({}, {})
    scene.cloud.put_instance(RUNNING, home=scene.source)
    with pytest.raises(WrongState):
        await scene.mover.carry_out(scene.steps["save"])
    assert TAG_MOVING not in scene.tags()[0]


@in_virtual_time
async def test_a_move_that_is_called_off_loses_its_snapshot_before_its_mark() -> None:
    scene = Scene(MARK, {})
    saved = await scene.cloud.snapshot(scene.source, {})
    step = CallOffMove(scene.source, MOVE, "", (saved.snapshot_id,), (scene.copy,))
    await scene.mover.carry_out(step)
    assert TAG_MOVING not in scene.tags()[0]
    assert TAG_REPLACED not in scene.tags()[1]  # it is nobody's, and goes as such
    changes = [action for _, action, _ in scene.cloud.calls if action.startswith("Delete")]
    assert changes == ["DeleteSnapshot", "DeleteTags"]


@in_virtual_time
async def test_a_copy_is_nobodys_and_says_of_what_it_is_one() -> None:
    scene = Scene(MARK, {})
    saved = await scene.cloud.snapshot(scene.source, {})
    await scene.mover.carry_out(
        CopyHome(scene.source, MOVE, "", saved.snapshot_id, "c", 10, generation=3)
    )
    (made,) = (v.seen(clock()) for v in scene.cloud.volumes.values() if v.zone == "c")
    assert made.owner is None
    assert made.origin == Origin(scene.source, 3, MOVE)
    assert made.tags["Owner"] == "school"
