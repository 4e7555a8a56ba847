"""A worker on which a student is root: what it answers harms neither the hub nor others."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

from ec2spawner.model import TAG_OWNER, Owner

from .beside import Beside, Stage, Step
from .hubs import Hub, User, at_once
from .liars import GOOD, Liar, Say, endlessly, silence, taken_over, text
from .processes import eventually
from .words import assert_fit_for_a_user

HEAD = b"HTTP/1.1 200 OK\r\nX-JupyterHub-Version: "
BODY = b"\r\nContent-Length: 2\r\n\r\n{}"
LIES: dict[str, Say] = {
    "no-version": text(HEAD + b"<script>; rm -rf /" + BODY),
    "an-old-version": text(HEAD + b"99999999999999999999999999999999999999999999.1" + BODY),
    "terminal-codes": text(HEAD + b"6.1.1 \x1b]0;owned\x07" + BODY),
    "a-body-without-end": endlessly(GOOD + b"\r\n", b"x" * 65536),
    "a-header-without-end": endlessly(GOOD + b"X: ", b"x" * 65536),
    "headers-without-end": endlessly(GOOD, b"X: y\r\n" * 1000),
    "no-http": text(b"\x00\xff" * 4000 + b"\r\n\r\n"),
    "nul-bytes": text(GOOD + b"X: \x00\r\n\r\n"),
    "nothing": silence,
}
MEMORY_MIB = 60
"""By how much more a hub may grow: three times what it does without liars."""


def memory_mib(hub: Hub) -> int:
    assert hub.process
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def redirects_to(elsewhere: Liar) -> Say:
    place = f"http://127.0.0.1:{elsewhere.port}/hub/api/shutdown"
    return text(b"HTTP/1.1 302 Found\r\nLocation: " + place.encode() + BODY)


@Beside
def liars(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud).start()
    honest = hub.user("honest")
    victims = {name: hub.user(name) for name in [*LIES, "elsewhere"]}
    at_once(honest.start, *(user.start for user in victims.values()))
    usual = memory_mib(hub)
    hub.kill()
    canary = Liar("127.0.0.1", 0, text(GOOD + BODY))
    with ExitStack() as stack:
        stack.callback(canary.close)
        says = {**LIES, "elsewhere": redirects_to(canary)}
        liars = {n: stack.enter_context(taken_over(u, says[n])) for n, u in victims.items()}
        with step("start"):
            hub.start()
            eventually(honest.is_ready, 10, "the others' servers are found")
            assert all(liar.connections for liar in liars.values())
        with step("others"):
            slowest = 0.0
            for _ in range(20):
                begun = time.monotonic()
                assert honest.is_ready()
                slowest = max(slowest, time.monotonic() - begun)
                time.sleep(0.1)
            assert slowest < 2.0
            assert honest.ask("GET", "api").status_code == 200
            honest.stop()
        with step("redirect"):
            assert canary.connections == 0
        with step("memory"):
            assert memory_mib(hub) < usual + MEMORY_MIB
        with step("log"):
            assert "\x1b]0;owned" not in hub.story()
            assert "Traceback" not in hub.story()


def test_a_hub_starts_whatever_users_servers_answer() -> None:
    liars.outcome("start")


def test_servers_that_lie_or_never_end_hold_up_nobody_else() -> None:
    liars.outcome("others")


def test_the_hub_follows_no_redirect_of_a_users_server() -> None:
    liars.outcome("redirect")


def test_answers_without_end_do_not_fill_the_hubs_memory() -> None:
    liars.outcome("memory")


def test_what_a_users_server_answers_brings_no_terminal_codes_into_the_log() -> None:
    liars.outcome("log")


# ---- owners


def forge(user: User, owner: str) -> None:
    """As root on the user's stopped machine: write that it is somebody else's."""
    folder = user.hub.cloud.folder / "state" / "instances" / user.worker()["id"]
    (folder / "claim.json").write_text(json.dumps({"claim": "forged", "owner": owner}))


def test_a_forged_owner_on_a_workers_disk_is_refused_and_told_the_operator(quick_hub: Hub) -> None:
    mallory, vera = quick_hub.user("mallory"), quick_hub.user("vera")
    at_once(mallory.start, vera.start)
    at_once(mallory.stop, vera.stop)
    mallory.becomes("stopped")
    vera.becomes("stopped")
    before, begins = quick_hub.view(), len(quick_hub.story())
    forge(mallory, Owner("vera").key)
    message = mallory.fail_to_start()
    assert "belongs to somebody else" in message
    assert_fit_for_a_user(message)
    told = quick_hub.story()[begins:]
    assert "owner-mismatch" in told
    assert Owner("vera").key in told
    assert Owner("mallory").key in told
    vera.start()
    for owner in ("mallory", "vera"):
        assert [w["id"] for w in quick_hub.view().workers_of(owner)] == [
            w["id"] for w in before.workers_of(owner)
        ]
        assert quick_hub.view().homes_of(owner)[0]["tags"][TAG_OWNER] == Owner(owner).key
