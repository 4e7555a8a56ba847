"""Calls that EC2 carries out and whose answers are lost: nothing is there twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from core.botos import gateway
from core.virtual import run

from ec2spawner.cloud import CODES, class_of_code
from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.errors import CapacityError, CloudError, QuotaError, Throttled
from ec2spawner.localcloud.inprocess import InProcessCloud
from ec2spawner.model import InstanceState
from localcloud.test_products_calls import TAGS, Class

FAULTS = [
    {"fault": "lose-reply"},
    {"fault": "lose-reply", "count": 3},
    {"fault": "never-answer", "when": "after"},
    {"fault": "error", "when": "after", "code": "InternalError", "status": 500},
]


@pytest.fixture
def room(whole: InProcessCloud) -> Class:
    return Class(whole)


def _spoil(room: Class, action: str, fault: dict[str, Any]) -> None:
    room.control("POST", "faults", {"action": action, **fault})


def _calls(room: Class, action: str) -> Counter[str]:
    return Counter(room.whole.cloud.trouble.calls().get(action, {}))


def _was_lost(room: Class, action: str, fault: dict[str, Any]) -> None:
    """The fault did come about, so the test is about it."""
    count = fault.get("count", 1)
    assert _calls(room, action).total() >= count + 1
    assert room.whole.cloud.trouble.list() == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_launch_launches_once(room: Class, fault: dict[str, Any]) -> None:
    _spoil(room, "RunInstances", fault)
    launched = room.launched(3)
    _was_lost(room, "RunInstances", fault)
    assert len(launched) == 3
    assert {w.instance_id for w in room.listed()} == {w.instance_id for w in launched}
    homes = room.do(lambda ec2: ec2.list_volumes())
    assert len([v for v in homes if v.is_home]) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_start_starts_once(room: Class, fault: dict[str, Any]) -> None:
    one = room.stopped()
    _spoil(room, "StartInstances", fault)
    room.do(lambda ec2: ec2.start([one.instance_id]))
    _was_lost(room, "StartInstances", fault)
    room.whole.clock.advance(6)
    assert room.state(one.instance_id) is InstanceState.RUNNING
    assert len(room.listed()) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_volume_is_created_once(room: Class, fault: dict[str, Any]) -> None:
    one = room.stopped()
    saved = room.do(lambda ec2: ec2.snapshot(one.home_volume_id or "", TAGS)).snapshot_id
    room.whole.clock.advance(10)
    _spoil(room, "CreateVolume", fault)
    made = room.do(lambda ec2: ec2.create_volume(saved, "us-east-1b", 10, TAGS, "token"))
    _was_lost(room, "CreateVolume", fault)
    volumes = room.do(lambda ec2: ec2.list_volumes())
    assert [v.volume_id for v in volumes if v.zone == "us-east-1b"] == [made.volume_id]


@pytest.mark.parametrize("fault", FAULTS)
def test_tags_are_written_as_if_once(room: Class, fault: dict[str, Any]) -> None:
    (one,) = room.launched()
    ids = [one.instance_id, one.home_volume_id or ""]
    _spoil(room, "CreateTags", fault)
    room.do(lambda ec2: ec2.tag(ids, {"ec2spawner:owner": "ann", "ec2spawner:claim": "c"}))
    _was_lost(room, "CreateTags", fault)
    tags = room.do(lambda ec2: ec2.tags_of(ids))
    assert [tags[i]["ec2spawner:owner"] for i in ids] == ["ann", "ann"]


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.get("count", 1) == 1])
def test_a_snapshot_is_made_once(room: Class, fault: dict[str, Any]) -> None:
    """CreateSnapshot takes no token: what was made is looked up, and never asked for twice."""
    one = room.stopped()
    _spoil(room, "CreateSnapshot", fault)
    made = room.do(lambda ec2: ec2.snapshot(one.home_volume_id or "", TAGS))
    assert _calls(room, "CreateSnapshot").total() == 1
    snapshots = room.do(lambda ec2: ec2.list_snapshots())
    assert [s.snapshot_id for s in snapshots] == [made.snapshot_id]


# ---- refusals, as they come over the wire


REFUSALS = {
    **{code: CapacityError for code, kind in CODES.items() if issubclass(kind, CapacityError)},
    "VcpuLimitExceeded": QuotaError,
    "MaxSpotInstanceCountExceeded": QuotaError,
    "RequestLimitExceeded": Throttled,
}


@pytest.mark.parametrize("status", [400, 500, 503])
def test_a_refusal_is_known_by_its_code_whatever_its_status(room: Class, status: int) -> None:
    """EC2 answers some of them with 500 and 503, as it does where the outcome is unknown."""
    fault = {"action": "RunInstances", "fault": "error", "status": status, "count": None}
    request = LaunchRequest(room.template, "t3.medium", room.subnet, 1, "p", 10, {})

    async def launch() -> None:
        await EC2(gateway(room.session), "class").launch(request, "token")

    for code, kind in REFUSALS.items():
        room.control("DELETE", "faults", None)
        room.control("POST", "faults", {**fault, "code": code})
        before = _calls(room, "RunInstances").total()
        with pytest.raises(kind) as refused:
            run(launch())
        error: CloudError = refused.value
        assert error.aws_code == code
        assert type(error) is class_of_code(code)
        calls = _calls(room, "RunInstances").total() - before
        assert calls > 1 if code == "RequestLimitExceeded" else calls == 1, code
