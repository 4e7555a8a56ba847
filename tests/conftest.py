"""How the tests are dealt to two processes: what shares a cloud, a hub or a browser stays together.

Owns that division, and what every test process must be. Each of these folders starts its own
servers once; all other tests go by file.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("launch", "hub", "browser", "localcloud", "tooling", "soak")
"""Folders of which each is one group, the longest first: it must not begin last."""
TESTS = Path(__file__).parent

settings.register_profile("any machine", deadline=None)  # tests assert behaviour, not seconds
settings.load_profile("any machine")


def group_of(path: Path) -> str:
    """Name of the group to which the tests of a file belong."""
    folder = path.relative_to(TESTS).parts[0]
    return folder if folder in TOGETHER else str(path.relative_to(TESTS))


class Grouped(LoadScopeScheduling):
    """Gives each group to one process.

    xdist's own ``loadgroup`` does not: it writes the group into ``Item._nodeid``, which pytest
    does not read any more (pytest-xdist 3.8.0, pytest 9.2.0).
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(TESTS.parent / nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)  # the tests run without xdist as well
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Grouped:
    """Deal the tests by group, whichever way xdist was told."""
    config.option.loadscopereorder = False  # the longest groups are not those of most tests
    return Grouped(config, log)


def pytest_configure() -> None:
    """Let a Ctrl-C reach what the tests start, also where they run in the background.

    What a script starts with ``&`` has SIGINT ignored, and hands that down.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest groups first."""
    order = {name: rank for rank, name in enumerate(TOGETHER)}
    items.sort(key=lambda item: order.get(group_of(item.path), len(order)))
