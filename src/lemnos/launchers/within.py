"""A host of the allocation that we are inside of, as a transport: commands are steps, files are everybody's."""

from __future__ import annotations

import shlex
import uuid

from lemnos.errors import LemnosError
from lemnos.launchers.allocation import Allocation, command_for
from lemnos.transport.base import Done, url_of
from lemnos.transport.here import Here

STEP = "lemnos-asks"
"""What steps are called that only ask or signal."""


class Within(Here):
    """One host. ``directory`` is seen by all hosts of the allocation."""

    def __init__(self, allocation: Allocation, host: str, directory: str) -> None:
        self.where = host
        self._allocation = allocation
        self._host = host
        self._directory = directory

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        """As the protocol says, but without standard input. Raises LemnosError where the scheduler starts nothing there."""
        assert stdin is None, "steps read nothing"
        if self._allocation.kind == "slurm":
            return self._step(argv, timeout_s)
        # What a task of PBS prints goes to the job's own files, not to whoever started it.
        path = f"{self._directory}/{STEP}-{uuid.uuid4().hex}"
        text = f'{{ {shlex.join(argv)}; }} >"$0.out" 2>"$0.err" </dev/null\n'
        self.write(path, text.encode())
        try:
            done = self._step(("/bin/sh", path), timeout_s)
            said = [self.read(f"{path}.{end}") for end in ("out", "err")]
        finally:
            for end in ("", ".out", ".err"):
                self.remove(path + end)
        if None in said:
            raise LemnosError(f"runs no step ({done.said or done.code})", where=self._host)  # fmt: skip
        out, err = [(data or b"").decode(errors="replace") for data in said]
        return Done(done.code, out, err)

    def forward(self, host: str, port: int) -> str:
        """As the protocol says: nothing stands between hosts of an allocation and us."""
        return url_of(host, port)

    def _step(self, argv: tuple[str, ...], timeout_s: float) -> Done:
        words = command_for(self._allocation, self._host, STEP, argv)
        return super().run(*words, timeout_s=timeout_s)
