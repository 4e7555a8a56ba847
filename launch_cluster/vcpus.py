"""Whether the account's vCPU quotas suffice for a class: one judgement for each quota.

Owns which machines count against which quota: those of all kinds that students may have, in each
market that their profile names; the manager; a NAT instance; spares that run; the builder. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ec2spawner.costs import NAT_INSTANCE_TYPE, Nat
from ec2spawner.profiles import Market
from ec2spawner.quotas import quota_code

from .facts import Facts
from .planning import Finding, nat_of
from .request import UpRequest

NAT_VCPUS = 2  # of t4g.nano (EC2 instance types guide, 2026)
MARKETS: Mapping[Market, tuple[str, ...]] = {
    "on-demand": ("on-demand",),
    "spot": ("spot",),
    "spot-then-on-demand": ("spot", "on-demand"),
}


@dataclass(frozen=True)
class Need:
    """What may count against one quota at the same time."""

    code: str
    market: str
    types: Mapping[str, int]  # of workers, with their vCPUs, the largest first
    machines: int  # of them, in any mixture
    besides: Mapping[str, int]  # machines that run anyway, with their vCPUs

    @property
    def vcpus(self) -> int:
        """At most, so that each could have the largest type."""
        return self.machines * max(self.types.values()) + sum(self.besides.values())


def quota_codes(request: UpRequest) -> tuple[str, ...]:
    """All quotas that count."""
    return tuple(dict.fromkeys(code for code, _, _ in _worker_types(request)))


def needs_of(request: UpRequest, facts: Facts) -> Iterator[Need]:
    """One for each quota of which a type is known."""
    expected = max(1, request.usage.students)
    for code in quota_codes(request):
        ours = [(market, name) for found, market, name in _worker_types(request) if found == code]
        vcpus = {name: kind.vcpus for _, name in ours if (kind := facts.kinds.get(name))}
        types = dict(sorted(vcpus.items(), key=lambda pair: (-pair[1], pair[0])))
        if not types or not all(types.values()):
            continue
        builds_only = not {name for _, name in ours} & set(_student_types(request))
        yield Need(
            code=code,
            market=ours[0][0],
            types=types,
            machines=1 if builds_only else expected + _spares(request, set(types)),
            besides=dict(_besides(request, facts, code)),
        )


def judge(need: Need, quota: float, students: int) -> Finding | None:
    """What is to be known of a quota; None if it suffices."""
    if quota >= need.vcpus:
        return None
    free = max(0, int(quota) - sum(need.besides.values()))
    room = " or ".join(f"{free // vcpus} machines of {name}" for name, vcpus in need.types.items())
    beside = f" beside {' and '.join(need.besides)}" if need.besides else ""
    expected = f"; {students} students are expected" if students else ""
    return Finding(
        f"The vCPU quota {need.code} ({need.market})",
        f"is {quota:.0f}: {room} at once{beside}, less what else runs in the account{expected}",
        "Ask for more, some days before: aws service-quotas request-service-quota-increase"
        f" --service-code ec2 --quota-code {need.code} --desired-value {need.vcpus}",
    )


def _worker_types(request: UpRequest) -> Iterator[tuple[str, str, str]]:
    """Quota code, market and name of each type that a worker or the builder may have."""
    choices = request.choices
    yield quota_code(choices.WORKER_INSTANCE_TYPE), "on-demand", choices.WORKER_INSTANCE_TYPE
    for profile in choices.PROFILES:
        for market in MARKETS[profile.MARKET]:
            for name in profile.INSTANCE_TYPES:
                if code := quota_code(name, market):
                    yield code, market, name


def _student_types(request: UpRequest) -> tuple[str, ...]:
    profiles = request.choices.PROFILES
    if not profiles:
        return (request.choices.WORKER_INSTANCE_TYPE,)
    return tuple(name for profile in profiles for name in profile.INSTANCE_TYPES)


def _spares(request: UpRequest, types: set[str]) -> int:
    choices = request.choices
    if not choices.PROFILES:
        return choices.POOL_RUNNING
    return sum(p.POOL_RUNNING for p in choices.PROFILES if types & set(p.INSTANCE_TYPES))


def _besides(request: UpRequest, facts: Facts, code: str) -> Iterator[tuple[str, int]]:
    kind = facts.manager.kind if facts.manager else None
    if request.manager and kind and quota_code(kind.name) == code:
        yield f"the manager ({kind.name})", kind.vcpus
    if nat_of(request, facts) is Nat.INSTANCE and quota_code(NAT_INSTANCE_TYPE) == code:
        yield f"the NAT instance ({NAT_INSTANCE_TYPE})", NAT_VCPUS
