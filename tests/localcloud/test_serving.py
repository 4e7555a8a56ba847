"""The served cloud: real processes, real signals, one state directory over several lives."""

from __future__ import annotations

import ctypes
import json
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ec2spawner.localcloud.__main__ import main
from ec2spawner.localcloud.store import Store
from ec2spawner.worker.process_host import ProcessHost
from localcloud.serving import (
    BOUND_SECONDS,
    Serving,
    boots,
    is_alive,
    launch_worker,
    make_subnet,
    pid_of,
    state_of,
    until,
)
from localcloud.support import AMI


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One cloud for the tests that do not end it."""
    with Serving(tmp_path_factory.mktemp("cloud") / "state") as serving:
        yield serving


@pytest.fixture(scope="module")
def ec2(served: Serving) -> Any:
    return served.client()


@pytest.fixture(scope="module")
def subnet(ec2: Any) -> str:
    return make_subnet(ec2, "127.91.1.0/24")


def test_a_machine_is_on_while_its_instance_runs(served: Serving, ec2: Any, subnet: str) -> None:
    one = launch_worker(ec2, subnet)["InstanceId"]
    pid = pid_of(served.state_dir, one)
    until(lambda: state_of(ec2, one) == "running")
    ec2.stop_instances(InstanceIds=[one])
    until(lambda: state_of(ec2, one) == "stopped")
    until(lambda: not is_alive(pid))
    ec2.start_instances(InstanceIds=[one])
    until(lambda: boots(served.state_dir, one) == 2)
    ec2.terminate_instances(InstanceIds=[one])
    until(lambda: state_of(ec2, one) == "terminated")
    until(lambda: not (served.state_dir / "instances" / one).exists())


def test_only_workers_have_machines(served: Serving, ec2: Any, subnet: str) -> None:
    ec2.run_instances(
        ImageId=AMI, InstanceType="t3.medium", SubnetId=subnet, MinCount=1, MaxCount=1
    )
    worker = launch_worker(ec2, subnet)["InstanceId"]
    pid_of(served.state_dir, worker)
    state = served.control("GET", "state")
    on = [i["id"] for i in state["instances"] if i["machine_is_on"]]
    assert worker in on
    assert len(on) < len(state["instances"])


def test_a_machine_finds_what_it_is_on_its_disk(served: Serving, ec2: Any, subnet: str) -> None:
    import json

    one = launch_worker(ec2, subnet)
    directory = served.state_dir / "instances" / one["InstanceId"]
    pid_of(served.state_dir, one["InstanceId"])
    machine = json.loads((directory / "machine.json").read_text())
    assert machine["private_ip"] == one["PrivateIpAddress"]
    assert (machine["ssh_port"], machine["boot_seconds"]) == (2222, 0.1)
    (link,) = (directory / "nvme").iterdir()
    home = link.resolve()
    assert (home.parent.name, home.name.replace("-", "")) == ("volumes", link.name)
    assert list((home / "data").iterdir()) == []


def test_a_machine_that_powers_off_stops_its_instance(
    served: Serving, ec2: Any, subnet: str
) -> None:
    one = launch_worker(ec2, subnet)["InstanceId"]
    pid_of(served.state_dir, one)
    (served.state_dir / "instances" / one / "poweroff").touch()
    until(lambda: state_of(ec2, one) == "stopped")


def test_a_machine_that_crashes_leaves_its_instance_running(
    served: Serving, ec2: Any, subnet: str
) -> None:
    one = launch_worker(ec2, subnet)["InstanceId"]
    pid = pid_of(served.state_dir, one)
    (served.state_dir / "instances" / one / "crash").touch()
    until(lambda: not is_alive(pid))
    until(lambda: not _machine_is_on(served, one))
    until(lambda: state_of(ec2, one) == "running")


def _machine_is_on(served: Serving, instance_id: str) -> bool:
    instances = served.control("GET", "state")["instances"]
    return any(i["id"] == instance_id and i["machine_is_on"] for i in instances)


def test_workers_can_be_ended_and_cut_off_by_control(
    served: Serving, ec2: Any, subnet: str
) -> None:
    one = launch_worker(ec2, subnet)["InstanceId"]
    pid = pid_of(served.state_dir, one)
    served.control("POST", f"workers/{one}/cut-network", {})
    until(lambda: "T" in _process_state(pid))  # what runs at the moment, is stopped a little later
    served.control("POST", f"workers/{one}/restore-network", {})
    until(lambda: "T" not in _process_state(pid))
    served.control("POST", f"workers/{one}/fault", {"ssh": "hang"})
    faults = served.state_dir / "instances" / one / "faults.json"
    assert faults.read_text() == '{"ssh": "hang"}'
    assert served.control("POST", f"workers/{one}/kill-server", {})["killed"] is False
    served.control("POST", f"workers/{one}/hang-boot", {})
    until(lambda: boots(served.state_dir, one) == 2)
    assert faults.read_text() == '{"ssh": "refuse"}'
    served.control("POST", f"workers/{one}/power-off", {})
    until(lambda: state_of(ec2, one) == "stopped")
    refused = served.control("POST", f"workers/{one}/power-off", {})
    assert (refused["status"], "is stopped" in refused["error"]) == (400, True)
    served.control("POST", f"workers/{one}/terminate", {})
    until(lambda: state_of(ec2, one) == "terminated")


def test_a_panicked_machine_is_silent_and_healed_by_another_boot(
    served: Serving, ec2: Any, subnet: str
) -> None:
    one = launch_worker(ec2, subnet)["InstanceId"]
    pid = pid_of(served.state_dir, one)
    until(lambda: state_of(ec2, one) == "running")
    served.control("POST", f"workers/{one}/panic", {})
    until(lambda: "T" in _process_state(pid))
    assert state_of(ec2, one) == "running"
    console = ec2.get_console_output(InstanceId=one)["Output"]
    assert console.startswith("booted")
    assert "Kernel panic" in console
    served.control("POST", f"workers/{one}/heal", {})
    until(lambda: boots(served.state_dir, one) == 2)
    served.control("POST", f"workers/{one}/panic", {})
    served.control("POST", f"workers/{one}/reboot", {})
    until(lambda: boots(served.state_dir, one) == 3)
    assert "panic" not in ec2.get_console_output(InstanceId=one)["Output"]
    served.control("POST", f"workers/{one}/panic", {})
    ec2.stop_instances(InstanceIds=[one])
    until(lambda: not is_alive(pid_of(served.state_dir, one)))
    until(lambda: state_of(ec2, one) == "stopped")


def test_a_machine_finds_its_notice_until_ec2_has_taken_it_back_and_started_it_again(
    served: Serving, ec2: Any, subnet: str
) -> None:
    options = {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"}
    market = {"MarketType": "spot", "SpotOptions": options}
    one = launch_worker(ec2, subnet, InstanceMarketOptions=market)["InstanceId"]
    pid_of(served.state_dir, one)
    notice = served.state_dir / "instances" / one / "instance-action.json"
    assert json.loads(notice.with_name("machine.json").read_text())["is_spot"] is True
    assert not notice.exists()
    served.control("POST", f"workers/{one}/interrupt", {"seconds": 1000})
    until(notice.exists)
    host = ProcessHost(notice.parent)
    found = host.interruption_notice()
    assert found
    assert found.action == "stop"
    assert 900 < found.at - time.time() <= 1000
    served.control("POST", f"workers/{one}/reboot", {})
    until(lambda: boots(served.state_dir, one) == 2)
    until(lambda: host.interruption_notice() == found)
    served.control("POST", "timings", {"spot_retry_seconds": 1})
    served.control("POST", f"workers/{one}/interrupt", {"seconds": 0.1})
    until(lambda: state_of(ec2, one) == "stopped")
    until(lambda: boots(served.state_dir, one) == 3)
    assert host.interruption_notice() is None
    on_demand = launch_worker(ec2, subnet)["InstanceId"]
    pid_of(served.state_dir, on_demand)
    settings = (notice.parents[1] / on_demand / "machine.json").read_text()
    assert json.loads(settings)["is_spot"] is False
    refused = served.control("POST", f"workers/{on_demand}/interrupt", {})
    assert (refused["status"], "no spot instance" in refused["error"]) == (400, True)


def _process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_snapshot_holds_the_files_of_its_moment(served: Serving, ec2: Any, subnet: str) -> None:
    one = launch_worker(ec2, subnet)["InstanceId"]
    pid_of(served.state_dir, one)
    (home,) = (served.state_dir / "instances" / one / "nvme").iterdir()
    (home / "data" / "thesis.txt").write_text("first")
    (home / "filesystem").write_text("ext4")
    volume = home.resolve().name
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    until(lambda: ec2.describe_snapshots()["Snapshots"][0]["State"] == "completed")
    (home / "data" / "thesis.txt").write_text("second")
    made = ec2.create_volume(SnapshotId=snapshot, AvailabilityZone="us-east-1b")["VolumeId"]
    until(lambda: _volume_state(ec2, made) == "available")
    copy = served.state_dir / "volumes" / made
    assert (copy / "data" / "thesis.txt").read_text() == "first"
    assert (copy / "filesystem").read_text() == "ext4"
    ec2.delete_volume(VolumeId=made)
    ec2.delete_snapshot(SnapshotId=snapshot)
    until(lambda: not copy.exists())
    until(lambda: not (served.state_dir / "snapshots" / snapshot).exists())


def _volume_state(ec2: Any, volume_id: str) -> str:
    return str(ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"])


def test_many_callers_at_once_get_their_own_answers(ec2: Any, subnet: str) -> None:
    results: list[str] = []

    def call() -> None:
        results.append(launch_worker(ec2, subnet, ClientToken="one for all")["InstanceId"])

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == 1


def test_a_lost_reply_is_a_closed_connection(served: Serving, ec2: Any) -> None:
    served.control("POST", "faults", {"action": "DescribeVolumes", "fault": "lose-reply"})
    with pytest.raises(BotoCoreError):
        ec2.describe_volumes()
    ec2.describe_volumes()


def test_the_same_things_are_there_after_sigkill(tmp_path: Path) -> None:
    serving = Serving(tmp_path / "state", "--listing-lag-seconds", "0")
    with serving:
        ec2, ssm, s3 = serving.client(), serving.client("ssm"), serving.client("s3")
        subnet = make_subnet(ec2, "127.91.2.0/24")
        ssm.put_parameter(Name="/cluster/key", Value="secret", Type="SecureString")
        s3.create_bucket(Bucket="cluster")
        s3.put_object(Bucket="cluster", Key="a", Body=b"b")
        running = launch_worker(ec2, subnet, ClientToken="t")
        stopped = launch_worker(ec2, subnet)["InstanceId"]
        until(lambda: state_of(ec2, stopped) == "running")
        pid_of(serving.state_dir, stopped)
        ec2.stop_instances(InstanceIds=[stopped])
        until(lambda: state_of(ec2, stopped) == "stopped")
        ec2.create_tags(Resources=[stopped], Tags=[{"Key": "owner", "Value": "ada"}])
        ec2.create_snapshot(VolumeId=ec2.describe_volumes()["Volumes"][0]["VolumeId"])
        until(lambda: ec2.describe_snapshots()["Snapshots"][0]["State"] == "completed")
        old = pid_of(serving.state_dir, running["InstanceId"])
        before = _everything(ec2)
        serving.kill()
        until(lambda: not is_alive(old))
        serving.start()
        ec2, ssm, s3 = serving.client(), serving.client("ssm"), serving.client("s3")
        assert _everything(ec2) == before
        found = ssm.get_parameter(Name="/cluster/key", WithDecryption=True)
        assert found["Parameter"]["Value"] == "secret"
        assert s3.get_object(Bucket="cluster", Key="a")["Body"].read() == b"b"
        assert pid_of(serving.state_dir, running["InstanceId"])
        until(lambda: boots(serving.state_dir, running["InstanceId"]) == 2)
        assert boots(serving.state_dir, stopped) == 1
        again = launch_worker(ec2, subnet, ClientToken="t")
        assert again["InstanceId"] == running["InstanceId"]
        fresh = launch_worker(ec2, subnet)
        known = {i["InstanceId"] for i in before["instances"]}
        assert fresh["InstanceId"] not in known
        assert fresh["PrivateIpAddress"] not in {i["PrivateIpAddress"] for i in before["instances"]}
        assert serving.kill(signal.SIGTERM) == 0


def _everything(ec2: Any) -> dict[str, Any]:
    reservations = ec2.describe_instances()["Reservations"]
    return {
        "instances": [i for r in reservations for i in r["Instances"]],
        "volumes": ec2.describe_volumes()["Volumes"],
        "snapshots": ec2.describe_snapshots()["Snapshots"],
        "subnets": ec2.describe_subnets()["Subnets"],
        "tags": ec2.describe_tags()["Tags"],
    }


def test_no_answered_change_is_lost_by_sigkill(tmp_path: Path) -> None:
    with Serving(tmp_path / "state") as serving:
        ec2 = serving.client()
        subnet = make_subnet(ec2, "127.91.3.0/24")
        target = ec2.run_instances(
            ImageId=AMI, InstanceType="t3.medium", SubnetId=subnet, MinCount=1, MaxCount=1
        )["Instances"][0]["InstanceId"]
        answered: dict[str, set[str]] = {"tags": set(), "parameters": set(), "volumes": set()}
        threads = [
            threading.Thread(target=_hammer, args=(serving, target, answered, kind))
            for kind in answered
        ]
        for thread in threads:
            thread.start()
        until(lambda: all(len(a) > 20 for a in answered.values()))
        serving.kill()
        for thread in threads:
            thread.join()
        serving.start()
        ec2 = serving.client()
        tagged = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [target]}])
        assert answered["tags"] <= {t["Value"] for t in tagged["Tags"]}
        assert answered["volumes"] <= {v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]}
        ssm = serving.client("ssm")
        for name in answered["parameters"]:
            ssm.get_parameter(Name=name)


def _hammer(serving: Serving, target: str, answered: dict[str, set[str]], kind: str) -> None:
    ec2, ssm = serving.client(), serving.client("ssm")
    number = 0
    try:
        while True:
            number += 1
            if kind == "tags":
                tag = {"Key": str(number % 40), "Value": str(number)}
                ec2.create_tags(Resources=[target], Tags=[tag])
                answered[kind] = {str(n) for n in range(max(1, number - 39), number + 1)}
            elif kind == "volumes":
                made = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)
                answered[kind].add(made["VolumeId"])
            else:
                ssm.put_parameter(Name=f"/p/{number}", Value="x", Type="String")
                answered[kind].add(f"/p/{number}")
    except (BotoCoreError, ClientError, ResponseParserError):  # the last: a reply cut short
        return


def test_sigterm_ends_it_quickly_and_with_everything(tmp_path: Path) -> None:
    with Serving(tmp_path / "state") as serving:
        ec2 = serving.client()
        one = launch_worker(ec2, make_subnet(ec2, "127.91.4.0/24"))["InstanceId"]
        pid = pid_of(serving.state_dir, one)
        fault = {"action": "DescribeVolumes", "fault": "never-answer"}
        serving.control("POST", "faults", fault)
        silent = threading.Thread(target=_ignore_errors, args=(ec2.describe_volumes,))
        silent.start()
        began = time.monotonic()
        assert serving.kill(signal.SIGTERM) == 0
        assert time.monotonic() - began < 2
        assert not is_alive(pid)
        silent.join()


def test_it_ends_whichever_thread_is_given_the_signal(tmp_path: Path) -> None:
    with Serving(tmp_path / "state") as serving:
        assert serving.process
        pid = serving.process.pid
        threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        other = min(set(threads) - {pid})
        assert ctypes.CDLL(None).tgkill(pid, other, signal.SIGTERM) == 0
        assert serving.process.wait(BOUND_SECONDS) == 0


def _ignore_errors(call: Any) -> None:
    try:
        call()
    except BotoCoreError:
        return


def test_a_taken_port_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port, "--state-dir", str(tmp_path / "state")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"127.0.0.1:{port}" in error
    assert "--port" in error


def test_a_state_directory_serves_one_cloud(served: Serving) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ec2spawner.localcloud", "serve", "--port", "0"),
            *("--state-dir", str(served.state_dir)),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "another emulated cloud uses" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_capacity_file_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "capacity.json"
    path.write_text('{"rules": [{}]}')
    state = str(tmp_path / "state")
    arguments = ["serve", "--port", "0", "--state-dir", state, "--capacity", str(path)]
    assert main(arguments) == 1
    assert "rules[0].max_running" in capsys.readouterr().err


def test_a_state_of_another_format_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "cloud.sqlite").write_text("this is no database, it is a poem")
    assert main(["serve", "--port", "0", "--state-dir", str(tmp_path / "state")]) == 1
    assert "remove the state directory" in capsys.readouterr().err


def test_a_state_of_another_version_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "state" / "cloud.sqlite")
    store.save("", {}, {"moto": pickle.dumps({"ec2": 1})})
    store.close()
    assert main(["serve", "--port", "0", "--state-dir", str(tmp_path / "state")]) == 1
    error = capsys.readouterr().err
    assert "written by other versions" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "wrong", [["--port", "70000"], ["--boot-seconds", "-1"], ["--boot-seconds", "nan"], []]
)
def test_wrong_options_are_refused(wrong: list[str], tmp_path: Path) -> None:
    state = ["--state-dir", str(tmp_path)] if wrong else []
    with pytest.raises(SystemExit) as caught:
        main(["serve", *state, *wrong])
    assert caught.value.code == 2
