"""Plans of known models, as ``lemnos plan`` makes them, and what engines make of them."""

from __future__ import annotations

import functools
from typing import Any

import lemnos
from lemnos.engines.base import JobFiles, engine_named
from lemnos.engines.flags.parse import Problem, parse
from lemnos.engines.flags.schema import schema_for
from lemnos.engines.quirks import quirks_for
from lemnos.models.describe import describe
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.facts import LocalModel
from lemnos.spec.layout import Layout
from lemnos.spec.place import Place
from lemnos.spec.plan import Job, Plan
from lemnos.spec.proposal import Proposal, Role

FILES = JobFiles(log="/d/engine-0.log", key_file="/d/engine-0.key", cache="/cache")
BOX = Place(gpus_per_host=8, port=4000, inner_port=4100)
TWO = Place(hosts=("10.0.0.1", "10.0.0.2"), gpus_per_host=4, port=4000, inner_port=4100)


@functools.cache
def proposed(model: str, cluster: str, **asked: Any) -> Proposal:
    """The plan that lemnos chooses."""
    plans = lemnos.propose(model, cluster, **asked).plans
    assert plans, f"no plan for {model} on {cluster}"
    return next(plan for plan in plans if plan.model == model)


def plan_of(
    proposal: Proposal,
    engine: str,
    version: str,
    *,
    program: tuple[str, ...] = (),
    quirked: bool = True,
    **keys: Any,
) -> Plan:
    """The deployment of ``proposal`` on an engine's version; ``keys`` are the spec's."""
    worker = proposal.engine if engine == "dynamo" else ""
    quirks = quirks_for(
        f"{engine}.{worker}" if worker else engine,
        version,
        proposal.model,
        describe(proposal.model)[0].architecture,
    )
    plan = Plan(
        name=proposal.model.replace(".", "-"),
        spec=DeploymentSpec(model={"source": proposal.source}, engine=engine, **keys),
        model=LocalModel(
            name=proposal.model,
            source=proposal.source,
            format="safetensors",
            path=f"/models/{proposal.model}",
            bytes=0,
        ),
        engine=engine,
        engine_version=version,
        program=program,
        layout=proposal.layout,
        proposal=proposal,
        reasons=(),
    )
    return plan.model_copy(update={"quirks": quirks}) if quirked else plan


def glm(engine: str = "vllm", version: str | None = None, **changes: Any) -> Plan:
    """GLM-4.5-Air-FP8 on 4xH100 at TP4, with ``changes``: of the layout (``layout``), the settings
    (``settings``), the proposal (``roles``), or keys of the spec."""
    base = proposed("glm-4.5-air-fp8", "4xH100", tensor=4, replicas=1)
    layout = base.layout.model_copy(update=changes.pop("layout", {}))
    settings = base.settings.model_copy(update=changes.pop("settings", {}))
    roles: Role | None = changes.pop("roles", None)
    worker = changes.pop("worker", "sglang" if engine == "dynamo" else engine)
    proposal = base.model_copy(
        update={
            "layout": layout,
            "settings": settings,
            "roles": roles,
            "engine": worker,
        }
    )
    newest = {"vllm": "0.26.0", "sglang": "0.5.23", "dynamo": "1.6.1"}[engine]
    return plan_of(proposal, engine, version or newest, **changes)


def jobs_of(plan: Plan, place: Place = BOX, index: int = 0) -> tuple[Job, ...]:
    """What the engine renders."""
    return engine_named(plan.engine).jobs(plan, index, place, FILES)


def flag(job: Job, name: str) -> str | None:
    """The value after a flag: "" for one without, None where it is not there."""
    argv = job.command.argv
    if name not in argv:
        return None
    after = argv.index(name) + 1
    bare = after == len(argv) or argv[after].startswith("--")
    return "" if bare else argv[after]


def refused(plan: Plan, job: Job) -> list[Problem]:
    """What the version's own parser would refuse of a command; [] for etcd, NATS and Ray."""
    argv = job.command.argv
    for engine, mark, skip in (
        ("vllm", "serve", 1),
        ("sglang", "sglang.launch_server", 1),
        ("dynamo.frontend", "dynamo.frontend", 1),
        ("dynamo.vllm", "dynamo.vllm", 1),
        ("dynamo.sglang", "dynamo.sglang", 1),
    ):
        if mark in argv and job.part not in ("ray-head", "ray-worker"):
            words = argv[argv.index(mark) + skip :]
            schema = schema_for(engine, plan.engine_version)
            return [each for each in parse(schema, words).problems if each.fatal]
    return []


def layout(**keys: Any) -> Layout:
    """A layout."""
    return Layout(**keys)
