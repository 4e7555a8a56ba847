"""The way from a hub's gateway to the emulated cloud: it takes time, and it breaks.

Owns the loop in which a request is on its way for a while, and two ways to the same cloud: EC2's
semantics called directly, which is quick, and the whole of it through boto3. Must not know what is
tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from core.virtual import EPOCH, VirtualLoop

from ec2spawner.cloud import READ_TIMEOUT_SECONDS, action_name
from ec2spawner.localcloud import service_quotas
from ec2spawner.localcloud.clock import Clock, ManualClock
from ec2spawner.localcloud.ec2.capacity import CapacityFile
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.images import ubuntu_image_id
from ec2spawner.localcloud.ec2.state import Timings
from ec2spawner.localcloud.ec2.surroundings import StaticSurroundings
from ec2spawner.localcloud.faults import Trouble
from ec2spawner.localcloud.inprocess import InProcessCloud
from ec2spawner.localcloud.throttle import Throttle

R = TypeVar("R")

REGION = "us-east-1"
ENDPOINT = "https://ec2"
WAY_SECONDS = 0.1
"""Of a request to AWS, and of its answer."""
LATE = "Late"
"""Code of a fault: the connection breaks before the request was carried out, and then it is."""
LATE_SECONDS = 5.0
IMAGE = ubuntu_image_id(REGION, "amd64")


@dataclass
class Life:
    """One process that sends requests: whether it lives, and if not, what becomes of its last."""

    is_over: bool = False
    last_arrive: bool = False


class Wires(VirtualLoop):
    """What a gateway sends takes a while to arrive, and its answer to come back."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()
        self.silence_seconds = 0.0
        """Set by whoever answers: how much later than others the answer comes."""
        self._dice = random.Random(7)

    def run_in_executor(
        self, executor: Any, func: Callable[..., R], *args: Any
    ) -> asyncio.Future[R]:
        if executor is None:  # the hub's own disk
            return super().run_in_executor(executor, func, *args)
        answer: asyncio.Future[R] = self.create_future()
        life = self.life

        def arrive() -> None:
            if life.is_over and not life.last_arrive:
                return
            self.silence_seconds = 0.0
            carried_out = super(Wires, self).run_in_executor(executor, func, *args)
            pause = self._way() + self.silence_seconds
            self.call_later(pause, come_back, carried_out)

        def come_back(carried_out: asyncio.Future[R]) -> None:
            error = carried_out.exception()
            if answer.done():
                return
            if error:
                answer.set_exception(error)
            else:
                answer.set_result(carried_out.result())

        self.call_later(self._way(), arrive)
        return answer

    def _way(self) -> float:
        return WAY_SECONDS * (0.5 + self._dice.random())


def add_image(core: EmulatedEC2) -> str:
    """Another image of the workers, made from the same base."""
    made = copy.copy(core.images[IMAGE])
    made.id = f"ami-{len(core.images):017x}"
    core.add(made)
    return made.id


class World(Protocol):
    """An emulated cloud with one cluster's network, on the loop's time."""

    core: EmulatedEC2
    trouble: Trouble
    capacity: CapacityFile
    subnets: tuple[str, ...]
    template: str
    image_id: str
    """What the parameter says of the workers' current image."""
    is_late: bool
    """Whether what is carried out now had been given up by its sender."""

    def session(self) -> Any:
        """A gateway's session."""

    def set_full(self, subnet: int, *, full: bool) -> None:
        """Have a subnet run out of addresses, or not."""

    def close(self) -> None:
        """Let go of everything."""


def cloud_clock(loop: Wires) -> Clock:
    """AWS's own time, which nobody's clock changes."""
    return lambda: EPOCH + loop.time()


class DirectWorld:
    """EC2's semantics, its limits and faults, without HTTP and XML. Its client is boto3's."""

    def __init__(self, loop: Wires) -> None:
        self._loop = loop
        clock = cloud_clock(loop)
        self.capacity = CapacityFile(None)
        self.surroundings = StaticSurroundings()
        self.core = EmulatedEC2(
            clock, self.surroundings, timings=Timings(), capacity=self.capacity, seed="soak"
        )
        self.trouble = Trouble()
        self.image_id = IMAGE
        self.is_late = False
        self._throttle = Throttle(clock)
        self.subnets = tuple(self.surroundings.subnets)[:2]
        self.template = "lt-workers"
        self.surroundings.templates[self.template] = [{"ImageId": IMAGE}]

    def session(self) -> Any:
        return self

    def client(self, service: str, **options: Any) -> Any:
        return _DirectClient(self, service)

    def set_full(self, subnet: int, *, full: bool) -> None:
        subnets, name = self.surroundings.subnets, self.subnets[subnet]
        others = frozenset(map(str, range(5000))) if full else frozenset()
        subnets[name] = type(subnets[name])(**{**vars(subnets[name]), "used_addresses": others})

    def close(self) -> None:
        """Nothing to let go of."""

    def request(self, service: str, action: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """One call, with the faults that the front would carry out (``localcloud.front``)."""
        if self.trouble.outage:
            raise self._silence(self.trouble.outage)
        fault = self.trouble.take(service, action, "")
        if fault and fault.code == LATE:
            self._loop.call_later(LATE_SECONDS, self._carry_out_late, service, action, params)
        if fault and fault.when == "before":
            raise self._silence(fault.fault, fault.code, fault.status)
        try:
            reply = self._carry_out(service, action, params)
        except EC2Error as error:
            raise _refusal(error.code, error.message, error.status) from error
        if fault:
            raise self._silence(fault.fault, fault.code, fault.status)
        return reply

    def _carry_out_late(self, service: str, action: str, params: Mapping[str, Any]) -> None:
        self.is_late = True
        try:
            with contextlib.suppress(EC2Error):
                self._carry_out(service, action, params)
        finally:
            self.is_late = False

    def _carry_out(self, service: str, action: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if service == "service-quotas":
            quota = {"Value": self._quota(params["QuotaCode"])}
            return {"Quota": quota}
        if action == "DescribeInstanceTypes":
            names = params["Filters"][0]["Values"]
            found = [self.surroundings.types[name] for name in names]
            views = [{"InstanceType": t.name, "VCpuInfo": {"DefaultVCpus": t.vcpus}} for t in found]
            return {"InstanceTypes": views}
        self._throttle.admit(REGION, action, _flat(params))
        try:
            return self.core.call(action, params)
        finally:
            self.core.take_changes()
            self.core.take_events()

    def _quota(self, code: str) -> float:
        quota = service_quotas.QUOTAS[code]
        vcpus = self.capacity.current().quota(quota.market, quota.class_)
        return 10_000.0 if vcpus is None else float(vcpus)

    def _silence(self, kind: str, code: str = "", status: int = 0) -> Exception:
        if kind == "never-answer":
            self._loop.silence_seconds = READ_TIMEOUT_SECONDS
            return ReadTimeoutError(endpoint_url=ENDPOINT)
        if kind == "throttle":
            return _refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
        if kind == "error":
            return _refusal(code or "Unavailable", "", status or 503)
        return ConnectionClosedError(endpoint_url=ENDPOINT)


class _DirectClient:
    def __init__(self, world: DirectWorld, service: str) -> None:
        self._world = world
        self._service = service

    def __getattr__(self, operation: str) -> Callable[..., dict[str, Any]]:
        def call(**params: Any) -> dict[str, Any]:
            return self._world.request(self._service, action_name(operation), params)

        return call


def _refusal(code: str, message: str, status: int) -> ClientError:
    error = {"Code": code, "Message": message}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "Call")


def _flat(params: Mapping[str, Any]) -> dict[str, str]:
    """As much of the request's form as its limits depend on."""
    flat = {name: str(params[name]) for name in ("MaxResults", "MaxCount") if name in params}
    if params.get("Filters"):
        flat["Filter.1.Name"] = "x"
    flat.update({f"InstanceId.{n}": i for n, i in enumerate(params.get("InstanceIds") or ())})
    return flat


class _LoopClock(ManualClock):
    """The loop's time, which nobody else moves."""

    def __init__(self, loop: Wires) -> None:
        self._loop = loop

    @property
    def now(self) -> float:  # type: ignore[override]
        return EPOCH + self._loop.time()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Time passes by itself."""


class WholeWorld:
    """The same with moto behind it: botocore, forms, XML, and the front with all it does."""

    def __init__(self, loop: Wires) -> None:
        self._whole = InProcessCloud(clock=_LoopClock(loop), throttle=True, seed="soak")
        self.is_late = False
        self.image_id = IMAGE
        self.trouble = self._whole.cloud.trouble
        self.capacity = self._whole.cloud.capacity
        raw = self._whole.client("ec2")
        self.core = self._whole.core(REGION)
        vpc = raw.create_vpc(CidrBlock="127.77.0.0/16")["Vpc"]["VpcId"]
        self.subnets = tuple(
            str(
                raw.create_subnet(
                    VpcId=vpc,
                    CidrBlock=f"127.77.{number}.0/24",
                    AvailabilityZone=f"{REGION}{'ab'[number]}",
                )["Subnet"]["SubnetId"]
            )
            for number in range(2)
        )
        made = raw.create_launch_template(
            LaunchTemplateName="workers", LaunchTemplateData={"ImageId": IMAGE}
        )
        self.template = str(made["LaunchTemplate"]["LaunchTemplateId"])

    def session(self) -> Any:
        return self

    def client(self, service: str, **options: Any) -> Any:
        return self._whole.client(service)

    def set_full(self, subnet: int, *, full: bool) -> None:
        """Not here: a network of moto's has the addresses that it has."""

    def close(self) -> None:
        self._whole.close()
