"""What a page is to people who cannot see it, have a small screen, or like it dark.

Owns how axe is asked, and in which looks.
"""

from __future__ import annotations

from typing import Any

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Page

from .visitors import HEIGHT, WIDTH

PHONE_WIDTH = 360
LOOKS = [(width, theme) for width in (WIDTH, PHONE_WIDTH) for theme in ("light", "dark")]
_OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
_SET_THEME = "theme => document.documentElement.setAttribute('data-bs-theme', theme)"
_STILL = "* { transition: none !important; animation: none !important; }"
_VIOLATIONS = "async () => (await axe.run({ resultTypes: ['violations'] })).violations"


def faults(page: Page, name: str) -> list[str]:
    """What is wrong with the page, wide and narrow, light and dark; leaves it wide and light."""
    page.add_style_tag(content=_STILL)  # colours in mid-change are nobody's choice
    page.evaluate(AXE_FILE_PATH.read_text())
    found = [fault for width, theme in LOOKS for fault in _faults_at(page, name, width, theme)]
    _become(page, WIDTH, "light")
    return found


def _become(page: Page, width: int, theme: str) -> None:
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.evaluate(_SET_THEME, theme)


def _faults_at(page: Page, name: str, width: int, theme: str) -> list[str]:
    _become(page, width, theme)
    violations: list[dict[str, Any]] = page.evaluate(_VIOLATIONS)
    found = [
        f"{name}, {width} {theme}: {violation['id']}: {node['html'][:200]}"
        for violation in violations
        for node in violation["nodes"]
    ]
    if page.evaluate(_OVERHANG) > 0:
        found.append(f"{name}, {width} {theme}: wider than {width} pixels")
    return found
