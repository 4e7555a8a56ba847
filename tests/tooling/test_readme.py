"""The README's links and commands lead somewhere."""

import html
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_every_link_has_its_file() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"make ([a-z-]+)", README))
    assert {"demo", "test", "help", "setup", "demo-clean"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_picture_is_made_from_its_source() -> None:
    source = (ROOT / "docs" / "architecture.dot").read_text()
    picture = html.unescape((ROOT / "docs" / "architecture.svg").read_text())
    shown = {text.strip() for text in re.findall(r"<text [^>]*>([^<]*)</text>", picture)}
    labels = re.findall(r'label="([^"]+)"', source)
    assert {line.strip() for label in labels for line in label.split("\\n")} == shown
