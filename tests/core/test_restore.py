"""Homes that are brought back: what may be, and what the real reconciler makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from core.fakes import CLUSTER, RUNNING, STOPPED, TERMINATED, FakeCloud
from core.kit import POLICY, Hub, until
from core.virtual import clock, in_virtual_time
from ec2spawner.errors import CloudError, OutcomeUnknown
from ec2spawner.listing import Listing
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_GENERATION,
    TAG_MOVED_FROM,
    TAG_MOVING,
    TAG_OWNER,
    TAG_REPLACED,
    TAG_RESTORED,
    TAG_ROLE,
    TAG_USER,
    DeletedMark,
    InstanceState,
    Mark,
    Owner,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.settings import ServerConfig, WorkerSubnet
from launch_cluster.reporter import Reporter
from launch_cluster.restore import WATCH_SECONDS, Restore, RestoreRequest
from launch_cluster.restoring import (
    CannotRestore,
    candidates,
    half_made_mark,
    id_of,
    plan_restore,
)

ANN, BOB, LAB = Owner("ann"), Owner("bob"), Owner("ann", "lab")
NOW = 10_000_000.0
SHORT = replace(POLICY, delete_grace_seconds=3600, snapshot_expire_seconds=30 * 86_400)
CONFIG = ServerConfig(
    CLUSTER_NAME=CLUSTER,
    VPC_ID="vpc-0123456789abcdef0",
    WORKER_SUBNETS=(
        WorkerSubnet.model_construct(SUBNET_ID="subnet-0123456789abcdef0", ZONE="a"),
        WorkerSubnet.model_construct(SUBNET_ID="subnet-0123456789abcdef1", ZONE="b"),
    ),
    WORKER_SECURITY_GROUP_ID="sg-0123456789abcdef0",
    MANAGER_SECURITY_GROUP_ID="sg-0123456789abcdef1",
    LAUNCH_TEMPLATE_ID="lt-0123456789abcdef0",
    WORKER_AMI_ID="ami-0123456789abcdef0",
    SSH_KEY_PARAMETER="/ec2spawner/class/ssh-key",
    BUCKET="ec2spawner-class",
    COST_TAGS={"Department": "Biology"},
)


# ---- the decision


def tags(owner: Owner = ANN, **more: str) -> MappingProxyType[str, str]:
    named = {f"ec2spawner:{key.replace('_', '-')}": value for key, value in more.items()}
    return MappingProxyType(
        {
            TAG_CLUSTER: CLUSTER,
            TAG_ROLE: "worker",
            TAG_OWNER: owner.key,
            TAG_GENERATION: "1",
            **named,
        }
    )


def mark(days_ago: float, row: str = "row1") -> str:
    return DeletedMark(NOW - days_ago * 86_400, row).to_tag()


def volume(number: int, owner: Owner = ANN, state: Any = VolumeState.AVAILABLE, **more: str) -> Any:
    return Volume(
        f"vol-{number}",
        state,
        zone="a",
        size_gib=10,
        created_at=NOW - 1e6,
        tags=tags(owner, **more),
    )


def snapshot(number: int, owner: Owner = ANN, of: str = "vol-0", **more: str) -> Snapshot:
    return Snapshot(
        f"snap-{number}",
        SnapshotState.COMPLETED,
        volume_id=of,
        size_gib=10,
        started_at=NOW - number * 86_400,
        tags=tags(owner, **more),
    )


def worker(number: int, state: InstanceState, home: str | None, owner: Owner = ANN) -> Worker:
    mapping = {"/dev/sda1": "vol-99", **({HOME_DEVICE: home} if home else {})}
    return Worker(
        f"i-{number}", state, zone="a", volumes=MappingProxyType(mapping), tags=tags(owner)
    )


def seen(*resources: Any) -> Listing:
    def of(kind: type) -> dict[str, Any]:
        found = [r for r in resources if isinstance(r, kind)]
        return {getattr(r, "instance_id", None) or id_of(r): r for r in found}

    return Listing(
        workers=MappingProxyType(of(Worker)),
        volumes=MappingProxyType(of(Volume)),
        snapshots=MappingProxyType(of(Snapshot)),
        full_at=NOW,
    )


def decide(*resources: Any, wanted: str | None = None, target: Owner = ANN) -> Any:
    return plan_restore(seen(*resources), ANN, target, wanted, ("a", "b"), NOW)


def test_what_was_deleted_last_comes_back_and_volumes_before_snapshots() -> None:
    plan = decide(
        volume(1, deleted=mark(5)),
        volume(2, deleted=mark(3)),
        snapshot(1, deleted=mark(1)),
        snapshot(2, of="vol-2", deleted=mark(3)),
    )
    assert id_of(plan.home) == "vol-2"
    assert [id_of(home) for home in plan.others] == ["vol-1", "snap-1"], "vol-2 is its own copy"


def test_of_snapshots_the_one_of_the_last_deletion_comes_back() -> None:
    plan = decide(
        snapshot(1, deleted=mark(40)), snapshot(2, deleted=mark(20)), snapshot(3, of="vol-7")
    )
    assert id_of(plan.home) == "snap-3", "it was saved three days ago, and never marked"
    assert plan.zone == "a"
    assert plan.generation == 1
    assert [id_of(home) for home in plan.others] == ["snap-2", "snap-1"]


def test_what_is_named_comes_back_also_if_it_would_not_by_itself() -> None:
    both = (volume(1, deleted=mark(5)), snapshot(1, deleted=mark(40)))
    assert id_of(decide(*both, wanted="snap-1").home) == "snap-1"
    never = (volume(1, deleted=mark(5), generation=""),)
    assert id_of(decide(*never, wanted="vol-1").home) == "vol-1"


@pytest.mark.parametrize(
    "other",
    [
        volume(1, BOB, deleted=mark(5)),
        volume(1, deleted=mark(5), replaced=Mark(NOW, "moved").to_tag()),
        volume(1, deleted=mark(5), moving="1.0"),
        volume(1, deleted=mark(5), generation=""),
        volume(1, state=VolumeState.DELETING, deleted=mark(5)),
        snapshot(1, moving="1.0"),
        snapshot(1, replaced=Mark(NOW, "moved").to_tag()),
        snapshot(1, BOB),
        replace(snapshot(1), state=SnapshotState.ERROR),
        volume(1, role="manager", deleted=mark(5)),
        volume(1),
    ],
)
def test_what_is_nobodys_lost_home_is_not_taken(other: Any) -> None:
    with pytest.raises(CannotRestore, match="no deleted home of ann"):
        decide(other)
    assert candidates(seen(other), ANN, ANN) == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("snap-9", "does not exist"),
        ("snap-1", "is not of ann"),
        ("vol-2", "is not deleted"),
        ("vol-3", "part of a move"),
    ],
)
def test_what_is_named_wrongly_is_not_taken(wanted: str, words: str) -> None:
    with pytest.raises(CannotRestore, match=words):
        decide(
            snapshot(1, BOB),
            volume(2, LAB),
            replace(volume(2), volume_id="vol-2"),
            volume(3, deleted=mark(5), moving="1.0"),
            wanted=wanted,
        )


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([volume(2)], "has another home with files, vol-2"),
        ([volume(2, generation="", moved_from="vol-9 1 m")], "another home with files"),
        ([volume(2, state=VolumeState.IN_USE)], "another home with files"),
        ([worker(1, RUNNING, None)], "A machine of ann is running"),
        ([worker(1, InstanceState.PENDING, None)], "A machine of ann is pending"),
        ([worker(1, RUNNING, "vol-2"), volume(2, generation="")], "machine of ann is running"),
        ([worker(1, STOPPED, None)], "a machine without a home"),
        ([worker(1, STOPPED, "vol-404")], "a machine without a home"),
    ],
)
def test_no_home_comes_back_beside_one_in_use(others: list[Any], words: str) -> None:
    with pytest.raises(CannotRestore, match=words) as caught:
        decide(volume(1, deleted=mark(5)), *others)
    assert caught.value.next_step
    named = decide(volume(1, deleted=mark(5)), *others, target=LAB)
    assert named.target == LAB, "beside it, as another server's, it does"


@pytest.mark.parametrize(
    "others",
    [
        [volume(2, generation="")],
        [worker(1, STOPPED, "vol-2"), volume(2, generation="")],
        [worker(1, TERMINATED, "vol-2")],
        [volume(2, BOB), worker(1, RUNNING, "vol-2", BOB)],
        [volume(2, replaced=Mark(NOW, "moved").to_tag())],
        [volume(2, LAB)],
    ],
)
def test_what_holds_none_of_the_users_files_is_in_nobodys_way(others: list[Any]) -> None:
    assert id_of(decide(volume(1, deleted=mark(5)), *others).home) == "vol-1"


@pytest.mark.parametrize(
    ("home", "words"),
    [
        (volume(1, deleted=mark(0.001)), "deleted a moment ago"),
        (volume(1, deleted=mark(-1)), "deleted a moment ago"),
        (replace(volume(1, deleted=mark(5)), zone="z"), "zone z, where this cluster"),
        (
            replace(volume(1, deleted=mark(5)), attached_to="i-1", state=VolumeState.IN_USE),
            "is being ended",
        ),
        (replace(snapshot(1), state=SnapshotState.PENDING), "is pending"),
        (replace(snapshot(1), is_archived=True), "in the archive"),
    ],
)
def test_what_is_not_ready_yet_is_refused_with_what_to_do(home: Any, words: str) -> None:
    with pytest.raises(CannotRestore, match=words) as caught:
        decide(home)
    assert caught.value.next_step


def test_a_mark_that_nobody_of_ours_wrote_is_no_hindrance() -> None:
    assert id_of(decide(volume(1, deleted="yesterday")).home) == "vol-1"


def test_what_a_killed_command_has_made_is_gone_on_with() -> None:
    half = volume(7, deleted=half_made_mark(NOW), restored=f"{NOW:.0f} snap-1")
    assert id_of(decide(half, snapshot(1)).home) == "vol-7"
    assert id_of(decide(half, snapshot(1), wanted="snap-1").home) == "vol-7"
    assert id_of(decide(half, snapshot(1), snapshot(2), wanted="snap-2").home) == "snap-2"
    other = volume(7, LAB, deleted=mark(5), restored=f"{NOW:.0f} vol-7")
    assert id_of(decide(other, snapshot(1), target=LAB).home) == "vol-7"
    later = volume(7, LAB, deleted=mark(1), restored=f"{NOW - 5 * 86_400:.0f} vol-6")
    assert id_of(decide(later, snapshot(1), target=LAB).home) == "snap-1"


@pytest.mark.parametrize("wanted", [None, "vol-7", "snap-1"])
def test_what_was_brought_back_already_is_nothing_to_do(wanted: str | None) -> None:
    home = volume(7, restored=f"{NOW:.0f} snap-1")
    plan = decide(home, snapshot(1), snapshot(2), wanted=wanted)
    assert plan.is_done
    with pytest.raises(CannotRestore, match="another home with files"):
        decide(home, snapshot(1), snapshot(2), wanted="snap-2")


# ---- with the reconciler


def restore(
    cloud: FakeCloud, wanted: str | None = None, source: Owner = ANN, target: Owner = ANN
) -> Restore:
    async def yes() -> None:
        return

    request = RestoreRequest(source, target, wanted, CONFIG)
    return Restore(cloud, request, Reporter(), yes, clock=clock)


async def deleted(hub: Hub, row: str = "row1") -> str:
    """Ann has worked, and was deleted; her home's id."""
    worked = await hub.log_in("ann", incarnation=row)
    home = worked.home_volume_id or ""
    hub.cloud.volumes[home].files = f"thesis of {row}"
    await until(lambda: hub.cloud.tags(home).get(TAG_GENERATION) == "1", 60)
    await hub.fleet.delete(ANN, row)
    await until(lambda: hub.cloud.state(worked.instance_id) is TERMINATED, 120)
    await asyncio.sleep(300)
    return home


async def files_at_login(hub: Hub, row: str, server: str = "") -> str:
    worked = await asyncio.wait_for(hub.log_in("ann", server, incarnation=row), 200)
    return hub.cloud.volumes[worked.home_volume_id or ""].files


@in_virtual_time
async def test_the_next_start_gets_the_home_that_was_brought_back(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, SHORT)
    home = await deleted(hub)
    result = await restore(cloud).run(dry_run=False)
    assert (result["outcome"], result["volume_id"]) == ("done", home)
    assert TAG_DELETED not in cloud.tags(home)
    assert await files_at_login(hub, "row2") == "thesis of row1"
    await asyncio.sleep(7200)
    assert cloud.volumes[home].gone_at > clock(), "it is not removed when its time was to come"
    assert not cloud.sins


@in_virtual_time
async def test_a_home_that_is_a_snapshot_only_comes_back_as_a_new_volume(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, SHORT)
    home = await deleted(hub)
    await until(lambda: cloud.volumes[home].gone_at <= clock(), 7200)
    result = await restore(cloud).run(dry_run=False)
    made = cloud.tags(result["volume_id"])
    assert made[TAG_OWNER] == ANN.key
    assert made[TAG_USER] == "ann"
    assert made[TAG_GENERATION] == "1"
    assert made["Department"] == "Biology"
    assert TAG_DELETED not in made
    assert made[TAG_RESTORED].endswith(result["source"])
    assert await files_at_login(hub, "row2") == "thesis of row1"
    await asyncio.sleep(7200)
    assert cloud.volumes[result["volume_id"]].gone_at > clock()
    (saved,) = cloud.snapshots.values()
    assert saved.gone_at > clock(), "nothing is deleted by it"
    assert not cloud.sins


@in_virtual_time
async def test_the_home_of_a_new_user_of_the_name_is_never_displaced(tmp_path: Path) -> None:
    cloud = FakeCloud(may_rename=True)
    hub = Hub(cloud, tmp_path, SHORT)
    old = await deleted(hub)
    new = await hub.log_in("ann", incarnation="row2")
    cloud.volumes[new.home_volume_id or ""].files = "another's thesis"
    await asyncio.sleep(60)
    with pytest.raises(CannotRestore, match="has another home with files"):
        await restore(cloud).run(dry_run=False)
    assert TAG_DELETED in cloud.tags(old)
    assert cloud.count()["DeleteTags"] == 0
    await restore(cloud, target=LAB).run(dry_run=False)
    assert await files_at_login(hub, "row3", "lab") == "thesis of row1"
    hub.fleet.release(ANN)
    await asyncio.sleep(60)
    assert await files_at_login(hub, "row2") == "another's thesis"
    assert not cloud.sins


@in_virtual_time
async def test_a_stopped_machine_that_was_never_used_is_in_nobodys_way(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, SHORT)
    await deleted(hub)
    blank = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_USER: "ann"})
    await asyncio.sleep(60)
    await restore(cloud).run(dry_run=False)
    assert await files_at_login(hub, "row2") == "thesis of row1"
    assert cloud.state(blank) is not RUNNING
    assert not cloud.sins


@pytest.mark.parametrize("later", [1.0, 20.0, WATCH_SECONDS - 5])
@in_virtual_time
async def test_who_comes_while_it_is_brought_back_keeps_one_home_and_works(
    tmp_path: Path, later: float
) -> None:
    """Whichever home it is: it is one, with all of its files, and the other is not lost."""
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, SHORT)
    home = await deleted(hub)
    for _ in range(2):  # spares, by which a first login is quick
        cloud.put_instance(RUNNING)
    await asyncio.sleep(31)

    async def come() -> Worker:
        await until(lambda: TAG_DELETED not in cloud.tags(home), 60)
        await asyncio.sleep(later)
        return await hub.log_in("ann", incarnation="row2")

    coming = asyncio.ensure_future(come())
    refusal = await failure_of(restore(cloud).run(dry_run=False))
    came = await asyncio.wait_for(coming, 200)
    assert (came.home_volume_id == home) is (refusal is None)
    assert (TAG_DELETED in cloud.tags(home)) is (refusal is not None)
    if refusal:
        assert "came meanwhile" in refusal.what
    cloud.volumes[came.home_volume_id or ""].files += " and notes"
    hub.fleet.release(ANN)
    await asyncio.sleep(120)
    assert (await files_at_login(hub, "row2")).endswith(" and notes")
    assert cloud.volumes[home].gone_at > clock()
    assert not cloud.sins


async def failure_of(job: Coroutine[Any, Any, Any]) -> CannotRestore | None:
    try:
        await job
    except CannotRestore as error:
        return error
    return None


@in_virtual_time
async def test_a_home_that_the_hub_removes_at_this_moment_comes_back_from_its_snapshot(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, SHORT)
    home = await deleted(hub)
    saved = await cloud.snapshot(home, cloud.tags(home))
    await until(
        lambda: cloud.snapshots[saved.snapshot_id].state.at(clock()).value == "completed", 60
    )
    hub.kill()

    def race(action: str) -> None:
        if action == "DeleteTags":
            cloud.volumes[home].gone_at = clock()

    cloud.on_call = race
    with pytest.raises(CloudError):  # it was removed before the mark could be taken off
        await restore(cloud).run(dry_run=False)
    cloud.on_call = lambda _: None
    result = await restore(cloud).run(dry_run=False)
    assert result["source"] == saved.snapshot_id
    assert await files_at_login(Hub(cloud, tmp_path / "2", SHORT), "row2") == "thesis of row1"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["volume", "snapshot", "as a server"])
@pytest.mark.parametrize("nth", [1, 2], ids=["first", "second"])
@in_virtual_time
async def test_a_command_that_dies_at_any_change_is_run_again(
    tmp_path: Path, kind: str, nth: int, after: bool
) -> None:
    cloud = FakeCloud(may_rename=True)
    hub = Hub(cloud, tmp_path, SHORT)
    home = await deleted(hub)
    if kind == "snapshot":
        await until(lambda: cloud.volumes[home].gone_at <= clock(), 7200)
    target = LAB if kind == "as a server" else ANN
    hub = hub.kill()
    await asyncio.sleep(40)
    job = restore(cloud, target=target)
    assert await dies_at(cloud, job, nth, after=after)
    await asyncio.sleep(40)
    result = await restore(cloud, target=target).run(dry_run=False)
    assert result["outcome"] in ("done", "nothing to do")
    row = "row2" if kind != "as a server" else "row3"
    assert await files_at_login(hub, row, target.server) == "thesis of row1"
    hub.fleet.release(target)
    await asyncio.sleep(3700)
    assert await files_at_login(hub, row, target.server) == "thesis of row1"
    assert not cloud.sins


async def dies_at(cloud: FakeCloud, job: Restore, nth: int, *, after: bool) -> bool:
    """Run a command that dies with its nth change, before or after its effect."""
    ours = Dying(cloud, nth, after=after)
    job.ec2 = ours  # type: ignore[assignment]
    try:
        await job.run(dry_run=False)
    except Death:
        return True
    return False


class Death(BaseException):
    """What SIGKILL does."""


class Dying:
    """The cloud as one command sees it that dies with its nth change."""

    def __init__(self, cloud: FakeCloud, nth: int, *, after: bool) -> None:
        self._cloud, self._left, self._after = cloud, nth, after
        self.cluster = cloud.cluster

    def __getattr__(self, name: str) -> Callable[..., Any]:
        called = getattr(self._cloud, name)

        async def call(*args: Any, **more: Any) -> Any:
            self._left -= not name.startswith("list_")
            is_the_one = self._left == 0 and not name.startswith("list_")
            if is_the_one and not self._after:
                raise Death
            result = await called(*args, **more)
            if is_the_one:
                raise Death
            return result

        return call


@in_virtual_time
async def test_a_lost_reply_is_no_second_volume(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, SHORT)
    home = await deleted(hub)
    await until(lambda: cloud.volumes[home].gone_at <= clock(), 7200)
    cloud.fail("CreateVolume", OutcomeUnknown("lost", action="CreateVolume"), after=True)
    with pytest.raises(OutcomeUnknown):
        await restore(cloud).run(dry_run=False)
    result = await restore(cloud).run(dry_run=False)
    made = [v for v in cloud.volumes.values() if TAG_RESTORED in v.tags.at(clock())]
    assert [v.volume_id for v in made] == [result["volume_id"]]


@in_virtual_time
async def test_a_dry_run_changes_nothing_and_a_no_neither(tmp_path: Path) -> None:
    cloud = FakeCloud()
    home = await deleted(Hub(cloud, tmp_path, SHORT))
    before = dict(cloud.tags(home))
    result = await restore(cloud).run(dry_run=True)
    assert (result["outcome"], result["source"]) == ("planned", home)

    async def no() -> None:
        raise CannotRestore("Nothing was changed.")

    job = restore(cloud)
    job.confirm = no
    with pytest.raises(CannotRestore, match="Nothing was changed"):
        await job.run(dry_run=False)
    assert cloud.tags(home) == before
    assert TAG_MOVED_FROM not in before
    assert TAG_MOVING not in before
    assert TAG_REPLACED not in before
