"""A job of the fake: its attributes, its processes, and where it may run."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.testbeds.fake_pbs.asked import Asked

USER = Path.home().owner()


@dataclass
class Node:
    name: str
    ncpus: int = 16
    ngpus: int = 8
    mem: float = 24_684_084 * 1024.0
    words: dict[str, str] = field(default_factory=dict)
    up: bool = True

    @property
    def has(self) -> dict[str, float]:
        return {"ncpus": self.ncpus, "ngpus": self.ngpus, "mem": self.mem}


@dataclass
class Held:
    """A chunk on a node."""

    node: str
    numbers: dict[str, float]


@dataclass
class Job:
    number: int
    asked: Asked
    directory: Path
    """Of the fake, for node files and spooled output."""
    state: str = "Q"
    substate: int = 10
    comment: str = ""
    held: list[Held] = field(default_factory=list)
    hold: str = "n"
    sessions: dict[int, str] = field(default_factory=dict)
    """Of its running tasks -> their nodes; the first is the top one."""
    top: int = 0
    exit_status: int | None = None
    runs: int = 0
    times: dict[str, float] = field(default_factory=dict)
    deleted: bool = False
    lost: bool = False
    forced: int | None = None
    """PBS's own exit status, whatever the top process's was."""

    @property
    def id(self) -> str:
        return f"{self.number}.login"

    @property
    def name(self) -> str:
        return self.asked.options.get("N", "STDIN")

    @property
    def nodes(self) -> list[str]:
        return [held.node for held in self.held]

    @property
    def over(self) -> bool:
        return self.state == "F"

    @property
    def output(self) -> str:
        """Its path, without the host."""
        given = self.asked.options.get("o", "")
        default = f"{self.asked.variables['PBS_O_WORKDIR']}/{self.name}.o{self.number}"
        return given or default

    @property
    def direct(self) -> bool:
        """Written where it belongs at once (``-k oed``), and not copied at the end."""
        return "d" in self.asked.options.get("k", "n")

    @property
    def home(self) -> str:
        """The submitter's."""
        return self.asked.variables["PBS_O_HOME"]

    def environment(self, node: str) -> dict[str, str]:
        """Of a task: no PATH of PBS's, no CUDA_VISIBLE_DEVICES, nothing of the server's."""
        first = next((held.numbers for held in self.held), {})
        return self.asked.variables | {
            "HOME": self.home,
            "LOGNAME": USER,
            "USER": USER,
            "SHELL": "/bin/bash",
            "PATH": "/bin:/usr/bin",
            "ENVIRONMENT": "BATCH",
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBID": self.id,
            "PBS_JOBNAME": self.name,
            "PBS_QUEUE": self.asked.options.get("q", "workq"),
            "PBS_NODEFILE": str(self.directory / "aux" / self.id),
            "PBS_JOBCOOKIE": "0" * 32,
            "PBS_NODENUM": str(self.nodes.index(node)),
            "PBS_TASKNUM": "1",
            "PBS_MOMPORT": "15003",
            "NCPUS": str(int(first.get("ncpus", 1))),
            "OMP_NUM_THREADS": str(int(first.get("ncpus", 1))),
            "TMPDIR": "/var/tmp",
            "PBS_FAKE_NODE": f"{self.directory}/{node}",
        }

    def signal(self, number: int, *, all_nodes: bool = False) -> None:
        """To every process of its sessions; those of other nodes only get SIGKILL, at the end."""
        first = self.nodes[:1]
        for session, node in list(self.sessions.items()):
            if all_nodes or [node] == first:
                kill_session(session, number)

    def attributes(self) -> dict[str, Any]:
        """As ``qstat -f`` has them."""
        asked, ran = self.asked, bool(self.times.get("stime"))
        host = socket.gethostname()
        total: dict[str, float] = {}
        for count, numbers in asked.chunks:
            for name, value in numbers.items():
                total[name] = total.get(name, 0) + count * value
        resources: dict[str, Any] = {
            name: _size(value) if name == "mem" else int(value)
            for name, value in total.items()
        }
        resources["nodect"] = sum(count for count, _ in asked.chunks)
        resources["place"] = asked.resources.get("place", "free")
        resources["select"] = asked.resources["select"]
        if asked.walltime_s is not None:
            resources["walltime"] = _clock(asked.walltime_s)
        vnodes = "+".join(f"({h.node}:{_pairs(h.numbers)})" for h in self.held)
        return {
            "Job_Name": self.name,
            "Job_Owner": f"{USER}@{host}",
            "resources_used": {"cput": "00:00:00", "mem": "0kb"} if ran else None,
            "job_state": self.state,
            "queue": asked.options.get("q", "workq"),
            "server": "login",
            "Account_Name": asked.options.get("A"),
            "Checkpoint": "u",
            "ctime": self.times["ctime"],
            "depend": ",".join(f"{k}:{i}@login" for k, i in asked.depends) or None,
            "Error_Path": f"{host}:{asked.variables['PBS_O_WORKDIR']}/{self.name}.e{self.number}",
            "exec_host": "+".join(f"{h.node}/0" for h in self.held) or None,
            "exec_vnode": vnodes or None,
            "Hold_Types": self.hold,
            "Join_Path": asked.options.get("j", "n"),
            "Keep_Files": asked.options.get("k", "n"),
            "Mail_Points": asked.options.get("m", "a"),
            "mtime": self.times.get("mtime"),
            "Output_Path": f"{host}:{self.output}",
            "Priority": int(asked.options.get("p", "0")),
            "qtime": self.times["ctime"],
            "Rerunable": "True" if asked.options.get("r", "y") == "y" else "False",
            "Resource_List": resources,
            "stime": self.times.get("stime"),
            "obittime": self.times.get("obittime"),
            "session_id": self.top or None,
            "substate": self.substate,
            "Variable_List": asked.variables,
            "comment": self.comment or None,
            "etime": self.times["ctime"],
            "run_count": self.runs or None,
            "Exit_status": self.exit_status,
            "Submit_arguments": " ".join(asked.arguments),
            "project": asked.options.get("P", "_pbs_project_default"),
            "Submit_Host": host,
        }


def fitted(
    asked: Asked, nodes: Iterable[Node], used: dict[str, dict[str, float]]
) -> list[Held] | str:
    """A node for each chunk, or the comment that says why there is none."""
    scatter = asked.resources.get("place", "free").startswith("scatter")
    own = list(nodes)
    free = {
        n.name: {k: v - used.get(n.name, {}).get(k, 0) for k, v in n.has.items()}
        for n in own
        if n.up
    }
    before = {name: dict(numbers) for name, numbers in free.items()}
    held: list[Held] = []
    for (count, numbers), words in zip(asked.chunks, asked.named, strict=True):
        for _ in range(count):
            fits = [
                node.name
                for node in own
                if node.up
                and all(free[node.name].get(k, 0) >= v for k, v in numbers.items())
                and all(node.words.get(k) == w for k, w in words.items())
                and not (scatter and node.name in {h.node for h in held})
            ]
            if not fits:
                return _short(asked, own, before)
            held.append(Held(fits[0], numbers))
            for key, value in numbers.items():
                free[fits[0]][key] -= value
    return held


def _short(asked: Asked, nodes: list[Node], free: dict[str, dict[str, float]]) -> str:
    """With numbers where all nodes together have too little: in all, or free for one chunk."""
    short = "ngpus"
    for key in ("ngpus", "ncpus", "mem"):
        wants = [(count, numbers.get(key, 0)) for count, numbers in asked.chunks]
        whole, largest = sum(c * n for c, n in wants), max(n for _, n in wants)
        total = sum(node.has[key] for node in nodes)
        left = sum(own[key] for own in free.values())
        if whole > total:
            return _comment("Can Never Run", key, whole, left, total)
        if largest > left:
            return _comment("Not Running", key, largest, left, total)
        if any(largest > own[key] for own in free.values()):
            short = key
            break
    if asked.resources.get("place", "free").startswith("scatter"):
        return "Not Running: Not enough free nodes available"
    return _comment("Not Running", short)


def _comment(never: str, key: str, *numbers: float) -> str:
    shown = [_size(n) if key == "mem" else f"{n:g}" for n in numbers]
    told = "(R: {} A: {} T: {})".format(*shown) if shown else ""
    return f"{never}: Insufficient amount of resource: {key} {told}"


def kill_session(session: int, number: int) -> None:
    """As pbs_mom does: whatever is in the session, and nothing that left it."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(entry.name), number)


def kill_all_of(node: str) -> None:
    """A host that loses its power: whoever was started there, in whatever session."""
    mark = f"PBS_FAKE_NODE={node}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def now() -> float:
    return time.time()


def _pairs(numbers: dict[str, float]) -> str:
    return ":".join(f"{name}={_shown(name, value)}" for name, value in numbers.items())


def _shown(name: str, value: float) -> Any:
    return f"{int(value) // 1024}kb" if name == "mem" else int(value)


def _size(number: float) -> str:
    """In the largest unit that it is a multiple of, as sums of what was asked for are."""
    whole, unit = int(number) // 1024, "kb"
    for larger in ("mb", "gb", "tb"):
        if whole % 1024:
            break
        whole, unit = whole // 1024, larger
    return f"{whole}{unit}"


def _clock(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"
