"""The README's links and commands lead somewhere."""

import html
import re
import struct
import zlib
from pathlib import Path

import click

from launch_cluster import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_every_link_has_its_file() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link).exists(), link


def pixels_of(picture: bytes) -> bytes:
    """The filtered pixels of a PNG: https://www.w3.org/TR/png-3/#11IDAT."""
    at, data = 8, b""
    while at < len(picture):
        length, kind = struct.unpack(">I4s", picture[at : at + 8])
        data += picture[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return zlib.decompress(data)


def test_every_picture_shows_something_and_is_shown_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    words = "".join(page.read_text() for page in pages)
    pictures = sorted((ROOT / "docs" / "images").glob("*.png"))
    assert len(pictures) > 8
    blank = [p.name for p in pictures if len(set(pixels_of(p.read_bytes()))) < 64]
    assert blank == []
    assert [p.name for p in pictures if f"images/{p.name}" not in words] == []


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


def test_the_documentation_names_commands_and_options_that_there_are() -> None:
    """As far as they are written as commands: at a line's beginning, or in backquotes."""
    told = []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        words = r"(?:^    |`)launch-cluster ([a-z][^`#\n]*)"
        for line in re.findall(words, page.read_text(), re.MULTILINE):
            told.append((page.name, line))
    assert len(told) > 40
    assert [row for row in told if not is_known(row[1].replace("\\|", " ").split())] == []
    operations = {line for name, line in told if name == "operations.md"}
    assert any(line.startswith("users restore") for line in operations)
    assert any("--upgrade" in line for line in operations)


def is_known(words: list[str]) -> bool:
    """Whether these are a command of launch-cluster's and options of it."""
    command: click.Command = cli.main
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
        if {*words} <= {*getattr(command, "commands", ())}:  # a table's "build|list|prune"
            return True
    if isinstance(command, click.Group) and not command.invoke_without_command:
        return not words
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    return {word.rstrip(".,;:)") for word in words if word.startswith("--")} <= options
