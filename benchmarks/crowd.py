"""``python -m benchmarks.crowd``: a class at its pages, a few of it in real browsers.

Everybody logs in within a few seconds, starts a server, comes back to the home page now and then,
stops and logs out. Those in chromium have real machines (processes) and compute in JupyterLab;
those who speak HTTP only have stubs. Each page is timed, from its request to its last byte; what
begins a start is not among the bounded ones, since it may wait for the start itself.

The browsers and the machines, which are computers of their own in real life, give way to the hub.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from benchmarks import arithmetic, chromium, report, students
from benchmarks.bed import GIVING_WAY, Hub, Setting, made
from benchmarks.client import Client
from benchmarks.report import Report, Row, say
from benchmarks.students import Diary, Opened

CLASS_TYPE, GUEST_TYPE = "t3.small", "t3.medium"
PROFILES = [
    {"SLUG": "class", "NAME": "Class", "INSTANCE_TYPES": [CLASS_TYPE], "GROUPS": ["class"]},
    {"SLUG": "guests", "NAME": "Guests", "INSTANCE_TYPES": [GUEST_TYPE], "GROUPS": ["guests"]},
]
STOP_SECONDS = 1.0
POLL_SECONDS = 10  # as the product has it
BOUND_SECONDS = 1.0
SEED = 5


def page_rows(diaries: Sequence[Diary]) -> dict[str, Row]:
    """How long each kind of page took; those that begin a start under their own names."""
    opened: dict[str, list[Opened]] = {}
    for page in (page for diary in diaries for page in diary.pages):
        opened.setdefault(page.kind, []).append(page)
    return {
        kind: {
            "count": len(pages),
            "refused": sum(page.status >= 400 for page in pages),
            "p95_seconds": round(arithmetic.percentile([p.seconds for p in pages], 95), 3),
            **arithmetic.spread([page.seconds for page in pages]),
        }
        for kind, pages in sorted(opened.items())
    }


def outcome(diaries: Sequence[Diary]) -> Row:
    """Who got through, how long the starts took, and the pages."""
    failures = {diary.name: diary.failure for diary in diaries if diary.failure}
    ready = [diary.ready_seconds for diary in diaries if diary.ready_seconds is not None]
    usable = [diary.usable_seconds for diary in diaries if diary.usable_seconds is not None]
    row: Row = {"came": len(diaries), "failed": failures, "pages": page_rows(diaries)}
    if ready:
        row["click_to_ready_seconds"] = arithmetic.spread(ready)
    if usable:
        row["click_to_jupyterlab_seconds"] = arithmetic.spread(usable)
    return row


def judged(sheet: Report) -> None:
    """Note each bound: everybody gets through, and no page but a start is slow."""
    for who in ("by_http", "in_browsers"):
        row = sheet.results[who]
        sheet.check(f"{who}: failed", len(row["failed"]), 0, "students", exact=True)
        for kind, page in row["pages"].items():
            if kind != students.SPAWN:
                sheet.check(f"{who}: {kind}, p95", page["p95_seconds"], BOUND_SECONDS, "s")


async def _add_everybody(hub: Hub, options: argparse.Namespace) -> None:
    client = Client(hub)
    for group, count in (("class", options.students), ("guests", options.browsers)):
        if count:
            await client.add_users(names(group, count))
            await client.add_group(group, names(group, count))


def names(group: str, count: int) -> list[str]:
    """Of so many people of a group."""
    return [f"{group}-{number}" for number in range(count)]


async def _student(hub: Hub, name: str, seed: int, moment: float) -> Diary:
    await asyncio.sleep(moment)
    async with students.student(hub.url, name, seed) as student:
        return await student.come()


async def _guest(hub: Hub, browser: Browser, name: str, moment: float) -> Diary:
    await asyncio.sleep(moment)
    async with students.guest(browser, hub.url, name) as guest:
        return await guest.come()


@contextlib.asynccontextmanager
async def _browser(path: str | None, folder: Path) -> AsyncIterator[Browser]:
    if path is None:
        raise RuntimeError(chromium.MISSING)
    script = chromium.behind(GIVING_WAY, path, folder / "chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=script, args=list(chromium.FLAGS)
        )
        yield browser
        await browser.close()


async def _come(hub: Hub, browser: Browser, options: argparse.Namespace) -> dict[str, Row]:
    draw = random.Random(SEED)
    class_ = [
        _student(hub, name, seed, draw.uniform(0, options.within))
        for seed, name in enumerate(names("class", options.students))
    ]
    guests = [
        _guest(hub, browser, name, draw.uniform(0, options.within))
        for name in names("guests", options.browsers)
    ]
    diaries = await asyncio.gather(*class_, *guests)
    return {
        "by_http": outcome(diaries[: len(class_)]),
        "in_browsers": outcome(diaries[len(class_) :]),
    }


async def measure(options: argparse.Namespace) -> list[Report]:
    """The report."""
    settings = {
        "students": options.students,
        "browsers": options.browsers,
        "within_seconds": options.within,
        "boot_seconds": options.boot_seconds,
    }
    workers = f"process ({options.browsers}), stub ({options.students})"
    sheet = Report("crowd", workers, settings)
    setting = Setting(
        "process",
        options.boot_seconds,
        STOP_SECONDS,
        in_memory=True,
        stub_types=(CLASS_TYPE,),
        gives_way=True,
    )
    async with (
        made(setting, options.keep) as bed,
        _browser(chromium.find(), bed.folder) as browser,
    ):
        hub = await bed.hub("crowd", poll_seconds=POLL_SECONDS, choices={"PROFILES": PROFILES})
        await _add_everybody(hub, options)
        say(f"{options.students} students and {options.browsers} browsers")
        await hub.reset()
        sheet.results = await _come(hub, browser, options)
        sheet.results["hub"] = {"event_loop_lag": (await hub.ask("figures"))["lag"]}
    sheet.close()
    judged(sheet)
    return [sheet]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    add = parser.add_argument
    add("--students", type=int, default=50, help="who speak HTTP only (50)")
    add("--browsers", type=int, default=3, help="chromium's windows (3)")
    add("--within", type=float, default=10.0, help="seconds in which all of them come (10)")
    add("--boot-seconds", type=float, default=5.0, help="of a machine (5)")


if __name__ == "__main__":
    sys.exit(report.main("crowd", add_options, measure))
