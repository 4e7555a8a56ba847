"""Where there is no browser, the reason is said; where there must be one, that is a failure."""

from __future__ import annotations

import pytest

from . import chromium


def test_without_a_browser_its_tests_are_skipped_with_the_reason() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"apt-get install .* chromium"):
        chromium.find({"PATH": ""})


def test_in_ci_a_missing_browser_is_a_failure() -> None:
    with pytest.raises(pytest.fail.Exception, match="needs Debian's chromium"):
        chromium.find({"PATH": "", "CI": "true"})
