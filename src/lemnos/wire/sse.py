"""Server-sent events: bytes in, events out, however the bytes are cut.

After the WHATWG specification: lines end in LF, CRLF or CR; an empty line ends an event.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event; ``name`` is ``message`` where the stream does not say."""

    data: str
    name: str = "message"


class Parser:
    """An incremental parser; feed it what arrives."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now."""
        text = self._rest + data
        # A CR at the end may be half of a CRLF: it waits for the next byte.
        held = b"\r" if text.endswith(b"\r") else b""
        whole = (
            text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        )
        *lines, last = whole.split(b"\n")
        self._rest = last + held
        events = (self._line(line.decode("utf-8", "replace")) for line in lines)
        return [event for event in events if event]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._finish()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None

    def _finish(self) -> Event | None:
        data, name = self._data, self._name or "message"
        self._data, self._name = [], ""
        return Event("\n".join(data), name) if data else None


def whole_events(data: bytes, seen: int = 0) -> int:
    """How many of the first bytes of ``data`` are whole events: 0 if none has ended.

    None is known to end within the first ``seen`` bytes.
    """
    since = max(0, seen - 2)
    lf, crlf = data.rfind(b"\n\n", since), data.rfind(b"\n\r\n", since)
    return max(lf + 2 if lf >= 0 else 0, crlf + 3 if crlf >= 0 else 0)
