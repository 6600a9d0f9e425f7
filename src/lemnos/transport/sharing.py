"""One connection to a host for all of a user's commands: OpenSSH's ControlMaster.

The connection stays for a minute after its last command, so that the next costs
milliseconds. Its socket is named by all that ssh knows of the host (``ssh -G``): two names that
lead to other machines through other jump hosts never share one, and an edited configuration begins anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

KEPT_S = 60
"""How long a connection without commands is kept."""
LONGEST = 107 - 18
"""Of a socket's path: the kernel takes 107 bytes, and ssh makes it under a name 17 longer first."""


def own_path_of(settings: str) -> bool:
    """Whether the user shares connections to this host already (``ssh -G``'s words)."""
    return any(
        line.startswith("controlpath ") and line != "controlpath none"
        for line in settings.splitlines()
    )


def socket_for(host: str, settings: str) -> Path:
    """Where the connection to ``host`` with these settings has its socket."""
    known = hashlib.sha256(f"{host}\n{settings}".encode()).hexdigest()
    return directory() / known[:20]


def alive(path: Path) -> bool:
    """Whether a master listens; the socket of a dead one is removed."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(path))
        except FileNotFoundError:
            return False
        except OSError:
            path.unlink(missing_ok=True)
            return False
    return True


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else begins this connection meanwhile. The directory is local, so flock holds."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def directory() -> Path:
    """A short, local directory that only this user can enter."""
    bases = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]
    names = ("lemnos-ssh", *[f"lemnos-ssh-{os.getuid()}"] * 2)
    for base, name in zip(bases, names, strict=True):
        path = Path(base or "/nowhere") / name
        if len(str(path)) + 21 <= LONGEST and _private(path):
            return path
    return Path(tempfile.mkdtemp(prefix="lemnos-ssh-", dir="/tmp"))


def _private(path: Path) -> bool:
    """Made, and nobody else's: anybody may write to /tmp."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return mine and not found.st_mode & 0o077
