"""A stream of Anthropic Messages events as a stream of chat/completions chunks."""

from __future__ import annotations

import time

import orjson

from lemnos.errors import LemnosError
from lemnos.wire.errors import error_event
from lemnos.wire.translate.answers import (
    chat_usage,
    finish_reason,
    new_id,
    reasoning_detail,
)
from lemnos.wire.translate.common import Json, reading, string
from lemnos.wire.translate.errors import error_in
from lemnos.wire.translate.feeding import Feed

_DONE = b"data: [DONE]\n\n"
_UNSAID = (502, "the target broke the answer off")


class ChatStream:
    """Feed it what a Messages target streams; it gives what a chat client is to get.

    ``include_usage``: the client asked for it, and gets a chunk with it before the end.
    What goes wrong, in the stream or with it, becomes the protocol's error and the end;
    nothing is raised. ``model`` is the client's name for the model; ``created`` in epoch
    seconds, now by default.
    """

    def __init__(
        self, model: str, *, include_usage: bool = False, created: int | None = None
    ) -> None:
        self.ended = False
        """Nothing more will come: an end or an error has been given out."""
        self._model = model
        self._include_usage = include_usage
        self._created = int(time.time()) if created is None else created
        self._feed = Feed()
        self._out: list[bytes] = []
        self._head = b""  # of every chunk, up to its delta
        self._before_usage = b""
        self._tail = b',"finish_reason":null}]}\n\n'
        if include_usage:
            self._tail = b',"finish_reason":null}],"usage":null}\n\n'
        self._block: Json = {}  # the block that is open
        self._pieces: list[str] = []  # of its thinking
        self._calls = 0
        self._secrets = 0
        self._finished = False
        self._usage: Json = {}

    def feed(self, data: bytes) -> bytes:
        """The chunks that can be given out now; maybe none."""
        if not self.ended:
            try:
                self._read(data)
            except LemnosError as error:
                self._fail(502, error.what)
        return self._given_out()

    def end(self) -> bytes:
        """The target has closed the stream: what is left, which is an error if it was too early."""
        if self.ended:
            return b""
        try:
            self._read(b"\n\n")  # a last event may lack its empty line
            if not self.ended and self._finished:
                self._read(b'data: {"type":"message_stop"}\n\n')
        except LemnosError:
            pass  # half an event: it broke off
        if not self.ended:
            self._fail(*_UNSAID)
        return self._given_out()

    @reading("the target's stream", LemnosError)
    def _read(self, data: bytes) -> None:
        for event in self._feed.take(data):
            self._take(event)
            if self.ended:
                return

    def _take(self, data: str) -> None:
        event = orjson.loads(data)
        kind = event["type"]
        if kind == "message_start":
            return self._start(event["message"])
        if kind == "error":
            return self._fail(*(error_in(event) or _UNSAID))
        if kind == "ping":
            return None
        if not self._head:
            raise LemnosError("the target's stream began without its message")
        if kind == "content_block_delta":
            self._piece(event["delta"])
        elif kind == "content_block_start":
            self._begin(event["content_block"])
        elif kind == "content_block_stop":
            self._close()
        elif kind == "message_delta":
            self._finish(event)
        elif kind == "message_stop":
            self._stop()

    def _start(self, message: Json) -> None:
        head = {
            "id": message.get("id") or new_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }
        start = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._head = start + b'{"index":0,"delta":'
        self._before_usage = start + b'],"usage":'
        self._usage = dict(message.get("usage") or {})
        self._chunk({"role": "assistant", "content": ""})

    def _piece(self, delta: Json) -> None:
        kind = delta["type"]
        if kind == "text_delta":
            self._chunk({"content": string(delta["text"])})
        elif kind == "input_json_delta":
            if text := string(delta["partial_json"]):
                self._pieces.append(text)
                self._arguments(text)
        elif kind == "thinking_delta":
            text = string(delta["thinking"])
            self._pieces.append(text)
            self._chunk({"reasoning_content": text})
        elif kind == "signature_delta":
            self._block["signature"] = string(delta["signature"])

    def _begin(self, block: Json) -> None:
        self._block = dict(block)
        self._pieces = []
        kind = block["type"]
        if kind == "text" and block["text"]:
            self._chunk({"content": block["text"]})
        elif kind == "thinking" and block["thinking"]:
            self._pieces.append(block["thinking"])
            self._chunk({"reasoning_content": block["thinking"]})
        elif kind == "tool_use":
            function = {"name": block["name"], "arguments": ""}
            call = {"index": self._calls, "id": block["id"], "type": "function"}
            self._calls += 1
            self._chunk({"tool_calls": [call | {"function": function}]})

    def _close(self) -> None:
        kind = self._block.get("type")
        if kind == "tool_use" and not self._pieces:
            # A call without arguments has no pieces, and chat clients parse what they got.
            self._arguments(orjson.dumps(self._block.get("input") or {}).decode())
        elif kind in ("thinking", "redacted_thinking"):
            block = self._block | {"thinking": "".join(self._pieces)}
            if detail := reasoning_detail(block, self._secrets):
                self._secrets += 1
                self._chunk({"reasoning_details": [detail]})
        self._block = {}

    def _finish(self, event: Json) -> None:
        usage = event.get("usage") or {}
        self._usage |= {k: v for k, v in usage.items() if v is not None}
        if not event["delta"].get("stop_reason"):
            return
        self._finished = True
        finish = orjson.dumps(finish_reason(event["delta"]))[1:]
        usage_key = b',"usage":null' if self._include_usage else b""
        self._out.append(self._head + b"{}," + finish + b"]" + usage_key + b"}\n\n")

    def _stop(self) -> None:
        if self._include_usage:
            usage = orjson.dumps(chat_usage(self._usage))
            self._out.append(self._before_usage + usage + b"}\n\n")
        self._out.append(_DONE)
        self.ended = True

    def _arguments(self, text: str) -> None:
        call = {"index": self._calls - 1, "function": {"arguments": text}}
        self._chunk({"tool_calls": [call]})

    def _chunk(self, delta: Json) -> None:
        self._out.append(self._head + orjson.dumps(delta) + self._tail)

    def _fail(self, status: int, message: str) -> None:
        self._out.append(error_event("openai", status, message))
        self.ended = True

    def _given_out(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out
