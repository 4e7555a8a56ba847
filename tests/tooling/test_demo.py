"""The demo's promises to the person in front of it, with stand-ins for its parts."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ec2spawner.localcloud import demo, demo_parts, demo_tls

STAND_IN = Path(__file__).with_name("stand_in_demo.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(state: Path) -> list[psutil.Process]:
    """Processes that were started for this state directory, wherever they hang in the tree."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_TEST") == str(state) and process.status() != "zombie":
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


class Running:
    """A demo of stand-ins in a process of its own."""

    def __init__(self, state: Path, port: int, *options: str, **behaviour: str) -> None:
        self.state, self.port = state, port
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(STAND_IN), "--port", str(port), "--state-dir", str(state)),
                *("--vpc-cidr", "127.95.0.0/16", *options),
            ],
            env={**os.environ, "DEMO_TEST": str(state), "AWS_PROFILE": "mine", **behaviour},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until_ready(self) -> list[str]:
        assert self.process.stdout
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("ready:"):
                break
        return lines

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.result()

    def result(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(port: int | None = None, *options: str, **behaviour: str) -> Running:
        started.append(Running(tmp_path / "state", port or free_port(), *options, **behaviour))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
        running.process.communicate()


def test_last_line_names_the_address_that_answers(start: Callable[..., Running]) -> None:
    running = start()
    lines = running.until_ready()
    assert lines[-1] == f"ready: http://127.0.0.1:{running.port}"
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/hub/login") as page:
        assert page.status == 200
    text = "\n".join(lines)
    for promised in ("student", "admin", "password demo", str(running.state / "logs"), "Ctrl-C"):
        assert promised in text
    assert running.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ends_everything_when_told_to(start: Callable[..., Running], number: int) -> None:
    running = start(STAND_IN_HUB="leaves-children", STAND_IN_CLOUD="leaves-children")
    running.until_ready()
    assert len(processes_of(running.state)) == 5
    assert running.end(number)[0] == 0
    assert processes_of(running.state) == []


def test_its_parts_die_with_a_demo_that_was_killed(start: Callable[..., Running]) -> None:
    running = start()
    running.until_ready()
    running.end(signal.SIGKILL)
    wait_for(lambda: not processes_of(running.state))


def test_a_command_bound_to_its_parent_dies_with_it() -> None:
    """As the hub starts its proxy: in a session of its own, and yet gone with the hub."""
    script = (
        "import os, subprocess, sys\n"
        "bound = [sys.executable, '-m', 'ec2spawner.localcloud.demo_child', str(os.getpid())]\n"
        "p = subprocess.Popen([*bound, 'sleep', '600'], start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "p.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: child.cmdline()[:1] == ["sleep"])
    parent.kill()
    parent.communicate()
    wait_for(lambda: not child.is_running() or child.status() == "zombie")


def test_taken_port_is_said_before_anything_starts(start: Callable[..., Running]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        running = start(port)
        code, out, err = running.result()
    assert code == 1
    assert out == ""
    assert f"Port {port}" in err
    assert "make demo PORT=" in err
    assert "Traceback" not in err
    assert not (running.state / "logs").exists()


def test_two_demos_on_one_state_refuse_each_other(start: Callable[..., Running]) -> None:
    first = start()
    first.until_ready()
    code, _, err = start().result()
    assert code == 1
    assert "A demo is running" in err
    assert first.end()[0] == 0


def test_state_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(demo_parts.DemoError, match="--state-dir"):
        demo_parts.only_one(tmp_path / "file").__enter__()


def test_part_that_does_not_start_names_its_log(start: Callable[..., Running]) -> None:
    running = start(STAND_IN_CLOUD="dies")
    code, _, err = running.result()
    assert code == 1
    assert "cloud ended with code 3" in err
    assert str(running.state / "logs" / "cloud.log") in err
    assert "the reason is here" in err
    assert "Traceback" not in err


def test_launch_command_that_fails_ends_the_demo(start: Callable[..., Running]) -> None:
    running = start(STAND_IN_LAUNCH="1")
    code, _, err = running.result()
    assert code == 1
    assert "launch command ended with code 1" in err
    assert processes_of(running.state) == []


def test_part_that_dies_later_ends_all(start: Callable[..., Running]) -> None:
    running = start(STAND_IN_HUB="dies-later")
    running.until_ready()
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/die") as page:
        page.read()
    code, _, err = running.result()
    assert code == 1
    assert "hub ended with code 4" in err
    assert "died when asked to" in err
    assert processes_of(running.state) == []


def test_state_is_kept_and_found_again(start: Callable[..., Running]) -> None:
    first = start()
    first.until_ready()
    kept = first.state / "cloud" / "something"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("of a student")
    first.end()
    second = start(first.port)
    second.until_ready()
    assert kept.read_text() == "of a student"


def test_hub_reads_what_the_launch_command_changed(start: Callable[..., Running]) -> None:
    first = start(STAND_IN_LAUNCH="0 first")
    first.until_ready()
    first.end()
    second = start(first.port, STAND_IN_LAUNCH="0 second")
    second.until_ready()
    assert (second.state / "logs" / "hub.log").read_text().startswith("serving 0 second")


def test_hub_is_not_started_twice_where_nothing_changed(start: Callable[..., Running]) -> None:
    first = start()
    first.until_ready()
    first.end()
    second = start(first.port)
    second.until_ready()
    hubs = [p for p in processes_of(second.state) if "HUB" in p.cmdline()]
    config = second.state / "server_config.json"
    assert [p.create_time() < config.stat().st_mtime for p in hubs] == [True]


def test_addresses_of_another_demo_are_not_used() -> None:
    with socket.socket() as holder:
        holder.bind(("127.93.7.5", 0))
        holder.listen()
        with pytest.raises(demo_parts.DemoError) as error:
            demo_parts.check_addresses_are_free("127.93.0.0/16")
        demo_parts.check_addresses_are_free("127.94.0.0/16")
    assert "127.93.7.5:" in str(error.value)
    demo_parts.check_addresses_are_free("127.93.0.0/16")


@pytest.mark.parametrize("cidr", ["10.0.0.0/16", "127.77.0.1/16", "nonsense", "::1/128"])
def test_machines_addresses_must_be_loopback(cidr: str) -> None:
    with pytest.raises(SystemExit) as error:
        demo.parse(["--vpc-cidr", cidr])
    assert error.value.code == 2


def test_a_hub_configuration_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        demo.parse(["--hub-config", "nowhere.py"])
    assert error.value.code == 2
    assert "nowhere.py: no such file" in capsys.readouterr().err


def test_parts_see_nothing_of_the_accounts_own_aws_settings() -> None:
    mine = {"AWS_PROFILE": "p", "AWS_ENDPOINT_URL_EC2": "x", "JUPYTERHUB_X": "y", "HOME": "/h"}
    seen = demo.demo_environment(mine, demo.Ports(1, 2, 3, 4), "127.77.0.0/16")
    assert not {"AWS_PROFILE", "AWS_ENDPOINT_URL_EC2", "JUPYTERHUB_X"} & set(seen)
    assert seen["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4"
    assert seen["HOME"] == "/h"
    assert "127.77.0.0/16" in seen["NO_PROXY"].split(",")


def test_a_shell_can_take_over_the_demos_aws_settings(start: Callable[..., Running]) -> None:
    running = start()
    running.until_ready()
    script = f". {running.state / 'environment'}; echo $AWS_ENDPOINT_URL; echo $EC2SPAWNER_CONFIG"
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    endpoint, config = shell.stdout.split()
    with urllib.request.urlopen(endpoint) as page:
        assert page.read() == b"here"
    assert config == str(running.state / "server_config.json")


def test_inner_ports_give_way_to_others_programs() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        taken = holder.getsockname()[1]
        given: set[int] = set()
        port = demo_parts.free_port(taken, given)
    assert port != taken
    assert given == {port}


CLEAN = Path(__file__).parents[2] / "tools" / "demo_clean.sh"


def clean(state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CLEAN, state], capture_output=True, text=True)


def test_forgetting_is_refused_while_the_demo_runs(start: Callable[..., Running]) -> None:
    running = start()
    running.until_ready()
    refused = clean(running.state)
    assert refused.returncode == 1
    assert "a demo is running" in refused.stderr
    assert (running.state / "logs" / "hub.log").exists()
    running.end()
    assert clean(running.state).returncode == 0
    assert not running.state.exists()
    assert clean(running.state).returncode == 0


def test_forgetting_touches_no_folder_that_is_not_a_demos(tmp_path: Path) -> None:
    assert clean(tmp_path).returncode == 1
    assert tmp_path.exists()


# ---- HTTPS


@pytest.fixture
def has_caddy() -> None:
    """Skips, with the reason, where Caddy cannot be had."""
    done = subprocess.run([demo_tls.TOOL, "caddy", "caddy"], capture_output=True, text=True)
    if done.returncode and os.environ.get("CI") == "true":
        pytest.fail(done.stderr)
    if done.returncode:
        pytest.skip(done.stderr.strip())


def trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


@pytest.mark.usefixtures("has_caddy")
def test_with_https_a_browser_that_knows_the_authority_trusts_it(
    start: Callable[..., Running],
) -> None:
    running = start(None, "--tls")
    lines = running.until_ready()
    url = f"https://localhost:{running.port}"
    assert lines[-1] == f"ready: {url}"
    (named,) = (Path(line.strip()) for line in lines if line.strip().endswith(".crt"))
    with urllib.request.urlopen(f"{url}/hub/login", context=trusting(named)) as page:
        assert page.status == 200
        assert "Strict-Transport-Security" not in page.headers
    with pytest.raises(urllib.error.URLError, match="certificate"):
        urllib.request.urlopen(f"{url}/hub/login", context=ssl.create_default_context())
    listening = [
        connection.laddr.ip
        for process in processes_of(running.state)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}
    assert running.end()[0] == 0
    assert processes_of(running.state) == []
    again = start(running.port, "--tls")
    again.until_ready()  # and its authority is the one that the browser was told of
    with urllib.request.urlopen(f"{url}/hub/login", context=trusting(named)) as page:
        assert page.status == 200


@pytest.mark.usefixtures("has_caddy")
def test_a_caddy_that_dies_ends_all(start: Callable[..., Running]) -> None:
    running = start(None, "--tls")
    running.until_ready()
    (caddy,) = (p for p in processes_of(running.state) if p.name() == "caddy")
    caddy.kill()
    code, _, err = running.result()
    assert code == 1
    assert "caddy ended with code -9" in err
    assert processes_of(running.state) == []


def test_what_to_do_where_caddy_cannot_be_had_is_said_before_anything_starts(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho fetching >&2\necho 'caddy: no network' >&2\nexit 1\n")
    tool.chmod(0o755)
    running = start(None, "--tls", STAND_IN_TOOL=str(tool))
    code, _, err = running.result()
    assert code == 1
    assert "cannot be had. caddy: no network." in err
    assert "apt-get install caddy" in err
    assert err.rstrip().endswith("or run the demo without HTTPS: make demo")
    assert "Traceback" not in err
    assert not (running.state / "logs").exists()


def test_make_takes_https_to_another_port() -> None:
    for words, said in (
        ((), "--port 8000  --end-with-parent"),
        (("TLS=1",), "--port 8443 --tls --end-with-parent"),
        (("TLS=1", "PORT=9000"), "--port 9000 --tls --end-with-parent"),
    ):
        root = Path(__file__).parents[2]
        done = subprocess.run(["make", "-n", "demo", *words], cwd=root, capture_output=True)
        assert said in done.stdout.decode()
