"""Runs a command on a host of a testbed: ``python enter.py PID COMMAND...``.

PID is the host's first process. Unlike nsenter, which must fork to enter a PID namespace too,
this passes signals on and ends as the command ended, so that tests can treat it as the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

# linux/sched.h: what a host has of its own (cgroup, uts, mount, PID and network namespaces).
OWN = 0x02000000 | 0x04000000 | 0x00020000 | 0x20000000 | 0x40000000
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def main(init: int, command: list[str]) -> None:
    """Enter, run the command to its end, and end like it."""
    enter(init)
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    child = os.fork()
    if child == 0:
        become(command)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        sys.exit(code)
    with contextlib.suppress(OSError):  # SIGKILL has no handler to put back
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def enter(init: int) -> None:
    """Move to the host, in the same directory if it is there."""
    here = os.getcwd()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.setns(os.pidfd_open(init), OWN):
            raise OSError(ctypes.get_errno(), "setns")
    except OSError as error:
        sys.exit(f"cannot enter the host of process {init}: {error}")
    os.chdir(here if os.path.isdir(here) else "/")


def become(command: list[str]) -> None:
    """Turn into the command; it is killed when what started it is."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not os.isatty(0):
        os.setsid()  # or a signal to the caller's process group came twice
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
