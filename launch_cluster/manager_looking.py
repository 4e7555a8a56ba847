"""Looks at AWS for what the manager's plan is made from; changes nothing.

Owns the questions and how their answers are read. Must not decide or print results.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from ec2spawner.cloud import Gateway
from ec2spawner.errors import Denied, NotFound
from ec2spawner.manager.place import CHOICES_KEY, REFRESH_KEY, SERVER_CONFIG_KEY

from . import looking
from .entry import client_parameters
from .facts import Facts, ImageFacts, ManagerFacts, StackFacts, TypeFacts
from .hosting import lives
from .hubdata import find_data
from .planning import wanted_subnets
from .request import UpRequest
from .stacks import Stacks


async def look_at_manager(
    gateway: Gateway, stacks: Stacks, request: UpRequest, facts: Facts
) -> ManagerFacts | None:
    """What the manager has, or could have; None if none is asked for."""
    if request.manager is None:
        return None
    stack = await stacks.find(request.manager_stack)
    kind = await looking.look_at_type(gateway, request.choices.MANAGER_INSTANCE_TYPE)
    public = wanted_subnets(request, facts.network, facts.cluster)[1]
    files = await _files(gateway, facts.cluster)
    known = ManagerFacts(
        stack=stack,
        kind=kind,
        zone=facts.subnets[public].zone if public and public in facts.subnets else "",
        has_key=await _has_key(gateway, request.manager.key_name),
        files=files,
        is_refresh_due=REFRESH_KEY in files,
        lacks=await find_lacking(gateway, request.cluster),
    )
    if (stack is None or stack.is_remains) and not request.manager.has_new_data:
        known = replace(known, data=await find_data(gateway, request.cluster))
    is_kept = stack and lives(known) and not request.manager.may_be_replaced
    old = stack.parameters.get("ImageId") if stack and is_kept else None
    return replace(known, image=await _image(gateway, request.base_ami, old, kind))


async def find_lacking(gateway: Gateway, cluster: str) -> tuple[str, ...]:
    """The SSM parameters of the OAuth client that are not there; () if it is refused to ask."""
    names = client_parameters(cluster)
    try:
        reply = await gateway.call("ssm", "get_parameters", {"Names": list(names)})
    except Denied:
        return ()
    there = {parameter["Name"] for parameter in reply["Parameters"]}
    return tuple(name for name in names if name not in there)


async def _image(
    gateway: Gateway, named: str | None, old: str | None, kind: TypeFacts | None
) -> ImageFacts | None:
    """The one in use, else BASE_AMI if it runs there, else the newest Ubuntu 24.04.

    BASE_AMI is named for the workers, which may have another architecture.
    """
    if old is not None:
        return await looking.describe_image(gateway, old)
    if kind is None:
        return None
    if named:
        image = await looking.describe_image(gateway, named)
        if image and image.architecture in kind.architectures:
            return image
    newest = await looking.newest_ubuntu(gateway, kind)
    return await looking.describe_image(gateway, newest) if newest else None


async def _has_key(gateway: Gateway, name: str | None) -> bool:
    if not name:
        return True
    return bool(
        await looking.described(gateway, "describe_key_pairs", "KeyPairs", "key-name", [name])
    )


async def _files(gateway: Gateway, cluster: StackFacts | None) -> MappingProxyType[str, str]:
    bucket = cluster.outputs.get("Bucket") if cluster and cluster.is_usable else None
    found: dict[str, str] = {}
    for key in (SERVER_CONFIG_KEY, CHOICES_KEY, REFRESH_KEY) if bucket else ():
        try:
            reply = await gateway.call("s3", "get_object", {"Bucket": bucket, "Key": key})
        except (NotFound, Denied):  # S3 denies what is not there to who may not list
            continue
        found[key] = bytes(reply["Body"]).decode(errors="replace")
    return MappingProxyType(found)
