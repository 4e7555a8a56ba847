"""A server's new name, as JupyterHub asks for it: what cannot be is refused with a status."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tornado import web

from core.virtual import in_virtual_time
from ec2spawner.errors import NameTaken
from ec2spawner.model import Owner
from ec2spawner.spawner import EC2Spawner


class Server:
    """What ``rename`` needs of a spawner; its fleet raises ``error``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.user = SimpleNamespace(name="ann")
        self.renamed: list[tuple[Owner, Owner]] = []
        self._error = error

    @property
    def servers(self) -> Any:
        return SimpleNamespace(fleet=SimpleNamespace(rename=self._rename))

    def _rename(self, old: Owner, new: Owner) -> None:
        if self._error:
            raise self._error
        self.renamed.append((old, new))

    rename = EC2Spawner.rename


@in_virtual_time
async def test_a_named_server_is_renamed() -> None:
    server = Server()
    await server.rename("draft", "final")
    assert server.renamed == [(Owner("ann", "draft"), Owner("ann", "final"))]


@in_virtual_time
async def test_the_usual_server_keeps_its_name() -> None:
    server = Server()
    with pytest.raises(web.HTTPError) as refused:
        await server.rename("", "n1")
    assert refused.value.status_code == 400
    assert server.renamed == []


@in_virtual_time
async def test_a_name_under_which_there_are_files_is_refused_in_words() -> None:
    error = NameTaken("100% taken.", why="owner tag x", next_step="Choose another.")
    with pytest.raises(web.HTTPError) as refused:
        await Server(error).rename("draft", "final")
    assert refused.value.status_code == 409
    assert "100% taken. Choose another." in str(refused.value)
    assert "owner tag" not in str(refused.value)


@in_virtual_time
async def test_a_name_that_cannot_be_put_down_prevents_the_rename() -> None:
    with pytest.raises(OSError, match="full"):
        await Server(OSError("full")).rename("draft", "final")
