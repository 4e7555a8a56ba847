"""Builds a worker image: a builder instance, its console followed, CreateImage, and its end.

Owns the order in which nothing is left over: a builder is ended however the build ends, and one
that a killed run left is found by its tags, and gone on with if it does the same work. Must not
decide whether an image is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.credits import UNLIMITED, credit_parameters
from ec2spawner.ec2 import EC2
from ec2spawner.errors import CapacityError, CloudError, EC2SpawnerError, NotFound, Rejected
from ec2spawner.model import TAG_CLUSTER, TAG_ROLE, InstanceState, Role

from .bootstrap import render_bootstrap
from .bundle import WORKER_LOCK, Bundle, Sources, put_bundle, put_once
from .console import ConsoleLog
from .course import Course, course_key
from .images import Images
from .imaging import (
    TAG_CONTENT,
    Builder,
    Recipe,
    WorkerImage,
    find_made,
    image_tags,
    left_over,
    locked_versions,
    parse_builder,
)
from .reporter import Elapsed, Reporter

POLL_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses between looks; the last one stays. A build takes minutes."""

LOOK_AGAIN_SECONDS = 5.0  # where another look is all that helps
BUILD_DEADLINE_SECONDS = 3600.0
POWER_OFF_SECONDS = 180.0  # from the console's "done" to a builder that is stopped by us
LAST_WORDS_SECONDS = 120.0  # that EC2 has for showing the end of a stopped builder's console
SHOWN_DEADLINE_SECONDS = 120.0  # that EC2 has for showing an image that it has made
IMAGE_DEADLINE_SECONDS = 3600.0
PROFILE_DEADLINE_SECONDS = 120.0  # IAM's new instance profiles are known to EC2 a little later
TOKENS_MAX = 50  # builds of the same content within the time that EC2 remembers tokens
CONSOLE_CHARS = 65_536
LAST_LINES = 12

USED_TOKEN = ("IdempotentInstanceTerminated", "IdempotentParameterMismatch")
"""A client token of an earlier builder, which is gone (EC2 user guide, "Ensuring idempotency in
Amazon EC2 API requests", read 2026)."""


class BuildFailed(EC2SpawnerError):
    """No image was built; ``faults`` are the last lines of the builder's console."""

    code = "image-failed"

    def __init__(self, what: str, log: ConsoleLog, kept: Path | None, next_step: str = "") -> None:
        self.faults = tuple(log.lines()[-LAST_LINES:])
        where = f"The whole log is in {kept}. " if kept else ""
        super().__init__(
            what,
            why=" | ".join(self.faults)[-2000:],
            next_step=where + (next_step or "Mend what it names and run the same command again."),
        )


@dataclass(frozen=True)
class Workshop:
    """Where and how builders of a cluster work."""

    region: str
    launch_template_id: str
    instance_type: str
    subnets: tuple[str, ...]
    profile_arn: str
    bucket: str
    root_device: str
    root_gib: int


@dataclass
class Building:
    """One run that leads to an image; ``done`` tells what of it stays, however it ends."""

    gateway: Gateway
    images: Images
    workshop: Workshop
    sources: Sources
    tags: Mapping[str, str]  # the operator's and the cluster's, for all that is made
    reporter: Reporter
    log_folder: Path = field(default_factory=Path.cwd)
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cluster = self.images.cluster
        self._ec2 = EC2(self.gateway, self._cluster)
        self._log = ConsoleLog()
        self._launched: str | None = None
        self._over_since: float | None = None

    async def build(self, recipe: Recipe, course: Course | None = None) -> WorkerImage:
        """The image of ``recipe``, available: found, in the making, or built now."""
        try:
            return await self._build(recipe, course)
        finally:
            await self._end_ours(recipe.content)

    async def _build(self, recipe: Recipe, course: Course | None) -> WorkerImage:
        images = await self.images.made()
        builder = await self._find_builder(recipe.content, images)
        image = find_made(images, recipe.content, self.workshop.root_gib)
        if image is None:
            builder = builder or await self._launch(recipe, course)
            image = await self._follow(builder, recipe)
        return await self._until_available(image)

    # ---- builders

    async def _find_builder(self, content: str, images: Sequence[WorkerImage]) -> Builder | None:
        """One that does this work already; those that nobody waits for any more are ended.

        Another run may be at work on something else, here or on a colleague's computer.
        """
        ours: Builder | None = None
        builders = await self.images.builders()
        forgotten = left_over(builders, images)
        for builder in builders:
            is_same = builder.content == content
            if ours is None and is_same and await self._is_of_use(builder):
                ours = builder
                self.reporter.progress(
                    f"An earlier run left the builder {builder.instance_id}, which does the same"
                    " work: going on with it."
                )
            elif is_same or builder.instance_id in forgotten:
                self.reporter.progress(f"An earlier run left the builder {builder.instance_id}.")
                await self._end(builder.instance_id)
            else:
                self.reporter.progress(
                    f"The builder {builder.instance_id} of another build is left alone; it is ended"
                    " by that, or else, two hours after its launch, by the next build."
                )
        return ours

    async def _is_of_use(self, builder: Builder) -> bool:
        """Whether it works, or is off after it had done its work."""
        if not builder.is_off:
            return True
        log = ConsoleLog()
        log.add(await self._console(builder.instance_id))
        return log.is_done

    async def _launch(self, recipe: Recipe, course: Course | None) -> Builder:
        bundle = await self._put(recipe, course)
        package = bundle.package(self.workshop.bucket, self.workshop.region)
        lesson = None
        if recipe.course:
            key = course_key(recipe.course)
            lesson = replace(package, key=key, sha256=recipe.course)
        script = render_bootstrap(package, Role.BUILDER, recipe.parameters(), lesson)
        refusal: CloudError | None = None
        for subnet in self.workshop.subnets:
            try:
                builder = await self._run(self._request(recipe, script, subnet))
            except CapacityError as error:
                self.reporter.progress(f"No room in {subnet}: {error.aws_code}")
                refusal = error
                continue
            self._launched = builder.instance_id
            self.reporter.progress(f"Launched the builder {builder.instance_id} in {subnet}.")
            return builder
        raise refusal or NotFound("The cluster has no subnet for a builder.")

    async def _put(self, recipe: Recipe, course: Course | None) -> Bundle:
        bundle = await put_bundle(
            self.gateway, self.workshop.bucket, self.sources, self.reporter, self.clock
        )
        if course:
            key = course_key(course.sha256)
            await put_once(self.gateway, self.workshop.bucket, key, course.data)
        elif recipe.course:
            await self._check_course(recipe.course)
        return bundle

    async def _check_course(self, sha256: str) -> None:
        key = course_key(sha256)
        try:
            params = {"Bucket": self.workshop.bucket, "Key": key}
            await self.gateway.call("s3", "head_object", params)
        except NotFound:
            raise BuildFailed(
                "The course's files of the image in use are no longer in the cluster's bucket.",
                self._log,
                None,
                "Give them again (launch-cluster image build --apt … --requirements …), or leave"
                " them out with --no-course.",
            ) from None

    def _request(self, recipe: Recipe, script: str, subnet: str) -> dict[str, Any]:
        shop = self.workshop
        tags = {
            **self.tags,
            "Name": f"ec2spawner-{self._cluster}-builder",
            TAG_CLUSTER: self._cluster,
            TAG_ROLE: Role.BUILDER.value,
            TAG_CONTENT: recipe.content,
        }
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        disk = {
            "VolumeType": "gp3",
            "VolumeSize": shop.root_gib,
            "Encrypted": recipe.encrypted,
            "DeleteOnTermination": True,
        }
        return {
            "LaunchTemplate": {"LaunchTemplateId": shop.launch_template_id, "Version": "$Latest"},
            "ImageId": recipe.base_image,
            "InstanceType": shop.instance_type,
            "SubnetId": subnet,
            "IamInstanceProfile": {"Arn": shop.profile_arn},
            "UserData": script,
            "InstanceInitiatedShutdownBehavior": "stop",
            "BlockDeviceMappings": [{"DeviceName": shop.root_device, "Ebs": disk}],
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": listed}
                for kind in ("instance", "volume", "network-interface")
            ],
            "MinCount": 1,
            "MaxCount": 1,
            # Without credits saved up, a build at the type's baseline would take an hour.
            **credit_parameters(shop.instance_type, UNLIMITED),
        }

    async def _run(self, params: dict[str, Any]) -> Builder:
        """Launch, with a token that the next run makes again: one that is not yet listed is found.

        Tokens of builders that are gone are passed over.
        """
        elapsed: Elapsed | None = None
        number = 0
        while True:
            token = _token(params, number)
            try:
                reply = await self._call_run({**params, "ClientToken": token})
            except Rejected as error:
                if error.aws_code in USED_TOKEN and number < TOKENS_MAX:
                    number += 1
                    continue
                is_late = elapsed is not None and elapsed.seconds > PROFILE_DEADLINE_SECONDS
                if is_late or not _profile_is_unknown(error):
                    raise
                elapsed = elapsed or self._elapsed("Waiting until EC2 knows the builder's profile")
                elapsed.tick("new profiles take some seconds")
                await self.sleep(LOOK_AGAIN_SECONDS)
                continue
            builder = _builder(reply["Instances"][0])
            if not builder.is_gone:
                return builder
            number += 1

    async def _call_run(self, params: dict[str, Any]) -> dict[str, Any]:
        """RunInstances' reply; interrupted, it is waited for: what it launches is to be ended."""
        call = asyncio.ensure_future(
            self.gateway.call("ec2", "run_instances", params, effect=Effect.REPEATABLE, instances=1)
        )
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self.reporter.progress("Waiting for what EC2 says of the builder, to end it …")
            with contextlib.suppress(CloudError):
                self._launched = _builder((await call)["Instances"][0]).instance_id
            raise

    async def _end_ours(self, content: str) -> None:
        """End the builders of this work; what cannot be ended now, the next run finds."""
        try:
            builders = await self.images.builders()
            listed = [b.instance_id for b in builders if b.content == content]
            for instance_id in dict.fromkeys([*listed, *filter(None, [self._launched])]):
                await self._end(instance_id)
        except CloudError as error:
            self.reporter.progress(
                f"note: whether a builder is left is unknown ({error.what}) The next"
                " launch-cluster image build, or up, looks for it and ends it."
            )

    async def _end(self, instance_id: str) -> None:
        self.reporter.progress(f"Ending the builder {instance_id} …")
        await self.images.end_builder(instance_id)

    # ---- its work

    async def _follow(self, builder: Builder, recipe: Recipe) -> WorkerImage:
        """Wait until the builder has done its work and is off; the image that is made of it."""
        instance_id = builder.instance_id
        elapsed = Elapsed(self.reporter, self.clock, f"Building the worker image ({instance_id})")
        while True:
            text = await self._console(instance_id)
            for phase in self._log.add(text):
                elapsed.say(phase)
            found = await self._look_at(instance_id)
            if found is None or found.is_gone:
                return await self._adopt(recipe)
            if found.state is InstanceState.STOPPED:
                await self._read_last_words(instance_id, elapsed)
                break
            await self._pause_or_fail(elapsed, found)
        if not self._log.is_done:
            said = self._log.failure or "it switched itself off without a word on how it went"
            raise self._failed(f"The worker image was not built: {said}.")
        elapsed.finish("done")
        return await self._create_image(instance_id, recipe)

    async def _look_at(self, instance_id: str) -> Builder | None:
        """The builder as it is; None if EC2 does not know it (any more, or yet)."""
        filters = [{"Name": "instance-id", "Values": [instance_id]}]
        reply = await self.gateway.call("ec2", "describe_instances", {"Filters": filters})
        found = [_builder(raw) for r in reply["Reservations"] for raw in r["Instances"]]
        if not found and not self._log.text:  # so new that listings lack it
            return Builder(instance_id, InstanceState.PENDING, "")
        return found[0] if found else None

    async def _console(self, instance_id: str) -> str:
        try:
            return await self._ec2.console(instance_id, CONSOLE_CHARS)
        except NotFound:  # yet, or any more: the listing tells
            return ""

    async def _read_last_words(self, instance_id: str, elapsed: Elapsed) -> None:
        begun = self.clock()
        while not self._log.is_over and self.clock() - begun < LAST_WORDS_SECONDS:
            elapsed.tick("it is off; waiting for the end of its console")
            await self.sleep(LOOK_AGAIN_SECONDS)
            self._log.add(await self._console(instance_id))

    async def _pause_or_fail(self, elapsed: Elapsed, found: Builder) -> None:
        state = self._log.phase or found.state.value
        if self._log.is_over and found.state is InstanceState.RUNNING:
            if self._over_since is None:
                self._over_since = self.clock()
            if self.clock() - self._over_since > POWER_OFF_SECONDS:
                await self._ec2.stop([found.instance_id])
        if elapsed.seconds > BUILD_DEADLINE_SECONDS:
            minutes = f"{BUILD_DEADLINE_SECONDS / 60:.0f}"
            raise self._failed(
                f"The worker image is not built after {minutes} minutes; the last that its builder"
                f" said: {state}."
            )
        elapsed.tick(state)
        await self._pause(elapsed)

    async def _adopt(self, recipe: Recipe) -> WorkerImage:
        """The builder was ended by another: perhaps by one who has made the image."""
        image = find_made(await self.images.made(), recipe.content, self.workshop.root_gib)
        if image is None:
            raise self._failed("The builder was ended by somebody else.")
        return image

    async def _create_image(self, instance_id: str, recipe: Recipe) -> WorkerImage:
        """Make the image; made already by a call whose answer was lost, it is found by its name."""
        name = f"ec2spawner-{self._cluster}-{recipe.content[:12]}-{instance_id[2:]}"
        lock = (self.sources.worker / WORKER_LOCK).read_text(encoding="utf-8")
        tags = image_tags(self._cluster, recipe, locked_versions(lock), self.tags)
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        params = {
            "InstanceId": instance_id,
            "Name": name,
            "Description": f"Worker of the ec2spawner cluster {self._cluster}",
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": listed} for kind in ("image", "snapshot")
            ],
        }
        try:
            reply = await self.gateway.call("ec2", "create_image", params, effect=Effect.REPEATABLE)
            image_id = reply["ImageId"]
            self._note(f"image {image_id}")
        except Rejected as error:
            if error.aws_code != "InvalidAMIName.Duplicate":
                raise
            return await self._find_named(name)
        return await self._seen(lambda: self.images.find(image_id), image_id)

    async def _find_named(self, name: str) -> WorkerImage:
        return await self._seen(lambda: self.images.find(name, by="name"), name)

    async def _seen(
        self, look: Callable[[], Awaitable[Sequence[WorkerImage]]], what: str
    ) -> WorkerImage:
        """An image that exists, once listings show it."""
        elapsed: Elapsed | None = None
        while elapsed is None or elapsed.seconds < SHOWN_DEADLINE_SECONDS:
            found = await look()
            if found:
                return found[0]
            elapsed = elapsed or self._elapsed(f"Waiting until EC2 shows the image {what}")
            elapsed.tick("not yet")
            await self.sleep(LOOK_AGAIN_SECONDS)
        raise self._failed(f"EC2 does not show the image {what}, which it has made.")

    async def _until_available(self, image: WorkerImage) -> WorkerImage:
        if image.is_usable:
            return image
        elapsed = Elapsed(self.reporter, self.clock, f"Making the image {image.image_id}")
        while True:
            found = await self.images.find(image.image_id)
            if found and found[0].is_usable:
                elapsed.finish("done")
                return found[0]
            state = found[0].state if found else "gone"
            if state not in ("pending", "transient"):
                raise self._failed(f"EC2 could not make the image {image.image_id}: it is {state}.")
            if elapsed.seconds > IMAGE_DEADLINE_SECONDS:
                raise self._failed(
                    f"The image {image.image_id} is not ready after"
                    f" {IMAGE_DEADLINE_SECONDS / 60:.0f} minutes.",
                    "Run the same command later: it goes on from there.",
                )
            elapsed.tick(state)
            await self._pause(elapsed)

    async def _pause(self, elapsed: Elapsed) -> None:
        step = next((s for s in POLL_SECONDS if s > elapsed.seconds / 6), POLL_SECONDS[-1])
        await self.sleep(step)

    def _note(self, what: str) -> None:
        self.done.append(what)
        self.reporter.progress(f"done: {what}")

    def _elapsed(self, text: str) -> Elapsed:
        return Elapsed(self.reporter, self.clock, text)

    def _failed(self, what: str, next_step: str = "") -> BuildFailed:
        return BuildFailed(what, self._log, self.keep_log(), next_step)

    def keep_log(self) -> Path | None:
        """Write the builder's console to a file of its own; None if there is nothing to write."""
        if not self._log.text:
            return None
        path = self.log_folder / f"ec2spawner-{self._cluster}-image.log"
        try:
            path.write_text(self._log.text, encoding="utf-8")
        except OSError as error:
            self.reporter.progress(f"note: {path} cannot be written: {error.strerror}")
            return None
        return path


def _builder(raw: Mapping[str, Any]) -> Builder:
    return parse_builder(raw, datetime.now(timezone.utc))


def _token(params: Mapping[str, Any], number: int) -> str:
    """A client token that is the same for the same request; 64 characters, EC2's most."""
    text = json.dumps([params, number], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _profile_is_unknown(error: Rejected) -> bool:
    # EC2 has one code for every wrong value; only the text names the parameter.
    return error.aws_code == "InvalidParameterValue" and "iamInstanceProfile" in error.why
