"""Who may use the endpoint.

With keys: whoever shows one. Without: processes of the user who runs the gateway, over
loopback. Loopback on a login node is public to everyone on it, so the peer's user is
looked up in the kernel's table of sockets. A web page in the owner's browser is not its
owner: requests for another host's name (DNS rebinding) or from another site are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from lemnos.spec.targets import ClientKey

Address = tuple[str, int]


def key_of(
    headers: Mapping[bytes, bytes], keys: Mapping[str, ClientKey]
) -> ClientKey | None:
    """The key that the Bearer token or x-api-key is; ``keys`` by their SHA-256.

    A look-up by digest tells nothing of a key, since nobody can choose a digest; what it
    finds is compared in constant time.
    """
    bearer = headers.get(b"authorization", b"")
    offered = [headers.get(b"x-api-key", b"")]
    if bearer[:7].lower() == b"bearer ":
        offered.append(bearer[7:].strip())
    for secret in filter(None, offered):
        digest = hashlib.sha256(secret).hexdigest()
        key = keys.get(digest)
        if key is not None and hmac.compare_digest(key.sha256, digest):
            return key
    return None


def keyless_refusal(
    headers: Mapping[bytes, bytes], peer_uid: int | None, own_uid: int
) -> str | None:
    """Why a request without a key is refused, or None if it is the owner's. Pure."""
    if peer_uid is not None and peer_uid != own_uid:
        return "this endpoint has no key and serves only the user who started it"
    host = headers.get(b"host", b"").decode("latin-1")
    if not is_loopback_name(host_name(host)):
        return f"this endpoint is not {host or 'named so'}: use 127.0.0.1"
    origin = headers.get(b"origin")
    if origin and not is_loopback_name(_origin_host(origin.decode("latin-1"))):
        return "web pages of other sites may not use this endpoint"
    return None


def host_name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0]


def is_loopback_name(name: str) -> bool:
    """``localhost``, ``::1`` or a 127.x.y.z."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def peer_uid(client: Address, server: Address) -> int | None:
    """The user of the process at the other end of a loopback connection.

    -1 where the kernel's table does not have the socket (it is closed already, or lives in
    another network namespace); None where there is no such table (macOS).
    """
    path = Path("/proc/net/tcp6" if ":" in client[0] else "/proc/net/tcp")
    try:
        table = path.read_text()
    except OSError:
        return None
    return uid_in(table, client, server)


def uid_in(table: str, local: Address, remote: Address) -> int:
    """The uid of a socket in the text of /proc/net/tcp or tcp6; -1 if it is not there.

    A socket that its process has closed has no inode, and is shown as root's whoever
    opened it: -1 too.
    """
    needle = f" {_as_in_proc(local)} {_as_in_proc(remote)} "
    at = table.find(needle)
    if at < 0:
        return -1
    # "sl: local remote st tx:rx tr:when retrnsmt uid timeout inode ..."
    fields = table[at + len(needle) : table.find("\n", at)].split()
    uid, inode = int(fields[4]), int(fields[6])
    return uid if inode else -1


def _as_in_proc(address: Address) -> str:
    """``0100007F:1F90``: the address as 32-bit words in this machine's byte order, in hex."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def own_uid() -> int:
    """The user who runs this process."""
    return os.getuid()
