"""The control endpoint ``/_localcloud/``: look into the cloud, and make things go wrong.

Owns its paths and their JSON; documented in docs/localcloud.md. A request that cannot be gets a
400 with words. Must not know HTTP servers.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

from ec2spawner.localcloud import upgrades
from ec2spawner.localcloud.cloud import EmulatedCloud
from ec2spawner.localcloud.ec2 import builders, health, spot
from ec2spawner.localcloud.ec2.capacity import CapacityFormatError
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.lifecycle import USER_STOP, begin_terminate, recover
from ec2spawner.localcloud.ec2.records import Instance
from ec2spawner.localcloud.faults import OUTAGES, FaultFormatError
from ec2spawner.localcloud.front import Reply
from ec2spawner.localcloud.machines import Machines
from ec2spawner.model import TAG_OWNER, TAG_ROLE, InstanceState, Role

NOTICE_SECONDS = 120
"""How long before its end EC2 tells a spot instance (EC2 user guide, "Spot Instance interruption
notices", 2026)."""

PATHS = {
    "GET state": "instances, volumes, snapshots, images, spot requests, owners",
    "GET calls": "count per action and outcome",
    "POST calls/reset": "count from zero",
    "GET faults": "rules in force",
    "POST faults": "add a rule",
    "DELETE faults": "take all rules and the outage back",
    "DELETE faults/ID": "take one rule back",
    "POST outage": '{"on": true, "kind": "refuse" | "never-answer" | "error"}',
    "GET capacity": "what can run",
    "POST capacity": "set it",
    "GET timings": "how long things take",
    "POST timings": "change some",
    "POST workers/INSTANCE/ACTION": "see GET workers",
    "GET workers": "actions on workers",
    "POST builders/next": '{"fault": "fail" | "hang" | "silent", "count": 1}: of the next builders',
    "POST managers/next": '{"fault": "fail" | "hang", "count": 1}: of the next upgrades',
    "POST workers/hang-boots": '{"count": 1}: the next boots never answer',
}


class ControlError(Exception):
    """A request that cannot be; ``status`` is 400 or 404."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Control:
    """Answers requests below ``/_localcloud/``."""

    def __init__(
        self,
        cloud: EmulatedCloud,
        machines: Machines | None,
        upgrade_faults: list[str] | None = None,
    ) -> None:
        self._cloud = cloud
        self._machines = machines
        self._upgrade_faults = upgrade_faults if upgrade_faults is not None else []
        self._capacity: Any = {}

    def __call__(self, method: str, path: str, body: bytes) -> Reply:
        """Answer one request; ``path`` is what follows the prefix."""
        try:
            result = self._route(method, path.strip("/").split("/"), body)
            status = 200
        except ControlError as error:
            result, status = {"error": str(error)}, error.status
        except (FaultFormatError, CapacityFormatError, ValueError) as error:
            result, status = {"error": str(error)}, 400
        except queue.Empty:
            result, status = {"error": "the machines are busy; try again"}, 503
        text = json.dumps(result, indent=1, default=str).encode() + b"\n"
        return Reply(status, text, [("Content-Type", "application/json")])

    def _route(self, method: str, parts: list[str], body: bytes) -> Any:
        if parts == [""]:
            return {"paths": PATHS}
        if parts[0] == "workers" and len(parts) == 3 and method == "POST":
            return self._on_worker(parts[1], parts[2], _read(body))
        if parts[0] == "faults" and len(parts) == 2 and method == "DELETE":
            return self._delete_fault(parts[1])
        routes: dict[str, Callable[[Any], Any]] = {
            "GET state": lambda d: self.state(),
            "GET calls": lambda d: {"calls": self._cloud.trouble.calls()},
            "POST calls/reset": lambda d: self._reset_calls(),
            "GET faults": lambda d: self._faults(),
            "POST faults": lambda d: asdict(self._cloud.trouble.add(d)),
            "DELETE faults": lambda d: self._clear_faults(),
            "POST outage": self._set_outage,
            "GET capacity": lambda d: self._show_capacity(),
            "POST capacity": self._set_capacity,
            "GET timings": lambda d: asdict(self._cloud.timings),
            "POST timings": self._set_timings,
            "GET workers": lambda d: {"actions": WORKER_ACTIONS},
            "POST workers/hang-boots": self._hang_boots,
            "POST builders/next": self._spoil_builders,
            "POST managers/next": self._spoil_upgrades,
        }
        found = routes.get(f"{method} {'/'.join(parts)}")
        if found is None:
            known = {p.partition(" ")[2] for p in PATHS}
            wrong_method = "/".join(parts) in known
            what = f"{method} is not answered at" if wrong_method else "there is no"
            raise ControlError(f"{what} {'/'.join(parts)}; see GET /_localcloud/", 404)
        return found(_read(body) if method == "POST" else None)

    def state(self) -> dict[str, Any]:
        """Everything there is, and whose it is."""
        with self._cloud.lock:
            self._cloud.settle()
            cores = list(self._cloud.cores.values())
            instances = [self._instance(c, i) for c in cores for i in c.instances.values()]
            volumes = [self._row(c, v) for c in cores for v in c.volumes.values()]
            snapshots = [self._row(c, s) for c in cores for s in c.snapshots.values()]
            images = [self._row(c, i) for c in cores for i in c.images.values() if not i.is_public]
            requests = [self._row(c, r) for c in cores for r in c.spot_requests.values()]
        owners: dict[str, dict[str, list[str]]] = {}
        for kind, rows in (("instances", instances), ("volumes", volumes)):
            for row in rows:
                owner = row["tags"].get(TAG_OWNER)
                if owner and row["state"] != "terminated":
                    mine = owners.setdefault(owner, {"instances": [], "volumes": []})
                    mine[kind].append(row["id"])
        return {
            "now": self._cloud.clock(),
            "instances": instances,
            "volumes": volumes,
            "snapshots": snapshots,
            "images": images,
            "spot_requests": requests,
            "owners": owners,
        }

    def _instance(self, core: EmulatedEC2, instance: Instance) -> dict[str, Any]:
        row = self._row(core, instance)
        row["machine_is_on"] = bool(self._machines and self._machines.is_on(instance.id))
        return row

    @staticmethod
    def _row(core: EmulatedEC2, record: Any) -> dict[str, Any]:
        row: dict[str, Any] = {"region": core.region, **record.to_json()}
        row["state"] = getattr(record.state, "value", record.state)
        for name in ("user_data", "launch"):  # long, and of no interest here
            row.pop(name, None)
        return row

    def _reset_calls(self) -> dict[str, Any]:
        self._cloud.trouble.reset_calls()
        return {"calls": {}}

    def _faults(self) -> dict[str, Any]:
        trouble = self._cloud.trouble
        return {"faults": trouble.list(), "outage": trouble.outage}

    def _clear_faults(self) -> dict[str, Any]:
        self._cloud.trouble.clear()
        return self._faults()

    def _delete_fault(self, text: str) -> dict[str, Any]:
        if not text.isdigit() or not self._cloud.trouble.remove(int(text)):
            raise ControlError(f"there is no fault {text}; see GET faults", 404)
        return self._faults()

    def _set_outage(self, document: Any) -> dict[str, Any]:
        turned_on, kind = document.get("on"), document.get("kind", "refuse")
        if not isinstance(turned_on, bool):
            raise ControlError('outage takes {"on": true} or {"on": false}')
        if kind not in OUTAGES:
            raise ControlError(f"kind must be one of {', '.join(OUTAGES)}, not {kind!r}")
        self._cloud.trouble.outage = kind if turned_on else None
        return self._faults()

    def _show_capacity(self) -> dict[str, Any]:
        capacity = self._cloud.capacity.current()
        return {
            "rules": [asdict(rule) for rule in capacity.rules],
            "vcpu_quota": dict(capacity.vcpu_quota or {}),
            "address_quota": capacity.address_quota,
        }

    def _set_capacity(self, document: Any) -> dict[str, Any]:
        self._cloud.capacity.set(document)
        return self._show_capacity()

    def _set_timings(self, document: Any) -> dict[str, Any]:
        with self._cloud.lock:
            self._cloud.timings.change(document)
            return asdict(self._cloud.timings)

    def _hang_boots(self, document: Any) -> dict[str, Any]:
        count = document.get("count", 1)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ControlError(f"count must be a whole number from 0, not {count!r}")
        self._need_machines().hanging_boots = count
        return {"hanging_boots": count}

    def _spoil_builders(self, document: Any) -> dict[str, Any]:
        faults = _next_faults(document, builders.FAULTS)
        with self._cloud.lock:
            self._cloud.builder_faults[:] = faults
        return {"next_builders": faults}

    def _spoil_upgrades(self, document: Any) -> dict[str, Any]:
        self._upgrade_faults[:] = _next_faults(document, upgrades.FAULTS)
        return {"next_upgrades": list(self._upgrade_faults)}

    def _need_machines(self) -> Machines:
        if self._machines is None:
            raise ControlError("this cloud has no machines")
        return self._machines

    def _on_worker(self, instance_id: str, action: str, document: Any) -> dict[str, Any]:
        if action not in WORKER_ACTIONS:
            raise ControlError(f"unknown action {action!r}; known: {', '.join(WORKER_ACTIONS)}")
        core = self._core_of(instance_id)
        if action in ON_RECORD:
            return self._on_record(core, instance_id, action, document)
        if action in ("terminate", "power-off"):
            self._end_instance(core, instance_id, action)
            return {"instance": instance_id, "action": action}
        machines = self._need_machines()
        if not _has_machine(core, instance_id):
            raise ControlError(f"{instance_id} is no worker, so it has no machine")
        result: dict[str, Any] = {"instance": instance_id, "action": action}
        if action == "kill-server":
            result["killed"] = machines.kill_server(instance_id)
        elif action in ("cut-network", "restore-network"):
            machines.cut_network(instance_id, cut=action == "cut-network")
        elif action == "reboot":
            with self._cloud.lock:
                recover(core.instances[instance_id])
                core.touch(core.instances[instance_id])
                self._cloud.commit()
            machines.reboot(core, instance_id)
        elif action == "hang-boot":
            machines.reboot(core, instance_id, hang=True)
        elif action == "fresh-host-key":
            machines.fresh_host_key(core, instance_id)
        else:
            self._set_worker_fault(machines, instance_id, document)
        return result

    def _on_record(
        self, core: EmulatedEC2, instance_id: str, action: str, document: Any
    ) -> dict[str, Any]:
        """What EC2 itself is told; the machine, if there is one, follows."""
        with self._cloud.lock:
            self._cloud.settle()
            try:
                ON_RECORD[action](core, core.instances[instance_id], document)
            except EC2Error as error:
                raise ControlError(error.message) from error
            finally:
                self._cloud.commit()
        return {"instance": instance_id, "action": action}

    def _set_worker_fault(self, machines: Machines, instance_id: str, document: Any) -> None:
        allowed = {
            "ssh": ("refuse", "hang", "garbage", "endless"),
            "command": ("garbage", "endless", "hang", "fail"),
            "host_key": ("new",),
        }
        for name, value in document.items():
            if name not in allowed or value not in (None, *allowed[name]):
                raise ControlError(f"fault takes {allowed}, each of them or null; not {document}")
        for name, value in document.items():
            machines.set_fault(instance_id, name, value)

    def _core_of(self, instance_id: str) -> EmulatedEC2:
        with self._cloud.lock:
            for core in self._cloud.cores.values():
                if instance_id in core.instances:
                    return core
        raise ControlError(f"there is no instance {instance_id}; see GET state", 404)

    def _end_instance(self, core: EmulatedEC2, instance_id: str, action: str) -> None:
        with self._cloud.lock:
            self._cloud.settle()
            instance = core.instances[instance_id]
            if action == "terminate":
                begin_terminate(core, instance, USER_STOP)
            elif instance.state in (InstanceState.PENDING, InstanceState.RUNNING):
                core.powered_off(instance_id)
            else:
                raise ControlError(f"{instance_id} is {instance.state.value}, not running")
            self._cloud.commit()


def _next_faults(document: Any, known: Collection[str]) -> list[str]:
    fault, count = document.get("fault", "fail"), document.get("count", 1)
    if fault not in known:
        raise ControlError(f"fault must be one of {', '.join(known)}, not {fault!r}")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ControlError(f"count must be a whole number from 0, not {count!r}")
    return [fault] * count


def _impair(core: EmulatedEC2, instance: Instance, document: Any) -> None:
    check = document.get("check", "instance")
    if check not in health.CHECKS:
        raise ControlError(f"check must be one of {', '.join(health.CHECKS)}, not {check!r}")
    health.impair(core, instance, check)


def _interrupt(core: EmulatedEC2, instance: Instance, document: Any) -> None:
    seconds = document.get("seconds", NOTICE_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0:
        raise ControlError(f"seconds must be a number from 0, not {seconds!r}")
    spot.interrupt(core, instance, seconds)


ON_RECORD: dict[str, Callable[[EmulatedEC2, Instance, Any], None]] = {
    "impair": _impair,
    "interrupt": _interrupt,
    "panic": lambda core, instance, _: health.panic(core, instance),
    "stick": lambda core, instance, _: health.stick(core, instance),
    "heal": lambda core, instance, _: health.heal(core, instance),
}

WORKER_ACTIONS = {
    "kill-server": "kill the notebook server; the machine stays on",
    "power-off": "the machine shuts itself down: the instance goes to stopped",
    "terminate": "as somebody in the console would",
    "reboot": "the machine boots again",
    "hang-boot": "the machine boots again and never answers SSH; reboot mends it",
    "cut-network": "connections are taken and never answered",
    "restore-network": "they are answered again",
    "fresh-host-key": "the machine boots again with another SSH host key",
    "fault": '{"ssh": "hang"}, {"command": "garbage"}, ...; null takes it back',
    "impair": '{"check": "instance" | "system" | "ebs"}: this status check fails',
    "interrupt": '{"seconds": 120}: EC2 takes a spot instance back after that notice',
    "panic": "the kernel panics: silence, and a while later the status check fails",
    "stick": "its stop, now or later, does not end: it stays in stopping",
    "heal": "takes back impair, panic and stick",
}


def _has_machine(core: EmulatedEC2, instance_id: str) -> bool:
    return core.instances[instance_id].tags.get(TAG_ROLE) == Role.WORKER.value


def _read(body: bytes) -> Any:
    if not body.strip():
        return {}
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ControlError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ControlError("the body must be a JSON object")
    return document
