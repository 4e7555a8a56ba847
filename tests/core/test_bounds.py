"""What is believed of a server's first answer."""

from __future__ import annotations

import pytest
from packaging.version import parse

from ec2spawner import bounds


@pytest.mark.parametrize("version", ["6.1.1", "5", "6.2.0rc1", "6.2.0.dev3", "7.0.0b2.dev1"])
def test_a_version_is_believed(version: str) -> None:
    parse(version)
    assert bounds.greeting_of(version).headers == {bounds.VERSION_HEADER: version}


@pytest.mark.parametrize("version", [None, "", "x", "6.1.1\n", "6..1", "9" * 99, "<b>", "\x1b[2J"])
def test_what_is_no_version_is_none(version: str | None) -> None:
    assert bounds.greeting_of(version).headers == {}
