"""Units as the Ray launcher is given them: vLLM on two hosts, and one process on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lemnos.engines.base import engine_named
from lemnos.launchers.ray.launcher import Ray
from lemnos.launchers.site import Site
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import validated
from lemnos.spec.plan import Plan
from lemnos.spec.unit import Unit
from lemnos.transport.here import Here
from tests import samples
from tests.unit.engines.rendered import glm

DIRECTORY = "/home/ann/lemnos/deployments/chat"


def site(**keys: Any) -> Site:
    """Of the deployment ``chat``; ``keys`` are the spec's."""
    spec = {"model": "glm-4.5-air-fp8", "on": "ray"} | keys
    return Site(
        deployment="chat",
        spec=validated(DeploymentSpec, spec),
        transport=Here(),
        directory=DIRECTORY,
        cache="/home/ann/cache",
        key_file=Path(DIRECTORY) / "engine.key",
        owner="0a1b2c",
    )


def engine(at: Site) -> Unit:
    """vLLM, with GPUs."""
    plan = glm("vllm", program=("/opt/vllm/bin/python",))
    return _unit(plan.model_copy(update={"name": "chat"}), at)


def small(at: Site) -> Unit:
    """The embedded engine: no GPU."""
    return _unit(samples.plan("chat"), at)


def _unit(plan: Plan, at: Site) -> Unit:
    launcher = Ray(at)
    place = launcher.place(plan, "engine-0", dry=True)
    jobs = engine_named(plan.engine).jobs(plan, 0, place, launcher.files("engine-0"))
    return Unit(deployment="chat", name="engine-0", jobs=jobs, place=place)
