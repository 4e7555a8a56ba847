"""One user's days on a real machine: first login, work, stop, second login; and two machines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hub.hubs import Hub, User, at_once
from hub.processes import eventually

from launch_cluster.bundle import find_sources

from . import leavings, making
from .conftest import REPORTS
from .machines import BOOT_SECONDS, Shell, VmCloud

REACH_METADATA = """
import socket
try:
    socket.create_connection(("169.254.169.254", 80), 5)
    print("reached")
except OSError as error:
    print(error.strerror)
"""
ASK_METADATA = """/opt/ec2spawner/bin/python -I -c '
from ec2spawner.worker import metadata
print(metadata._ask(metadata.ADDRESS, "/latest/meta-data/instance-id"))'"""
REMEMBERED = (
    "/var/lib/ec2spawner/claim.json",
    "/var/lib/ec2spawner/watchdog.json",
    "/run/ec2spawner/server.json",
    "/home/ec2spawner/.ssh/authorized_keys",
    "/etc/ssh/ssh_host_ed25519_key",
)
TRY_FILES = """
for path in {paths}:
    for mode in ("r", "r+"):
        try:
            open(path, mode).close()
            print("OPENED", path, mode)
        except OSError as error:
            print(type(error).__name__)
"""
FIND_WRITABLE = """find / -xdev -writable -not -type l -not -path '/proc/*' \
    -not -path '/home/jovyan*' -not -path '/tmp*' -not -path '/var/tmp*' 2>/dev/null"""
SEEN_PROCESSES = """
import os, pwd
owners = {os.stat(f"/proc/{pid}").st_uid for pid in os.listdir("/proc") if pid.isdigit()}
print(sorted(pwd.getpwuid(uid).pw_name for uid in owners))
"""
REPORT = (
    "systemd-analyze time",
    "systemd-analyze critical-chain ssh.service",
    "systemd-analyze blame | head -20",
)


class Day:
    """One user's machine, its root shell, and what was learned of it."""

    def __init__(self, cloud: VmCloud, hub: Hub) -> None:
        self.cloud = cloud
        self.user: User = hub.user("ada")
        self.seconds: dict[str, float] = {}

    @property
    def shell(self) -> Shell:
        return self.cloud.shell(self.user.worker()["id"])

    def start(self, name: str) -> None:
        began = time.monotonic()
        self.user.start(seconds=BOOT_SECONDS)
        self.seconds[name] = time.monotonic() - began

    def report(self, name: str) -> None:
        """Leave what systemd measured of this boot, for docs/worker-image.md."""
        eventually(self._has_booted, BOOT_SECONDS, "the boot ends")
        told = [f"start as the user sees it: {self.seconds[name]:.0f} s"]
        told += [f"$ {words}\n{self.shell.output(words)}" for words in REPORT]
        REPORTS.mkdir(exist_ok=True)
        (REPORTS / f"image-{name}.txt").write_text("\n\n".join(told) + "\n")

    def _has_booted(self) -> bool:
        return self.shell.run("systemctl is-system-running")[1] in ("running", "degraded")


def test_an_image_holds_nothing_of_its_builder(image: Path) -> None:
    assert (image / making.BEFORE_SEALING).read_text().splitlines() == list(leavings.PLACES)
    assert (image / making.AFTER_SEALING).read_text() == ""


def test_a_user_s_files_survive_on_a_real_machine(cloud: VmCloud, hubs: Callable[..., Hub]) -> None:
    """One story, since every boot takes a minute."""
    hub = hubs(cloud).start()
    day = Day(cloud, hub)
    other = Other(cloud)
    at_once(lambda: day.start("first-boot"), other.await_boot)
    other.differs_from(day)
    other.end()
    day.report("first-boot")
    home_is_the_volume(day)
    system_is_healthy(day)
    notebooks_run_apart_from_the_server(day)
    metadata_are_root_s(day)
    what_the_worker_remembers_is_root_s(day)
    what_users_install_is_theirs(day)
    day.user.write("notes.txt", "kept")

    began = time.monotonic()
    day.user.stop()
    day.user.becomes("stopped", seconds=120)
    assert time.monotonic() - began < 110, "the machine did not power itself off"

    day.start("second-boot")
    assert day.user.read("notes.txt") == "kept"
    home_is_the_volume(day)
    day.report("second-boot")
    assert day.shell.run("test -e /run/cloud-init/enabled")[0] == 1, "cloud-init ran again"
    assert hub.errors() == []
    day.user.stop()


def home_is_the_volume(day: Day) -> None:
    serial = day.user.home()["id"].replace("-", "")
    device = day.shell.output("findmnt --noheadings --output SOURCE --mountpoint /home/jovyan")
    assert day.shell.output(f"cat /sys/class/block/{Path(device).name}/device/serial") == serial
    made = day.shell.output(f"dumpe2fs -h {device} 2>/dev/null | grep -E 'created|Mount count'")
    day.created = getattr(day, "created", made.splitlines()[0])
    assert made.splitlines()[0] == day.created, "formatted twice"
    assert day.shell.output("stat -c %U:%a /home/jovyan") == "jovyan:750"


def needless_units() -> set[str]:
    """What the image's boot does without."""
    text = (find_sources().worker / "needless-units.txt").read_text()
    return {unit for line in text.splitlines() for unit in line.partition("#")[0].split()}


def system_is_healthy(day: Day) -> None:
    failed = day.shell.output("systemctl list-units --failed --plain --no-legend --no-pager")
    assert failed == ""
    timers = day.shell.output("systemctl list-timers --no-pager --plain")
    for timer in ("ec2spawner-watchdog", "apt-daily", "apt-daily-upgrade"):
        assert f"{timer}.timer" in timers
    updates = "apt-daily.service apt-daily-upgrade.service"
    ran = f"systemctl show --property ExecMainStartTimestampMonotonic --value {updates}"
    assert day.shell.output(ran).split() == ["0", "0"]
    units = day.shell.output(
        "systemctl list-units --all --plain --no-legend --no-pager --state=active"
    )
    assert {line.split()[0] for line in units.splitlines()} & needless_units() == set()
    assert day.shell.run("systemctl is-enabled ec2spawner-notices.service") == (0, "enabled")
    assert day.shell.output("cat /home/ec2spawner/.ssh/authorized_keys").count("ssh-") == 1
    code, _ = day.shell.run("test -s /root/.ssh/authorized_keys && grep -v command= /root/.ssh/*")
    assert code != 0


def notebooks_run_apart_from_the_server(day: Day) -> None:
    kernel = day.user.kernel()
    assert kernel.run("import sys; print(sys.executable)") == "/opt/notebook/bin/python\n"
    shown = kernel.run("!id -un; sudo -n true 2>&1 | head -1; touch /opt/notebook/x 2>&1")
    assert shown.splitlines()[0] == "jovyan"
    assert "Permission denied" in shown
    where = kernel.run("import site; print(site.ENABLE_USER_SITE, site.getusersitepackages())")
    assert where.startswith("True /home/jovyan/.local/lib/python3")
    assert "/opt/notebook/bin/pip" in kernel.run("!which pip")
    in_terminals = kernel.run("!bash -lc 'command -v python pip'").split()
    assert in_terminals == ["/opt/notebook/bin/python", "/opt/notebook/bin/pip"]
    assert day.user.ask("GET", "lab").status_code == 200
    widgets = "lab/extensions/@jupyter-widgets/jupyterlab-manager/package.json"
    assert day.user.ask("GET", widgets).status_code == 200  # of the notebooks' environment
    assert day.user.ask("GET", "api/kernelspecs").json()["kernelspecs"].keys() == {"python3"}


BREAK_THE_SERVER = """
import zipfile
name = "broken-1.0"
with zipfile.ZipFile(f"{name}-py3-none-any.whl", "w") as wheel:
    for module in ("tornado", "jupyterlab", "mine"):
        wheel.writestr(f"{module}/__init__.py", "broken = True")
    about = "Metadata-Version: 2.1\\nName: broken\\nVersion: 1.0"
    wheel.writestr(f"{name}.dist-info/METADATA", about)
    wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any")
    wheel.writestr(f"{name}.dist-info/RECORD", "")
"""


def what_users_install_is_theirs(day: Day) -> None:
    """It lands in the home, and however broken it is, the next start does not see it."""
    kernel = day.user.kernel()
    kernel.run(BREAK_THE_SERVER)
    said = kernel.run("!pip install --no-index --no-deps ./broken-1.0-py3-none-any.whl")
    assert "Successfully installed broken-1.0" in said, said
    where = day.user.kernel().run("import mine; print(mine.__file__)")
    assert where.startswith("/home/jovyan/.local/lib/python3"), where


def metadata_are_root_s(day: Day) -> None:
    assert day.shell.output(ASK_METADATA) == day.user.worker()["id"]
    refused = day.user.kernel().run(REACH_METADATA)
    assert refused.strip() in ("No route to host", "Permission denied", "Operation not permitted")
    # Beyond the server's own unit, where the kernel's owner match is all that there is.
    outside = day.shell.run(f"runuser -u jovyan -- python3 -c '{REACH_METADATA}'")[1]
    assert outside.strip() in ("No route to host", "Permission denied"), outside


def what_the_worker_remembers_is_root_s(day: Day) -> None:
    """Neither as the kernel nor beyond the server's own unit does its user reach any of it."""
    day.shell.output(f"test -s {' -a -s '.join(REMEMBERED)}")
    script = TRY_FILES.format(paths=REMEMBERED)
    kernel = day.user.kernel()
    refused = ["PermissionError"] * 2 * len(REMEMBERED)
    assert kernel.run(script).split() == refused
    assert kernel.run(SEEN_PROCESSES).strip() == "['jovyan']"
    day.shell.output(f"cat >/tmp/try.py <<'END'\n{script}\nEND")
    assert day.shell.output("runuser -u jovyan -- python3 /tmp/try.py").split() == refused
    environs = "for p in $(pgrep -u root); do cat /proc/$p/environ; done 2>/dev/null | wc -c"
    assert day.shell.output(environs) != "0"
    assert day.shell.output(f"runuser -u jovyan -- sh -c '{environs}'") == "0"
    assert day.shell.output(f"runuser -u jovyan -- {FIND_WRITABLE} || true") == ""


class Other:
    """A second machine of the same image, which no hub knows."""

    def __init__(self, cloud: VmCloud) -> None:
        self._cloud = cloud
        self._id = cloud.launch_for_nobody()

    def await_boot(self) -> None:
        def has_key() -> bool:
            asked = "test -s /etc/ssh/ssh_host_ed25519_key.pub"
            return self._shell.run(asked, BOOT_SECONDS)[0] == 0

        eventually(has_key, BOOT_SECONDS, "the second machine has a host key")

    @property
    def _shell(self) -> Shell:
        return self._cloud.shell(self._id)

    def differs_from(self, day: Day) -> None:
        for file in ("/etc/ssh/ssh_host_ed25519_key.pub", "/etc/machine-id"):
            ours, theirs = (shell.output(f"cat {file}") for shell in (self._shell, day.shell))
            assert ours, file
            assert ours != theirs, file

    def end(self) -> None:
        self._cloud.on_worker(self._id, "terminate")
