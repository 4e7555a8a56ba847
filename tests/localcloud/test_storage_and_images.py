"""Volumes, attachments, snapshots and images."""

from __future__ import annotations

import pytest

from localcloud.support import AMI, HOME, SUBNET_A, SUBNET_B, Cloud, tags


def _volume(cloud: Cloud, zone: str = "us-east-1a", **more: object) -> str:
    params = {"AvailabilityZone": zone, "Size": 10, "VolumeType": "gp3", **more}
    volume_id = str(cloud.call("CreateVolume", **params)["VolumeId"])
    cloud.clock.advance(cloud.timings.volume_seconds)
    return volume_id


def test_a_new_volume_is_creating_for_a_while(cloud: Cloud) -> None:
    made = cloud.call("CreateVolume", AvailabilityZone="us-east-1a", Size=10)
    assert made["State"] == "creating"
    cloud.clock.advance(cloud.timings.volume_seconds)
    assert cloud.volumes()[0]["State"] == "available"


def test_create_volume_is_idempotent_by_token(cloud: Cloud) -> None:
    assert _volume(cloud, ClientToken="t") == _volume(cloud, ClientToken="t")
    cloud.refused(
        "IdempotentParameterMismatch",
        "CreateVolume",
        AvailabilityZone="us-east-1a",
        Size=11,
        ClientToken="t",
    )


def test_a_volume_is_attached_in_its_own_zone_and_once(cloud: Cloud) -> None:
    (here,), (there,) = cloud.running(), cloud.running(SubnetId=SUBNET_B)
    volume = _volume(cloud)
    attach = {"VolumeId": volume, "Device": "/dev/sdf"}
    cloud.refused("InvalidVolume.ZoneMismatch", "AttachVolume", InstanceId=there, **attach)
    assert cloud.call("AttachVolume", InstanceId=here, **attach)["State"] == "attaching"
    cloud.refused("VolumeInUse", "AttachVolume", InstanceId=here, **attach)
    cloud.refused("VolumeInUse", "DeleteVolume", VolumeId=volume)
    cloud.clock.advance(cloud.timings.attach_seconds)
    (shown,) = cloud.volumes(VolumeIds=[volume])
    assert (shown["State"], shown["Attachments"][0]["State"]) == ("in-use", "attached")


def test_a_device_takes_one_volume(cloud: Cloud) -> None:
    (one,) = cloud.running(BlockDeviceMappings=[HOME])
    cloud.refused(
        "InvalidParameterValue",
        "AttachVolume",
        VolumeId=_volume(cloud),
        InstanceId=one,
        Device="/dev/sdf",
    )


def test_nothing_is_attached_to_what_is_pending_or_ends(cloud: Cloud) -> None:
    volume = _volume(cloud)
    (one,) = cloud.run()
    attach = {"VolumeId": volume, "InstanceId": one, "Device": "/dev/sdf"}
    cloud.refused("IncorrectInstanceState", "AttachVolume", **attach)
    cloud.clock.advance(10)
    cloud.call("TerminateInstances", InstanceIds=[one])
    cloud.refused("IncorrectInstanceState", "AttachVolume", **attach)


def test_detaching_takes_time_and_frees_the_volume(cloud: Cloud) -> None:
    (one,) = cloud.stopped(BlockDeviceMappings=[HOME])
    home = cloud.home_of(one)
    assert cloud.call("DetachVolume", VolumeId=home)["State"] == "detaching"
    assert cloud.volumes(VolumeIds=[home])[0]["State"] == "in-use"
    cloud.clock.advance(cloud.timings.attach_seconds)
    assert cloud.volumes(VolumeIds=[home])[0]["State"] == "available"
    assert [m["DeviceName"] for m in cloud.show(one)["BlockDeviceMappings"]] == ["/dev/sda1"]
    cloud.refused("IncorrectState", "DetachVolume", VolumeId=home)


def test_the_root_of_a_running_machine_stays(cloud: Cloud) -> None:
    (one,) = cloud.running()
    root = cloud.volumes()[0]["VolumeId"]
    cloud.refused("OperationNotPermitted", "DetachVolume", VolumeId=root, InstanceId=one)


def test_a_deleted_volume_is_unknown(cloud: Cloud) -> None:
    volume = _volume(cloud)
    cloud.call("DeleteVolume", VolumeId=volume)
    cloud.refused("InvalidVolume.NotFound", "DescribeVolumes", VolumeIds=[volume])
    cloud.refused("InvalidVolume.NotFound", "DeleteVolume", VolumeId=volume)


def test_a_snapshot_is_pending_for_a_while(cloud: Cloud) -> None:
    volume = _volume(cloud)
    made = cloud.call(
        "CreateSnapshot", VolumeId=volume, TagSpecifications=[tags("snapshot", a="b")]
    )
    assert made["State"] == "pending"
    cloud.refused(
        "IncorrectState",
        "CreateVolume",
        AvailabilityZone="us-east-1b",
        SnapshotId=made["SnapshotId"],
    )
    cloud.clock.advance(cloud.timings.snapshot_seconds)
    (shown,) = cloud.call("DescribeSnapshots", OwnerIds=["self"])["Snapshots"]
    assert (shown["State"], shown["Progress"]) == ("completed", "100%")
    assert shown["Tags"] == [{"Key": "a", "Value": "b"}]


def test_a_snapshot_outlives_its_volume_and_moves_to_any_zone(cloud: Cloud) -> None:
    volume = _volume(cloud, Encrypted=True)
    snapshot = cloud.call("CreateSnapshot", VolumeId=volume)["SnapshotId"]
    cloud.clock.advance(cloud.timings.snapshot_seconds)
    cloud.call("DeleteVolume", VolumeId=volume)
    moved = _volume(cloud, "us-east-1b", SnapshotId=snapshot, Size=None)
    (shown,) = cloud.volumes(VolumeIds=[moved])
    assert (shown["AvailabilityZone"], shown["Size"], shown["Encrypted"]) == (
        "us-east-1b",
        10,
        True,
    )
    cloud.call("DeleteSnapshot", SnapshotId=snapshot)
    cloud.refused("InvalidSnapshot.NotFound", "DescribeSnapshots", SnapshotIds=[snapshot])


def test_a_move_to_another_zone_is_one_tagged_call_that_may_be_repeated(cloud: Cloud) -> None:
    snapshot = cloud.call("CreateSnapshot", VolumeId=_volume(cloud))["SnapshotId"]
    cloud.clock.advance(cloud.timings.snapshot_seconds)
    params = {
        "AvailabilityZone": "us-east-1b",
        "SnapshotId": snapshot,
        "Size": 20,
        "VolumeType": "gp3",
        "ClientToken": "move",
        "TagSpecifications": [tags("volume", owner="ann")],
    }
    first = cloud.call("CreateVolume", **params)
    assert (first["State"], first["Tags"]) == ("creating", [{"Key": "owner", "Value": "ann"}])
    cloud.clock.advance(cloud.timings.volume_seconds)
    again = cloud.call("CreateVolume", **params)
    assert (again["VolumeId"], again["State"]) == (first["VolumeId"], "available")
    assert (again["Size"], again["SnapshotId"]) == (20, snapshot)
    cloud.refused("IdempotentParameterMismatch", "CreateVolume", **{**params, "Size": 30})


def test_a_home_may_be_detached_from_a_running_machine_for_all_ec2_cares(cloud: Cloud) -> None:
    (one,) = cloud.running(BlockDeviceMappings=[HOME])
    home = cloud.home_of(one)
    detach = {"VolumeId": home, "InstanceId": one}
    cloud.refused("InvalidAttachment.NotFound", "DetachVolume", VolumeId=home, InstanceId="i-other")
    assert cloud.call("DetachVolume", **detach)["State"] == "detaching"
    cloud.clock.advance(cloud.timings.attach_seconds - 0.1)
    assert cloud.call("DetachVolume", **detach)["State"] == "detaching"
    cloud.clock.advance(0.1)
    assert cloud.volumes(VolumeIds=[home])[0]["State"] == "available"


def test_a_volume_smaller_than_its_snapshot_is_refused(cloud: Cloud) -> None:
    snapshot = cloud.call("CreateSnapshot", VolumeId=_volume(cloud))["SnapshotId"]
    cloud.clock.advance(cloud.timings.snapshot_seconds)
    cloud.refused(
        "InvalidParameterValue",
        "CreateVolume",
        AvailabilityZone="us-east-1a",
        SnapshotId=snapshot,
        Size=9,
    )


def test_copies_hold_back_completed_and_available(cloud: Cloud) -> None:
    volume = _volume(cloud)
    cloud.ec2.copies_files = True
    snapshot = cloud.call("CreateSnapshot", VolumeId=volume)["SnapshotId"]
    cloud.clock.advance(100)
    assert cloud.call("DescribeSnapshots")["Snapshots"][0]["State"] == "pending"
    cloud.ec2.copied("snapshot", snapshot)
    assert cloud.call("DescribeSnapshots")["Snapshots"][0]["State"] == "completed"
    copy = _volume(cloud, SnapshotId=snapshot)
    cloud.clock.advance(100)
    assert cloud.volumes(VolumeIds=[copy])[0]["State"] == "creating"
    cloud.ec2.copied("volume", copy)
    assert cloud.volumes(VolumeIds=[copy])[0]["State"] == "available"


def test_an_image_holds_all_volumes_and_takes_time(cloud: Cloud) -> None:
    (one,) = cloud.running(BlockDeviceMappings=[HOME])
    image = cloud.call("CreateImage", InstanceId=one, Name="worker")["ImageId"]
    cloud.refused(
        "InvalidAMIID.Unavailable",
        "RunInstances",
        ImageId=image,
        InstanceType="t3.medium",
        SubnetId=SUBNET_A,
        MinCount=1,
        MaxCount=1,
    )
    (shown,) = cloud.call("DescribeImages", Owners=["self"])["Images"]
    assert shown["State"] == "pending"
    cloud.clock.advance(cloud.timings.image_seconds)
    (shown,) = cloud.call("DescribeImages", Owners=["self"])["Images"]
    assert shown["State"] == "available"
    sizes = {m["DeviceName"]: m["Ebs"]["VolumeSize"] for m in shown["BlockDeviceMappings"]}
    assert sizes == {"/dev/sda1": 8, "/dev/sdf": 10}
    (copy,) = cloud.running(ImageId=image)
    cloud.home_of(copy)


def test_an_image_name_is_taken_once(cloud: Cloud) -> None:
    (one,) = cloud.running()
    cloud.call("CreateImage", InstanceId=one, Name="worker")
    cloud.refused("InvalidAMIName.Duplicate", "CreateImage", InstanceId=one, Name="worker")


def test_a_snapshot_under_an_image_stays_until_the_image_goes(cloud: Cloud) -> None:
    (one,) = cloud.running()
    image = cloud.call("CreateImage", InstanceId=one, Name="worker")["ImageId"]
    cloud.clock.advance(cloud.timings.image_seconds)
    (snapshot,) = cloud.call("DescribeSnapshots")["Snapshots"]
    cloud.refused("InvalidSnapshot.InUse", "DeleteSnapshot", SnapshotId=snapshot["SnapshotId"])
    cloud.call("DeregisterImage", ImageId=image)
    cloud.call("DeleteSnapshot", SnapshotId=snapshot["SnapshotId"])
    cloud.refused("InvalidAMIID.NotFound", "DescribeImages", ImageIds=[image])


def test_an_image_can_be_shared(cloud: Cloud) -> None:
    (one,) = cloud.running()
    image = cloud.call("CreateImage", InstanceId=one, Name="worker")["ImageId"]
    share = {"Add": [{"UserId": "210987654321"}]}
    cloud.call("ModifyImageAttribute", ImageId=image, LaunchPermission=share)
    shown = cloud.call("DescribeImageAttribute", ImageId=image, Attribute="launchPermission")
    assert shown["LaunchPermissions"] == [{"UserId": "210987654321"}]


def test_what_is_under_the_accounts_default_key_is_shared_with_nobody(cloud: Cloud) -> None:
    root = {"DeviceName": "/dev/sda1", "Ebs": {"Encrypted": True}}
    share = {"Add": [{"UserId": "210987654321"}]}
    for encrypted in (True, False):
        (one,) = cloud.running(BlockDeviceMappings=[root] if encrypted else None)
        image = cloud.call("CreateImage", InstanceId=one, Name=f"{encrypted}")["ImageId"]
        (shown,) = cloud.call("DescribeImages", ImageIds=[image])["Images"]
        snapshot = shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        of_snapshot = {"SnapshotId": snapshot, "CreateVolumePermission": share}
        of_image = {"ImageId": image, "LaunchPermission": share}
        if encrypted:
            cloud.refused("OperationNotPermitted", "ModifySnapshotAttribute", **of_snapshot)
            cloud.refused("InvalidParameter", "ModifyImageAttribute", **of_image)
            continue
        cloud.call("ModifySnapshotAttribute", **of_snapshot)
        cloud.call("ModifySnapshotAttribute", **of_snapshot)
        told = cloud.call(
            "DescribeSnapshotAttribute", SnapshotId=snapshot, Attribute="createVolumePermission"
        )
        assert told["CreateVolumePermissions"] == [{"UserId": "210987654321"}]
        take = {"Remove": [{"UserId": "210987654321"}]}
        cloud.call("ModifySnapshotAttribute", SnapshotId=snapshot, CreateVolumePermission=take)
        told = cloud.call(
            "DescribeSnapshotAttribute", SnapshotId=snapshot, Attribute="createVolumePermission"
        )
        assert told["CreateVolumePermissions"] == []


def test_a_deregistered_image_takes_its_snapshots_along_if_told(cloud: Cloud) -> None:
    (one,) = cloud.running()
    image = cloud.call("CreateImage", InstanceId=one, Name="worker")["ImageId"]
    (snapshot,) = (s["SnapshotId"] for s in cloud.call("DescribeSnapshots")["Snapshots"])
    told = cloud.call("DeregisterImage", ImageId=image, DeleteAssociatedSnapshots=True)
    assert told["DeleteSnapshotResults"] == [{"SnapshotId": snapshot, "ReturnCode": "success"}]
    assert cloud.call("DescribeSnapshots")["Snapshots"] == []


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_ubuntu_is_there(cloud: Cloud, architecture: str) -> None:
    (image,) = cloud.call(
        "DescribeImages",
        Owners=["099720109477"],
        Filters=[
            {"Name": "name", "Values": ["ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-*"]},
            {"Name": "architecture", "Values": [architecture]},
        ],
    )["Images"]
    assert (image["RootDeviceName"], image["State"]) == ("/dev/sda1", "available")
    assert cloud.call("DescribeImages", ImageIds=[AMI])["Images"][0]["ImageId"] == AMI
