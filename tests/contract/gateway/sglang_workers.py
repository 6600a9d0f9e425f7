"""Stand-ins for SGLang's prefill and decode engines: what smg asks of them, over real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

MODEL = "m"
ABOUT = {
    "/health": {},
    "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model"}]},
    "/model_info": {"model_path": MODEL, "is_generation": True},
    "/server_info": {"served_model_name": MODEL, "version": "0.5.22"},
}


@dataclass
class Worker:
    """One engine. It demands ``key`` everywhere but on /health, as SGLang does."""

    role: Literal["prefill", "decode"]
    key: str
    port: int = 0
    prompts: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests for answers."""
    wrong_keys: list[str] = field(default_factory=list)
    """Paths that were asked for without the key."""
    may_end: threading.Event = field(default_factory=threading.Event)
    """Streams wait for it after their first chunk."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(
    role: Literal["prefill", "decode"], key: str, port: int = 0
) -> Iterator[Worker]:
    """A Worker that listens on loopback while the body runs; on ``port`` if one is given."""
    worker = Worker(role, key)

    class Handler(_Handler):
        of = worker

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    worker.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield worker
    finally:
        worker.may_end.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    of: Worker

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        if path != "/health" and not self._authorized():
            return
        self._answer(200 if path in ABOUT else 404, ABOUT.get(path, {}))

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if not self._authorized():
            return
        request = json.loads(body)
        self.of.prompts.append(request)
        if request.get("stream") and self.of.role == "decode":
            self._stream()
            return
        message = {"role": "assistant", "content": f"by {self.of.role} {self.of.port}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        head = {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL}
        self._answer(200, {**head, "choices": [choice], "usage": usage})

    def _authorized(self) -> bool:
        if self.headers.get("authorization") == f"Bearer {self.of.key}":
            return True
        self.of.wrong_keys.append(self.path)
        self._answer(401, {"error": "Unauthorized"})
        return False

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for text in ("one", "two"):
            delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            head = {"id": "1", "object": "chat.completion.chunk", "created": 1}
            self._chunk({**head, "model": MODEL, "choices": [delta]})
            self.of.may_end.wait()
        self._chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        event = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""
