"""The rows of machines that admins see."""

from __future__ import annotations

from typing import Any

from ec2spawner.dashboard import machines
from ec2spawner.dashboard.machines import Server
from ec2spawner.keeping import Kept
from ec2spawner.listing import Listing
from ec2spawner.model import (
    TAG_BROKEN,
    TAG_CLUSTER,
    TAG_OWNER,
    TAG_PROFILE,
    TAG_ROLE,
    TAG_USER,
    InstanceState,
    Owner,
    Worker,
    parse_worker,
)

HOUR = 3600.0


def worker(number: int, owner: Owner | None = None, **more: Any) -> Worker:
    tags = {TAG_CLUSTER: "c", TAG_ROLE: "worker", TAG_PROFILE: "usual", **more.pop("tags", {})}
    if owner:
        tags |= {TAG_OWNER: owner.key, TAG_USER: owner.label}
    state = more.pop("state", InstanceState.RUNNING)
    return Worker(f"i-{number}", state, "us-east-1a", "t3.medium", tags=tags, **more)


def rows(workers: list[Worker], servers: list[Server] | None = None) -> list[machines.Machine]:
    view = Listing(workers={w.instance_id: w for w in workers}, full_at=1.0)
    return machines.machines(view, servers or [], {"usual": "Usual"}, HOUR)


def test_they_are_sorted_by_user_and_server_and_nobodys_come_last() -> None:
    owners = [Owner("bob"), Owner("ann", "b"), Owner("ann"), None]
    servers = [Server(owner, is_running=True) for owner in owners if owner]
    found = rows([worker(n, owner) for n, owner in enumerate(owners)], servers)
    assert [(r.user, r.server) for r in found] == [("ann", ""), ("ann", "b"), ("bob", ""), ("", "")]
    assert found[-1].note == "spare"


def test_a_running_server_s_machine_tells_when_it_stops_and_until_when_it_is_kept() -> None:
    ann = Owner("ann")
    server = Server(ann, is_running=True, last_activity=100.0, kept=Kept(9000.0, "root"))
    (row,) = rows([worker(1, ann, launched_at=50.0)], [server])
    assert (row.since, row.stops_at, row.kept_until, row.kept_by) == (50.0, 9000.0, 9000.0, "root")
    assert row.profile == "Usual"


def test_a_machine_that_is_stopped_tells_since_when_and_nothing_of_an_end() -> None:
    ann = Owner("ann")
    stopped = worker(1, ann, state=InstanceState.STOPPED, launched_at=50.0, stopped_at=70.0)
    (row,) = rows([stopped], [Server(ann, is_running=True, last_activity=60.0)])
    assert (row.since, row.stops_at, row.kept_until) == (70.0, None, None)


def test_machines_that_serve_nobody_any_more_say_why() -> None:
    ann = Owner("ann")
    found = rows([worker(1, ann), worker(2, ann, tags={TAG_BROKEN: "1 silent"})])
    assert [(r.user, r.note) for r in found] == [
        ("ann", "its server is not in this hub"),
        ("ann", "broken"),
    ]


def test_managers_builders_and_what_is_gone_are_no_rows() -> None:
    gone = worker(1, state=InstanceState.TERMINATED)
    assert rows([gone, worker(2, tags={TAG_ROLE: "builder"})]) == []


def test_the_moment_of_a_stop_is_read_from_ec2s_reason() -> None:
    def stopped_at(reason: str | None) -> float:
        raw = {"InstanceId": "i-1", "State": {"Name": "stopped"}, "StateTransitionReason": reason}
        return parse_worker(raw).stopped_at

    assert stopped_at("User initiated (1970-01-02 00:00:01 GMT)") == 86401.0
    assert stopped_at("Server.SpotInstanceShutdown (1970-01-01 00:01:00 UTC)") == 60.0
    for other in ("", None, "User initiated", "User initiated (2026-13-01 00:00:00 GMT)"):
        assert stopped_at(other) == 0.0
