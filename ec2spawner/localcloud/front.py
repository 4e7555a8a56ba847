"""The cloud's front door: which call a request is, whether it is let in, and who answers it.

Owns the WSGI application: outage, faults, throttling and counting around every AWS call; EC2's own
actions go to the semantics, the rest to moto, ``/_localcloud/`` to the control endpoint.
"""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from ec2spawner.localcloud import price_list, run_command, service_quotas, simulation, wire
from ec2spawner.localcloud.cloud import EmulatedCloud
from ec2spawner.localcloud.ec2.emulated import ACTIONS
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.faults import Fault
from ec2spawner.localcloud.motoside import import_moto
from ec2spawner.localcloud.run_command import Agents

log = logging.getLogger(__name__)

CONTROL_PREFIX = "/_localcloud"
DEFAULT_REGION = "us-east-1"
_CREDENTIAL = re.compile(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/")
_READING = re.compile(r"(Describe|Get|List|Head|Lookup|Estimate|Validate|Detect)")
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class ConnectionLost(ConnectionResetError):
    """The connection ends here, without a reply. The server closes it; nothing is written."""


class NeverAnswered(ConnectionLost):
    """Like ConnectionLost, after a long silence."""


@dataclass
class Call:
    """One AWS call, as far as the front looks into it."""

    service: str
    region: str
    action: str
    flat: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return not _READING.match(self.action)


@dataclass
class Reply:
    """A whole HTTP reply."""

    status: int
    body: bytes
    headers: list[tuple[str, str]]
    outcome: str = "ok"


def identify(environ: Environ, body: bytes) -> Call:
    """Which service, Region and action a request is for."""
    found = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    region, service = found.groups() if found else (DEFAULT_REGION, "")
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return Call(service, region, target.rpartition(".")[2], text=body.decode(errors="replace"))
    is_form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    text = body.decode(errors="replace") if is_form else environ.get("QUERY_STRING", "")
    flat = wire.parse_form(text)
    if "Action" in flat:
        return Call(service or "ec2", region, flat["Action"], flat, text)
    return Call(service or "s3", region, _s3_action(environ), text=environ.get("PATH_INFO", ""))


def _s3_action(environ: Environ) -> str:
    parts = environ.get("PATH_INFO", "/").strip("/").split("/", 1)
    noun = "Object" if len(parts) > 1 and parts[1] else "Bucket"
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    verb = {"PUT": "Put", "POST": "Post", "DELETE": "Delete", "HEAD": "Head"}.get(
        environ["REQUEST_METHOD"], "Get"
    )
    if verb == "Put" and noun == "Bucket" and not query:
        return "CreateBucket"
    if verb == "Get" and noun == "Bucket":
        return (
            "ListObjectsV2"
            if "list-type" in query
            else "ListBuckets"
            if not parts[0]
            else "GetBucket"
        )
    return verb + noun


class Front:
    """The WSGI application."""

    def __init__(
        self,
        cloud: EmulatedCloud,
        control: Callable[[str, str, bytes], Reply],
        pause: Callable[[float], bool] | None = None,
        agents: Agents | None = None,
    ) -> None:
        self._cloud = cloud
        self._control = control
        self._agents = agents
        self._moto: Any = None
        self.closing = threading.Event()
        self._pause = pause or self.closing.wait  # True: no need to wait any longer

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; ConnectionLost when there is to be no answer."""
        body = _read_body(environ)
        path = environ.get("PATH_INFO", "/")
        if path == "/" and "HTTP_AUTHORIZATION" not in environ and not body:
            reply = _welcome()
        elif path == CONTROL_PREFIX or path.startswith(CONTROL_PREFIX + "/"):
            reply = self._control(environ["REQUEST_METHOD"], path[len(CONTROL_PREFIX) :], body)
        else:
            reply = self._answer(identify(environ, body), environ)
        status = f"{reply.status} {_REASONS.get(reply.status, 'Status')}"
        headers = [h for h in reply.headers if h[0].lower() != "content-length"]
        if environ["REQUEST_METHOD"] != "HEAD":
            headers.append(("Content-Length", str(len(reply.body))))
        else:
            headers += [h for h in reply.headers if h[0].lower() == "content-length"]
        start_response(status, headers)
        return [reply.body]

    def _answer(self, call: Call, environ: Environ) -> Reply:
        trouble = self._cloud.trouble
        outcome = "failed"
        try:
            reply = self._with_faults(call, environ)
            outcome = reply.outcome
            return reply
        except NeverAnswered:
            outcome = "never-answered"
            raise
        except ConnectionLost:
            outcome = "reply-lost"
            raise
        finally:
            trouble.count(call.service, call.action, outcome)

    def _with_faults(self, call: Call, environ: Environ) -> Reply:
        outage = self._cloud.trouble.outage
        if outage:
            return self._out(call, outage)
        fault = self._cloud.trouble.take(call.service, call.action, call.text)
        if fault is None:
            return self._admit(call, environ)
        if fault.when == "before":
            replaced = self._carry_out(call, fault)
            return replaced or self._admit(call, environ)
        reply = self._admit(call, environ)
        return self._carry_out(call, fault) or reply

    def _out(self, call: Call, outage: str) -> Reply:
        if outage == "never-answer":
            self._wait_for_ever(lambda: self._cloud.trouble.outage is not None)
            raise NeverAnswered
        if outage == "error":
            return error_reply(call.service, "Unavailable", "The service is unavailable.", 503)
        raise ConnectionLost

    def _carry_out(self, call: Call, fault: Fault) -> Reply | None:
        if fault.fault == "lose-reply":
            raise ConnectionLost
        if fault.fault == "never-answer":
            self._wait_for_ever(lambda: True)
            raise NeverAnswered
        if fault.fault == "delay":
            self._pause(fault.seconds)
            return None
        if fault.fault == "throttle":
            code = "RequestLimitExceeded" if call.service == "ec2" else "ThrottlingException"
            return error_reply(call.service, code, "Request limit exceeded.", 503)
        return error_reply(call.service, fault.code, fault.message, fault.status)

    def _wait_for_ever(self, goes_on: Callable[[], bool]) -> None:
        end = time.monotonic() + 3600
        while goes_on() and time.monotonic() < end and not self._pause(0.2):
            pass

    def _admit(self, call: Call, environ: Environ) -> Reply:
        try:
            if self._cloud.throttle and call.service == "ec2":
                with self._cloud.lock:
                    self._cloud.throttle.admit(call.region, call.action, call.flat)
            if call.service == "ec2" and call.action in ACTIONS:
                return self._ask_core(call)
            if call.service == "servicequotas" and service_quotas.is_ours(call.action, call.text):
                return self._tell_quotas(call)
            if call.service == "iam" and call.action == simulation.ACTION:
                return _xml(200, simulation.answer(call.flat).encode())
            if call.service == "ssm" and call.action in run_command.ACTIONS and self._agents:
                return _json(200, run_command.answer(call.action, call.text, self._agents))
            if call.service == "pricing":
                return _json(200, price_list.answer(call.action, call.text))
            return self._ask_moto(call, environ)
        except EC2Error as error:
            return error_reply(call.service, error.code, error.message, error.status)
        except ConnectionLost:
            raise
        except Exception:  # the edge of a request: AWS answers its own faults with a 500, too
            log.exception("%s %s failed", call.service, call.action)
            return error_reply(call.service, "InternalError", "An internal error occurred.", 500)

    def _ask_core(self, call: Call) -> Reply:
        import_moto()
        params = wire.parse_params(call.action, call.flat)
        cloud = self._cloud
        with cloud.lock:
            cloud.load_moto()
            core = cloud.core(call.region)
            try:
                result = core.call(call.action, params)
            finally:
                others = call.action in ("CreateTags", "DeleteTags")
                cloud.commit(moto_changed=others and _tags_others(params))
        request_id = str(uuid.uuid4())
        return _xml(200, wire.render(call.action, result, request_id))

    def _tell_quotas(self, call: Call) -> Reply:
        capacity = self._cloud.capacity.current()
        result = service_quotas.answer(call.action, call.text, capacity, call.region)
        return _json(200, result)

    def warm_up(self) -> None:
        """Have moto ready for the first call."""
        with self._cloud.lock:
            self._cloud.load_moto()
            if self._moto is None:
                self._moto = _moto_application()

    def _ask_moto(self, call: Call, environ: Environ) -> Reply:
        import_moto()
        cloud = self._cloud
        with cloud.lock:
            self.warm_up()
            if call.service == "cloudformation":
                cloud.load_cloudformation()
            cloud.settle()
            cloud.core(call.region)
            try:
                reply = run_wsgi(self._moto, environ)
            finally:
                cloud.commit(moto_changed=call.changes)
        if reply.status >= 400:
            reply.outcome = _error_code(reply.body) or str(reply.status)
        return reply


def _welcome() -> Reply:
    text = b"ec2spawner's emulated cloud: an AWS endpoint. See /_localcloud/ for its controls.\n"
    return Reply(200, text, [("Content-Type", "text/plain")])


def _tags_others(params: Mapping[str, Any]) -> bool:
    own = ("i-", "vol-", "snap-", "ami-", "sir-")
    return any(not r.startswith(own) for r in params.get("Resources") or ())


def _moto_application() -> Any:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    return DomainDispatcherApplication(create_backend_app)


def run_wsgi(application: Any, environ: Environ) -> Reply:
    """Run a WSGI application within this request and take its whole reply."""
    taken: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        taken[:] = [int(status.split()[0]), headers]
        return lambda data: None

    parts = application(environ, start_response)
    try:
        body = b"".join(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()
    return Reply(taken[0], body, list(taken[1]))


def _read_body(environ: Environ) -> bytes:
    stream = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH")
    if length:
        body: bytes = stream.read(int(length))
    elif environ.get("wsgi.input_terminated"):
        body = stream.read()
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
    else:
        body = b""
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _xml(status: int, body: bytes, outcome: str = "ok") -> Reply:
    return Reply(status, body, [("Content-Type", "text/xml;charset=UTF-8")], outcome)


def _json(status: int, document: Mapping[str, Any], outcome: str = "ok") -> Reply:
    body = json.dumps(document).encode()
    return Reply(status, body, [("Content-Type", "application/x-amz-json-1.1")], outcome)


def error_reply(service: str, code: str, message: str, status: int) -> Reply:
    """An error in the form of the service's protocol."""
    request_id = str(uuid.uuid4())
    if service == "ec2":
        return _xml(status, wire.render_error(code, message, request_id), code)
    if service in ("ssm", "secretsmanager", "pricing", "servicequotas", "tagging"):
        return _json(status, {"__type": code, "message": message}, code)
    inner = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if service == "s3":
        text = f"<Error>{inner}<RequestId>{request_id}</RequestId></Error>"
    else:
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    return _xml(status, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode(), code)


def _error_code(body: bytes) -> str | None:
    found = re.search(rb"<Code>([^<]+)</Code>", body) or re.search(
        rb'"__type"\s*:\s*"(?:[^"#]*#)?([^"]+)"', body
    )
    return found[1].decode(errors="replace") if found else None
