"""A unit as scripts and a ``qsub`` command. Pure.

The job is ``/bin/bash batch.sh`` itself (``qsub -- /bin/bash ...``), not a script that a login
shell reads: PBS ends a job when its first process ends, and a login shell that gets SIGTERM does so
at once, before an engine could finish its requests.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex

from lemnos.errors import UsageError
from lemnos.launchers import containers
from lemnos.launchers.logs import logs_of
from lemnos.launchers.script import body_of
from lemnos.launchers.site import Site
from lemnos.launchers.templates import Shell, script
from lemnos.spec.place import INNER_PORTS, Place
from lemnos.spec.plan import Job
from lemnos.spec.rooms import PbsSpec
from lemnos.spec.unit import LogFile, Rendered, Unit

AFTER = "${LEMNOS_AFTER}"
"""Stands in commands for the job of the unit that is taken over from."""
NAME_LENGTH = 230
"""PBS_MAXJOBNAME of OpenPBS 19 to 23 (pbs_ifl.h)."""
CPUS_PER_GPU = 2
"""Asked for where pbs.cpus is not given: a queue's own default is one CPU for all."""
GRACE_S = 7
"""What is left has so long after SIGTERM; PBS itself waits 10 s (kill_delay) before SIGKILL."""

# Options of qsub that lemnos sets -> the key to use instead; "" where there is none.
OWNED = {
    "N": "name",
    "q": "pbs.queue",
    "A": "pbs.account",
    "P": "pbs.project",
    "r": "pbs.rerunnable",
    "v": "engine_env",
    "V": "engine_env",
    "o": "",
    "e": "",
    "j": "",
    "k": "",
    "S": "",
    "C": "",
    "J": "replicas",
    "I": "",
    "X": "",
    "G": "",
    "h": "",
    "z": "",
    "f": "",
    "R": "",
    "u": "",
}
# Resources that lemnos asks for -> their keys.
OWNED_RESOURCES = {
    "select": "pbs.select",
    "place": "pbs.place",
    "walltime": "pbs.time",
    "ncpus": "pbs.cpus",
    "mem": "pbs.memory",
    "nodes": "pbs.nodes",
    "nodect": "pbs.nodes",
    "ppn": "pbs.cpus",
    "gpus": "pbs.gpus_per_node",
    "mpiprocs": "pbs.nodes",
}
OWNED_ATTRIBUTES = ("depend", "interactive", "block", "sandbox", "stagein", "stageout")


def render(unit: Unit, site: Site) -> Rendered:
    """Raises UsageError for what PBS cannot do, with the key to change."""
    spec = site.spec.pbs
    wall_s = _wall_s(unit, spec)
    files = {"batch.sh": _batch(unit, site, wall_s)}
    alone = {
        job.id: sum(j.host == job.host for j in unit.jobs) == 1 for job in unit.jobs
    }
    for job in unit.jobs:
        files[f"{name_of(job)}.sh"] = _rank(job, unit, site, alone=alone[job.id])
    if site.spec.interface:
        files["address.sh"] = script(
            "pbs_address.sh.j2",
            directory=site.unit_directory(unit.name),
            interface=site.spec.interface,
        )
    files["unit.json"] = _facts(unit, site)
    return Rendered(
        files=files, commands=(_qsub(unit, site, wall_s),), notes=_notes(unit, spec)
    )


def name_of(job: Job) -> str:
    """``engine-0.1``."""
    return job.id.partition("/")[2]


def job_name(deployment: str, unit: str) -> str:
    """``-N``: begins with a letter, and has letters, digits, ``-_+.`` only (ck_job_name.c)."""
    name = re.sub(r"[^A-Za-z0-9_+.-]", "-", f"{deployment}-{unit}")
    return (name if name[:1].isalpha() else f"d-{name}")[:NAME_LENGTH]


def own_logs(site: Site, unit: str) -> tuple[LogFile, LogFile]:
    """What the batch script says, and what PBS itself says of the job."""
    return (
        LogFile(
            job=f"{unit}.batch",
            role="batch",
            host="",
            path=f"{site.directory}/{unit}.batch.log",
        ),
        LogFile(
            job=f"{unit}.pbs",
            role="batch",
            host="",
            path=f"{site.directory}/{unit}.pbs.log",
        ),
    )


def select_of(place: Place, spec: PbsSpec) -> str:
    """``2:ncpus=32:ngpus=8:mem=400gb:gpu_model=h200``."""
    parts = [str(len(place.hosts))]
    if cpus := cpus_of(place, spec):
        parts.append(f"ncpus={cpus}")
    if place.gpus_per_host:
        parts.append(f"{spec.gpu_resource}={place.gpus_per_host}")
    if spec.memory:
        parts.append(f"mem={size(spec.memory)}")
    parts += [f"{key}={_resource(key, spec)}" for key in spec.select]
    return ":".join(parts)


def cpus_of(place: Place, spec: PbsSpec) -> int:
    """Of each node; 0: the queue's default."""
    return spec.cpus or CPUS_PER_GPU * place.gpus_per_host


def size(text: str) -> str:
    """``400G`` as PBS writes it: ``400gb``. Raises UsageError."""
    match = re.fullmatch(r"(\d+)\s*([kmgtp])(?:i?b)?", text.lower())
    if not match:
        raise UsageError(
            f"'{text}' is no amount of memory",
            where="pbs.memory",
            fix="write 400G or 400gb",
        )
    return f"{match[1]}{match[2]}b"


def clock(seconds: float) -> str:
    """``12:00:00``."""
    whole = math.ceil(seconds)
    return f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"


def _wall_s(unit: Unit, spec: PbsSpec) -> float | None:
    if spec.time is None:
        return None
    wall_s = spec.time + unit.start_s
    if spec.drain_s >= wall_s:
        raise UsageError(
            f"a job of {clock(wall_s)} would be told to leave as soon as it starts",
            where="pbs.drain_s",
            fix="make it much smaller than pbs.time",
        )
    return wall_s


def _resource(key: str, spec: PbsSpec) -> str:
    """A value of ``select``: what would begin another resource or chunk is refused."""
    value = spec.select[key]
    text = str(value)  # True and False, as PBS writes them
    owned = {**OWNED_RESOURCES, spec.gpu_resource: "pbs.gpus_per_node"}
    if key in owned:
        raise UsageError(
            f"'{key}' is asked for by lemnos",
            where="pbs.select",
            fix=f"use {owned[key]}",
        )
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", key):
        raise UsageError(f"'{key}' is no name of a resource", where="pbs.select")
    if not re.fullmatch(r"[A-Za-z0-9_.@%/\[\]-]+", text):
        raise UsageError(
            f"'{text}' cannot be the value of {key}: it would begin another resource",
            where="pbs.select",
            fix="use letters, digits and _ . @ % / [ ] -",
        )
    return text


def _qsub(unit: Unit, site: Site, wall_s: float | None) -> tuple[str, ...]:
    spec = site.spec.pbs
    said = own_logs(site, unit.name)[1].path
    words = [f"{spec.bin}/qsub" if spec.bin else "qsub", "-f"]
    words += ["-N", job_name(unit.deployment, unit.name)]
    for flag, value in (("-q", spec.queue), ("-A", spec.account), ("-P", spec.project)):
        words += [flag, value] if value else []
    words += ["-l", f"select={select_of(unit.place, spec)}"]
    if place := spec.place or ("scatter" if len(unit.place.hosts) > 1 else None):
        words += ["-l", f"place={place}"]
    words += ["-l", f"walltime={clock(wall_s)}"] if wall_s else []
    words += ["-j", "oe", "-k", "oed", "-o", _output(said)]
    words += ["-r", "y" if spec.rerunnable else "n"]
    words += ["-v", f"LEMNOS_JOB={site.mark(unit.name)}"]
    words += ["-W", f"depend=after:{AFTER}"] if unit.after else []
    words += _free(spec)
    directory = site.unit_directory(unit.name)
    return (*words, "--", "/bin/bash", "-l", f"{directory}/batch.sh")


def _output(path: str) -> str:
    """qsub takes paths of printable ASCII only (prepare_path.c); the batch script has a log anyway."""
    return path if re.fullmatch(r"[ -~]+", path) else "/dev/null"


def _free(spec: PbsSpec) -> list[str]:
    """``pbs.qsub_args`` as words, ``-m n`` by default. Raises UsageError for what lemnos sets."""
    words = [] if "m" in spec.qsub_args else ["-m", "n"]
    for key, value in spec.qsub_args.items():
        letter = key.lstrip("-")
        if len(letter) != 1 or not letter.isalpha():
            raise UsageError(
                f"'{key}' is no option of qsub",
                where="pbs.qsub_args",
                fix="options have one letter: {m: abe, p: 100}",
            )
        if letter in OWNED:
            instead = OWNED[letter]
            raise UsageError(
                f"-{letter} of qsub is set by lemnos",
                where="pbs.qsub_args",
                fix=f"use {instead}" if instead else "leave it out",
            )
        text = "" if value is True else str(value)
        if value is None or value is False:
            continue
        if letter == "l":
            _refuse_owned(text, OWNED_RESOURCES)
        if letter == "W":
            _refuse_owned(text, dict.fromkeys(OWNED_ATTRIBUTES, ""))
        words += [f"-{letter}", text] if text else [f"-{letter}"]
    return words


def _refuse_owned(text: str, owned: dict[str, str]) -> None:
    for part in text.split(","):
        name = part.partition("=")[0].strip()
        if name in owned:
            raise UsageError(
                f"'{name}' is set by lemnos",
                where="pbs.qsub_args",
                fix=f"use {owned[name]}" if owned[name] else "leave it out",
            )


def _batch(unit: Unit, site: Site, wall_s: float | None) -> str:
    spec = site.spec.pbs
    directory = site.unit_directory(unit.name)
    return script(
        "pbs_batch.sh.j2",
        directory=directory,
        log=own_logs(site, unit.name)[0].path,
        bin=spec.bin or "",
        reach=spec.reach,
        hosts=list(range(len(unit.place.hosts))),
        wall_s=math.ceil(wall_s or 0),
        drain_s=math.ceil(spec.drain_s),
        grace_s=GRACE_S,
        ports=INNER_PORTS + 1,
        interface=site.spec.interface or "",
        remote_address=_over_ssh(f"{directory}/address.sh"),
        ranks=[
            {
                "host": _number(job, unit.place),
                "name": name_of(job),
                "remote": _over_ssh(f"{directory}/{name_of(job)}.sh"),
            }
            for job in unit.jobs
        ],
    )


def _number(job: Job, place: Place) -> int:
    """Of the job's host, from 0."""
    if job.host in place.hosts:
        return place.hosts.index(job.host)
    raise UsageError(
        f"{job.id} would run on {job.host}, and PBS chooses the hosts",
        where="on: pbs",
        fix="leave hosts to the scheduler",
    )


def _over_ssh(path: str) -> str:
    """For the shell that sshd gives it to, csh too; the script quotes it once more, for itself."""
    return f"exec /bin/bash {shlex.quote(path)}"


def _rank(job: Job, unit: Unit, site: Site, *, alone: bool) -> str:
    chosen = unit.place.gpus_per_host if alone and not unit.place.devices else 0
    if "CUDA_VISIBLE_DEVICES" in job.command.env:
        chosen = 0
    contained, removal = _contained(job, unit, site)
    return script(
        "rank.sh.j2",
        by=Shell("by batch.sh"),
        leaves="",
        directory=site.unit_directory(unit.name),
        name=name_of(job),
        mark=_mark(job, unit, site),
        log=job.log,
        modules=list(site.spec.modules),
        gpus=chosen,
        grace_s=GRACE_S,
        body=Shell(body_of(contained)),
        removal=Shell(shlex.join(removal)),
    )


def _mark(job: Job, unit: Unit, site: Site) -> str:
    """Finds all that a process started, in other sessions too; a word of its own in any directory."""
    directory = site.unit_directory(unit.name)
    return f"{name_of(job)}-{hashlib.sha256(directory.encode()).hexdigest()[:16]}"


def _contained(job: Job, unit: Unit, site: Site) -> tuple[Job, tuple[str, ...]]:
    """The job in its container, and what removes that: Docker's are no children of ours."""
    container = site.spec.container
    if container is None or job.role == "gateway":
        return job, ()
    files = site.files(unit.name)
    contained = containers.inside(
        job,
        container,
        gpus=unit.place.devices or bool(unit.place.gpus_per_host),
        writable=(site.directory, files.cache),
        readable=(files.key_file,),
    )
    return contained, containers.removal(job, container)


def _facts(unit: Unit, site: Site) -> str:
    """What another launcher object must know of the unit: its mark and its logs."""
    logs = [log.model_dump() for log in logs_of(unit)]
    return json.dumps({"mark": site.mark(unit.name), "logs": logs}) + "\n"


def _notes(unit: Unit, spec: PbsSpec) -> tuple[str, ...]:
    notes = []
    place = unit.place
    if spec.cpus is None and place.gpus_per_host:
        notes.append(
            f"{cpus_of(place, spec)} CPUs a node are asked for ({CPUS_PER_GPU} a GPU); "
            "pbs.cpus says otherwise"
        )
    if spec.cpus is None and not place.gpus_per_host:
        notes.append("the queue's default of CPUs is taken; pbs.cpus says otherwise")
    if spec.time is None:
        notes.append(
            "the queue's own time limit holds, as far as it has one; pbs.time sets it"
        )
    if unit.after:
        notes.append(f"{AFTER} is the job of {unit.after}")
    return tuple(notes)
