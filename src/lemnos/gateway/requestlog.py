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

    def write(self, entry: Entry, request: dict[str, Any] | None = None) -> None:
        """One line; ``request`` (the parsed body) is in it only in the mode ``prompts``."""
        if self.mode == "none":
            return
        try:
            line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
            if self.mode == "prompts" and request is not None:
                said = redact(orjson.dumps(request).decode())
                line = line[:-2] + b',"request":' + said.encode() + b"}\n"
            self._out.write(line)
            self._out.flush()
        except (OSError, TypeError, ValueError):
            return  # a closed or full log, or an unpaired surrogate, stops no request
