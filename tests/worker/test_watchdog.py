"""The dead-man switch on a model of a real worker: what it asks, remembers and runs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.worker import commands, records
from ec2spawner.worker.commands import PREPARED_FREE_MIN_BYTES, Start, World
from ec2spawner.worker.document import parse_prepare, parse_start
from ec2spawner.worker.host import Boot
from ec2spawner.worker.protocol import Code, Events, Fault
from ec2spawner.worker.runner import Completed
from ec2spawner.worker.systemd_host import SystemdHost
from ec2spawner.worker.watchdog import COMMAND_MAX_SECONDS, Senses, look_once

from .documents import encoded
from .model_system import UNIT, ModelSystem

HUB = "http://10.0.0.5:8081/hub/api"
WATCHDOG = {"hub_url": HUB, "hub_lost_seconds": 1800, "idle_seconds": 3600}
PREPARE = json.dumps({"version": 1, "watchdog": WATCHDOG}).encode()
SHOW = (
    "systemctl",
    "show",
    "--property=ActiveState,MainPID,ExecMainPID,ExecMainCode,ExecMainStatus",
    UNIT,
)
POWER_OFF = ("systemctl", "poweroff", "--check-inhibitors=no")
BOOT = ("systemctl", "is-system-running", "--wait")


class Worker:
    """A model machine, its hub, and its time since boot."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.system = ModelSystem(root)
        self.now = 30.0
        self.hub_is_up = True
        self.worked_at: float | None = None
        self.asked: list[str] = []
        self.when_asked: Callable[[], None] = lambda: None
        self.when_seen: Callable[[], None] = lambda: None
        monkeypatch.setattr("ec2spawner.worker.commands.boot_seconds", lambda: self.now)

    @property
    def host(self) -> SystemdHost:
        return self.system.host()

    def start(self, **changes: Any) -> None:
        world = World(lambda: 0.0, lambda seconds: None, lambda *_: self.system.active)
        document = parse_start(encoded(**{"watchdog": WATCHDOG, **changes}))
        Start(self.host, document, Events(io.BytesIO()), world).run()
        self.system.commands.clear()

    def prepare(self) -> list[dict[str, Any]]:
        out = io.BytesIO()
        commands.prepare(self.host, parse_prepare(PREPARE), Events(out, lambda: 0.0))
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def look(self) -> list[dict[str, Any]]:
        def reaches(url: str) -> bool:
            self.asked.append(url)
            self.when_asked()
            return self.hub_is_up

        def now() -> float:
            self.when_seen()
            return self.now

        out = io.BytesIO()
        look_once(self.host, Events(out), Senses(now, reaches, self._worked_at))
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def _worked_at(self, path: Path, uid: int) -> float | None:
        assert path == self.system.root / "run/ec2spawner-server/activity.json"
        assert uid == 1000
        return self.worked_at

    def looks_until(self, moment: float) -> list[dict[str, Any]]:
        """A look each minute; what they said."""
        told = []
        while self.now < moment and not self.system.powered_off:
            self.now += 60
            told += self.look()
        return told

    def reboot(self) -> None:
        self.system.power_cycle()
        self.system.powered_off = False
        self.now = 30.0


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(tmp_path, monkeypatch)


def test_a_look_only_asks_and_says_nothing_when_nothing_has_changed(worker: Worker) -> None:
    worker.start()
    worker.worked_at = worker.now
    assert worker.look() == [{"event": "watch", "hub": "reached"}]
    assert worker.system.commands == [SHOW]
    worker.now += 60
    assert worker.look() == []
    assert worker.asked == [HUB, HUB]


def test_an_idle_worker_without_its_hub_is_powered_off_by_this_command(worker: Worker) -> None:
    worker.start()
    worker.worked_at = 1000.0
    worker.looks_until(2000)
    worker.hub_is_up = False
    told = worker.looks_until(99_999)
    assert worker.system.commands[-1] == POWER_OFF
    assert worker.system.commands.count(POWER_OFF) == 1
    assert 1000 + 3600 <= worker.now < 1000 + 3600 + 60
    assert [e["event"] for e in told] == ["watch", "power-off"]
    assert told[-1]["reason"] == "hub-lost"
    assert 3600 <= told[-1]["idle_seconds"] < 3660


def test_a_worker_at_work_outlives_any_outage(worker: Worker) -> None:
    worker.start()
    worker.hub_is_up = False
    for _ in range(600):
        worker.now += 60
        worker.worked_at = worker.now
        worker.look()
    assert POWER_OFF not in worker.system.commands


def test_an_upgrade_of_ten_minutes_is_no_outage(worker: Worker) -> None:
    worker.start()
    worker.worked_at = worker.now
    worker.looks_until(3600)
    for _ in range(20):
        worker.hub_is_up = not worker.hub_is_up
        worker.looks_until(worker.now + 600)
    assert POWER_OFF not in worker.system.commands


def test_the_culler_s_failure_is_made_good(worker: Worker) -> None:
    worker.start()
    worker.worked_at = worker.now
    told = worker.looks_until(99_999)
    assert told[-1]["reason"] == "culler-failed"
    assert 4 * 3600 <= worker.now - worker.worked_at < 4 * 3600 + 60


def test_a_worker_of_which_no_hub_ever_heard_goes_off(worker: Worker) -> None:
    told = worker.looks_until(99_999)
    assert told[0] == {"event": "watch", "hub": "unknown"}
    assert told[-1]["reason"] == "no-hub"
    assert 1800 <= worker.now < 1860
    assert worker.asked == []


def test_a_spare_is_the_hub_s_business_until_the_hub_is_lost(worker: Worker) -> None:
    worker.prepare()
    assert worker.looks_until(400_000) == [{"event": "watch", "hub": "reached"}]
    worker.hub_is_up = False
    lost_at = worker.now
    assert worker.looks_until(999_999)[-1]["reason"] == "hub-lost"
    assert 1800 <= worker.now - lost_at < 1920


def test_a_machine_that_is_started_again_forgets_what_was_before_its_boot(worker: Worker) -> None:
    worker.start()
    worker.hub_is_up = False
    worker.looks_until(99_999)
    assert worker.system.powered_off
    leftovers = {
        name: (worker.system.root / "run/ec2spawner" / name).read_text()
        for name in (records.WATCH_FILE, records.CONTACT_FILE)
    }
    worker.reboot()
    for name, text in leftovers.items():  # as if /run were no tmpfs
        (worker.system.root / "run/ec2spawner" / name).write_text(text)
    worker.looks_until(1700)
    assert not worker.system.powered_off
    worker.hub_is_up = True
    worker.start()
    worker.worked_at = worker.now
    worker.looks_until(4000)
    assert not worker.system.powered_off
    assert set(worker.asked) == {HUB}


@pytest.mark.parametrize("verb", ["start", "prepare", "status", "stop"])
def test_every_command_of_a_hub_is_a_sign_of_life(worker: Worker, verb: str) -> None:
    worker.start()
    worker.hub_is_up = False
    worker.looks_until(3500)
    if verb == "start":
        worker.start()
    elif verb == "prepare":
        worker.prepare()
    elif verb == "status":
        commands.report_status(worker.host, Events(io.BytesIO()))
    else:
        commands.stop(worker.host, 10, Events(io.BytesIO()))
    commanded_at = worker.now
    worker.looks_until(99_999)
    assert 3600 <= worker.now - commanded_at < 3660


@pytest.mark.parametrize("moment", ["when_asked", "when_seen"])
def test_a_command_that_comes_during_a_look_keeps_the_machine_on(
    worker: Worker, moment: str
) -> None:
    worker.start()
    worker.hub_is_up = False
    worker.looks_until(3500)
    worker.now += 120

    def command() -> None:
        setattr(worker, moment, lambda: None)
        worker.start()

    setattr(worker, moment, command)
    worker.look()
    assert not worker.system.powered_off
    worker.looks_until(99_999)
    assert worker.system.powered_off


def test_a_command_at_work_is_not_cut_off_and_one_that_never_ends_is(worker: Worker) -> None:
    worker.start()
    worker.hub_is_up = False
    begun_at = worker.now
    with records.locked(worker.host.runtime_directory, 0.0):
        worker.looks_until(begun_at + COMMAND_MAX_SECONDS - 60)
        assert not worker.system.powered_off
        worker.looks_until(begun_at + COMMAND_MAX_SECONDS + 120)
    assert worker.system.powered_off


def test_no_command_begins_between_the_last_look_and_the_power_off(worker: Worker) -> None:
    worker.start()
    worker.hub_is_up = False

    def is_held(argv: Any) -> None:
        if tuple(argv) == POWER_OFF:
            with pytest.raises(Fault), records.locked(worker.host.runtime_directory, 0.0):
                pass

    worker.system.before = is_held
    worker.looks_until(99_999)
    assert worker.system.powered_off


def test_a_power_off_that_fails_is_tried_again(worker: Worker) -> None:
    worker.start()
    worker.hub_is_up = False
    worker.looks_until(3540)
    worker.now += 120
    worker.system.fail["systemctl"] = Completed(1, "", "Failed to connect to bus")
    with pytest.raises(Fault, match="Failed to connect"):
        worker.look()
    worker.system.fail.clear()
    worker.look()
    assert worker.system.powered_off


@pytest.mark.parametrize(
    "name", ["claim.json", "watchdog.json", "../../../run/ec2spawner/watch.json"]
)
@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"owner": 1}', "\x00"])
def test_a_record_that_cannot_be_read_keeps_no_machine_on_for_ever(
    worker: Worker, name: str, content: str
) -> None:
    worker.start()
    worker.hub_is_up = False
    worker.look()
    (worker.host.state_directory / name).write_text(content)
    worker.looks_until(99_999)
    assert worker.system.powered_off


def test_a_terms_record_assigns_no_owner_and_holds_no_secret(worker: Worker) -> None:
    worker.prepare()
    assert records.read_claim(worker.host.state_directory) is None
    record = worker.host.state_directory / records.TERMS_FILE
    assert json.loads(record.read_text()) == WATCHDOG
    assert record.stat().st_mode & 0o077 == 0
    worker.start()
    assert worker.system.active


def test_other_terms_are_no_reason_for_another_server(worker: Worker) -> None:
    worker.start()
    worker.start(watchdog={**WATCHDOG, "hub_lost_seconds": 60})
    assert worker.system.starts == 1
    terms = records.read_terms(worker.host.state_directory)
    assert terms is not None
    assert terms.hub_lost_seconds == 60


def test_a_hub_that_names_no_terms_leaves_what_is_known(worker: Worker) -> None:
    worker.prepare()
    document = json.loads(encoded())
    assert "watchdog" not in document
    world = World(lambda: 0.0, lambda seconds: None, lambda *_: worker.system.active)
    Start(worker.host, parse_start(encoded()), Events(io.BytesIO()), world).run()
    assert records.read_terms(worker.host.state_directory) is not None


def test_a_hub_whose_claim_is_refused_does_not_become_the_worker_s_hub(worker: Worker) -> None:
    worker.start()
    with pytest.raises(Fault, match="belongs to"):
        worker.start(claim="f" * 16, watchdog={**WATCHDOG, "hub_url": "http://other:1/hub/api"})
    terms = records.read_terms(worker.host.state_directory)
    assert terms is not None
    assert terms.hub_url == HUB


# -- prepare -----------------------------------------------------------------------------------


def test_prepare_waits_for_the_boot_and_says_so(worker: Worker) -> None:
    told = worker.prepare()
    assert worker.system.commands == [BOOT]
    assert told[0] == {"event": "progress", "step": "boot", "seconds": 0.0}
    assert told[1].pop("disk_free_bytes") >= PREPARED_FREE_MIN_BYTES
    assert told[1:] == [{"event": "prepared", "system": "running", "seconds": 0.0}]


def test_a_system_in_which_some_unit_failed_has_booted_too(worker: Worker) -> None:
    worker.system.system_state = "degraded"
    assert worker.prepare()[-1]["system"] == "degraded"


@pytest.mark.parametrize("state", ["maintenance", "stopping", "offline", "unknown", ""])
def test_a_system_that_does_not_boot_to_its_end_is_told(worker: Worker, state: str) -> None:
    worker.system.system_state = state
    with pytest.raises(Fault) as caught:
        worker.prepare()
    assert caught.value.slug is Code.BOOT_UNFINISHED
    assert records.read_terms(worker.host.state_directory) is not None  # its hub is known even so


def test_a_boot_that_does_not_end_in_time_is_told(worker: Worker) -> None:
    def late(argv: Any) -> None:
        raise Fault(Code.INTERNAL, "systemctl took longer than 300 s")

    worker.system.before = late
    with pytest.raises(Fault) as caught:
        worker.prepare()
    assert caught.value.slug is Code.BOOT_UNFINISHED


def test_a_root_disk_without_room_is_told(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemdHost, "disk_free_bytes", lambda self: PREPARED_FREE_MIN_BYTES - 1)
    with pytest.raises(Fault) as caught:
        worker.prepare()
    assert caught.value.slug is Code.DISK_FULL


def test_prepare_holds_nobody_up_while_the_machine_boots(worker: Worker) -> None:
    def start_meanwhile(argv: Any) -> None:
        worker.system.before = lambda argv: None
        worker.start()

    worker.system.before = start_meanwhile
    assert worker.prepare()[-1]["event"] == "prepared"
    assert worker.system.active


def test_the_boot_is_the_kernel_s(worker: Worker) -> None:
    assert worker.host.boot() == Boot("00000000-0000-4000-8000-000000000001", 0.0)
