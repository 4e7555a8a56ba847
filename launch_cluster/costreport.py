"""What ``launch-cluster cost`` says: tables for people, and the JSON document with its schema.

Owns the form and the words. Must not reckon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field
from rich.table import Table

from ec2spawner.configmodel import Frozen
from ec2spawner.costs import Alternative, Bill, Existing, Prices, cost_of_existing, cost_of_running

from .bills import (
    BillOutput,
    ClusterBill,
    ClusterBillOutput,
    add_items,
    at_least,
    bill_output,
    cents,
    document_of_bill,
    lines_of_bill,
    new_table,
    notes_of_bill,
    table_lines,
)


@dataclass(frozen=True)
class Estimate:
    """All that is told."""

    planned: ClusterBill
    alternatives: tuple[Alternative, ...]
    cluster: str | None = None
    existing: Existing | None = None

    @property
    def unknown(self) -> tuple[str, ...]:
        """Products without a price anywhere in it."""
        return sum(self.further, self.planned.month).unknown

    @property
    def further(self) -> tuple[Bill, ...]:
        """All bills besides that of what is planned."""
        return tuple(self._further())

    def _further(self) -> Iterator[Bill]:
        yield from (way.bill for way in self.alternatives)
        if self.existing:
            yield cost_of_existing(self.existing, self.planned.prices)
            yield cost_of_running(self.existing, self.planned.prices)


# ---- for people


def lines_of(estimate: Estimate) -> list[str]:
    """The whole answer as lines of text."""
    return [
        *(_existing_lines(estimate) if estimate.existing else []),
        *lines_of_bill(estimate.planned),
        "",
        "The machines and disks alone, compared:",
        "",
        *table_lines(_comparison(estimate)),
        "",
        *notes_of_bill(estimate.planned, estimate.unknown),
    ]


def _existing_lines(estimate: Estimate) -> list[str]:
    existing, prices = estimate.existing or Existing(), estimate.planned.prices
    standing = cost_of_existing(existing, prices)
    running = cost_of_running(existing, prices)
    table = new_table("what is there", "quantity", "unit price", "a month")
    add_items(table, standing.items)
    table.add_section()
    table.add_row("while no worker runs", "", "", f"{standing.usd:,.2f}")
    now = f"{at_least(running)} an hour" if existing.workers else "nothing more"
    return [
        f"Cluster {estimate.cluster} in {prices.region}, as it is now (USD):",
        "",
        *table_lines(table),
        "",
        f"Machines: {len(existing.workers)} running ({now}), {existing.stopped} stopped (disks"
        " only).",
        "",
    ]


def _comparison(estimate: Estimate) -> Table:
    usage = estimate.planned.usage
    months = usage.months
    table = new_table("", "a month", f"{usage.weeks:g} weeks")
    table.add_column("assumed")
    for way in estimate.alternatives:
        known = not way.bill.unknown
        month = f"{way.bill.usd:,.2f}" if known else "?"
        whole = f"{way.bill.usd * months:,.2f}" if known else "?"
        table.add_row(way.name, month, whole, way.assumption)
    return table


# ---- as JSON


class AlternativeOutput(Frozen):
    """Another way to give the class machines."""

    name: str
    assumption: str
    month: BillOutput
    course_usd: float


class ExistingOutput(Frozen):
    """A cluster as it is."""

    month: BillOutput = Field(description="While no worker runs.")
    running_an_hour: BillOutput
    running: int
    stopped: int


class CostOutput(ClusterBillOutput):
    """What ``launch-cluster cost --output json`` prints."""

    alternatives: tuple[AlternativeOutput, ...]
    cluster: str | None
    existing: ExistingOutput | None


def output_of(estimate: Estimate) -> CostOutput:
    """The whole answer as a document."""
    planned, existing = estimate.planned, estimate.existing
    return CostOutput(
        **dict(document_of_bill(planned, *estimate.further)),
        alternatives=tuple(
            AlternativeOutput(
                name=way.name,
                assumption=way.assumption,
                month=bill_output(way.bill),
                course_usd=cents(way.bill.usd * planned.usage.months),
            )
            for way in estimate.alternatives
        ),
        cluster=estimate.cluster,
        existing=_existing_output(existing, planned.prices) if existing else None,
    )


def _existing_output(existing: Existing, prices: Prices) -> ExistingOutput:
    return ExistingOutput(
        month=bill_output(cost_of_existing(existing, prices)),
        running_an_hour=bill_output(cost_of_running(existing, prices)),
        running=len(existing.workers),
        stopped=existing.stopped,
    )
