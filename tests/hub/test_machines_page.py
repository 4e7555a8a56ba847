"""All machines on one page for admins, and nothing of it for others."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

from .beside import Beside, Stage, Step
from .leaks import client
from .processes import eventually
from .visitors import enter

PROFILES = [{"SLUG": "usual", "NAME": "<b>Usual</b>", "INSTANCE_TYPES": ["t3.medium"]}]
EVIL = "<img src=x onerror=alert(1)>"
ODD_NAME = "o'brien&lt;script&gt;"


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, PROFILES=PROFILES)
    hub.config["Authenticator"] = {"admin_users": ["root"]}
    hub.config["Spawner"] |= {"poll_interval": 1}
    hub.start()
    ann, odd = hub.user("ann"), hub.user(ODD_NAME)
    ann.start()
    ann.start("second")
    odd.start()
    with enter(hub, "root") as admin, enter(hub, "ann") as student:
        with step("rows"):
            worker = ann.worker()
            listed = admin.go("/hub/api/ec2spawner/machines").status_code
            assert listed in (200, 403)  # JupyterHub wants its own proof for cookies here
            found = hub.api("GET", "ec2spawner/machines").json()["machines"]
            by_server = {(row["user"], row["server"]): row for row in found}
            assert list(by_server) == [("ann", ""), ("ann", "second"), (ODD_NAME, "")]
            mine = by_server["ann", ""]
            assert mine["instance_id"] == worker["id"]
            assert mine["instance_type"] == "t3.medium"
            assert mine["state"] == "running"
            assert mine["zone"].startswith("us-east-1")
            assert mine["since"] < mine["stops_at"]
            assert mine["kept_until"] is None
            page = admin.go("/hub/machines")
            assert page.status_code == 200
            assert worker["id"] in page.text
            assert '<a class="nav-link" href="/hub/machines">Machines</a>' in page.text
        with step("escaped"):
            body = page.text.partition("<tbody>")[2].partition("</tbody>")[0]
            assert "o&#39;brien&amp;lt;script&amp;gt;" in body
            assert "<script" not in body
            assert "&lt;b&gt;Usual&lt;/b&gt;" in body
            assert "<b>" not in body
        with step("refused"):
            assert student.go("/hub/machines").status_code == 403
            assert "/hub/machines" not in student.go("/hub/home").text
            asked = {"Authorization": f"token {ann.token}"}
            answer = hub.api("GET", "ec2spawner/machines", headers=asked)
            assert answer.status_code == 403
            assert worker["id"] not in answer.text
            with enter(hub, "nobody") as stranger:
                assert "Your machine" not in stranger.go("/hub/home").text
        with step("stopped"):
            ann.stop()
            ann.becomes("stopped")

            def row() -> str:
                text = admin.go("/hub/machines").text
                return re.findall(r"<tr data-words.*?</tr>", text, re.DOTALL)[0]

            eventually(lambda: "<td>stopped</td>" in row(), 10, "the page shows the stop")
            assert row().count("<time") == 1, "since when, and no end of an idle time"
    with step("tags"), enter(hub, "root") as admin:
        ec2, machine = client(hub.cloud, "ec2"), ann.worker("second")["id"]
        keys = ("user", "profile", "market")
        tags = [{"Key": f"ec2spawner:{key}", "Value": EVIL} for key in keys]
        tags += [
            {"Key": f"ec2spawner:{key}", "Value": f"1 {EVIL}"} for key in ("broken", "replaced")
        ]
        tags += [{"Key": key, "Value": EVIL} for key in ("Name", EVIL, "ec2spawner:owner")]
        ec2.create_tags(Resources=[machine], Tags=tags)

        def row_of_it() -> str:
            rows = re.findall(r"<tr data-words.*?</tr>", admin.go("/hub/machines").text, re.DOTALL)
            return next((row for row in rows if machine in row and "img src" in row), "")

        row = eventually(row_of_it, 15, "the tags are shown")
        assert row.count("&lt;img src=x") >= 2
        assert "<img" not in row
        answer = hub.api("GET", "ec2spawner/machines")
        assert EVIL in [m["profile"] for m in answer.json()["machines"]]
        assert answer.headers["Content-Type"].startswith("application/json")
    with step("groups"), enter(hub, "root") as admin:
        for name in (EVIL, "</script><script>alert(1)//"):
            made = hub.api("POST", f"groups/{quote(name, safe='')}", json={"users": ["ann"]})
            assert made.status_code == 201, made.text
            for page in ("admin", "machines", "home"):
                shown = admin.go(f"/hub/{page}")
                assert shown.status_code == 200
                assert name not in shown.text, page
            for path in ("groups", "users", "users/ann"):  # what the panel's script shows as text
                told = hub.api("GET", path)
                assert json.dumps(name)[1:-1] in told.text
                assert told.headers["Content-Type"].startswith("application/json"), path
    assert not hub.errors()


def test_the_page_and_the_api_show_each_machine_by_user_and_server() -> None:
    scenario.outcome("rows")


def test_what_comes_from_users_and_profiles_is_shown_as_text() -> None:
    scenario.outcome("escaped")


def test_what_tags_of_a_machine_say_is_shown_as_text() -> None:
    scenario.outcome("tags")


def test_a_group_named_like_markup_is_nowhere_in_an_admins_pages() -> None:
    scenario.outcome("groups")


def test_a_student_is_refused_the_page_and_the_api() -> None:
    scenario.outcome("refused")


def test_a_machine_that_was_stopped_shows_since_when() -> None:
    scenario.outcome("stopped")
