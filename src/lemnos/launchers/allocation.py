"""The allocation that we are inside of (``salloc``, ``qsub -I``), and how its hosts are reached. Pure.

``on: local`` uses it: its hosts and GPUs are the room. Ranks on other hosts are steps of the
allocation, started by children of ours (``srun``, ``pbs_tmrsh``), so that the scheduler knows of them.
They are ended by further steps: ending ``srun`` would kill its step unasked (SIGTERM), or leave it
running (SIGKILL).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from lemnos.errors import LemnosError
from lemnos.spec.base import Value
from lemnos.spec.rooms import seconds_of
from lemnos.transport.base import Done


class Allocation(Value):
    """What a scheduler gave to the shell that we were started from."""

    kind: Literal["slurm", "pbs"]
    id: str
    hosts: tuple[str, ...]
    """The scheduler's first one first."""
    gpus_per_host: int | None = None
    """None: not known; ``question`` asks."""
    devices: tuple[str, ...] = ()
    """Of this host, where we are on one of its hosts and are told."""
    ends_at: float | None = None
    """Epoch seconds; None: not known."""


def detect(
    env: Mapping[str, str], read: Callable[[str], str | None]
) -> Allocation | None:
    """The allocation that ``env`` tells of, if any. ``read`` gives a file's text, for PBS's list of nodes.

    Raises LemnosError for one whose hosts cannot be known.
    """
    devices = tuple(d for d in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if d)
    if (job := env.get("SLURM_JOB_ID")) and env.get("SLURM_JOB_NODELIST"):
        end = env.get("SLURM_JOB_END_TIME", "")  # since 22.05, in the job's own shell
        return Allocation(
            kind="slurm",
            id=job,
            hosts=hostnames(env["SLURM_JOB_NODELIST"]),
            gpus_per_host=_count(env.get("SLURM_GPUS_ON_NODE") or env.get("SLURM_GPUS_PER_NODE")),
            devices=devices,
            ends_at=float(end) if end.isdecimal() else None,
        )  # fmt: skip
    if (job := env.get("PBS_JOBID")) and (path := env.get("PBS_NODEFILE")):
        hosts = tuple(dict.fromkeys((read(path) or "").split()))
        if not hosts:
            raise LemnosError(
                f"the hosts of PBS job {job} cannot be read",
                where=path,
                fix="start lemnos from the shell that 'qsub -I' gave",
            )
        count = len(devices) or None
        return Allocation(kind="pbs", id=job, hosts=hosts, gpus_per_host=count, devices=devices)  # fmt: skip
    return None


def hostnames(nodelist: str) -> tuple[str, ...]:
    """``gpu[1-2,07],login`` as names. Raises LemnosError for what is no list of Slurm's."""
    part = r"(?:[\w.-]|\[[\d,-]+\])+"
    if not re.fullmatch(rf"{part}(?:,{part})*", nodelist):
        raise LemnosError(f"'{nodelist}' is no list of hosts", where="SLURM_JOB_NODELIST")  # fmt: skip
    found = [name for each in re.findall(part, nodelist) for name in _expanded(each)]
    return tuple(dict.fromkeys(found))


def is_here(host: str, hostname: str) -> bool:
    """Whether ``host`` is the machine that calls itself ``hostname``: schedulers use short names."""
    return host.partition(".")[0] == hostname.partition(".")[0]


def question(allocation: Allocation) -> tuple[str, ...]:
    """The command whose answer ``answered`` takes; () where there is nothing to ask."""
    if allocation.kind == "slurm":
        return ("squeue", "--noheader", "--jobs", allocation.id, "--format", "%b|%L")
    return ()


def answered(allocation: Allocation, said: str, now: float) -> Allocation:
    """``allocation`` with its GPUs and its end. ``now``: epoch seconds."""
    gres, _, left = said.strip().partition("|")
    changes: dict[str, object] = {}
    if allocation.gpus_per_host is None and gres:
        changes["gpus_per_host"] = _count(gres if "gpu" in gres else "0")
    if allocation.ends_at is None and ":" in left:
        try:
            changes["ends_at"] = now + seconds_of(left)
        except ValueError:  # INVALID, UNLIMITED
            pass
    return allocation.model_copy(update=changes)


def state_question(allocation: Allocation) -> tuple[str, ...]:
    """The command whose end and words ``is_over`` takes."""
    if allocation.kind == "slurm":
        return ("squeue", "--noheader", "--jobs", allocation.id, "--format", "%T")
    return ("qstat", allocation.id)


def is_over(allocation: Allocation, done: Done) -> bool:
    """Whether nothing of it runs any more. A scheduler that did not answer has not said so."""
    if allocation.kind == "slurm":
        alive = {"RUNNING", "SUSPENDED", "CONFIGURING", "STOPPED", "RESIZING"}
        known = done.code == 0 or "Invalid job id" in done.said
        return known and not alive & {*done.out.split()}
    return "Unknown Job Id" in done.said or "has finished" in done.said


def command_for(
    allocation: Allocation, host: str, name: str, argv: tuple[str, ...]
) -> tuple[str, ...]:
    """``argv`` as a step called ``name`` on ``host``, to be a child of ours."""
    if allocation.kind == "pbs":
        return ("pbs_tmrsh", host, *argv)
    gpus = allocation.gpus_per_host
    return (
        *("srun", "--jobid", allocation.id, "--overlap", "--job-name", name),
        *("--nodes=1", "--ntasks=1", "--nodelist", host),
        # Said anew: a step inherits what the job's shell was told, or gets one CPU's share.
        *((f"--gres=gpu:{gpus}",) if gpus else ()),
        *("--mem=0", "--cpu-bind=none", "--input=none", "--quit-on-interrupt", "--"),
        *argv,
    )


def _expanded(part: str) -> list[str]:
    match = re.search(r"\[([^\]]*)\]", part)
    if not match:
        return [part]
    found = []
    for piece in match[1].split(","):
        first, dash, last = piece.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise LemnosError(f"'{part}' is no list of hosts", where="SLURM_JOB_NODELIST")  # fmt: skip
        for number in range(int(first), int(last or first) + 1):
            name = f"{part[: match.start()]}{number:0{len(first)}d}"
            found += [name + rest for rest in _expanded(part[match.end() :])]
    return found


def _count(text: str | None) -> int | None:
    """``4``, ``h100:4``, ``gres:gpu:h100:4``, ``gres/gpu=4`` as a number."""
    match = re.search(r"(?:^|[:=])(\d+)(?:\(|$|,)", text or "")
    return int(match[1]) if match else None
