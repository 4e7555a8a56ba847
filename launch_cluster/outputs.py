"""What each command prints with ``--output json``, as types; docs/schemas is made from them.

Owns the form of documents, which scripts rely on: a key is added here, never taken away. Those of
``cost`` and ``users`` lie beside what makes them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .bills import ClusterBillOutput
from .costreport import CostOutput
from .restore import RestoreOutput
from .users import ExportOutput, ImportOutput

Planned = Literal["nothing to do", "planned", "done"]
Tried = Literal["nothing to do", "planned", "done", "partly done"]


class Document(BaseModel):
    """A document, or a part of one: closed, and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HubOutput(Document):
    """Where the hub answers."""

    url: str
    callback: str = Field(description="What an OAuth application must be told.")
    address: str = Field(description="The manager's public IP address.")


class _Up(Document):
    cluster: str
    region: str
    steps: list[str] = Field(description="What is, or would be, done, in words and in order.")
    done: list[str] = Field(description="What was changed.")
    server_config: str = Field(description="The file that is written for the hub.")
    notices: list[str]
    cost: ClusterBillOutput | None = Field(
        description="What it will cost a month, as of ``cost``; null where prices are not at hand."
    )


class UpOutput(_Up):
    """What ``launch-cluster up --output json`` prints."""

    outcome: Planned
    hub: HubOutput | None = Field(None, description="Not there without a manager.")
    next: list[str] | None = Field(None, description="What the operator does next.")


class ChangeOutput(Document):
    """What CloudFormation would do to one resource."""

    action: str
    type: str
    resource: str
    replaced: Literal["no", "perhaps", "yes"]


class PlanOutput(_Up):
    """What ``launch-cluster plan --output json`` prints."""

    outcome: Literal["nothing to do", "planned"]
    changes: dict[str, list[ChangeOutput]] = Field(description="By stack.")


class InstanceOutput(Document):
    """An instance that is no worker."""

    id: str
    role: str
    state: str


class HomesOutput(Document):
    """All homes together."""

    count: int
    gib: int


class StatusOutput(Document):
    """What ``launch-cluster status --output json`` prints."""

    cluster: str
    region: str
    account: str
    exists: bool
    stacks: dict[str, str] = Field(description="State by name.")
    url: str | None
    hub: str | None = Field(description="Who wrote the lease last.")
    worker_image: str | None
    workers: dict[str, dict[str, int]] = Field(description="Counts by profile, then by state.")
    other_instances: list[InstanceOutput]
    homes: HomesOutput


class FindingOutput(Document):
    """A fact that stands in the way, or should be known."""

    subject: str
    reason: str
    next_step: str


class DoctorOutput(Document):
    """What ``launch-cluster doctor --output json`` prints."""

    cluster: str
    region: str
    account: str
    obstacles: list[FindingOutput]
    warnings: list[FindingOutput]


class ImageBuildOutput(Document):
    """What ``launch-cluster image build --output json`` prints."""

    cluster: str
    region: str
    outcome: Planned
    image_id: str | None = Field(description="Which new workers get; null while it is planned.")
    built: bool
    reason: str
    base: str
    content: str = Field(description="Hash of what the image is made from.")
    course: str | None = Field(description="Hash of the course's files.")
    encrypted: bool
    done: list[str]
    notices: list[str]


class ImageOutput(Document):
    """One image."""

    image_id: str
    name: str
    state: str
    created: str
    architecture: str
    root_gib: int
    encrypted: bool
    snapshots: list[str]
    base: str | None
    content: str | None
    course: str | None
    version: str | None
    jupyterhub: str | None
    jupyterlab: str | None
    used_by: list[str]


class ImageListOutput(Document):
    """What ``launch-cluster image list --output json`` prints."""

    cluster: str
    parameter: str = Field(description="SSM parameter with the image that new workers get.")
    current: str | None
    images: list[ImageOutput]


class KeptOutput(Document):
    """An image that stays."""

    image_id: str
    reason: str


class ImagePruneOutput(Document):
    """What ``launch-cluster image prune --output json`` prints."""

    cluster: str
    outcome: Tried
    images: list[str]
    snapshots: list[str] = Field(description="Of images that are gone already.")
    courses: list[str] = Field(description="Files of courses of which no image is left.")
    kept: list[KeptOutput]
    done: list[str]
    failed: list[str]


class ImageShareOutput(Document):
    """What ``launch-cluster image share --output json`` prints."""

    cluster: str
    outcome: Planned
    image_id: str
    snapshots: list[str]
    account: str
    encrypted: bool


class WorkerOutput(Document):
    """A worker that is, or would be, terminated."""

    instance_id: str
    state: str
    owner: str | None
    user: str | None
    home_volume_id: str | None


class TerminateWorkersOutput(Document):
    """What ``launch-cluster terminate-workers --output json`` prints."""

    cluster: str
    outcome: Tried
    workers: list[WorkerOutput]
    homes: list[str]
    left_alone: list[str]
    spot_requests: list[str] = Field(description="Those that are, or would be, cancelled.")
    done: list[str]
    failed: list[str]
    snapshots: dict[str, str] = Field(description="Of homes that were deleted, by volume.")


class StaysOutput(Document):
    """Something that stays after ``down``."""

    kind: str
    id: str
    size_gib: int
    role: str
    note: str


class DownOutput(Document):
    """What ``launch-cluster down --output json`` prints."""

    cluster: str
    outcome: Tried
    done: list[str]
    failed: list[str]
    snapshots: dict[str, str] = Field(description="Of homes that were deleted, by volume.")
    stays_usd_per_month: float | None
    stays: list[StaysOutput]


class FailureOutput(Document):
    """Why a command failed."""

    code: str
    what: str
    why: str
    next_step: str


class ErrorOutput(Document):
    """What any command prints with ``--output json`` when it fails."""

    error: FailureOutput


OUTPUTS: dict[str, type[BaseModel]] = {
    "cost": CostOutput,
    "doctor": DoctorOutput,
    "down": DownOutput,
    "image build": ImageBuildOutput,
    "image list": ImageListOutput,
    "image prune": ImagePruneOutput,
    "image share": ImageShareOutput,
    "plan": PlanOutput,
    "status": StatusOutput,
    "terminate-workers": TerminateWorkersOutput,
    "up": UpOutput,
    "users export": ExportOutput,
    "users import": ImportOutput,
    "users restore": RestoreOutput,
}
"""By command."""


def schema_name(command: str) -> str:
    """Of the file in docs/schemas."""
    return f"{command.replace(' ', '_').replace('-', '_')}_output"
