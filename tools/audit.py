"""``make audit``: what bandit finds in our code, and what is known of the packages in the locks.

Every finding is answered in ``tools/audit.yaml`` with a reason, or the audit fails; so does an
answer to nothing. What could not be audited, since its database is out of reach, is printed as
not audited. ``--code`` looks at our code alone, and needs no network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = ROOT / "tools" / "audit.yaml"
SOURCES = ("ec2spawner", "launch_cluster", "jupyterhub_config.py")
PYTHON_LOCKS = (
    "tools/requirements.lock",
    "launch_cluster/manager/hub.lock",
    "ec2spawner/worker/image/worker.lock",
    "ec2spawner/worker/image/notebook.lock",
    "ec2spawner/worker/image/conda.lock",
)
NPM_FOLDER = "launch_cluster/manager/proxy"
COMMAND_SECONDS = 300


@dataclass(frozen=True)
class Finding:
    """A kind of finding: bandit's test in a file, or a known vulnerability of a package."""

    test: str
    where: str


@dataclass
class Report:
    """What an audit came to, line by line."""

    audited: list[str] = field(default_factory=list)
    not_audited: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a reader; the faults last."""
        return [
            *(f"audited: {what}" for what in self.audited),
            *(f"NOT AUDITED: {what}" for what in self.not_audited),
            *(f"fault: {what}" for what in self.faults),
        ]


def read_answers(text: str) -> tuple[dict[Finding, int], list[str]]:
    """How many of each finding are answered; and what is wrong with the answers."""
    counts: dict[Finding, int] = {}
    faults = []
    for entry in yaml.safe_load(text) or []:
        finding = Finding(entry["test"], entry["where"])
        if not str(entry.get("why", "")).strip():
            faults.append(f"{finding.test} in {finding.where} is answered without a reason")
        counts[finding] = counts.get(finding, 0) + int(entry.get("count", 1))
    return counts, faults


def compare(found: Iterable[Finding], answered: Mapping[Finding, int]) -> list[str]:
    """Findings without an answer, and answers without a finding."""
    counts = Counter(found)
    faults = []
    for finding in sorted({*counts, *answered}, key=lambda f: (f.where, f.test)):
        there, known = counts[finding], answered.get(finding, 0)
        if there > known:
            faults.append(f"{finding.test} in {finding.where}: {there} found, {known} answered")
        if there < known:
            faults.append(f"{finding.test} in {finding.where}: {known} answered, {there} found")
    return faults


def bandits(document: Mapping[str, Any]) -> list[Finding]:
    """What bandit's JSON says. Raises ValueError where it could not read a file."""
    if document["errors"]:
        raise ValueError(f"bandit could not read {document['errors']}")
    return [Finding(r["test_id"], r["filename"]) for r in document["results"]]


def pip_audits(document: Mapping[str, Any]) -> tuple[list[Finding], list[str]]:
    """Vulnerabilities by pip-audit's JSON, and packages that were skipped."""
    found, skipped = [], []
    for package in document["dependencies"]:
        if "skip_reason" in package:
            skipped.append(package["name"])
        found += [Finding(v["id"], package["name"]) for v in package.get("vulns", ())]
    return found, skipped


def npm_audits(document: Mapping[str, Any]) -> list[Finding] | None:
    """Vulnerabilities by npm's JSON; None where it had no answer."""
    if "vulnerabilities" not in document:
        return None
    return [Finding(str(v["severity"]), name) for name, v in document["vulnerabilities"].items()]


# ---- doing it


def run(command: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; what cannot be run, or does not end, has no stdout."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"error: no answer in {COMMAND_SECONDS} s"
    except OSError as error:
        return 127, "", f"error: {error}"
    return done.returncode, done.stdout, done.stderr


def audit_code(report: Report) -> list[Finding]:
    """bandit over all that is shipped."""
    command = [sys.executable, "-m", "bandit", "--quiet", "-r", *SOURCES, "-f", "json"]
    code, out, error = run(command)
    if not out:
        raise ValueError(f"bandit said nothing: {error or code}")
    found = bandits(json.loads(out))
    report.audited.append(f"our code, by bandit ({len(found)} findings)")
    return found


def audit_python(report: Report, lock: str) -> list[Finding]:
    """pip-audit over one lock."""
    command = [sys.executable, "-m", "pip_audit", "--strict", "--disable-pip", "--progress-spinner"]
    code, out, error = run([*command, "off", "--require-hashes", "-r", lock, "-f", "json"])
    try:
        found, skipped = pip_audits(json.loads(out))
    except ValueError:
        last = (error.strip().splitlines() or [f"exit code {code}"])[-1]
        report.not_audited.append(f"{lock}: {last[:200]}")
        return []
    if skipped:
        report.not_audited.append(f"{lock}: {', '.join(skipped)}")
    rest = " but for what is named below" if skipped else ""
    report.audited.append(f"{lock}{rest}, by pip-audit ({len(found)} findings)")
    return found


def audit_npm(report: Report) -> list[Finding]:
    """npm audit over the proxy's lock."""
    npm = [str(ROOT / ".node/bin/node"), str(ROOT / ".node/npm-cli.js")]
    _, out, error = run([*npm, "audit", "--json", "--prefix", NPM_FOLDER])
    try:
        found = npm_audits(json.loads(out))
    except ValueError:
        found = None
    if found is None:
        lines = [line for line in error.splitlines() if "error" in line or "warn audit" in line]
        report.not_audited.append(f"{NPM_FOLDER}: {(lines or ['no answer'])[0][:200]}")
        return []
    report.audited.append(f"{NPM_FOLDER}, by npm audit ({len(found)} findings)")
    return found


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 for a finding without an answer, or an answer to nothing."""
    report = Report()
    answered, report.faults = read_answers(ANSWERS.read_text())
    found = audit_code(report)
    if "--code" not in arguments:
        for lock in PYTHON_LOCKS:
            found += audit_python(report, lock)
        found += audit_npm(report)
    elif answered:  # of packages, nothing is known now
        answered = {f: n for f, n in answered.items() if f.test.startswith("B")}
    if report.not_audited:
        known = {finding.test for finding in found}
        answered = {f: n for f, n in answered.items() if f.test.startswith("B") or f.test in known}
    report.faults += compare(found, answered)
    print("\n".join(report.lines()))
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
