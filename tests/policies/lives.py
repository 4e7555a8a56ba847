"""Whole lives of a cluster's hub and workers, and every call that they make, as IAM is asked it.

The fleet, its EC2 operations and its gateway are the product's; EC2 is the emulated one, in this
process and in virtual time (``soak``). A call is judged when it arrives, by the tags of then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak.story import Story
from soak.wires import IMAGE, REGION

from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID
from launch_cluster.intrinsics import Resolver, read_template
from launch_cluster.policies import Place, Policy, merged, role_policies
from policies.iam import Decision, Request, decide_all
from policies.requests import World, requests_of

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "launch_cluster" / "templates"
CLUSTER = "class"
TEMPLATE_ID = "lt-workers"
GROUP = "sg-1"
SUBNETS = tuple(f"subnet-{n:017x}" for n in (1, 2))
BUCKET = f"ec2spawner-{CLUSTER}-{ACCOUNT_ID}-{REGION}"
BUILDER = f"arn:aws:iam::{ACCOUNT_ID}:role/ec2spawner-{CLUSTER}-Builder"
PLACE = Place(CLUSTER, REGION, ACCOUNT_ID)


def manager_parameters(**changes: str) -> dict[str, str]:
    place = f"arn:aws:ec2:{REGION}:{ACCOUNT_ID}:subnet/"
    return {
        "Bucket": BUCKET,
        "LaunchTemplateId": TEMPLATE_ID,
        "WorkerSecurityGroupId": GROUP,
        "WorkerSubnetArns": ",".join(f"{place}{subnet}" for subnet in SUBNETS),
        "WorkerKeyName": f"ec2spawner-{CLUSTER}",
        "BuilderRoleArn": BUILDER,
        "PrivateImageArn": f"arn:aws:ec2:{REGION}::image/ami-private-base",
        "UsesSpot": "yes",
        **changes,
    }


def manager_policy(**changes: str) -> Policy:
    """The manager's policy for the cluster of the stories."""
    text = (TEMPLATES / "manager.yaml").read_text()
    return merged(role_policies(text, PLACE, manager_parameters(**changes))["ManagerRole"])


def worker_template() -> dict[str, Any]:
    """The launch template's data, as the cluster's stack makes it."""
    template = read_template((TEMPLATES / "cluster.yaml").read_text())
    names = {"KeyName": f"ec2spawner-{CLUSTER}", "ImageId": IMAGE}
    more = {"WorkerSecurityGroup.GroupId": GROUP, **PLACE.names}
    data = template["Resources"]["WorkerTemplate"]["Properties"]["LaunchTemplateData"]
    resolved: dict[str, Any] = Resolver(template, {**names, **more}).resolve(data)
    return {**resolved, "ImageId": IMAGE}


class _CoreTags(Mapping[str, Mapping[str, str]]):
    """The tags of everything in an emulated EC2."""

    def __init__(self, core: EmulatedEC2) -> None:
        self._core = core

    def find(self, resource_id: str) -> Any:
        tables = (
            self._core.instances,
            self._core.volumes,
            self._core.snapshots,
            self._core.images,
            self._core.spot_requests,
        )
        return next((table[resource_id] for table in tables if resource_id in table), None)

    def __getitem__(self, resource_id: str) -> Mapping[str, str]:
        found = self.find(resource_id)
        if found is None:
            raise KeyError(resource_id)
        tags: Mapping[str, str] = found.tags
        return tags

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass
class Judge:
    """Judges the calls of a hub by a policy; what is denied and which statements were needed."""

    policy: Policy
    denied: list[str] = field(default_factory=list)
    needed: set[str] = field(default_factory=set)
    requests: set[Request] = field(default_factory=set)
    calls: int = 0

    def ask(self, requests: list[Request]) -> Decision:
        """The decision on one call, noted."""
        decision = decide_all(self.policy, requests)
        self.calls += 1
        self.requests.update(requests)
        self.needed.update(decision.sids if decision.is_allowed else ())
        if not decision.is_allowed:
            wrong = [r for r in requests if not decide_all(self.policy, [r]).is_allowed]
            self.denied.append(f"{wrong}")
        return decision

    def watch(self, core: EmulatedEC2) -> None:
        """Judge every call to an emulated EC2 from now on."""
        tags = _CoreTags(core)
        world = World(REGION, ACCOUNT_ID, tags, {TEMPLATE_ID: worker_template()}, _facts(tags))
        call = core.call

        def judged(action: str, params: Mapping[str, Any]) -> dict[str, Any]:
            core.settle()
            if all(tags.find(i) for i in named(params)):
                self.ask(requests_of(world, "ec2", action, params))
            return call(action, params)

        core.call = judged  # type: ignore[method-assign]


def named(params: Mapping[str, Any]) -> list[str]:
    """Ids of what a call is about; of what is gone, AWS says so, or that it may not be told."""
    ids = [
        i
        for key in ("InstanceIds", "SpotInstanceRequestIds", "Resources")
        for i in params.get(key) or ()
    ]
    keys = ("InstanceId", "VolumeId", "SnapshotId")
    return [*ids, *(params[key] for key in keys if params.get(key))]


def _facts(tags: _CoreTags) -> Any:
    def facts(resource_id: str) -> dict[str, str]:
        found = tags.find(resource_id)
        if resource_id.startswith("ami-"):
            return {"ec2:Public": str(found.is_public).lower()}
        if resource_id.startswith("i-"):
            return {"ec2:InstanceMarketType": "spot" if found.is_spot else "on-demand"}
        if resource_id.startswith("vol-"):
            encrypted = {"ec2:Encrypted": str(found.encrypted).lower()}
            parent = {"ec2:ParentSnapshot": found.snapshot_id} if found.snapshot_id else {}
            return {**encrypted, **parent, "ec2:VolumeType": found.volume_type}
        return {}

    return facts


def judged_story(judge: Judge) -> type[Story]:
    """Stories whose every call is judged."""

    class Judged(Story):
        def __init__(self) -> None:
            self._is_watched = False
            super().__init__()

        def do(self, work: Any, seconds: float = 0.0) -> None:
            if not self._is_watched:  # at the first step, before the hub sends anything
                self._is_watched = True
                judge.watch(self.core)
            super().do(work, seconds)

    return Judged
