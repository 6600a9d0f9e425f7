"""Small files and safetensors headers of a hub, over HTTP: ranges only, never the weights."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2

from lemnos.errors import LemnosError
from lemnos.models.download import RemoteFile
from lemnos.models.hubs import hub_problem
from lemnos.models.safetensors import Header, header_size, parse_header
from lemnos.models.sources import Source

FIRST = 1 << 16
"""Bytes of each file asked for at first; a second request has the rest of a longer header.
Of weights, at most so many bytes a file are sent."""
TIMEOUT_S = 30.0
"""Of silence; huggingface_hub's own client would wait for ever."""
AT_ONCE = 8
"""Requests at a time."""
ATTEMPTS = 3
PASSING = (429, 500, 502, 503, 504)
"""Statuses that another attempt may not meet."""
DAMAGED = "choose another revision (--revision): the hub's file is damaged"


@contextlib.contextmanager
def session(source: Source) -> Iterator[httpx2.Client]:
    """An HTTP client: huggingface_hub's own for its hub, so that its settings hold."""
    if source.kind == "hf":
        from huggingface_hub import get_session

        yield get_session()  # shared by all that use the hub: it stays open
        return
    with httpx2.Client(follow_redirects=True) as http:
        yield http


@dataclass(frozen=True)
class Hub:
    """A hub that is read from."""

    source: Source
    http: httpx2.Client

    def small(self, file: RemoteFile, limit: int) -> bytes:
        """A whole file of at most ``limit`` bytes. Raises LemnosError."""
        text = self._bytes(file, 0, limit + 1)
        if len(text) <= limit:
            return text
        raise LemnosError(
            f"{file.path} has more than {limit} bytes, which no such file has",
            where=str(self.source),
            fix=DAMAGED,
        )

    def headers(self, files: Sequence[RemoteFile]) -> dict[str, Header]:
        """File name -> safetensors header, of each of ``files``. Raises LemnosError."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(self._header, files)
            return {f.path: header for f, header in zip(files, found, strict=True)}

    def _header(self, file: RemoteFile) -> Header:
        where = f"{self.source}: {file.path}"
        text = self._bytes(file, 0, FIRST)
        count = header_size(text, file.size, where, DAMAGED)
        if len(text) < 8 + count:
            text += self._bytes(file, len(text), 8 + count - len(text))
        return parse_header(text[8 : 8 + count], file.size, where, DAMAGED)

    def _bytes(self, file: RemoteFile, start: int, count: int) -> bytes:
        """``count`` bytes from ``start``, fewer at the end of the file.

        Tried again where that may help. Raises LemnosError with the hub's reason.
        """
        where = f"{self.source}: {file.path}"
        token = "HF_TOKEN" if self.source.kind == "hf" else "MODELSCOPE_API_TOKEN"
        attempt = 1
        while True:
            try:
                return self._ask(file, start, count)
            except httpx2.HTTPError as error:
                code = 0
                if isinstance(error, httpx2.HTTPStatusError):
                    code = error.response.status_code
                passing = code in PASSING or isinstance(error, httpx2.TransportError)
                if attempt == ATTEMPTS or not passing:
                    raise hub_problem(code, error, where, token) from None
            time.sleep(0.5 * attempt)
            attempt += 1

    def _ask(self, file: RemoteFile, start: int, count: int) -> bytes:
        headers = {
            **file.headers,
            "Accept-Encoding": "identity",
            "Range": f"bytes={start}-{start + count - 1}",
        }
        data = bytearray()
        with self.http.stream(
            "GET", file.url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S
        ) as answer:
            if answer.status_code == 416:  # beyond the end; of an empty file, at once
                return b""
            answer.raise_for_status()
            # A server without ranges sends the file from its beginning: no more is read
            # of it than a header can have.
            skip = start if answer.status_code == 200 else 0
            for piece in answer.iter_bytes(65536):
                data += piece
                if len(data) >= skip + count:
                    break
        return bytes(data[skip : skip + count])
