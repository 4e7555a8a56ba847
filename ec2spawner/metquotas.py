"""What the operator is told of a quota that was met: its size, its use, and how to ask for more.

Owns that one log line, and the two questions that it takes. Must not know what was to be launched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from ec2spawner.errors import CloudError, QuotaError
from ec2spawner.listing import Listing
from ec2spawner.model import InstanceState
from ec2spawner.placement import Offering
from ec2spawner.quotas import quota_code

log = logging.getLogger(__name__)

_WORDS = (
    "The vCPU quota %s (%s) is met: it is %.0f, and this cluster's %d running machines use %d."
    " Next: stop machines, or ask AWS for more: aws service-quotas request-service-quota-increase"
    " --service-code ec2 --quota-code %s --desired-value N"
)


class Quotas(Protocol):
    """Who knows quotas; ``ec2.EC2`` does."""

    async def quota(self, code: str) -> float:
        """How many vCPUs a quota of the account allows."""

    async def vcpus(self, types: Iterable[str]) -> dict[str, int]:
        """vCPUs by instance type."""


class MetQuotas:
    """Quotas that were met since the operator was last told of one."""

    def __init__(self, cloud: Quotas, view: Callable[[], Listing]) -> None:
        self._cloud = cloud
        self._view = view
        self._untold: set[tuple[str, str]] = set()
        """By code and market."""

    def note(self, offering: Offering, error: CloudError) -> None:
        """A launch or start failed so; only quotas are of interest."""
        if isinstance(error, QuotaError):
            market = offering.market.value
            self._untold.add((quota_code(offering.instance_type, market), market))

    async def tell(self) -> None:
        """Log what is known of each; that AWS does not say it is no failure."""
        while self._untold:
            code, market = self._untold.pop()
            try:
                await self._tell(code, market)
            except CloudError as error:
                log.warning("The vCPU quota %s is met; its size is not known: %s", code, error)

    async def _tell(self, code: str, market: str) -> None:
        counted = [
            w.instance_type
            for w in self._view().workers.values()
            if w.state in (InstanceState.PENDING, InstanceState.RUNNING) and w.market == market
            if quota_code(w.instance_type, market) == code
        ]
        size, vcpus = await asyncio.gather(
            self._cloud.quota(code), self._cloud.vcpus(sorted({*counted}))
        )
        used = sum(vcpus.get(instance_type, 0) for instance_type in counted)
        log.error(_WORDS, code, market, size, len(counted), used, code)
