"""``launch-cluster cost``: what a cluster will cost, and what one that is there costs.

Owns what is asked of AWS for it, and the order of the answer. The arithmetic is ``costs``'s, the
form of the answer ``costreport``'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ec2spawner.cloud import Gateway
from ec2spawner.configfile import Fault
from ec2spawner.costs import (
    NAT_INSTANCE_TYPE,
    Existing,
    Kind,
    Nat,
    PriceEntry,
    Prices,
    Shared,
    Usage,
    alternatives,
    kinds_of,
)
from ec2spawner.model import (
    TAG_CLUSTER,
    InstanceState,
    Role,
    Worker,
    parse_snapshot,
    parse_volume,
    parse_worker,
    tags_of,
)
from ec2spawner.pricefile import add_prices, read_prices
from ec2spawner.settings import InstanceConfig

from .bills import reckon
from .costreport import CostOutput, Estimate, lines_of, output_of
from .looking import account_of
from .pricing import SOURCE, PriceList
from .reporter import Reporter
from .request import OptionError, check_cluster_name
from .sizes import outside, usage_faults

SHARED_GIB_MAX = 1024
SHARED_SIZES = ("2xlarge", "4xlarge", "8xlarge", "16xlarge", "24xlarge")
"""Of a machine that many share, of which prices are asked."""


@dataclass(frozen=True)
class CostRequest:
    """What is asked for, checked."""

    choices: InstanceConfig
    kind: Kind
    usage: Usage
    shared: Shared
    own_file: Path
    cluster: str | None = None
    has_manager: bool = True
    nat: Nat = Nat.GATEWAY
    refresh: bool = False


@dataclass(frozen=True)
class CostOptions:
    """The options as they were typed."""

    cluster: str | None
    usage: Usage
    shared: Shared
    profile: str | None = None
    has_manager: bool = True
    nat: Nat = Nat.GATEWAY
    refresh: bool = False


def read_cost_request(
    options: CostOptions, choices: InstanceConfig, own_file: Path, region: str | None = None
) -> CostRequest:
    """The request, for ``region`` instead of the choices' own; OptionError with all faults."""
    faults = check_cluster_name(options.cluster) if options.cluster is not None else []
    if region is not None:
        choices = _elsewhere(choices, region, faults)
    faults += usage_faults(options.usage, students_min=1)
    odd = list(outside("--shared-gib", options.shared.gib_per_student, 0.25, SHARED_GIB_MAX))
    faults += odd
    large = options.shared.instance_type
    if large is not None and not odd and options.shared.machines(large, 1) is None:
        instead = "one of m7i, m7g, m6i, r7i or c7i, for example m7i.8xlarge"
        reason = "has too little memory, or none that is known here"
        faults.append(Fault("--shared-type", large, reason, instead))
    kinds = kinds_of(choices)
    found = [k for k in kinds if options.profile in (None, k.name)]
    if not found:
        names = ", ".join(k.name for k in kinds if k.name) or "none, for there are no PROFILES"
        faults.append(Fault("--profile", str(options.profile), "is not known", names))
    if faults:
        raise OptionError(faults)
    return CostRequest(
        choices=choices,
        kind=found[0],
        usage=options.usage,
        shared=options.shared,
        own_file=own_file,
        cluster=options.cluster,
        has_manager=options.has_manager,
        nat=options.nat,
        refresh=options.refresh,
    )


def _elsewhere(choices: InstanceConfig, region: str, faults: list[Fault]) -> InstanceConfig:
    try:
        return InstanceConfig.model_validate({**choices.model_dump(), "REGION": region})
    except ValidationError:
        faults.append(Fault("--region", region, "is not usable", '"us-east-1" or another Region'))
        return choices


@dataclass
class Cost:
    """One run. ``gateway`` is of the cluster's Region, ``pricing`` of the Pricing API's."""

    gateway: Gateway
    pricing: Gateway
    request: CostRequest
    reporter: Reporter
    today: Callable[[], date] = date.today

    async def run(self) -> dict[str, Any]:
        """Look, reckon, show; the result for ``--output json``."""
        request, region = self.request, self.request.choices.REGION
        existing = None
        if request.cluster is not None:
            self.reporter.progress(f"Looking at {region} …")
            existing = await look_at_existing(self.gateway, request.cluster)
        if request.refresh:
            await self._refresh(existing)
        prices = read_prices(region, request.own_file)
        estimate = self._estimate(prices, existing)
        self.reporter.show(lines_of(estimate))
        result: CostOutput = output_of(estimate)
        return result.model_dump(mode="json")

    async def _refresh(self, existing: Existing | None) -> None:
        region = self.request.choices.REGION
        self.reporter.progress(f"Asking AWS for its prices in {region} …")
        usd = await PriceList(self.pricing, region).fetch(self._types(existing))
        entry = PriceEntry(region=region, date=self.today().isoformat(), source=SOURCE, usd=usd)
        add_prices(self.request.own_file, entry)
        self.reporter.progress(f"{len(usd)} prices written to {self.request.own_file}.")

    def _types(self, existing: Existing | None) -> set[str]:
        choices = self.request.choices
        types = {choices.MANAGER_INSTANCE_TYPE, choices.WORKER_INSTANCE_TYPE, NAT_INSTANCE_TYPE}
        types |= {t for profile in choices.PROFILES for t in profile.INSTANCE_TYPES}
        large = self.request.shared.instance_type
        types |= {large} if large else {f"m7i.{size}" for size in SHARED_SIZES}
        return types | (_running(existing) if existing else set())

    def _estimate(self, prices: Prices, existing: Existing | None) -> Estimate:
        request, choices, usage = self.request, self.request.choices, self.request.usage
        kind, nat = request.kind, request.nat
        return Estimate(
            planned=reckon(choices, kind, usage, prices, manager=request.has_manager, nat=nat),
            alternatives=alternatives(choices, kind, usage, prices, request.shared),
            cluster=request.cluster,
            existing=existing,
        )


async def look_at_existing(gateway: Gateway, cluster: str) -> Existing:
    """What bears a cluster's tag and costs something. Raises ``CloudError``."""
    await account_of(gateway)  # tells soon if there are no credentials
    tagged = {"Name": f"tag:{TAG_CLUSTER}", "Values": [cluster]}
    instances, volumes, snapshots, addresses, gateways = await asyncio.gather(
        _list(gateway, "describe_instances", "Reservations", [tagged]),
        _list(gateway, "describe_volumes", "Volumes", [tagged]),
        _list(gateway, "describe_snapshots", "Snapshots", [tagged], OwnerIds=["self"]),
        _list(gateway, "describe_addresses", "Addresses", [tagged]),
        _list(gateway, "describe_nat_gateways", "NatGateways", [tagged]),
    )
    machines = [parse_worker(raw) for group in instances for raw in group["Instances"]]
    running = [m for m in machines if m.state in (InstanceState.PENDING, InstanceState.RUNNING)]
    return Existing(
        volumes=tuple(parse_volume(raw) for raw in volumes),
        snapshots=tuple(parse_snapshot(raw) for raw in snapshots),
        addresses=len(addresses),
        nat_gateways=sum(_is_charged(g, cluster) for g in gateways),
        managers=_types_of(running, Role.MANAGER),
        workers=_types_of(running, Role.WORKER),
        builders=_types_of(running, Role.BUILDER),
        nat_instances=_types_of(running, Role.NAT),
        others=_types_of(running, None),
        stopped=sum(m.state in (InstanceState.STOPPING, InstanceState.STOPPED) for m in machines),
    )


def _is_charged(nat_gateway: Mapping[str, Any], cluster: str) -> bool:
    """Whether a NAT gateway is the cluster's, and not deleted: AWS lists those for an hour more."""
    tags = tags_of(nat_gateway)
    return tags.get(TAG_CLUSTER) == cluster and nat_gateway["State"] in ("pending", "available")


def _types_of(machines: Iterable[Worker], role: Role | None) -> tuple[str, ...]:
    """Of those that have a role; None: any that is not one of an instance's."""
    known = {known.value for known in (Role.MANAGER, Role.WORKER, Role.BUILDER, Role.NAT)}
    return tuple(
        m.instance_type for m in machines if (m.role == role.value if role else m.role not in known)
    )


def _running(existing: Existing) -> set[str]:
    workers = {*existing.workers, *existing.builders}
    return workers | {*existing.managers, *existing.nat_instances, *existing.others}


async def _list(
    gateway: Gateway, operation: str, field: str, filters: list[dict[str, Any]], **more: Any
) -> list[Mapping[str, Any]]:
    pages = await gateway.pages("ec2", operation, {"Filters": filters, **more})
    return [entry for page in pages for entry in page[field]]
