"""Where a deployment runs: what a person writes for each machine room, beside the word ``on``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lemnos.spec.base import Value

Args = dict[str, bool | int | float | str | None]
"""Flags of a scheduler's own command that lemnos has no key for: ``{nice: 100}``."""


def one_line(text: str) -> str:
    """A value that becomes a line of a script's header: ValueError for one with line breaks."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("may not hold line breaks or control characters")
    return text


def _word(text: str) -> str:
    """A name as schedulers have them. Headers of scripts know no quoting that all versions read."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.,:;@%+=/&|*()\[\]-]*", text):
        raise ValueError(f"'{text}' is no name that a scheduler has")
    return text


Line = Annotated[str, AfterValidator(one_line)]
Word = Annotated[str, AfterValidator(_word)]


def seconds_of(text: str) -> float:
    """``12:00:00``, ``2-00:00:00``, ``30:00`` (minutes, as Slurm reads it) or ``90m`` in seconds.

    ValueError for anything else, a bare number too: Slurm takes it for minutes, PBS for seconds.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    short = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if short:
        return float(short[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[short[2]]
    if not match or not (match[1] or match[3]):
        raise ValueError(f"'{text}' is no time: write 12:00:00, 2-00:00:00 or 90m")
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1]:  # days-hours[:minutes[:seconds]]
        total = days * 86400 + first * 3600 + second * 60 + third
    elif match[4]:
        total = first * 3600 + second * 60 + third
    else:
        total = first * 60 + second
    if total <= 0:
        raise ValueError(f"'{text}' is no time at all")
    return float(total)


def _duration(value: object) -> object:
    """YAML reads 12:00:00 as 43200 (base 60) and 90 as a number."""
    if isinstance(value, str):
        return seconds_of(value)
    return value


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]
"""Seconds; written ``12:00:00``, ``2-00:00:00``, ``90m``, or as a number of seconds."""


class ContainerSpec(Value):
    """The image that the engine runs in, and with what."""

    image: Line
    """``vllm/vllm-openai:v0.26.0``; a ``.sif`` for Apptainer, a ``.sqsh`` for Pyxis."""
    runtime: Literal["docker", "podman", "apptainer", "pyxis", "cluster"] = "cluster"
    """What runs it; Kubernetes has its own."""
    mounts: tuple[Line, ...] = ()
    """``/data`` or ``/data:/models:ro``; model, caches and keys are mounted anyway."""
    args: Args = {}
    """Flags of the runtime that lemnos has no key for: ``{shm-size: 32g}``."""


class LocalSpec(Value):
    """Processes: of this machine, of hosts reached by SSH, or of the allocation we are in."""

    hosts: tuple[Word, ...] = ()
    """As the user's ssh_config knows them; none: this machine."""
    devices: tuple[Word, ...] = ()
    """GPUs that may be used, by index or UUID; none: all that are free (``CUDA_VISIBLE_DEVICES``
    of the caller holds)."""
    allocation: bool = True
    """Inside ``salloc`` or ``qsub -I``, its hosts and GPUs are the room; false: this machine alone is."""
    ray: bool = False
    """A replica over several hosts runs on a Ray cluster of its own, instead of the engine's own processes."""


class SystemdSpec(Value):
    """Units of systemd on this machine, or on hosts reached by SSH."""

    scope: Literal["user", "system"] = "user"
    hosts: tuple[Word, ...] = ()
    """As the user's ssh_config knows them; a replica takes whole hosts. None: this machine."""
    ray: bool = False
    """A replica over several hosts runs on a Ray cluster of its own, instead of the engine's own
    processes: head and workers are units, too."""
    user: Word | None = None
    """Who the processes of system units are; the caller by default."""
    hardening: bool = True
    """Read-only system, private /tmp, no new privileges, and the like."""
    memory_max: Word | None = None
    """``400G``: systemd ends what takes more."""
    units: Args = {}
    """Further settings of the [Service] section: ``{Nice: 5}``."""


class SchedulerSpec(Value):
    """What Slurm and PBS have in common."""

    account: Word | None = None
    time: Duration | None = None
    """For serving; what starting takes is added. None: the partition's or queue's own limit."""
    nodes: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Nodes of a replica; the plan's by default."""
    gpus_per_node: Annotated[int, Field(ge=0, le=1024)] | None = None
    """The plan's by default."""
    memory: Word | None = None
    """Of a node: ``400G``."""
    chain: bool = True
    """Serve past the time limit: before a job ends, its successor is started and proven."""
    handover_s: Annotated[float, Field(gt=0)] | None = None
    """How long before its end a job's successor is submitted; by default what starting takes, twice,
    what the queue is expected to take, and what open requests take to finish."""
    drain_s: Annotated[float, Field(gt=0)] = 120.0
    """How long before its end a job is told, so that open requests can finish."""
    poll_s: Annotated[float, Field(gt=0)] = 10.0
    """How often the scheduler is asked, while nothing changes."""


class SlurmSpec(SchedulerSpec):
    """Slurm, 20.11 to 25.x."""

    partition: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    gpu_type: Word | None = None
    """As the cluster's gres has it: ``h100`` in ``gpu:h100:4``."""
    gpus_by: Literal["gres", "tres"] = "gres"
    """``--gres=gpu:4`` or ``--gpus-per-node=4``."""
    cpus_per_gpu: Annotated[int, Field(ge=1, le=1024)] | None = None
    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Of a node; instead of ``cpus_per_gpu``."""
    memory_per_gpu: Word | None = None
    nodelist: Word | None = None
    exclude: Word | None = None
    exclusive: bool = False
    port_base: Annotated[int, Field(ge=1024, le=60_000)] | None = None
    """The first port that a job may take; which one follows from its id, so that jobs that share a
    node do not meet. None: ports that are free on the node."""
    requeue: bool = True
    """Slurm puts the job back into the queue when its node fails or it is preempted."""
    sbatch_args: Args = {}


class PbsSpec(SchedulerSpec):
    """OpenPBS and PBS Professional."""

    queue: Word | None = None
    project: Word | None = None
    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Of a node."""
    select: dict[str, bool | int | float | Word] = {}
    """Further resources of each chunk: ``{gpu_model: h200}``."""
    place: Word | None = None
    """``scatter:excl``; ``scatter`` by default where there are several nodes."""
    gpu_resource: Word = "ngpus"
    reach: Literal["pbs_tmrsh", "ssh"] = "pbs_tmrsh"
    """How the first node starts the others' processes."""
    bin: Line | None = None
    """Where PBS's own commands are: jobs were seen without them on their PATH."""
    rerunnable: bool = True
    qsub_args: Args = {}


class ScaleSpec(Value):
    """Replicas by how many requests wait."""

    min: Annotated[int, Field(ge=1, le=1000)] = 1
    max: Annotated[int, Field(ge=1, le=1000)]
    queue: Annotated[float, Field(gt=0)] = 4.0
    """Waiting requests a replica from which one more is started."""
    up_after_s: Annotated[float, Field(ge=0)] = 30.0
    down_after_s: Annotated[float, Field(ge=0)] = 600.0
    """Nothing waited for so long, and the others have room: one less."""


def bare(args: dict[str, Any]) -> list[str]:
    """``args`` as words of a command: ``--nice=100``; True is the flag alone, False and None nothing."""
    words = []
    for key, value in args.items():
        flag = "--" + key.lstrip("-").replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words.append(f"{flag}={value}")
    return words
