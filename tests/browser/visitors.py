"""Somebody in front of the hub's pages and JupyterLab, with a browser of their own.

Owns how these pages are operated, by what is seen on them. Must not know what a test is about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from hub.processes import eventually
from playwright.sync_api import Browser, Error, Locator, Page

from .demos import Demo

WIDTH, HEIGHT = 1000, 640
PAGE_SECONDS = 20.0
START_SECONDS = 40.0

TABS = 30
_LOOKS = """
element => {
  const style = getComputedStyle(element);
  return [style.outline, style.boxShadow].join();
}
"""
_NEXT_CHANGE = """
seen => new Promise(resolve => {
  const began = Date.now();
  const look = () => {
    const bar = document.querySelector('#progress-bar');
    const now = bar && {
      words: document.querySelector('#progress-message').textContent,
      percent: Number(bar.getAttribute('aria-valuenow')),
      width: bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width,
      failed: bar.classList.contains('bg-danger'),
    };
    if (!bar && location.pathname.startsWith('/user/')) resolve('arrived');
    else if (now && JSON.stringify(now) !== JSON.stringify(seen)) resolve(now);
    else if (Date.now() - began > 2000) resolve(null);
    else requestAnimationFrame(look);
  };
  look();
})
"""


@dataclass(frozen=True)
class Progress:
    """What the spawn page showed at one moment; ``width`` is the bar's, from 0 to 1."""

    words: str
    percent: int
    width: float
    failed: bool


Look = Callable[[Progress], None]


def unmoved(now: Progress) -> None:
    """Look and do nothing."""


class Visitor:
    """One person, one browser context, one tab."""

    def __init__(self, browser: Browser, demo: Demo, name: str) -> None:
        self.name = name
        self._url = demo.url
        self._password = demo.password
        self._context = browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce"
        )
        self._context.set_default_timeout(PAGE_SECONDS * 1000)
        self.page: Page = self._context.new_page()
        # Jupyter's server answers 404 for a folder in which a file is renamed just while it is
        # listed; JupyterLab says so, and lists the folder again.
        self.page.add_locator_handler(
            self.page.get_by_role("dialog", name="Directory not found"),
            lambda dialog: dialog.get_by_role("button", name="Close").click(),
        )

    def close(self) -> None:
        """Take the browser away."""
        self._context.close()

    def leave(self) -> None:
        """Close the page, which would go on drawing; stay logged in."""
        self.page.goto("about:blank")

    def forget_cookies(self) -> None:
        """As after a long time, or in another browser."""
        self._context.clear_cookies()

    # ---- the keyboard

    def tab_to(self, wanted: Locator) -> None:
        """Go on with the Tab key until that is reached, and is seen to be."""
        wanted.wait_for()
        before = wanted.evaluate(_LOOKS)
        for _ in range(TABS):
            self.page.keyboard.press("Tab")
            if wanted.evaluate("element => element === document.activeElement"):
                assert wanted.evaluate(_LOOKS) != before, f"{wanted}: the focus is not seen"
                return
        raise AssertionError(f"{wanted} cannot be reached by keyboard")

    def press(self, wanted: Locator) -> None:
        """By keyboard: go there and press Enter."""
        self.tab_to(wanted)
        self.page.keyboard.press("Enter")

    # ---- the hub's pages

    def visit(self, path: str) -> int:
        """Open a page of the hub's address; the status of the answer."""
        answer = self.page.goto(f"{self._url}{path}", wait_until="domcontentloaded")
        assert answer
        return answer.status

    def log_in(self, to: str = "/hub/") -> None:
        """Fill in the form, and be sent on to ``to``. By default that starts the server."""
        self.visit(f"/hub/login?next={quote(to)}")
        if "/hub/login" not in self.page.url:  # the hub knows them already
            return
        self.page.get_by_label("Username:").fill(self.name)
        self.page.get_by_label("Password:", exact=True).fill(self._password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(lambda url: "/hub/login" not in url)

    def watch_start(self, look: Look = unmoved) -> list[Progress]:
        """Watch the spawn page until the server is there, or the start has failed.

        ``look`` is called with whatever is new on it.
        """
        shown: list[Progress] = []
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            now = self._next_change(asdict(shown[-1]) if shown else None)
            if now == "arrived":
                return shown
            if now:
                shown.append(Progress(**now))
                look(shown[-1])
                if shown[-1].failed:
                    return shown
        raise AssertionError(f"not started within {START_SECONDS:.0f} s; seen: {shown}")

    def _next_change(self, seen: dict[str, Any] | None) -> Any:
        try:
            return self.page.evaluate(_NEXT_CHANGE, seen)
        except Error:  # the page went on to another one meanwhile
            self.page.wait_for_load_state("domcontentloaded")
            return None

    def go_home(self) -> None:
        """Open the hub's home page, and wait until its buttons work."""
        self.visit("/hub/home")
        self.until_buttons_work()

    def until_buttons_work(self) -> None:
        """Wait for the script of the home page, or of the token page."""
        self.page.wait_for_function("window._jupyterhub_page_loaded")

    def start(self, look: Look = unmoved) -> list[Progress]:
        """Click the start button of the home page, and wait for the server."""
        self.go_home()
        self.page.get_by_role("button", name="Start My Server").click()
        return self.watch_start(look)

    def be_running(self) -> None:
        """Log in and start the server, unless both was done before."""
        self._be_known()
        self.go_home()
        if self.page.get_by_role("button", name="Start My Server").count():
            self.start()

    def _be_known(self) -> None:
        if not self._context.cookies():
            self.log_in("/hub/home")

    def start_as(self, kind: str) -> list[Progress]:
        """Log in if need be, choose a kind of machine on the spawn page, wait for the server."""
        self._be_known()
        self.visit("/hub/spawn")
        self.page.get_by_label(kind).check()
        self.page.get_by_role("button", name="Start").click()
        return self.watch_start()

    def start_named(self, server: str) -> list[Progress]:
        """Add a server to the table of the home page, start it there, and wait for it."""
        self.begin_named(server)
        return self.watch_start()

    def begin_named(self, server: str) -> None:
        """Add a server to the table of the home page, and start it there."""
        self.go_home()
        self.page.get_by_placeholder("name-your-server").fill(server)
        self.page.get_by_role("button", name="Add New Server").click()
        row = self.page.get_by_role("row").filter(has_text=server)
        row.get_by_role("button", name="start", exact=True).click()

    def can_start(self, server: str) -> bool:
        """Whether the table of the home page, opened anew, offers to start a server."""
        self.go_home()
        row = self.page.get_by_role("row").filter(has_text=server)
        return row.get_by_role("button", name="start", exact=True).is_visible()

    def stop(self) -> None:
        """Click the stop button of the home page, and wait until the start button is back."""
        self.go_home()
        self.page.get_by_role("button", name="Stop My Server").click()
        self.page.get_by_role("button", name="Start My Server").wait_for()

    def keep_up(self) -> None:
        """Ask on the home page that the machine be kept up for an hour."""
        self.go_home()
        with self.page.expect_navigation():
            self.page.get_by_role("button", name="Keep it up").click()

    def begin_stop(self) -> None:
        """Click the stop button of the home page, and open the page of the server that stops."""
        self.go_home()
        self.page.get_by_role("button", name="Stop My Server").click()

        def is_stopping() -> bool:
            self.visit(f"/hub/spawn-pending/{self.name}")  # leads to a server that still runs
            return self.page.get_by_text("Your server is stopping").is_visible()

        eventually(is_stopping, PAGE_SECONDS, "the server stops")

    def add_users(self, names: Iterable[str]) -> None:
        """As an admin, paste names into the panel and add them."""
        self.visit("/hub/admin")
        self.page.get_by_role("button", name="Add Users").click()
        self.page.get_by_role("textbox", name="usernames").fill("\n".join(names))
        self.page.get_by_role("button", name="Add Users").click()

    def sees_in_panel(self, wanted: Locator) -> bool:
        """Whether the admin panel, opened anew, shows this."""
        self.visit("/hub/admin")
        self.page.locator(".user-row").first.wait_for()
        return wanted.is_visible()

    def row_of(self, user: str) -> Locator:
        """The row of a user's server in the admin panel."""
        details = self.page.get_by_role("button", name=f"Details of {user}", exact=True)
        return self.page.get_by_role("row").filter(has=details)

    def until_announced(self, words: str, seconds: float) -> None:
        """Reload the home page until it announces these words; "": until it announces nothing."""

        def is_so() -> bool:
            self.visit("/hub/home")
            shown = self.page.locator(".announcement").all_inner_texts()
            return any(words in text for text in shown) if words else not shown

        eventually(is_so, seconds, f"the home page announces {words!r}")

    def until_let_go(self) -> None:
        """Reload the home page until the hub knows that the server is gone."""

        def is_so() -> bool:
            self.visit("/hub/home")
            return self.page.get_by_role("button", name="Start My Server").is_visible()

        eventually(is_so, 60, "the hub knows that the server is gone")

    # ---- JupyterLab

    def _in_front(self, selector: str) -> Locator:
        return self.page.locator(f".jp-NotebookPanel:not(.lm-mod-hidden) {selector}")

    def until_lab(self) -> None:
        """Wait until JupyterLab can be used."""
        self.page.locator(".jp-DirListing-content").wait_for()

    def decline_news(self) -> None:
        """Answer JupyterLab's question of the first visit; it is not asked again."""
        decline = self.page.get_by_role("button", name="No", exact=True)
        decline.click()
        decline.wait_for(state="detached")

    def new_notebook(self) -> None:
        """Open one, and wait for its kernel."""
        self.page.locator(".jp-LauncherCard[title*='Python 3']").first.click()
        self._in_front(".jp-Cell").wait_for()
        self.page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()

    def run(self, code: str) -> None:
        """Type into the last cell and run it."""
        cell = self._in_front(".jp-Cell .cm-content").last
        cell.click()
        self.page.keyboard.type(code)
        self.page.keyboard.press("Shift+Enter")

    def output(self, words: str) -> Locator:
        """The place below a cell that shows these words."""
        return self._in_front(".jp-OutputArea-output").get_by_text(words, exact=True)

    def toast(self) -> Locator:
        """What JupyterLab says in its corner."""
        return self.page.locator(".Toastify__toast")

    def save_as(self, name: str) -> None:
        """Save; the first time a dialog asks for the name."""
        self.page.keyboard.press("Control+s")
        dialog = self.page.locator(".jp-Dialog")
        dialog.get_by_role("textbox").fill(name)
        dialog.get_by_role("button", name="Rename").click()
        self.page.get_by_role("tab", name=name).wait_for()
        self.page.get_by_role("button", name="Refresh the file browser").click()
        self.file(name).wait_for()

    def upload(self, name: str, text: str) -> None:
        """Upload a text file with JupyterLab's button; it is in the file browser then."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Upload Files").click()
        file = {"name": name, "mimeType": "text/plain", "buffer": text.encode()}
        chooser.value.set_files(file)  # type: ignore[arg-type]
        self.file(name).wait_for()

    def file(self, name: str) -> Locator:
        """A file in the file browser."""
        return self.page.locator(".jp-DirListing-itemText").get_by_text(name, exact=True)

    def files(self) -> list[str]:
        """All names in the file browser."""
        return self.page.locator(".jp-DirListing-itemText").all_inner_texts()
