"""Scripts of this package, run by another host's own ``python3``; nothing is left there.

The script's text and its requests go through standard input: a command line is for all of
that host's users to read.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from lemnos.errors import LemnosError
from lemnos.hardware.collect import MARK
from lemnos.transport.ssh import CONNECT_S, Ssh

_BOOT = (
    "exec python3 -c 'import sys; "
    'exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), "lemnos", "exec"))\' {size}'
)


class RemoteScript:
    """A module of this package that runs on ``host``, for ``limit_s`` seconds at most."""

    def __init__(
        self, host: Ssh, module: ModuleType, limit_s: int, **request: Any
    ) -> None:
        assert module.__file__
        source = Path(module.__file__).read_bytes()
        self.host = host
        self._unread = b""
        self._process = host.start(_BOOT.format(size=len(source)))
        self._send(source + _line({"limit_s": limit_s, **request}))

    def __enter__(self) -> RemoteScript:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, timeout_s: float, **request: Any) -> Any:
        """Send one more request; its answer. Raises LemnosError."""
        self._send(_line(request))
        return self.answer(timeout_s)

    def answer(self, timeout_s: float) -> Any:
        """The next answer. Raises LemnosError: the host, the script, or time is up."""
        deadline = time.monotonic() + CONNECT_S + timeout_s
        while True:
            line, end, rest = self._unread.partition(b"\n")
            if end:
                self._unread = rest
                if line.startswith(MARK.encode()):
                    return json.loads(line[len(MARK) :])
            else:
                self._read(deadline)

    def close(self) -> None:
        """End it: its input ends, and it with that. Also from another thread than the one
        that waits for an answer, which then raises."""
        process = self._process
        with contextlib.suppress(OSError):
            if process.stdin:
                process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # ended, or closed by us
            pass  # the reading that follows says why

    def _read(self, deadline: float) -> None:
        assert self._process.stdout
        stream = self._process.stdout.fileno()
        if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[
            0
        ]:
            raise LemnosError(
                "the probe's script did not answer in time",
                where=self.host.host,
                fix="is the machine overloaded, or a file server hanging?",
            )
        data = os.read(stream, 1 << 16)
        if not data:
            raise self._ended()
        self._unread += data

    def _ended(self) -> LemnosError:
        assert self._process.stderr
        said = self._process.stderr.read().decode(errors="replace")
        code = self._process.wait()
        if code == 127:
            return LemnosError(
                "there is no python3 there",
                where=self.host.host,
                fix="install Python 3.6 or newer there, or run 'lemnos probe' on it",
            )
        return self.host.problem(code, said)


def _line(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode() + b"\n"
