"""Start, stop, terminate: which state allows what, how long it takes, what it leaves."""

from __future__ import annotations

from localcloud.support import AMI, HOME, SUBNET_A, Cloud

GONE = "i-0123456789abcdef0"


def test_states_take_their_time(cloud: Cloud) -> None:
    (one,) = cloud.run()
    assert cloud.state(one) == "pending"
    cloud.clock.advance(cloud.timings.pending_seconds - 0.1)
    assert cloud.state(one) == "pending"
    cloud.clock.advance(0.1)
    assert cloud.state(one) == "running"
    cloud.call("StopInstances", InstanceIds=[one])
    assert cloud.state(one) == "stopping"
    cloud.clock.advance(cloud.timings.stopping_seconds)
    assert cloud.state(one) == "stopped"
    cloud.call("StartInstances", InstanceIds=[one])
    assert cloud.state(one) == "pending"
    cloud.call("TerminateInstances", InstanceIds=[one])
    assert cloud.state(one) == "shutting-down"
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    assert cloud.state(one) == "terminated"


def test_replies_tell_state_before_and_after(cloud: Cloud) -> None:
    (one,) = cloud.running()
    (change,) = cloud.call("StopInstances", InstanceIds=[one])["StoppingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == (
        "running",
        "stopping",
    )


def test_a_stopping_instance_cannot_be_started(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.call("StopInstances", InstanceIds=[one])
    cloud.refused("IncorrectInstanceState", "StartInstances", InstanceIds=[one])


def test_a_pending_instance_cannot_be_stopped(cloud: Cloud) -> None:
    cloud.refused("IncorrectInstanceState", "StopInstances", InstanceIds=cloud.run())


def test_a_terminated_instance_cannot_be_started(cloud: Cloud) -> None:
    ids = cloud.running()
    cloud.call("TerminateInstances", InstanceIds=ids)
    cloud.clock.advance(10)
    cloud.refused("IncorrectInstanceState", "StartInstances", InstanceIds=ids)


def test_a_running_one_may_be_started_again_to_no_effect(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.call("StartInstances", InstanceIds=[one])
    assert cloud.state(one) == "running"


def test_start_is_all_or_nothing(cloud: Cloud) -> None:
    stopped = cloud.stopped(2)
    (running,) = cloud.running()
    cloud.call("StopInstances", InstanceIds=[running])
    cloud.refused("InvalidInstanceID.NotFound", "StartInstances", InstanceIds=[*stopped, GONE])
    cloud.refused("IncorrectInstanceState", "StartInstances", InstanceIds=[*stopped, running])
    assert [cloud.state(i) for i in stopped] == ["stopped", "stopped"]


def test_capacity_for_one_too_few_starts_none(cloud: Cloud) -> None:
    stopped = cloud.stopped(3)
    cloud.ec2.capacity.set({"rules": [{"max_running": 2, "actions": ["StartInstances"]}]})
    cloud.refused("InsufficientInstanceCapacity", "StartInstances", InstanceIds=stopped)
    assert {cloud.state(i) for i in stopped} == {"stopped"}
    cloud.call("StartInstances", InstanceIds=stopped[:2])


def test_stop_and_terminate_are_all_or_nothing(cloud: Cloud) -> None:
    ids = cloud.running(2)
    for action in ("StopInstances", "TerminateInstances"):
        cloud.refused("InvalidInstanceID.NotFound", action, InstanceIds=[*ids, GONE])
    assert {cloud.state(i) for i in ids} == {"running"}


def test_terminate_and_stop_may_be_repeated(cloud: Cloud) -> None:
    ids = cloud.running(1)
    for _ in range(2):
        cloud.call("StopInstances", InstanceIds=ids)
    for _ in range(2):
        cloud.call("TerminateInstances", InstanceIds=ids)
    cloud.clock.advance(10)
    cloud.call("TerminateInstances", InstanceIds=ids)


def test_a_protected_instance_is_not_terminated(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.call("ModifyInstanceAttribute", InstanceId=one, DisableApiTermination={"Value": True})
    cloud.refused("OperationNotPermitted", "TerminateInstances", InstanceIds=[one])


def test_malformed_ids_are_told_from_unknown_ones(cloud: Cloud) -> None:
    cloud.refused("InvalidInstanceID.Malformed", "StopInstances", InstanceIds=["worker"])
    cloud.refused("MissingParameter", "StopInstances", InstanceIds=[])


def test_launch_time_is_renewed_at_every_start(cloud: Cloud) -> None:
    (one,) = cloud.stopped()
    before = cloud.show(one)["LaunchTime"]
    cloud.clock.advance(100)
    cloud.call("StartInstances", InstanceIds=[one])
    assert (cloud.show(one)["LaunchTime"] - before).total_seconds() >= 100


def test_stop_keeps_address_volumes_and_tags(cloud: Cloud) -> None:
    (one,) = cloud.running(BlockDeviceMappings=[HOME])
    cloud.call("CreateTags", Resources=[one], Tags=[{"Key": "a", "Value": "b"}])
    kept = ("PrivateIpAddress", "BlockDeviceMappings", "Tags")
    cloud.clock.advance(5)
    before = {k: cloud.show(one)[k] for k in kept}
    cloud.call("StopInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.stopping_seconds)
    assert {k: cloud.show(one)[k] for k in kept} == before


def test_terminated_instances_vanish_after_an_hour(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.call("TerminateInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    view = cloud.show(one)
    assert view["State"]["Name"] == "terminated"
    assert "PrivateIpAddress" not in view
    cloud.clock.advance(3599)
    assert cloud.listed() == [one]
    cloud.clock.advance(1)
    assert cloud.listed() == []
    cloud.refused("InvalidInstanceID.NotFound", "DescribeInstances", InstanceIds=[one])
    assert cloud.call("DescribeTags")["Tags"] == []


def test_terminate_deletes_the_root_and_frees_the_home(cloud: Cloud) -> None:
    (one,) = cloud.running(BlockDeviceMappings=[HOME])
    home = cloud.home_of(one)
    cloud.call("TerminateInstances", InstanceIds=[one])
    assert len(cloud.volumes()) == 2  # held until it is terminated
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    (left,) = cloud.volumes()
    assert (left["VolumeId"], left["State"], left["Attachments"]) == (home, "available", [])


def test_a_machine_that_powers_off_stops_its_instance(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.ec2.powered_off(one)
    view = cloud.show(one)
    assert view["State"]["Name"] == "stopping"
    assert view["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    cloud.clock.advance(cloud.timings.stopping_seconds)
    assert cloud.state(one) == "stopped"


def test_or_terminates_it_where_its_attribute_says_so(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceInitiatedShutdownBehavior="terminate")
    cloud.ec2.powered_off(one)
    assert cloud.state(one) == "shutting-down"


def test_a_stop_by_call_gives_its_reason_until_the_next_start(cloud: Cloud) -> None:
    (one,) = cloud.stopped()
    view = cloud.show(one)
    assert view["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert view["StateTransitionReason"].startswith("User initiated (2026-")
    cloud.call("StartInstances", InstanceIds=[one])
    assert "StateReason" not in cloud.show(one)


def test_a_one_time_spot_instance_cannot_be_stopped(cloud: Cloud) -> None:
    spot = {"MarketType": "spot"}
    ids = cloud.running(InstanceMarketOptions=spot)
    cloud.refused("UnsupportedOperation", "StopInstances", InstanceIds=ids)
    lasting = {
        **spot,
        "SpotOptions": {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"},
    }
    cloud.call("StopInstances", InstanceIds=cloud.running(InstanceMarketOptions=lasting))


def test_type_and_user_data_change_only_while_stopped(cloud: Cloud) -> None:
    (one,) = cloud.running()
    changes = ({"InstanceType": {"Value": "t3.large"}}, {"UserData": {"Value": b"#!/bin/sh"}})
    for change in changes:
        cloud.refused("IncorrectInstanceState", "ModifyInstanceAttribute", InstanceId=one, **change)
    cloud.call("StopInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.stopping_seconds)
    for change in changes:
        cloud.call("ModifyInstanceAttribute", InstanceId=one, **change)
    assert cloud.show(one)["InstanceType"] == "t3.large"
    shown = cloud.call("DescribeInstanceAttribute", InstanceId=one, Attribute="userData")
    assert shown["UserData"] == {"Value": "IyEvYmluL3No"}


def test_a_type_of_another_architecture_or_none_is_refused(cloud: Cloud) -> None:
    (one,) = cloud.stopped()
    for name, code in (
        ("m7g.large", "InvalidInstanceAttributeValue"),
        ("t3.giant", "InvalidParameterValue"),
    ):
        change = {"InstanceType": {"Value": name}}
        cloud.refused(code, "ModifyInstanceAttribute", InstanceId=one, **change)
    assert cloud.show(one)["InstanceType"] == "t3.medium"


def test_a_start_without_capacity_may_go_with_another_type(cloud: Cloud) -> None:
    (one,) = cloud.stopped()
    cloud.ec2.capacity.set({"rules": [{"type": "t3.medium", "max_running": 0}]})
    error = cloud.refused("InsufficientInstanceCapacity", "StartInstances", InstanceIds=[one])
    assert (error.status, "t3.medium" in error.message) == (500, True)
    cloud.call("ModifyInstanceAttribute", InstanceId=one, InstanceType={"Value": "t3.large"})
    cloud.call("StartInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.pending_seconds)
    assert (cloud.state(one), cloud.show(one)["InstanceType"]) == ("running", "t3.large")


def test_a_listing_may_lag_behind(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.state(one)
    cloud.clock.advance(10)
    cloud.timings.change({"listing_lag_seconds": 2})
    cloud.call("StopInstances", InstanceIds=[one])
    assert cloud.state(one) == "running"
    cloud.refused("IncorrectInstanceState", "StartInstances", InstanceIds=[one])
    cloud.clock.advance(2)
    assert cloud.state(one) == "stopping"


def test_status_checks_follow_the_boot(cloud: Cloud) -> None:
    (one,) = cloud.run()
    assert cloud.call("DescribeInstanceStatus")["InstanceStatuses"] == []
    everything = cloud.call("DescribeInstanceStatus", IncludeAllInstances=True)
    assert everything["InstanceStatuses"][0]["InstanceState"]["Name"] == "pending"
    cloud.clock.advance(10)
    (status,) = cloud.call("DescribeInstanceStatus", InstanceIds=[one])["InstanceStatuses"]
    assert status["InstanceStatus"]["Status"] == "initializing"
    cloud.clock.advance(60)
    (status,) = cloud.call("DescribeInstanceStatus", InstanceIds=[one])["InstanceStatuses"]
    assert status["InstanceStatus"]["Status"] == "ok"


def test_console_output_is_what_the_machine_wrote(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.ec2.console = lambda instance_id: f"boot of {instance_id}".encode()
    output = cloud.call("GetConsoleOutput", InstanceId=one)["Output"]
    import base64

    assert base64.b64decode(output) == f"boot of {one}".encode()


def test_quota_counts_vcpus_of_what_runs(cloud: Cloud) -> None:
    cloud.ec2.capacity.set({"vcpu_quota": {"on-demand": 4}})
    ids = cloud.running(2)
    params = {"ImageId": AMI, "InstanceType": "t3.medium", "SubnetId": SUBNET_A}
    cloud.refused("VcpuLimitExceeded", "RunInstances", MinCount=1, MaxCount=1, **params)
    cloud.call("StopInstances", InstanceIds=ids[:1])
    cloud.clock.advance(cloud.timings.stopping_seconds)
    (third,) = cloud.running()
    cloud.refused("VcpuLimitExceeded", "StartInstances", InstanceIds=ids[:1])
    cloud.call("TerminateInstances", InstanceIds=[third])
    cloud.clock.advance(60)
    cloud.call("StartInstances", InstanceIds=ids[:1])
