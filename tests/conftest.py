"""How the tests are dealt to two processes: what shares a cloud, a hub or a browser stays together.

Owns that division only. Each of these folders starts its own servers once; all other tests go by
file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TOGETHER = ("hub", "browser", "launch", "localcloud", "tooling", "soak")
"""Folders of which each is one group, the longest first: it must not begin last."""
TESTS = Path(__file__).parent


def group_of(path: Path) -> str:
    """Name of the group to which the tests of a file belong."""
    folder = path.relative_to(TESTS).parts[0]
    return folder if folder in TOGETHER else str(path.relative_to(TESTS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its group, and put the longest groups first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item.path)))
    order = {name: rank for rank, name in enumerate(TOGETHER)}
    items.sort(key=lambda item: order.get(group_of(item.path), len(order)))
