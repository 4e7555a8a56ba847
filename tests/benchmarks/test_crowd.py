"""A class at its pages, a few of it in real browsers: everybody gets through, and the judgement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from browser import chromium
from hub.processes import REPOSITORY

from benchmarks import crowd
from benchmarks.report import Report
from benchmarks.students import Diary, Opened, kind_of

BOUND_SECONDS = 240


def test_fifty_students_and_three_browsers_get_through_at_once() -> None:
    chromium.find(os.environ)
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.crowd"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout)["results"]
    everybody, guests = results["by_http"], results["in_browsers"]
    assert (everybody["came"], everybody["failed"]) == (50, {})
    assert (guests["came"], guests["failed"]) == (3, {})
    assert everybody["pages"]["home"]["count"] >= 50 * 5
    assert guests["pages"]["lab"]["count"] >= 3
    refused = [k for row in (everybody, guests) for k, p in row["pages"].items() if p["refused"]]
    assert not refused


def judged(*diaries: Diary) -> dict[str, bool]:
    sheet = Report("crowd", "stub", {})
    sheet.results = {"by_http": crowd.outcome(diaries), "in_browsers": crowd.outcome([])}
    crowd.judged(sheet)
    return {check.name: check.met for check in sheet.checks}


def diary(home_seconds: float, **more: Any) -> Diary:
    pages = [Opened("home", 0.1, 200)] * 18 + [Opened("home", home_seconds, 200)] * 2
    return Diary("ann", [*pages, Opened("spawn", 9.0, 302)], **more)


def test_a_page_that_more_than_a_twentieth_waits_for_is_told_but_a_start_is_not() -> None:
    assert all(judged(diary(1.0)).values())
    met = judged(diary(1.1))
    assert [name for name, kept in met.items() if not kept] == ["by_http: home, p95"]


def test_who_did_not_get_through_is_told() -> None:
    assert not judged(diary(0.1, failure="no machine"))["by_http: failed"]


def test_a_page_is_named_without_its_user() -> None:
    paths = {
        "/hub/login": "login",
        "/hub/spawn-pending/ann": "spawn-pending",
        "/user/ann/": "server",
        "/user/ann/lab": "lab",
        "/hub/": "hub",
    }
    assert {path: kind_of(path) for path in paths} == paths
