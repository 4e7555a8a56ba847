"""Prices and bills: reckoned by hand, unknown where a price is not known, never guessed."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2spawner import costs
from ec2spawner.configfile import ConfigFileError
from ec2spawner.costs import (
    GP3,
    HOURS_A_MONTH,
    IPV4_HOUR,
    NAT_GB,
    NAT_HOUR,
    SNAPSHOT,
    SNAPSHOT_ARCHIVE,
    Bill,
    Existing,
    Item,
    Nat,
    PriceEntry,
    PriceFile,
    Prices,
    Shared,
    Usage,
    alternatives,
    cost_of_existing,
    cost_of_plan,
    cost_of_running,
    cost_of_use,
    describe,
    instance,
    kinds_of,
    memory_gib,
    monthly_cost_of,
    prices_of,
)
from ec2spawner.errors import ConfigError
from ec2spawner.model import Snapshot, SnapshotState, Volume, VolumeState
from ec2spawner.pricefile import (
    PACKAGE_FILE,
    add_prices,
    read_price_file,
    read_prices,
    user_file,
)
from ec2spawner.settings import InstanceConfig


def known(**usd: float) -> Prices:
    """Prices of a Region where a t3.medium costs 0.04 and all else as told."""
    entry = PriceEntry(
        region="us-east-1",
        date="2026-01-01",
        source="a test",
        usd={
            "instance t3.medium": 0.04,
            GP3: 0.08,
            SNAPSHOT: 0.05,
            NAT_HOUR: 0.045,
            NAT_GB: 0.045,
            IPV4_HOUR: 0.005,
            **{key.replace("_", "."): value for key, value in usd.items()},
        },
    )
    return prices_of("us-east-1", [PriceFile(currency="USD", entries=(entry,))])


CHOICES = InstanceConfig()


def sums(bill: Bill) -> dict[str, float]:
    return {item.what: round(item.usd, 4) for item in bill.items if item.usd is not None}


# ---- reckoned by hand


def test_a_plan_costs_manager_network_and_disks_before_anybody_works() -> None:
    bill = cost_of_plan(CHOICES, True, Nat.GATEWAY, known())
    assert sums(bill) == {
        "manager (t3.medium)": 29.2,  # 730 h * 0.04
        "manager's disks": 2.08,  # 26 GB * 0.08
        "snapshots of the manager's data, at most": 0.5,
        "manager's address": 3.65,
        "NAT gateway": 32.85,
        "NAT gateway's address": 3.65,
    }
    assert bill.usd == pytest.approx(71.93)
    assert not bill.unknown


@pytest.mark.parametrize(
    ("has_manager", "nat", "usd"),
    [(False, Nat.GATEWAY, 36.5), (True, Nat.NONE, 35.43), (False, Nat.NONE, 0.0)],
)
def test_what_is_elsewhere_costs_nothing_here(has_manager: bool, nat: Nat, usd: float) -> None:
    assert cost_of_plan(CHOICES, has_manager, nat, known()).usd == pytest.approx(usd)


def test_a_nat_instance_costs_its_machine_disk_and_address() -> None:
    bill = cost_of_plan(CHOICES, False, Nat.INSTANCE, known(**{"instance t4g_nano": 0.004}))
    assert sums(bill) == {
        "NAT instance (t4g.nano)": 2.92,
        "NAT instance's disk": 0.64,
        "NAT instance's address": 3.65,
    }
    assert cost_of_plan(CHOICES, False, Nat.INSTANCE, known()).unknown == ("instance t4g.nano",)


def test_spare_machines_cost_as_they_are() -> None:
    choices = InstanceConfig(POOL_RUNNING=2, POOL_STOPPED=3)
    assert sums(cost_of_plan(choices, False, Nat.NONE, known())) == {
        "spare machines that run (t3.medium)": 58.4,  # 2 * 730 h * 0.04
        "disks of spare machines": 8.8,  # 5 * (12 + 10) GB * 0.08
    }


def test_spare_machines_of_each_profile_are_counted() -> None:
    choices = InstanceConfig.model_validate_json(
        '{"PROFILES": ['
        '{"SLUG": "small", "NAME": "S", "INSTANCE_TYPES": ["t3.medium"], "POOL_STOPPED": 1},'
        '{"SLUG": "gpu", "NAME": "G", "INSTANCE_TYPES": ["g5.xlarge", "g4dn.xlarge"],'
        ' "POOL_RUNNING": 1, "HOME_GIB": 50}]}'
    )
    assert [kind.instance_type for kind in kinds_of(choices)] == ["t3.medium", "g5.xlarge"]
    bill = cost_of_plan(choices, False, Nat.NONE, known(**{"instance g5_xlarge": 1.0}))
    assert [(i.what, round(i.usd or 0, 2)) for i in bill.items] == [
        ("disks of spare machines", 1.76),
        ("spare machines that run (g5.xlarge)", 730.0),
        ("disks of spare machines", 4.96),
    ]


def test_a_class_pays_for_hours_and_disks() -> None:
    (kind,) = kinds_of(CHOICES)
    usage = Usage(students=28, hours_a_week=6, weeks=730 / 168)  # a course of one month
    bill = cost_of_use(CHOICES, kind, usage, known())
    assert sums(bill) == {
        "workers (t3.medium)": 29.2,  # 28 * 6 * 730 / 168 = 730 hours
        "workers' disks and homes": 49.28,  # 28 * 22 GB * 0.08
        "traffic through the NAT gateway": 2.7375,  # 28 * 0.5 GB * 730 / 168 * 0.045
    }
    assert usage.months == pytest.approx(1)
    assert "traffic" not in str(cost_of_use(CHOICES, kind, usage, known(), nat=False))


def test_a_class_is_compared_with_machines_that_never_stop_and_with_a_shared_one() -> None:
    (kind,) = kinds_of(CHOICES)
    usage = Usage(students=32, hours_a_week=6, weeks=15)
    prices = known(**{"instance m7i_4xlarge": 0.8, "instance m7i_8xlarge": 1.6})
    own, always, together = alternatives(CHOICES, kind, usage, prices, Shared())
    assert own.bill.usd == pytest.approx(32 * (6 * 730 / 168 * 0.04 + 22 * 0.08))
    assert always.bill.usd == pytest.approx(32 * (730 * 0.04 + 22 * 0.08))
    # 32 * 2 GiB and 2 for the system: more than the 64 of a 4xlarge, so one 8xlarge
    assert together.name == "1 shared m7i.8xlarge, always on"
    assert together.bill.usd == pytest.approx(730 * 1.6 + (12 + 32 * 10) * 0.08)
    assert "128 GiB, 2 GiB each, all at once" in together.assumption


@pytest.mark.parametrize(
    ("students", "shared", "chosen"),
    [
        (31, Shared(), (1, "m7i.4xlarge")),  # (64 - 2) / 2 seats
        (32, Shared(), (1, "m7i.8xlarge")),
        (64, Shared(), (2, "m7i.8xlarge")),
        (63, Shared("m7i.4xlarge"), (3, "m7i.4xlarge")),
        (1, Shared("m7i.4xlarge", 62), (1, "m7i.4xlarge")),
        (1, Shared("m7i.4xlarge", 63), None),
        (1, Shared("t3.medium"), None),
        (7, Shared("r7i.large", 1), (1, "r7i.large")),  # of no known price: chosen all the same
    ],
)
def test_a_shared_machine_has_room_for_all_at_once(
    students: int, shared: Shared, chosen: tuple[int, str] | None
) -> None:
    prices = known(**{"instance m7i_4xlarge": 0.8, "instance m7i_8xlarge": 1.6})
    assert shared.choose("t3.medium", students, prices) == chosen


@pytest.mark.parametrize(
    ("like", "chosen"),
    [("t3.medium", "m7i.large"), ("g5.xlarge", "m7i.large"), ("t4g.medium", "m7g.large")],
)
def test_the_shared_machine_is_of_the_architecture_of_the_students(like: str, chosen: str) -> None:
    prices = known(**{"instance m7i_large": 0.1, "instance m7g_large": 0.08})
    assert Shared().choose(like, 1, prices) == (1, chosen)


def test_without_a_price_of_a_large_machine_two_ways_are_compared() -> None:
    (kind,) = kinds_of(CHOICES)
    ways = alternatives(CHOICES, kind, Usage(30, 6, 15), known(), Shared())
    assert [way.name for way in ways] == [
        "a machine each, stopped when idle",
        "a machine each, always on",
    ]


def test_what_stays_costs_its_size() -> None:
    volumes = [Volume(f"vol-{n}", VolumeState.AVAILABLE, size_gib=10) for n in range(3)]
    snapshots = [Snapshot("snap-1", SnapshotState.COMPLETED, size_gib=10)]
    assert sums(monthly_cost_of(volumes, snapshots, 2, known())) == {
        "3 volumes": 2.4,
        "1 snapshot, at most": 0.5,
        "2 addresses": 7.3,
    }
    assert monthly_cost_of([], [], 0, known()).items == ()


def test_a_cluster_costs_what_is_there_and_its_workers_by_the_hour() -> None:
    existing = Existing(
        volumes=(Volume("vol-1", VolumeState.IN_USE, size_gib=22),),
        addresses=1,
        nat_gateways=1,
        managers=("t3.medium",),
        workers=("t3.medium", "t3.medium", "g5.xlarge"),
        builders=("t3.medium",),
        nat_instances=("t3.medium",),
        others=("t3.medium", "t3.medium"),
        stopped=4,
    )
    assert sums(cost_of_existing(existing, known())) == {
        "manager (t3.medium)": 29.2,
        "1 NAT instance (t3.medium)": 29.2,
        "2 other machines (t3.medium)": 58.4,
        "1 NAT gateway": 32.85,
        "1 volume": 1.76,
        "1 address": 3.65,
    }
    running = cost_of_running(existing, known())
    assert sums(running) == {"2 workers (t3.medium)": 0.08, "1 builder (t3.medium)": 0.04}
    assert running.unknown == ("instance g5.xlarge",)


# ---- what is not known


def test_a_type_without_a_price_is_named_and_not_counted() -> None:
    choices = InstanceConfig(MANAGER_INSTANCE_TYPE="u-12tb1.112xlarge")
    bill = cost_of_plan(choices, True, Nat.GATEWAY, known())
    assert bill.unknown == ("instance u-12tb1.112xlarge",)
    assert bill.items[0].usd is None
    assert bill.usd == pytest.approx(71.93 - 29.2)
    assert describe(bill.unknown[0]) == "an hour of u-12tb1.112xlarge"


def test_a_region_without_prices_has_a_bill_all_the_same() -> None:
    bill = cost_of_plan(CHOICES, True, Nat.GATEWAY, Prices("mars-north-1", {}))
    assert bill.usd == 0
    assert len(bill.items) == 6
    assert bill.unknown == ("instance t3.medium", GP3, SNAPSHOT, IPV4_HOUR, NAT_HOUR)


quantities = st.floats(0, 1e6, allow_nan=False)
items = st.builds(
    Item,
    what=st.text(max_size=5),
    product=st.sampled_from([instance("t3.medium"), *costs.OTHERS]),
    quantity=quantities,
    usd_per_unit=st.none() | st.floats(0.0001, 100),
)
bills = st.lists(items, max_size=8).map(lambda found: Bill(tuple(found)))


@given(bills, bills)
def test_two_bills_together_cost_what_they_cost_apart(one: Bill, other: Bill) -> None:
    both = one + other
    assert both.usd == pytest.approx(one.usd + other.usd)
    assert set(both.unknown) == set(one.unknown) | set(other.unknown)


@given(
    students=st.integers(1, 5000),
    hours=st.floats(0, 168),
    weeks=st.floats(0, 520),
    more=st.integers(1, 50),
)
def test_more_students_never_cost_less_and_no_use_costs_more_than_never_stopping(
    students: int, hours: float, weeks: float, more: int
) -> None:
    (kind,) = kinds_of(CHOICES)
    prices = known(**{"instance m7i_8xlarge": 1.6})
    usage = Usage(students, hours, weeks)
    few = alternatives(CHOICES, kind, usage, prices, Shared())
    many = alternatives(CHOICES, kind, Usage(students + more, hours, weeks), prices, Shared())
    assert all(a.bill.usd <= b.bill.usd for a, b in zip(few, many, strict=True))
    own, always, _ = few
    assert own.bill.usd <= always.bill.usd * (1 + 1e-9)


@given(st.integers(1, 10_000), st.floats(0.25, 120))
def test_shared_machines_have_a_seat_for_each_and_none_is_needless(
    students: int, gib: float
) -> None:
    count = Shared(gib_per_student=gib).machines("m7i.8xlarge", students)
    assert count is not None
    seats = math.floor((128 - costs.SHARED_SYSTEM_GIB) / gib)
    assert (count - 1) * seats < students <= count * seats


# ---- the files of prices


def test_the_package_names_date_and_source_of_each_price() -> None:
    file = read_price_file(PACKAGE_FILE)
    assert all(entry.usd and len(entry.source) > 20 for entry in file.entries)
    regions = {entry.region for entry in file.entries}
    assert {"us-east-1", "us-west-2", "eu-central-1", "eu-west-1", "ap-southeast-2"} <= regions
    pairs = [(entry.region, product) for entry in file.entries for product in entry.usd]
    assert len(pairs) == len(set(pairs))


def test_the_package_knows_all_of_the_default_cluster_in_its_default_region() -> None:
    prices = read_prices("us-east-1", Path("/nowhere"))
    assert not cost_of_plan(CHOICES, True, Nat.GATEWAY, prices).unknown
    assert prices.usd(SNAPSHOT_ARCHIVE) == 0.0125
    assert prices.usd("instance g5.xlarge") == 1.006


@pytest.mark.parametrize("region", ["us-east-2", "us-west-2", "eu-central-1", "ap-southeast-2"])
def test_larger_sizes_of_a_family_cost_in_proportion(region: str) -> None:
    """A digit that was copied wrong would stand out."""
    prices = read_prices(region, Path("/nowhere"))
    gib = {p: memory_gib(p.removeprefix("instance ")) for p in prices.known}
    each: dict[str, set[float]] = {}
    for product, memory in gib.items():
        if memory:
            family = product.partition(".")[0]
            each.setdefault(family, set()).add(round(prices.known[product].usd / memory, 4))
    assert each
    assert all(max(found) - min(found) <= 0.0001 for found in each.values())


def entry(region: str = "us-east-1", **usd: float) -> PriceEntry:
    found = {f"instance {name.replace('_', '.')}": value for name, value in usd.items()}
    return PriceEntry(region=region, date="2026-02-03", source="a test", usd=found)


def test_a_file_of_ones_own_counts_more_than_the_package(tmp_path: Path) -> None:
    own = tmp_path / "deep" / "prices.json"
    add_prices(own, entry(t3_medium=0.5))
    prices = read_prices("us-east-1", own)
    assert prices.usd("instance t3.medium") == 0.5
    assert prices.known["instance t3.medium"].source == "a test"
    assert prices.usd("instance t3.large") == 0.0832
    assert read_prices("us-west-2", own).usd("instance t3.medium") == 0.0416


def test_new_prices_take_the_place_of_older_ones_of_the_same(tmp_path: Path) -> None:
    own = tmp_path / "prices.json"
    add_prices(own, entry(t3_medium=0.5, t3_large=0.6))
    add_prices(own, entry("eu-west-1", t3_medium=0.7))
    add_prices(own, entry(t3_medium=0.8))
    assert [(e.region, dict(e.usd)) for e in read_price_file(own).entries] == [
        ("us-east-1", {"instance t3.large": 0.6}),
        ("eu-west-1", {"instance t3.medium": 0.7}),
        ("us-east-1", {"instance t3.medium": 0.8}),
    ]
    add_prices(own, entry("eu-west-1", t3_medium=0.9))
    assert len(read_price_file(own).entries) == 3


def test_a_broken_file_of_ones_own_is_refused_and_can_be_written_anew(tmp_path: Path) -> None:
    own = tmp_path / "prices.json"
    own.write_text('{"currency": "USD", "entries": [')
    with pytest.raises(ConfigFileError, match="cut off"):
        read_prices("us-east-1", own)
    add_prices(own, entry(t3_medium=0.5))
    assert read_prices("us-east-1", own).usd("instance t3.medium") == 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"currency": "EUR", "entries": []}', "currency"),
        ('{"currency": "USD"}', "entries is missing"),
        ('{"currency": "USD", "entries": [{"region": "Mars"}]}', "region"),
        (
            '{"currency": "USD", "entries": [{"region": "us-east-1", "date": "2026", "source": "s",'
            ' "usd": {"instance t3.medium": -1}}]}',
            "usd",
        ),
        (
            '{"currency": "USD", "entries": [{"region": "us-east-1", "date": "2026", "source": "s",'
            ' "usd": {"t3.medium": 1}}]}',
            "usd",
        ),
        (
            '{"currency": "USD", "entries": [{"region": "us-east-1", "date": "today",'
            ' "source": "s", "usd": {}}]}',
            "date",
        ),
        ("[]", "holds a list"),
    ],
)
def test_what_is_wrong_with_a_price_file_is_said(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(ConfigFileError, match=re.escape(words)) as caught:
        read_price_file(path)
    assert "--refresh-prices" in caught.value.next_step


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        add_prices(tmp_path / "file" / "prices.json", entry(t3_medium=0.5))


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"HOME": "/home/x"}, "/home/x/.local/share/ec2spawner/prices.json"),
        ({"HOME": "/home/x", "XDG_DATA_HOME": "/data"}, "/data/ec2spawner/prices.json"),
        ({"HOME": "/h", "XDG_DATA_HOME": "data"}, "/h/.local/share/ec2spawner/prices.json"),
        ({"HOME": "/h", "XDG_DATA_HOME": ""}, "/h/.local/share/ec2spawner/prices.json"),
    ],
)
def test_ones_own_file_lies_where_data_lies(environ: dict[str, str], path: str) -> None:
    assert user_file(environ) == Path(path)


def test_hours_are_those_of_a_twelfth_of_a_year() -> None:
    assert HOURS_A_MONTH * 12 == 8760
