"""Whatever a listing shows, however old or incomplete: what no plan may ever do."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import builders
from core.builders import NOW, home, snapshot, worker
from ec2spawner.actions import (
    Action,
    Attach,
    CallOffMove,
    Claim,
    CopyHome,
    DeleteSnapshot,
    DeleteVolume,
    Detach,
    EndMove,
    GiveUpCopy,
    Launch,
    MakeSnapshot,
    Refuse,
    SaveHome,
    Start,
    Stop,
    Tag,
    Terminate,
)
from ec2spawner.errors import CapacityError, Denied, QuotaError, Throttled, WrongState
from ec2spawner.listing import Expectation, Launching, Listing, current_worker, overlay
from ec2spawner.marks import with_writes
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_DELETED,
    TAG_EXPIRES,
    TAG_MOVED_FROM,
    TAG_MOVED_TO,
    TAG_MOVING,
    TAG_OWNER,
    TAG_REPLACED,
    DeletedMark,
    InstanceState,
    Mark,
    Origin,
    Owner,
    Role,
    SnapshotState,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.placement import Failure, rungs, scopes
from ec2spawner.planning import plan
from ec2spawner.wishes import Demand, Memory, TagWrite, Wishes

POLICY = replace(builders.POLICY, allow_zone_move=True)
OWNERS = [Owner("ann"), Owner("bob"), Owner("cem", "lab"), Owner("cem")]
WORKER_IDS = [f"i-{n}" for n in range(4)]
VOLUME_IDS = [f"vol-{n}" for n in range(4)]
SNAPSHOT_IDS = [f"snap-{n}" for n in range(2)]
MARKS = [None, None, None, DeletedMark(NOW - 9 * 86400, "row"), DeletedMark(NOW - 60, "row")]
ROLES = ["worker"] * 5 + ["builder", "manager", ""]

MOVES = ["5.000", "6.000"]
REPLACED = {TAG_REPLACED: Mark(NOW - 9, "moved").to_tag()}

owners = st.sampled_from([*OWNERS, None])
marks = st.sampled_from(MARKS)
zones = st.sampled_from("ab")


@st.composite
def move_tags(draw: st.DrawFn) -> dict[str, str]:
    """What a move leaves on a volume: on the home, or on its copy."""
    move = draw(st.sampled_from(MOVES))
    origin = Origin(draw(st.sampled_from(VOLUME_IDS)), draw(st.integers(0, 2)), move)
    moved = {**REPLACED, TAG_MOVED_TO: draw(st.sampled_from(VOLUME_IDS))}
    plain: dict[str, str] = {}
    marks = [plain, plain, {TAG_MOVING: move}, {TAG_MOVED_FROM: origin.to_tag()}]
    both = {TAG_MOVING: move, TAG_MOVED_FROM: origin.to_tag()}
    return draw(st.sampled_from([*marks, both, {TAG_MOVING: move, **moved}, REPLACED]))


@st.composite
def workers(draw: st.DrawFn, instance_id: str) -> Worker:
    return worker(
        instance_id,
        draw(st.sampled_from(list(InstanceState))),
        draw(owners),
        home=draw(st.sampled_from([None, *VOLUME_IDS])),
        deleted=draw(marks),
        zone=draw(zones),
        kind=draw(st.sampled_from(["small", "large"])),
        role=draw(st.sampled_from(ROLES)),
        launched_at=draw(st.sampled_from([1.0, 2.0])),
        known_volumes=draw(st.booleans()),
    )


@st.composite
def volumes(draw: st.DrawFn, volume_id: str) -> Volume:
    return home(
        volume_id,
        draw(owners),
        draw(st.sampled_from([None, None, *WORKER_IDS])),
        generation=draw(st.sampled_from([None, 0, 1, 2])),
        deleted=draw(marks),
        zone=draw(zones),
        role=draw(st.sampled_from(ROLES)),
        state=draw(st.sampled_from([None, None, None, *VolumeState])),
        created_at=draw(st.sampled_from([1.0, 2.0])),
        more=draw(move_tags()),
    )


@st.composite
def listings(draw: st.DrawFn) -> Listing:
    """Any listing: parts may be missing, tags may be, instances and volumes may disagree."""
    there = draw(st.sets(st.sampled_from(WORKER_IDS)))
    homes = draw(st.sets(st.sampled_from(VOLUME_IDS)))
    saved = draw(st.sets(st.sampled_from(SNAPSHOT_IDS)))
    return Listing(
        workers=MappingProxyType({i: draw(workers(i)) for i in sorted(there)}),
        volumes=MappingProxyType({i: draw(volumes(i)) for i in sorted(homes)}),
        snapshots=MappingProxyType(
            {
                i: snapshot(
                    i,
                    draw(st.sampled_from(VOLUME_IDS)),
                    draw(st.sampled_from(list(SnapshotState))),
                    started_at=draw(st.sampled_from([5.0, NOW - 30])),
                    tags=draw(st.sampled_from(SNAPSHOT_TAGS)),
                )
                for i in sorted(saved)
            }
        ),
        full_at=draw(st.sampled_from([0.0, NOW - 1000, NOW - 1])),
    )


SNAPSHOT_TAGS = [
    {},
    {TAG_EXPIRES: "7"},
    {TAG_EXPIRES: "9" * 12},
    *({TAG_EXPIRES: "9" * 12, TAG_MOVING: move} for move in MOVES),
]
STATES = {
    "start": (InstanceState.STOPPED, InstanceState.PENDING),
    "stop": (InstanceState.RUNNING, InstanceState.STOPPING),
    "terminate": (InstanceState.STOPPED, InstanceState.SHUTTING_DOWN),
}


@st.composite
def expectations(draw: st.DrawFn) -> Expectation:
    """What one call of ours is still to change."""
    sent = NOW - draw(st.integers(1, 60))
    settled = draw(st.sampled_from([None, NOW - 0.5]))
    i, v = draw(st.sampled_from(WORKER_IDS)), draw(st.sampled_from(VOLUME_IDS))
    kind = draw(st.sampled_from(["launching", "launched", "claim", "attach", "gone", *STATES]))
    if kind == "launching":
        return Expectation(sent, launching=Launching("default", draw(st.booleans()), "a", 1))
    if kind == "launched":
        fresh = worker(f"i-new{draw(st.integers(0, 2))}", InstanceState.PENDING)
        return Expectation(sent, settled, launched={fresh.instance_id: fresh})
    if kind == "claim":
        tags = {TAG_OWNER: draw(st.sampled_from(OWNERS)).key}
        return Expectation(sent, settled, tags={i: tags, v: tags})
    if kind == "attach":
        return Expectation(sent, settled, attached={v: i})
    if kind == "gone":
        return Expectation(sent, settled, removed=frozenset({v}))
    before, after = STATES[kind]
    return Expectation(sent, settled, states={i: (frozenset({before}), after)})


@st.composite
def wishes(draw: st.DrawFn) -> Wishes:
    wanted = draw(st.lists(st.sampled_from(OWNERS), unique=True))
    ids = st.lists(st.sampled_from(WORKER_IDS + VOLUME_IDS), min_size=1, max_size=3, unique=True)
    marked = ((TAG_DELETED, DeletedMark(NOW - 5, "row").to_tag()),)
    given = st.sampled_from([marked, *(((TAG_OWNER, o.key),) for o in OWNERS)])
    writes = draw(st.lists(st.tuples(ids, given), max_size=2))
    return Wishes(
        wanted=MappingProxyType(
            {
                o.key: Demand(o, "default", draw(st.sampled_from(["row", "new"])), float(n % 2))
                for n, o in enumerate(wanted)
            }
        ),
        released=frozenset(o.key for o in draw(st.sets(st.sampled_from(OWNERS))))
        - {o.key for o in wanted},
        writes=tuple(TagWrite(tuple(i), t, "promised") for i, t in writes),
        mounted=frozenset(draw(st.sets(st.sampled_from(VOLUME_IDS), max_size=2))),
    )


ERRORS = [Denied("no"), Throttled("no"), CapacityError("no"), WrongState("no"), QuotaError("no")]
SCOPES = [
    scope
    for offering in rungs(POLICY.profiles["default"], POLICY.subnets)
    for is_start in (False, True)
    for scope in scopes(offering, is_start=is_start)
]


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    kinds = st.sampled_from(
        ["start", "stop", "terminate", "claim", "attach", "tag", "retire", "move"]
    )
    subjects = st.sampled_from(WORKER_IDS + VOLUME_IDS + SNAPSHOT_IDS)
    failures = st.builds(Failure, st.sampled_from(ERRORS), st.sampled_from([NOW - 1, NOW + 9]))
    seen = st.tuples(st.sampled_from([NOW - 900, NOW - 9]), st.sampled_from([NOW - 950, NOW - 1]))
    return Memory(
        failed=draw(st.dictionaries(st.sampled_from(SCOPES), failures)),
        holds=draw(st.dictionaries(st.tuples(kinds, subjects), failures, max_size=4)),
        unwanted=draw(st.dictionaries(st.sampled_from(WORKER_IDS + VOLUME_IDS), seen)),
    )


def viewed(listing: Listing, expected: list[Expectation], wanted: Wishes) -> Listing:
    return with_writes(overlay(listing, expected), wanted)


def of_kind(actions: list[Action], *kinds: type) -> list[Action]:
    return [a for a in actions if isinstance(a, kinds)]


def check_no_owner_ever_gets_two_workers_nor_one_worker_two_owners(
    listing: Listing, expected: list[Expectation], wanted: Wishes, memory: Memory
) -> None:
    actions = plan(listing, expected, wanted, POLICY, memory, NOW)
    view = viewed(listing, expected, wanted)
    given_to: dict[str, str] = {}
    served: list[str] = []
    for action in of_kind(actions, Claim):
        assert isinstance(action, Claim)
        assert action.owner.key in wanted.wanted
        taken = view.workers[action.instance_id]
        assert taken.owner in (None, action.owner.key)
        assert taken.deleted is None
        assert taken.role == Role.WORKER.value
        has_one = current_worker(view, action.owner.key) is not None
        assert taken.owner or not has_one, "has a worker, and is given another"
        volume = view.volumes.get(action.volume_id or "")
        assert volume is None or volume.owner in (None, action.owner.key)
        assert volume is None or volume.deleted is None
        assert action.instance_id not in given_to
        given_to[action.instance_id] = action.owner.key
        served.append(action.owner.key)
    for action in of_kind(actions, Launch):
        assert isinstance(action, Launch)
        assert action.count == len(action.for_owners) <= 100
        for key in action.for_owners:
            assert key in wanted.wanted
            assert current_worker(view, key) is None
            served.append(key)
    assert len(served) == len(set(served))


def check_nothing_is_touched_that_is_not_there_or_not_ours(
    listing: Listing, expected: list[Expectation], wanted: Wishes, memory: Memory
) -> None:
    view = viewed(listing, expected, wanted)
    promised = {i for w in wanted.writes for i in w.ids}
    for action in plan(listing, expected, wanted, POLICY, memory, NOW):
        if isinstance(action, (Start, Stop, Terminate)):
            assert action.ids
            assert len(set(action.ids)) == len(action.ids) <= 500
            for i in action.ids:
                assert view.workers[i].role == Role.WORKER.value or view.workers[i].owner
        elif isinstance(action, (MakeSnapshot, DeleteVolume)):
            assert view.volumes[action.volume_id].role == Role.WORKER.value
        elif isinstance(action, DeleteSnapshot):
            assert view.snapshots[action.snapshot_id].role == Role.WORKER.value
        elif isinstance(action, Tag):
            for i in set(action.ids) - promised:
                resource = view.workers.get(i) or view.volumes.get(i)
                assert resource is not None


def check_what_is_owned_is_terminated_or_deleted_only_when_marked_and_saved(
    listing: Listing, expected: list[Expectation], wanted: Wishes, memory: Memory
) -> None:
    view = viewed(listing, expected, wanted)
    actions = plan(listing, expected, wanted, POLICY, memory, NOW)
    for action in actions:
        if isinstance(action, Terminate):
            for i in action.ids:
                ended = view.workers[i]
                assert ended.state is InstanceState.STOPPED
                assert ended.owner is None or ended.deleted is not None
                # and the mark is in EC2 as far as we know, not just promised
                answered = overlay(listing, [e for e in expected if e.settled_at is not None])
                assert ended.owner is None or answered.workers[i].deleted is not None
        elif isinstance(action, DeleteVolume):
            volume, saved = view.volumes[action.volume_id], view.snapshots[action.snapshot_id]
            assert volume.state is VolumeState.AVAILABLE
            mark = volume.deleted or volume.replaced
            assert volume.owner is None or mark is not None
            assert saved.state is SnapshotState.COMPLETED
            assert saved.volume_id == volume.volume_id
            assert saved.moving is None
            assert saved.started_at >= (mark.at if mark else volume.created_at)
    fresh = NOW - listing.full_at <= 120
    harmful = (Terminate, DeleteVolume, DeleteSnapshot, MakeSnapshot)
    assert fresh or not of_kind(actions, *harmful)
    assert listing.is_known or not actions


def check_a_wanted_owners_only_worker_is_never_stopped(
    listing: Listing, expected: list[Expectation], wanted: Wishes, memory: Memory
) -> None:
    view = viewed(listing, expected, wanted)
    for action in of_kind(plan(listing, expected, wanted, POLICY, memory, NOW), Stop):
        assert isinstance(action, Stop)
        for i in action.ids:
            stopped = view.workers[i]
            assert stopped.state is InstanceState.RUNNING
            if stopped.owner in wanted.wanted and stopped.deleted is None:
                assert action.although_wanted
                current = current_worker(view, stopped.owner or "")
                assert current is None or current.instance_id != i
                assert current or view.homes_of(stopped.owner or "")[0].generation, "not theirs"


def check_a_given_up_home_is_never_attached_nor_a_home_to_anybody_elses_worker(
    listing: Listing, expected: list[Expectation], wanted: Wishes, memory: Memory
) -> None:
    view = viewed(listing, expected, wanted)
    for action in of_kind(plan(listing, expected, wanted, POLICY, memory, NOW), Attach):
        assert isinstance(action, Attach)
        volume, target = view.volumes[action.volume_id], view.workers[action.instance_id]
        assert volume.deleted is None
        assert volume.state is VolumeState.AVAILABLE
        assert volume.owner == target.owner is not None
        assert volume.zone == target.zone
        assert HOME_DEVICE not in target.volumes


def check_a_home_that_moves_is_used_by_nobody_and_one_copy_at_most_becomes_it(
    listing: Listing, expected: list[Expectation], wanted: Wishes, memory: Memory
) -> None:
    view = viewed(listing, expected, wanted)
    actions = plan(listing, expected, wanted, POLICY, memory, NOW)
    sources = [a.source_id for a in actions if isinstance(a, (SaveHome, EndMove, CallOffMove))]
    assert len(sources) == len(set(sources)), "two steps at once"
    for action in actions:
        if isinstance(action, (Attach, Detach)):
            assert view.volumes[action.volume_id].moving is None
            assert not view.volumes[action.volume_id].is_retired
        elif isinstance(action, SaveHome):
            volume = view.volumes[action.source_id]
            assert volume.state is VolumeState.AVAILABLE
            assert volume.deleted is None
            assert not volume.is_retired
            assert volume.moving in (None, action.move)
        elif isinstance(action, EndMove):
            volume, copy = view.volumes[action.source_id], view.volumes[action.copy_id]
            assert copy.origin
            assert copy.origin.volume_id == volume.volume_id
            assert copy.origin.move == volume.moving == action.move
            assert volume.owner == action.owner.key
            assert copy.owner in (None, action.owner.key)
            assert not any((copy.deleted, copy.is_retired, copy.generation))
        elif isinstance(action, CallOffMove):
            copies = [view.volumes[i] for i in action.copy_ids]
            assert not [c for c in copies if c.owner]
            gone = [view.snapshots[i] for i in action.snapshot_ids]
            assert all((s.volume_id, s.moving) == (action.source_id, action.move) for s in gone)
        elif isinstance(action, GiveUpCopy):
            copy = view.volumes[action.copy_id]
            assert not copy.generation
            assert view.volumes[action.source_id].moved_to != action.copy_id


def check_the_same_is_planned_from_the_same_in_any_order(
    listing: Listing, expected: list[Expectation], wanted: Wishes, memory: Memory
) -> None:
    actions = repr(plan(listing, expected, wanted, POLICY, memory, NOW))
    assert repr(plan(listing, expected, wanted, POLICY, memory, NOW)) == actions
    turned = replace(wanted, wanted=MappingProxyType(dict(reversed(wanted.wanted.items()))))
    assert repr(plan(listing, expected, turned, POLICY, memory, NOW)) == actions


CHECKS = [
    check_no_owner_ever_gets_two_workers_nor_one_worker_two_owners,
    check_nothing_is_touched_that_is_not_there_or_not_ours,
    check_what_is_owned_is_terminated_or_deleted_only_when_marked_and_saved,
    check_a_wanted_owners_only_worker_is_never_stopped,
    check_a_given_up_home_is_never_attached_nor_a_home_to_anybody_elses_worker,
    check_a_home_that_moves_is_used_by_nobody_and_one_copy_at_most_becomes_it,
    check_the_same_is_planned_from_the_same_in_any_order,
]


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(listings(), st.lists(expectations(), max_size=3), wishes(), memories())
def test_whatever_is_listed_expected_and_wished_no_plan_does_what_none_may(
    listing: Listing, expected: list[Expectation], wanted: Wishes, memory: Memory
) -> None:
    for check in CHECKS:
        check(listing, expected, wanted, memory)


# ---- it comes to an end


class World:
    """Carries a plan out at once and completely."""

    def __init__(self, listing: Listing) -> None:
        self.workers = dict(listing.workers)
        self.volumes = dict(listing.volumes)
        self.snapshots = dict(listing.snapshots)
        self.refused: set[str] = set()
        self.numbers = iter(range(1000, 9999))

    def listing(self, now: float) -> Listing:
        return Listing(
            workers=MappingProxyType(dict(self.workers)),
            volumes=MappingProxyType(dict(self.volumes)),
            snapshots=MappingProxyType(dict(self.snapshots)),
            full_at=now - 1,
        )

    def carry_out(self, action: Action) -> None:
        if isinstance(action, Launch):
            for _ in range(action.count):
                self._launch(action)
        elif isinstance(action, Claim):
            self._tag((action.instance_id, action.volume_id), {TAG_OWNER: action.owner.key})
        elif isinstance(action, Tag):
            self._tag(action.ids, action.changes)
        elif isinstance(action, Start):
            self._states(action.ids, InstanceState.RUNNING)
        elif isinstance(action, Stop):
            self._states(action.ids, InstanceState.STOPPED)
        elif isinstance(action, Attach):
            self._attach(action.volume_id, action.instance_id)
        elif isinstance(action, Terminate):
            self._terminate(action.ids)
        elif isinstance(action, SaveHome):
            self._save(action)
        elif isinstance(action, CopyHome):
            self._copy(action)
        elif isinstance(action, EndMove):
            self._tag((action.copy_id,), {TAG_OWNER: action.owner.key})
            self._tag((action.source_id,), {**REPLACED, TAG_MOVED_TO: action.copy_id})
        elif isinstance(action, CallOffMove):
            self._tag((action.source_id,), {TAG_MOVING: None})
        elif isinstance(action, GiveUpCopy):
            self._tag((action.copy_id,), REPLACED)
        elif isinstance(action, Refuse):
            self.refused.add(action.owner_key)

    def _launch(self, action: Launch) -> None:
        number = next(self.numbers)
        i, v = f"i-{number}", f"vol-{number}"
        zone = action.offering.zone
        blank = v if action.home_gib else None
        self.workers[i] = worker(i, home=blank, zone=zone, kind=action.offering.instance_type)
        if blank:
            self.volumes[v] = home(v, None, i, zone=zone)

    def _save(self, action: SaveHome) -> None:
        self._tag((action.source_id,), {TAG_MOVING: action.move})
        i, tags = f"snap-{next(self.numbers)}", {**dict(action.tags), TAG_MOVING: action.move}
        self.snapshots[i] = snapshot(i, action.source_id, tags=tags)

    def _copy(self, action: CopyHome) -> None:
        i, origin = (
            f"vol-{next(self.numbers)}",
            Origin(action.source_id, action.generation, action.move),
        )
        self.volumes[i] = home(i, zone=action.zone, more={TAG_MOVED_FROM: origin.to_tag()})

    def _tag(self, ids: tuple[str | None, ...], tags: object) -> None:
        wanted = Wishes(
            writes=(TagWrite(tuple(i for i in ids if i), tuple(dict(tags).items()), ""),)  # type: ignore[call-overload]
        )
        tagged = with_writes(self.listing(NOW), wanted)
        self.workers, self.volumes = dict(tagged.workers), dict(tagged.volumes)

    def _states(self, ids: tuple[str, ...], state: InstanceState) -> None:
        for i in ids:
            self.workers[i] = replace(self.workers[i], state=state)

    def _attach(self, volume_id: str, instance_id: str) -> None:
        done = overlay(self.listing(NOW), [Expectation(NOW, attached={volume_id: instance_id})])
        self.workers, self.volumes = dict(done.workers), dict(done.volumes)

    def _terminate(self, ids: tuple[str, ...]) -> None:
        for i in ids:
            del self.workers[i]
            for v, volume in self.volumes.items():
                if volume.attached_to == i:
                    free = replace(volume, attached_to=None, device="", state=VolumeState.AVAILABLE)
                    self.volumes[v] = free

    def rests(self) -> bool:
        """Whether nothing is between two states."""
        return all(
            w.state in (InstanceState.RUNNING, InstanceState.STOPPED) for w in self.workers.values()
        )

    def settle(self) -> None:
        """Time passes: what is between two states arrives."""
        arrives = {
            InstanceState.PENDING: InstanceState.RUNNING,
            InstanceState.STOPPING: InstanceState.STOPPED,
        }
        for i, w in list(self.workers.items()):
            if w.state in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED):
                self._terminate((i,))
            else:
                self.workers[i] = replace(w, state=arrives.get(w.state, w.state))


@st.composite
def consistent_worlds(draw: st.DrawFn) -> Listing:
    """Instances and volumes that agree with each other, in any state and with any tags."""
    made: list[Worker] = []
    homes: list[Volume] = []
    for n in range(draw(st.integers(0, 6))):
        zone, mark = draw(zones), draw(marks)
        has_home = draw(st.booleans())
        owner = draw(owners)
        made.append(
            worker(
                f"i-{n}",
                draw(st.sampled_from(list(InstanceState))),
                owner,
                home=f"vol-{n}" if has_home else None,
                deleted=mark,
                zone=zone,
                launched_at=float(n),
            )
        )
        if has_home:
            theirs = draw(st.sampled_from([owner, owner, owner, None]))
            generation = 1 if theirs and draw(st.booleans()) else None
            homes.append(
                home(f"vol-{n}", theirs, f"i-{n}", zone=zone, deleted=mark, generation=generation)
            )
    for n in range(draw(st.integers(0, 3))):
        zone = draw(st.sampled_from("abcc"))  # there is no subnet in c: what is there must move
        moves = draw(st.sampled_from([{}, {}, {TAG_MOVING: MOVES[0]}]))
        homes.append(home(f"vol-free{n}", draw(owners), zone=zone, deleted=draw(marks), more=moves))
    return Listing(
        workers=MappingProxyType({w.instance_id: w for w in made}),
        volumes=MappingProxyType({v.volume_id: v for v in homes}),
        full_at=NOW - 1,
    )


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(consistent_worlds(), st.lists(st.sampled_from(OWNERS), unique=True))
def test_carrying_plans_out_ends_with_a_running_worker_and_home_for_each_who_waits(
    begin: Listing, waiting: list[Owner]
) -> None:
    world = World(begin)
    wanted = Wishes(
        wanted=MappingProxyType(
            {o.key: Demand(o, "default", "row", float(n)) for n, o in enumerate(waiting)}
        )
    )
    kept = {v: h for v, h in begin.volumes.items() if h.owner and not h.deleted}
    for round_ in range(40):
        now = NOW + round_
        actions = plan(world.listing(now), (), wanted, POLICY, Memory(), now)
        todo = [a for a in actions if not isinstance(a, (MakeSnapshot, Refuse))]
        for action in actions:
            world.carry_out(action)
        if not todo and world.rests():
            break
        world.settle()
    else:
        raise AssertionError("it never ends")
    end = world.listing(NOW)
    for owner in waiting:
        if owner.key in world.refused:
            continue
        theirs = current_worker(end, owner.key)
        assert theirs is not None
        assert theirs.state is InstanceState.RUNNING
        running = [w for w in end.workers_of(owner.key) if w.state is InstanceState.RUNNING]
        assert running == [theirs]
        current = end.homes_of(owner.key)[0]
        if theirs.home_volume_id != current.volume_id:
            # it came with another home, and is told so when it is asked for
            assert theirs.home_volume_id is not None
            continue
        assert current.moving is None
        assert current.zone in "ab"
    for volume_id, volume in kept.items():
        assert end.volumes[volume_id].owner == volume.owner, "nobody loses a home"
