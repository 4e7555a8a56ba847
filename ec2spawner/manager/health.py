"""Whether the hub answers, asked as users' browsers are answered: through the proxy.

Owns the question and its patience. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException

from ec2spawner.manager.place import PUBLIC_PROXY

PATH = "/hub/health"
ANSWER_SECONDS = 5.0
LOOK_SECONDS = 1.0
NEEDED_IN_A_ROW = 5
"""A hub that dies right after its start must not pass."""


def answers(address: tuple[str, int] = PUBLIC_PROXY) -> bool:
    """Whether the hub said 200 just now."""
    connection = HTTPConnection(*address, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", PATH)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def await_hub(
    bound_seconds: float,
    ask: Callable[[], bool] = answers,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Whether it answers for a while, within the bound."""
    give_up_at = clock() + bound_seconds
    row = 0
    while row < NEEDED_IN_A_ROW:
        if clock() > give_up_at:
            return False
        row = row + 1 if ask() else 0
        sleep(LOOK_SECONDS)
    return True
