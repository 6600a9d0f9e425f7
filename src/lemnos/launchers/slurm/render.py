"""A unit as a batch script, a script for each of its processes, and the commands that submit it. Pure."""

from __future__ import annotations

import math
import re

from lemnos.errors import UsageError
from lemnos.launchers.containers import inside, step_flags
from lemnos.launchers.late import host as late_host
from lemnos.launchers.script import body_of
from lemnos.launchers.site import Site
from lemnos.launchers.slurm.parse import Partition
from lemnos.launchers.slurm.words import NO_ADDRESS, UNSEEN, check_owned
from lemnos.launchers.templates import Shell, script
from lemnos.spec.place import INNER_PORTS
from lemnos.spec.plan import Job
from lemnos.spec.rooms import SlurmSpec, bare
from lemnos.spec.unit import Rendered, Unit

BATCH = "batch.sh"
PORT_BASE = 20_000
PORT_STEP = 32
PORT_END = 32_768
"""From here on Linux gives ports to whoever asks (net.ipv4.ip_local_port_range)."""
END_S = 30.0
"""Before its time is over a job ends by itself what still runs: engines take seconds to end in order."""


def render(unit: Unit, site: Site, partition: Partition | None = None) -> Rendered:
    """The unit's files, and ``sbatch --test-only``, then ``sbatch``. ``partition`` bounds its time.

    Raises UsageError for flags that lemnos owns and values that Slurm cannot have, with the key.
    """
    spec = site.spec.slurm
    check_owned(spec.sbatch_args)
    notes: list[str] = []
    header = header_of(unit, site, partition, notes)
    home = site.unit_directory(unit.name)
    files = {BATCH: _batch(unit, site, header)}
    for job in unit.jobs:
        files[_rank_file(job)] = _rank(job, unit, site)
    free = bare(spec.sbatch_args)
    sbatch = (*_without(header), "sbatch", "--parsable")
    return Rendered(
        files=files,
        commands=(
            (*sbatch, "--test-only", *free, f"{home}/{BATCH}"),
            (*sbatch, *free, f"{home}/{BATCH}"),
        ),
        notes=tuple(notes),
    )


def header_of(
    unit: Unit, site: Site, partition: Partition | None, notes: list[str]
) -> list[str]:
    """The options of the script's #SBATCH lines: words without spaces, checked as the spec was read."""
    spec, place = site.spec.slurm, unit.place
    mark = site.mark(unit.name)
    if not re.fullmatch(r"[\w.:@-]+", mark):
        raise UsageError(f"Slurm cannot hold the mark {mark!r}", where="LEMNOS_HOME")
    nodes = spec.nodes or len(place.hosts)
    if nodes < len(place.hosts):
        raise UsageError(
            f"the plan needs {len(place.hosts)} nodes, and {nodes} are asked for",
            where="slurm.nodes",
            fix="leave it out: lemnos counts the nodes",
        )
    options: list[tuple[str, object]] = [
        ("job-name", f"{unit.deployment}-{unit.name}"),
        ("comment", mark),
        ("nodes", nodes),
        ("ntasks-per-node", 1),
        *_gpus(spec, place.gpus_per_host),
        *_cpus(spec, unit),
        *_memory(spec, place.gpus_per_host),
        ("account", spec.account),
        ("partition", spec.partition),
        ("qos", spec.qos),
        ("constraint", spec.constraint),
        ("reservation", spec.reservation),
        ("nodelist", spec.nodelist),
        ("exclude", spec.exclude),
        ("exclusive", spec.exclusive),
        ("time", time_of(unit, spec, partition, notes)),
        ("signal", f"B:USR1@{math.ceil(spec.drain_s)}"),
        ("requeue" if spec.requeue else "no-requeue", True),
        ("open-mode", "append"),
        ("output", "/dev/null"),
        ("chdir", "/"),
    ]
    return bare({k: v for k, v in options if v is not None})


def time_of(
    unit: Unit, spec: SlurmSpec, partition: Partition | None, notes: list[str]
) -> str | None:
    """The time limit: what is asked for serving, and what starting takes, within the partition's."""
    if spec.time is None:
        return None
    if spec.drain_s >= spec.time:
        raise UsageError(
            f"a job of {spec.time:g} s that is told {spec.drain_s:g} s before its end is told as soon as it starts",
            where="slurm.drain_s",
            fix="set a longer slurm.time, or a shorter slurm.drain_s",
        )
    whole = spec.time + unit.start_s
    if partition and partition.max_s is not None and whole > partition.max_s:
        notes.append(
            f"the time limit is {clock(partition.max_s)}, all that partition {partition.name} "
            f"gives, instead of {clock(whole)} (slurm.time and the time to start)"
        )
        whole = partition.max_s
    return clock(whole)


def clock(seconds: float) -> str:
    """``1-02:03:04``, as Slurm writes times; whole minutes up, since that is what it counts."""
    minutes = math.ceil(seconds / 60)
    days, rest = divmod(minutes, 24 * 60)
    return (f"{days}-" if days else "") + f"{rest // 60:02d}:{rest % 60:02d}:00"


def host_index(job: Job, unit: Unit) -> int:
    """Which of the unit's hosts a job runs on; the first, where it names none of them."""
    hosts = unit.place.hosts
    return hosts.index(job.host) if job.host in hosts else 0


def _gpus(spec: SlurmSpec, per_host: int) -> list[tuple[str, object]]:
    if not per_host:
        return []
    return [_gpus_word(spec, per_host)]


def _gpus_word(spec: SlurmSpec, per_host: int) -> tuple[str, str]:
    count = f"{spec.gpu_type}:{per_host}" if spec.gpu_type else str(per_host)
    if spec.gpus_by == "tres":
        return "gpus-per-node", count
    return "gres", f"gpu:{count}"


def _cpus(spec: SlurmSpec, unit: Unit) -> list[tuple[str, object]]:
    """Of the one task of a node. Multiplied here: ``--cpus-per-gpu`` counts no GPUs of ``--gres``."""
    gpus = unit.place.gpus_per_host
    cpus = spec.cpus
    if cpus is None and spec.cpus_per_gpu and gpus:
        cpus = spec.cpus_per_gpu * gpus
    if cpus is None and not gpus and not spec.exclusive:
        # Engines of the CPU say how many threads they take; Slurm would give them one core.
        threads = unit.jobs[0].command.env.get("OMP_NUM_THREADS", "")
        cpus = int(threads) if threads.isdecimal() and int(threads) else None
    return [("cpus-per-task", cpus)] if cpus else []


def _memory(spec: SlurmSpec, gpus: int) -> list[tuple[str, object]]:
    if spec.memory:
        return [("mem", spec.memory)]
    if spec.memory_per_gpu and gpus:
        return [("mem", times(spec.memory_per_gpu, gpus))]
    return [("mem", 0)] if spec.exclusive else []


def times(memory: str, count: int) -> str:
    """``80G`` four times: ``320G``. Raises UsageError for what is no amount of memory."""
    match = re.fullmatch(r"(\d+)([KMGTkmgt]?)[bB]?", memory)
    if not match:
        raise UsageError(
            f"'{memory}' is no amount of memory",
            where="slurm.memory_per_gpu",
            fix="write 80G",
        )
    return f"{int(match[1]) * count}{match[2].upper()}"


def _without(header: list[str]) -> tuple[str, ...]:
    """Variables such as SBATCH_PARTITION would outrank the script's lines: sbatch runs without them."""
    names = [line.removeprefix("--").partition("=")[0] for line in header]
    variables = sorted(name for name in (_VARIABLES.get(n) for n in names) if name)
    return ("env", *(f"--unset={name}" for name in variables))


# man sbatch, INPUT ENVIRONMENT VARIABLES; options that are not here have none.
_VARIABLES = {
    "job-name": "SBATCH_JOB_NAME",
    "gres": "SBATCH_GRES",
    "gpus-per-node": "SBATCH_GPUS_PER_NODE",
    "account": "SBATCH_ACCOUNT",
    "partition": "SBATCH_PARTITION",
    "qos": "SBATCH_QOS",
    "constraint": "SBATCH_CONSTRAINT",
    "reservation": "SBATCH_RESERVATION",
    "exclusive": "SBATCH_EXCLUSIVE",
    "time": "SBATCH_TIMELIMIT",
    "signal": "SBATCH_SIGNAL",
    "requeue": "SBATCH_NO_REQUEUE",
    "no-requeue": "SBATCH_REQUEUE",
    "open-mode": "SBATCH_OPEN_MODE",
    "output": "SBATCH_OUTPUT",
}


def _batch(unit: Unit, site: Site, header: list[str]) -> str:
    spec, place = site.spec.slurm, unit.place
    base = spec.port_base or PORT_BASE
    end = 65_536 if spec.port_base else PORT_END
    gpus = [_gpus_word(spec, place.gpus_per_host)] if place.gpus_per_host else []
    return script(
        "slurm_batch.sh.j2",
        header=[Shell(line) for line in header],
        home=site.unit_directory(unit.name),
        log=batch_log(site, unit.name),
        unseen=UNSEEN,
        no_address=NO_ADDRESS,
        modules=site.spec.modules,
        interface=place.interface or "",
        hosts=len(place.hosts),
        port_base=base,
        port_step=PORT_STEP,
        port_slots=(end - base) // PORT_STEP,
        ports=INNER_PORTS + 1,
        end_after=max(math.floor(spec.drain_s - END_S), math.floor(spec.drain_s / 2)),
        end_s=math.floor(END_S),
        resources=Shell(" ".join(["--mem=0", *bare(dict(gpus))])),
        jobs=[
            {
                "number": job.rank,
                "host": host_index(job, unit),
                "file": _rank_file(job),
                "flags": _container_flags(job, unit, site),
            }
            for job in unit.jobs
        ],
    )


def batch_log(site: Site, name: str) -> str:
    """What the batch script, and srun, say."""
    return f"{site.directory}/{name}.batch.log"


def _rank(job: Job, unit: Unit, site: Site) -> str:
    env = dict(job.command.env)
    devices = env.get("CUDA_VISIBLE_DEVICES", "")
    chosen = []
    if not unit.place.devices and re.fullmatch(r"\d+(,\d+)*", devices):
        # Numbers among those that Slurm gave the job, which may be 4 to 7 of the node's.
        del env["CUDA_VISIBLE_DEVICES"]
        chosen = [int(device) for device in devices.split(",")]
    command = job.command.model_copy(update={"env": env})
    own = job.model_copy(update={"command": command})
    return script(
        "slurm_rank.sh.j2",
        id=job.id,
        log=job.log,
        directory=site.directory,
        devices=chosen,
        body=Shell(body_of(_contained(own, unit, site))),
    )


def _contained(job: Job, unit: Unit, site: Site) -> Job:
    container = site.spec.container
    if container is None or container.runtime == "pyxis":
        return job
    return inside(
        job, container, gpus=bool(unit.place.gpus_per_host), **_seen(unit, site)
    )


def _container_flags(job: Job, unit: Unit, site: Site) -> tuple[str, ...]:
    """For srun: Pyxis' containers are a part of its own."""
    container = site.spec.container
    if container is None or container.runtime != "pyxis":
        return ()
    return step_flags(job, container, **_seen(unit, site))


def _seen(unit: Unit, site: Site) -> dict[str, tuple[str, ...]]:
    """What a container must see of the deployment."""
    files = site.files(unit.name)
    writable = tuple(path for path in (site.directory, files.cache) if path)
    return {"writable": writable, "readable": (files.key_file,)}


def _rank_file(job: Job) -> str:
    return f"{job.id.partition('/')[2]}.sh"


def late_hosts(count: int) -> tuple[str, ...]:
    """Hosts of a job that has not started."""
    return tuple(late_host(rank) for rank in range(count))
