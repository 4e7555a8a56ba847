"""``launch-cluster image``: build, list, prune and share the workers' images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ec2spawner.configfile import Fault
from ec2spawner.settings import SERVER_CONFIG_NAME

from ..course import CourseFiles, read_course
from ..imagebuild import ImageBuild, Wishes
from ..imagekeeping import ImageKeeping, check_account
from ..reporter import Reporter
from ..request import OptionError, Options, read_cluster, read_request
from ..up import Up
from . import common

NEWEST = "newest"
KEEP_DEFAULT = 3


def _file(name: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(name, type=click.Path(path_type=Path), metavar="FILE", help=text)


@click.group("image")
def image() -> None:
    """The image that workers are launched from."""


@image.command("build")
@click.argument("cluster_name", required=False)
@click.option(
    "--base-ami",
    metavar="AMI",
    help='What it is built from: an id, or "newest" for the newest Ubuntu 24.04 [as before].',
)
@_file("--apt", "Packages of the system, one a line (apt.txt).")
@_file("--requirements", "Python packages as pip takes them (requirements.txt).")
@_file("--environment", "A conda environment (environment.yml).")
@_file(
    "--post-build",
    "A script that runs last, as the notebook user (postBuild); its HOME is lost.",
)
@click.option("--no-course", is_flag=True, help="Leave out the course's packages of before.")
@click.option("--again", is_flag=True, help="Build although there is one: for newer packages.")
@click.option("--unencrypted", is_flag=True, help="So that it can be shared with other accounts.")
@click.option("--config", type=click.Path(path_type=Path), help="The choices, as for up.")
@click.option(
    "--config-out",
    type=click.Path(path_type=Path),
    default=Path(SERVER_CONFIG_NAME),
    show_default=True,
    help="The hub's file; the image is noted there if it is this cluster's.",
)
@common.common_options
def build(dry_run: bool, yes: bool, output: str, **typed: Any) -> None:
    """Build the workers' image, if there is none for the same inputs.

    A builder instance is launched in the cluster, provisioned, made an image of, and ended. New
    workers get the image; those that are there stay as they are. Files of a course are named as
    repo2docker names them; without any, those of the image in use are used again.
    """
    reporter = Reporter(as_json=output == "json")
    job: Up | None = None

    async def run() -> dict[str, Any]:
        nonlocal job
        wishes, options = _read_build(typed)
        request, notices = read_request(options, common.CHECKOUT)
        for notice in notices:
            reporter.progress(f"note: {notice}")
        request = replace(request, newest_base=typed["base_ami"] == NEWEST)
        gateway = common.open_gateway(request.choices.REGION)
        job = Up(gateway, request, reporter, lambda: common.ask_yes(skip=yes))
        return await common.closing(gateway, ImageBuild(job, wishes).run(dry_run=dry_run))

    reporter.result(common.carry_out(reporter, run, lambda: bool(job and job.done)))


def _read_build(typed: dict[str, Any]) -> tuple[Wishes, Options]:
    files = CourseFiles(
        typed["apt"], typed["requirements"], typed["environment"], typed["post_build"]
    )
    course, faults = read_course(files)
    if typed["no_course"] and files.by_option():
        faults.append(Fault("--no-course", "", "is given together with files of a course"))
    if faults:
        raise OptionError(faults)
    cluster, region = typed["cluster_name"] or "", typed["region"]
    if not cluster:
        cluster, region = read_cluster(cluster, region, None, os.environ)
    base = typed["base_ami"] if typed["base_ami"] != NEWEST else None
    return (
        Wishes(course, typed["no_course"], typed["again"], typed["unencrypted"]),
        Options(
            cluster=cluster,
            base_ami=base or None,
            region=region,
            config=typed["config"],
            config_out=typed["config_out"],
            keeps_choices=True,
        ),
    )


_which = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="server_config.json that names cluster and Region [as the hub finds it].",
)
"""Which cluster, for commands that need nothing else of the configuration."""


def _keep(typed: dict[str, Any], work: Callable[[ImageKeeping], Any]) -> None:
    """Run one of the commands on the images that there are."""
    reporter = Reporter(as_json=typed["output"] == "json")
    job: ImageKeeping | None = None

    async def run() -> dict[str, Any]:
        nonlocal job
        asked = typed["cluster_name"] or "", typed["region"]
        cluster, region = read_cluster(*asked, typed["config"], os.environ)
        if "account" in typed:
            check_account(typed["account"])
        gateway = common.open_gateway(region)
        job = ImageKeeping(
            gateway, cluster, reporter, lambda: common.ask_yes(skip=typed.get("yes", True))
        )
        return await common.closing(gateway, work(job))

    common.finish(reporter, common.carry_out(reporter, run, lambda: bool(job and job.done)))


@image.command("list")
@click.argument("cluster_name", required=False)
@_which
@common.look_options
def list_images(**typed: Any) -> None:
    """Show the images: when they were made, of what, and what uses them."""
    _keep(typed, lambda job: job.show_all())


@image.command("prune")
@click.argument("cluster_name", required=False)
@click.option(
    "--keep",
    type=click.IntRange(0),
    default=KEEP_DEFAULT,
    show_default=True,
    help="How many unused ones stay, the newest.",
)
@_which
@common.common_options
def prune(**typed: Any) -> None:
    """Remove old images with their snapshots; never one that is used.

    Used is what the parameter for new workers, the launch template, or any instance of this account
    has, a stopped one too.
    """
    _keep(typed, lambda job: job.prune(typed["keep"], dry_run=typed["dry_run"]))


@image.command("share")
@click.argument("account")
@click.argument("cluster_name", required=False)
@click.option("--image", "image_id", metavar="AMI", help="Which one [that of new workers].")
@click.option("--revoke", is_flag=True, help="Take it back.")
@_which
@common.common_options
def share(**typed: Any) -> None:
    """Let another AWS ACCOUNT launch an image and read its snapshots."""
    _keep(
        typed,
        lambda job: job.share(
            typed["account"],
            typed["image_id"],
            revoke=typed["revoke"],
            dry_run=typed["dry_run"],
        ),
    )
