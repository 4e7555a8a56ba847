"""A course's own packages for the worker image: the files, checked and packed.

Owns their names, which are repo2docker's, and what cannot be one. Must not call AWS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ec2spawner.configfile import Fault

from .bundle import pack

APT, REQUIREMENTS, ENVIRONMENT = "apt.txt", "requirements.txt", "environment.yml"
POST_BUILD = "postBuild"
COURSE_PREFIX = "course/"
FILE_MAX_BYTES = 256 * 1024
APT_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~-]+)?")


@dataclass(frozen=True)
class CourseFiles:
    """The files as they were named on the command line; None for one that was not."""

    apt: Path | None = None
    requirements: Path | None = None
    environment: Path | None = None
    post_build: Path | None = None

    def by_option(self) -> dict[str, tuple[str, Path]]:
        """Option to the file's name in the course, and the file."""
        named = {
            "--apt": (APT, self.apt),
            "--requirements": (REQUIREMENTS, self.requirements),
            "--environment": (ENVIRONMENT, self.environment),
            "--post-build": (POST_BUILD, self.post_build),
        }
        return {option: (name, path) for option, (name, path) in named.items() if path}


@dataclass(frozen=True)
class Course:
    """The packed files; the name in the bucket holds the hash."""

    data: bytes

    @property
    def sha256(self) -> str:
        """Hash of its bytes, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def course_key(sha256: str) -> str:
    """Where a course with that hash lies in the bucket."""
    return f"{COURSE_PREFIX}{sha256}.tar.gz"


def read_course(files: CourseFiles) -> tuple[Course | None, list[Fault]]:
    """The course, None where no file was named, and all faults of the files."""
    named = files.by_option()
    faults: list[Fault] = []
    if files.requirements and files.environment:
        why = "cannot be used together with --requirements"
        instead = "the pip packages below 'dependencies: - pip:' in the environment file"
        faults.append(Fault("--environment", str(files.environment), why, instead))
    contents: dict[str, bytes] = {}
    for option, (name, path) in named.items():
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
            faults.append(Fault(option, str(path), why, "a file that you may read"))
            continue
        fault = _fault(name, contents[name])
        if fault:
            faults.append(Fault(option, str(path), *fault))
    if faults or not named:
        return None, faults
    return Course(pack(contents)), []


def _fault(name: str, content: bytes) -> tuple[str, str] | None:
    """What is wrong with a file and what to write instead."""
    if len(content) > FILE_MAX_BYTES:
        return "is too large", f"at most {FILE_MAX_BYTES // 1024} KiB"
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return "is not text", "a text file in UTF-8"
    if not text.strip():
        return "is empty", "a file with content, or leave the option out"
    if name == APT:
        return _apt_fault(text)
    if name == POST_BUILD and not text.startswith("#!"):
        return "does not say what runs it", 'a first line such as "#!/bin/bash"'
    return None


def _apt_fault(text: str) -> tuple[str, str] | None:
    for word in (w for line in text.splitlines() for w in line.partition("#")[0].split()):
        if not APT_PACKAGE.fullmatch(word):
            return f"names {word[:40]!r}", "names of packages, one a line"
    return None


def describe(files: Mapping[str, tuple[str, Path]]) -> str:
    """The files in words, for the plan."""
    return ", ".join(f"{name} ({path})" for name, path in files.values())
