"""What a manager that lives takes over: another package, another domain; and back if it fails."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.localcloud import managers, upgrades
from ec2spawner.manager import place
from launch_cluster import bundle as bundle_module
from launch_cluster import upgrading
from launch_cluster.answering import Site, look_at
from launch_cluster.bundle import WHEEL_NAME, Bundle, pack
from launch_cluster.provisioning import release_of
from launch_cluster.upgrading import failure_of, readable

from .clouds import control
from .conftest import Calls, Killed
from .test_manager import Run, ask, machines, stack

__all__ = ["stack"]  # a fixture

_versions = count(1)
_kept: dict[str, str] = {}  # server_config.json, by the cloud
MANAGER = Path(bundle_module.__file__).parent / "manager"


def contents_of(bundle: Bundle) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle.data)) as tar:
        read = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in read.items() if file}


def other_than(bundle: Bundle, name: str = WHEEL_NAME) -> Bundle:
    """The package of another version, each time another one."""
    contents = contents_of(bundle)
    return Bundle(pack({**contents, name: contents[name] + str(next(_versions)).encode()}))


@pytest.fixture
def cluster() -> str:
    """All tests have the same: to make one takes seconds."""
    return "upgraded"


@pytest.fixture
def up(run: Run, aws: Path, cluster: str, calls: Calls, endpoint: str) -> Iterator[Run]:
    """The command for a cluster with a manager that lives, without a domain."""

    def up(*more: str, answer: str = "") -> Result:
        return run("up", cluster, *more, "--yes", answer=answer)

    kept = aws / "server_config.json"
    options: tuple[str, ...] = ("--vpc-cidr", "127.79.0.0/16")
    if endpoint in _kept:
        kept.write_text(_kept[endpoint])
        options = ("--domain", "", "--email", "")
    result = up(*options)
    assert result.exit_code == 0, result.stderr
    calls.made.clear()
    calls.requests.clear()
    yield up
    calls.is_dead = False
    _kept[endpoint] = kept.read_text()


@pytest.fixture
def newer(up: Run, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """From now on, another version of ec2spawner is installed here."""
    made = other_than(bundle)
    monkeypatch.setattr(bundle_module, "make_bundle", lambda sources: made)
    return made


@pytest.fixture
def hub(stack: Any, hub_suffix: str) -> Callable[[], tuple[str, str]]:
    """Release and domain, as the hub's public address says."""

    def hub() -> tuple[str, str]:
        url = f"http://{stack()['PublicAddress']}{hub_suffix}/hub/health"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.headers[place.RELEASE_HEADER], json.load(reply)["domain"]

    return hub


@pytest.fixture(autouse=True)
def no_faults(endpoint: str) -> Iterator[None]:
    yield
    request = urllib.request.Request(f"{endpoint}/_localcloud/faults", method="DELETE")
    urllib.request.urlopen(request, timeout=10).close()


# ---- the package


def test_a_manager_is_brought_to_the_installed_version_and_stays_the_machine_it_is(
    up: Run,
    newer: Bundle,
    hub: Any,
    calls: Calls,
    cluster: str,
    gateway: Gateway,
) -> None:
    assert hub()[0] not in ("", release_of(newer.data))
    assert "nothing to do" in up().stdout  # nobody asks for an upgrade
    (before,) = machines(gateway, cluster)

    calls.made.clear()
    planned = up("--upgrade", "--dry-run")
    assert f"bring the manager to ec2spawner {bundle_module.__version__}" in planned.stdout
    assert calls.changing == []

    result = up("--upgrade", "--output", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["outcome"] == "done"
    assert f"done: {release_of(newer.data)} is in use" in result.stderr
    assert hub()[0] == release_of(newer.data)
    assert machines(gateway, cluster)[0]["InstanceId"] == before["InstanceId"]
    (sent,) = [params for name, params in calls.requests if name == "send_command"]
    assert sent["Parameters"]["commands"] == [f"/opt/ec2spawner/upgrade.sh {newer.sha256}"]

    calls.made.clear()
    again = up("--upgrade")
    assert (again.exit_code, calls.changing) == (0, [])
    assert "nothing to do" in again.stdout


def test_what_is_for_workers_only_changes_no_hub(
    up: Run, bundle: Bundle, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert up("--upgrade").exit_code == 0
    calls.made.clear()
    other = other_than(bundle, bundle_module.WORKER_LOCK)
    assert other.sha256 != bundle.sha256
    monkeypatch.setattr(bundle_module, "make_bundle", lambda sources: other)
    assert "nothing to do" in up("--upgrade").stdout
    assert "send_command" not in calls.made


def test_a_manager_that_has_it_already_but_does_not_say_so_is_left_alone(
    up: Run, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a certificate of one's own, the address tells nothing."""
    assert up("--upgrade").exit_code == 0
    calls.made.clear()
    monkeypatch.setattr("launch_cluster.answering.RELEASE_HEADER", "X-Nobody-Says")
    result = up("--upgrade", "--output", "json")
    assert result.exit_code == 0, result.stderr
    assert "is in use already" in result.stderr
    assert json.loads(result.stdout)["outcome"] == "nothing to do"
    assert calls.made.count("send_command") == 1


def test_a_hub_that_fails_with_it_is_back_at_the_old_one_and_may_be_tried_again(
    up: Run, newer: Bundle, hub: Any
) -> None:
    before = hub()[0]
    control("managers/next", fault="fail")
    result = up("--upgrade")
    assert result.exit_code == 1
    assert "it is as it was before" in result.stderr
    assert f"failed: back at {before}" in result.stderr
    assert hub()[0] == before
    assert up("--upgrade").exit_code == 0
    assert hub()[0] == release_of(newer.data)


@pytest.mark.parametrize(
    ("operation", "how"),
    [
        ("put_object", "interrupted"),
        ("send_command", "interrupted"),
        ("get_command_invocation", "interrupted"),
        ("send_command", "killed"),
    ],
)
def test_broken_off_it_goes_on_when_run_again(
    up: Run, newer: Bundle, hub: Any, calls: Calls, operation: str, how: str
) -> None:
    def break_off() -> None:
        calls.after.clear()
        raise KeyboardInterrupt if how == "interrupted" else Killed

    calls.after[operation] = break_off
    try:
        result = up("--upgrade")
        assert result.exit_code == 130
        assert "Run the same command again" in result.stderr
    except Killed:
        pass
    assert up("--upgrade").exit_code == 0
    assert hub()[0] == release_of(newer.data)
    assert "nothing to do" in up("--upgrade").stdout


def test_it_is_said_that_the_manager_goes_on_when_the_wait_is_broken_off() -> None:
    class Sent:
        async def call(self, service: str, operation: str, params: Any, **_: Any) -> Any:
            if operation == "send_command":
                return {"Command": {"CommandId": "c"}}
            return {"Status": "InProgress"}

    said: list[str] = []

    async def cancelled() -> None:
        job = upgrading.Upgrading(Sent(), Listening(said))  # type: ignore[arg-type]
        task = asyncio.create_task(job.run("i-1", place.REFRESH))
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert said[-1] == "The manager goes on with it by itself."


class Listening:
    """A reporter that keeps what it is told."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def progress(self, text: str) -> None:
        self._said.append(text)

    def bar(self, *_: Any) -> None:
        return None

    above_bar = progress


# ---- what AWS may answer


def ssm_fault(action: str, **more: Any) -> None:
    control("faults", service="ssm", action=action, **more)


def test_a_machine_whose_agent_comes_later_is_waited_for(up: Run, newer: Bundle, hub: Any) -> None:
    ssm_fault("SendCommand", fault="error", code="InvalidInstanceId", status=400, count=2)
    ssm_fault("GetCommandInvocation", fault="error", code="InvocationDoesNotExist", status=400)
    result = up("--upgrade")
    assert result.exit_code == 0, result.stderr
    assert hub()[0] == release_of(newer.data)


def test_a_reply_that_is_lost_does_no_harm(up: Run, newer: Bundle, hub: Any, calls: Calls) -> None:
    ssm_fault("SendCommand", fault="lose-reply")
    result = up("--upgrade")
    assert result.exit_code == 0, result.stderr
    assert hub()[0] == release_of(newer.data)


def test_a_machine_without_an_agent_is_an_error_that_says_what_to_do_there(
    up: Run, newer: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrading, "AGENT_SECONDS", 0.0)
    ssm_fault("SendCommand", fault="error", code="InvalidInstanceId", status=400, count=None)
    result = up("--upgrade")
    assert result.exit_code == 1
    assert "takes no commands of Systems Manager" in result.stderr
    assert f"as root: /opt/ec2spawner/upgrade.sh {newer.sha256}" in result.stderr


@pytest.mark.parametrize("action", ["SendCommand", "GetCommandInvocation"])
def test_a_right_that_is_missing_is_named(up: Run, newer: Bundle, action: str) -> None:
    ssm_fault(action, fault="error", code="AccessDeniedException", status=400)
    result = up("--upgrade")
    assert result.exit_code == 1
    assert f"ssm:{action}" in result.stderr


def test_a_command_that_never_ends_is_waited_for_within_a_bound(
    up: Run, newer: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrading, "WAIT_SECONDS", 1.0)
    control("managers/next", fault="hang")
    result = up("--upgrade")
    assert result.exit_code == 1
    assert "has not ended it after" in result.stderr


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"Status": "Failed", "ResponseCode": 127}, "is not set up yet"),
        ({"Status": "Failed", "ResponseCode": 1}, "it is as it was before"),
        ({"Status": "TimedOut", "StatusDetails": "DeliveryTimedOut"}, "DeliveryTimedOut"),
        ({"Status": "Cancelled"}, "gave it up (Cancelled)"),
    ],
)
def test_each_ending_has_its_words(reply: dict[str, Any], words: str) -> None:
    failure = failure_of(reply, ["the last word"])
    assert failure
    assert words in failure.what
    assert failure.faults == ("the last word",)
    assert failure_of({"Status": "Success"}, []) is None


def test_what_a_machine_says_is_shown_in_bounds_and_without_control_characters() -> None:
    text = "".join(f"line {n}\x1b[2J\n\n" for n in range(1000)) + "x" * 10_000
    lines = readable(text)
    assert len(lines) == upgrading.LINES
    assert lines[0].startswith("line ")
    assert max(map(len, lines)) == upgrading.LINE_CHARS
    assert all(line.isprintable() for line in lines)


def test_an_upgrade_is_for_a_manager(run: Run, aws: Path, cluster: str) -> None:
    result = run("up", cluster, "--no-manager", "--upgrade", "--yes")
    assert result.exit_code == 2
    assert "--upgrade is for the manager" in " ".join(result.stderr.split())


# ---- domain and configuration


def test_a_domain_takes_effect_on_a_manager_that_lives(
    up: Run, hub: Any, calls: Calls, cluster: str, gateway: Gateway, stack: Any
) -> None:
    (before,) = machines(gateway, cluster)
    result = up("--domain", "hub.invalid", "--email", "a@b.org")
    assert result.exit_code == 0, result.stderr
    assert "have the manager take that over: its hub starts anew" in result.stdout
    assert hub()[1] == "hub.invalid"
    assert machines(gateway, cluster)[0]["InstanceId"] == before["InstanceId"]
    listed = ask(gateway, "s3", "list_objects_v2", Bucket=stack()["Bucket"], Prefix="config/")
    keys = {entry["Key"] for entry in listed["Contents"]}
    assert keys == {place.SERVER_CONFIG_KEY, place.CHOICES_KEY}
    calls.made.clear()
    assert "nothing to do" in up().stdout
    assert calls.changing == []


def test_a_domain_comes_with_an_upgrade_by_one_command(
    up: Run, newer: Bundle, hub: Any, calls: Calls
) -> None:
    assert up("--domain", "hub.invalid", "--upgrade").exit_code == 0
    assert hub() == (release_of(newer.data), "hub.invalid")
    assert calls.made.count("send_command") == 1
    assert "nothing to do" in up("--upgrade").stdout


@pytest.mark.parametrize("step", [("put_object", 1), ("put_object", 2), ("send_command", 1)])
def test_a_domain_comes_when_a_command_that_was_killed_is_run_again(
    up: Run, hub: Any, calls: Calls, step: tuple[str, int]
) -> None:
    seen = 0

    def kill() -> None:
        nonlocal seen
        seen += 1
        if seen == step[1]:
            calls.is_dead = True
            raise Killed

    calls.after[step[0]] = kill
    with pytest.raises(Killed):
        up("--domain", "hub.invalid")
    calls.is_dead = False
    calls.after.clear()
    assert up("--domain", "hub.invalid").exit_code == 0
    assert hub()[1] == "hub.invalid"
    assert "nothing to do" in up().stdout


def test_a_domain_that_failed_is_tried_again(up: Run, hub: Any) -> None:
    control("managers/next", fault="fail")
    result = up("--domain", "hub.invalid")
    assert result.exit_code == 3  # the bucket has it
    assert hub()[1] == ""
    assert up().exit_code == 0
    assert hub()[1] == "hub.invalid"


def test_a_choice_takes_effect_on_a_manager_that_lives(
    up: Run, aws: Path, calls: Calls, stack: Any, gateway: Gateway
) -> None:
    (aws / "instance_config.json").write_text('{"POOL_RUNNING": 3}')
    result = up()
    assert result.exit_code == 0, result.stderr
    assert calls.made.count("send_command") == 1
    assert "nothing to do" in up().stdout


def test_a_machine_that_is_made_anew_has_all_of_it_and_takes_over_nothing(
    up: Run, hub: Any, calls: Calls
) -> None:
    control("managers/next", fault="fail")
    assert up("--domain", "hub.invalid").exit_code == 3
    calls.made.clear()
    assert up("--replace-manager").exit_code == 0  # made from the package that is installed here
    assert "send_command" not in calls.made
    assert hub()[1] == "hub.invalid"
    assert "nothing to do" in up().stdout


# ---- which release it is


def test_machine_and_commands_and_emulation_agree_what_release_a_package_makes(
    bundle: Bundle, tmp_path: Path
) -> None:
    with tarfile.open(fileobj=io.BytesIO(bundle.data)) as tar:
        tar.extractall(tmp_path, filter="data")
    command = ["sh", str(MANAGER / "provision.sh"), "contents"]
    done = subprocess.run(
        command,
        env={"BUNDLE": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    release = release_of(bundle.data)
    assert done.stdout.strip() == release == upgrades.release_of(bundle.data)
    assert len(release) == 16
    assert managers.RELEASE_HEADER == place.RELEASE_HEADER
    assert upgrades.FILES == (place.SERVER_CONFIG_KEY, place.CHOICES_KEY)


@pytest.mark.parametrize(("says", "is_up"), [("new", True), ("old", False), ("", True)])
def test_a_hub_of_another_release_is_not_the_answer(says: str, is_up: bool) -> None:
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if says:
                self.send_header(place.RELEASE_HEADER, says)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        answer = look_at(Site("127.0.0.1", http_port=server.server_port, release="new"))
        thread.join()
    assert (answer.is_up, answer.release) == (is_up, says)
