"""Userlists against a real hub: what an import does, and that an export is read back to nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.model import Owner
from ec2spawner.settings import load_server_config
from launch_cluster.reporter import Reporter
from launch_cluster.restore import Restore, RestoreRequest

from .beside import Stage
from .hubs import Hub
from .processes import eventually

CLASS = 210  # more than one page


class Clerk:
    """Runs ``launch-cluster users`` with the token of an admin of a hub."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        answer = hub.api("POST", "users/boss/tokens", json={"note": "the test's"})
        assert answer.status_code == 201, answer.text
        self.token = answer.json()["token"]

    def run(
        self, *arguments: str, token: str = "", code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
            "JUPYTERHUB_API_TOKEN": token or self.token,
            "JUPYTERHUB_URL": self.hub.url,
        }
        command = [sys.executable, "-c", "from launch_cluster.cli import main; main()"]
        result = subprocess.run(
            [*command, "users", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
        )
        assert result.returncode == code, result.stderr
        assert self.token not in result.stdout + result.stderr
        return result

    def json(self, *arguments: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.run(*arguments, "--output", "json").stdout)
        return document

    def put(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name

    def people(self) -> dict[str, tuple[bool, list[str]]]:
        headers = {"Accept": "application/jupyterhub-pagination+json"}
        found: dict[str, tuple[bool, list[str]]] = {}
        offset: int | None = 0
        while offset is not None:
            answer = self.hub.api("GET", f"users?limit=200&offset={offset}", headers=headers)
            page = answer.json()
            found |= {u["name"]: (u["admin"], sorted(u["groups"])) for u in page["items"]}
            following = page["_pagination"]["next"]
            offset = following["offset"] if following else None
        return found


@pytest.fixture
def clerk(stage: Stage, tmp_path: Path) -> Clerk:
    hub = stage.hub(stage.stub_cloud)
    hub.config["Authenticator"] = {"admin_users": ["boss"]}
    return Clerk(hub.start(), tmp_path)


def test_a_class_is_imported_exported_changed_and_removed(clerk: Clerk) -> None:
    students = "".join(f"s{n:03} group=all\n" for n in range(CLASS))
    odd = "Tutor admin group=staff\no'brien\na.b+c@x.org\n" + '"Zoë Müller" group="the lab"\n'
    listed = clerk.put("class.txt", f"# biology\n\n{odd}{students}")
    clerk.run("import", listed, "--yes")
    people = clerk.people()
    assert len(people) == CLASS + 5
    assert people["tutor"] == (True, ["staff"])
    assert people["zoë müller"] == (False, ["the lab"])
    assert people["s209"] == (False, ["all"])
    assert clerk.json("import", listed)["outcome"] == "nothing to do"

    exported = clerk.put("exported.txt", clerk.run("export").stdout)
    assert clerk.json("import", exported, "--remove")["outcome"] == "nothing to do"
    assert clerk.people() == people

    fewer = "".join(students.splitlines(keepends=True)[1:-2])
    smaller = clerk.put("smaller.txt", f"tutor group=staff\ns000 group=lab\n{fewer}")
    planned = clerk.json("import", smaller, "--dry-run", "--remove")
    gone = ["a.b+c@x.org", "o'brien", "s208", "s209", "zoë müller"]
    assert planned["remove"] == gone
    assert planned["revoke"] == ["tutor"]
    assert planned["leave"] == [{"group": "all", "users": ["s000"]}]
    assert planned["stay"] == ["boss"], "it is boss's token"
    assert clerk.people() == people, "a dry run changes nothing"
    kept = clerk.json("import", smaller, "--yes")
    assert kept["keep"] == ["s000", "tutor"]
    assert clerk.people() == {**people, "s000": (False, ["all", "lab"])}
    clerk.run("import", smaller, "--yes", "--remove")
    left = {name: person for name, person in people.items() if name not in gone}
    assert clerk.people() == {**left, "tutor": (False, ["staff"]), "s000": (False, ["lab"])}


def test_who_was_added_by_a_list_gets_a_machine_and_who_is_removed_keeps_the_files(
    clerk: Clerk,
) -> None:
    clerk.run("import", clerk.put("one.txt", "ann\n"), "--yes")
    ann = clerk.hub.user("ann")
    ann.start()
    home = ann.home()["id"]
    clerk.run("import", clerk.put("other.txt", "bob\n"), "--yes", "--remove")
    assert "ann" not in clerk.people()
    (left,) = ann.homes()
    assert left["id"] == home
    assert "ec2spawner:deleted" in left["tags"]


def test_a_student_who_was_removed_by_mistake_has_the_files_again(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = stage.hub(stage.cloud)
    hub.config["Authenticator"] = {"admin_users": ["boss"]}
    clerk = Clerk(hub.start(), tmp_path)
    both, one = clerk.put("both.txt", "ann\nbob\n"), clerk.put("one.txt", "bob\n")
    clerk.run("import", both, "--yes")
    ann = hub.user("ann")
    ann.start()
    ann.write("thesis.txt", "all of it")
    home = ann.home()["id"]
    clerk.run("import", one, "--yes", "--remove")
    eventually(lambda: not ann.workers() and ann.home()["attachment"] is None, 20, "it is over")
    hub.advance(400)
    journal = hub.folder / "ec2spawner_journal.json"
    # As it is after three minutes: the hub has listed its mark, and promises it no more.
    eventually(lambda: not json.loads(journal.read_text())["promises"], 60, "it is listed")
    for key, value in hub.cloud.environment().items():
        monkeypatch.setenv(key, value)
    # Longer than a hub needs to list the cluster: these hubs need 2 s, not 30.
    monkeypatch.setattr("launch_cluster.restore.WATCH_SECONDS", 3.0)
    assert asyncio.run(restore(hub, "ann"))["volume_id"] == home
    clerk.run("import", both, "--yes")
    back = hub.user("ann")
    back.start()
    assert back.read("thesis.txt") == "all of it"
    assert back.home()["id"] == home


async def restore(hub: Hub, name: str) -> dict[str, Any]:
    """``launch-cluster users restore NAME --yes``, six minutes later."""
    config, _ = load_server_config(hub.folder / "server_config.json")

    async def yes() -> None:
        return

    gateway = Gateway("us-east-1")
    request = RestoreRequest(Owner(name), Owner(name), None, config)
    job = Restore(
        EC2(gateway, hub.cluster), request, Reporter(), yes, clock=lambda: time.time() + 400
    )
    try:
        return await job.run(dry_run=False)
    finally:
        gateway.close()


def test_who_may_not_is_told_what_is_missing(clerk: Clerk) -> None:
    listed = clerk.put("class.txt", "ann admin\n")
    clerk.run("import", clerk.put("one.txt", "eve\n"), "--yes")
    student = clerk.hub.api("POST", "users/eve/tokens", json={}).json()["token"]
    refused = clerk.run("import", listed, "--yes", token=student, code=1)
    assert "does not allow it with this token" in refused.stderr
    assert "JUPYTERHUB_API_TOKEN" in refused.stderr
    service = clerk.run("import", listed, "--yes", token=clerk.hub.token, code=1)
    assert "Only admins can grant admin permissions" in service.stderr
    assert set(clerk.people()) == {"boss", "eve"}


def test_a_name_that_the_hubs_own_rule_refuses_is_named(stage: Stage, tmp_path: Path) -> None:
    hub = stage.hub(stage.stub_cloud)
    hub.config["Authenticator"] = {"admin_users": ["boss"], "username_pattern": r"^[a-z]+$"}
    clerk = Clerk(hub.start(), tmp_path)
    result = clerk.run("import", clerk.put("class.txt", "ann\nbob7\n"), "--yes", code=1)
    assert "Invalid username: bob7" in result.stderr
    assert set(clerk.people()) == {"boss"}
