"""The cluster's SSH key: its private half lives in one SSM SecureString and nowhere else.

Owns making it and getting both halves to their places. The private half is held in memory only
while it is carried from one to the other: never on disk, in an argument, a log or an error.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.errors import EC2SpawnerError, NotFound

from .facts import KeyFacts
from .planning import KeyChange


class KeyUnusable(EC2SpawnerError):
    """The SSM parameter holds something that is no private key."""

    code = "key-unusable"


class ClusterKey:
    """One cluster's key in its two places: SSM parameter and EC2 key pair."""

    def __init__(
        self, gateway: Gateway, parameter: str, pair: str, tags: Mapping[str, str]
    ) -> None:
        self._gateway = gateway
        self._parameter = parameter
        self._pair = pair
        self._tags = [{"Key": key, "Value": value} for key, value in tags.items()]

    async def look(self) -> KeyFacts:
        """The public half, as either place tells it."""
        private = await self._private_half()
        pairs = await self._gateway.call(
            "ec2",
            "describe_key_pairs",
            {
                "Filters": [{"Name": "key-name", "Values": [self._pair]}],
                "IncludePublicKey": True,
            },
        )
        found = [_bare(pair.get("PublicKey", "")) for pair in pairs["KeyPairs"]]
        public = self._public_half(private) if private is not None else None
        return KeyFacts(public, found[0] if found else None)

    async def apply(self, change: KeyChange) -> None:
        """Bring both halves to their places; run again after any break, it converges."""
        private = await self._private_half()
        if private is None:
            private = make_private_key()
            await self._keep(private)
        if change is KeyChange.REPLACE:
            await self._gateway.call(
                "ec2", "delete_key_pair", {"KeyName": self._pair}, effect=Effect.REPEATABLE
            )
        await self._gateway.call(
            "ec2",
            "import_key_pair",
            {
                "KeyName": self._pair,
                "PublicKeyMaterial": self._public_half(private).encode(),
                "TagSpecifications": [{"ResourceType": "key-pair", "Tags": self._tags}],
            },
        )

    async def _private_half(self) -> str | None:
        params = {"Name": self._parameter, "WithDecryption": True}
        try:
            reply = await self._gateway.call("ssm", "get_parameter", params)
        except NotFound:
            return None
        value: str = reply["Parameter"]["Value"]
        return value

    async def _keep(self, private: str) -> None:
        await self._gateway.call(
            "ssm",
            "put_parameter",
            {
                "Name": self._parameter,
                "Description": "Private half of the SSH key from the hub to its workers",
                "Value": private,
                "Type": "SecureString",
                "Tags": self._tags,
            },
        )

    def _public_half(self, private: str) -> str:
        try:
            key = load_ssh_private_key(private.encode(), None)
        except (ValueError, TypeError):
            raise KeyUnusable(
                f"The SSM parameter {self._parameter} holds no usable private key.",
                why="It is not an unencrypted key in OpenSSH's format.",
                next_step="Restore it, or delete the parameter: a new key is made then.",
            ) from None
        return _bare(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


def make_private_key() -> str:
    """A new ed25519 private key in OpenSSH's format, as asyncssh reads it."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def _bare(public: str) -> str:
    """A public key without its comment."""
    return " ".join(public.split()[:2])
