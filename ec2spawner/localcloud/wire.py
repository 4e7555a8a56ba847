"""EC2's query protocol: form parameters to boto3-shaped dicts, and results to XML.

Owns the translation, driven by botocore's own description of EC2, with one small function
compiled per shape so that thousands of instances are written quickly. Must not know any action.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from ec2spawner.localcloud.ec2.failures import EC2Error

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
Writer = Callable[[Any], str]
_ESCAPES = {'"': "&quot;", "\r": "&#xD;", "\n": "&#xA;"}


@lru_cache(maxsize=1)
def service_model() -> Any:
    """botocore's description of EC2."""
    import botocore.loaders
    import botocore.model

    description = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    return botocore.model.ServiceModel(description)


def parse_form(body: str) -> dict[str, str]:
    """The flat parameters of a request's body or query string."""
    return dict(parse_qsl(body, keep_blank_values=True))


def parse_params(action: str, flat: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of an action as boto3's caller gave them."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        if name in ("Action", "Version"):
            continue
        node = tree
        *parents, last = name.split(".")
        for part in parents:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                child = node[part] = {"": child}
            node = child
        node[last] = value
    shape = service_model().operation_model(action).input_shape
    return _read_structure(shape, tree) if shape is not None else {}


def _query_name(member: Any, name: str) -> str:
    given = member.serialization.get("queryName")
    if given:
        return str(given)
    name = member.serialization.get("name", name)
    return name[:1].upper() + name[1:]


def _read_structure(shape: Any, tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {}
    result = {}
    for name, member in shape.members.items():
        key = _query_name(member, name)
        if key in tree:
            result[name] = _read(member, tree[key])
    return result


def _read(shape: Any, node: Any) -> Any:
    kind = shape.type_name
    if kind == "structure":
        return _read_structure(shape, node)
    if kind == "list":
        if not isinstance(node, dict):
            return []
        ordered = sorted(((int(k), v) for k, v in node.items() if k.isdigit()), key=lambda p: p[0])
        return [_read(shape.member, v) for _, v in ordered]
    return _read_scalar(kind, node)


def _read_scalar(kind: str, text: Any) -> Any:
    try:
        if kind in ("integer", "long"):
            return int(text)
        if kind in ("float", "double"):
            return float(text)
    except (TypeError, ValueError) as error:
        raise EC2Error("InvalidParameterValue", f"Invalid integer value {text}") from error
    if kind == "boolean":
        return str(text).lower() == "true"
    if kind == "blob":
        return base64.b64decode(text)
    return text


def render(action: str, result: Mapping[str, Any], request_id: str) -> bytes:
    """The XML of an action's result."""
    shape = service_model().operation_model(action).output_shape
    inner = _structure_writer_of(shape)(result) if shape is not None else "<return>true</return>"
    if shape is not None and not shape.members:
        inner = "<return>true</return>"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{NAMESPACE}">'
        f"<requestId>{request_id}</requestId>{inner}</{action}Response>"
    ).encode()


def render_error(code: str, message: str, request_id: str) -> bytes:
    """The XML of an EC2 error."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
        f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    ).encode()


_WRITERS: dict[str, Writer] = {}


def _structure_writer_of(shape: Any) -> Writer:
    """The writer of a structure's members, made once per shape (shapes may be recursive)."""
    known = _WRITERS.get(shape.name)
    if known is None:
        known = _WRITERS[shape.name] = _make_structure_writer(shape)
    return known


def _make_structure_writer(shape: Any) -> Writer:
    members: list[tuple[str, Writer]] | None = None

    def write(value: Any) -> str:
        nonlocal members
        if members is None:
            members = [
                (name, _element_writer(member, member.serialization.get("name", name)))
                for name, member in shape.members.items()
            ]
        parts = []
        for name, writer in members:
            item = value.get(name)
            if item is not None:
                parts.append(writer(item))
        return "".join(parts)

    return write


def _element_writer(shape: Any, tag: str) -> Writer:
    opening, closing = f"<{tag}>", f"</{tag}>"
    kind = shape.type_name
    if kind == "structure":
        inner = _structure_writer_of(shape)
        return lambda v: f"{opening}{inner(v)}{closing}"
    if kind == "list":
        item = _element_writer(shape.member, shape.member.serialization.get("name", "item"))
        if shape.serialization.get("flattened"):
            return lambda v: "".join([item(one) for one in v])
        return lambda v: f"{opening}{''.join([item(one) for one in v])}{closing}"
    if kind == "boolean":
        return lambda v: f"{opening}{'true' if v else 'false'}{closing}"
    if kind == "timestamp":
        return lambda v: f"{opening}{_timestamp(v)}{closing}"
    if kind == "blob":
        return lambda v: f"{opening}{base64.b64encode(v).decode()}{closing}"
    return lambda v: f"{opening}{escape(str(v), _ESCAPES)}{closing}"


@lru_cache(maxsize=4096)
def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
