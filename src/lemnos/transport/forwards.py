"""A port of this machine that leads to another host's, through SSH, and stays there.

``ssh -N -L`` as a child, watched by a thread: when it ends (the network, the login node's
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

from lemnos.errors import LemnosError
from lemnos.transport import sayings

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
"""Between tries, doubled from one to the next."""
START_S = 30.0
"""A first try that takes longer is given up."""

# Becomes the command, which is ended when the thread that started it is (prctl: PR_SET_PDEATHSIG, SIGTERM).
# A process of its own does this, because what runs between fork and exec of threads may not be Python.
_TETHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]):
    sys.exit("its owner is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Forward:
    """``url`` leads to ``target:port``, as ``via`` sees it, until ``close``. Raises LemnosError if it
    cannot be made."""

    def __init__(self, command: list[str], via: str, target: str, port: int) -> None:
        self._local = _free_port()
        self.url = f"http://127.0.0.1:{self._local}"
        bracketed = f"[{target}]" if ":" in target else target
        spec = f"127.0.0.1:{self._local}:{bracketed}:{port}"
        fails = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", spec]
        self._command = [*command, *fails, "--", via]
        self._via = via
        self._closing = threading.Event()
        self._tried = threading.Event()
        self._why: LemnosError | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        if not self._tried.wait(START_S):
            self._why = LemnosError(
                f"the forward to {target}:{port} does not come up", where=via
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
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    _TETHER,
                    str(os.getpid()),
                    *self._command,
                ],
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
                self._why = sayings.problem(self._via, code, said)
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
