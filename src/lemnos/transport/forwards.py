"""A port of this machine that leads elsewhere through a child, and stays there.

``ssh -N -L`` or ``kubectl port-forward``, watched by a thread: when it ends (the network, the login node's
restart), it is started again on the same local port. It dies with this process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence

from lemnos.errors import LemnosError
from lemnos.transport import sayings

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
"""Between tries, doubled from one to the next."""
START_S = 30.0
"""A first try that takes longer is given up."""

Problem = Callable[[int, str], LemnosError]
"""From a child's exit code and words to what they mean."""

# Becomes the command, which is ended when the thread that started it is (prctl: PR_SET_PDEATHSIG, SIGTERM).
# A process of its own does this, because what runs between fork and exec of threads may not be Python.
_TETHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]):
    sys.exit("its owner is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def tethered(command: Sequence[str]) -> list[str]:
    """``command`` such that it ends with the thread that starts it."""
    here = [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid())]
    return [*here, *command]


def over_ssh(command: Sequence[str], via: str, target: str, port: int) -> Forward:
    """Its ``url`` leads to ``target:port``, as ``via`` sees it. Raises LemnosError."""
    bracketed = f"[{target}]" if ":" in target else target

    def of(local: int) -> list[str]:
        spec = f"127.0.0.1:{local}:{bracketed}:{port}"
        fails = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", spec]
        return [*command, *fails, "--", via]

    def problem(code: int, said: str) -> LemnosError:
        return sayings.problem(via, code, said)

    return Forward(of, f"{target}:{port}", via, problem)


class Forward:
    """``url`` leads to ``target`` by the child whose command ``of`` gives for a local port, until
    ``close``. Raises LemnosError if it cannot be made: ``problem`` says why, ``where`` who refuses."""

    def __init__(
        self,
        of: Callable[[int], Sequence[str]],
        target: str,
        where: str,
        problem: Problem,
        local: int | None = None,
    ) -> None:
        self._local = local or _free_port()
        self.url = f"http://127.0.0.1:{self._local}"
        self._command = of(self._local)
        self._problem = problem
        self._closing = threading.Event()
        self._tried = threading.Event()
        self._why: LemnosError | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        if not self._tried.wait(START_S):
            self._why = LemnosError(
                f"the forward to {target} does not come up", where=where
            )
        if self._why:
            self.close()
            raise self._why

    def close(self) -> None:
        """End it; the port is free afterwards."""
        self._closing.set()
        child = self._child
        if child:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        self._thread.join(START_S)

    def _keep(self) -> None:
        """Until it is closed: start it, wait for its end, wait a little."""
        wait_s = FIRST_WAIT_S
        while not self._closing.is_set():
            came_up = self._once()
            if not self._tried.is_set():  # the first try is the caller's to hear of
                self._tried.set()
                return
            wait_s = FIRST_WAIT_S if came_up else min(2 * wait_s, LONGEST_WAIT_S)
            self._closing.wait(wait_s)

    def _once(self) -> bool:
        """One child, to its end. Whether it came up."""
        with (
            tempfile.TemporaryFile() as words,
            subprocess.Popen(
                tethered(self._command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                start_new_session=True,
            ) as child,
        ):
            self._child = child
            if self._closing.is_set():
                child.terminate()
            came_up = self._listens(child)
            if came_up:
                self._tried.set()
            code = child.wait()
            if not came_up:
                words.seek(0)
                said = words.read().decode(errors="replace")
                self._why = self._problem(code, said)
        return came_up

    def _listens(self, child: subprocess.Popen[bytes]) -> bool:
        """Wait until the port listens; False if the child ends first."""
        while child.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._local), 5).close()
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.02)
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
