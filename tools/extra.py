"""``tools/extra.py NAME``: what one extra of this project asks for, a requirement a line."""

from __future__ import annotations

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement


def asked_for(extra: str) -> list[str]:
    """The extra's own requirements, without what the project always needs."""
    wanted = [Requirement(text) for text in requires("ec2spawner") or ()]
    own = [w for w in wanted if w.marker and w.marker.evaluate({"extra": extra})]
    return [f"{w.name}{w.specifier}" for w in own]


if __name__ == "__main__":
    print("\n".join(asked_for(sys.argv[1])))
