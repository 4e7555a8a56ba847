"""What goes wrong with real machines, and what a course or an operator chooses otherwise."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub.hubs import Hub, User
from hub.processes import eventually
from hub.words import assert_fit_for_a_user

from ec2spawner.localcloud.vm_options import ROOT
from ec2spawner.model import Owner

from . import making
from .machines import BOOT_SECONDS, VmCloud

pytestmark = pytest.mark.full

COURSE = {
    "apt.txt": "# of the course\ntree\n",
    "requirements.txt": "humanize==4.11.0\n",
    "postBuild": "#!/bin/sh\nset -e\npython -c 'import humanize'\ntouch /opt/notebook/built\n",
}


@contextlib.contextmanager
def at_work(user: User) -> Iterator[User]:
    """A user whose server is up, stopped at the end."""
    user.start(seconds=BOOT_SECONDS)
    yield user
    user.stop()
    user.becomes("stopped", seconds=120)


def test_a_home_moves_to_a_new_machine(cloud: VmCloud, hubs: Callable[..., Hub]) -> None:
    user = hubs(cloud).start().user("mover")
    user.start(seconds=BOOT_SECONDS)
    user.write("notes.txt", "kept")
    old, home = user.worker()["id"], user.home()["id"]
    cloud.shell(old).output("sync")
    cloud.on_worker(old, "terminate")
    eventually(lambda: not user.is_ready(), BOOT_SECONDS, "the hub sees that it is gone")
    with at_work(user):
        assert user.worker()["id"] != old
        assert user.home()["id"] == home
        assert user.read("notes.txt") == "kept"


def test_a_reboot_in_the_middle_of_a_start_comes_out_right(
    cloud: VmCloud, hubs: Callable[..., Hub]
) -> None:
    user = hubs(cloud).start().user("rebooted")
    assert user.ask_start().status_code in (201, 202)
    for event in user.progress():
        assert not event.get("ready"), "it was ready before it could be rebooted"
        if "notebook server" in event.get("message", ""):
            break
    first = user.worker()["id"]
    cloud.on_worker(first, "reboot")
    user.wait_ready(seconds=BOOT_SECONDS)
    assert user.worker()["id"] == first
    user.write("notes.txt", "kept")
    shell = cloud.shell(first)
    assert (
        shell.output("dumpe2fs -h $(findmnt -no SOURCE /home/jovyan) 2>/dev/null | grep -c created")
        == "1"
    )
    user.stop()
    user.becomes("stopped", seconds=120)
    with at_work(user):
        assert user.read("notes.txt") == "kept"


def test_the_dead_man_switch_powers_a_machine_off(cloud: VmCloud, hubs: Callable[..., Hub]) -> None:
    hub = hubs(cloud, HUB_LOST_SECONDS=60, JUPYTER_NOTEBOOK_TIMEOUT=60)
    hub.constants["ec2spawner.hubconfig:REPORT_RETRY_SECONDS"] = 6000  # the culler comes too late
    user = hub.start().user("left-alone")
    user.start(seconds=BOOT_SECONDS)
    user.write("notes.txt", "kept")
    hub.kill()
    killed_at = time.monotonic()
    user.becomes("stopped", seconds=BOOT_SECONDS)
    assert time.monotonic() - killed_at > 60
    assert user.worker()["reason_code"] == "Client.InstanceInitiatedShutdown"
    hub.start()
    eventually(lambda: not user.is_ready(), BOOT_SECONDS, "the hub sees that it is gone")
    with at_work(user):
        assert user.read("notes.txt") == "kept"


def test_an_owner_that_root_forged_on_a_machine_is_refused_and_told_the_operator(
    cloud: VmCloud, hubs: Callable[..., Hub]
) -> None:
    hub = hubs(cloud).start()
    user, other = hub.user("mallory"), Owner("vera").key
    with at_work(user):
        user.write("notes.txt", "kept")
        record = "/var/lib/ec2spawner/claim.json"
        forge = f"s/{Owner('mallory').key}/{other}/; " + 's/"claim": "[^"]*"/"claim": "forged"/'
        shell = cloud.shell(user.worker()["id"])
        shell.output(f"sed -i '{forge}' {record} && grep forged {record} | grep {other} && sync")
    begins = len(hub.story())
    message = user.fail_to_start()
    assert "belongs to somebody else" in message
    assert_fit_for_a_user(message)
    told = hub.story()[begins:]
    assert "owner-mismatch" in told
    assert other in told


@pytest.fixture(scope="module")
def course_image(can_run: None) -> Path:
    """An image with a course's packages and sudo, provisioned twice."""
    return making.make(making.Recipe(sudo=True, course=COURSE, times=2))


def test_provisioning_again_changes_nothing_that_is_as_it_should_be(course_image: Path) -> None:
    said = (course_image / "making.log").read_text()
    assert said.count("phase checking") == 2
    assert said.count("phase installing JupyterLab") == 1
    assert said.count("phase installing what notebooks run in") == 1
    assert (course_image / ROOT).exists()


def test_a_course_s_packages_and_sudo_are_there(
    course_image: Path, clouds: Callable[[Path], VmCloud], hubs: Callable[..., Hub]
) -> None:
    cloud = clouds(course_image)
    with at_work(hubs(cloud).start().user("student")) as user:
        kernel = user.kernel()
        assert kernel.run("import humanize; print(humanize.intcomma(1000))") == "1,000\n"
        assert "/usr/bin/tree" in kernel.run("!which tree")
        assert kernel.run("import os; print(os.path.exists('/opt/notebook/built'))") == "True\n"
        assert kernel.run("!sudo -n id -u").strip() == "0"
        failed = cloud.shell(user.worker()["id"]).output(
            "systemctl list-units --failed --plain --no-legend --no-pager"
        )
        assert failed == ""
