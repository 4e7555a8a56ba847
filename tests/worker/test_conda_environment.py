"""A course's environment.yml, as far as that goes without a channel of packages."""

from __future__ import annotations

import pytest

from ec2spawner.worker.image.conda_environment import parse


def test_channels_packages_and_pip_s_part_are_told_apart() -> None:
    text = """
name: ours
channels: [conda-forge, nodefaults]
dependencies:
  - python=3.12
  - numpy >=2
  - pip:
      - humanize==4.11.0
"""
    assert parse(text) == (["conda-forge"], ["python=3.12", "numpy >=2"], ["humanize==4.11.0"])


def test_without_channels_it_is_conda_forge() -> None:
    assert parse("dependencies: [numpy]") == (["conda-forge"], ["numpy"], [])


@pytest.mark.parametrize(
    "text", ["", "- numpy", "dependencies: [{conda: [numpy]}]", "dependencies: [1]"]
)
def test_what_is_no_environment_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match=r"environment\.yml: "):
        parse(text)
