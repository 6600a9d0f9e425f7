"""From a unit to services of systemd, one a job, and the commands that install and start them. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePosixPath

import yaml

from lemnos.engines.base import JobFiles
from lemnos.engines.vllm import RAY
from lemnos.errors import UsageError
from lemnos.launchers.late import quoted
from lemnos.launchers.script import body_of
from lemnos.launchers.systemd.quoting import UnitText, unit_file
from lemnos.spec.base import Value
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.place import Place
from lemnos.spec.plan import Job
from lemnos.spec.unit import Unit

SYSTEM_UNITS = "/etc/systemd/system"
CANCELLED = "cancelled"
"""The file in a unit's directory that keeps it from being started ever again."""
TMP = ("/tmp", "/var/tmp")
BURST = 3
"""Starts in a row after which systemd gives up, and lemnos decides."""
START_SPARE_S = 30.0
"""Beyond what lemnos itself waits, which can say why nothing comes."""
STOP_S = {"gateway": 45.0}
"""The gateway finishes open streams for up to 30 s after SIGTERM."""
ENGINE_STOP_S = 30.0
OOM = {"gateway": 0}
ENGINE_OOM = 200
"""Where memory ends, engines go first: they come back, and the gateway can say so meanwhile."""
PATH = (
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/cuda/bin"
)

# What the service itself says, with the key of the spec to use instead.
_OWNED = {
    "User": "systemd.user",
    "MemoryMax": "systemd.memory_max",
    "Type": "nothing: lemnos waits for the port",
    "RestartSec": "restart.backoff_s",
    "TimeoutStartSec": "ready_timeout_s",
}
_OWNED_BEGINNINGS = ("Exec", "Restart", "Standard", "KillMode", "EnvironmentFile")


@dataclass(frozen=True)
class Ground:
    """What rendering must know of the deployment's place."""

    deployment: str
    spec: DeploymentSpec
    owner: str
    directory: str
    """Of the engines: logs, keys, ``units/``."""
    files: JobFiles
    state: str
    """lemnos' own state, which the gateway writes its ledger to."""
    mark: str
    """Begins the value of ``LEMNOS_JOB``."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Host ("" is this machine) -> what it calls itself."""

    gateways: str = ""
    """The same of the gateway, where engines are another user's, who may not see it."""

    def home(self, name: str) -> str:
        """The directory of a unit by its name: of the gateway, or of the engines."""
        gateway = self.gateways and name.startswith("gateway-")
        return self.gateways if gateway else self.directory

    def unit_directory(self, name: str) -> str:
        """Scripts and notes of a unit."""
        return f"{self.home(name)}/units/{name}"

    @property
    def user(self) -> str | None:
        """Who engines are, where that is not the caller."""
        return self.spec.systemd.user if self.is_system else None

    @property
    def is_system(self) -> bool:
        return self.spec.systemd.scope == "system"


class Part(Value):
    """One job as a service."""

    job: Job
    service: str
    host: str
    """One of ``systemd.hosts``; empty: this machine."""
    files: dict[str, str]


def target_of(deployment: str) -> str:
    """What groups all units of a deployment."""
    return f"lemnos-{deployment}.target"


def supervisor_of(deployment: str) -> str:
    """The supervisor's service. No unit's name ends so, whatever the deployment is called."""
    return f"lemnos-{deployment}-supervisor.service"


def service_of(job: Job) -> str:
    """``lemnos-chat-engine-0.service``, ``lemnos-chat-engine-0.1.service``."""
    return f"lemnos-{job.deployment}-{job.id.partition('/')[2]}.service"


def unit_of(service: str, deployment: str) -> str | None:
    """The unit that a service is of; None for one of another deployment (``box-2`` is not ``box``)."""
    own = re.escape(deployment)
    match = re.fullmatch(rf"lemnos-{own}-([a-z]+-\d+)(?:\.\d+)?\.service", service)
    return match[1] if match else None


def description_of(deployment: str, name: str, owner: str) -> str:
    """What ``systemctl status`` shows; the owner tells equal names of other state directories apart."""
    return f"lemnos {deployment}/{name} [{owner}]"


def parts_of(unit: Unit, ground: Ground) -> tuple[Part, ...]:
    """A service for each job. Raises UsageError for what systemd cannot do, with the key to change."""
    if ground.spec.modules:
        raise UsageError(
            "systemd loads no environment modules",
            where="modules",
            fix="set what they set with engine_env, or use --on local",
        )
    return tuple(_part(job, unit, ground) for job in unit.jobs)


def commands_of(
    unit: Unit, parts: Sequence[Part], ground: Ground
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(host, command) in order: others' hosts first, so that the first job finds its ranks."""
    directory = ground.unit_directory(unit.name)
    found = []
    for host in sorted({part.host for part in parts}, reverse=True):
        names = [part.service for part in parts if part.host == host]
        paths = [f"{directory}/{name}" for name in names]
        if ground.is_system:
            copy = ("install", "-m", "644", "-t", SYSTEM_UNITS, "--", *paths)
            found += [(host, copy)]
        enabled = names if ground.is_system else paths
        control = systemctl(ground.spec)
        found += [
            (host, (*control, "--quiet", "--force", "enable", *enabled)),
            (host, (*control, "daemon-reload")),
            (host, (*control, "--no-block", "start", *names)),
        ]
    return tuple(found)


def notes_of(unit: Unit, ground: Ground) -> tuple[str, ...]:
    """What is worth knowing before it is started."""
    spec = ground.spec.systemd
    notes = []
    if any(job.command.secrets for job in unit.jobs):
        notes.append("keys are read from their files as it starts: no unit holds one")
    if unit.role == "gateway":
        name = f"{unit.name}.env"
        notes.append(
            f"{name} (mode 600) takes proxies and clouds' keys from this environment"
        )
    if ground.spec.container and spec.hardening:
        notes.append(
            "the container confines the engine: systemd.hardening adds nothing"
        )
    elif spec.hardening and not ground.is_system:
        notes.append(
            "a user's systemd cannot make the file system read-only: systemd.scope: system can"
        )
    if ground.is_system and not ground.user and unit.role != "gateway":
        notes.append("the engine runs as root: systemd.user names who it should be")
    return tuple(notes)


def systemctl(spec: DeploymentSpec) -> tuple[str, ...]:
    """The words before a verb."""
    return ("systemctl",) if spec.systemd.scope == "system" else ("systemctl", "--user")


def host_of(job: Job, spec: DeploymentSpec) -> str:
    """Where a job runs: one of ``systemd.hosts``, or empty for this machine (as the gateway always does,
    whatever address it listens on)."""
    return (
        "" if job.role == "gateway" or job.host not in spec.systemd.hosts else job.host
    )


def environment_file(ground: Ground, job: Job) -> str:
    """What the gateway is given of the caller's environment; empty for engines."""
    name = job.id.partition("/")[2]
    return f"{ground.unit_directory(name)}/{name}.env" if job.role == "gateway" else ""


def _part(job: Job, unit: Unit, ground: Ground) -> Part:
    name = job.id.partition("/")[2]
    directory = ground.unit_directory(unit.name)
    inside = _contained(job, unit.place, ground)
    service = service_of(job)
    files = {
        f"{name}.sh": _script(inside, ground),
        service: _service(job, unit, ground, f"{directory}/{name}.sh"),
        "ready.py": _ready_program(),
    }
    host = host_of(job, ground.spec)
    return Part(job=job, service=service, host=host, files=files)


def _script(job: Job, ground: Ground) -> str:
    name = job.id.partition("/")[2]
    opening = f"--- lemnos starts {job.id} at "
    env = {"PATH": PATH, "LEMNOS_JOB": f"{ground.mark}{name}"}
    program = PurePosixPath(job.command.argv[0])
    if program.is_absolute():  # Ray and compilers are found beside the interpreter
        env["PATH"] = f"{program.parent}:{PATH}"
    elif ground.spec.venv:
        env["PATH"] = f"{ground.spec.venv}/bin:{PATH}"
    if _strict(job, ground):  # what is kept in a home needs one that can be written
        env["HOME"] = f"{ground.files.cache or ground.directory}/home"
    command = job.command.model_copy(update={"env": env | job.command.env})
    body = body_of(job.model_copy(update={"command": command}))
    lines = [
        "#!/bin/sh",
        f"echo \"{opening}$(date '+%Y-%m-%d %H:%M:%S')\"",
        *(_needed(secret.key_file) for secret in job.command.secrets if secret.file),
    ]
    return "\n".join([*lines, body])


def _needed(key_file: str) -> str:
    """With an empty key in its file an engine would serve everybody."""
    said = quoted(f"error: no key can be read from {key_file}")
    return f"[ -r {quoted(key_file)} ] || {{ echo {said}; exit 1; }}"


def _service(job: Job, unit: Unit, ground: Ground, script: str) -> str:
    spec, name = ground.spec, job.id.partition("/")[2]
    start_s = max(spec.ready_timeout_s, 2 * unit.start_s) + START_SPARE_S
    engine = job.role != "gateway"
    return unit_file(
        "systemd_service.j2",
        cancelled=f"{ground.unit_directory(unit.name)}/{CANCELLED}",
        only_on=ground.names.get(host_of(job, spec), ""),
        about=f"{job.part or job.role} {name} of {ground.deployment}",
        description=description_of(ground.deployment, name, ground.owner),
        target=target_of(ground.deployment),
        wants=("network-online.target",) if ground.is_system else (),
        after=_after(unit.place, ground),
        requires=_requires(job, unit, ground),
        mounts=(ground.home(unit.name),) if ground.is_system else (),
        limit_s=round(spec.restart.steady_s + BURST * start_s),
        burst=BURST,
        user=ground.user if engine else None,
        environment_file=environment_file(ground, job),
        waits_for=_waits_for(job, unit, ground, script),
        script=script,
        ready=_ready(job, unit, ground, script),
        start_s=round(start_s),
        restart="no" if _is_rank(job, unit) else "on-failure",
        restart_s=spec.restart.backoff_s,
        stop_s=round(STOP_S.get(job.role, ENGINE_STOP_S)),
        log=job.log,
        identifier=f"lemnos-{ground.deployment}-{name}",
        directory=ground.home(unit.name),
        oom=OOM.get(job.role, ENGINE_OOM),
        memory_max=spec.systemd.memory_max if engine else None,
        hardening=_hardening(job, unit, ground),
        writable=_writable(job, unit, ground),
        settings=_settings(spec) if engine else (),
    )


def _is_rank(job: Job, unit: Unit) -> bool:
    """One of several processes that make one engine: brought back together, by lemnos, or not at all."""
    return not job.part and sum(not each.part for each in unit.jobs) > 1


def _after(place: Place, ground: Ground) -> tuple[str, ...]:
    if (
        not ground.is_system
    ):  # a user's manager starts after all that, and knows none of it
        return ()
    gpu = ("nvidia-persistenced.service", "nvidia-fabricmanager.service")
    return ("network-online.target", *(gpu if place.gpus_per_host else ()))


def _requires(job: Job, unit: Unit, ground: Ground) -> tuple[str, ...]:
    """What serves on a Ray cluster stops and starts with the head, which is on the same host."""
    heads = [each for each in unit.jobs if each.part == "ray-head"]
    return tuple(service_of(head) for head in heads if not job.part)


def _waits_for(job: Job, unit: Unit, ground: Ground, script: str) -> tuple[str, ...]:
    if job.part != "ray-worker":
        return ()
    return _asking(job, script, unit.place.hosts[0], unit.place.inner_port + RAY, "tcp")


def _ready(job: Job, unit: Unit, ground: Ground, script: str) -> tuple[str, ...]:
    """What tells that it answers: then the service is ``active``."""
    if job.part == "ray-head":
        return _asking(job, script, job.host, unit.place.inner_port + RAY, "tcp")
    if not job.port:
        return ()
    return _asking(
        job, script, job.host, job.port, "tcp" if job.role == "gateway" else "http"
    )


def _asking(job: Job, script: str, host: str, port: int, how: str) -> tuple[str, ...]:
    program = PurePosixPath(job.command.argv[0])
    python = program.name.startswith("python") and program.is_absolute()
    words = (str(program),) if python else ("/usr/bin/env", "python3")
    return (*words, f"{PurePosixPath(script).parent}/ready.py", host, str(port), how)


def _strict(job: Job, ground: Ground) -> bool:
    """Whether the file system is read-only for the job."""
    hard = ground.is_system and ground.spec.systemd.hardening
    return hard and job.role != "gateway" and ground.spec.container is None


def _hardening(
    job: Job, unit: Unit, ground: Ground
) -> tuple[tuple[str, str | UnitText], ...]:
    if not ground.spec.systemd.hardening:
        return ()
    if ground.spec.container and job.role != "gateway":
        return ()  # its walls are the container's; what makes containers needs all this
    found: list[tuple[str, str]] = [
        (each["key"], each["value"])
        for each in hardening()
        if ground.is_system or each["scope"] == "both"
    ]
    if not ground.is_system:
        return tuple(found)
    if not _shares_tmp(job, unit, ground):
        found.append(("PrivateTmp", "yes"))
    found.append(("CapabilityBoundingSet", _capabilities(job, ground)))
    return tuple(found)


def _shares_tmp(job: Job, unit: Unit, ground: Ground) -> bool:
    """Parts of an engine meet there (Ray, Dynamo); and what is there would not be seen otherwise."""
    command = job.command
    paths = (ground.directory, ground.files.cache, *command.argv, *command.env.values())
    below = tuple(f"{directory}/" for directory in TMP)
    return len(unit.jobs) > 1 or any(path.startswith(below) for path in paths)


def _capabilities(job: Job, ground: Ground) -> str:
    if job.role == "gateway":
        return "CAP_NET_BIND_SERVICE"
    return "" if ground.user else "CAP_DAC_READ_SEARCH"  # root reads anybody's model


def _writable(job: Job, unit: Unit, ground: Ground) -> tuple[str, ...]:
    if not (ground.is_system and _hardening(job, unit, ground)):
        return ()
    own = [ground.home(unit.name)]
    if job.role == "gateway":
        own.append(ground.state)
    elif ground.files.cache:
        own.append(ground.files.cache)
    shared = TMP if _shares_tmp(job, unit, ground) else ()
    return tuple(f"-{path}" for path in (*own, *shared))


def _settings(spec: DeploymentSpec) -> tuple[tuple[str, str], ...]:
    """The spec's own settings of [Service]. Raises UsageError for one that is lemnos', or none."""
    found = []
    for key, value in spec.systemd.units.items():
        where = f"systemd.units.{key}"
        if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", key):
            raise UsageError(
                f"'{key}' is no setting of systemd", where=where, fix="write Nice: 5"
            )
        if key in _OWNED or key.startswith(_OWNED_BEGINNINGS):
            fix = f"use {_OWNED[key]}" if key in _OWNED else "leave it out"
            raise UsageError(f"{key} is written by lemnos", where=where, fix=fix)
        if value is not None:
            text = (
                {True: "yes", False: "no"}.get(value)
                if isinstance(value, bool)
                else value
            )
            found.append((key, str(text)))
    return tuple(found)


def _contained(job: Job, place: Place, ground: Ground) -> Job:
    container = ground.spec.container
    if container is None or job.role == "gateway":
        return job
    from lemnos.launchers.containers import inside

    return inside(
        job,
        container,
        gpus=place.devices or bool(place.gpus_per_host),
        writable=(ground.directory, ground.files.cache),
        readable=(ground.files.key_file,),
    )


@functools.cache
def hardening() -> tuple[dict[str, str], ...]:
    """``hardening.yaml``."""
    text = resources.files(__package__).joinpath("hardening.yaml").read_text()
    return tuple(yaml.safe_load(text)["settings"])


@functools.cache
def _ready_program() -> str:
    return resources.files(__package__).joinpath("ready.py").read_text()
