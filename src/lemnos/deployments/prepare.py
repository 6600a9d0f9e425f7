"""From a spec to a plan: ask the machine and the model, then let the planner decide."""

from __future__ import annotations

import shlex
from pathlib import Path

from lemnos.deployments.files import Files
from lemnos.deployments.in_pods import in_a_pod, is_in_pods
from lemnos.deployments.prepare_gpu import GPU_ENGINES, places_of, plan_on_gpus
from lemnos.deployments.units import (
    gateway_launcher,
    gateway_unit,
    launcher_of,
    unit_of,
)
from lemnos.engines.base import Engine, engine_named
from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.host import probe_host
from lemnos.launchers import registry
from lemnos.launchers.base import Launcher
from lemnos.launchers.shape import replicas_of
from lemnos.models.catalogue import catalogue, entry_of_source
from lemnos.models.facts import model_facts
from lemnos.models.progress import Progress
from lemnos.models.pull import at_hand, pull, resolve
from lemnos.models.store import home_of
from lemnos.planning.llamacpp import memory_of, plan_llamacpp
from lemnos.spec.deployment import DEFAULT_PORT, DeploymentSpec, name_from
from lemnos.spec.facts import Host, LocalModel, ModelFacts
from lemnos.spec.place import OpenPort
from lemnos.spec.plan import Plan
from lemnos.spec.unit import Rendered, Unit


def make_plan(spec: DeploymentSpec, progress: Progress) -> Plan:
    """Pull the model if it is not here, and plan ``spec``.

    With ``via`` paths are the other machine's, where engines fetch what is not there.
    """
    engine_named(spec.engine or "llamacpp")  # before anything is downloaded
    registry.maker(spec.on)
    if spec.engine in GPU_ENGINES:
        far = bool(spec.via) or is_in_pods(spec)
        return plan_on_gpus(spec, pull_with=None if far else progress)
    host = probe_host()
    model = pull(spec.model, progress)
    return plan_for(spec, model, model_facts(model), host)


def plan_without_pulling(spec: DeploymentSpec) -> Plan:
    """The plan of ``spec``, from the model that is here or from what the catalogue knows of it."""
    engine_named(spec.engine or "llamacpp")
    if spec.engine in GPU_ENGINES:
        return plan_on_gpus(spec)
    source = resolve(spec.model)
    model = at_hand(spec.model, source)
    if model is not None:
        return plan_for(spec, model, model_facts(model), probe_host())
    entry = entry_of_source(str(source))
    if entry is None:
        raise LemnosError(
            f"{spec.model.source} is not here, so its header cannot be read",
            fix=f"pull it first: lemnos models pull {shlex.quote(spec.model.source)}",
        )
    facts = entry.model_facts()
    path = home_of(source, source.revision, source.file) / Path(str(source.file)).name
    model = LocalModel(
        name=entry.name,
        source=str(source),
        revision=source.revision,
        format=facts.format,
        path=str(path),
        bytes=entry.bytes,
        sha256=entry.sha256,
    )
    return plan_for(spec, model, facts, probe_host())


def default_model(progress: Progress) -> str:
    """The catalogue's first model that fits on this machine; ``progress`` is told why."""
    host = probe_host()
    free = f"{host.cores} cores, {host.free_bytes / 1024**3:.1f} GiB free"
    for entry in catalogue():
        least = memory_of(entry.model_facts(), 512, 1, host.free_bytes)
        if least.total <= host.free_bytes:
            progress.note(
                f"no model was named: {entry.name} ({entry.about}) suits this machine ({free})"
            )
            return entry.name
    raise LemnosError(
        f"no model of the catalogue fits here ({free})",
        where=host.name,
        fix="free some memory",
    )


def plan_for(
    spec: DeploymentSpec, model: LocalModel, facts: ModelFacts, host: Host
) -> Plan:
    """The plan of ``spec`` for a model that is known."""
    engine = _engine_for(spec, model)
    if spec.engine_args:
        raise UsageError(
            "the embedded engine takes no flags of its own",
            where="engine_args",
            fix="use workload.context and workload.concurrency, or another engine",
        )
    if refusal := engine.refusal(host):
        raise refusal
    name = spec.name or name_from(spec.model.served_name or model.name)
    given = {"slurm": spec.slurm.cpus, "pbs": spec.pbs.cpus}.get(spec.on)
    if given:  # the job's cores, not the login node's
        host = host.model_copy(update={"cores": given})
    plan = plan_llamacpp(name, spec, model, facts, host, engine.version())
    if spec.venv:
        python = f"{spec.venv.rstrip('/')}/bin/python"
        plan = plan.model_copy(update={"program": (python,)})
    return in_a_pod(plan) if is_in_pods(spec) else plan


def units_of(plan: Plan) -> list[Unit]:
    """The units that ``plan`` will start, for ``--dry-run``: the same code as the real run.

    Ports of engines that are chosen when they start show as 0 here.
    """
    files = Files.named(plan.name)
    port = plan.spec.endpoint.port or DEFAULT_PORT
    url = f"http://{plan.spec.endpoint.host}:{port}"
    launcher = launcher_of(plan)
    here = plan.spec.on == "local" and not plan.spec.local.hosts
    planned = places_of(plan) if plan.proposal and here else None
    units = [gateway_unit(plan, url, files)]
    for index in range(plan.spec.replicas or replicas_of(plan)):
        name = f"engine-{index}"
        if planned and index < len(planned):
            place = planned[index]
        else:
            place = launcher.place(plan, name, dry=True)
        units.append(unit_of(plan, name, 1, place, launcher.files(name)))
    return units


def rendered(plan: Plan) -> dict[str, Rendered]:
    """What starting each unit of ``plan`` would write and run, by the unit's name."""
    units = units_of(plan)
    launcher = launcher_of(plan)
    return {
        unit.name: launcher_for_unit(plan, unit, launcher).render(unit)
        for unit in units
    }


def launcher_for_unit(plan: Plan, unit: Unit, launcher: Launcher) -> Launcher:
    """The gateway's own launcher for the gateway, else the plan's."""
    return gateway_launcher(plan) if unit.role == "gateway" else launcher


def ports_of(plan: Plan) -> list[OpenPort]:
    """The ports that ``plan``'s engines would open; 0 is chosen when they start."""
    engine = engine_named(plan.engine)
    units = units_of(plan)[1:]
    found = [port for unit in units for port in engine.ports(plan, unit.place)]
    if is_in_pods(plan.spec):  # Dynamo's operator brings its own
        return [port for port in found if port.purpose not in ("etcd", "NATS")]
    return found


def _engine_for(spec: DeploymentSpec, model: LocalModel) -> Engine:
    engine = engine_named(spec.engine or "llamacpp")
    if model.format not in engine.formats:
        raise UsageError(
            f"{model.name} is {model.format}; the {engine.name} engine serves {', '.join(engine.formats)}",
            where=model.path,
            fix="give a GGUF of this model: a .gguf file, or a hub repository that has one",
        )
    return engine
