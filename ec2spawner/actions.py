"""What the plan can ask for. Each action is one EC2 call for many ids, with its reason.

Pure values. ``Refuse`` alone calls nobody: it ends a user's wait with an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ec2spawner.errors import EC2SpawnerError
from ec2spawner.model import Owner
from ec2spawner.placement import Offering

MAX_IDS = 500
"""Ids in one call that takes many; EC2 documents no limit for Start and Stop, 1000 elsewhere."""


@dataclass(frozen=True)
class Launch:
    """Launch ``count`` workers for nobody; ``for_owners`` are those who wait for them, if any."""

    offering: Offering
    profile: str
    home_gib: int  # 0: without a blank home
    count: int
    for_owners: tuple[str, ...]
    reason: str
    image_id: str = ""  # "": the launch template's


@dataclass(frozen=True)
class Claim:
    """Give a worker that is nobody's, and its blank home, to an owner."""

    owner: Owner
    instance_id: str
    volume_id: str | None
    reason: str


@dataclass(frozen=True)
class Tag:
    """Set (or, where None, remove) the same tags on many resources."""

    ids: tuple[str, ...]
    tags: tuple[tuple[str, str | None], ...]
    reason: str

    @property
    def changes(self) -> Mapping[str, str | None]:
        """The tags as a mapping."""
        return dict(self.tags)


@dataclass(frozen=True)
class Start:
    """Start stopped workers; ``is_ahead``: before anybody waits for them."""

    ids: tuple[str, ...]
    reason: str
    is_ahead: bool = False


@dataclass(frozen=True)
class ChangeType:
    """Make a stopped worker one of another instance type."""

    instance_id: str
    instance_type: str
    reason: str


@dataclass(frozen=True)
class Stop:
    """Stop running workers; ``although_wanted``: their owners want others, or another kind."""

    ids: tuple[str, ...]
    reason: str
    although_wanted: bool = False
    is_forced: bool = False
    """They are stopping already, and do not come to an end by themselves."""


@dataclass(frozen=True)
class Terminate:
    """End stopped workers for good; their homes stay."""

    ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class CancelSpot:
    """Cancel spot requests, so that EC2 launches nothing for them any more."""

    request_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class HomeAction:
    """What is done with a home where it is."""


@dataclass(frozen=True)
class Attach(HomeAction):
    """Attach a home to its owner's worker."""

    volume_id: str
    instance_id: str
    reason: str


@dataclass(frozen=True)
class Detach(HomeAction):
    """Take a home off a stopped worker that was retired."""

    volume_id: str
    instance_id: str
    reason: str


@dataclass(frozen=True)
class MakeSnapshot(HomeAction):
    """Begin the last snapshot of a home that is to be deleted."""

    volume_id: str
    tags: tuple[tuple[str, str], ...]
    reason: str


@dataclass(frozen=True)
class DeleteVolume(HomeAction):
    """Delete a home whose snapshot is completed."""

    volume_id: str
    snapshot_id: str
    reason: str


@dataclass(frozen=True)
class DeleteSnapshot(HomeAction):
    """Delete a snapshot whose time is over."""

    snapshot_id: str
    reason: str


@dataclass(frozen=True)
class MoveStep:
    """A step of a home's move to another zone; ``move`` tells this move from any other."""

    source_id: str
    move: str
    reason: str

    @property
    def subject(self) -> str:
        """What a failure of it is remembered by."""
        return self.source_id


@dataclass(frozen=True)
class SaveHome(MoveStep):
    """Mark a home as moving, so that it is attached to nothing, and begin its snapshot."""

    owner_key: str
    tags: tuple[tuple[str, str], ...]
    """Of the snapshot."""


@dataclass(frozen=True)
class CopyHome(MoveStep):
    """Make a volume in another zone of a moving home's snapshot; it is nobody's yet."""

    snapshot_id: str
    zone: str
    size_gib: int
    generation: int
    """Of the home."""


@dataclass(frozen=True)
class EndMove(MoveStep):
    """Make the copy the owner's home, in the place of the one that it was made of."""

    owner: Owner
    copy_id: str


@dataclass(frozen=True)
class CallOffMove(MoveStep):
    """Let a home stay where it is: its files may change again, so nothing is made of its copies."""

    snapshot_ids: tuple[str, ...]
    copy_ids: tuple[str, ...]


@dataclass(frozen=True)
class FollowSource(MoveStep):
    """Let a copy be whose its home is, or given up as that is: a rename or deletion missed it."""

    copy_id: str

    @property
    def subject(self) -> str:
        """What a failure of it is remembered by."""
        return self.copy_id


@dataclass(frozen=True)
class GiveUpCopy(MoveStep):
    """Retire a copy that bears its owner's name, and of which nothing will become."""

    copy_id: str

    @property
    def subject(self) -> str:
        """What a failure of it is remembered by."""
        return self.copy_id


@dataclass(frozen=True)
class Refuse:
    """Tell an owner who waits that it will not be, and why."""

    owner_key: str
    error: EC2SpawnerError


Action = (
    Launch
    | Claim
    | Tag
    | Start
    | ChangeType
    | Stop
    | Terminate
    | Attach
    | CancelSpot
    | Detach
    | MakeSnapshot
    | DeleteVolume
    | DeleteSnapshot
    | MoveStep
    | Refuse
)
