"""What is in a bed's files for SSH: keys, known hosts, configurations of clients and servers.

Kinds of sshd: ``open``; ``denied``, which lets nobody in; ``changed``, whose key is not the
known one; and ``closed``, which is none at all.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

# The key is where every user may read it. sshd returns when it listens.
SSHD = 'mkdir -p /run/sshd && cp "$1" /run/authorized && exec /usr/sbin/sshd -f "$0"'
KINDS = {"open": ("host", "/run/authorized"), "denied": ("host", "none"), "changed": ("changed", "/run/authorized")}  # fmt: skip


def write_keys_and_servers(etc: Path, *, pam: bool) -> None:
    """Keys of hosts and of the user, and a configuration for each kind of sshd. ``pam``: a
    session is one that systemd knows."""
    for key in ("host", "changed", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", etc / key], check=True)  # fmt: skip
    for kind, (key, authorized) in KINDS.items():
        (etc / f"sshd.{kind}").write_text(
            f"HostKey {etc / key}\nAuthorizedKeysFile {authorized}\n"
            f"PidFile none\nStrictModes no\nUsePAM {'yes' if pam else 'no'}\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nUseDNS no\nMaxStartups 100\n"
            "Subsystem sftp internal-sftp\n"
        )


def service(etc: Path, kind: str) -> list[list[str]]:
    """The command that starts an sshd of this kind, if there is one."""
    return (
        [["sh", "-c", SSHD, f"{etc}/sshd.{kind}", f"{etc}/user.pub"]]
        if kind in KINDS
        else []
    )


def client(etc: Path, reach: Mapping[str, str]) -> str:
    """A client's configuration. ``reach``: by host, the lines that say how it is reached; its
    key is looked up under its name."""
    kind, key = (etc / "host.pub").read_text().split()[:2]
    (etc / "known").write_text(f"{','.join(reach)} {kind} {key}\n")
    hosts = "".join(f"Host {n}\n HostKeyAlias {n}\n{how}" for n, how in reach.items())
    return (
        f"{hosts}Host *\n User root\n IdentityFile {etc}/user\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {etc}/known\n StrictHostKeyChecking yes\n LogLevel ERROR\n"
    )
