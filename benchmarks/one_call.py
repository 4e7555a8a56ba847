"""A spawner that makes its own AWS calls for each user, as the predecessors' do: a baseline.

A start makes its own RunInstances or StartInstances, and asks DescribeInstances again and again
until its own machine runs; each call is boto3's, blocking, in a thread, and repeated blindly when
it fails. It is a sound spawner otherwise: no fixed sleeps, tags in the launch itself, a client
token for each launch, and our own SSH link to the worker. Must not know the fleet.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from jupyterhub.spawner import Spawner

from ec2spawner.errors import WorkerUnreachable
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_CLUSTER,
    TAG_OWNER,
    TAG_ROLE,
    InstanceState,
    Owner,
    Role,
    Worker,
    parse_worker,
)
from ec2spawner.remote import WorkerLink
from ec2spawner.settings import ServerConfig, load_server_config

THREADS = 100
TRIES = 10
START_TRIES = 120
PAUSE_SECONDS = 1.0
"""These four are those of harvard/cloudJHub's ``spawner.py``, and each of its tries is boto3's own
five attempts (legacy mode), with the pauses of both."""
DESCRIBE_SECONDS = 2.0
"""Sooner than boto3's waiter, which the predecessor uses: every 15 s."""
SERVER_TIMEOUT_SECONDS = 120
RECONNECT_SECONDS = 0.5


class Calls:
    """AWS calls of one hub's spawners: one after the other for each, in threads for all."""

    def __init__(
        self, client: Any, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._client = client
        self._pause = pause
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="aws")

    async def make(self, operation: str, tries: int = TRIES, **params: Any) -> dict[str, Any]:
        """One call, made again whatever was wrong with it; raises the last failure."""
        loop = asyncio.get_running_loop()
        call = getattr(self._client, operation)
        for left in reversed(range(tries)):
            try:
                reply: dict[str, Any] = await loop.run_in_executor(
                    self._threads, lambda: call(**params)
                )
            except (ClientError, BotoCoreError):
                if not left:
                    raise
                await self._pause(PAUSE_SECONDS)
            else:
                return reply
        raise ValueError("tries must be positive")

    async def until_running(self, instance_id: str) -> Worker:
        """The instance, once it runs."""
        while (worker := await self.described(instance_id)).state is not InstanceState.RUNNING:
            await self._pause(DESCRIBE_SECONDS)
        return worker

    async def described(self, instance_id: str) -> Worker:
        """The instance as it is now."""
        reply = await self.make("describe_instances", InstanceIds=[instance_id])
        return parse_worker(reply["Reservations"][0]["Instances"][0])


@dataclass(frozen=True)
class Shared:
    """What all spawners of a hub have in common."""

    config: ServerConfig
    calls: Calls
    link: WorkerLink


class _Keys(dict[str, str]):
    """Host keys, pinned at the first contact."""

    def pinned(self, instance_id: str) -> str | None:
        """See ``remote.KeyStore``."""
        return self.get(instance_id)

    def pin(self, instance_id: str, key: str) -> None:
        """See ``remote.KeyStore``."""
        self[instance_id] = key


@cache
def shared() -> Shared:
    """Made once in a hub, for the cluster that EC2SPAWNER_CONFIG names."""
    config, _ = load_server_config(Path(os.environ["EC2SPAWNER_CONFIG"]))
    session = boto3.session.Session(region_name=config.REGION)
    secret = session.client("ssm").get_parameter(
        Name=config.SSH_KEY_PARAMETER, WithDecryption=True
    )["Parameter"]["Value"]
    client = session.client("ec2", config=Config(max_pool_connections=THREADS))
    return Shared(config, Calls(client), WorkerLink(secret, _Keys(), port=config.WORKER_SSH_PORT))


def launch_request(config: ServerConfig, owner: Owner, token: str) -> dict[str, Any]:
    """RunInstances for one user's own machine and home."""
    tags = {TAG_CLUSTER: config.CLUSTER_NAME, TAG_ROLE: Role.WORKER.value, TAG_OWNER: owner.key}
    tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
    subnets = config.WORKER_SUBNETS
    home = {
        "VolumeSize": config.USER_HOME_EBS_SIZE,
        "VolumeType": "gp3",
        "Encrypted": True,
        "DeleteOnTermination": False,
    }
    return {
        "LaunchTemplate": {"LaunchTemplateId": config.LAUNCH_TEMPLATE_ID, "Version": "$Latest"},
        "InstanceType": config.WORKER_INSTANCE_TYPE,
        "SubnetId": subnets[int(token, 16) % len(subnets)].SUBNET_ID,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": token,
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tag_list} for kind in ("instance", "volume")
        ],
        "BlockDeviceMappings": [{"DeviceName": HOME_DEVICE, "Ebs": home}],
    }


class OneCallSpawner(Spawner):  # type: ignore[misc]  # jupyterhub ships no types
    """Every server looks after its own instance."""

    _worker_id = ""

    def load_state(self, state: dict[str, Any]) -> None:
        """The instance's id."""
        super().load_state(state)
        self._worker_id = state.get("worker", "")

    def get_state(self) -> dict[str, Any]:
        """The instance's id, which outlives the server."""
        return {**super().get_state(), "worker": self._worker_id}

    def _calls(self) -> Calls:
        return shared().calls

    async def start(self) -> str:
        """Launch or start the user's instance, wait for it, and start the server on it."""
        if self._worker_id:
            await self._power_on()
        else:
            owner = Owner(self.user.name, self.name)
            request = launch_request(shared().config, owner, secrets.token_hex(16))
            reply = await self._calls().make("run_instances", **request)
            self._worker_id = reply["Instances"][0]["InstanceId"]
        worker = await self._calls().until_running(self._worker_id)
        await self._serve_on(worker)
        return f"http://{worker.private_ip}:{self.port}"

    async def _power_on(self) -> None:
        worker = await self._calls().described(self._worker_id)
        if worker.state is not InstanceState.RUNNING:
            ids = [self._worker_id]
            await self._calls().make("start_instances", START_TRIES, InstanceIds=ids)

    async def _serve_on(self, worker: Worker) -> None:
        self.ip, self.port = worker.private_ip, shared().config.WORKER_NOTEBOOK_PORT
        document = {
            "version": 1,
            "owner": worker.owner,
            "claim": worker.instance_id,
            "volume_id": worker.home_volume_id,
            "username": shared().config.WORKER_USERNAME,
            "address": worker.private_ip,
            "port": self.port,
            "environment": self.get_env(),
            "args": self.get_args(),
            "limits": {"memory_bytes": self.mem_limit, "cpu": self.cpu_limit},
            "timeout_seconds": SERVER_TIMEOUT_SECONDS,
        }
        while True:
            try:
                await shared().link.start(worker, document, lambda step: None)
            except WorkerUnreachable:
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                return

    async def poll(self) -> int | None:
        """Ask for the instance; None while it is not known to be down."""
        if not self._worker_id:
            return 0
        try:
            worker = await self._calls().described(self._worker_id)
        except (ClientError, BotoCoreError):
            return None
        return None if worker.state in (InstanceState.PENDING, InstanceState.RUNNING) else 0

    async def stop(self, now: bool = False) -> None:
        """Stop the instance, without waiting for its end."""
        if self._worker_id:
            await self._calls().make("stop_instances", START_TRIES, InstanceIds=[self._worker_id])
