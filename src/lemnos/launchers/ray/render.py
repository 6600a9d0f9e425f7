"""A unit as a Ray job: its driver, a script for each process, and what is sent to the dashboard. Pure."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import zipfile
from importlib import resources
from typing import Any

from lemnos.errors import UsageError
from lemnos.launchers.late import quoted
from lemnos.launchers.logs import logs_of
from lemnos.launchers.ray.parse import MARK, TRY
from lemnos.launchers.script import body_of
from lemnos.launchers.site import Site
from lemnos.launchers.templates import Shell, script
from lemnos.spec.clusters import RaySpec
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.place import INNER_PORTS, Place
from lemnos.spec.plan import Job
from lemnos.spec.unit import LogFile, Rendered, Unit

NUMBER = "${LEMNOS_TRY}"
"""Stands for which start of the unit it is, by its time: Ray takes an id once, even one that it was told to forget."""
GRACE_S = 7
"""What is left has so long after SIGTERM."""
STOP_S = GRACE_S + 8
"""Ray kills a driver that has not ended so long after it was asked to."""
DUMP = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"


def render(unit: Unit, site: Site, cluster: Rendered | None = None) -> Rendered:
    """``cluster``: what starting the cluster would take, where it is lemnos' own. Raises UsageError for what
    Ray cannot do, with the key to change."""
    if site.spec.container:
        raise UsageError(
            "lemnos runs no containers on Ray",
            where="container",
            fix="start Ray inside the image, or give the engine's environment as venv",
        )
    files = dict(cluster.files) if cluster else {}
    files["job.json"] = _json(_body(unit, site))
    files["unit.json"] = _json(_facts(unit, site))
    for job in unit.jobs:
        make = _inside if unit.place.ray else _rank
        files[f"{name_of(job)}.sh"] = make(job, unit, site)
    for file in ("driver.py", "actors.py"):
        own = resources.files("lemnos.launchers.ray").joinpath(file)
        files[file] = own.read_text(encoding="utf-8")
    notes = cluster.notes if cluster else ()
    commands = cluster.commands if cluster else ()
    return Rendered(
        files=files,
        commands=(*commands, *_commands(unit, site)),
        notes=(
            *notes,
            f"{NUMBER} tells the starts of {unit.name} apart; the engines' key is in the package, as a file of mode 600",
        ),
    )


def package(files: dict[str, str], key: str) -> bytes:
    """The job's files as the dashboard takes them; the key can be read by its owner only."""
    shipped = {
        name: text
        for name, text in files.items()
        if "/" not in name and name != "job.json"
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**shipped, "engine.key": key}.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, text)
    return data.getvalue()


def numbered(body: str, number: int) -> dict[str, Any]:
    """``job.json`` as it is sent."""
    sent: dict[str, Any] = json.loads(body.replace(NUMBER, str(number)))
    return sent


def package_of(body: dict[str, Any]) -> str:
    """The name under which its files are uploaded."""
    uri: str = body["runtime_env"]["working_dir"]
    return uri.removeprefix("gcs://")


def bundle_of(place: Place, spec: RaySpec) -> dict[str, float]:
    """What a unit takes of each host."""
    cpus = spec.cpus or (0 if place.gpus_per_host else 1)
    if place.ray:  # an actor of vLLM's for each GPU
        cpus = max(cpus, place.gpus_per_host)
    need: dict[str, float] = {"GPU": place.gpus_per_host, "CPU": cpus}
    return {name: value for name, value in need.items() if value} | spec.resources


def name_of(job: Job) -> str:
    """``engine-0.1``."""
    return job.id.partition("/")[2]


def ids_of(site: Site) -> str:
    """How the ids of the deployment's jobs begin."""
    return f"lemnos-{site.deployment}-{_short(site.mark(''))}-"


def log_name(job: str, path: str) -> str:
    """Of a process' log among those of Ray's session. ``job``: the submission's id; ``path``: where its end is
    kept here."""
    return f"{job}-{path.rpartition('/')[2]}"


def driver_log(site: Site, unit: str) -> LogFile:
    """What the driver printed."""
    path = f"{site.directory}/{unit}.driver.log"
    return LogFile(job=f"{unit}.driver", role="driver", host="", path=path)


def python_of(spec: DeploymentSpec) -> str:
    """The one that has Ray."""
    of_venv = f"{spec.venv.rstrip('/')}/bin/python" if spec.venv else "python"
    return spec.ray.python or of_venv


def _body(unit: Unit, site: Site) -> dict[str, Any]:
    """``POST /api/jobs/``. Whoever reaches the dashboard can read it."""
    mark = site.mark(unit.name)
    own = f"{ids_of(site)}{unit.name}-{NUMBER}"
    return {
        "entrypoint": f"{shlex.quote(python_of(site.spec))} driver.py",
        "submission_id": own,
        "runtime_env": {
            "working_dir": f"gcs://_ray_pkg_{own}.zip",
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)},
        },
        "metadata": {MARK: mark, TRY: NUMBER},
    }


def _facts(unit: Unit, site: Site) -> dict[str, Any]:
    """What the driver must know, and another launcher object."""
    logs = logs_of(unit)
    return {
        "unit": unit.name,
        "hosts": len(unit.place.hosts),
        "bundle": bundle_of(unit.place, site.spec.ray),
        "inside": unit.place.ray,
        "ports": INNER_PORTS + 1,
        "grace_s": GRACE_S + 3,
        "key_file": site.files(unit.name).key_file,
        "ranks": [
            {
                "name": name_of(job),
                "host": _number(job, unit.place),
                "role": log.role,
                "log": log.path,
            }
            for job, log in zip(unit.jobs, logs, strict=True)
        ],
    }


def _inside(job: Job, unit: Unit, site: Site) -> str:
    """Says with which words and variables the engine is to run: an actor of Ray becomes it."""
    words = job.command.argv[job.command.argv.index("serve") :]
    argv = (python_of(site.spec), "-c", DUMP, *words)
    command = job.command.model_copy(update={"argv": argv})
    return "#!/bin/sh\n" + body_of(job.model_copy(update={"command": command}))


def _rank(job: Job, unit: Unit, site: Site) -> str:
    return script(
        "rank.sh.j2",
        by=Shell("by an actor of Ray"),
        directory=Shell('"${LEMNOS_AT:?}"'),
        name=name_of(job),
        mark=f"{name_of(job)}-{_short(site.mark(unit.name))}",
        log=Shell(f'"${{LEMNOS_LOGS:?}}"{quoted(log_name("", job.log))}'),
        modules=list(site.spec.modules),
        gpus=0,
        grace_s=GRACE_S,
        body=Shell(body_of(job)),
        removal="",
        leaves=Shell(_leaving(job, unit, site)),
    )


def _leaving(job: Job, unit: Unit, site: Site) -> str:
    """What was written on the host goes; the key with the last one that held it."""
    key = site.files(unit.name).key_file
    held = f"{key}.held"
    written = [secret.file for secret in job.command.secrets if secret.file]
    own = site.unit_directory(unit.name)
    directories = [own, own.rpartition("/")[0], site.directory]
    lines = [f"rm -f -- {' '.join(map(quoted, written))}"] if written else []
    lines += [
        f'rm -f -- {quoted(held)}/"${{directory##*/}}"',
        f"rmdir {quoted(held)} 2>/dev/null && rm -f -- {quoted(key)}",
        'rm -rf -- "$directory"',
        f"rmdir {' '.join(map(quoted, directories))} 2>/dev/null",
    ]
    return "\n".join(lines)


def _commands(unit: Unit, site: Site) -> tuple[tuple[str, ...], ...]:
    """As a person would send them."""
    url = "${RAY}" if site.spec.ray.hosts else site.spec.ray.address or DEFAULT_ADDRESS
    body = _body(unit, site)
    at = f"{url.rstrip('/')}/api"
    packed = f"{at}/packages/gcs/{package_of(body)}"
    return (
        ("curl", "-T", "package.zip", packed),
        ("curl", "--json", "@job.json", f"{at}/jobs/"),
    )


def _number(job: Job, place: Place) -> int:
    """Of the job's host, from 0."""
    if job.host in place.hosts:
        return place.hosts.index(job.host)
    raise UsageError(
        f"{job.id} would run on {job.host}, and Ray chooses the nodes",
        where="on: ray",
        fix="leave hosts to Ray",
    )


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
