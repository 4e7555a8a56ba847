"""Mends of moto's CloudFormation: change sets that do what CloudFormation's do.

moto 5.2.5 leaves a stack made by a change set without outputs and tags, forgets new parameters and
tags at an update, overlooks changes of tags alone, makes a second stack of a name that is under
review, replaces a security group whose rules change, and leaves a failed creation half done.
Owns these mends; ``mends`` lists them for whoever installs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Mend = tuple[Any, str, Callable[[Any], Any]]
"""A class, the name of its method, and what makes the mended method of the original."""


RECREATIONS = ("Never", "Conditionally", "Always")
_ALWAYS: dict[str, tuple[str, ...]] = {
    "AWS::EC2::EIPAssociation": ("AllocationId", "NetworkInterfaceId"),
    "AWS::EC2::Instance": ("ImageId", "KeyName", "NetworkInterfaces", "SubnetId"),
    "AWS::EC2::LaunchTemplate": ("LaunchTemplateName",),
    "AWS::EC2::NetworkInterface": ("SubnetId", "PrivateIpAddress"),
    "AWS::EC2::SecurityGroup": ("GroupName", "GroupDescription", "VpcId"),
    "AWS::EC2::SecurityGroupIngress": ("CidrIp", "FromPort", "GroupId", "IpProtocol", "ToPort"),
    "AWS::EC2::Subnet": ("AvailabilityZone", "CidrBlock", "VpcId"),
    "AWS::EC2::VPC": ("CidrBlock",),
    "AWS::EC2::Volume": ("AvailabilityZone", "Encrypted", "SnapshotId"),
    "AWS::EC2::VolumeAttachment": ("Device", "InstanceId", "VolumeId"),
    "AWS::S3::Bucket": ("BucketName",),
}
_CONDITIONALLY = {"AWS::EC2::Instance": ("BlockDeviceMappings", "InstanceType", "UserData")}
"""Properties whose change makes another resource, always or under conditions (CloudFormation's
resource schemas, ``createOnlyProperties`` and ``conditionalCreateOnlyProperties``, 2026)."""


def recreation_of(kind: str, key: str) -> str:
    """Whether a change of a property makes another resource, in CloudFormation's words."""
    if key in _ALWAYS.get(kind, ()):
        return "Always"
    return "Conditionally" if key in _CONDITIONALLY.get(kind, ()) else "Never"


def mends() -> list[Mend]:
    """What to replace in moto, in this order."""
    from moto.cloudformation.models import CloudFormationBackend
    from moto.cloudformation.parsing import ResourceMap
    from moto.cloudformation.responses import CloudFormationResponse
    from moto.ec2.models.security_groups import SecurityGroup

    return [
        (CloudFormationBackend, "create_change_set", _create_change_set),
        (CloudFormationBackend, "execute_change_set", _execute_change_set),
        (CloudFormationBackend, "delete_change_set", _delete_change_set),
        (ResourceMap, "build_resource_diff", _build_resource_diff),
        (ResourceMap, "update", _update),
        (CloudFormationResponse, "_validate_different_update", lambda original: _let_pass),
        (SecurityGroup, "create_from_cloudformation_json", _with_ports),
        (SecurityGroup, "update_from_cloudformation_json", lambda o: classmethod(_keep_group)),
    ]


def _let_pass(*arguments: Any) -> None:
    """An empty change set is made, and says so by its status."""


def _create_change_set(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_change_set(backend: Any, **given: Any) -> Any:
        same = [s for s in backend.stacks.values() if s.name == given["stack_name"]]
        if given["change_set_type"] == "CREATE":
            _make_room(backend, same)
        reply = original(backend, **given)
        _look_again(backend.change_sets[reply[0]], is_new=given["change_set_type"] == "CREATE")
        return reply

    return create_change_set


def _make_room(backend: Any, same: list[Any]) -> None:
    from moto.cloudformation.exceptions import ValidationError

    for stack in same:
        if stack.status != "REVIEW_IN_PROGRESS":
            raise ValidationError(
                stack.name, f"Stack [{stack.name}] already exists and cannot be created again"
            )
        del backend.stacks[stack.stack_id]
        _forget(backend, stack)


def _look_again(change_set: Any, *, is_new: bool) -> None:
    """Find the changes that parameters and tags alone make; moto compares templates."""
    from moto.cloudformation.models import Change

    stack = change_set.stack
    resources = change_set.template_dict["Resources"]
    names = stack.resource_map.build_resource_diff(change_set.template_dict, change_set.parameters)
    if is_new:
        change_set.changes = [Change("Add", n, resources[n]["Type"]) for n in names["Add"]]
        return
    tags_differ = dict(stack.tags or {}) != dict(change_set.tags or {})
    if tags_differ:
        touched = {name for found in names.values() for name in found}
        there = stack.resource_map._parsed_resources
        names["Modify"] += [n for n in resources if n not in touched and n in there]
    old = stack.resource_map._resource_json_map
    change_set.changes = [
        Change(action, name, resources.get(name, old.get(name))["Type"])
        for action, found in names.items()
        for name in found
    ]
    following = _following(stack.resource_map, change_set.template_dict, change_set.parameters)
    for change in change_set.changes:
        if change.action == "Modify":
            _mark_replacement(change, stack.resource_map, following)
    if change_set.changes or stack.parameters != change_set.parameters:
        change_set.status, change_set.execution_status = "CREATE_COMPLETE", "AVAILABLE"
        change_set.status_reason = None


def _following(resource_map: Any, template: dict[str, Any], parameters: dict[str, str]) -> Any:
    """The map as it would be with another template and parameters, with what is there now."""
    from moto.cloudformation.parsing import ResourceMap

    following = ResourceMap(
        resource_map.stack_id,
        resource_map["AWS::StackName"],
        parameters,
        {},
        resource_map._region_name,
        resource_map._account_id,
        template,
        resource_map.cross_stack_resources,
    )
    there = resource_map._parsed_resources
    kept = {name: there[name] for name in resource_map._resource_json_map if name in there}
    later = {name: _ToBeMade() for name in template["Resources"] if name not in kept}
    following._parsed_resources.update({**later, **kept})
    following.load_mapping()
    following.load_parameters()
    following.load_conditions()
    return following


def _build_resource_diff(original: Callable[..., Any]) -> Callable[..., Any]:
    """moto overlooks resources that come and go because a condition changes."""

    def build_resource_diff(
        resource_map: Any, template: dict[str, Any], parameters: dict[str, str] | None = None
    ) -> Any:
        names = original(resource_map, template, parameters)
        if parameters is None:
            return names
        conditions = _following(resource_map, template, parameters).lazy_condition_map
        there = resource_map._parsed_resources
        for name, resource in template["Resources"].items():
            is_wanted = "Condition" not in resource or conditions[resource["Condition"]]
            was_there = name in resource_map._resource_json_map and name in there
            action = "Modify" if was_there and is_wanted else "Add" if is_wanted else "Remove"
            if action == "Modify":
                continue
            for found in names.values():
                if name in found:
                    found.remove(name)
            if action == "Add" or was_there:
                names[action].append(name)
        return names

    return build_resource_diff


def _update(original: Callable[..., None]) -> Callable[..., None]:
    """What an update has removed is forgotten, and made anew if a later one wants it again."""

    def update(
        resource_map: Any, template: dict[str, Any], parameters: dict[str, str] | None = None
    ) -> None:
        gone = list(resource_map.build_resource_diff(template, parameters)["Remove"])
        before = resource_map._template
        try:
            original(resource_map, template, parameters)
        finally:
            if resource_map._template is not before or not gone:
                for name in gone:
                    resource_map._parsed_resources.pop(name, None)

    return update


class _ToBeMade:
    """Stands for a resource that is not there yet, where another one refers to it."""

    physical_resource_id = "(known later)"

    def get_cfn_attribute(self, attribute_name: str) -> str:
        return self.physical_resource_id


def _mark_replacement(change: Any, now: Any, following: Any) -> None:
    """Say whether CloudFormation would make another resource, and for which properties."""
    from moto.cloudformation.parsing import clean_json

    name = change.logical_resource_id
    old = clean_json(now._resource_json_map[name].get("Properties", {}), now)
    new = clean_json(following._resource_json_map[name].get("Properties", {}), following)
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    needs = {key: recreation_of(change.resource_type, key) for key in changed}
    worst = max(needs.values(), key=RECREATIONS.index, default="Never")
    change.replacement = {"Never": "False", "Conditionally": "Conditional", "Always": "True"}[worst]
    change.details = [
        {"Target": {"Attribute": "Properties", "Name": key, "RequiresRecreation": need}}
        for key, need in sorted(needs.items())
    ]


def _execute_change_set(original: Callable[..., Any]) -> Callable[..., Any]:
    def execute_change_set(
        backend: Any, change_set_name: str, stack_name: str | None = None
    ) -> None:
        change_set = backend.describe_change_set(change_set_name)
        stack = change_set.stack
        before = stack.resource_map._template, dict(stack.resource_map.input_parameters), stack.tags
        stack.tags = dict(change_set.tags or {})
        _forget(backend, stack, but=change_set)
        try:
            original(backend, change_set_name, stack_name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the stack has failed by it
            _fail(backend, stack, change_set, error, before)
            return
        stack.parameters = change_set.parameters
        stack._parse_template()
        stack.description = stack.template_description
        stack.output_map = stack._create_output_map()
        _tag_resources(stack)

    return execute_change_set


def _forget(backend: Any, stack: Any, but: Any = None) -> None:
    """Drop a stack's change sets: once one is executed, the others do not hold any more."""
    for ident, change_set in list(backend.change_sets.items()):
        if change_set.stack is stack and change_set is not but:
            del backend.change_sets[ident]


def _delete_change_set(original: Callable[..., Any]) -> Callable[..., Any]:
    """One that is not there is deleted already."""

    def delete_change_set(backend: Any, change_set_name: str) -> None:
        names = {c.change_set_name for c in backend.change_sets.values()}
        if change_set_name in names or change_set_name in backend.change_sets:
            original(backend, change_set_name)

    return delete_change_set


def _fail(backend: Any, stack: Any, change_set: Any, error: Exception, before: Any) -> None:
    """What ``OnStackFailure=DELETE`` makes of a failed creation, and a failed update's way back."""
    is_new = change_set.change_set_type == "CREATE"
    verb = "CREATE" if is_new else "UPDATE"
    stack._add_stack_event(f"{verb}_FAILED", resource_status_reason=str(error))
    if not is_new:
        template, parameters, stack.tags = before
        stack.resource_map.update(template, parameters)
        stack.status = "UPDATE_ROLLBACK_COMPLETE"
        return
    stack.resource_map.delete()
    stack.status = "DELETE_COMPLETE"
    backend.deleted_stacks[stack.stack_id] = backend.stacks.pop(stack.stack_id)


def _tag_resources(stack: Any) -> None:
    """A stack's tags are passed on to its resources."""
    from moto.ec2.models.core import TaggedEC2Resource

    parsed = stack.resource_map._parsed_resources
    found: list[Any] = [parsed.get(name) for name in stack.resource_map._resource_json_map]
    for resource in [r for r in found if isinstance(r, TaggedEC2Resource)]:
        _add_tags(resource, stack.tags)
    for resource in [r for r in found if hasattr(r, "add_stack_tags")]:
        resource.add_stack_tags(stack.tags)


def _add_tags(resource: Any, tags: dict[str, str]) -> None:
    own = resource.ec2_backend.tags.get(resource.id, {})
    resource.ec2_backend.create_tags([resource.id], {**own, **tags})


def _with_ports(original: Any) -> Any:
    """A rule for all protocols has no ports, which moto cannot do without."""

    def create(
        cls: type[Any], /, resource_name: str, cloudformation_json: Any, *args: Any, **more: Any
    ) -> Any:
        for rule in cloudformation_json["Properties"].get("SecurityGroupIngress", ()):
            if str(rule["IpProtocol"]) == "-1":
                rule.update(FromPort=-1, ToPort=-1)
        return original.__func__(cls, resource_name, cloudformation_json, *args, **more)

    return classmethod(create)


def _keep_group(
    cls: Any,
    original_resource: Any,
    new_resource_name: str,
    cloudformation_json: Any,
    account_id: str,
    region_name: str,
) -> Any:
    """A group stays the group it is; rules that are new are added to it."""
    backend = original_resource.ec2_backend
    for rule in cloudformation_json["Properties"].get("SecurityGroupIngress", []):
        source = rule.get("SourceSecurityGroupId")
        ports = rule.get("FromPort", -1), rule.get("ToPort", -1)
        wanted = (str(rule["IpProtocol"]), str(ports[0]), str(ports[1]))
        have = {
            (str(r.ip_protocol), str(r.from_port), str(r.to_port))
            for r in original_resource.ingress_rules
        }
        if wanted not in have:
            backend.authorize_security_group_ingress(
                group_name_or_id=original_resource.id,
                ip_protocol=rule["IpProtocol"],
                from_port=ports[0],
                to_port=ports[1],
                ip_ranges=rule.get("CidrIp", []),
                source_groups=[{"GroupId": source}] if source else [],
                vpc_id=original_resource.vpc_id,
            )
    return original_resource
