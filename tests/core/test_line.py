"""Who waits for EC2's limits: the place in line, and the words for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.fakes import FakeCloud
from core.kit import Hub, until
from core.virtual import in_virtual_time
from ec2spawner import story
from ec2spawner.line import Line
from ec2spawner.model import TAG_OWNER, Owner
from ec2spawner.sights import Sight
from ec2spawner.throttle import ON_WAIT, Throttle


def test_places_are_in_the_order_of_turns() -> None:
    line = Line()
    assert line.place("ann") is None
    line.enter(["ann"], 30.0)
    line.enter(["bob", "cem"], 20.0)  # in one call
    assert line.place("bob") == line.place("cem") == (1, 20.0)
    assert line.place("ann") == (3, 30.0)
    line.leave(["bob", "cem", "nobody"])
    assert line.place("ann") == (1, 30.0)
    line.leave(["ann"])
    assert line.place("ann") is None


def test_places_are_told_as_people_say_them() -> None:
    assert [story.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 101, 111)] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "101st", "111th")
    ]
    assert story.in_line(12, 29.0) == "You are 12th in line for the Amazon cloud, about 30 s."


class LimitedCloud(FakeCloud):
    """Its claims are held back as the gateway holds them back."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._throttle = Throttle(0.0)

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        wait = self._throttle.reserve("CreateTags", 0, asyncio.get_running_loop().time())
        on_wait = ON_WAIT.get()
        if wait and on_wait:
            on_wait(wait)
        await asyncio.sleep(wait)
        await super().tag(ids, tags)


@in_virtual_time
async def test_a_large_class_reads_whose_turn_is_when(tmp_path: Path) -> None:
    cloud = LimitedCloud(boot_seconds=1.0)
    hub = Hub(cloud, tmp_path)
    users = [f"user{number}" for number in range(200)]
    logins = [asyncio.ensure_future(hub.log_in(user)) for user in users]

    def in_line() -> dict[str, Sight]:
        sights = {user: hub.fleet.sight(Owner(user)) for user in users}
        return {user: sight for user, sight in sights.items() if sight.stage == "in-line"}

    await until(lambda: len(in_line()) > 30, 20)  # 100 at once, then ten a second
    waiting = in_line()
    last = max(waiting.values(), key=lambda s: s.place)
    assert abs(last.seconds - last.place / 10) < 1
    told = {u: asyncio.get_running_loop().time() + s.seconds for u, s in waiting.items()}
    workers = await asyncio.gather(*logins)
    assert len({w.instance_id for w in workers}) == len(users)
    tagged = {tags[TAG_OWNER]: at for at, name, (_, tags) in _claims(cloud)}
    for user, at in told.items():
        assert abs(tagged[Owner(user).key] - 1_000_000 - at) < 1.0
    assert hub.fleet.sight(Owner("user7")).stage == "running"


def _claims(cloud: FakeCloud) -> list[tuple[float, str, tuple[object, Mapping[str, str]]]]:
    return [c for c in cloud.calls if c[1] == "CreateTags" and TAG_OWNER in c[2][1]]
