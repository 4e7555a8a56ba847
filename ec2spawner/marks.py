"""Tags that the plan writes for their own sake: what was promised, what was seen, what is broken.

Pure. Owns which tags must still come to stand, and how a listing reads until they do. Must not
decide who gets a worker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from ec2spawner import replacing
from ec2spawner.actions import Refuse, Tag
from ec2spawner.draft import Draft, batches
from ec2spawner.listing import Expectation, Listing, has_tags, overlay
from ec2spawner.model import TAG_BROKEN, TAG_GENERATION, TAG_PREPARED, Mark
from ec2spawner.wishes import Wishes

# ---- what was promised


def with_writes(view: Listing, wishes: Wishes) -> Listing:
    """The listing as it is to be read while some tags must still come to stand."""
    if not wishes.writes:
        return view
    due = (
        Expectation(sent_at=index, tags={i: dict(w.tags) for i in w.ids})
        for index, w in enumerate(wishes.writes)
    )
    return overlay(view, due)


def final_tags(wishes: Wishes) -> Mapping[str, dict[str, str | None]]:
    """By id: the tags that must come to stand; of two writes of one tag, the later counts."""
    tags: dict[str, dict[str, str | None]] = defaultdict(dict)
    for write in wishes.writes:
        for resource_id in write.ids:
            tags[resource_id].update(write.tags)
    return tags


def unwritten_ids(listing: Listing, wishes: Wishes) -> set[str]:
    """Resources whose tags are not yet what they must become."""
    tags = final_tags(wishes)
    return {i for i, due in tags.items() if not has_tags(listing, i, due)}


# ---- what is written now


def write_tags(draft: Draft, accepted: Listing, busy: Collection[str]) -> None:
    """Tags that must come to stand, and first mounts.

    Not on what is ``busy``: a claim that is asked for again and again would come to stand over the
    new owner of a rename.
    """
    due: dict[tuple[tuple[str, str | None], ...], list[str]] = defaultdict(list)
    final = final_tags(draft.wishes)
    for resource_id in unwritten_ids(accepted, draft.wishes):
        if not draft.on_hold("tag", resource_id) and resource_id not in busy:
            due[tuple(final[resource_id].items())].append(resource_id)
    for tags, ids in sorted(due.items(), key=lambda item: sorted(item[1])):
        draft.actions += [
            Tag(some, tags, _reason(draft.wishes, some)) for some in batches([sorted(ids)])
        ]
    _write_what_was_seen(draft)


def _write_what_was_seen(draft: Draft) -> None:
    wishes, view = draft.wishes, draft.view
    fresh: dict[int, list[str]] = defaultdict(list)
    for i in wishes.mounted:
        if i in view.volumes and not view.volumes[i].generation:
            fresh[view.volumes[i].base_generation + 1].append(i)
    for generation, ids in sorted(fresh.items()):
        _tag_once(draft, ids, TAG_GENERATION, "mounted for the first time", str(generation))
    ready = [i for i in wishes.prepared if i in view.workers and not view.workers[i].is_prepared]
    _tag_once(draft, ready, TAG_PREPARED, "booted once, and as it should be")


def _tag_once(draft: Draft, ids: list[str], tag: str, reason: str, value: str = "1") -> None:
    free = sorted(i for i in ids if not draft.on_hold("tag", i))
    draft.actions += [Tag(some, ((tag, value),), reason) for some in batches([free])]


def _reason(wishes: Wishes, ids: Iterable[str]) -> str:
    return next(w.reason for w in reversed(wishes.writes) if not {*ids}.isdisjoint(w.ids))


def mark_broken(draft: Draft) -> None:
    """Retire the workers that do not serve; their owners are given others from then on."""
    found = replacing.broken_workers(
        draft.view, draft.wishes, draft.policy, draft.memory, draft.now
    )
    for worker, reason in found:
        error = replacing.too_many(draft.view, worker.owner or "", draft.now)
        demand = draft.wishes.wanted.get(worker.owner or "")
        if error and demand and demand.is_waiting:
            draft.actions.append(Refuse(demand.owner.key, error))
        elif not error and not draft.on_hold("tag", worker.instance_id):
            mark = Mark(draft.now, reason).to_tag()
            draft.actions.append(Tag((worker.instance_id,), ((TAG_BROKEN, mark),), reason))
