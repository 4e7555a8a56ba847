"""``launch-cluster doctor``: all that stands in the way of a cluster, without changing anything.

Owns what is said of it. What is looked at, and judged, is what ``up`` looks at first.
"""

from __future__ import annotations

from typing import Any

from .examining import Diagnosis
from .planning import Finding
from .reporter import Reporter
from .up import Up, read_recorded


async def examine_cluster(job: Up, reporter: Reporter) -> dict[str, Any]:
    """Look, and say all findings at once; the result for ``--output json``."""
    recorded, _, notices = read_recorded(job.request.config_out)
    for notice in notices:
        reporter.progress(f"note: {notice}")
    reporter.progress(f"Looking at {job.request.choices.REGION} …")
    facts, diagnosis = await job.examine(recorded)
    where = f"{job.request.choices.REGION}, account {facts.account}"
    reporter.show([f"Cluster {job.request.cluster} ({where}):", *lines_of(diagnosis)])
    return {
        "cluster": job.request.cluster,
        "region": job.request.choices.REGION,
        "account": facts.account,
        "obstacles": [document_of(finding) for finding in diagnosis.obstacles],
        "warnings": [document_of(finding) for finding in diagnosis.warnings],
    }


def lines_of(diagnosis: Diagnosis) -> list[str]:
    """The findings for people."""
    if not diagnosis.obstacles and not diagnosis.warnings:
        return ["  nothing stands in the way."]
    return [
        *(f"  in the way: {finding}" for finding in diagnosis.obstacles),
        *(f"  note: {finding}" for finding in diagnosis.warnings),
    ]


def document_of(finding: Finding) -> dict[str, str]:
    """A finding for ``--output json``."""
    return {
        "subject": finding.subject,
        "reason": finding.reason,
        "next_step": finding.next_step,
    }
