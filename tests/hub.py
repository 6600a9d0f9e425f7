"""A small model hub on loopback, with faults: Hugging Face's API and ModelScope's.

A repository is ``{"org/name": {"path": b"content"}}``.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

COMMIT = "c" * 40


@dataclass
class Hub:
    """What it serves, what it does wrong, and what it was asked."""

    repositories: dict[str, dict[str, bytes]]
    token: str = ""
    cuts: list[int] = field(default_factory=list)
    """Each of the next answers with a file breaks off after so many bytes."""
    wrong: int = 0
    """So many of the next answers with a file have a wrong byte."""
    statuses: list[int] = field(default_factory=list)
    """The next requests for a file are answered so."""
    retry_after: str = ""
    ranges: bool = True
    gated: bool = False
    held: threading.Event | None = None
    """If set, files stop half-way until the event."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(path, Range) of each request for a file."""
    sent: int = 0
    """Bytes of files in answers."""
    half_sent: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def file(self, repository: str, path: str) -> bytes | None:
        return self.repositories.get(repository, {}).get(path)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def is_large(path: str) -> bool:
    """Such files are in LFS."""
    return path.endswith((".gguf", ".safetensors", ".bin"))


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """``hub`` behind a real HTTP server while the body runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        if hub.held:
            hub.held.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if not self._let_in():
            return
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(found[1], found[2])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.+", path):
            self._tree(found[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(self.hub.file(found[1], found[3]), found[3])
        elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo/files", path):
            self._modelscope(found[1])
        elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo", path):
            self._file(self.hub.file(found[1], query["FilePath"]), query["FilePath"])
        else:
            self._answer(404, b"{}")

    def _let_in(self) -> bool:
        offered = self.headers.get("Authorization", "") + self.headers.get("Cookie", "")
        if self.hub.gated:
            self._answer(403, b"{}", **{"X-Error-Code": "GatedRepo"})
            return False
        if self.hub.token and self.hub.token not in offered:
            self._answer(401, b"{}", **{"X-Error-Code": "RepoNotFound"})
            return False
        return True

    def _info(self, name: str, revision: str | None) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            self._answer(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
            return
        if revision not in (None, "main", COMMIT):
            self._answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for path, data in files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data)}
            entry["blobId"] = git_oid(data)
            if is_large(path):
                entry["lfs"] = {
                    "size": len(data),
                    "sha256": sha256(data),
                    "pointerSize": 1,
                }
            siblings.append(entry)
        body = {"_id": "0" * 24, "id": name, "modelId": name, "sha": COMMIT, "tags": []}
        self._answer(200, json.dumps(body | {"siblings": siblings}).encode())

    def _tree(self, name: str) -> None:
        """As huggingface_hub's own downloads ask it."""
        files = self.hub.repositories.get(name, {})
        listed = [
            {"type": "file", "path": p, "size": len(d), "oid": git_oid(d)}
            for p, d in files.items()
        ]
        self._answer(200, json.dumps(listed).encode())

    def _modelscope(self, name: str) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            self._answer(404, b"{}")
            return
        listed: list[dict[str, Any]] = [
            {"Path": p, "Size": len(d), "Sha256": sha256(d), "Type": "blob"}
            for p, d in files.items()
        ]
        listed.append({"Path": "folder", "Size": 0, "Type": "tree"})
        self._answer(200, json.dumps({"Code": 200, "Data": {"Files": listed}}).encode())

    def _file(self, data: bytes | None, name: str) -> None:
        wanted = self.headers.get("Range", "")
        self.hub.requests.append((name, wanted))
        if self.hub.statuses:
            extra = (
                {"Retry-After": self.hub.retry_after} if self.hub.retry_after else {}
            )
            self._answer(self.hub.statuses.pop(0), b"", **extra)
            return
        if data is None:
            self._answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
            return
        start, stop = 0, len(data)
        if wanted and self.hub.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(stop, int(last) + 1 if last else stop)
        if start >= len(data) and wanted:
            self._answer(416, b"")
            return
        part = data[start:stop]
        self.hub.sent += len(part)
        self.send_response(206 if start or stop < len(data) else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{git_oid(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.wrong:
            self.hub.wrong -= 1
            part = part[:-1] + bytes([part[-1] ^ 1])
        if self.hub.cuts:
            self.wfile.write(part[: self.hub.cuts.pop(0)])
            self.close_connection = True
            return
        if self.hub.held:
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.hub.half_sent.set()
            self.hub.held.wait(30)
            part = part[len(part) // 2 :]
        self.wfile.write(part)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
