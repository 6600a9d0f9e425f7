"""What fits on a machine without a GPU, for llama.cpp. Pure."""

from __future__ import annotations

from lemnos.errors import LemnosError, UsageError
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.facts import Host, LocalModel, ModelFacts
from lemnos.spec.layout import Layout, Rejection
from lemnos.spec.plan import Embedded, EngineSettings, Memory, Plan

KV_BYTES = 2
"""llama.cpp keeps keys and values as FP16 unless told otherwise (``cache_type_k``)."""
BATCH = 512
"""llama.cpp's default ``n_ubatch``: tokens whose logits and activations exist at once."""
HIDDEN_BUFFERS = 7
"""Activation buffers of the hidden size per token of a batch, read from llama.cpp's own
log for SmolLM2-135M (compute buffer 414.61 MiB at 2048 tokens, less the FP32 logits)."""
PROCESS_BYTES = 80 * 1024**2
"""The interpreter and llama.cpp's library, as resident in the child (measured, 60-80 MiB)."""
SPARE = 0.05
"""Share of the free memory that a plan leaves alone."""
DEFAULT_CONTEXT = 4096
"""Context a request gets when none is asked for, where memory and the model allow it."""


def plan_llamacpp(
    name: str,
    spec: DeploymentSpec,
    model: LocalModel,
    facts: ModelFacts,
    host: Host,
    engine_version: str,
) -> Plan:
    """The plan of one replica on ``host``.

    The context is what was asked for, or the largest power of two up to DEFAULT_CONTEXT
    that fits. Raises UsageError when more context is asked for than the model has, and
    LemnosError with the figures when it does not fit.
    """
    asked = spec.workload.context
    if asked and asked > facts.max_context:
        raise UsageError(
            f"context {asked} is over what {facts.name} was trained for ({facts.max_context})",
            fix=f"ask for at most {facts.max_context}",
        )
    slots = spec.workload.concurrency
    rejected = []
    for context in [asked] if asked else _contexts(facts):
        memory = memory_of(facts, context, slots, host.free_bytes)
        if memory.total <= host.free_bytes * (1 - SPARE):
            break
        rejected.append(
            Rejection(option=f"context {context} x {slots}", reason=_too_much(memory))
        )
    else:
        raise LemnosError(
            f"{facts.name} does not fit: {rejected[-1].reason}",
            where=host.name,
            fix="free some memory, or ask for less: --context, --concurrency, or a smaller model",
        )
    settings = EngineSettings(context=context, slots=slots, threads=host.cores)
    return Plan(
        name=name,
        spec=spec,
        model=model,
        engine="llamacpp",
        engine_version=engine_version,
        layout=Layout(),
        embedded=Embedded(facts=facts, host=host, settings=settings, memory=memory),
        reasons=_reasons(facts, host, settings, asked),
        rejected=tuple(rejected),
    )


def memory_of(facts: ModelFacts, context: int, slots: int, free: int) -> Memory:
    """Bytes for ``slots`` requests of ``context`` tokens each.

    KV cache: 2 (K and V) x layers x KV heads x head size x KV_BYTES a token. Compute: for
    a batch, FP32 logits and HIDDEN_BUFFERS activations a token.
    """
    kv_per_token = 2 * facts.layers * facts.kv_heads * facts.head_dim * KV_BYTES
    compute = BATCH * 4 * (facts.vocabulary + HIDDEN_BUFFERS * facts.hidden)
    return Memory(
        weights=facts.weights_bytes,
        kv_cache=kv_per_token * context * slots,
        compute=compute + PROCESS_BYTES,
        free=free,
    )


def _contexts(facts: ModelFacts) -> list[int]:
    """What to try when no context was asked for, the largest first."""
    largest = min(DEFAULT_CONTEXT, facts.max_context)
    smaller = [size for size in (2048, 1024, 512) if size < largest]
    return [largest, *smaller]


def _too_much(memory: Memory) -> str:
    return (
        f"needs {_gib(memory.total)} GiB (weights {_gib(memory.weights)}, KV cache "
        f"{_gib(memory.kv_cache)}, compute {_gib(memory.compute)}) and {_gib(memory.free)} GiB are free"
    )


def _reasons(
    facts: ModelFacts, host: Host, settings: EngineSettings, asked: int | None
) -> tuple[str, ...]:
    where = (
        "this machine has no GPU, so the embedded engine (llama.cpp) runs it on the CPU"
        if not host.gpus
        else "a GGUF runs on the embedded engine (llama.cpp), on the CPU: its GPUs stay free"
    )
    context = f"context {settings.context}"
    if asked:
        context += ": asked for"
    elif settings.context < facts.max_context:
        context += f" of the model's {facts.max_context}; --context asks for another"
    else:
        context += ": all that the model was trained for"
    return (
        where,
        f"{settings.threads} threads: one for each core this process may use",
        context,
        f"{settings.slots} requests at the same time, each with its own KV cache",
    )


def _gib(count: int) -> str:
    return f"{count / 1024**3:.2f}"
