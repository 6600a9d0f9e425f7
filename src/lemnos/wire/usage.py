"""Tokens that an answer says it took, read from whole answers and from streams as they pass.

A stream is never buffered: whole events go on at once, and JSON is parsed only of the few
events that tell something (usage, an error, the end). Content cannot be taken for those: within
a JSON string a quote is escaped and there is no raw newline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from lemnos.spec.targets import Api
from lemnos.wire.sse import whole_events

MAX_EVENT = 16 * 1024 * 1024
"""Bytes; what does not end an event within so many is no stream of events."""

MAX_COUNT = 2**53
"""No count of tokens: garbage must not overflow a database's integers."""

_EVENT_END = re.compile(rb"\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_ENDS = ("response.completed", "response.failed", "response.incomplete")


class EndlessEventError(ValueError):
    """An event of more than MAX_EVENT bytes without an end."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    input: int
    """All of the prompt, those from the cache among them."""
    output: int
    cached: int
    """Prompt tokens that were read from the target's cache."""


def usage_of(api: Api, answer: dict[str, Any]) -> Usage | None:
    """What a whole answer of ``api`` reports; None if it reports nothing."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    if api == "messages":
        return _anthropic(usage)
    if api == "responses":
        names = ("input_tokens", "output_tokens", "input_tokens_details")
    else:
        names = ("prompt_tokens", "completion_tokens", "prompt_tokens_details")
    read, written = _count(usage.get(names[0])), _count(usage.get(names[1]))
    if read is None and written is None:
        return None
    details = usage.get(names[2])
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    if cached is None:  # DeepSeek's own name for it
        cached = usage.get("prompt_cache_hit_tokens")
    return Usage(read or 0, written or 0, min(_count(cached) or 0, read or 0))


def _anthropic(usage: dict[str, Any]) -> Usage | None:
    """Anthropic's ``input_tokens`` are those that neither came from the cache nor went into it."""
    fresh, written = (
        _count(usage.get("input_tokens")),
        _count(usage.get("output_tokens")),
    )
    if fresh is None and written is None:
        return None
    cached = _count(usage.get("cache_read_input_tokens")) or 0
    stored = _count(usage.get("cache_creation_input_tokens")) or 0
    return Usage((fresh or 0) + cached + stored, written or 0, cached)


def _count(value: Any) -> int | None:
    if type(value) is int and 0 <= value < MAX_COUNT:
        return value
    return None


class StreamMeter:
    """Watches one stream of events on its way; feed it what arrives, and send what it gives.

    ``drop_usage_chunk``: leave out the chunk that has only usage, which the gateway asked for
    and the client did not. ``rename``: the model's name as the target says it, and as the
    client is to read it.
    """

    __slots__ = (
        "_drop",
        "_end",
        "_held",
        "_merged",
        "_renames",
        "_telling",
        "api",
        "ended",
        "error",
        "events",
        "response_id",
        "usage",
    )

    def __init__(
        self,
        api: Api,
        drop_usage_chunk: bool = False,
        rename: tuple[str, str] | None = None,
    ) -> None:
        self.api = api
        self.usage: Usage | None = None
        """As reported so far; None if nothing was."""
        self.response_id: str | None = None
        """Of a ``responses`` answer."""
        self.ended = False
        """Whether the protocol's own end was seen."""
        self.error: str | None = None
        """What an error within the stream said."""
        self.events = 0
        """Lines of data so far, which is events: engines write one each. The end's is one too."""
        self._held = bytearray()
        self._merged: dict[str, Any] = {}
        self._drop = drop_usage_chunk
        self._renames = _renames(*rename) if rename else ()
        # Every event that `_note` wants has one of these words, or `"error"`.
        self._telling = b'"response"' if api == "responses" else b'"usage"'
        self._end = b"message_stop" if api == "messages" else b"[DONE]"

    def feed(self, data: bytes) -> bytes:
        """The events that are whole now, as the client gets them; maybe none.

        Raises EndlessEventError.
        """
        if self._held or not data.endswith((b"\n\n", b"\n\r\n")):
            data = self._whole(data)
        lines = data.count(b"\ndata:") + data.startswith(b"data:")
        self.events += lines
        if self._tells(data):
            return b"".join(map(self._event, _split(data)))
        if not self._renames:
            return data
        if lines == 1:
            return self._renamed(data)
        return b"".join(map(self._renamed, _split(data)))

    def finish(self) -> bytes:
        """What is held back, for when the stream has ended in order; a broken one's is no use."""
        data = bytes(self._held)
        self._held.clear()
        self.events += data.count(b"\ndata:") + data.startswith(b"data:")
        return self._event(data) if data else b""

    def _whole(self, data: bytes) -> bytes:
        """The whole events of what is held with ``data``; the rest is held."""
        held = self._held
        # No event ends within what is held, but an end may be cut in two.
        near = bytes(held[-2:])
        end = whole_events(near + data)
        if end == 0:
            held += data
            if len(held) > MAX_EVENT:
                raise EndlessEventError("an event without an end")
            return b""
        end -= len(near)
        whole = bytes(held) + data[:end] if held else data[:end]
        held[:] = data[end:]
        return whole

    def _event(self, event: bytes) -> bytes:
        """One event, noted and as the client gets it."""
        if self._tells(event) and self._note(_data(event)):
            return b""
        return self._renamed(event)

    def _renamed(self, event: bytes) -> bytes:
        for old, new in self._renames:
            if old in event:
                return event.replace(old, new, 1)
        return event

    def _tells(self, data: bytes) -> bool:
        """Whether something in ``data`` may be worth parsing. Each chunk pays for this."""
        if data.find(b'"error"') >= 0 or data.find(self._end) >= 0:
            return True
        at = data.find(self._telling)
        return at >= 0 and _has_value(data, self._telling, at)

    def _note(self, data: bytes) -> bool:
        """Keep what an event's data tell; whether the client is not to get it."""
        if data.strip() == b"[DONE]":
            self.ended = True
            return False
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(event, dict):
            return False
        kind = event.get("type")
        if event.get("error") is not None or kind == "error":
            self.error = _error_text(event)
        if self.api == "messages":
            self._note_message(event, kind)
        elif self.api == "responses":
            self._note_response(event, kind)
        elif usage := usage_of(self.api, event):
            self.usage = usage
            return self._drop and event.get("choices") == []
        return False

    def _note_message(self, event: dict[str, Any], kind: Any) -> None:
        if kind == "message_stop":
            self.ended = True
        message = event.get("message") if kind == "message_start" else event
        usage = message.get("usage") if isinstance(message, dict) else None
        if isinstance(usage, dict):
            # Counts are cumulative; engines put 0 for those that they only tell elsewhere.
            self._merged |= {name: count for name, count in usage.items() if count}
            self.usage = _anthropic({"output_tokens": 0, **self._merged})

    def _note_response(self, event: dict[str, Any], kind: Any) -> None:
        if kind in _ENDS:
            self.ended = True
        response = event.get("response")
        if not isinstance(response, dict):
            return
        if isinstance(id_ := response.get("id"), str):
            self.response_id = id_
        self.usage = usage_of("responses", response) or self.usage
        if response.get("error") is not None:
            self.error = _error_text(response)


def _has_value(data: bytes, name: bytes, at: int) -> bool:
    """Whether ``name`` (with its quotes), first found ``at``, stands for more than null."""
    while at >= 0:
        after = at + len(name)
        if data[after : after + 5] != b":null" and data[after : after + 6] != b": null":
            return True
        at = data.find(name, after)
    return False


def _renames(theirs: str, ours: str) -> tuple[tuple[bytes, bytes], ...]:
    """Bytes to look for and to put there: engines write a space after the colon, or none."""
    old, new = orjson.dumps(theirs), orjson.dumps(ours)
    return tuple((colon + old, colon + new) for colon in (b'"model":', b'"model": '))


def _split(data: bytes) -> list[bytes]:
    """Whole events, each with its end."""
    ends = [found.end() for found in _EVENT_END.finditer(data)]
    edges = [0, *ends] if ends and ends[-1] == len(data) else [0, *ends, len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def _data(event: bytes) -> bytes:
    lines = [line for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def _error_text(event: dict[str, Any]) -> str:
    error = event.get("error", event)
    text = error.get("message") if isinstance(error, dict) else error
    return str(text or "an error without a message")
