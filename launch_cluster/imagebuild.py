"""``launch-cluster image build``: the worker image of a cluster that is there, made anew.

Owns what is taken over from the image in use, and the order: look, plan, show, ask, build. Shares
all else with ``up``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ec2spawner.errors import ConfigError, EC2SpawnerError
from ec2spawner.settings import write_server_config

from .checking import find_obstacles
from .course import Course
from .facts import Facts
from .imaging import (
    ImageChange,
    ImageStep,
    Recipe,
    decide,
    find_by_id,
    left_over,
    recipe_of,
)
from .looking import described
from .planning import Network, network_of
from .steps import builders_line, image_line
from .up import Obstacles, Up, read_package, read_recorded


@dataclass(frozen=True)
class Wishes:
    """What an image is to be built with, besides what the configuration says."""

    course: Course | None = None
    without_course: bool = False
    again: bool = False
    unencrypted: bool = False


class NoCluster(EC2SpawnerError):
    """There is no cluster in which an image could be built."""

    code = "no-cluster"


@dataclass
class ImageBuild:
    """One run of the command, on top of one of ``up``."""

    up: Up
    wishes: Wishes
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)

    async def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Have new workers launched from the image that is asked for; the result as JSON."""
        request = self.up.request
        if request.choices.CUSTOM_WORKER_AMI:
            raise ConfigError(
                "CUSTOM_WORKER_AMI names the workers' image, so that none is built.",
                next_step="Remove it from instance_config.json, or leave the image to it.",
            )
        package = read_package(self.up.sources)
        recorded, _, notices = read_recorded(request.config_out)
        facts = await self.up.look(recorded)
        network = self._network(facts)
        findings = find_obstacles(request, facts)
        if findings:
            raise Obstacles(request.cluster, findings)
        await self._check_current(facts)
        recipe = self._recipe(facts, package.digest)
        size = request.choices.WORKER_EBS_SIZE
        step = decide(recipe, facts.worker_images, facts.current_image, size)
        builders = left_over(facts.builders, facts.worker_images)
        self._show(step, builders, facts, notices)
        has_work = bool(step or builders)
        if not has_work or dry_run:
            outcome = "planned" if has_work else "nothing to do"
            return self._result(recipe, step, outcome, facts.current_image, notices)
        await self.up.confirm()
        image_id = facts.current_image
        if step:
            image_id = await self.up.make_image(step, facts, network, self.wishes.course)
            await self.up.use_image(image_id)
        await self.up.end_builders(builders)
        if recorded and image_id != recorded.WORKER_AMI_ID:
            written = recorded.model_copy(update={"WORKER_AMI_ID": image_id})
            write_server_config(request.config_out, written)
            self.up.note(f"{request.config_out}")
        self.up.reporter.show([f"New workers get {image_id}."])
        return self._result(recipe, step, "done", image_id, notices)

    async def _check_current(self, facts: Facts) -> None:
        """An image of somebody's own, as CUSTOM_WORKER_AMI names one, is not taken away.

        Not such a one is the public image that new workers have until the first is built.
        """
        current = facts.current_image
        if current is None or find_by_id(facts.worker_images, current):
            return
        found = await described(self.up.gateway, "describe_images", "Images", "image-id", [current])
        if found and not found[0]["Public"] and current != facts.image_id:
            raise ConfigError(
                f"New workers have the image {current}, which was not built by this command.",
                why="CUSTOM_WORKER_AMI named it.",
                next_step="Remove CUSTOM_WORKER_AMI from instance_config.json and run"
                " launch-cluster up, to have one built.",
            )

    def _network(self, facts: Facts) -> Network:
        network = network_of(self.up.request, facts)
        if facts.cluster is None or not facts.cluster.is_usable or network is None:
            name = self.up.request.cluster
            raise NoCluster(
                f"There is no cluster {name} in {self.up.request.choices.REGION}.",
                next_step=f"Build it first: launch-cluster up {name}",
            )
        return network

    def _recipe(self, facts: Facts, digest: str) -> Recipe:
        """What is asked for; what nothing is said of is as in the image in use."""
        base = facts.image.image_id if facts.image else ""
        current = find_by_id(facts.worker_images, facts.current_image)
        recipe = recipe_of(self.up.request.choices, base, digest, current)
        if self.wishes.course:
            recipe = replace(recipe, course=self.wishes.course.sha256)
        if self.wishes.without_course:
            recipe = replace(recipe, course="")
        if self.wishes.unencrypted:
            recipe = replace(recipe, encrypted=False)
        if self.wishes.again:
            recipe = replace(recipe, stamp=self.now().strftime("%Y-%m-%dT%H:%M:%SZ"))
        return recipe

    def _show(
        self,
        step: ImageStep | None,
        builders: tuple[str, ...],
        facts: Facts,
        notices: tuple[str, ...],
    ) -> None:
        request = self.up.request
        for notice in notices:
            self.up.reporter.progress(f"note: {notice}")
        where = f"{request.choices.REGION}, account {facts.account}"
        text = "nothing to do: new workers get such an image already."
        if step:
            text = image_line(step, self.up.images.parameter)
        lines = [f"Cluster {request.cluster} ({where}): {text}"]
        self.up.reporter.show([*lines, *([builders_line(builders)] if builders else [])])

    def _result(
        self,
        recipe: Recipe,
        step: ImageStep | None,
        outcome: str,
        image_id: str | None,
        notices: tuple[str, ...],
    ) -> dict[str, Any]:
        is_built = step is not None and step.change is ImageChange.BUILD
        return {
            "cluster": self.up.request.cluster,
            "region": self.up.request.choices.REGION,
            "outcome": outcome,
            "image_id": None if outcome == "planned" else image_id,
            "built": is_built and outcome == "done",
            "reason": step.reason if step else "",
            "base": recipe.base_image,
            "content": recipe.content,
            "course": recipe.course or None,
            "encrypted": recipe.encrypted,
            "done": self.up.done,
            "notices": list(notices),
        }
