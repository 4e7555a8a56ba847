"""Adding hundreds of users at once leaves the hub's other work its turns."""

from __future__ import annotations

import asyncio

from ec2spawner.logins import Admitting


class JupyterHubs:
    """What comes after ``Admitting`` in an authenticator."""

    def __init__(self) -> None:
        self.added: list[str] = []

    def add_user(self, user: str) -> None:
        self.added.append(user)


class Login(Admitting, JupyterHubs):
    pass


async def test_who_is_added_among_hundreds_lets_others_have_a_turn() -> None:
    login, seen = Login(), list[list[str]]()

    async def other() -> None:
        for _ in range(3):
            seen.append([*login.added])
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    for name in ("ann", "bea", "cem"):
        await login.add_user(name)
    await beside
    assert login.added == ["ann", "bea", "cem"]
    assert seen == [["ann"], ["ann", "bea"], ["ann", "bea", "cem"]]
