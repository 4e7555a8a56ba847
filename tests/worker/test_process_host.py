"""``ec2spawner-worker`` itself, run as the hub runs it, on an emulated machine's init."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ec2spawner.worker import activity_file
from ec2spawner.worker.clock import boot_seconds
from ec2spawner.worker.process_host import ProcessHost

from .documents import TOKEN
from .fake_hub import FakeHub
from .machines import ADDRESS, Machine, free_port, processes_of, wait_until


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    machine.boot()
    yield machine
    machine.kill()


def test_first_start_second_start_stop_and_start_again(machine: Machine) -> None:
    told = machine.worker("start", machine.document())
    assert [e.get("step") for e in told[:-1]] == ["home", "format", "mount", "server", "wait"]
    first = told[-1]
    assert (first["event"], first["reused"], first["formatted"]) == ("ready", False, True)
    again = machine.start(timeout_seconds=99)
    assert (again["pid"], again["reused"], again["formatted"]) == (first["pid"], True, False)

    (status,) = machine.worker("status")
    free = status.pop("disk_free_bytes")
    assert free > 0
    assert status == {
        "active": True,
        "pid": first["pid"],
        "exit_code": None,
        "owner": "jo-0123456789",
        "claim": "0123456789abcdef",
        "home_mounted": True,
    }

    (machine.home / "thesis.txt").write_text("all of it")
    (machine.home / "told").write_text("offspring")
    machine.start(port=free_port())  # another document: the first server is ended
    assert machine.starts() == 2
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((ADDRESS, machine.port), timeout=1)

    (stopped,) = machine.worker("stop")
    assert (stopped["event"], stopped["unmounted"]) == ("stopped", True)
    assert machine.worker("stop", b'{"timeout_seconds": 1}')[-1]["event"] == "stopped"
    (status,) = machine.worker("status")
    assert (status["active"], status["home_mounted"]) == (False, False)
    assert machine.start()["formatted"] is False
    assert (machine.home / "thesis.txt").read_text() == "all of it"


def test_before_any_start_there_is_nothing_to_tell_or_stop(machine: Machine) -> None:
    (status,) = machine.worker("status")
    assert (status["active"], status["owner"], status["home_mounted"]) == (False, None, False)
    assert machine.worker("stop")[-1]["event"] == "stopped"


def test_the_server_gets_its_environment_exactly_and_nobody_sees_it(machine: Machine) -> None:
    pid = machine.start()["pid"]
    seen = json.loads((machine.home / "environment").read_text())
    given, own = seen["given"], seen["own"]
    assert given["environment"]["GREETING"] == 'a "quoted" $value\nwith\ttwo lines \\ and Zoë'
    url = f"http://{ADDRESS}:{machine.port}/user/jo/"
    assert given["environment"]["JUPYTERHUB_SERVICE_URL"] == url
    assert given["args"] == ["--LabApp.news_url=", "a b"]
    assert own["HOME"] == str(machine.home)
    assert own["USER"] == "jovyan"
    public = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    assert TOKEN.encode() not in public
    for file in machine.directory.rglob("*"):
        if file.is_file() and TOKEN.encode() in file.read_bytes():
            assert file.name == "server.json"
            assert file.stat().st_mode & 0o077 == 0


def test_another_claim_is_refused_and_the_server_goes_on(machine: Machine) -> None:
    pid = machine.start()["pid"]
    refused = machine.start(claim="f" * 16)
    assert refused["code"] == "owner-mismatch"
    assert machine.worker("status")[0]["pid"] == pid


def test_a_renamed_owner_keeps_worker_and_home(machine: Machine) -> None:
    machine.start()
    assert machine.start(owner="zoe-9876543210")["event"] == "ready"
    assert machine.worker("status")[0]["owner"] == "zoe-9876543210"


def test_a_server_that_dies_is_told_at_once_without_its_token(machine: Machine) -> None:
    machine.start()
    machine.worker("stop")
    machine.tell("die")
    told = machine.start()
    assert told["code"] == "server-died"
    assert "cannot live" in told["detail"]
    assert TOKEN not in json.dumps(told)
    machine.tell("")
    assert machine.start()["event"] == "ready"


@pytest.mark.parametrize("told", ["deaf", "mute"])
def test_a_server_that_does_not_answer_as_one_is_a_time_out(machine: Machine, told: str) -> None:
    machine.start()
    machine.worker("stop")
    machine.tell(told)
    assert machine.start(timeout_seconds=0.5)["code"] == "server-timeout"
    # It may still come: the same document finds it.
    assert machine.worker("status")[0]["active"] is True


def test_a_port_that_somebody_else_has_is_told(machine: Machine) -> None:
    with socket.create_server((ADDRESS, machine.port)):
        told = machine.start()
    assert told["code"] == "server-died"
    assert "in use" in told["detail"]


def test_a_server_that_ignores_sigterm_is_killed_at_the_bound(machine: Machine) -> None:
    machine.start()
    machine.worker("stop")
    machine.tell("stubborn offspring")
    machine.start()
    (stopped,) = machine.worker("stop", b'{"timeout_seconds": 0.3}')
    assert 0.3 <= stopped["seconds"] < 3
    assert machine.worker("status")[0]["exit_code"] == -9


def test_a_swallowed_sigterm_is_sent_again(machine: Machine) -> None:
    machine.start()
    machine.worker("stop")
    machine.tell("swallow")
    machine.start()
    (stopped,) = machine.worker("stop")
    assert 1.9 < stopped["seconds"] < 6
    assert machine.worker("status")[0]["exit_code"] == 0


def test_a_foreign_volume_is_refused_and_left_alone(machine: Machine) -> None:
    (machine.volume / "filesystem").write_text("xfs\n")
    assert machine.start()["code"] == "foreign-filesystem"
    assert not machine.home.exists()
    (machine.volume / "filesystem").unlink()
    machine.home.mkdir()
    (machine.home / "who-knows").write_text("x")
    assert machine.start()["code"] == "foreign-filesystem"


def test_a_volume_that_is_not_attached_is_missing(machine: Machine) -> None:
    told = machine.start(volume_id="vol-0fedcba9876543210", timeout_seconds=0.2)
    assert told["code"] == "home-missing"
    assert machine.worker("status")[0]["claim"] is None


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ({"format": "fail"}, "mount-failed"),
        ({"mount": "fail"}, "mount-failed"),
        ({"disk": "full"}, "disk-full"),
    ],
)
def test_a_fault_of_the_disk_is_told_and_the_next_start_is_good(
    machine: Machine, faults: dict[str, str], code: str
) -> None:
    (machine.directory / "faults.json").write_text(json.dumps(faults))
    assert machine.start()["code"] == code
    (machine.directory / "faults.json").unlink()
    assert machine.start()["event"] == "ready"


@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"x" * (1024 * 1024 + 1), b"[" * 100000])
def test_bad_input_is_one_line_and_touches_nothing(machine: Machine, data: bytes) -> None:
    (told,) = machine.worker("start", data)
    assert told["code"] == "bad-document"
    assert not (machine.directory / "state").exists()


def test_two_starts_at_once_start_one_server(machine: Machine) -> None:
    machine.start()
    machine.worker("stop")
    both = [machine.popen("start") for _ in range(3)]
    for running in both:
        assert running.stdin
        running.stdin.write(machine.document())
        running.stdin.close()
    ready = []
    for running in both:
        assert running.stdout
        assert running.stderr
        ready.append(json.loads(running.stdout.read().splitlines()[-1]))
        assert running.stderr.read() == b""
        running.stdout.close()
        running.stderr.close()
        running.wait()
    assert {r["event"] for r in ready} == {"ready"}
    assert len({r["pid"] for r in ready}) == 1
    assert sorted(r["reused"] for r in ready) == [False, True, True]
    assert machine.starts() == 2


def test_a_hub_that_hangs_up_does_not_stop_the_start(machine: Machine) -> None:
    running = machine.popen("start")
    assert running.stdin
    assert running.stdout
    assert running.stderr
    running.stdout.close()
    running.stdin.write(machine.document())
    running.stdin.close()
    assert running.wait(10) == 0
    assert running.stderr.read() == b""
    running.stderr.close()
    assert machine.worker("status")[0]["active"] is True


def test_a_stop_ends_a_start_that_still_waits_for_its_home(machine: Machine) -> None:
    running = machine.popen("start")
    assert running.stdin
    assert running.stdout
    running.stdin.write(machine.document(volume_id="vol-0fedcba9876543210"))
    running.stdin.close()
    running.stdout.readline()
    assert machine.worker("stop")[-1]["event"] == "stopped"
    assert running.wait(5) == -signal.SIGTERM
    running.stdout.close()
    assert running.stderr
    running.stderr.close()


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_start_killed_after_any_step_is_made_good_by_the_next(
    machine: Machine, step: int, used: bool
) -> None:
    if used:
        machine.start()
        machine.worker("stop")
        (machine.home / "thesis.txt").write_text("all of it")
    running = machine.popen("start")
    assert running.stdin
    assert running.stdout
    assert running.stderr
    running.stdin.write(machine.document())
    running.stdin.close()
    for _ in range(step):
        running.stdout.readline()
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    running.stdout.close()
    running.stderr.close()
    told = machine.start()
    assert told["event"] == "ready"
    assert machine.starts() == 1 + used
    if used:
        assert told["formatted"] is False
        assert (machine.home / "thesis.txt").read_text() == "all of it"


def test_after_a_loss_of_power_the_home_is_mounted_again_with_its_files(machine: Machine) -> None:
    machine.start()
    (machine.home / "thesis.txt").write_text("all of it")
    machine.kill()
    for file in sorted((machine.directory / "run").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    machine.boot()
    (status,) = machine.worker("status")
    assert (status["active"], status["home_mounted"]) == (False, False)
    assert machine.start()["reused"] is False
    assert (machine.home / "thesis.txt").read_text() == "all of it"


def test_a_machine_without_its_init_is_an_error_of_one_line(machine: Machine) -> None:
    machine.kill()
    assert machine.start()["code"] == "internal"
    wait_until(lambda: not (machine.directory / "run/lock").read_bytes())


# -- the dead-man switch -----------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    yield hub
    hub.close()


def terms(port: int, **changes: float) -> dict[str, object]:
    url = f"http://{ADDRESS}:{port}/hub/api"
    return {"hub_url": url, "hub_lost_seconds": 1, "idle_seconds": 1, **changes}


def prepare(machine: Machine, **watchdog: object) -> dict[str, object]:
    document = {"version": 1, "watchdog": watchdog}
    return machine.worker("prepare", json.dumps(document).encode())[-1]


def is_off(machine: Machine) -> bool:
    return not (machine.process and processes_of(machine.directory))


def test_a_spare_is_prepared_and_knows_its_hub_from_then_on(machine: Machine, hub: FakeHub) -> None:
    told = prepare(machine, **terms(hub.port))
    assert (told["event"], told["system"]) == ("prepared", "running")
    assert machine.worker("status")[0]["claim"] is None
    assert machine.worker("watchdog") == [{"event": "watch", "hub": "reached"}]
    assert hub.asked == ["/hub/api/health"]
    (machine.directory / "faults.json").write_text('{"disk": "full"}')
    assert prepare(machine, **terms(hub.port))["code"] == "disk-full"


def test_an_idle_machine_whose_hub_is_gone_goes_off_and_one_at_work_stays(
    machine: Machine, hub: FakeHub
) -> None:
    machine.start(watchdog=terms(hub.port, idle_seconds=4))
    (told,) = machine.worker("watchdog")
    assert told == {"event": "watch", "hub": "reached"}
    hub.close()
    (told,) = machine.worker("watchdog")
    assert told == {"event": "watch", "hub": "away"}
    for _ in range(3):  # the server says that its user works
        time.sleep(0.5)
        activity_file.write(machine.directory / "run", boot_seconds())
        assert machine.worker("watchdog") == []
    left_at = time.monotonic()
    while not is_off(machine):
        assert time.monotonic() < left_at + 20
        with machine.popen("watchdog") as running:
            running.communicate()
    assert time.monotonic() - left_at > 3


def test_a_boot_has_a_name_and_a_beginning_of_its_own(machine: Machine) -> None:
    host = ProcessHost(machine.directory)
    first = host.boot()
    assert first == host.boot()
    assert 0 <= boot_seconds() - first.began_at < 60
    machine.kill()
    machine.boot()
    assert host.boot().boot_id != first.boot_id
    assert host.boot().began_at > first.began_at
