"""What a builder leaves of itself in its root, for ``seal.sh`` to take away.

Owns where such files lie. What a new base image leaves elsewhere is added here first.
"""

from __future__ import annotations

from pathlib import Path

MARK = "left-by-the-builder"
PLACES = (
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_rsa_key",
    "etc/ssh/sshd_config.d/50-cloud-init.conf",
    "etc/sudoers.d/90-cloud-init-users",
    "etc/netplan/50-cloud-init.yaml",
    "etc/machine-id",
    "etc/hostname",
    "root/.ssh/authorized_keys",
    "root/.bash_history",
    "root/.cache/pip/wheel",
    "home/admin/.ssh/authorized_keys",
    "home/ubuntu/.ssh/authorized_keys",
    "home/ubuntu/.bash_history",
    "var/lib/cloud/instance/user-data.txt",
    "var/lib/cloud/instances/i-1/sem/config_ssh",
    "var/lib/cloud/data/instance-id",
    "var/lib/dhcp/dhclient.eth0.leases",
    "var/lib/ec2spawner/claim.json",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/log/cloud-init-output.log",
    "var/log/auth.log",
    "var/log/journal/0123/system.journal",
    "var/crash/python.crash",
    "tmp/script.sh",
    "var/tmp/download",
)


def leave(root: Path) -> None:
    """Write all of them."""
    for place in PLACES:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MARK)


def found(root: Path) -> list[str]:
    """Which of them are still there, emptied ones not among them."""
    return [p for p in PLACES if (root / p).is_file() and MARK in (root / p).read_text()]
