"""Browser tests are skipped with their reason where there is no browser, and fail on CI."""

import pytest

pytest_plugins = "pytester"

CHECK = """
def test_page(chromium_path):
    assert chromium_path
"""


@pytest.fixture
def pytester_without_browser(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> pytest.Pytester:
    conftest = request.config.rootpath / "tests" / "conftest.py"
    pytester.makeconftest(conftest.read_text())
    pytester.makepyfile(CHECK)
    monkeypatch.setenv("PATH", str(pytester.path))
    return pytester


def test_skipped_with_the_reason(
    pytester_without_browser: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    result = pytester_without_browser.runpytest_inprocess("-rs", "-p", "no:asyncio")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*apt-get install chromium*")


def test_fails_on_ci(
    pytester_without_browser: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    pytester_without_browser.runpytest_inprocess("-p", "no:asyncio").assert_outcomes(errors=1)
