"""How a login from a running spare is judged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from benchmarks import pool
from benchmarks.client import Start
from benchmarks.report import Report


def judged(results: dict[str, Any]) -> dict[str, bool]:
    sheet = Report("pool", "process", {})
    sheet.results = results
    pool.judged(sheet, runs=2)
    return {check.name: check.met for check in sheet.checks}


def measured(seconds: float, from_spares: int = 2) -> dict[str, Any]:
    start = Start("ada", 10.0, 10.1, 9.5 + seconds, 10.0 + seconds)
    rounds = SimpleNamespace(
        starts=[start] * 2,
        bare={"plain": [3.0] * 2, "ours": [1.5] * 2},
        from_spares=from_spares,
        looked_at=2,
    )
    return pool.results(rounds)  # type: ignore[arg-type]


def test_half_a_second_over_a_bare_start_is_kept_and_no_more() -> None:
    assert all(judged(measured(3.5)).values())
    met = judged(measured(3.51))
    assert [name for name, kept in met.items() if not kept] == [
        "click to ready over a bare start, median"
    ]


def test_a_login_that_had_to_be_launched_is_told() -> None:
    assert not judged(measured(3.0, from_spares=1))["logins that got a spare"]


def test_a_hub_without_a_pool_keeps_no_bound() -> None:
    assert judged({"missing": "no spare was ever running"}) == {"the hub has a pool": False}
