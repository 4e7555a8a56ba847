"""Spot machines that are lost, and what EC2 does on its own for a request that stands.

Pure. Owns which spot requests of the cluster nobody needs, and how what EC2 launched for one,
without any tag of ours, comes under the rules for everything else. Must not decide who gets another
machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ec2spawner.actions import Action, CancelSpot, Tag
from ec2spawner.listing import Listing
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_REPLACED,
    TAG_ROLE,
    InstanceState,
    Mark,
    Role,
    SpotRequest,
    Worker,
)

STRAY = "stray"
"""Reason of the mark on a machine that EC2 launched for a request whose own machine was ended."""


def needless(view: Listing) -> Iterator[SpotRequest]:
    """Requests without a worker that is alive: EC2 launches, or has launched, another for each."""
    for request in view.spot_requests.values():
        worker = view.workers.get(request.instance_id or "")
        if worker is None or not worker.is_alive:
            yield request


def is_second_look(view: Listing, first: tuple[float, float]) -> bool:
    """Whether requests were listed again since one was first seen to be needless."""
    _, listed_at = first
    return view.spot_at > listed_at


def cleared(view: Listing, ripe: Mapping[str, bool], now: float) -> list[Action]:
    """What is done about requests that have been needless for long enough (``ripe``, by id).

    A machine that EC2 launched for one is taken in as a retired worker, and then goes as such, its
    request with it; so it is looked at as often, and as carefully, as all others.
    """
    actions: list[Action] = []
    for request in needless(view):
        if not ripe.get(request.request_id):
            continue
        if request.instance_id and request.instance_id not in view.workers:
            actions.append(_take_in(request, request.instance_id, now))
        else:
            actions.append(CancelSpot((request.request_id,), "it has no worker of ours"))
    return actions


def _take_in(request: SpotRequest, instance_id: str, now: float) -> Tag:
    tags = (
        (TAG_CLUSTER, request.tags.get(TAG_CLUSTER)),
        (TAG_ROLE, Role.WORKER.value),
        (TAG_REPLACED, Mark(now, STRAY).to_tag()),
    )
    return Tag((instance_id,), tags, "EC2 launched it for a request that stands")


def untagged_disk(view: Listing, worker: Worker) -> Tag | None:
    """Take in the blank home of such a machine too: once it has ended, nothing tells of it."""
    is_stray = worker.replaced is not None and worker.replaced.reason == STRAY
    home = worker.home_volume_id
    if not is_stray or home is None or home in view.volumes:
        return None
    tags = ((TAG_CLUSTER, worker.tags.get(TAG_CLUSTER)), (TAG_ROLE, Role.WORKER.value))
    return Tag((home,), tags, "the disk of a machine that EC2 launched by itself")


def ends_with_its_request(worker: Worker) -> bool:
    """Whether a retired worker is ended rather than left without its home.

    EC2 could start one that it took back again by itself, broken or not.
    """
    is_out = worker.replaced is not None or (worker.is_retired and worker.is_interrupted)
    return worker.is_spot and is_out and worker.state is InstanceState.STOPPED
