"""The bed's kubelet beside a real API server: a ``Store`` that follows the server's objects and writes what the kubelet says of its
pods, and what the API server asks a kubelet for: logs and ports.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import mmap
import ssl
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp

from tests.testbeds import kubectl as program
from tests.testbeds.kubernetes.kubelet import Kubelet
from tests.testbeds.kubernetes.store import Json, Key, Resource, Store

FOLLOWED = ("pods", "services", "secrets", "configmaps", "persistentvolumeclaims")
AGAIN_S = 0.2
STRATEGIC = "application/strategic-merge-patch+json"


@dataclass
class Mirror(Store):
    """``changed`` is called with each event, ``(how, plural, object)``. ``refused``: writes that the server did not take."""

    url: str = ""
    token: str = ""
    tls: ssl.SSLContext | None = None
    changed: Callable[[str, str, Json], None] = lambda how, plural, obj: None
    refused: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Follow and write until cancelled."""
        self._writes: asyncio.Queue[tuple[str, str, Any, str]] = asyncio.Queue()
        head = {"Authorization": f"Bearer {self.token}"}
        connector = aiohttp.TCPConnector(ssl=self.tls or True)
        limits = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with (
            aiohttp.ClientSession(self.url, headers=head, connector=connector, timeout=limits) as self._http,
            asyncio.TaskGroup() as tasks,
        ):  # fmt: skip
            for plural in FOLLOWED:
                tasks.create_task(self._keep_up(self.resources[plural]))
            tasks.create_task(self._write())

    def create(self, plural: str, namespace: str, obj: Json, manager: str = "") -> Json:
        """Written soon."""
        what = self.resources[plural]
        whole = {"apiVersion": what.api_version, "kind": what.kind} | obj
        self._send("POST", path_of(what, namespace), whole)
        return whole

    def change(self, plural: str, obj: Json, **parts: Any) -> Json:
        """The status is the kubelet's to write; conditions of others stay."""
        key = key_of(plural, obj)
        found = self.objects.get(key)
        if found is None or found["metadata"]["uid"] != obj["metadata"]["uid"]:
            return obj
        new = copy.deepcopy(found) | parts
        path = path_of(self.resources[plural], key[1], key[2], "status")
        self.write(path, {"metadata": {"uid": obj["metadata"]["uid"]}} | parts)
        self.objects[key] = new
        return new

    def remove(self, plural: str, obj: Json) -> None:
        """What a kubelet does when nothing of a pod is left."""
        _, namespace, name = key_of(plural, obj)
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": obj["metadata"]["uid"]},
        }
        self._send("DELETE", path_of(self.resources[plural], namespace, name), body)

    def write(self, path: str, part: Json) -> None:
        """Lay ``part`` over what is there, soon."""
        self._send("PATCH", path, part, STRATEGIC)

    def _send(self, how: str, path: str, body: Json, kind: str = "application/json") -> None:  # fmt: skip
        self._writes.put_nowait((how, path, body, kind))

    async def _write(self) -> None:
        """One after the other, each until the server has answered."""
        while True:
            how, path, body, kind = await self._writes.get()
            while True:
                head = {"content-type": kind}
                try:
                    async with self._http.request(how, path, data=json.dumps(body), headers=head) as answer:  # fmt: skip
                        said = await answer.text()
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(AGAIN_S)
                    continue
                if answer.status >= 500 or answer.status == 429:
                    await asyncio.sleep(AGAIN_S)
                    continue
                if answer.status not in (200, 201, 202, 404, 409):
                    self.refused.append(f"{how} {path}: {said}")
                break

    async def _keep_up(self, what: Resource) -> None:
        version = ""
        while True:
            try:
                version = version or await self._list(what)
                version = await self._watch(what, version)
            except (aiohttp.ClientError, OSError):
                version = ""
                await asyncio.sleep(AGAIN_S)

    async def _list(self, what: Resource) -> str:
        async with self._http.get(path_of(what)) as answer:
            answer.raise_for_status()
            told = await answer.json()
        there = set()
        for each in told["items"]:
            whole = {"apiVersion": what.api_version, "kind": what.kind} | each
            there.add(key_of(what.plural, whole))
            self._seen("MODIFIED", what.plural, whole)
        for key in [k for k in self.objects if k[0] == what.plural and k not in there]:
            self._seen("DELETED", what.plural, self.objects[key])
        return str(told["metadata"]["resourceVersion"])

    async def _watch(self, what: Resource, version: str) -> str:
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}  # fmt: skip
        async with self._http.get(path_of(what), params=query) as answer:
            answer.raise_for_status()
            rest = b""
            async for data in answer.content.iter_any():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return ""
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._seen(event["type"], what.plural, event["object"])
        return version

    def _seen(self, how: str, plural: str, obj: Json) -> None:
        key = key_of(plural, obj)
        if how == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = obj
        self.changed(how, plural, obj)


def path_of(what: Resource, namespace: str = "", name: str = "", sub: str = "") -> str:
    """``/api/v1/namespaces/llm/pods/x/status``."""
    root = f"/apis/{what.api_version}" if what.group else f"/api/{what.api_version}"
    within = f"/namespaces/{namespace}" if namespace and what.namespaced else ""
    return "/".join(filter(None, (root + within, what.plural, name, sub)))


def key_of(plural: str, obj: Json) -> Key:
    return plural, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


@dataclass
class Node:
    """What the API server asks a kubelet for: logs, and ports of pods."""

    kubelet: Kubelet

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # fmt: skip
        """One request on a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            url = urlsplit(head.split(" ", 2)[1])
            what, namespace, pod, *container = url.path.strip("/").split("/")
            if what == "portForward":
                await self._forward(namespace, pod, reader, writer)
            else:
                query = {k: v[0] for k, v in parse_qs(url.query).items()}
                await self._log((namespace, pod, container[0]), query, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _log(self, of: tuple[str, str, str], query: dict[str, str], writer: asyncio.StreamWriter) -> None:  # fmt: skip
        previous = query.get("previous") == "true"
        path, runs = self.kubelet.log_of(*of, previous)
        if path is None:
            who = f'container "{of[2]}" in pod "{of[1]}"'
            said = f"previous terminated {who} not found" if previous else f"{who} is waiting to start: ContainerCreating"  # fmt: skip
            writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n" + said.encode())  # fmt: skip
            return await writer.drain()
        data = path.read_bytes()
        lines = data.splitlines(keepends=True)
        tail = int(query.get("tailLines") or len(lines))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n")  # fmt: skip
        writer.write(b"".join(lines[max(0, len(lines) - tail) :]))
        at, follows = len(data), query.get("follow") == "true"
        while follows:
            follows = runs()
            with path.open("rb") as handle:
                handle.seek(at)
                more = handle.read()
            at += len(more)
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0.02)

    async def _forward(self, namespace: str, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # fmt: skip
        pod = next(p for p in self.kubelet.pods.values() if p.name == (namespace, name))
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: SPDY/3.1\r\n"
            b"x-stream-protocol-version: portforward.k8s.io\r\n\r\n"
        )
        await Spdy(pod.ip, reader, writer).run()


@dataclass
class Spdy:
    """SPDY/3.1 as far as ``kubectl port-forward`` needs it: for each connection a stream of data and one of errors."""

    ip: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    errors: dict[str, int] = field(default_factory=dict)
    pods: dict[int, asyncio.StreamWriter] = field(default_factory=dict)

    async def run(self) -> None:
        """Until the other side has gone."""
        headers, own = zlib.decompressobj(zdict=dictionary()), zlib.compressobj()
        async with asyncio.TaskGroup() as tasks:
            while len(head := await self._read(8)) == 8:
                first, flags, size = struct.unpack(">IB", head[:5]) + (int.from_bytes(head[5:]),)  # fmt: skip
                body = await self._read(size)
                kind = first & 0xFFFF
                if not first >> 31:
                    self._take(first, body, over=bool(flags & 1))
                elif kind == 1:  # SYN_STREAM
                    stream = int.from_bytes(body[:4])
                    told = pairs(headers.decompress(body[10:]))
                    block = own.compress(bytes(4)) + own.flush(zlib.Z_SYNC_FLUSH)
                    self._control(2, body[:4] + block)
                    if told["streamtype"] == "error":
                        self.errors[told["requestid"]] = stream
                    elif opened := await self._open(stream, told):
                        tasks.create_task(self._relay(stream, told, opened))
                elif kind == 3 and (pod := self.pods.pop(int.from_bytes(body[:4]), None)):  # fmt: skip
                    pod.close()  # RST_STREAM
                elif kind == 6:  # PING
                    self._control(6, body)
            for each in self.pods.values():
                each.close()

    async def _open(self, stream: int, told: dict[str, str]) -> asyncio.StreamReader | None:  # fmt: skip
        """Before anything else is read: what is to be sent to the pod comes next."""
        try:
            reader, self.pods[stream] = await asyncio.open_connection(self.ip, int(told["port"]))  # fmt: skip
        except OSError as problem:
            error = self.errors[told["requestid"]]
            self._data(error, f"error forwarding port {told['port']}: {problem}".encode(), over=True)  # fmt: skip
            self._data(stream, b"", over=True)
            return None
        return reader

    async def _relay(self, stream: int, told: dict[str, str], pod: asyncio.StreamReader) -> None:  # fmt: skip
        try:
            while data := await pod.read(65536):
                self._data(stream, data)
                await self.writer.drain()
        except OSError:
            pass
        self._data(stream, b"", over=True)
        self._data(self.errors.pop(told["requestid"]), b"", over=True)

    def _take(self, stream: int, data: bytes, *, over: bool) -> None:
        pod = self.pods.get(stream)
        if pod and not pod.is_closing():
            pod.write(data)
            if over and pod.can_write_eof():
                pod.write_eof()

    def _data(self, stream: int, data: bytes, *, over: bool = False) -> None:
        if not self.writer.is_closing():
            self.writer.write(struct.pack(">IB", stream, over) + len(data).to_bytes(3) + data)  # fmt: skip

    def _control(self, kind: int, body: bytes) -> None:
        self.writer.write(struct.pack(">HHB", 0x8003, kind, 0) + len(body).to_bytes(3) + body)  # fmt: skip

    async def _read(self, size: int) -> bytes:
        try:
            return await self.reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError):
            return b""


def pairs(block: bytes) -> dict[str, str]:
    """Of a block of headers: a count, and each name and value after its length."""
    words, at = [], 4
    while at < len(block):
        size = int.from_bytes(block[at : at + 4])
        words.append(block[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return dict(zip(words[::2], words[1::2], strict=True))


@functools.cache
def dictionary() -> bytes:
    """What the headers of SPDY/3 are compressed with. The protocol's document has it, and so has kubectl, which speaks it."""
    with program.KUBECTL.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as binary:  # fmt: skip
        at = binary.find(b"\x00\x00\x00\x07options\x00\x00\x00\x04head")
        found = binary[at : at + 1423]
    assert found.endswith(b",enq=0.")
    return found
