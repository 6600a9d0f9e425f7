"""A line of JSON for each request, without what was said unless that is asked for."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO, Literal

import orjson

from lemnos.gateway.entry import Entry
from lemnos.wire.redact import redact


class RequestLog:
    """Writes to standard error, or to ``out``, as ``log_requests`` of the table says."""

    def __init__(
        self,
        mode: Literal["none", "metadata", "prompts"] = "metadata",
        out: BinaryIO | None = None,
    ) -> None:
        self.mode = mode
        self._out = out or sys.stderr.buffer
        self._lines: list[bytes] = []

    def write(self, entry: Entry, request: dict[str, Any] | None = None) -> None:
        """One line, out with the next ``flush``; ``request`` (the parsed body) is in it only in
        the mode ``prompts``."""
        if self.mode == "none":
            return
        try:
            line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
            if self.mode == "prompts" and request is not None:
                said = redact(orjson.dumps(request).decode())
                line = line[:-2] + b',"request":' + said.encode() + b"}\n"
        except (TypeError, ValueError):
            return  # an unpaired surrogate stops no request
        self._lines.append(line)

    def flush(self) -> None:
        """Write what has come since the last time, in one call."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            self._out.write(b"".join(lines))
            self._out.flush()
        except (OSError, ValueError):
            return  # a closed or full log stops no request
