"""``python -m MODULE WORDS`` as a process of its own: a quick fork, or really so with the beds.

Nine tenths of a short command's CPU time are the imports of lemnos and of what it needs (0.3 to
0.8 s), and the tests start a thousand commands. So plain runs fork each from one process that has
imported it all; all else is the real thing: directory, environment, argv, signals, output, exit
code. With the beds, as in `.ci/run`, a new Python starts, as when people do it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import IO, Any

from tests import beds

IMPORTED = (
    "lemnos.cli.main",
    "lemnos.cli.output",
    "lemnos.api",
    "lemnos.proposals",
    "lemnos.connect.check",
    "lemnos.connect.connecting",
    "lemnos.deployments.gateways",
    "lemnos.engines.environments.installing",
    "lemnos.gateway.app",
    "lemnos.gateway.ledger",
    "lemnos.gateway.server",
    "lemnos.hardware.probe",
    "lemnos.lint.linting",
    "lemnos.models.pull",
    "lemnos.records.store",
    "rich.table",
)
"""What commands import, but for ``AWARE``."""
AWARE = "huggingface_hub"
"""It reads the environment when it is imported, so each process must do that itself."""


class Forked:
    """As much of subprocess.Popen as tests need of a process that was forked elsewhere."""

    def __init__(self, process: ForkServerProcess, stdout: IO[str] | None) -> None:
        assert process.pid
        self._process = process
        self.pid: int = process.pid
        self.stdout = stdout

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


Process = subprocess.Popen[str] | Forked


def run(
    module: str, *words: str, env: dict[str, str], timeout: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; raises subprocess.TimeoutExpired after ``timeout`` seconds."""
    if beds.ON:
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(
            command, capture_output=True, text=True, env=env, timeout=timeout, check=False
        )  # fmt: skip
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        forked = _fork(module, words, env, out.fileno(), err.fileno())
        try:
            code = forked.wait(timeout)
        finally:
            forked.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            [module, *words], code, out.read(), err.read()
        )


@contextlib.contextmanager
def running(
    module: str,
    *words: str,
    env: dict[str, str] | None = None,
    stderr: IO[bytes] | None = None,
) -> Iterator[Process]:
    """It runs while the body does; ``stdout`` can be read, ``stderr`` is this process's if not given.

    Ended by SIGTERM, since what is killed leaves no coverage data; raises
    subprocess.TimeoutExpired if it does not end for 45 s."""
    if beds.ON:
        command = [sys.executable, "-m", module, *words]
        process: Process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, env=env, text=True
        )
    else:
        reading, writing = os.pipe()
        error = stderr.fileno() if stderr else 2
        process = _fork(module, words, env or dict(os.environ), writing, error)
        os.close(writing)
        process.stdout = open(reading)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(45)
        finally:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()


def _fork(
    module: str, words: tuple[str, ...], env: dict[str, str], out: int, err: int
) -> Forked:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    # A Connection is how multiprocessing hands on any file descriptor.
    ends = [Connection(os.dup(end)) for end in (out, err)]
    process = context.Process(
        target=_become, args=(module, words, env, os.getcwd(), *ends), daemon=True
    )
    process.start()
    for end in ends:
        end.close()
    return Forked(process, None)


def _become(
    module: str,
    words: tuple[str, ...],
    env: dict[str, str],
    directory: str,
    *ends: Connection,
) -> Any:
    """In the fork: be ``python -m MODULE WORDS``."""
    assert AWARE not in sys.modules, f"something in IMPORTED imports {AWARE}"
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, end in enumerate((nothing, *(end.fileno() for end in ends))):
        os.dup2(end, number)
    os.close(nothing)
    for one in ends:
        one.close()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
