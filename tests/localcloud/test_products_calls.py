"""The calls that the product makes of EC2, answered by the emulated EC2: one contract for both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from core.botos import gateway
from core.virtual import run

from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.errors import (
    CapacityError,
    NotFound,
    QuotaError,
    Rejected,
    Throttled,
    Unreachable,
    WrongState,
)
from ec2spawner.localcloud.inprocess import InProcessCloud
from ec2spawner.model import InstanceState, SnapshotState, VolumeState, Worker
from ec2spawner.quotas import quota_code
from localcloud.support import AMI

R = TypeVar("R")
TAGS = {"ec2spawner:cluster": "class", "ec2spawner:role": "worker"}


class Class:
    """A cluster in the emulated cloud, with the product's own way to it."""

    def __init__(self, whole: InProcessCloud) -> None:
        self.whole = whole
        self.session = _Session(whole)
        raw = whole.client("ec2")
        vpc = raw.create_vpc(CidrBlock="127.77.0.0/16")["Vpc"]["VpcId"]
        self.subnet = str(
            raw.create_subnet(VpcId=vpc, CidrBlock="127.77.1.0/24", AvailabilityZone="us-east-1a")[
                "Subnet"
            ]["SubnetId"]
        )
        self.template = str(
            raw.create_launch_template(LaunchTemplateName="t", LaunchTemplateData={"ImageId": AMI})[
                "LaunchTemplate"
            ]["LaunchTemplateId"]
        )

    def do(self, work: Callable[[EC2], Awaitable[R]]) -> R:
        """Run some of the product's operations to their end."""

        async def call() -> R:
            return await work(EC2(gateway(self.session), "class"))

        return run(call())

    def launched(self, count: int = 1, market: str = "on-demand") -> list[Worker]:
        """Workers, as a listing shows them once they run."""
        request = LaunchRequest(
            self.template, "t3.medium", self.subnet, count, "p", 10, {}, market=market
        )
        made = self.do(lambda ec2: ec2.launch(request, f"token-{self.whole.clock.now}"))
        self.whole.clock.advance(6)
        return self.listed([w.instance_id for w in made])

    def listed(self, ids: list[str] | None = None) -> list[Worker]:
        return self.do(lambda ec2: ec2.list_workers(ids))

    def state(self, instance_id: str) -> InstanceState:
        (worker,) = self.listed([instance_id])
        return worker.state

    def stopped(self, market: str = "on-demand") -> Worker:
        (one,) = self.launched(market=market)
        self.do(lambda ec2: ec2.stop([one.instance_id]))
        self.whole.clock.advance(30)
        return self.listed([one.instance_id])[0]

    def control(self, method: str, path: str, document: Any) -> None:
        url = f"http://127.0.0.1:1/_localcloud/{path}"
        reply = self.whole.request(method, url, {}, json.dumps(document).encode())
        assert reply.status == 200, reply.body


class _Session:
    """boto3's session, with clients of the emulated cloud."""

    def __init__(self, whole: InProcessCloud) -> None:
        self._whole = whole

    def __call__(self) -> _Session:
        return self

    def client(self, service: str, **options: Any) -> Any:
        return self._whole.client(service)


@pytest.fixture
def room(whole: InProcessCloud) -> Class:
    return Class(whole)


def test_a_workers_home_moves_to_another_zone(room: Class) -> None:
    one = room.stopped()
    home, instance_id = one.home_volume_id, one.instance_id
    assert home
    room.do(lambda ec2: ec2.detach(home, instance_id))
    room.whole.clock.advance(2)
    room.do(lambda ec2: ec2.detach(home, instance_id))  # free already
    snapshot = room.do(lambda ec2: ec2.snapshot(home, TAGS))
    with pytest.raises(WrongState):
        room.do(lambda ec2: ec2.create_volume(snapshot.snapshot_id, "us-east-1b", 10, TAGS, "m"))
    room.whole.clock.advance(10)
    (done,) = room.do(lambda ec2: ec2.list_snapshots())
    assert done.state is SnapshotState.COMPLETED
    room.control("POST", "faults", {"action": "CreateVolume", "fault": "lose-reply"})
    moved = room.do(lambda ec2: ec2.create_volume(done.snapshot_id, "us-east-1b", 20, TAGS, "m"))
    room.whole.clock.advance(2)
    homes = room.do(lambda ec2: ec2.list_volumes())
    here = [v for v in homes if v.zone == "us-east-1b"]
    assert [(v.volume_id, v.state, v.size_gib) for v in here] == [
        (moved.volume_id, VolumeState.AVAILABLE, 20)
    ]


def test_a_home_is_not_detached_where_it_is_not(room: Class) -> None:
    first, second = room.launched(2)
    assert first.home_volume_id
    home, other = first.home_volume_id, second.instance_id
    room.do(lambda ec2: ec2.detach(home, other))
    (volume,) = room.do(lambda ec2: ec2.list_volumes([home]))
    assert volume.attached_to == first.instance_id
    with pytest.raises(NotFound):
        room.do(lambda ec2: ec2.detach("vol-0123456789abcdef0", other))


def test_a_start_without_room_goes_with_another_type(room: Class) -> None:
    one = room.stopped().instance_id
    rule = {"type": "t3.medium", "max_running": 0}
    room.control("POST", "capacity", {"rules": [rule]})
    with pytest.raises(CapacityError):
        room.do(lambda ec2: ec2.start([one]))
    with pytest.raises(Rejected):
        room.do(lambda ec2: ec2.set_type(one, "m7g.large"))
    room.do(lambda ec2: ec2.set_type(one, "t3.large"))
    room.do(lambda ec2: ec2.start([one]))
    with pytest.raises(WrongState):
        room.do(lambda ec2: ec2.set_type(one, "t3.medium"))
    room.whole.clock.advance(6)
    (worker,) = room.listed([one])
    assert (worker.state, worker.instance_type) == (InstanceState.RUNNING, "t3.large")


@pytest.mark.parametrize("market", ["on-demand", "spot"])
def test_profiles_with_and_without_cpu_credits_are_launched_from_one_template(
    room: Class, market: str
) -> None:
    launched = {}
    for kind in ("t3.medium", "m7i.large", "g5.xlarge"):
        request = LaunchRequest(room.template, kind, room.subnet, 1, "p", 10, {}, market=market)
        (made,) = room.do(lambda ec2, r=request: ec2.launch(r, f"token-{r.instance_type}"))
        launched[kind] = room.whole.core().instances[made.instance_id].cpu_credits
    assert launched == {"t3.medium": "standard", "m7i.large": "", "g5.xlarge": ""}


def test_quota_and_vcpus_tell_what_fits(room: Class) -> None:
    room.control("POST", "capacity", {"vcpu_quota": {"on-demand": {"standard": 4}, "spot": 2}})
    code = quota_code("t3.medium")
    assert room.do(lambda ec2: ec2.quota(code)) == 4.0
    types = ["t3.medium", "g5.xlarge", "nope.large"]
    assert room.do(lambda ec2: ec2.vcpus(types)) == {"t3.medium": 2, "g5.xlarge": 4}
    assert len(room.launched(3)) == 2
    with pytest.raises(QuotaError) as on_demand:
        room.launched()
    assert on_demand.value.aws_code == "VcpuLimitExceeded"
    room.launched(market="spot")
    with pytest.raises(QuotaError) as spot:
        room.launched(market="spot")
    assert spot.value.aws_code == "MaxSpotInstanceCountExceeded"


def test_what_is_ill_is_found_with_its_console(room: Class) -> None:
    one, two, _ = (w.instance_id for w in room.launched(3))
    room.control("POST", f"workers/{one}/panic", {})
    room.control("POST", f"workers/{two}/impair", {"check": "ebs"})
    now = room.whole.clock.now
    assert room.do(lambda ec2: ec2.statuses()) == {two: int(now)}
    room.whole.clock.advance(60)
    assert room.do(lambda ec2: ec2.statuses()) == {one: int(now) + 60, two: int(now)}
    assert "Kernel panic" in room.do(lambda ec2: ec2.console(one))
    assert room.do(lambda ec2: ec2.console(two)) == ""


def test_a_spot_worker_ends_for_good(room: Class) -> None:
    first, second = room.launched(2, market="spot")
    assert first.spot_request_id
    ids, requests = [first.instance_id], [first.spot_request_id]
    room.do(lambda ec2: ec2.terminate(ids, requests))
    room.whole.clock.advance(10)
    alive = room.do(lambda ec2: ec2.list_spot_requests())
    assert [(r.instance_id, r.state) for r in alive] == [(second.instance_id, "active")]
    room.whole.clock.advance(1000)
    assert room.state(first.instance_id) is InstanceState.TERMINATED
    assert len(room.whole.client("ec2").describe_instances()["Reservations"]) == 1


def test_one_that_ended_behind_our_back_is_known_by_its_request_alone(room: Class) -> None:
    (one,) = room.launched(market="spot")
    room.control("POST", f"workers/{one.instance_id}/terminate", {})
    room.whole.clock.advance(10)
    room.listed()
    room.whole.clock.advance(100)
    assert [w.instance_id for w in room.listed()] == [one.instance_id]
    (request,) = room.do(lambda ec2: ec2.list_spot_requests())
    other = request.instance_id
    assert other
    assert other != one.instance_id
    room.do(lambda ec2: ec2.terminate([other], [request.request_id]))
    room.whole.clock.advance(1000)
    room.listed()
    room.whole.clock.advance(1000)
    assert room.do(lambda ec2: ec2.list_spot_requests()) == []


def test_an_interrupted_worker_is_ec2s_to_start(room: Class) -> None:
    (one,) = room.launched(market="spot")
    rule = {"market": "spot", "max_running": 0}
    room.control("POST", "capacity", {"rules": [rule]})
    room.control("POST", f"workers/{one.instance_id}/interrupt", {"seconds": 1})
    room.whole.clock.advance(1)
    room.listed()
    room.whole.clock.advance(30)
    (worker,) = room.listed([one.instance_id])
    assert (worker.state, worker.is_interrupted) == (InstanceState.STOPPED, True)
    with pytest.raises(WrongState) as refused:
        room.do(lambda ec2: ec2.start([one.instance_id]))
    assert refused.value.aws_code == "IncorrectSpotRequestState"
    room.do(lambda ec2: ec2.cancel_spot([one.spot_request_id]))
    room.whole.clock.advance(10)
    assert room.state(one.instance_id) is InstanceState.TERMINATED
    (home,) = room.do(lambda ec2: ec2.list_volumes())
    assert home.volume_id == one.home_volume_id


def test_a_user_stopped_spot_worker_starts_if_there_is_room(room: Class) -> None:
    one = room.stopped(market="spot")
    assert (one.state, one.is_interrupted) == (InstanceState.STOPPED, False)
    with pytest.raises(Rejected):
        room.do(lambda ec2: ec2.set_type(one.instance_id, "t3.large"))
    rule = {"market": "spot", "max_running": 0}
    room.control("POST", "capacity", {"rules": [rule]})
    with pytest.raises(CapacityError):
        room.do(lambda ec2: ec2.start([one.instance_id]))
    room.control("POST", "capacity", {})
    room.do(lambda ec2: ec2.start([one.instance_id]))
    room.whole.clock.advance(6)
    assert room.state(one.instance_id) is InstanceState.RUNNING


def test_cancelling_may_be_repeated_and_knows_no_missing_requests(room: Class) -> None:
    (one,) = room.launched(market="spot")
    room.control("POST", "faults", {"action": "CancelSpot*", "fault": "lose-reply"})
    requests = ["sir-0123456789abcdef0", one.spot_request_id]
    room.do(lambda ec2: ec2.cancel_spot(requests))
    room.do(lambda ec2: ec2.cancel_spot(requests))
    assert room.do(lambda ec2: ec2.list_spot_requests()) == []
    assert room.state(one.instance_id) is InstanceState.RUNNING


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"fault": "throttle"}, Throttled),
        ({"fault": "error", "status": 500}, Unreachable),
    ],
)
def test_trouble_with_a_reading_call_is_what_it_is(
    room: Class, fault: dict[str, Any], error: type[Exception]
) -> None:
    room.control("POST", "faults", {"action": "GetServiceQuota", **fault, "count": None})
    with pytest.raises(error):
        room.do(lambda ec2: asyncio.wait_for(ec2.quota("L-1216C47A"), 3600))
