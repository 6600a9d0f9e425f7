"""A stream of chat/completions chunks as a stream of Anthropic Messages events."""

from __future__ import annotations

from typing import Any

import orjson

from lemnos.errors import LemnosError
from lemnos.wire.errors import error_event
from lemnos.wire.translate.answers import messages_usage, new_id, stop_reason
from lemnos.wire.translate.common import Json, reading, string
from lemnos.wire.translate.errors import error_in
from lemnos.wire.translate.feeding import Feed

_TEXT, _THINKING, _TOOL = "text", "thinking", "tool_use"
_DELTAS = {
    _TEXT: ("text_delta", "text"),
    _THINKING: ("thinking_delta", "thinking"),
    _TOOL: ("input_json_delta", "partial_json"),
}


class MessagesStream:
    """Feed it what a chat target streams; it gives what a Messages client is to get.

    What goes wrong, in the stream or with it, becomes the protocol's error event and the
    end; nothing is raised. ``model`` is the client's name for the model.
    """

    def __init__(self, model: str) -> None:
        self.ended = False
        """Nothing more will come: an end or an error has been given out."""
        self._model = model
        self._feed = Feed()
        self._out: list[bytes] = []
        self._started = False
        self._index = -1
        self._open = ""  # the kind of the block that is open
        self._head = b""  # of its deltas
        self._blank = ""  # text that waits for some that is not blank
        self._calls: dict[Any, Any] = {}  # ids of calls by their index
        self._call: Any = None  # the index of the open one
        self._refused = False
        self._finish: tuple[str, str | None] | None = None  # the reason, the sequence
        self._usage: Json = {}

    def feed(self, data: bytes) -> bytes:
        """The events that can be given out now; maybe none."""
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
            if not self.ended and self._finish:
                self._read(b"data: [DONE]\n\n")  # some servers leave it out
        except LemnosError:
            pass  # half an event: it broke off
        if not self.ended:
            self._fail(502, "the target broke the answer off")
        return self._given_out()

    @reading("the target's stream", LemnosError)
    def _read(self, data: bytes) -> None:
        for event in self._feed.take(data):
            self._take(event)
            if self.ended:
                return

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            if not self._started:
                raise LemnosError("the target sent no answer")
            return self._stop()
        chunk = orjson.loads(data)
        if error := error_in(chunk):
            return self._fail(*error)
        if usage := chunk.get("usage"):
            self._usage = usage
        if not self._started:
            self._start(chunk)
        for choice in chunk.get("choices") or ():
            self._choice(choice)

    def _choice(self, choice: Json) -> None:
        delta = choice.get("delta") or {}
        if text := delta.get("reasoning_content") or delta.get("reasoning"):
            self._thought(text)
        if text := delta.get("content"):
            self._text(text)
        if text := delta.get("refusal"):
            self._refused = True
            self._text(text)
        for call in delta.get("tool_calls") or ():
            self._tool(call)
        if choice.get("finish_reason"):
            self._finish = stop_reason(choice, bool(self._calls), self._refused)

    def _start(self, chunk: Json) -> None:
        self._started = True
        message: Json = {
            "id": chunk.get("id") or new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            # Known at the end, unless the target tells it all along.
            "usage": messages_usage(self._usage),
        }
        self._event("message_start", {"message": message})

    def _thought(self, text: str) -> None:
        if self._open != _THINKING:
            self._blank = ""
            self._begin(_THINKING, {"thinking": "", "signature": ""})
        self._delta(text)

    def _text(self, text: str) -> None:
        if self._open != _TEXT:
            text = self._blank + text
            if text.isspace():
                self._blank = text
                return
            self._blank = ""
            self._begin(_TEXT, {"text": ""})
        self._delta(text)

    def _tool(self, call: Json) -> None:
        """A piece of a call. Calls follow each other: their pieces must not be mixed."""
        function = call.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments")
        key = call.get("index", call.get("id") or self._call)
        # Some servers number every call 0, others repeat id and name with each piece.
        known = key in self._calls and call.get("id") in (None, "", self._calls[key])
        if not known and name:
            self._blank = ""
            self._call = key
            self._calls[key] = call.get("id") or new_id("toolu")
            block = {"id": self._calls[key], "name": name, "input": {}}
            self._begin(_TOOL, block)
        elif arguments and (self._open != _TOOL or key != self._call):
            raise LemnosError("the target mixed up the pieces of its tool calls")
        if arguments:
            self._delta(arguments)

    def _begin(self, kind: str, block: Json) -> None:
        self._close()
        self._index += 1
        self._open = kind
        start = {"index": self._index, "content_block": {"type": kind} | block}
        self._event("content_block_start", start)
        delta, key = _DELTAS[kind]
        self._head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%s","%s":' % (self._index, delta.encode(), key.encode())
        )

    def _delta(self, text: str) -> None:
        self._out.append(self._head + orjson.dumps(string(text)) + b"}}\n\n")

    def _close(self) -> None:
        if self._open:
            self._event("content_block_stop", {"index": self._index})
        self._open = ""

    def _stop(self) -> None:
        if self._blank and self._index < 0:
            self._begin(_TEXT, {"text": ""})
            self._delta(self._blank)
        self._close()
        reason, sequence = self._finish or stop_reason(
            {}, bool(self._calls), self._refused
        )
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = messages_usage(self._usage)
        self._event("message_delta", {"delta": delta, "usage": usage})
        self._event("message_stop", {})
        self.ended = True

    def _event(self, name: str, data: Json) -> None:
        body = orjson.dumps({"type": name} | data)
        self._out.append(b"event: %s\ndata: %s\n\n" % (name.encode(), body))

    def _fail(self, status: int, message: str) -> None:
        self._out.append(error_event("anthropic", status, message))
        self.ended = True

    def _given_out(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out
