"""Mends of moto where it falls short of AWS, and the way back.

Owns what must not be deleted while instances use it, addresses that are counted, Ubuntu's
parameters in SSM, and the order in which mends are made. moto's state is the process's, so a
process holds one emulated cloud.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ec2spawner.localcloud import motostate
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.images import ARCHITECTURES, ubuntu_image_id
from ec2spawner.localcloud.ec2.launch_plan import resolve_image
from ec2spawner.localcloud.motoside import MotoSurroundings

if TYPE_CHECKING:
    from ec2spawner.localcloud.ec2.emulated import EmulatedEC2

CANONICAL_PREFIX = "/aws/service/canonical/ubuntu/server/24.04/stable/current"


class Moto:
    """The process's moto, mended for the emulated cloud."""

    def __init__(self, cores: Mapping[str, EmulatedEC2]) -> None:
        self._cores = cores
        self._undo: list[Callable[[], None]] = []
        self._has_cloudformation = False

    def install(self) -> None:
        """Mend moto where it falls short; ``uninstall`` takes it back."""
        from moto.ec2.models.core import TaggedEC2Resource
        from moto.ec2.models.elastic_network_interfaces import NetworkInterfaceBackend
        from moto.ec2.models.launch_templates import LaunchTemplate
        from moto.ec2.models.security_groups import SecurityGroupBackend
        from moto.ec2.models.subnets import Subnet, SubnetBackend
        from moto.ssm.models import ParameterDict

        self._replace(TaggedEC2Resource, "get_tags", lambda original: _own_tags)
        self._replace(SubnetBackend, "delete_subnet", self._guarded_subnet)
        self._replace(NetworkInterfaceBackend, "delete_network_interface", self._guarded_interface)
        self._replace(SecurityGroupBackend, "delete_security_group", self._guarded_group)
        self._replace(LaunchTemplate, "create_version", lambda o: _with_known_image(o))
        self._replace(ParameterDict, "_check_loading_status", lambda o: _with_canonical(o))
        counted = property(self._count_addresses)
        self._replace(Subnet, "available_ip_address_count", lambda original: counted)

    def install_cloudformation(self) -> None:
        """Mend moto's CloudFormation, too; by itself, since importing it takes two seconds."""
        if self._has_cloudformation:
            return
        self._has_cloudformation = True
        import yaml

        from ec2spawner.localcloud import changesets, stackdeletion, stackresources

        self._replace(yaml, "Loader", _quick_loader)
        stackresources.bind(self._cores)
        mends = (*stackdeletion.mends(), *stackresources.mends(), *changesets.mends())
        for owner, name, make in mends:
            self._replace(owner, name, make)

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        if name not in owner.__dict__:  # what it only inherits is left to its base
            setattr(owner, name, make(None))
            self._undo.append(lambda: delattr(owner, name))
            return
        original = owner.__dict__[name]
        setattr(owner, name, make(original))
        self._undo.append(lambda: setattr(owner, name, original))

    def uninstall(self) -> None:
        """Take the mends back and forget moto's state."""
        for undo in reversed(self._undo):
            undo()
        self._undo = []
        self._has_cloudformation = False
        motostate.reset()

    def _guarded_subnet(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def delete_subnet(backend: Any, subnet_id: str) -> Any:
            if self._uses(backend, lambda i: i.subnet_id == subnet_id) or any(
                e.subnet.id == subnet_id for e in backend.get_all_network_interfaces()
            ):
                raise _dependency(
                    f"The subnet '{subnet_id}' has dependencies and cannot be deleted."
                )
            return original(backend, subnet_id)

        return delete_subnet

    def _guarded_interface(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def delete_network_interface(backend: Any, eni_id: str) -> Any:
            if self._uses(backend, lambda i: i.interface_id == eni_id):
                raise _client_error(
                    "InvalidNetworkInterface.InUse",
                    f"Network interface '{eni_id}' is currently in use.",
                )
            return original(backend, eni_id)

        return delete_network_interface

    def _guarded_group(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def delete_security_group(
            backend: Any, name: str | None = None, group_id: str | None = None
        ) -> Any:
            group = backend.get_security_group_by_name_or_id(group_id or name)
            if group and (
                self._uses(backend, lambda i: any(g[0] == group.id for g in i.groups))
                or _referenced(backend, group.id)
                or any(group in i.group_set for i in backend.get_all_network_interfaces())
            ):
                raise _dependency(f"resource {group.id} has a dependent object")
            return original(backend, name, group_id)

        return delete_security_group

    def _uses(self, backend: Any, test: Callable[[Any], bool]) -> bool:
        core = self._cores.get(backend.region_name)
        if core is None:
            return False
        core.settle()
        return any(i.private_ip and test(i) for i in core.instances.values())

    def _count_addresses(self, subnet: Any) -> int:
        core = self._cores.get(subnet.ec2_backend.region_name)
        info = MotoSurroundings(subnet.ec2_backend.region_name).info_of(subnet)
        return core.free_addresses(info) if core else int(subnet._available_ip_addresses)


def _dependency(message: str) -> Exception:
    return _client_error("DependencyViolation", message)


def _client_error(code: str, message: str) -> Exception:
    from moto.ec2.exceptions import EC2ClientError

    error: Exception = EC2ClientError(code, message)
    return error


def _with_known_image(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_version(template: Any, data: Any, description: str) -> Any:
        surroundings = MotoSurroundings(template.ec2_backend.region_name)
        try:
            resolve_image(surroundings, str(data.get("ImageId") or ""))
        except EC2Error as error:
            from moto.ec2.exceptions import EC2ClientError

            raise EC2ClientError(error.code, error.message) from error
        return original(template, data, description)

    return create_version


def _referenced(backend: Any, group_id: str) -> bool:
    others = [g for groups in backend.groups.values() for g in groups.values() if g.id != group_id]
    return any(
        rule.source_group.get("GroupId") == group_id
        for other in others
        for rule in (*other.ingress_rules, *other.egress_rules)
    )


def _own_tags(resource: Any) -> list[dict[str, str]]:
    """Tags looked up by id, where moto searches those of every resource."""
    from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

    if not resource.id:
        return []
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(resource.id), "")
    found = resource.ec2_backend.tags.get(resource.id, {})
    return [
        {"resource_id": resource.id, "key": k, "value": v, "resource_type": kind}
        for k, v in found.items()
    ]


def _with_canonical(original: Callable[..., None]) -> Callable[..., None]:
    def check(parameters: Any, key: str) -> None:
        original(parameters, key)
        if str(key or "").startswith("/aws/service/canonical") and not dict.__contains__(
            parameters, f"{CANONICAL_PREFIX}/amd64/hvm/ebs-gp3/ami-id"
        ):
            _add_canonical(parameters)

    return check


def _add_canonical(parameters: Any) -> None:
    import moto.ssm.models

    make: Any = moto.ssm.models.Parameter
    for architecture in ARCHITECTURES:
        name = f"{CANONICAL_PREFIX}/{architecture}/hvm/ebs-gp3/ami-id"
        parameter = make(
            account_id=parameters.account_id,
            name=name,
            value=ubuntu_image_id(parameters.region_name, architecture),
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=1_761_091_200.0,
            version=1,
            data_type="aws:ec2:image",
        )
        dict.__setitem__(parameters, name, [parameter])


def _quick_loader(original: Any) -> Any:
    """libyaml's, where there is one: most of what CloudFormation does is reading templates."""
    import yaml
    from moto.cloudformation.utils import yaml_tag_constructor

    if not yaml.__with_libyaml__:
        return original

    class Loader(yaml.CLoader):  # type: ignore[misc]  # its types are a package of their own
        pass

    Loader.add_multi_constructor("", yaml_tag_constructor)
    return Loader
