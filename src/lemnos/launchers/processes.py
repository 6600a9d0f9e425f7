"""Jobs as processes of this machine, each in a session of its own.

A process is recognised by a mark in its environment, ``LEMNOS_JOB``, which its children
inherit, or by the session of one that has it: programs that give themselves a title write it
over their environment (vLLM's workers, which hold the GPU). So a supervisor that starts again
finds what runs without any file that could be stale, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from lemnos import paths
from lemnos.errors import LemnosError
from lemnos.launchers.script import hand_over
from lemnos.spec.base import Value
from lemnos.spec.plan import Job

MARK = "LEMNOS_JOB"
KILLS = 5
"""How often what was to be killed is looked for again."""
LEFT = ""
"""The name under which processes of engines are found whose first process is gone."""


class ProcessStatus(Value):
    """What is known of one job's process."""

    alive: bool
    ended: str = ""
    """When not alive: how it ended, in words (``killed by SIGKILL``)."""
    pids: tuple[int, ...] = ()
    """Its processes on this host, the first one first."""


class Processes:
    """The jobs of one deployment on this machine."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, job: Job, script: Sequence[str] = ()) -> None:
        """Start ``job`` in a new session, its output appended to its log file.

        ``script``: what runs it, where its environment and keys are in a script already.
        """
        name = _name(job)
        env = os.environ | {MARK: self.mark(name)}
        if not script:
            env |= job.command.env | hand_over(job.command.secrets)
        log = Path(job.log)
        try:
            with log.open("ab") as output:
                output.write(_opening_line(job).encode())
                output.flush()
                child = subprocess.Popen(
                    script or job.command.argv,
                    env=env,
                    cwd=log.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise LemnosError(
                f"cannot be started ({error.strerror}): {job.command.argv[0]}",
                where=job.id,
            ) from None
        self._adopted.pop(name, None)
        self._children[name] = child

    def status(self) -> dict[str, ProcessStatus]:
        """Alive or how it ended, for every job started or found."""
        seen = {name: _adopted_status(p) for name, p in self._adopted.items()}
        return seen | {name: _status(child) for name, child in self._children.items()}

    def signal(self, name: str, *, kill: bool = False) -> None:
        """SIGTERM to the job's first process; or SIGKILL to all that carries its mark."""
        if kill:
            self._kill(name, LEFT)
            return
        child = self._children.get(name) or self._adopted.get(name)
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            child.send_signal(signal.SIGTERM)

    def bury(self) -> int:
        """SIGKILL to what engines left that were killed: vLLM's core goes on without its API, and holds the GPU."""
        return self._kill(LEFT)

    def sweep(self) -> int:
        """SIGKILL to everything that carries this deployment's mark."""
        found = self._kill()
        for child in self._children.values():
            child.poll()  # takes the exit status, so that no zombie stays
        return found

    def mark(self, name: str) -> str:
        """What recognises a job. It names the state directory too: another LEMNOS_HOME may have the same deployment."""
        return f"{paths.state_dir()}|{self._deployment}|{name}"

    def _kill(self, *names: str) -> int:
        """SIGKILL to all of these jobs, or of the deployment, until none is found: one that is killed
        while it starts others leaves those. The number of processes."""
        killed: set[int] = set()
        for _ in range(KILLS):
            found = self._find()
            left = [p for name in names or found for p in found.get(name, [])]
            if not left:
                break
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            killed |= {process.pid for process in left}
            for child in self._children.values():
                if (
                    child.pid in killed
                ):  # psutil, waiting for it, would take how it ended
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(5)
            psutil.wait_procs(left, timeout=5)
        return len(killed)

    @functools.cached_property
    def _adopted(self) -> dict[str, psutil.Process]:
        """Jobs that another supervisor started. They are looked for when they are first asked for:
        to look takes longer than to render a unit."""
        found = self._find()
        return {name: found[name][0] for name in found if name != LEFT}

    @property
    def _home(self) -> Path:
        """Where engines work, and nothing else does: the deployment's directory. What has lost its mark and
        its first process, under whichever supervisor, is known by it."""
        return paths.state_dir() / "deployments" / self._deployment

    def _sessions(self) -> dict[int, str]:
        """This launcher's jobs by their sessions, which outlive their first process. A process
        that has its number without being it means that the number, and with it the session, is
        another's. (A job's session is one that it leads: a gateway in the foreground is in
        that of its user's shell.)"""
        return {
            child.pid: name
            for name, child in self._children.items()
            if child.poll() is None or not psutil.pid_exists(child.pid)
        }

    def _find(self) -> dict[str, list[psutil.Process]]:
        """The live processes of each job of this deployment, oldest first; ``LEFT`` is none of them."""
        prefix = self.mark("")
        sessions = self._sessions()
        unmarked: list[tuple[int, psutil.Process]] = []
        found: dict[str, list[psutil.Process]] = {}
        # What psutil kept from the last look may be another process of the same number, which it
        # would then refuse to signal.
        psutil.process_iter.cache_clear()
        for process in psutil.process_iter():
            try:
                environ = process.environ()
                mark = environ.get(MARK, "")
                session = os.getsid(process.pid)
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if mark.startswith(prefix) or not environ:
                    if _is_gone(session) and Path(process.cwd()) == self._home:
                        found.setdefault(LEFT, []).append(process)
                        continue
            except (psutil.Error, OSError):
                continue  # gone, or another user's: not ours
            if not mark.startswith(prefix):
                unmarked.append((session, process))
                continue
            name = mark.removeprefix(prefix)
            found.setdefault(name, []).append(process)
            if session == process.pid:
                sessions[session] = name
        for session, process in unmarked:
            if session in sessions:
                found.setdefault(sessions[session], []).append(process)
        for processes in found.values():
            processes.sort(key=lambda process: (process.create_time(), process.pid))
        return found


def _name(job: Job) -> str:
    return job.id.removeprefix(f"{job.deployment}/")


def _opening_line(job: Job) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"--- lemnos starts {job.id} at {now}: {shlex.join(job.command.argv)}\n"


def _status(child: subprocess.Popen[bytes]) -> ProcessStatus:
    code = child.poll()
    if code is None:
        return ProcessStatus(alive=True, pids=(child.pid,))
    if code < 0:
        return ProcessStatus(alive=False, ended=f"was killed by {_signal_name(-code)}")
    return ProcessStatus(alive=False, ended=f"ended with exit code {code}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _adopted_status(process: psutil.Process) -> ProcessStatus:
    """Of a process that another supervisor started: its exit code is nobody's any more."""
    with contextlib.suppress(psutil.Error):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return ProcessStatus(alive=True, pids=(process.pid,))
    return ProcessStatus(alive=False, ended="ended (under an earlier supervisor)")


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
