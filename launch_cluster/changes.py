"""What CloudFormation would change, in columns. Pure."""

from __future__ import annotations

from .planning import Plan, StackChange
from .stacks import ResourceChange

HEAD = ("change", "type", "name", "replaced")


def stack_changes(plan: Plan) -> list[StackChange]:
    """What a plan makes or changes of stacks, in its order."""
    manager = plan.manager
    parts = (
        plan.network,
        plan.cluster,
        manager.before,
        None if manager.starts else manager.instance,
    )
    return [part for part in parts if part]


def table(lines: list[ResourceChange]) -> list[str]:
    """The changes in columns."""
    rows = [
        HEAD,
        *(
            (
                line.action,
                line.kind,
                line.resource,
                "REPLACED" if line.is_replaced else mark_of(line).replace("no", ""),
            )
            for line in lines
        ),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def mark_of(change: ResourceChange) -> str:
    """Whether another one may take its place: "no" or "perhaps"."""
    return "perhaps" if change.replacement == "Conditional" else "no"
