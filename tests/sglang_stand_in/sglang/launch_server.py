"""What lemnos and smg see of an SGLang server, without a model: ``python -m sglang.launch_server``.

It reads lemnos' own command line, demands the key of its ``--config`` everywhere but on /health, and
hands on nothing but the number of a request's room: a decode server answers when the prefill server
says, on its bootstrap port, that it has read the prompt, and waits for that as SGLang does. The
standard library alone: it runs in the router's environment.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import urllib.request
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAIT_S = 300.0
"""SGLANG_DISAGGREGATION_WAITING_TIMEOUT's default: so long a decode server waits for its prompt."""


def main() -> None:
    """Serve until it is ended; ranks without an API do nothing for as long."""
    parser = argparse.ArgumentParser()
    for name in ("--config", "--host", "--served-model-name", "--disaggregation-mode"):
        parser.add_argument(name, default="")
    parser.add_argument("--port", type=int)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--disaggregation-bootstrap-port", type=int)
    options, _ = parser.parse_known_args()
    if options.node_rank:
        signal.pause()
    with open(options.config) as file:
        key = file.read().strip().removeprefix("api-key: ")
    server = Server(options, key)
    if server.role == "prefill":
        port = options.disaggregation_bootstrap_port
        handed = _server(options.host, port, _Bootstrap, server)
        threading.Thread(target=handed.serve_forever, daemon=True).start()
    _server(options.host, options.port, _Api, server).serve_forever()


class Server:
    """One prefill or decode server."""

    def __init__(self, options: argparse.Namespace, key: str) -> None:
        self.key = key
        self.model = options.served_model_name
        self.role = options.disaggregation_mode
        self.read: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        """By room: set when a prompt has been read."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    of: Server

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


class _Bootstrap(_Handler):
    """Where decode servers fetch what was read."""

    def do_GET(self) -> None:  # noqa: N802
        done = self.of.read[self.path.strip("/")].wait(WAIT_S)
        self.answer(200 if done else 504, {})


class _Api(_Handler):
    def do_GET(self) -> None:  # noqa: N802
        path, of = self.path.partition("?")[0], self.of
        about: dict[str, Any] = {
            "/health": {},
            "/v1/models": {"object": "list", "data": [{"id": of.model, "object": "model"}]},
            "/model_info": {"model_path": of.model, "is_generation": True},
            "/server_info": {"served_model_name": of.model, "version": "0.5.23"},
        }  # fmt: skip
        if path != "/health" and not self.authorized():
            return
        self.answer(200 if path in about else 404, about.get(path, {}))

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if not self.authorized():
            return
        asked = json.loads(body)
        room = str(asked["bootstrap_room"])
        if self.of.role == "prefill":
            self.of.read[room].set()
        elif not self.fetched(asked, room):
            self.answer(500, {"error": {"message": "KV transfer timed out"}})
            return
        head = {"id": "1", "object": "chat.completion", "created": 1}
        head |= {"model": self.of.model}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        if asked.get("stream") and self.of.role == "decode":
            self.stream(
                {**head, "choices": [self.choice(asked, "delta")]},
                {**head, "choices": [], "usage": usage},
            )
            return
        choices = [self.choice(asked, "message")]
        self.answer(200, {**head, "choices": choices, "usage": usage})

    def choice(self, asked: dict[str, Any], key: str) -> dict[str, Any]:
        text = f"by {self.of.role}"
        said = {"text": text} if "prompt" in asked else {key: {"role": "assistant", "content": text}}  # fmt: skip
        return {"index": 0, "finish_reason": "stop", **said}

    def stream(self, *events: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for text in (*map(json.dumps, events), "[DONE]"):
            self.wfile.write(f"data: {text}\n\n".encode())
        self.close_connection = True

    def authorized(self) -> bool:
        if self.headers.get("authorization") == f"Bearer {self.of.key}":
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def fetched(self, asked: dict[str, Any], room: str) -> bool:
        """Whether the prefill server has handed the prompt over."""
        host, port = asked["bootstrap_host"], asked["bootstrap_port"]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"http://{host}:{port}/{room}", timeout=WAIT_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _server(
    host: str, port: int, handler: type[_Handler], of: Server
) -> ThreadingHTTPServer:
    class Own(handler):  # type: ignore[valid-type, misc]
        pass

    Own.of = of
    made = ThreadingHTTPServer((host, port), Own)
    made.daemon_threads = True
    return made


if __name__ == "__main__":
    main()
