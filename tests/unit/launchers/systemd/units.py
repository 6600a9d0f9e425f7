"""Units as the systemd launcher is given them: one process, Ray over two hosts, the gateway."""

from __future__ import annotations

from typing import Any

from lemnos.engines.base import JobFiles, engine_named
from lemnos.launchers.systemd.render import Ground
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import validated
from lemnos.spec.place import Place
from lemnos.spec.plan import Command, Job
from lemnos.spec.unit import Unit
from tests.unit.engines.rendered import glm

DIRECTORY = "/home/ann/.local/state/lemnos/deployments/chat"
BOX = Place(gpus_per_host=4, devices=("0", "1", "2", "3"), port=4000, inner_port=4100)
TWO = Place(
    hosts=("gpu1", "gpu2"), gpus_per_host=2, port=4000, inner_port=4100, ray=True
)


def spec(**keys: Any) -> DeploymentSpec:
    return validated(
        DeploymentSpec, {"model": "glm-4.5-air-fp8", "on": "systemd"} | keys
    )


def ground(
    directory: str = DIRECTORY, cache: str = "/scratch/cache", **keys: Any
) -> Ground:
    """Of the deployment ``chat``; ``keys`` are the spec's."""
    return Ground(
        deployment="chat",
        spec=spec(**keys),
        owner="0a1b2c",
        directory=directory,
        files=files(directory, cache),
        state="/home/ann/.local/state/lemnos",
        mark="/home/ann/.local/state/lemnos|chat|",
    )


def files(directory: str = DIRECTORY, cache: str = "/scratch/cache") -> JobFiles:
    return JobFiles(
        log=f"{directory}/engine-0.log", key_file=f"{directory}/engine.key", cache=cache
    )


def engine(place: Place = BOX) -> Unit:
    """vLLM at ``place``."""
    plan = glm("vllm", program=("/opt/vllm/bin/python",)).model_copy(
        update={"name": "chat"}
    )
    jobs = engine_named("vllm").jobs(plan, 0, place, files())
    return Unit(
        deployment="chat", name="engine-0", jobs=jobs, place=place, start_s=240.0
    )


def gateway(directory: str = DIRECTORY) -> Unit:
    job = Job(
        deployment="chat",
        role="gateway",
        command=Command(
            argv=("/opt/lemnos/bin/python", "-m", "lemnos.gateway", "--port", "5366")
        ),
        host="0.0.0.0",
        port=5366,
        log=f"{directory}/gateway-0.log",
    )
    place = Place(hosts=("0.0.0.0",), port=5366)
    return Unit(deployment="chat", name="gateway-0", jobs=(job,), place=place)


def process(directory: str = DIRECTORY, **command: Any) -> Unit:
    """One process with these words and variables."""
    job = Job(
        deployment="chat",
        role="engine",
        command=Command(**{"argv": ("/bin/true",)} | command),
        port=4000,
        log=f"{directory}/engine-0.log",
    )
    return Unit(deployment="chat", name="engine-0", jobs=(job,), place=Place(port=4000))
