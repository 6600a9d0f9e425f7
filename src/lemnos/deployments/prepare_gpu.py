"""From a spec with a proposal to the plan of a GPU engine, and the places that it would run at."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from lemnos import paths
from lemnos.deployments.in_pods import is_in_pods, model_in_a_pod
from lemnos.engines import smg
from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.catalogue import gpu_kind
from lemnos.launchers.shape import Shape, replicas_of, shape_of
from lemnos.models.describe import describe
from lemnos.models.overlay import (
    describe_overlays,
    directory_name,
    make_overlay,
    planned_changes,
)
from lemnos.models.progress import Progress
from lemnos.models.pull import at_hand, pull, resolve
from lemnos.spec.deployment import DeploymentSpec, name_from
from lemnos.spec.facts import LocalModel
from lemnos.spec.place import INNER_PORTS, Place
from lemnos.spec.plan import Plan
from lemnos.spec.proposal import Proposal
from lemnos.spec.quirks import Quirks

GPU_ENGINES = ("vllm", "sglang", "dynamo")


FIRST_PORT, FIRST_INNER_PORT = 8100, 29500
"""What ``--dry-run`` shows; a start takes ports that are free."""


def plan_on_gpus(spec: DeploymentSpec, pull_with: Progress | None = None) -> Plan:
    """The plan of ``spec``, whose layout was chosen before.

    With ``pull_with`` the model is fetched, what is to be changed in a copy of its files is changed,
    and the engine must be there: ready to start. Else nothing is downloaded or made. Raises
    UsageError where the spec has no layout, LemnosError where a path is no model.
    """
    from lemnos.engines.quirks import quirks_for  # a table that only GPU engines need

    proposal = spec.plan
    if proposal is None:
        raise UsageError(
            f"a deployment on {spec.engine} needs a plan",
            fix=f"make one: lemnos plan {shlex.quote(spec.model.source)} --cluster 4xH200 "
            "--save plan.yaml, then lemnos up plan.yaml",
        )
    engine = spec.engine or proposal.engine
    version = spec.engine_version or proposal.engine_version
    program = _program(spec, engine, version)
    router: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    if engine == "sglang" and proposal.roles:
        router, needed = _router(spec, starting=pull_with is not None)
    if pull_with:
        _check_program(spec, engine, version, program)
        pull(spec.model, pull_with)
    model = None if is_in_pods(spec) else _model(spec)
    there = _is_elsewhere(spec) or (is_in_pods(spec) and spec.kubernetes.weights.path)
    source = proposal.source if there else spec.model.source
    described = describe(source, trust_headers=True)[0]
    if model is None:
        size = round(described.architecture.checkpoint_bytes)
        model = model_in_a_pod(spec, str(resolve(spec.model)), size)
    backend = engine if engine != "dynamo" else f"dynamo.{proposal.engine}"
    quirks = quirks_for(backend, version, model.name, described.architecture)
    overlaid: tuple[str, ...] = ()
    if pull_with:
        made = make_overlay(
            Path(model.path), quirks.overlays, paths.cache_dir() / "overlays"
        )
        model = model.model_copy(update={"path": str(made)})
    else:
        model, overlaid = _overlaid(spec, model, quirks)
    return Plan(
        name=spec.name or name_from(spec.model.served_name or model.name),
        spec=spec,
        model=model,
        engine=engine,
        engine_version=version,
        program=program,
        router=router,
        layout=proposal.layout,
        proposal=proposal,
        quirks=quirks,
        reasons=(*proposal.reasons, *needed, *overlaid, *_known_issues(quirks)),
    )


def _overlaid(
    spec: DeploymentSpec, model: LocalModel, quirks: Quirks
) -> tuple[LocalModel, tuple[str, ...]]:
    """The model as the engine is given it, and what is different there; nothing is made yet.

    A hub's model that is not here is told about, and changed once it is.
    """
    if is_in_pods(spec) or not model.path.startswith("/"):
        later = "once the model is here, in a copy of the file"
        if is_in_pods(spec):
            later = "on the volume, by you"
        return model, tuple(
            f"{each.file} gets what it lacks of {each.missing} {later} ({each.name}): {each.why}"
            for each in quirks.overlays
        )
    directory, into = Path(model.path), paths.cache_dir() / "overlays"
    changes = planned_changes(directory, quirks.overlays)
    if not changes:
        return model, ()
    path = into / directory_name(directory, changes)
    return model.model_copy(update={"path": str(path)}), describe_overlays(
        changes, into
    )


def _known_issues(quirks: Quirks) -> tuple[str, ...]:
    return tuple(
        f"known issue {each.name}: '{each.symptom}'; {each.fix}"
        for each in quirks.issues
    )


def _program(spec: DeploymentSpec, engine: str, version: str) -> tuple[str, ...]:
    """The Python of the spec's environment, or of the one that ``lemnos engines install`` made; () where
    there is none."""
    from lemnos.engines.environments.places import installed

    if spec.container or is_in_pods(spec):
        return ()
    if spec.venv:
        return (f"{spec.venv.rstrip('/')}/bin/python",)
    environment = installed(engine, version)
    return (environment.program,) if environment else ()


def _router(
    spec: DeploymentSpec, *, starting: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the Python that has the router of prefill and decode; what must be so for it to start).

    Raises UsageError where it is to be started and is not here, and for what it cannot do.
    """
    if spec.scale:
        raise UsageError(
            "the router of prefill and decode does not tell how many requests wait",
            where="scale",
            fix="leave it out and use lemnos scale, or engine: dynamo",
        )
    if spec.container or is_in_pods(spec):
        needs = "the image's python3 needs smg, the router, beside SGLang"
        return (), (f"{needs}: pip install {smg.PACKAGE}",)
    if spec.via:
        needs = f"{spec.venv or 'the environment of SGLang'} needs smg, the router"
        return (), (f"{needs}: pip install {smg.PACKAGE}",)
    try:
        found = (
            smg.python_of(f"{spec.venv.rstrip('/')}/bin/python") if spec.venv else ""
        )
    except UsageError:
        found = ""
    try:
        return (found or smg.python_of(None),), ()
    except UsageError as error:
        if starting:
            raise
        return (), (f"{error.what}: {error.fix}",)


def _check_program(
    spec: DeploymentSpec, engine: str, version: str, program: tuple[str, ...]
) -> None:
    """Raise LemnosError where the engine is not here to be started. Modules may bring it to a job's PATH."""
    if spec.container or spec.modules or spec.via:
        return
    names = {"vllm": "vllm", "sglang": "python3", "dynamo": "python3"}
    found = Path(program[0]).exists() if program else bool(shutil.which(names[engine]))
    if not found:
        raise LemnosError(
            f"{engine} {version} is not here",
            where=program[0] if program else "",
            fix=f"lemnos engines install {engine}=={version}",
        )


def _is_elsewhere(spec: DeploymentSpec) -> bool:
    """Whether the model is a path of the machines beyond the login node."""
    return (
        bool(spec.via)
        and spec.model.source.startswith("/")
        and not Path(spec.model.source).exists()
    )


def places_of(plan: Plan) -> list[Place]:
    """Where each replica would run, for ``--dry-run``: hosts are named by their number.

    One box with enough GPUs is this machine; ports are chosen when they start.
    """
    proposal = plan.proposal
    assert proposal is not None
    shape = shape_of(plan)
    return [_place(proposal, shape, number) for number in range(replicas_of(plan))]


def _place(proposal: Proposal, shape: Shape, number: int) -> Place:
    port, inner = FIRST_PORT + number, FIRST_INNER_PORT + INNER_PORTS * number
    if proposal.nodes == 1:
        first = number * shape.gpus
        split = proposal.gpus > shape.gpus
        devices = tuple(str(i) for i in range(first, first + shape.gpus))
        return Place(
            gpus_per_host=shape.per_host,
            devices=devices if split else (),
            port=port,
            inner_port=inner,
        )
    first = number * shape.hosts % proposal.nodes
    names = tuple(f"node-{first + i}" for i in range(shape.hosts))
    kind = gpu_kind(proposal.gpu)
    return Place(
        hosts=names,
        gpus_per_host=shape.per_host,
        port=port,
        inner_port=inner,
        multi_node_nvlink=kind.link_domain > kind.per_node,
    )


def _model(deployment: DeploymentSpec) -> LocalModel:
    """The model that is here, else its name on the hub, which the engine would fetch."""
    spec = deployment.model
    if _is_elsewhere(deployment):
        return LocalModel(
            name=Path(spec.source).name,
            source=f"file://{spec.source}",
            format="safetensors",
            path=spec.source,
            bytes=0,
        )
    source = resolve(spec)
    here = at_hand(spec, source)
    if here and here.format == "safetensors":
        return here
    if source.kind not in ("hf", "modelscope"):
        raise LemnosError(
            "is not a model that GPU engines serve",
            where=spec.source,
            fix="give a directory with safetensors and a config.json, or a hub's model",
        )
    return LocalModel(
        name=source.name.rpartition("/")[2],
        source=str(source),
        revision=spec.revision or source.revision,
        format="safetensors",
        path=source.name,
        bytes=0,
    )
