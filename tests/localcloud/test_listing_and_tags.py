"""Listings: filters, pages, tags, and that thousands stay fast."""

from __future__ import annotations

import time

import pytest

from ec2spawner.localcloud import wire
from localcloud.support import HOME, SUBNET_B, Cloud, tags


def _filter(name: str, *values: str) -> list[dict[str, object]]:
    return [{"Name": name, "Values": list(values)}]


def test_filters_are_joined_by_and_their_values_by_or(cloud: Cloud) -> None:
    (one,) = cloud.run(TagSpecifications=[tags(cluster="a", role="worker")])
    (two,) = cloud.run(TagSpecifications=[tags(cluster="b", role="worker")])
    cloud.run(TagSpecifications=[tags(cluster="c", role="manager")])
    both = [*_filter("tag:cluster", "a", "b", "c"), *_filter("tag:role", "worker")]
    assert cloud.listed(Filters=both) == [one, two]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instance-state-name", "running"),
        ("instance-state-code", "16"),
        ("availability-zone", "us-east-1b"),
        ("subnet-id", SUBNET_B),
        ("instance-type", "t3.l*"),
        ("tag-key", "owne?"),
        ("client-token", "token"),
        ("instance-lifecycle", "spot"),
        ("private-ip-address", "127.77.32.4"),
        ("launch-time", "2026-01-01T00:00:*"),
        ("key-name", "cluster"),
    ],
)
def test_each_filter_finds_what_it_should(cloud: Cloud, name: str, value: str) -> None:
    (one,) = cloud.running(
        SubnetId=SUBNET_B,
        InstanceType="t3.large",
        ClientToken="token",
        KeyName="cluster",
        InstanceMarketOptions={"MarketType": "spot"},
        TagSpecifications=[tags(owner="x")],
    )
    cloud.clock.advance(86_400)
    cloud.run()
    assert cloud.listed(Filters=_filter(name, value)) == [one]


def test_an_unknown_filter_is_refused(cloud: Cloud) -> None:
    cloud.refused("InvalidParameterValue", "DescribeInstances", Filters=_filter("colour", "red"))


def test_pages_count_instances_and_miss_none(cloud: Cloud) -> None:
    ids = [*cloud.run(7), *cloud.run(6)]
    pages, token = [], None
    while True:
        params = {"MaxResults": 5, **({"NextToken": token} if token else {})}
        reply = cloud.call("DescribeInstances", **params)
        pages.append([i["InstanceId"] for r in reply["Reservations"] for i in r["Instances"]])
        token = reply["NextToken"]
        if token is None:
            break
    assert [len(p) for p in pages] == [5, 5, 3]
    assert [i for p in pages for i in p] == ids


def test_a_page_goes_on_where_the_last_one_ended_though_things_vanished(cloud: Cloud) -> None:
    ids = cloud.run(12)
    first = cloud.call("DescribeInstances", MaxResults=5)
    cloud.call("TerminateInstances", InstanceIds=ids[3:6])
    cloud.clock.advance(10)
    cloud.state(ids[0])
    cloud.clock.advance(3600)
    assert cloud.listed(MaxResults=100, NextToken=first["NextToken"]) == ids[6:]


def test_page_sizes_out_of_range_and_with_ids_are_refused(cloud: Cloud) -> None:
    ids = cloud.run()
    cloud.refused("InvalidParameterValue", "DescribeInstances", MaxResults=4)
    cloud.refused("InvalidParameterValue", "DescribeInstances", MaxResults=1001)
    cloud.refused("InvalidParameterValue", "DescribeInstances", NextToken="nonsense")
    cloud.refused("InvalidParameterCombination", "DescribeInstances", MaxResults=5, InstanceIds=ids)


def test_one_unknown_id_fails_the_listing(cloud: Cloud) -> None:
    ids = cloud.run()
    unknown = "i-0123456789abcdef0"
    error = cloud.refused(
        "InvalidInstanceID.NotFound", "DescribeInstances", InstanceIds=[*ids, unknown]
    )
    assert unknown in error.message


def test_looking_at_some_ids_loses_none_of_their_reservation(cloud: Cloud) -> None:
    ids = cloud.run(3)
    assert cloud.listed(InstanceIds=ids[:1]) == ids[:1]
    assert cloud.listed() == ids


def test_one_call_tags_instance_and_home(cloud: Cloud) -> None:
    (one,) = cloud.running(BlockDeviceMappings=[HOME])
    home = cloud.home_of(one)
    cloud.call("CreateTags", Resources=[one, home], Tags=[{"Key": "owner", "Value": "ada"}])
    assert cloud.listed(Filters=_filter("tag:owner", "ada")) == [one]
    assert [v["VolumeId"] for v in cloud.volumes(Filters=_filter("tag:owner", "ada"))] == [home]


def test_tagging_is_all_or_nothing(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.refused(
        "InvalidVolume.NotFound",
        "CreateTags",
        Resources=[one, "vol-0123456789abcdef0"],
        Tags=[{"Key": "a", "Value": "b"}],
    )
    assert cloud.show(one)["Tags"] == []


def test_tags_have_limits(cloud: Cloud) -> None:
    (one,) = cloud.running()

    def tagged(code: str, *pairs: tuple[str, str]) -> None:
        wanted = [{"Key": k, "Value": v} for k, v in pairs]
        cloud.refused(code, "CreateTags", Resources=[one], Tags=wanted)

    tagged("InvalidParameterValue", ("aws:x", "y"))
    tagged("InvalidParameterValue", ("k" * 128, "y"))
    tagged("InvalidParameterValue", ("k", "y" * 257))
    tagged("TagLimitExceeded", *[(f"k{n}", "") for n in range(51)])


def test_a_tag_named_with_a_value_goes_only_with_that_value(cloud: Cloud) -> None:
    (one,) = cloud.running(TagSpecifications=[tags(a="1", b="2")])
    cloud.call("DeleteTags", Resources=[one], Tags=[{"Key": "a", "Value": "other"}, {"Key": "b"}])
    assert cloud.show(one)["Tags"] == [{"Key": "a", "Value": "1"}]


def test_describe_tags_filters_by_resource(cloud: Cloud) -> None:
    one, two = cloud.run(2, TagSpecifications=[tags(a="1")])
    found = cloud.call("DescribeTags", Filters=_filter("resource-id", two))["Tags"]
    assert [t["ResourceId"] for t in found] == [two]
    found = cloud.call("DescribeTags", Filters=_filter("resource-type", "instance"))["Tags"]
    assert {t["ResourceId"] for t in found} == {one, two}


def test_ten_thousand_instances_are_listed_in_seconds(cloud: Cloud) -> None:
    for n in range(100):
        subnet = (None, *cloud.surroundings.subnets)[n % 3 + 1]
        cloud.run(100, SubnetId=subnet, TagSpecifications=[tags(cluster="a", owner=str(n))])
    cloud.clock.advance(10)
    began = time.process_time()
    result = cloud.call("DescribeInstances", Filters=_filter("tag:cluster", "a"))
    body = wire.render("DescribeInstances", result, "id")
    assert body.count(b"<instanceId>") == 10_000
    assert time.process_time() - began < 8  # moto needs 76 s; here it is about 1 s
    began = time.process_time()
    assert cloud.listed(Filters=_filter("tag:cluster", "nobody")) == []
    assert time.process_time() - began < 1


def test_interfaces_are_listed_with_their_own_tags(cloud: Cloud) -> None:
    one, two = cloud.run(2, TagSpecifications=[tags("network-interface", a="1")])
    found = cloud.call("DescribeNetworkInterfaces", Filters=_filter("tag:a", "1"))
    assert [n["Attachment"]["InstanceId"] for n in found["NetworkInterfaces"]] == [one, two]
    found = cloud.call("DescribeNetworkInterfaces", Filters=_filter("attachment.instance-id", two))
    (interface,) = found["NetworkInterfaces"]
    assert interface["PrivateIpAddress"] == cloud.show(two)["PrivateIpAddress"]
