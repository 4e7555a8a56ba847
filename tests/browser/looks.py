"""What a page is to people who cannot see it, have a small screen, or like it dark.

Owns how axe is asked, and which of JupyterHub's own faults are passed over: each by page and rule,
with its reason.
"""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from .visitors import HEIGHT, WIDTH

PHONE_WIDTH = 360
SIZES = ((WIDTH, "light"), (PHONE_WIDTH, "dark"))
JUPYTERHUBS_OWN = {
    # The panel is a React application that cannot be extended (JupyterHub 6.1).
    ("admin", "button-name"): "the buttons that unfold a user's row have no name",
    ("admin", "color-contrast"): "names of named servers are too faint in the dark",
    ("admin", "wide"): "its table is wider than a phone",
}
_OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
_SET_THEME = "theme => document.documentElement.setAttribute('data-bs-theme', theme)"
_STILL = "* { transition: none !important; animation: none !important; }"


def faults(page: Page, name: str) -> list[str]:
    """What is wrong with the page, wide and light or narrow and dark; leaves it wide and light."""
    page.add_style_tag(content=_STILL)  # colours in mid-change are nobody's choice
    found = [fault for width, theme in SIZES for fault in _faults_at(page, name, width, theme)]
    _become(page, WIDTH, "light")
    return found


def _become(page: Page, width: int, theme: str) -> None:
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.evaluate(_SET_THEME, theme)


def _faults_at(page: Page, name: str, width: int, theme: str) -> list[str]:
    _become(page, width, theme)
    violations = Axe().run(page).response["violations"]
    found = [
        f"{name}, {theme}: {violation['id']}: {node['html'][:200]}"
        for violation in violations
        if (name, violation["id"]) not in JUPYTERHUBS_OWN
        for node in violation["nodes"]
    ]
    if page.evaluate(_OVERHANG) > 0 and (name, "wide") not in JUPYTERHUBS_OWN:
        found.append(f"{name}, {theme}: wider than {width} pixels")
    return found
