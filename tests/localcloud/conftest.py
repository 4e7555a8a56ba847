"""Fixtures of the emulated cloud's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ec2spawner.localcloud.inprocess import InProcessCloud
from localcloud.support import Cloud


@pytest.fixture
def cloud() -> Cloud:
    """EC2's semantics alone, in virtual time."""
    return Cloud()


@pytest.fixture
def whole() -> Iterator[InProcessCloud]:
    """The whole cloud with moto, through boto3, in virtual time."""
    with InProcessCloud() as whole:
        yield whole
