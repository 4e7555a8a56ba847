"""Deleting a user with several servers, as JupyterHub asks for it: all homes are given up."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.user import User

from core.virtual import in_virtual_time
from ec2spawner import spawner as spawner_module
from ec2spawner.spawner import EC2Spawner

log = logging.getLogger(__name__)


class Server:
    """What ``delete_forever`` needs of a spawner; ``ends_after`` seconds it stops by itself."""

    def __init__(self, user: OneUser, name: str, *, ready: bool = False) -> None:
        self.user, self.name, self.ready = user, name, ready
        self.active = ready
        self.log, self._log_name, self._incarnation = log, name, f"row-{name}"
        self.owner = name

    @property
    def servers(self) -> Any:
        return SimpleNamespace(fleet=self.user)

    def _save_state(self) -> None:
        self.user.saved.append(self.name)

    def _settle_renames(self) -> None:
        pass

    delete_forever = EC2Spawner.delete_forever
    _others_run = EC2Spawner._others_run
    _stop_other = EC2Spawner._stop_other
    _give_up = EC2Spawner._give_up


class OneUser:
    """A user, the proxy, and the fleet as far as deletions go."""

    log = log
    delete_spawners = User.delete_spawners
    _delete_spawner = User._delete_spawner

    def __init__(self, **ready: bool) -> None:
        names = ["", *ready]
        self.spawners = {n: Server(self, n, ready=ready.get(n, False)) for n in names}
        self.orm_user = SimpleNamespace(orm_spawners=self.spawners)
        self.settings = {"proxy": SimpleNamespace(delete_user=self.unroute)}
        self.name = "ann"
        self.given_up: list[str] = []
        self.saved: list[str] = []
        self.unrouted: list[str] = []
        self.wills: list[Any] = []
        self.failure: Exception | None = None

    async def unroute(self, user: OneUser, name: str) -> None:
        self.unrouted.append(name)

    async def stop(self, name: str) -> None:
        server = self.spawners[name]
        try:
            await asyncio.sleep(1)
            if self.failure:
                raise self.failure
        finally:
            server.active = server.ready = False  # as JupyterHub does

    async def delete(self, owner: str, incarnation: str) -> None:
        self.give_up(owner, incarnation)
        await asyncio.sleep(0.4)

    def give_up(self, owner: str, incarnation: str) -> None:
        assert incarnation == f"row-{owner}"
        assert owner in self.saved  # or a deletion that is cut off could not be taken back
        self.given_up.append(owner)

    async def go(self) -> None:
        """The whole of a deletion, the row included."""
        await self.delete_spawners()
        for will in self.wills:
            will()


@pytest.fixture(autouse=True)
def wills(monkeypatch: pytest.MonkeyPatch) -> None:
    def when_deleted(orm_user: Any, act: Any) -> None:
        user = orm_user.orm_spawners[""].user
        user.wills.append(act)

    monkeypatch.setattr(spawner_module, "rows", SimpleNamespace(when_deleted=when_deleted))


@in_virtual_time
async def test_servers_that_run_are_stopped_and_all_homes_given_up() -> None:
    user = OneUser(x=True, y=True, z=False)
    await user.go()
    assert sorted(user.given_up) == ["", "x", "y", "z"]
    assert user.unrouted == ["x", "y"]


@in_virtual_time
async def test_a_server_that_just_stops_keeps_no_home_from_being_given_up() -> None:
    user = OneUser(x=False, y=False)
    user.spawners["y"].active = True  # its stop is under way
    later = asyncio.get_running_loop().call_later
    later(0.2, lambda: setattr(user.spawners["y"], "active", False))
    await user.go()
    assert sorted(user.given_up) == ["", "x", "y"]


@in_virtual_time
async def test_a_stop_that_fails_keeps_no_home_from_being_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    user = OneUser(x=True)
    user.failure = UnicodeDecodeError("ascii", b"x", 0, 1, "ordinal not in range")
    await user.go()
    assert sorted(user.given_up) == ["", "x"]
    assert "UnicodeDecodeError" in caplog.text


@in_virtual_time
async def test_a_server_that_goes_on_starting_keeps_the_user_and_the_default_home() -> None:
    user = OneUser(y=False)
    user.spawners["y"].active = True
    with pytest.raises(RuntimeError, match="active"):
        await user.go()
    assert user.given_up == []
