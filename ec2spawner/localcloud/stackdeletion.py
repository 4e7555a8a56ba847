"""Mends of moto's CloudFormation: what deleting a stack, and a bucket's policy, do on AWS.

moto 5.2.5 deletes no gateway, address, route table, route, association, endpoint or rule of a
stack, answers a failed deletion with that error, and forgets the stack; and it knows no conditions
of a bucket's policy. Owns these mends; ``mends`` lists them for whoever installs them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Mend = tuple[Any, str, Callable[[Any], Any]]
Deleter = Callable[[Any, Any], None]


def mends() -> list[Mend]:
    """What to replace in moto, in this order."""
    from moto.cloudformation.models import CloudFormationBackend
    from moto.cloudformation.parsing import ResourceMap
    from moto.ec2.models.subnets import SubnetBackend
    from moto.s3.models import FakeBucket

    return [
        (CloudFormationBackend, "delete_stack", _delete_stack),
        (ResourceMap, "_delete_resource", _delete_resource),
        (SubnetBackend, "create_subnet_association", _create_association),
        (FakeBucket, "get_permission", _get_permission),
    ]


def _delete_stack(original: Callable[..., None]) -> Callable[..., None]:
    def delete_stack(backend: Any, name_or_stack_id: str) -> None:
        found = [s for s in backend.stacks.values() if name_or_stack_id in (s.name, s.stack_id)]
        for stack in found:
            _retain(stack)
            try:
                original(backend, stack.stack_id)
            except Exception as error:  # noqa: BLE001 - whatever it is, the deletion failed by it
                stack.status, stack.stack_status_reason = "DELETE_FAILED", str(error)
                stack._add_stack_event("DELETE_FAILED", resource_status_reason=str(error))
                backend.stacks[stack.stack_id] = stack

    return delete_stack


def _retain(stack: Any) -> None:
    """moto knows one of the two policies that keep a resource when its stack goes."""
    for resource in stack.resource_map._resource_json_map.values():
        if resource.get("DeletionPolicy") == "RetainExceptOnCreate":
            resource["DeletionPolicy"] = "Retain"


def _delete_resource(original: Callable[..., None]) -> Callable[..., None]:
    def delete_resource(resources: Any, resource: Any, resource_json: dict[str, Any]) -> None:
        from moto.ec2.models import ec2_backends

        if resource_json.get("DeletionPolicy") == "Retain":  # an update has removed it
            return
        delete = _DELETERS.get(resource_json["Type"])
        if delete is None:
            original(resources, resource, resource_json)
            return
        delete(ec2_backends[resources._account_id][resources._region_name], resource)

    return delete_resource


def _delete_nat(backend: Any, nat: Any) -> None:
    nat.state = "deleted"
    for address in backend.addresses:
        if address.eni is nat._eni:
            address.eni = address.association_id = None
    backend.enis.pop(nat._eni.id, None)


def _delete_interface(backend: Any, interface: Any) -> None:
    if interface.id in backend.enis:  # moto's own guard takes a core's instances into account
        backend.delete_network_interface(interface.id)


def _delete_role(backend: Any, role: Any) -> None:
    type(role).delete_from_cloudformation_json(
        role.name, {}, backend.account_id, backend.region_name
    )


def _delete_policy(backend: Any, policy: Any) -> None:
    from moto.iam.models import iam_backends

    ours = iam_backends[backend.account_id]["aws"]
    for role in ours.roles.values():
        role.managed_policies.pop(policy.arn, None)
    ours.managed_policies.pop(policy.arn, None)


def _delete_address(backend: Any, address: Any) -> None:
    backend.release_address(allocation_id=address.allocation_id)


def _delete_gateway(backend: Any, gateway: Any) -> None:
    backend.delete_internet_gateway(gateway.id)


def _detach_gateway(backend: Any, attachment: Any) -> None:
    for gateway in backend.internet_gateways.values():
        if gateway.vpc and gateway.vpc.id == attachment.vpc_id:
            gateway.vpc = None


def _delete_table(backend: Any, table: Any) -> None:
    if table._associations:
        from moto.ec2.exceptions import EC2ClientError

        raise EC2ClientError("DependencyViolation", f"The routeTable '{table.id}' has dependencies")
    backend.route_tables.pop(table.id, None)


def _delete_route(backend: Any, route: Any) -> None:
    table = backend.route_tables.get(route.route_table.id)
    if table:
        table._routes.pop(route.id, None)


def _delete_association(backend: Any, association: Any) -> None:
    table = backend.route_tables.get(association.route_table_id)
    if table is None:
        return
    for key, subnet_id in list(table._associations.items()):
        if subnet_id == association.subnet_id:
            table._associations.pop(key)


def _delete_endpoint(backend: Any, endpoint: Any) -> None:
    backend.vpc_end_points.pop(endpoint.id, None)
    for table in backend.route_tables.values():
        for key, route in list(table._routes.items()):
            if getattr(route, "gateway", None) is endpoint or endpoint.id in str(key):
                table._routes.pop(key)


def delete_rule(backend: Any, rule: Any) -> None:
    """Take back a rule that is a resource of its own, so that the groups let go of each other."""
    wanted = rule.properties
    source, ports = wanted.get("SourceSecurityGroupId"), (wanted["FromPort"], wanted["ToPort"])
    rules = rule.security_group.ingress_rules
    for known in list(rules):
        same_ports = [str(known.from_port), str(known.to_port)] == [str(p) for p in ports]
        if same_ports and known.source_group.get("GroupId") == source:
            rules.remove(known)


_DELETERS: dict[str, Deleter] = {
    "AWS::EC2::NatGateway": _delete_nat,
    "AWS::EC2::EIP": _delete_address,
    "AWS::IAM::ManagedPolicy": _delete_policy,
    "AWS::IAM::Role": _delete_role,
    "AWS::EC2::NetworkInterface": _delete_interface,
    "AWS::EC2::InternetGateway": _delete_gateway,
    "AWS::EC2::VPCGatewayAttachment": _detach_gateway,
    "AWS::EC2::RouteTable": _delete_table,
    "AWS::EC2::Route": _delete_route,
    "AWS::EC2::SubnetRouteTableAssociation": _delete_association,
    "AWS::EC2::VPCEndpoint": _delete_endpoint,
    "AWS::EC2::SecurityGroupIngress": delete_rule,
}


def _create_association(original: Callable[..., Any]) -> Callable[..., Any]:
    """moto notes that the template asks for it; the route table shall know it, too."""

    def create_subnet_association(backend: Any, route_table_id: str, subnet_id: str) -> Any:
        backend.associate_route_table(route_table_id, subnet_id=subnet_id)
        return original(backend, route_table_id, subnet_id)

    return create_subnet_association


def _get_permission(original: Callable[..., Any]) -> Callable[..., Any]:
    """moto evaluates no conditions: a denial that has some must not deny everything."""

    def get_permission(bucket: Any, action: str, resource: str) -> Any:
        if bucket.policy is None:
            return original(bucket, action, resource)
        policy = json.loads(bucket.policy)
        policy["Statement"] = [s for s in policy["Statement"] if "Condition" not in s]
        from moto.iam.access_control import IAMPolicy, PermissionResult

        if not policy["Statement"]:
            return PermissionResult.NEUTRAL
        return IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource)

    return get_permission
