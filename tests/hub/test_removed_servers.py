"""A student who makes and removes server after server, or asks for start after start."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import requests

from ec2spawner.model import TAG_CLUSTER, TAG_OWNER, TAG_ROLE, Owner, Role

from .beside import Beside, Stage, Step
from .hubs import Hub, User
from .leaks import client
from .processes import eventually
from .test_starts_per_minute import start

MAX = 3
FLOOD = 40
LIMIT = 8


def make_and_remove(user: User, server: str) -> None:
    answer = start(user, user, server)
    assert answer.status_code == 201, answer.text
    user.stop(server, remove=True)
    path = f"users/{user.path}/servers/{server}"
    eventually(lambda: user.hub.api("GET", path).status_code == 404, 15, "it is removed")


def rename(user: User, address: str, name: str) -> requests.Response:
    """Ask for it in the user's own name; ``address`` is the server's, below the user's."""
    headers = {"Authorization": f"token {user.token}"}
    path = f"users/{user.path}/{address}"
    return user.hub.api("PATCH", path, headers=headers, json={"name": name})


def leave_a_home(hub: Hub, owner: Owner) -> None:
    """As a hub whose database was lost leaves it."""
    tags = {TAG_CLUSTER: hub.cluster, TAG_ROLE: Role.WORKER.value, TAG_OWNER: owner.key}
    marks = [{"Key": key, "Value": value} for key, value in tags.items()]
    client(hub.cloud, "ec2").create_volume(
        AvailabilityZone="us-east-1a",
        Size=1,
        TagSpecifications=[{"ResourceType": "volume", "Tags": marks}],
    )


@Beside
def removals(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, STARTS_PER_MINUTE=LIMIT, NAMED_SERVERS_MAX=FLOOD)
    hub.constants["ec2spawner.refusals:DELETED_HOMES_MAX"] = MAX
    hub.config["Authenticator"] = {"admin_users": ["root"]}
    hub.config["JupyterHub"] = {"tornado_settings": {"slow_spawn_timeout": 15}}
    leave_a_home(hub, Owner("bob", "lost"))
    hub.start()
    eve, bob, root = hub.user("eve"), hub.user("bob"), hub.user("root")
    with step("bounded"):
        for number in range(MAX):
            make_and_remove(eve, f"n{number}")
        refused = start(eve, eve, "more")
        assert refused.status_code >= 400, refused.text
        words = refused.json()["message"]
        assert f"You have removed {MAX} servers" in words
        assert "Use a server that you have" in words
        assert eve.workers("more") == eve.homes("more") == []
        kept = [v for n in range(MAX) for v in eve.homes(f"n{n}")]
        assert len(kept) == MAX, "what was on them is still there"
    with step("others"):
        assert start(bob, bob, "lab").status_code == 201
        assert start(eve, eve).status_code == 201, "the usual server"
        eve.stop("more", remove=True)
        assert start(eve, root, "more").status_code == 201, "an admin may"
    with step("usual"):
        eve.stop()
        home = eve.home()["id"]
        for address in ("server", "servers/"):
            refused = rename(eve, address, "away")
            assert refused.status_code == 400, refused.text
            assert "cannot be given to the usual server" in refused.json()["message"]
        for address in ("server/", "servers", "servers//"):
            assert rename(eve, address, "away").status_code == 404, address
        assert eve.home()["id"] == home
        assert eve.server_model("away") is None
    with step("taken"):
        bob.stop("lab")
        home = bob.home("lab")["id"]
        refused = rename(bob, "servers/lab", "lost")
        assert refused.status_code == 409, refused.text
        assert "files under the name bob/lost" in refused.json()["message"]
        assert bob.home("lab")["id"] == home
        bob.start("lab")
    with step("flood"):
        ann, cem = hub.user("ann"), hub.user("cem")
        assert [len(user.token) for user in (ann, cem)] == [32, 32], "both are there before"
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(start, ann, ann, f"n{n}") for n in range(FLOOD)]
            assert start(cem, cem).status_code == 201
            answers = [one.result().status_code for one in asked]
        assert sorted(answers) == [201] * LIMIT + [429] * (FLOOD - LIMIT)
        assert cem.is_ready()
        assert bob.is_ready("lab")
    assert "Traceback" not in hub.story()


def test_a_user_who_removes_server_after_server_gets_no_more_and_keeps_the_files() -> None:
    removals.outcome("bounded")


def test_others_start_meanwhile_and_an_admin_may_start_more_for_the_user() -> None:
    removals.outcome("others")


def test_the_usual_server_keeps_its_name_and_so_its_place_and_home() -> None:
    removals.outcome("usual")


def test_a_server_gets_no_name_under_which_there_are_files() -> None:
    removals.outcome("taken")


def test_a_flood_of_requests_for_servers_leaves_another_start_unharmed() -> None:
    removals.outcome("flood")
    removals.outcome()
