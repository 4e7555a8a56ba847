"""The audit: every finding is answered, and what was not audited is never called audited."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools" / "audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["audit"]


def test_a_finding_without_an_answer_and_an_answer_to_nothing_are_faults(audit: Any) -> None:
    one, two = audit.Finding("B101", "a.py"), audit.Finding("B602", "b.py")
    assert audit.compare([one, one], {one: 2}) == []
    assert audit.compare([one, one], {one: 1}) == ["B101 in a.py: 2 found, 1 answered"]
    assert audit.compare([one], {one: 1, two: 1}) == ["B602 in b.py: 1 answered, 0 found"]
    assert audit.compare([two], {}) == ["B602 in b.py: 1 found, 0 answered"]


def test_an_answer_needs_a_reason(audit: Any) -> None:
    counts, faults = audit.read_answers("- {test: B101, where: a.py, count: 2}")
    assert counts == {audit.Finding("B101", "a.py"): 2}
    assert faults == ["B101 in a.py is answered without a reason"]


def test_a_vulnerable_package_is_found(audit: Any) -> None:
    document = {
        "dependencies": [
            {"name": "fine", "version": "1", "vulns": []},
            {"name": "bad", "version": "1", "vulns": [{"id": "PYSEC-2026-1"}]},
            {"name": "own", "skip_reason": "not on PyPI"},
        ]
    }
    assert audit.pip_audits(document) == ([audit.Finding("PYSEC-2026-1", "bad")], ["own"])
    npm = {"vulnerabilities": {"ws": {"severity": "high"}}}
    assert audit.npm_audits(npm) == [audit.Finding("high", "ws")]
    assert audit.npm_audits({"error": {"code": "ENOAUDIT"}}) is None


@pytest.mark.parametrize(
    ("out", "error"), [("", "ERROR: could not be audited: x"), ("<html>", "Bad gateway"), ("", "")]
)
def test_a_database_out_of_reach_is_said(
    audit: Any, monkeypatch: pytest.MonkeyPatch, out: str, error: str
) -> None:
    monkeypatch.setattr(audit, "run", lambda command: (1, out, error))
    report = audit.Report()
    assert audit.audit_python(report, "x.lock") == []
    assert audit.audit_npm(report) == []
    assert report.audited == []
    assert len(report.not_audited) == 2
    assert all(line.startswith("NOT AUDITED: ") for line in report.lines())


def test_a_package_that_was_passed_over_is_said(
    audit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = json.dumps({"dependencies": [{"name": "own", "skip_reason": "not on PyPI"}]})
    monkeypatch.setattr(audit, "run", lambda command: (0, out, ""))
    report = audit.Report()
    audit.audit_python(report, "x.lock")
    assert report.not_audited == ["x.lock: own"]
    assert report.audited == ["x.lock but for what is named below, by pip-audit (0 findings)"]


@pytest.mark.parametrize("trouble", ["never", "absent"])
def test_a_tool_that_never_ends_or_is_not_there_is_said(
    audit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: str
) -> None:
    if trouble == "never":
        sleeps = tmp_path / "sleeps"
        sleeps.write_text("#!/bin/sh\nexec sleep 60\n")
        sleeps.chmod(0o755)
        (tmp_path / ".node/bin").mkdir(parents=True)
        (tmp_path / ".node/bin/node").symlink_to(sleeps)
        monkeypatch.setattr(audit.sys, "executable", str(sleeps))
        monkeypatch.setattr(audit, "COMMAND_SECONDS", 0.2)
    else:
        monkeypatch.setattr(audit.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    report = audit.Report()
    assert audit.audit_python(report, "x.lock") == []
    assert audit.audit_npm(report) == []
    assert report.audited == []
    words = "no answer in 0.2 s" if trouble == "never" else "No such file"
    assert len(report.not_audited) == 2
    assert all(words in line for line in report.not_audited)
    with pytest.raises(ValueError, match="bandit said nothing"):
        audit.audit_code(report)  # our own code is always audited


def test_a_file_that_bandit_cannot_read_is_no_clean_file(audit: Any) -> None:
    with pytest.raises(ValueError, match=r"broken\.py"):
        audit.bandits({"errors": [{"filename": "broken.py"}], "results": []})


def test_the_audit_of_a_finding_that_nobody_answered_fails(
    audit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [{"test_id": "B602", "filename": "ec2spawner/x.py"}]
    monkeypatch.setattr(
        audit, "run", lambda command: (1, json.dumps({"errors": [], "results": results}), "")
    )
    answers = tmp_path / "answers.yaml"
    monkeypatch.setattr(audit, "ANSWERS", answers)
    answers.write_text("")
    assert audit.main(["--code"]) == 1
    assert "fault: B602 in ec2spawner/x.py: 1 found, 0 answered" in capsys.readouterr().out
    answers.write_text("- {test: B602, where: ec2spawner/x.py, why: because}")
    assert audit.main(["--code"]) == 0
