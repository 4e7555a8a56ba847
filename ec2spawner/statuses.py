"""Asks EC2 for its status checks, while somebody's silence gives reason to.

Owns when they are asked for. What follows from them is the plan's to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from ec2spawner.errors import CloudError
from ec2spawner.vitals import Vitals

log = logging.getLogger(__name__)

STATUS_SECONDS = 30.0
"""How often EC2 is asked for status checks, while somebody waits for a silent machine, or works on
one; otherwise it is not. EC2 checks every minute (EC2 user guide, "Status checks", 2026)."""


class Statuses(Protocol):
    """Who knows them; ``ec2.EC2`` does."""

    async def statuses(self) -> dict[str, float | None]:
        """Instances with a failing status check."""


async def keep_asking(
    cloud: Statuses, vitals: Vitals, may_ask: Callable[[], bool], on_answer: Callable[[], None]
) -> None:
    """Have ``vitals`` know which machines are impaired, for as long as this runs.

    While ``may_ask`` says no, EC2 is left alone and nobody counts as impaired.
    """
    while True:
        await asyncio.sleep(STATUS_SECONDS)
        if not vitals.is_in_doubt or not may_ask():
            vitals.impaired = frozenset()
            continue
        try:
            vitals.impaired = frozenset(await cloud.statuses())
        except CloudError as error:
            log.warning("Status checks cannot be listed: %s", error)
        except Exception:
            log.exception("The listing of status checks cannot be understood")
        on_answer()
