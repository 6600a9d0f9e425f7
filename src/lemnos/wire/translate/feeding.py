"""The end of a translated stream that faces the target: bytes in, JSON out."""

from __future__ import annotations

from lemnos.errors import LemnosError
from lemnos.wire.sse import Parser
from lemnos.wire.usage import MAX_EVENT


class Feed:
    """The data of the events that have come, whole."""

    def __init__(self) -> None:
        self._parser = Parser()
        self._held = 0

    def take(self, data: bytes) -> list[str]:
        """The data of the events that ``data`` completes. Raises LemnosError for one without an end."""
        events = self._parser.feed(data)
        self._held = 0 if events else self._held + len(data)
        if self._held > MAX_EVENT:
            raise LemnosError("the target sent an event without an end")
        return [event.data for event in events]
