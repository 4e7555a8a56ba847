"""What ``launch-cluster cost`` says: tables for people, and the JSON document with its schema.

Owns the form and the words. Must not reckon.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table

from ec2spawner.configmodel import Frozen
from ec2spawner.costs import (
    MINIMUM_SECONDS,
    Alternative,
    Bill,
    Existing,
    Item,
    Prices,
    Usage,
    cost_of_existing,
    cost_of_running,
    describe,
    instance,
)

WIDTH = 100
LEFT_OUT = (
    "Left out: traffic from AWS to the internet, the bucket, taxes, discounts. Spot machines are"
    " priced as on-demand ones."
)


@dataclass(frozen=True)
class Estimate:
    """All that is told."""

    prices: Prices
    usage: Usage
    worker_type: str
    standing: Bill
    use: Bill
    alternatives: tuple[Alternative, ...]
    cluster: str | None = None
    existing: Existing | None = None

    @property
    def month(self) -> Bill:
        """A month in which the class is held."""
        return self.standing + self.use

    @property
    def unknown(self) -> tuple[str, ...]:
        """Products without a price anywhere in it."""
        bills = [self.month, *(a.bill for a in self.alternatives)]
        if self.existing:
            bills += [cost_of_existing(self.existing, self.prices)]
            bills += [cost_of_running(self.existing, self.prices)]
        return tuple(dict.fromkeys(p for bill in bills for p in bill.unknown))


# ---- for people


def lines_of(estimate: Estimate) -> list[str]:
    """The whole answer as lines of text."""
    lines = _existing_lines(estimate) if estimate.existing else []
    usage = estimate.usage
    lines += [
        f"{usage.students} students, {usage.hours_a_week:g} hours a week each,"
        f" {usage.weeks:g} weeks, in {estimate.prices.region} (USD):",
        "",
        *_table(_bill_table(estimate)),
        "",
        f"Before anybody works: {at_least(estimate.standing)} a month.",
        "",
        "The machines and disks alone, compared:",
        "",
        *_table(_comparison(estimate)),
        "",
        *missing_lines(estimate.unknown, estimate.prices.region),
        *(line for note in _notes(estimate) for line in textwrap.wrap(note, WIDTH)),
    ]
    return lines


def at_least(bill: Bill) -> str:
    """The sum in dollars, marked as a bound where a price is missing."""
    return f"{'at least ' if bill.unknown else ''}{bill.usd:,.2f} USD"


def missing_lines(unknown: Iterable[str], region: str) -> list[str]:
    """What has no price, and what to do."""
    return [
        f"No price known for {describe(product)} in {region};"
        " launch-cluster cost --refresh-prices reads it from AWS."
        for product in unknown
    ]


def _existing_lines(estimate: Estimate) -> list[str]:
    existing, prices = estimate.existing or Existing(), estimate.prices
    standing = cost_of_existing(existing, prices)
    running = cost_of_running(existing, prices)
    table = _new_table("what is there", "quantity", "unit price", "a month")
    _add_items(table, standing.items)
    table.add_section()
    table.add_row("while no worker runs", "", "", f"{standing.usd:,.2f}")
    now = f"{at_least(running)} an hour" if existing.workers else "nothing more"
    return [
        f"Cluster {estimate.cluster} in {prices.region}, as it is now (USD):",
        "",
        *_table(table),
        "",
        f"Machines: {len(existing.workers)} running ({now}), {existing.stopped} stopped (disks"
        " only).",
        "",
    ]


def _bill_table(estimate: Estimate) -> Table:
    months = estimate.usage.months
    course = f"{estimate.usage.weeks:g} weeks"
    table = _new_table("", "quantity", "unit price", "a month", course)
    _add_items(table, estimate.month.items, months)
    table.add_section()
    month = estimate.month
    name = "at least" if month.unknown else "together"
    table.add_row(name, "", "", f"{month.usd:,.2f}", f"{month.usd * months:,.2f}")
    return table


def _comparison(estimate: Estimate) -> Table:
    months = estimate.usage.months
    course = f"{estimate.usage.weeks:g} weeks"
    table = _new_table("", "a month", course)
    table.add_column("assumed")
    for way in estimate.alternatives:
        known = not way.bill.unknown
        month = f"{way.bill.usd:,.2f}" if known else "?"
        whole = f"{way.bill.usd * months:,.2f}" if known else "?"
        table.add_row(way.name, month, whole, way.assumption)
    return table


def _add_items(table: Table, items: Iterable[Item], months: float | None = None) -> None:
    for item in items:
        each = "?" if item.usd_per_unit is None else f"{item.usd_per_unit:g}"
        sums = ["?" if item.usd is None else f"{item.usd:,.2f}"]
        if months is not None:
            sums.append("?" if item.usd is None else f"{item.usd * months:,.2f}")
        table.add_row(item.what, f"{item.quantity:,.0f} {item.unit}", each, *sums)


def _notes(estimate: Estimate) -> list[str]:
    used = {i.product for i in estimate.month.items}
    found = [p for name, p in estimate.prices.known.items() if name in used]
    dates = sorted({price.date for price in found})
    notes = [f"Prices as of {', '.join(dates)}."] if dates else []
    hour = estimate.prices.usd(instance(estimate.worker_type))
    if hour is not None:
        each = hour * MINIMUM_SECONDS / 3600
        notes.append(
            f"A start is billed for {MINIMUM_SECONDS} seconds at least ({each:.5f} USD): too"
            " little to count."
        )
    return [*notes, LEFT_OUT]


def _new_table(first: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _table(table: Table) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, legacy_windows=False).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


# ---- as JSON


class ItemOutput(Frozen):
    """One line of a bill; a null price is one that is not known."""

    what: str
    product: str
    quantity: float
    unit: str
    usd_per_unit: float | None
    usd: float | None


class BillOutput(Frozen):
    """A bill; without all prices, ``usd`` is the least that it costs."""

    items: tuple[ItemOutput, ...]
    usd: float
    is_complete: bool


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


class PriceOutput(Frozen):
    """A price that was used, and where it comes from."""

    product: str
    usd: float
    date: str
    source: str


class CostOutput(Frozen):
    """What ``launch-cluster cost --output json`` prints."""

    region: str
    currency: str
    students: int
    hours_a_week: float
    weeks: float
    standing: BillOutput = Field(description="A month before anybody works.")
    use: BillOutput = Field(description="What a class adds in a month in which it is held.")
    month_usd: float
    course_usd: float
    alternatives: tuple[AlternativeOutput, ...]
    cluster: str | None
    existing: ExistingOutput | None
    prices: tuple[PriceOutput, ...]
    unknown: tuple[str, ...] = Field(description="Products without a price.")
    left_out: str


def output_of(estimate: Estimate) -> CostOutput:
    """The whole answer as a document."""
    usage, prices = estimate.usage, estimate.prices
    return CostOutput(
        region=prices.region,
        currency="USD",
        students=usage.students,
        hours_a_week=usage.hours_a_week,
        weeks=usage.weeks,
        standing=bill_output(estimate.standing),
        use=bill_output(estimate.use),
        month_usd=_cents(estimate.month.usd),
        course_usd=_cents(estimate.month.usd * usage.months),
        alternatives=tuple(
            AlternativeOutput(
                name=way.name,
                assumption=way.assumption,
                month=bill_output(way.bill),
                course_usd=_cents(way.bill.usd * usage.months),
            )
            for way in estimate.alternatives
        ),
        cluster=estimate.cluster,
        existing=_existing_output(estimate.existing, prices) if estimate.existing else None,
        prices=tuple(
            PriceOutput(product=name, usd=price.usd, date=price.date, source=price.source)
            for name, price in sorted(prices.known.items())
            if name in _used(estimate)
        ),
        unknown=estimate.unknown,
        left_out=LEFT_OUT,
    )


def bill_output(bill: Bill) -> BillOutput:
    """A bill as a document: for ``cost``, and for who else shows one."""
    return BillOutput(
        items=tuple(
            ItemOutput(
                what=item.what,
                product=item.product,
                quantity=round(item.quantity, 3),
                unit=item.unit,
                usd_per_unit=item.usd_per_unit,
                usd=None if item.usd is None else _cents(item.usd),
            )
            for item in bill.items
        ),
        usd=_cents(bill.usd),
        is_complete=not bill.unknown,
    )


def _existing_output(existing: Existing, prices: Prices) -> ExistingOutput:
    return ExistingOutput(
        month=bill_output(cost_of_existing(existing, prices)),
        running_an_hour=bill_output(cost_of_running(existing, prices)),
        running=len(existing.workers),
        stopped=existing.stopped,
    )


def _used(estimate: Estimate) -> set[str]:
    bills = [estimate.month, *(way.bill for way in estimate.alternatives)]
    if estimate.existing:
        bills += [cost_of_existing(estimate.existing, estimate.prices)]
        bills += [cost_of_running(estimate.existing, estimate.prices)]
    return {item.product for bill in bills for item in bill.items}


def _cents(usd: float) -> float:
    return round(usd, 4)
