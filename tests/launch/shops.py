"""A cluster with worker images, for tests of what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import Result

from ec2spawner.cloud import Gateway

from .clouds import control, of_cluster

if TYPE_CHECKING:
    from .conftest import Calls

Run = Callable[..., Result]
_courses = count(1)


def ask(gateway: Gateway, service: str, operation: str, **params: Any) -> dict[str, Any]:
    return asyncio.run(gateway.call(service, operation, params))


class Shop:
    """A cluster with an image, and what is left of builds in it."""

    def __init__(self, run: Run, gateway: Gateway, folder: Path, name: str) -> None:
        self.run, self.gateway, self.folder, self.name = run, gateway, folder, name

    def build(self, *more: str) -> Result:
        return self.run("image", "build", self.name, "--yes", *more)

    def course(self) -> tuple[str, str]:
        """Options for an image that nobody has built yet."""
        path = self.folder / f"apt-{next(_courses)}.txt"
        path.write_text(f"package-{path.stem}\n")
        return "--apt", str(path)

    @property
    def current(self) -> str:
        name = f"/ec2spawner/{self.name}/worker-image"
        value: str = ask(self.gateway, "ssm", "get_parameter", Name=name)["Parameter"]["Value"]
        return value

    def images(self) -> list[dict[str, Any]]:
        return of_cluster(control("state")["images"], self.name, "image")

    def builders(self) -> list[dict[str, Any]]:
        rows = of_cluster(control("state")["instances"], self.name, "builder")
        return [row for row in rows if row["state"] not in ("shutting-down", "terminated")]

    def is_tidy(self) -> bool:
        """No builder, no disk of one, no snapshot without its image, and a usable image in use."""
        assert self.builders() == []
        state = control("state")
        known = {d["snapshot_id"] for image in self.images() for d in image["devices"]}
        snapshots = of_cluster(state["snapshots"], self.name, "image")
        assert {s["id"] for s in snapshots} == known
        states = {image["id"]: image["state"] for image in self.images()}
        assert states[self.current] == "available"
        return True


def break_at(calls: Calls, step: str, when: str, error: type[BaseException]) -> None:
    def break_off() -> None:
        calls.before.clear()
        calls.after.clear()
        calls.is_dead = error is not KeyboardInterrupt
        raise error

    (calls.before if when == "before" else calls.after)[step] = break_off


def made_of(shop: Shop, course: tuple[str, str]) -> list[dict[str, Any]]:
    """The images with the course's packages: that of the image in use is it."""
    tags = {i["id"]: i["tags"] for i in shop.images()}
    wanted = tags[shop.current]["ec2spawner:content"]
    return [i for i in shop.images() if i["tags"]["ec2spawner:content"] == wanted]
