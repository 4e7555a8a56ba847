"""What ``doctor`` finds: rights, quotas, routes, addresses, a domain; all at once, each with a way
out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import CloudError, Denied
from ec2spawner.settings import InstanceConfig
from launch_cluster import probing
from launch_cluster.examining import (
    Diagnosis,
    Domain,
    Health,
    Quotas,
    Rights,
    Way,
    examine,
)
from launch_cluster.facts import Facts, ManagerFacts, StackFacts, SubnetFacts, TypeFacts
from launch_cluster.manager_request import ManagerRequest
from launch_cluster.policies import Place
from launch_cluster.probing import policy_source, way_of
from launch_cluster.request import UpRequest
from launch_cluster.rights import (
    EXAMPLES,
    NOT_FOR_BUILDING,
    operator_policies,
    simulated_actions,
)

from .clouds import control
from .conftest import Calls

Run = Callable[..., Result]
OWN = ("subnet-0000000a", "subnet-0000000b")
PUBLIC = "subnet-0000000c"
REQUEST = UpRequest("town", InstanceConfig(), Path("server_config.json"))
IN_OURS = replace(REQUEST, private_subnets=OWN, public_subnet=PUBLIC, manager=ManagerRequest())
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
STANDARD, STANDARD_SPOT, GPU = "L-1216C47A", "L-34B43A08", "L-DB2E81BA"
KINDS = {
    name: TypeFacts(name, ("x86_64",), True, ZONES, vcpus)
    for name, vcpus in (
        *(("t3.medium", 2), ("m7i.2xlarge", 8), ("m7i.large", 2), ("g5.xlarge", 4)),
        ("t3.small", 2),
    )
}
FACTS = Facts(
    account="1",
    kind=KINDS["t3.medium"],
    kinds=MappingProxyType(KINDS),
    subnets=MappingProxyType(
        {i: SubnetFacts(i, "vpc-1", "us-east-1a", 10) for i in (*OWN, PUBLIC)}
    ),
)


def found(
    request: UpRequest = REQUEST, students: int = 0, facts: Facts = FACTS, **health: Any
) -> Diagnosis:
    usage = replace(request.usage, students=students)
    return examine(replace(request, usage=usage), facts, Health(**health))


def test_where_all_is_well_there_is_nothing_to_say() -> None:
    ways = {OWN[0]: Way.NAT, OWN[1]: Way.ELSEWHERE, PUBLIC: Way.INTERNET}
    quotas = Quotas({STANDARD: 64}, 5, 4)
    choices = InstanceConfig(PUBLIC_URL="https://hub.example.org", SUBDOMAINS=True)
    result = found(replace(IN_OURS, choices=choices), 20, ways=ways, quotas=quotas)
    assert result == Diagnosis((), ())


LEADS_HERE = Domain("hub.example.org", ("192.0.2.1",), "192.0.2.1")


@pytest.mark.parametrize(
    ("choices", "domain", "words"),
    [
        ({}, None, []),
        ({}, LEADS_HERE, ["SUBDOMAINS is false", "the origin of hub.example.org", "to true"]),
        ({"PUBLIC_URL": "https://hub.uni.example"}, None, ["the origin of hub.uni.example"]),
        (
            {"SUBDOMAINS": True},
            LEADS_HERE,
            ["certificate of your own for hub.example.org and *.hub.example.org", "A record"],
        ),
    ],
)
def test_of_users_names_it_is_said_what_is_missing(
    choices: dict[str, Any], domain: Domain | None, words: list[str]
) -> None:
    request = replace(REQUEST, choices=InstanceConfig(**choices))
    result = found(request, domain=domain)
    assert result.obstacles == ()
    assert len(result.warnings) == (1 if words else 0)
    for word in words:
        assert word in str(result.warnings[0])


@pytest.mark.parametrize(
    ("health", "request_", "students", "words"),
    [
        (
            {"rights": Rights(("ec2:RunInstances",))},
            REQUEST,
            0,
            ["may not ec2:RunInstances", "--print-policies"],
        ),
        (
            {"ways": {OWN[0]: Way.INTERNET}},
            IN_OURS,
            0,
            [OWN[0], "internet gateway", "NAT gateway"],
        ),
        ({"ways": {PUBLIC: Way.NAT}}, IN_OURS, 0, [PUBLIC, "nobody could reach the hub"]),
    ],
)
def test_what_stands_in_the_way(
    health: Mapping[str, Any], request_: UpRequest, students: int, words: list[str]
) -> None:
    result = found(request_, students, **health)
    (finding,) = result.obstacles
    assert result.warnings == ()
    assert all(word in str(finding) for word in words)


@pytest.mark.parametrize(
    ("health", "request_", "students", "words"),
    [
        ({"rights": Rights(unsure=("s3:PutObject",))}, REQUEST, 0, ["s3:PutObject", "alone"]),
        ({"rights": Rights(unknown="AccessDenied")}, REQUEST, 0, ["could not be", "AccessDenied"]),
        (
            {"quotas": Quotas({STANDARD: 5})},
            REQUEST,
            30,
            [
                *("is 5: 2 machines of t3.medium", "L-1216C47A (on-demand)", "30 students"),
                "--desired-value 60",
            ],
        ),
        ({"ways": {OWN[1]: Way.NOWHERE}}, IN_OURS, 0, [OWN[1], "no default route"]),
        ({"quotas": Quotas({STANDARD: 1})}, REQUEST, 0, ["is 1: 0 machines"]),
        ({"quotas": Quotas({}, 5, 5)}, REQUEST, 0, ["5 are in use", "--desired-value 6"]),
        ({}, IN_OURS, 21, ["20 free addresses for 21 students"]),
        ({"domain": Domain("a.b")}, REQUEST, 0, ["a.b leads nowhere", "A record"]),
        (
            {"domain": Domain("a.b", ("192.0.2.9",), "192.0.2.1")},
            REQUEST,
            0,
            ["leads to 192.0.2.9", "Change its A record to 192.0.2.1"],
        ),
    ],
)
def test_what_an_operator_should_know(
    health: Mapping[str, Any], request_: UpRequest, students: int, words: list[str]
) -> None:
    result = found(request_, students, **health)
    (finding, *others) = result.warnings
    assert [other.subject for other in others] == ["SUBDOMAINS"] * ("domain" in health)
    assert result.obstacles == ()
    assert all(word in str(finding) for word in words)


def in_profiles(*profiles: tuple[str, tuple[str, ...]], **choices: Any) -> UpRequest:
    entries = tuple(
        {"SLUG": f"p{i}", "NAME": f"P {i}", "MARKET": market, "INSTANCE_TYPES": types}
        for i, (market, types) in enumerate(profiles)
    )
    return replace(REQUEST, choices=InstanceConfig(PROFILES=entries, **choices))


def of_quotas(request: UpRequest, students: int, facts: Facts = FACTS, **sizes: float) -> list[str]:
    codes = {"standard": STANDARD, "spot": STANDARD_SPOT, "gpu": GPU}
    quotas = Quotas({codes[name]: size for name, size in sizes.items()})
    warnings = found(request, students, facts, quotas=quotas).warnings
    return [str(w) for w in warnings if "vCPU" in w.subject]


def test_each_quota_is_judged_by_all_types_of_all_profiles_and_markets() -> None:
    request = in_profiles(
        ("spot-then-on-demand", ("m7i.large", "m7i.2xlarge")),
        ("on-demand", ("g5.xlarge",)),
    )
    assert of_quotas(request, 10, standard=80, spot=80, gpu=40) == []
    on_demand, spot, gpu = of_quotas(request, 10, standard=79, spot=16, gpu=0)
    assert STANDARD in on_demand
    assert "9 machines of m7i.2xlarge or 39 machines of m7i.large or" in on_demand
    assert "--desired-value 80" in on_demand
    assert f"{STANDARD_SPOT} (spot) is 16: 2 machines of m7i.2xlarge or 8" in spot
    assert f"{GPU} (on-demand) is 0: 0 machines of g5.xlarge at once" in gpu
    assert "--desired-value 40" in gpu


def test_a_quota_that_only_the_builder_meets_is_for_one_machine() -> None:
    request = in_profiles(("on-demand", ("g5.xlarge",)))
    assert of_quotas(request, 30, standard=2, gpu=120) == []
    assert "is 1: 0 machines of t3.medium" in of_quotas(request, 30, standard=1, gpu=120)[0]


def test_what_runs_besides_students_machines_counts_too() -> None:
    facts = replace(FACTS, manager=ManagerFacts(kind=KINDS["t3.small"]))
    request = replace(MANAGED, nat="instance", choices=InstanceConfig(POOL_RUNNING=3))
    needed = 2 * (10 + 3) + 2 + 2
    assert of_quotas(request, 10, facts, standard=needed) == []
    (short,) = of_quotas(request, 10, facts, standard=needed - 1)
    assert "12 machines of t3.medium at once beside the manager (t3.small) and the NAT ins" in short
    assert f"--desired-value {needed}" in short
    graviton = replace(facts, manager=ManagerFacts(kind=replace(KINDS["g5.xlarge"])))
    assert of_quotas(request, 10, graviton, standard=needed - 2) == []


def test_a_type_that_is_not_there_is_no_matter_of_quotas() -> None:
    request = replace(REQUEST, choices=InstanceConfig(WORKER_INSTANCE_TYPE="t9.enormous"))
    facts = replace(FACTS, kinds=MappingProxyType({"t9.enormous": None}))
    assert of_quotas(request, 10, facts, standard=0) == []


def test_a_quota_that_could_not_be_looked_up_is_said_to_be() -> None:
    (finding,) = found(quotas=Quotas(unread={"the vCPU quota L-1": "AccessDenied"})).warnings
    assert str(finding).startswith("The vCPU quota L-1 could not be looked up (AccessDenied).")


def test_a_network_that_is_made_is_large_enough_for_the_class() -> None:
    small = replace(REQUEST, vpc_cidr="10.9.0.0/24")
    assert found(small, 118).warnings == ()
    (finding,) = found(small, 119).warnings
    assert "10.9.0.0/24 over 2 zones has room for 118 workers" in str(finding)
    assert "Choose a larger --vpc-cidr" in str(finding)
    assert found(replace(small, zones=3), 119).warnings == ()
    parameters = {"VpcCidr": "10.9.0.0/24", "ZoneA": "us-east-1a", "ZoneB": "us-east-1b"}
    network = StackFacts("network", "id", "CREATE_COMPLETE", parameters)
    (finding,) = found(REQUEST, 119, replace(FACTS, network=network)).warnings
    assert "Make another cluster" in str(finding)


MANAGED = replace(REQUEST, manager=ManagerRequest())


@pytest.mark.parametrize(
    ("request_", "network", "manager", "needed"),
    [
        (REQUEST, None, None, 1),
        (MANAGED, None, None, 2),
        (MANAGED, "CREATE_COMPLETE", None, 1),
        (MANAGED, "CREATE_COMPLETE", "UPDATE_COMPLETE", 0),
        (MANAGED, "ROLLBACK_COMPLETE", "CREATE_FAILED", 2),  # what is left of them goes before
        (replace(MANAGED, nat="none"), None, None, 1),
        (replace(MANAGED, nat="instance"), None, None, 2),
        (IN_OURS, None, None, 1),
    ],
)
def test_elastic_addresses_are_counted_for_nat_and_for_the_manager(
    request_: UpRequest, network: str | None, manager: str | None, needed: int
) -> None:
    def stack(status: str | None) -> StackFacts | None:
        return StackFacts("stack", "id", status) if status else None

    facts = replace(FACTS, network=stack(network), manager=ManagerFacts(stack(manager)))
    enough, short = Quotas({}, 5, 5 - needed), Quotas({}, 5, 6 - needed)
    assert found(request_, facts=facts, quotas=enough).warnings == ()
    warnings = found(request_, facts=facts, quotas=short).warnings
    assert len(warnings) == (needed > 0)
    assert all(f"{needed} more" in str(w) and "--desired-value 6" in str(w) for w in warnings)


def test_all_findings_come_at_once() -> None:
    result = found(
        IN_OURS,
        100,
        rights=Rights(("ec2:CreateVpc", "iam:CreateRole")),
        ways={OWN[0]: Way.NOWHERE, OWN[1]: Way.INTERNET, PUBLIC: Way.NOWHERE},
        quotas=Quotas({STANDARD: 5}, 5, 5),
        domain=Domain("a.b"),
    )
    assert len(result.obstacles) == 3
    assert len(result.warnings) == 6


def test_a_hub_elsewhere_needs_no_way_in_from_the_internet() -> None:
    result = found(replace(IN_OURS, manager=None), ways={PUBLIC: Way.NOWHERE})
    assert result == Diagnosis((), ())


# ---- routes


def table(target: Mapping[str, Any], *links: Mapping[str, Any], vpc: str = "vpc-1") -> Any:
    routes = [
        {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local"},
        {"DestinationCidrBlock": "0.0.0.0/0", "State": "active", **target},
    ]
    return {"VpcId": vpc, "Associations": list(links), "Routes": routes}


@pytest.mark.parametrize(
    ("target", "way"),
    [
        ({"NatGatewayId": "nat-1"}, Way.NAT),
        ({"InstanceId": "i-1", "NetworkInterfaceId": "eni-1"}, Way.NAT),
        ({"GatewayId": "igw-1"}, Way.INTERNET),
        ({"TransitGatewayId": "tgw-1"}, Way.ELSEWHERE),
        ({"NatGatewayId": "nat-1", "State": "blackhole"}, Way.NOWHERE),
    ],
)
def test_where_a_default_route_leads(target: Mapping[str, Any], way: Way) -> None:
    assert way_of("subnet-1", "vpc-1", [table(target, {"SubnetId": "subnet-1"})]) is way


def test_a_subnet_without_a_table_of_its_own_has_its_vpcs_main_one() -> None:
    nat, other = {"NatGatewayId": "nat-1"}, {"GatewayId": "igw-1"}
    tables = [
        table(other, {"SubnetId": "subnet-2"}),
        table(other, {"Main": True}, vpc="vpc-2"),
        table(nat, {"Main": True}),
    ]
    assert way_of("subnet-1", "vpc-1", tables) is Way.NAT
    assert way_of("subnet-1", "vpc-3", tables) is Way.NOWHERE


# ---- rights


@pytest.mark.parametrize(
    ("caller", "source"),
    [
        ("arn:aws:iam::1:root", None),
        ("arn:aws:iam::1:user/people/ann", "arn:aws:iam::1:user/people/ann"),
        ("arn:aws:sts::1:assumed-role/ops/ann", "arn:aws:iam::1:role/ops"),
        ("arn:aws-us-gov:sts::1:assumed-role/ops/i-0", "arn:aws-us-gov:iam::1:role/ops"),
    ],
)
def test_whose_policies_decide(caller: str, source: str | None) -> None:
    assert policy_source(caller) == source


class FakeGateway:
    """Answers like IAM: what is in ``denied`` is."""

    def __init__(self, denied: dict[str, str], error: CloudError | None = None) -> None:
        self.denied = denied
        self.error = error
        self.asked: list[str] = []

    async def call(self, service: str, operation: str) -> dict[str, Any]:
        return {"Arn": "arn:aws:iam::1:user/ann"}

    async def pages(self, service: str, operation: str, params: Any, **more: Any) -> Any:
        if self.error:
            raise self.error
        self.asked += params["ActionNames"]
        results = [
            {"EvalActionName": name, "EvalDecision": self.denied.get(name, "allowed")}
            for name in params["ActionNames"]
        ]
        return [{"EvaluationResults": results}]


async def test_every_action_is_asked_for_once_and_what_is_denied_is_named() -> None:
    gateway = FakeGateway({"iam:CreateRole": "explicitDeny", "ec2:CreateVpc": "implicitDeny"})
    rights = await probing.look_at_rights(gateway)  # type: ignore[arg-type]
    assert sorted(gateway.asked) == sorted(simulated_actions())
    assert rights == Rights(("iam:CreateRole",), ("ec2:CreateVpc",))


async def test_a_denial_of_what_only_some_commands_need_keeps_nobody_from_building() -> None:
    gateway = FakeGateway({"pricing:GetProducts": "explicitDeny"})
    rights = await probing.look_at_rights(gateway)  # type: ignore[arg-type]
    assert rights == Rights((), ("pricing:GetProducts",))


@pytest.mark.parametrize("boundary", ["", "arn:aws:iam::1:policy/x"])
def test_what_is_asked_for_are_the_rights_that_are_printed(boundary: str) -> None:
    """All of them, and no other; no role's boundary is taken off where one was asked for."""
    policies = operator_policies(Place("bio", "eu-west-1", "1" * 12), boundary).values()
    allowed = [s for policy in policies for s in policy["Statement"] if s["Effect"] == "Allow"]
    patterns = {action for statement in allowed for action in statement["Action"]}
    asked = simulated_actions(boundary)
    assert [a for a in asked if "*" in a] == []
    assert {p for p in patterns if not any(fnmatchcase(a, p) for a in asked)} == set()
    assert {a for a in asked if not any(fnmatchcase(a, p) for p in patterns)} == set()
    assert ("iam:DeleteRolePermissionsBoundary" in asked) == (not boundary)
    for pattern, examples in EXAMPLES.items():
        assert all(fnmatchcase(example, pattern) for example in examples)
        assert pattern in patterns
    assert set(asked) >= NOT_FOR_BUILDING


async def test_that_rights_cannot_be_asked_for_is_no_obstacle() -> None:
    gateway = FakeGateway({}, Denied("no", aws_code="AccessDenied"))
    rights = await probing.look_at_rights(gateway)  # type: ignore[arg-type]
    assert rights == Rights(unknown="AccessDenied")


async def test_what_cannot_be_asked_is_said_and_not_taken_for_none() -> None:
    class Refusing(FakeGateway):
        async def call(self, service: str, operation: str, *_: Any, **__: Any) -> dict[str, Any]:
            raise Denied("no", aws_code="UnauthorizedOperation")

    gateway: Any = Refusing({}, Denied("no", aws_code="UnauthorizedOperation"))
    quotas = await probing.look_at_quotas(gateway, EC2(gateway, "town"), (STANDARD, GPU))
    assert (quotas.vcpus, quotas.addresses, quotas.addresses_used) == ({}, None, None)
    warnings = found(MANAGED, quotas=replace(quotas, addresses=0)).warnings
    assert [w.subject for w in warnings] == [
        f"The vCPU quota {STANDARD}",
        f"The vCPU quota {GPU}",
        "The quota of Elastic IPs L-0263D0A3",
        "The number of Elastic IPs in use",
    ]
    assert all("UnauthorizedOperation" in w.reason for w in warnings)


# ---- against the emulated cloud


def test_the_emulated_cloud_answers_all_that_is_looked_at(gateway: Gateway, aws: Path) -> None:
    assert asyncio.run(probing.look_at_rights(gateway)) == Rights()
    vpc = asyncio.run(gateway.call("ec2", "describe_subnets"))["Subnets"][0]
    ways = asyncio.run(probing.look_at_ways(gateway, {vpc["SubnetId"]: vpc["VpcId"]}))
    assert set(ways) == {vpc["SubnetId"]}
    domain = asyncio.run(probing.look_at_domain("127.0.0.1", None))
    assert domain.leads_to == ("127.0.0.1",)


def test_doctor_names_all_at_once_changes_nothing_and_fails(
    run: Run, aws: Path, cluster: str, calls: Calls
) -> None:
    (aws / "instance_config.json").write_text(
        '{"WORKER_INSTANCE_TYPE": "t9.enormous", "MANAGER_INSTANCE_TYPE": "t9.small"}'
    )
    arguments = ("ami-00000000", "subnet-00000001", "subnet-00000002")
    result = run("doctor", cluster, *arguments, "--output", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    about = " ".join(finding["subject"] for finding in found["obstacles"])
    named = ("t9.enormous", "t9.small", "subnet-00000001", "subnet-00000002")
    assert all(word in about for word in named)
    assert all(finding["next_step"] for finding in found["obstacles"])
    assert calls.changing == []


def test_a_vpc_that_is_not_there_is_one_finding_of_several(
    run: Run, aws: Path, cluster: str
) -> None:
    (aws / "instance_config.json").write_text('{"MANAGER_INSTANCE_TYPE": "t9.small"}')
    arguments = ("--vpc-id", "vpc-00000001", "--key-name", "nobodys")
    result = run("doctor", cluster, *arguments, "--output", "json")
    assert result.exit_code == 1
    about = [finding["subject"] for finding in json.loads(result.stdout)["obstacles"]]
    assert about == ["The VPC vpc-00000001", "MANAGER_INSTANCE_TYPE t9.small", "--key-name nobodys"]


@pytest.fixture
def limits(aws: Path) -> Iterator[Callable[..., None]]:
    """Sets quotas of the emulated account, until the test's end."""
    yield lambda **document: control("capacity", **document)
    control("capacity", rules=[])


def test_all_quotas_that_are_too_small_are_told_at_once_before_anything_is_made(
    run: Run, aws: Path, cluster: str, calls: Calls, limits: Callable[..., None]
) -> None:
    profiles = [
        {"SLUG": "a", "NAME": "A", "INSTANCE_TYPES": ["t3.medium", "m5.xlarge"], "MARKET": "spot"},
        {"SLUG": "b", "NAME": "B", "INSTANCE_TYPES": ["g4dn.xlarge"]},
    ]
    (aws / "instance_config.json").write_text(json.dumps({"PROFILES": profiles}))
    limits(
        vcpu_quota={"on-demand": {"standard": 3, "g": 8}, "spot": {"standard": 30}},
        address_quota=1,
    )
    result = run("doctor", cluster, "--students", "10", "--output", "json")
    assert result.exit_code == 0, result.stderr
    warnings = json.loads(result.stdout)["warnings"]
    assert [w["subject"] for w in warnings if "quota" in w["subject"]] == [
        f"The vCPU quota {STANDARD} (on-demand)",  # the builder and the manager
        f"The vCPU quota {STANDARD_SPOT} (spot)",
        f"The vCPU quota {GPU} (on-demand)",
        "The quota of Elastic IPs L-0263D0A3",
    ]
    assert "7 machines of m5.xlarge or 15 machines of t3.medium" in warnings[1]["reason"]
    assert all("--desired-value" in w["next_step"] for w in warnings if "quota" in w["subject"])
    notices = json.loads(run("plan", cluster, "--students", "10", "--output", "json").stdout)[
        "notices"
    ]
    assert sum("quota" in notice for notice in notices) == 4
    assert calls.changing == []


def test_doctor_says_so_where_nothing_stands_in_the_way(
    run: Run, aws: Path, cluster: str, calls: Calls
) -> None:
    result = run("doctor", cluster, "--no-manager", "--students", "200")
    assert result.exit_code == 0, result.stderr
    assert "nothing stands in the way" in result.stdout
    assert calls.changing == []
