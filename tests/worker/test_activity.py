"""When a user counts as at work: the rule, on what was seen."""

from __future__ import annotations

import pytest

from ec2spawner.worker.activity import (
    Kernel,
    Terminal,
    is_persons_request,
    is_typed,
    last_work,
)

HOUR = 3600.0
NOW = 100 * HOUR
NAVIGATE = {"sec-fetch-mode": "navigate", "accept": "text/html,*/*"}
FETCH = {"sec-fetch-mode": "cors", "accept": "*/*"}
OLD_PAGE = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize(
    ("kernels", "terminals", "idle_hours"),
    [
        ([], [], 5),
        ([Kernel(True, NOW - 9 * HOUR)], [], 0),  # a silent cell of nine hours
        ([Kernel(False, NOW - 2 * HOUR)], [], 2),
        ([Kernel(False, NOW - 9 * HOUR)], [], 5),
        ([Kernel(False, NOW - 9 * HOUR), Kernel(True, NOW - 8 * HOUR)], [], 0),
        ([], [Terminal(True, NOW - 9 * HOUR)], 0),
        ([], [Terminal(False, NOW - 3 * HOUR)], 3),
        ([Kernel(False, NOW - 4 * HOUR)], [Terminal(False, NOW - HOUR)], 1),
    ],
)
def test_the_latest_work_decides(
    kernels: list[Kernel], terminals: list[Terminal], idle_hours: float
) -> None:
    requested_at = NOW - 5 * HOUR
    told = last_work(NOW, NOW - 20 * HOUR, requested_at, kernels, terminals)
    assert (NOW - told) / HOUR == idle_hours


def test_work_is_never_before_the_start_nor_in_the_future() -> None:
    assert last_work(NOW, NOW - HOUR, 0, [], []) == NOW - HOUR
    assert last_work(NOW, NOW - HOUR, NOW + HOUR, [], []) == NOW


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/lab", NAVIGATE),
        ("GET", "/lab/tree/notes.ipynb", NAVIGATE),
        ("GET", "/files/data.csv", NAVIGATE),
        ("GET", "/lab", OLD_PAGE),
        ("GET", "/", OLD_PAGE),
        ("GET", "/tree/a", OLD_PAGE),
        ("GET", "/lab/workspaces/auto-7/tree/x", OLD_PAGE),
        ("PUT", "/api/contents/notes.ipynb", FETCH),
        ("POST", "/api/contents/", FETCH),
        ("POST", "/api/contents/notes.ipynb/checkpoints", FETCH),
        ("PATCH", "/api/contents/notes.ipynb", FETCH),
        ("DELETE", "/api/contents/notes.ipynb", FETCH),
        ("POST", "/api/sessions", FETCH),
        ("POST", "/api/kernels/1234/interrupt", FETCH),
        ("POST", "/api/terminals", FETCH),
        ("DELETE", "/api/terminals/1", FETCH),
    ],
)
def test_a_person_s_request(method: str, path: str, headers: dict[str, str]) -> None:
    assert is_persons_request(method, path, 200, headers)
    assert not is_persons_request(method, path, 403, headers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/kernels"),
        ("GET", "/api/sessions"),
        ("GET", "/api/terminals"),
        ("GET", "/api/contents/"),
        ("GET", "/api/contents/notes.ipynb"),
        ("GET", "/api/kernelspecs"),
        ("GET", "/api/me"),
        ("GET", "/api/status"),
        ("GET", "/api"),
        ("GET", "/metrics"),
        ("GET", "/api/kernels/1234/channels"),
        ("GET", "/terminals/websocket/1"),
        ("GET", "/lab/api/settings"),
        ("GET", "/lab/api/workspaces/default"),
        ("PUT", "/lab/api/workspaces/default"),
        ("PUT", "/lab/api/settings/@jupyterlab/apputils-extension:themes"),
        ("DELETE", "/lab/api/workspaces/default"),
        ("POST", "/api/events"),
        ("POST", "/api/security/csp-report"),
        ("POST", "/lsp/status"),
        ("POST", "/git/status"),
        ("OPTIONS", "/api/contents/x"),
        ("HEAD", "/lab"),
        ("PUT", "/api/contentsx/1"),
    ],
)
@pytest.mark.parametrize("headers", [FETCH, {}, {"accept": "*/*"}])
def test_what_an_open_tab_or_a_probe_asks(method: str, path: str, headers: dict[str, str]) -> None:
    assert not is_persons_request(method, path, 200, headers)


@pytest.mark.parametrize("path", ["/api/contents/x", "/lab/api/settings", "/static/lab/x.js"])
def test_an_interface_is_no_page_even_where_a_browser_takes_html(path: str) -> None:
    assert not is_persons_request("GET", path, 200, OLD_PAGE)


@pytest.mark.parametrize(
    "text", ["a", "\r", "ls\r", "\x1b[A", "\x1bOP", "\x03", "\x1b[Aq\x1b[5;1R"]
)
def test_what_a_person_types(text: str) -> None:
    assert is_typed(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x1b[24;80R",
        "\x1b[?1;2c",
        "\x1b[>0;276;0c",
        "\x1b[0n",
        "\x1b[I",
        "\x1b[O",
        "\x1b]11;rgb:ffff/ffff/ffff\x07",
        "\x1b]10;rgb:0/0/0\x1b\\\x1b[1;1R",
    ],
)
def test_what_a_terminal_answers_by_itself(text: str) -> None:
    assert not is_typed(text)


def test_who_asked_to_keep_the_machine_counts_as_at_work_until_then_and_no_longer() -> None:
    def told(kept_until: float | None) -> float:
        return last_work(NOW, NOW - 9 * HOUR, NOW - 5 * HOUR, [], [], kept_until)

    assert told(NOW + HOUR) == NOW
    assert told(NOW - HOUR) == NOW - HOUR
    assert told(NOW - 6 * HOUR) == told(None) == NOW - 5 * HOUR
