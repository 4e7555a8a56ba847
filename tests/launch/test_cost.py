"""What a cluster costs: said before there is one, and of one that is there."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.costs import NAT_HOUR, Existing
from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.errors import Denied
from ec2spawner.pricefile import PACKAGE_FILE, read_price_file
from ec2spawner.settings import load_server_config
from launch_cluster.costing import look_at_existing
from launch_cluster.pricing import NoPrices, PriceList

from .conftest import Calls

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/schemas/cost_output.schema.json").read_text())


@pytest.fixture
def own_file(aws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's file of prices, which is not there."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "ec2spawner" / "prices.json"


def answer(result: Result) -> dict[str, Any]:
    """The document on stdout, which fits its schema."""
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    jsonschema.validate(document, SCHEMA)
    return document


def choose(folder: Path, **choices: Any) -> None:
    (folder / "instance_config.json").write_text(json.dumps(choices))


# ---- before there is a cluster


def test_without_a_cluster_no_aws_is_asked(
    run: Run, own_file: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is to be asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    result = run("cost")
    assert result.exit_code == 0, result.stderr
    assert calls.made == []
    assert not own_file.exists()


def test_the_answer_is_the_one_of_the_documentation(run: Run, own_file: Path, calls: Calls) -> None:
    """docs/cost.md shows what the program says; its block is made anew by copying this output."""
    text = (ROOT / "docs/cost.md").read_text()
    found = re.search(r"<!-- launch-cluster cost -->\n```text\n(.*?)```", text, re.DOTALL)
    assert found
    assert found[1] == run("cost").stdout


def test_the_document_has_each_item_and_where_its_price_is_from(
    run: Run, own_file: Path, calls: Calls
) -> None:
    document = answer(run("cost", "--output", "json", "--students", "10", "--weeks", "10"))
    assert document["students"] == 10
    assert document["cluster"] is None
    assert document["existing"] is None
    assert document["unknown"] == []
    items = document["standing"]["items"] + document["use"]["items"]
    assert sum(item["usd"] for item in items) == pytest.approx(document["month_usd"], abs=0.001)
    assert document["course_usd"] == pytest.approx(document["month_usd"] * 10 * 168 / 730, abs=0.01)
    assert [way["name"] for way in document["alternatives"]] == [
        "a machine each, stopped when idle",
        "a machine each, always on",
        "1 shared m6i.2xlarge, always on",
    ]
    told = {price["product"] for price in document["prices"]}
    alternatives = [i for way in document["alternatives"] for i in way["month"]["items"]]
    assert told == {item["product"] for item in [*items, *alternatives]}
    assert all(price["source"] and price["date"] for price in document["prices"])


def test_options_are_reckoned_with(run: Run, own_file: Path, calls: Calls) -> None:
    few = answer(run("cost", "--output", "json", "--no-manager", "--no-nat"))
    assert few["standing"]["usd"] == 0
    assert [item["product"] for item in few["use"]["items"]] == [
        "instance t3.medium",
        "gp3 gb-month",
    ]
    usual = answer(run("cost", "--output", "json", "--hours-a-week", "12", "--no-manager"))
    hours = [document["use"]["items"][0]["quantity"] for document in (few, usual)]
    assert hours[1] == pytest.approx(2 * hours[0])
    shared = answer(
        run("cost", "--output", "json", "--shared-type", "r7i.xlarge", "--shared-gib", "1")
    )
    assert shared["alternatives"][2]["name"] == "1 shared r7i.xlarge, always on"


def test_a_profile_is_reckoned_with_its_first_type(
    run: Run, aws: Path, own_file: Path, calls: Calls
) -> None:
    choose(
        aws,
        PROFILES=[
            {"SLUG": "usual", "NAME": "Usual", "INSTANCE_TYPES": ["t3.medium"]},
            {"SLUG": "gpu", "NAME": "GPU", "INSTANCE_TYPES": ["g5.xlarge"], "HOME_GIB": 100},
        ],
    )
    document = answer(run("cost", "--output", "json", "--profile", "gpu", "--students", "1"))
    products = [item["product"] for item in document["use"]["items"]]
    assert products[0] == "instance g5.xlarge"
    assert document["use"]["items"][1]["quantity"] == 112


def test_a_price_that_is_not_known_is_said_and_never_guessed(
    run: Run, aws: Path, own_file: Path, calls: Calls
) -> None:
    choose(aws, REGION="eu-west-1", WORKER_INSTANCE_TYPE="z9.huge")
    result = run("cost")
    assert result.exit_code == 0
    missing = "No price known for an hour of z9.huge in eu-west-1; launch-cluster cost --refresh"
    assert missing in result.stdout
    assert re.search(r"workers \(z9.huge\) +782 hours +\? +\? +\?", result.stdout)
    assert re.search(r"^at least +[\d.,]+ +[\d.,]+$", result.stdout, re.MULTILINE)
    assert re.search(r"stopped when idle +\? +\?", result.stdout)
    document = answer(run("cost", "--output", "json"))
    assert "instance z9.huge" in document["unknown"]
    assert not document["use"]["is_complete"]
    assert document["use"]["items"][0]["usd"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--students", "0"), ["--students: 0 is not usable", "1 to 100000"]),
        (("--hours-a-week", "169"), ["--hours-a-week: 169", "0 to 168"]),
        (("--hours-a-week", "nan"), ["--hours-a-week: nan is not usable"]),
        (("--weeks", "-1"), ["--weeks: -1"]),
        (("--weeks", "inf"), ["--weeks: inf"]),
        (("--shared-gib", "0"), ["--shared-gib: 0"]),
        (("--shared-gib", "nan"), ["--shared-gib: nan"]),
        (("--shared-type", "t3.medium"), ["--shared-type: t3.medium", "m7i.8xlarge"]),
        (("--shared-type", "huge"), ["--shared-type: huge"]),
        (("--shared-type", "m7i.large", "--shared-gib", "7"), ["too little memory"]),
        (("--profile", "gpu"), ["--profile: gpu is not known", "no PROFILES"]),
        (("--region", "mars"), ["--region: mars is not usable"]),
        (("Biology 101",), ["CLUSTER_NAME: 'Biology 101'"]),
        (("--students", "0", "--weeks", "-1"), ["--students: 0", "--weeks: -1"]),
        (("--config", "absent.json"), ["absent.json cannot be used"]),
    ],
)
def test_what_is_asked_wrongly_is_said_at_once(
    run: Run, own_file: Path, calls: Calls, arguments: tuple[str, ...], words: list[str]
) -> None:
    result = run("cost", *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("error: ") == 1
    assert "Next: " in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert calls.made == []


@pytest.mark.parametrize("arguments", [("--students", "many"), ("--output", "xml"), ("--weeks",)])
def test_what_is_no_number_is_a_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("cost", *arguments).exit_code == 2


def test_a_broken_file_of_prices_is_said(run: Run, own_file: Path, calls: Calls) -> None:
    own_file.parent.mkdir(parents=True)
    own_file.write_text('{"currency": "EUR", "entries": []}')
    result = run("cost")
    assert result.exit_code == 2
    assert f"{own_file} cannot be used" in result.stderr
    assert "--refresh-prices" in result.stderr


# ---- today's prices


def test_todays_prices_go_into_the_operators_file_and_never_into_the_package(
    run: Run, own_file: Path, calls: Calls
) -> None:
    before = PACKAGE_FILE.read_bytes()
    document = answer(run("cost", "--refresh-prices", "--region", "eu-west-1", "--output", "json"))
    assert document["unknown"] == []
    assert PACKAGE_FILE.read_bytes() == before
    (entry,) = read_price_file(own_file).entries
    assert (entry.region, entry.source) == ("eu-west-1", "AWS Pricing API")
    assert entry.usd["instance t3.medium"] == 0.04
    assert entry.usd["snapshot gb-month"] == 0.05  # not its neighbours of nearly the same name
    assert entry.usd[NAT_HOUR] == 0.05
    assert entry.usd["nat gb"] == 0.05
    assert entry.usd["ipv4 hour"] == 0.005
    told = {price["product"]: price["source"] for price in document["prices"]}
    assert told[NAT_HOUR] == "AWS Pricing API"
    again = answer(run("cost", "--region", "eu-west-1", "--output", "json"))
    assert again == document
    assert set(calls.made) == {"get_products"}


def test_prices_are_asked_at_the_region_that_has_them(
    run: Run, own_file: Path, monkeypatch: pytest.MonkeyPatch, shared_session: Any
) -> None:
    regions: list[tuple[str, str | None]] = []

    class Session:
        def client(self, service: str, region_name: str | None = None, **more: Any) -> Any:
            regions.append((service, region_name))
            return shared_session.client(service, region_name=region_name, **more)

    monkeypatch.setattr(
        "launch_cluster.commands.common.Gateway",
        lambda region: Gateway(region, session_factory=Session),
    )
    assert run("cost", "--refresh-prices", "--region", "ap-southeast-2").exit_code == 0
    assert regions == [("pricing", "us-east-1")]


def test_us_east_1_whose_usage_types_bear_no_prefix_is_read_too(
    run: Run, own_file: Path, calls: Calls
) -> None:
    assert run("cost", "--refresh-prices").exit_code == 0
    (entry,) = read_price_file(own_file).entries
    assert len(entry.usd) == 6 + 3  # t3.medium, m7i.4xlarge, m7i.8xlarge


def test_a_region_of_which_nothing_is_known_leaves_the_file_as_it_is(
    run: Run, own_file: Path, calls: Calls
) -> None:
    result = run("cost", "--refresh-prices", "--region", "eu-north-9")
    assert result.exit_code == 1
    assert "knows no price in eu-north-9" in result.stderr
    assert not own_file.exists()


def test_a_right_that_is_missing_is_named(run: Run, own_file: Path, calls: Calls) -> None:
    def refuse() -> None:
        raise Denied("The AWS credentials in use may not do GetProducts.", next_step="Allow it.")

    calls.before["get_products"] = refuse
    result = run("cost", "--refresh-prices", "--output", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["code"] == "denied"
    assert not own_file.exists()


class Answers:
    """A gateway that gives one answer to everything."""

    def __init__(self, *offers: dict[str, Any]) -> None:
        self._offers = [json.dumps(offer) for offer in offers]

    async def pages(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{"PriceList": self._offers}]


def offer(usd: str, unit: str = "Hrs", begin: str = "0", usage: str = "EU-BoxUsage") -> Any:
    tier = {"unit": unit, "beginRange": begin, "pricePerUnit": {"USD": usd}}
    return {
        "product": {"attributes": {"usagetype": usage}},
        "terms": {"OnDemand": {"a": {"priceDimensions": {"b": tier}}}},
    }


@pytest.mark.parametrize(
    ("offers", "usd"),
    [
        ([offer("0.04")], 0.04),
        ([offer("0.04"), offer("0.04")], 0.04),
        ([offer("0.04"), offer("0")], 0.04),  # a reservation's shadow
        ([offer("0.04"), offer("0.03", begin="100")], 0.04),
        ([offer("0.04"), offer("0.05")], None),  # which one is ours, nobody knows
        ([offer("0.04", unit="Quantity")], None),
        ([{"product": {}}], None),
        ([], None),
    ],
)
def test_a_price_is_taken_only_if_there_is_just_one(offers: list[Any], usd: float | None) -> None:
    prices = PriceList(Answers(*offers), "eu-west-1")  # type: ignore[arg-type]
    if usd is None:
        with pytest.raises(NoPrices):
            asyncio.run(prices.fetch(["t3.medium"]))
    else:
        assert asyncio.run(prices.fetch(["t3.medium"])) == {"instance t3.medium": usd}


# ---- a cluster that is there


def test_a_cluster_is_told_as_it_is(
    run: Run, own_file: Path, calls: Calls, cluster: str, aws: Path, gateway: Gateway
) -> None:
    assert run("up", cluster, "--no-manager", "--yes").exit_code == 0
    config, _ = load_server_config(aws / "server_config.json")
    ec2 = EC2(gateway, cluster)
    request = LaunchRequest(
        launch_template_id=config.LAUNCH_TEMPLATE_ID,
        instance_type="t3.medium",
        subnet_id=config.WORKER_SUBNETS[0].SUBNET_ID,
        count=3,
        profile="default",
        home_gib=7,
        cost_tags={},
    )
    workers = asyncio.run(ec2.launch(request, f"token-{cluster}"))
    asyncio.run(ec2.snapshot((asyncio.run(ec2.list_volumes()))[0].volume_id, _tags(cluster)))
    stopped = workers[0].instance_id
    asyncio.run(_until_running(ec2, stopped))
    asyncio.run(ec2.stop([stopped]))
    asyncio.run(_until_volumes(gateway, cluster, 2 * 3))
    changed = len(calls.changing)
    document = answer(run("cost", cluster, "--output", "json"))
    assert len(calls.changing) == changed
    existing = document["existing"]
    assert (existing["running"], existing["stopped"]) == (2, 1)
    assert existing["running_an_hour"]["usd"] == pytest.approx(2 * 0.0416)
    items = {item["product"]: item["quantity"] for item in existing["month"]["items"]}
    image_gib = 12
    assert items.pop("snapshot gb-month") - image_gib in (7, 12)
    assert items == {NAT_HOUR: 730, "gp3 gb-month": 3 * (12 + 7), "ipv4 hour": 730}
    text = run("cost", cluster).stdout
    assert f"Cluster {cluster} in us-east-1, as it is now (USD):" in text
    assert "Machines: 2 running (0.08 USD an hour), 1 stopped (disks only)." in text


def _tags(cluster: str) -> dict[str, str]:
    return {"ec2spawner:cluster": cluster, "ec2spawner:role": "worker"}


async def _until_running(ec2: EC2, instance_id: str) -> None:
    for _ in range(200):
        (worker,) = await ec2.list_workers([instance_id])
        if worker.state.value == "running":
            return
        await asyncio.sleep(0.05)
    pytest.fail("it does not run")


async def _until_volumes(gateway: Gateway, cluster: str, count: int) -> None:
    """The builder's goes with it, a moment after the command has ended."""
    request = {"Filters": [{"Name": "tag:ec2spawner:cluster", "Values": [cluster]}]}
    for _ in range(200):
        if len((await gateway.call("ec2", "describe_volumes", request))["Volumes"]) == count:
            return
        await asyncio.sleep(0.05)
    pytest.fail("there are others")


def test_a_cluster_that_is_not_there_costs_nothing(gateway: Gateway, cluster: str) -> None:
    assert asyncio.run(look_at_existing(gateway, cluster)) == Existing()


@pytest.mark.parametrize(
    ("role", "field"),
    [
        *(("manager", "managers"), ("worker", "workers")),
        *(("nat", "nat_instances"), ("somebodys", "others"), (None, "others")),
    ],
)
def test_each_machine_is_what_its_role_says(
    gateway: Gateway, cluster: str, role: str | None, field: str
) -> None:
    ec2 = boto3.client("ec2", region_name="us-east-1")
    image = ec2.describe_images(Owners=["amazon", "099720109477"])["Images"][0]["ImageId"]
    tags = {"ec2spawner:cluster": cluster, **({"ec2spawner:role": role} if role else {})}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    ec2.run_instances(
        ImageId=image,
        InstanceType="t3.medium",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": pairs}],
    )
    existing = asyncio.run(look_at_existing(gateway, cluster))
    names = ("managers", "workers", "builders", "nat_instances", "others")
    kinds = {name: getattr(existing, name) for name in names}
    assert {name for name, types in kinds.items() if types} == {field}
    assert kinds[field] == ("t3.medium",)


def test_a_nat_instance_is_told_from_other_machines(
    run: Run, own_file: Path, cluster: str, aws: Path
) -> None:
    assert run("up", cluster, "--no-manager", "--nat", "instance", "--yes").exit_code == 0
    items = answer(run("cost", cluster, "--output", "json"))["existing"]["month"]["items"]
    machines = [item["what"] for item in items if item["product"].startswith("instance ")]
    assert machines == ["1 NAT instance (t4g.nano)"]
