"""Groups of SGLang's prefill and decode servers with the real router and stand-ins for the servers."""

from __future__ import annotations

import shlex
from pathlib import Path

from lemnos.engines.environments.places import installed
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.proposal import Proposal, Role
from tests.unit.engines.rendered import proposed

SMG = "1.13.0"
# Looked for before the tests' own home hides it.
ENVIRONMENT = installed("smg", SMG)
STAND_IN = Path(__file__).with_name("sglang_stand_in")
SMI = """#!/bin/sh
for number in 0 1 2 3; do echo "$number, NVIDIA H100 80GB HBM3, 81559, 81000"; done
"""


def venv(directory: Path) -> Path:
    """An environment with smg, and with a stand-in for SGLang."""
    assert ENVIRONMENT
    python = directory / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    own, real = shlex.quote(str(STAND_IN)), shlex.quote(ENVIRONMENT.program)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={own} exec {real} "$@"\n')
    python.chmod(0o755)
    return python.parent.parent


def tools(directory: Path) -> Path:
    """A directory for PATH, with a driver that tells of four GPUs."""
    made = directory / "sbin"
    made.mkdir()
    (made / "nvidia-smi").write_text(SMI)
    (made / "nvidia-smi").chmod(0o755)
    return made


def proposal(gpus: int = 4) -> Proposal:
    """1P+1D of a GPU each, on a box with ``gpus``: as many groups as go there."""
    base = proposed("glm-4.5-air-fp8", "4xH100", tensor=4, replicas=1)
    return base.model_copy(
        update={
            "engine": "sglang",
            "engine_version": "0.5.23",
            "layout": base.layout.model_copy(update={"tensor": 1, "replicas": 2}),
            "roles": Role(prefill=1, decode=1),
            "nodes": 1,
            "gpus": gpus,
        }
    )


def over_two_hosts() -> Proposal:
    """Each server has a host with 8 GPUs for itself."""
    base = proposal()
    layout = base.layout.model_copy(update={"tensor": 8})
    return base.model_copy(update={"layout": layout, "nodes": 2, "gpus": 16})


def spec(model: Path, environment: Path, **keys: object) -> DeploymentSpec:
    """A deployment of such groups on this machine."""
    written = {
        "name": "pd",
        "model": {"source": str(model), "served_name": "m"},
        "engine": "sglang",
        "plan": proposal(),
        "venv": str(environment),
        **keys,
    }
    return DeploymentSpec.model_validate(written)
