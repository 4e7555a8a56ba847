"""Rows of the hub's database: what a new name and a deletion mean for machines and homes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import orm
from sqlalchemy import event
from sqlalchemy.orm import Session
from tornado import web

from core.fakes import STOPPED, FakeCloud
from core.kit import Hub
from core.virtual import EPOCH, in_virtual_time, until
from ec2spawner.model import HOME_DEVICE, TAG_CLAIM, TAG_GENERATION, TAG_OWNER, Owner
from ec2spawner.rows import Rows


@pytest.fixture
def db() -> Iterator[Session]:
    factory = orm.new_session_factory("sqlite:///:memory:")
    with factory() as session:
        yield session
    factory.kw["bind"].dispose()


def put(cloud: FakeCloud, owner: Owner) -> str:
    return cloud.put_instance(STOPPED, {TAG_OWNER: owner.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})


class Town:
    """A hub whose database has ann, with a default server and one named x."""

    def __init__(self, folder: Path, db: Session) -> None:
        self.cloud = FakeCloud(may_rename=True)
        self.ids = {server: put(self.cloud, Owner("ann", server)) for server in ("", "x")}
        self.hub = Hub(self.cloud, folder)
        self.db = db
        self.user = orm.User(name="ann")
        db.add(self.user)
        db.add_all(orm.Spawner(name=server, user=self.user) for server in self.ids)
        db.commit()
        self.rows = Rows(lambda: [self.hub.fleet])
        self.rows.watch()

    async def __aenter__(self) -> Town:
        await until(lambda: self.hub.fleet.view().is_known)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.rows.unwatch()

    def commit_something_else(self) -> None:
        """The hub writes all the time, about anything."""
        self.db.add(orm.User(name="somebody-else"))
        self.db.commit()

    def owners(self) -> dict[str, str]:
        """Whose the machines and homes are, by the server that they were for."""
        found = {}
        for server, instance_id in self.ids.items():
            home = self.cloud.instances[instance_id].volumes.at(EPOCH + 1e9)[HOME_DEVICE]
            found[server] = self.cloud.tags(instance_id)[TAG_OWNER]
            assert self.cloud.tags(home)[TAG_OWNER] == found[server]
        return found


ANNS = {server: Owner("ann", server).key for server in ("", "x")}
ANNAS = {server: Owner("anna", server).key for server in ("", "x")}


@in_virtual_time
async def test_a_new_name_holds_once_it_is_committed(tmp_path: Path, db: Session) -> None:
    async with Town(tmp_path, db) as town:
        town.user.name = "anna"
        await asyncio.sleep(5)
        assert town.owners() == ANNS
        db.commit()
        await until(lambda: town.owners() == ANNAS, 5)


@in_virtual_time
async def test_a_new_name_that_is_rolled_back_changes_nothing(tmp_path: Path, db: Session) -> None:
    async with Town(tmp_path, db) as town:
        town.user.name = "anna"
        db.rollback()
        town.commit_something_else()
        assert not town.hub.fleet.journal.promises
        await asyncio.sleep(5)
        assert town.owners() == ANNS


@in_virtual_time
async def test_a_name_that_one_server_cannot_take_is_taken_by_none(
    tmp_path: Path, db: Session
) -> None:
    async with Town(tmp_path, db) as town:
        put(town.cloud, Owner("anna", "x"))  # of somebody of a hub that is no more
        town.hub.fleet.inventory.hurry(full=True)
        await asyncio.sleep(5)
        with pytest.raises(web.HTTPError, match="409"):
            town.user.name = "anna"
        town.commit_something_else()
        assert not town.hub.fleet.journal.promises
        await asyncio.sleep(5)
        assert town.owners() == ANNS


@in_virtual_time
async def test_a_name_that_can_be_put_down_for_one_server_only_is_taken_by_none(
    tmp_path: Path, db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Town(tmp_path, db) as town:
        promise, promised = town.hub.fleet.journal.promise, []

        def fills_the_disk(*arguments: Any, **more: Any) -> None:
            if promised:
                raise OSError("disk full")
            promised.append(promise(*arguments, **more))

        monkeypatch.setattr(town.hub.fleet.journal, "promise", fills_the_disk)
        with pytest.raises(OSError, match="disk full"):
            town.user.name = "anna"
        town.commit_something_else()
        assert not town.hub.fleet.journal.promises
        await asyncio.sleep(5)
        assert town.owners() == ANNS


@in_virtual_time
async def test_a_name_that_somebody_else_refuses_is_not_taken(tmp_path: Path, db: Session) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not this one")

    async with Town(tmp_path, db) as town:
        event.listen(orm.User.name, "set", refuse)
        try:
            with pytest.raises(ValueError, match="not this one"):
                town.user.name = "anna"
        finally:
            event.remove(orm.User.name, "set", refuse)
        town.commit_something_else()
        await asyncio.sleep(5)
        assert town.owners() == ANNS


@in_virtual_time
async def test_a_will_is_carried_out_when_its_own_row_goes(tmp_path: Path, db: Session) -> None:
    async with Town(tmp_path, db) as town:
        done: list[str] = []
        town.commit_something_else()
        other = orm.User.find(db, "somebody-else")
        town.rows.when_deleted(town.user, lambda: done.append("ann's"))
        db.delete(other)
        db.commit()
        assert done == []
        db.delete(town.user)
        db.commit()
        assert done == ["ann's"]


@in_virtual_time
async def test_a_row_whose_will_cannot_be_done_stays(tmp_path: Path, db: Session) -> None:
    def fails() -> None:
        raise OSError("disk full")

    async with Town(tmp_path, db) as town:
        town.rows.when_deleted(town.user, fails)
        db.delete(town.user)
        with pytest.raises(OSError, match="disk full"):
            db.commit()
        db.rollback()
        assert orm.User.find(db, "ann") is not None
