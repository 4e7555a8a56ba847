"""What a waiting owner is told of a machine that cannot be theirs again by itself.

Pure. Owns the words, and when nothing but an operator helps. Must not decide what is done instead.
"""

from __future__ import annotations

import math

from ec2spawner.errors import CapacityError, LaunchFailed, TooManyDeleted
from ec2spawner.listing import Listing
from ec2spawner.model import Volume, Worker
from ec2spawner.wishes import Demand

DELETED_HOMES_MAX = 10
"""Of one user, kept until DELETE_GRACE_DAYS are over: who makes and removes server after server
would otherwise fill the account's quota of storage, and then nobody gets a machine."""
DAY_SECONDS = 86400.0


def cannot_become(worker: Worker, profile: str) -> LaunchFailed:
    """Why a spot machine does not become one of another profile."""
    return LaunchFailed(
        "Your machine cannot become the kind that you chose.",
        why=f"{worker.instance_id} is a spot instance of another profile than {profile}",
        next_step="Choose the kind that you had, or tell the people who run this hub.",
    )


def interrupted(worker: Worker) -> CapacityError:
    """Why a spot machine that EC2 took back cannot be started."""
    return CapacityError(
        "Amazon took this machine back.",
        why=f"{worker.instance_id} is a spot instance; only EC2 itself starts it again",
        next_step="Choose a profile with on-demand machines too, or wait.",
        action="StartInstances",
    )


def too_many_deleted(
    view: Listing, demand: Demand, grace_seconds: float, now: float
) -> TooManyDeleted | None:
    """Why a user gets no home for a further named server; the usual server is never refused."""
    if not demand.is_bounded or not demand.owner.server:
        return None
    kept = view.deleted_homes_of(demand.owner.user)
    if len(kept) < DELETED_HOMES_MAX:
        return None
    moments = [home.deleted.at + grace_seconds for home in kept if home.deleted]
    days = max(1, math.ceil((moments[-DELETED_HOMES_MAX] - now) / DAY_SECONDS))
    return TooManyDeleted(
        f"You have removed {len(kept)} servers, and their files are still kept.",
        why=f"{len(kept)} deleted homes of {demand.owner.user!r}; {DELETED_HOMES_MAX} are allowed",
        next_step="Use a server that you have, or make a new one in "
        f"{f'{days} days' if days > 1 else 'a day'}, when the oldest files are gone. The people "
        "who run this hub can start this one for you before.",
    )


def dead_end(worker: Worker, home: Volume | None, held: Volume | None) -> LaunchFailed | None:
    """Why an owner's worker can never be the owner's again without an operator's help."""
    if held and (held.deleted or held.owner not in (None, worker.owner)):
        why = f"{worker.instance_id} holds {held.volume_id}, which was given up or is another's"
    elif not worker.volumes or worker.home_volume_id:
        return None  # not known yet, or it has one
    elif home is None:
        why = f"{worker.instance_id} has no home volume, and none bears its owner's tag"
    elif home.zone != worker.zone:
        why = (
            f"{worker.instance_id} is in zone {worker.zone}, "
            f"{home.volume_id} in {home.zone}: terminate the worker, and the next login follows "
            "the home"
        )
    else:
        return None
    return LaunchFailed(
        "Your machine and your files do not come together.",
        why=why,
        next_step="Nothing was changed. Tell the people who run this hub.",
    )
