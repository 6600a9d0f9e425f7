"""What PBS's commands print, as values. Pure.

``qstat -f -F json`` is not always JSON (control characters in variables, numbers that were
names), so values are read leniently and the plain format of ``qstat -f`` is understood too. Times are
read as UTC: the commands are run with ``TZ=UTC``.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Iterable
from typing import Any

from lemnos.spec.base import Value

_SIZES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


class PbsJob(Value):
    """A job as ``qstat -f`` shows it."""

    id: str
    """``12.login``."""
    name: str = ""
    state: str
    """One letter: Q, H, W, T, R, S, E, B, F, M, X."""
    substate: int = 0
    queue: str = ""
    comment: str = ""
    hold: str = ""
    """``u``, ``o``, ``s``; ``n`` or empty: not held."""
    depends: str = ""
    exit_status: int | None = None
    mark: str = ""
    """``LEMNOS_JOB`` of its variables."""
    hosts: tuple[str, ...] = ()
    """Of ``exec_host``, each once, in order."""
    held: dict[str, dict[str, float]] = {}
    """What it holds on each vnode: numbers of things, bytes of memory."""
    walltime_s: float | None = None
    started_at: float | None = None
    """Epoch seconds by the server's clock, as are the next two."""
    starts_at: float | None = None
    """As the scheduler estimates it."""
    queued_at: float | None = None
    runs: int = 0
    """How often it was started."""


class PbsNode(Value):
    """A vnode."""

    name: str
    host: str
    states: tuple[str, ...]
    """``free``, ``job-busy``, ``down``, ``offline``, ...; several at once."""
    has: dict[str, str] = {}
    used: dict[str, str] = {}

    @property
    def up(self) -> bool:
        """Jobs can run there, now or later."""
        return not {"down", "offline", "unknown", "state-unknown", "stale"} & set(
            self.states
        )


class PbsQueue(Value):
    name: str
    enabled: bool
    started: bool
    route: bool = False
    """It passes jobs on to other queues."""
    max_walltime_s: float | None = None


class Answer(Value):
    """Jobs, and the clock of the machine that told of them."""

    jobs: dict[str, PbsJob] = {}
    at: float | None = None


def jobs_of_json(text: str) -> Answer | None:
    """``qstat -f -F json``; None where it is no JSON."""
    data = _json(text)
    if data is None:
        return None
    jobs = data.get("Jobs")
    found = jobs.items() if isinstance(jobs, dict) else ()
    at = data.get("timestamp")
    return Answer(
        jobs={name: _job(name, _flat(j)) for name, j in found if isinstance(j, dict)},
        at=float(at) if isinstance(at, int | float) else None,
    )


def jobs_of_text(text: str) -> Answer:
    """Plain ``qstat -f``."""
    return Answer(jobs={name: _job(name, job) for name, job in _blocks(text)})


def nodes_of(text: str) -> tuple[PbsNode, ...] | None:
    """``pbsnodes -a -F json``; None where it is no JSON."""
    data = _json(text)
    if data is None:
        return None
    nodes = data.get("nodes")
    found = nodes.items() if isinstance(nodes, dict) else ()
    return tuple(_node(name, node) for name, node in found if isinstance(node, dict))


def queues_of(text: str) -> dict[str, PbsQueue] | None:
    """``qstat -Q -f -F json``; None where it is no JSON."""
    data = _json(text)
    if data is None:
        return None
    queues = data.get("Queue")
    found = queues.items() if isinstance(queues, dict) else ()
    return {
        name: _queue(name, _flat(queue))
        for name, queue in found
        if isinstance(queue, dict)
    }


def seconds(text: str) -> float | None:
    """``01:30:00``, ``90`` in seconds; None for what is no time."""
    if not re.fullmatch(r"\d+(?::\d+){0,2}(?:\.\d+)?", text):
        return None
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def amount(text: str) -> float | None:
    """``16``, ``24684084kb`` (bytes), ``1.5gb``; None for words. A PBS word (``kw``) is 8 bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtp]?)([bw]?)", text.strip().lower())
    if not match:
        return None
    size = float(match[1]) * 1024.0 ** _SIZES[match[2]]
    return size * 8 if match[3] == "w" else size


def vnodes(text: str) -> dict[str, dict[str, float]]:
    """``(n1:ncpus=4:ngpus=8:mem=1048576kb)+(n2:ncpus=4)`` as numbers."""
    found: dict[str, dict[str, float]] = {}
    for part in re.split(r"[()+]+", text):
        name, *resources = part.split(":")
        if not name:
            continue
        own = found.setdefault(name, {})
        for resource in resources:
            key, _, value = resource.partition("=")
            if (number := amount(value)) is not None:
                own[key] = own.get(key, 0.0) + number
    return found


def epoch(text: str) -> float | None:
    """``Sat Nov 21 02:32:50 2026`` as UTC; None for ``UNKNOWN``."""
    try:
        return float(calendar.timegm(time.strptime(text, "%a %b %d %H:%M:%S %Y")))
    except ValueError:
        return None


def _json(text: str) -> dict[str, Any] | None:
    try:
        data = json.loads(text, strict=False)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _flat(job: dict[str, Any]) -> dict[str, str]:
    """``{"Resource_List": {"ncpus": 1}}`` as ``{"Resource_List.ncpus": "1"}``: as the plain format has it."""
    flat = {}
    for key, value in job.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{k}": _word(v) for k, v in value.items()})
        else:
            flat[key] = _word(value)
    return flat


def _word(value: object) -> str:
    if isinstance(value, list):
        return ",".join(_word(part) for part in value)
    return value if isinstance(value, str) else json.dumps(value)


def _blocks(text: str) -> Iterable[tuple[str, dict[str, str]]]:
    """``Job Id: 6.login`` and its indented ``key = value`` lines; a tab continues the line before, which
    may have been broken anywhere, in a word or before a space."""
    opening = "Job Id: "
    name, last = "", ""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith(opening):
            if name:
                yield name, _with_variables(values)
            name, values, last = line.removeprefix(opening).strip(), {}, ""
        elif line.startswith("\t") and last:
            values[last] += line[1:]
        elif match := re.match(r"    ([\w.]+) = ?(.*)", line):
            last = match[1]
            values[last] = match[2]
    if name:
        yield name, _with_variables(values)


def _with_variables(values: dict[str, str]) -> dict[str, str]:
    """Variable_List taken apart, as JSON has it; a comma that belongs to a value has a backslash."""
    for pair in re.split(r"(?<!\\),", values.get("Variable_List", "")):
        name, equals, value = pair.partition("=")
        if equals:
            values[f"Variable_List.{name}"] = value.replace("\\,", ",")
    return values


def _job(name: str, job: dict[str, str]) -> PbsJob:
    hosts = [part.split("/")[0] for part in job.get("exec_host", "").split("+")]
    return PbsJob(
        id=name,
        name=job.get("Job_Name", ""),
        state=job.get("job_state", "?"),
        substate=_int(job.get("substate")) or 0,
        queue=job.get("queue", ""),
        comment=job.get("comment", ""),
        hold=job.get("Hold_Types", "").replace("n", ""),
        depends=job.get("depend", ""),
        exit_status=_int(job.get("Exit_status")),
        mark=job.get("Variable_List.LEMNOS_JOB", ""),
        hosts=tuple(dict.fromkeys(host for host in hosts if host)),
        held=vnodes(job.get("exec_vnode", "")),
        walltime_s=seconds(job.get("Resource_List.walltime", "")),
        started_at=epoch(job.get("stime", "")),
        starts_at=epoch(job.get("estimated.start_time", "")),
        queued_at=epoch(job.get("qtime", "")),
        runs=_int(job.get("run_count")) or 0,
    )


def _int(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def _node(name: str, node: dict[str, Any]) -> PbsNode:
    flat = _flat(node)

    def below(prefix: str) -> dict[str, str]:
        return {
            key.removeprefix(prefix): value
            for key, value in flat.items()
            if key.startswith(prefix)
        }

    has = below("resources_available.")
    return PbsNode(
        name=name,
        host=has.get("host") or flat.get("Mom", name),
        states=tuple(state.strip() for state in flat.get("state", "").split(",")),
        has=has,
        used=below("resources_assigned."),
    )


def _queue(name: str, queue: dict[str, str]) -> PbsQueue:
    return PbsQueue(
        name=name,
        enabled=queue.get("enabled") == "True",
        started=queue.get("started") == "True",
        route=queue.get("queue_type", "").startswith("R"),
        max_walltime_s=seconds(queue.get("resources_max.walltime", "")),
    )
