"""A cluster's bill: what it will cost a month, item by item, for people and as JSON.

The one that ``cost``, ``plan`` and ``up`` show. Owns the form and the words; the arithmetic is
``costs``'s.
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
    Bill,
    Item,
    Kind,
    Nat,
    Prices,
    Usage,
    cost_of_plan,
    cost_of_use,
    describe,
    instance,
)
from ec2spawner.settings import InstanceConfig

WIDTH = 100
LEFT_OUT = (
    "Left out: traffic from AWS to the internet, the bucket, taxes, discounts. Spot machines are"
    " priced as on-demand ones."
)


@dataclass(frozen=True)
class ClusterBill:
    """What a cluster costs a month, and what a class adds; without students, nothing is added."""

    prices: Prices
    usage: Usage
    worker_type: str
    standing: Bill
    use: Bill

    @property
    def month(self) -> Bill:
        """A month in which the class is held."""
        return self.standing + self.use


def reckon(
    choices: InstanceConfig, kind: Kind, usage: Usage, prices: Prices, *, manager: bool, nat: Nat
) -> ClusterBill:
    """The bill of what is planned; ``manager``: whether there is one."""
    return ClusterBill(
        prices=prices,
        usage=usage,
        worker_type=kind.instance_type,
        standing=cost_of_plan(choices, manager, nat, prices),
        use=cost_of_use(choices, kind, usage, prices, nat=nat is Nat.GATEWAY),
    )


# ---- for people


def lines_of_bill(bill: ClusterBill) -> list[str]:
    """The bill and its sum, as lines of text."""
    usage, region = bill.usage, bill.prices.region
    if not usage.students:
        return [f"A month in {region} before anybody works (USD):", "", *table_lines(_table(bill))]
    return [
        f"{usage.students} students, {usage.hours_a_week:g} hours a week each,"
        f" {usage.weeks:g} weeks, in {region} (USD):",
        "",
        *table_lines(_table(bill)),
        "",
        f"Before anybody works: {at_least(bill.standing)} a month.",
    ]


def notes_of_bill(bill: ClusterBill, unknown: Iterable[str]) -> list[str]:
    """What else is to be known of it: prices that are ``unknown``, dates, what is left out."""
    missing = missing_lines(unknown, bill.prices.region)
    return [*missing, *(line for note in _notes(bill) for line in textwrap.wrap(note, WIDTH))]


def hints_of(bill: ClusterBill) -> list[str]:
    """Where to learn more, for ``plan`` and ``up``."""
    if not bill.usage.students:
        return ["--students N reckons with what N students add (--hours-a-week, --weeks)."]
    return [f"Reckoned with {bill.worker_type}; launch-cluster cost compares, and knows --profile."]


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


def _table(bill: ClusterBill) -> Table:
    usage, month = bill.usage, bill.month
    months = usage.months if usage.students else None
    table = new_table("", "quantity", "unit price", "a month")
    sums = [f"{month.usd:,.2f}"]
    if months is not None:
        table.add_column(f"{usage.weeks:g} weeks", justify="right", no_wrap=True)
        sums.append(f"{month.usd * months:,.2f}")
    add_items(table, month.items, months)
    table.add_section()
    table.add_row("at least" if month.unknown else "together", "", "", *sums)
    return table


def add_items(table: Table, items: Iterable[Item], months: float | None = None) -> None:
    """A row an item, with what it costs a month, and in all of a course of ``months``."""
    for item in items:
        each = "?" if item.usd_per_unit is None else f"{item.usd_per_unit:g}"
        sums = ["?" if item.usd is None else f"{item.usd:,.2f}"]
        if months is not None:
            sums.append("?" if item.usd is None else f"{item.usd * months:,.2f}")
        table.add_row(item.what, f"{item.quantity:,.0f} {item.unit}", each, *sums)


def _notes(bill: ClusterBill) -> list[str]:
    used = {i.product for i in bill.month.items}
    found = [p for name, p in bill.prices.known.items() if name in used]
    dates = sorted({price.date for price in found})
    notes = [f"Prices as of {', '.join(dates)}."] if dates else []
    hour = bill.prices.usd(instance(bill.worker_type))
    if hour is not None and bill.usage.students:
        each = hour * MINIMUM_SECONDS / 3600
        notes.append(
            f"A start is billed for {MINIMUM_SECONDS} seconds at least ({each:.5f} USD): too"
            " little to count."
        )
    return [*notes, LEFT_OUT]


def new_table(first: str, *numbers: str) -> Table:
    """An empty table: a column of words, and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def table_lines(table: Table) -> list[str]:
    """A table as lines of text."""
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


class PriceOutput(Frozen):
    """A price that was used, and where it comes from."""

    product: str
    usd: float
    date: str
    source: str


class ClusterBillOutput(Frozen):
    """What a cluster will cost."""

    region: str
    currency: str
    students: int
    hours_a_week: float
    weeks: float
    standing: BillOutput = Field(description="A month before anybody works.")
    use: BillOutput = Field(description="What a class adds in a month in which it is held.")
    month_usd: float
    course_usd: float
    prices: tuple[PriceOutput, ...]
    unknown: tuple[str, ...] = Field(description="Products without a price.")
    left_out: str


def document_of_bill(bill: ClusterBill, *further: Bill) -> ClusterBillOutput:
    """The bill as a document, with the prices of ``further`` ones too."""
    usage, prices = bill.usage, bill.prices
    whole = sum(further, bill.month)
    used = {item.product for item in whole.items}
    return ClusterBillOutput(
        region=prices.region,
        currency="USD",
        students=usage.students,
        hours_a_week=usage.hours_a_week,
        weeks=usage.weeks,
        standing=bill_output(bill.standing),
        use=bill_output(bill.use),
        month_usd=cents(bill.month.usd),
        course_usd=cents(bill.month.usd * usage.months),
        prices=tuple(
            PriceOutput(product=name, usd=price.usd, date=price.date, source=price.source)
            for name, price in sorted(prices.known.items())
            if name in used
        ),
        unknown=whole.unknown,
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
                usd=None if item.usd is None else cents(item.usd),
            )
            for item in bill.items
        ),
        usd=cents(bill.usd),
        is_complete=not bill.unknown,
    )


def cents(usd: float) -> float:
    """As documents have it: to a hundredth of a cent."""
    return round(usd, 4)
