"""Which image new workers have: what the cluster's SSM parameter says, looked at now and then.

The launch command and the manager's monthly rebuild write it. Must not know what becomes of workers
of an older image: the plan decides that.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from ec2spawner.errors import CloudError

log = logging.getLogger(__name__)

LOOK_SECONDS = 300.0
IMAGE_ID = re.compile(r"ami-[0-9a-f]{8,17}")


class CurrentImage:
    """Tells ``use`` which image is the current one ("": not known) until it is cancelled."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[str | None]],
        use: Callable[[str], None],
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ask = ask
        self._use = use
        self._sleep = sleep

    async def run(self) -> None:
        """Look again and again; what cannot be read leaves things as they are."""
        while True:
            try:
                await self._look()
            except CloudError as error:
                log.warning("The workers' current image cannot be read: %s", error)
            except Exception:
                log.exception("The workers' current image cannot be understood")
            await self._sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        image_id = await self._ask() or ""
        if image_id and not IMAGE_ID.fullmatch(image_id):
            log.error("The parameter of the workers' image holds something else: %.40r", image_id)
            return
        self._use(image_id)
