"""Browser tests are skipped with their reason where there is no browser, and fail on CI."""

from pathlib import Path

import pytest
from browser import chromium


def test_skipped_with_the_reason_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"apt-get install .*chromium"):
        chromium.find({"PATH": str(tmp_path)})


def test_fails_on_ci_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"apt-get install .*chromium"):
        chromium.find({"PATH": str(tmp_path), "CI": "true"})


def test_debians_is_taken(tmp_path: Path) -> None:
    program = tmp_path / "chromium"
    program.touch(0o755)
    assert chromium.find({"PATH": str(tmp_path), "CI": "true"}) == str(program)
