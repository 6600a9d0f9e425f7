"""Processes of a run: built, started on a core of their own, watched and ended.

The system under test has one core to itself; the load generator and the mock engines share
another, which they are cheap enough for (85k requests/s directly, on 2 cores of an EPYC 9004).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lemnos.errors import LemnosError

HERE = Path(__file__).parent
READY_S = 180
"""LiteLLM takes most of a minute on a busy machine."""


@dataclass(frozen=True)
class Cores:
    """One for the system under test, one for everything else."""

    tested: int
    others: int


def two_cores() -> Cores:
    """The first and the last core that this process may use. Raises LemnosError for one core."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise LemnosError(
            "one core is not enough: the gateway needs one to itself",
            fix="run this where at least two cores may be used",
        )
    return Cores(tested=allowed[-1], others=allowed[0])


def build(directory: Path) -> None:
    """Compile the mock engine and the load generator into ``directory``."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise LemnosError(
            "there is no C compiler for the load generator", fix="install gcc or clang"
        )
    for name in ("engine", "load"):
        source, out = str(HERE / f"{name}.c"), str(directory / name)
        command = [compiler, "-O2", "-o", out, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LemnosError(f"{name}.c does not compile: {done.stderr.strip()[:300]}")


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def started(
    argv: list[str], *, core: int, log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on ``core``; it and its children are ended on the way out."""
    process = start(argv, core=core, log=log, env=env)
    try:
        yield process
    finally:
        end(process)


def start(
    argv: list[str], *, core: int, log: Path, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A command on ``core``, with what it says added to the file ``log``."""
    with log.open("ab") as out:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **(env or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to a process and its children; after 10 s, SIGKILL to what is left."""
    try:
        own = psutil.Process(process.pid)
        family = [own, *own.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
            member.resume()  # a paused one ends only then
    _, left = psutil.wait_procs(family, timeout=10)
    for member in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def pause(pid: int) -> None:
    """Stop a process and its children where they are, so that others have the core."""
    for member in _family(pid):
        member.suspend()


def go_on(pid: int) -> None:
    """Undo ``pause``."""
    for member in _family(pid):
        member.resume()


def wait_until(
    done: Callable[[], bool], process: subprocess.Popen[bytes], log: Path
) -> None:
    """Poll ``done``. Raises LemnosError with the log's last line if ``process`` ends first."""
    deadline = time.monotonic() + READY_S
    while not done():
        if process.poll() is not None:
            raise LemnosError(f"it ended with {process.returncode}: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise LemnosError(f"not ready after {READY_S} s: {_last_line(log)}")
        time.sleep(0.1)


def answers(port: int, body: dict[str, Any], key: str) -> bool:
    """Whether a chat completion comes back with 200."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@dataclass(frozen=True)
class Use:
    """CPU seconds of a process with its children, and of its whole core (all processes)."""

    own: float
    core: float
    at: float

    @classmethod
    def of(cls, pid: int, core: int) -> Use:
        """So far."""
        own = 0.0
        for member in _family(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                own += times.user + times.system
        core_ = psutil.cpu_times(percpu=True)[core]
        # Without interrupts: on loopback these are the packets of the system itself.
        busy = core_.user + core_.nice + core_.system + core_.steal
        return cls(own=own, core=busy, at=time.monotonic())


def others_share(before: Use, after: Use) -> float:
    """The part of the core's time, 0 to 1, that other processes took: the noise."""
    seconds = after.at - before.at
    taken = (after.core - before.core) - (after.own - before.own)
    return max(0.0, taken / seconds)


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    total = 0
    for member in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total / 2**20


def _family(pid: int) -> list[psutil.Process]:
    own = psutil.Process(pid)
    return [own, *own.children(recursive=True)]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:160] if lines else "it said nothing"
