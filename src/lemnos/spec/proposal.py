"""What the planner is asked, and what it proposes: a layout with predicted figures."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lemnos.errors import UsageError
from lemnos.spec.base import Value
from lemnos.spec.document import SPEC_VERSION
from lemnos.spec.layout import Layout, Rejection

Interval = tuple[float, float]
Positive = Annotated[int, Field(ge=1, le=100_000_000)]
Ways = Annotated[int, Field(ge=1, le=4096)]
Objective = Literal["throughput", "latency", "cost", "gpus"]
EngineName = Literal["vllm", "sglang"]
KvDtype = Literal["auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "nvfp4"]
_TIME = re.compile(r"(ttft|tpot)\s*=\s*(\d+(?:\.\d+)?)\s*(ms|s)")


def _as_version(text: str) -> str:
    if not re.fullmatch(r"v?\d+(\.\d+)+\S*", text):
        raise ValueError(f"'{text}' is no version: write it as 0.26.0")
    return text.removeprefix("v")


EngineVersion = Annotated[str, AfterValidator(_as_version)]


class Slo(Value):
    """What clients must be given, at the median."""

    ttft_s: Annotated[float, Field(gt=0)] | None = None
    tpot_s: Annotated[float, Field(gt=0)] | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """``ttft=1s,tpot=50ms`` (one of them is enough). Raises UsageError."""
        found = {}
        for part in text.split(","):
            match = _TIME.fullmatch(part.strip())
            if not match or float(match[2]) <= 0:
                raise UsageError(
                    f"'{part.strip()}' is no service level",
                    fix="write ttft=1s,tpot=50ms",
                )
            found[f"{match[1]}_s"] = float(match[2]) * (
                1.0 if match[3] == "s" else 1e-3
            )
        return cls(**found)


class Ask(Value):
    """The load expected, and what the user wants pinned; None leaves it to the planner."""

    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 16
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Requests a second; instead of the concurrency."""
    input_tokens: Positive = 1024
    output_tokens: Positive = 256
    context: Positive | None = None
    slo: Slo = Slo()
    objective: Objective = "throughput"
    engine: EngineName | None = None
    engine_version: EngineVersion | None = None
    tensor: Ways | None = None
    pipeline: Ways | None = None
    data: Ways | None = None
    expert: bool | None = None
    context_parallel: Ways | None = None
    replicas: Ways | None = None
    kv_cache_dtype: KvDtype | None = None
    utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    max_batched_tokens: Positive | None = None
    max_seqs: Positive | None = None
    eager: bool = False
    quantization: str | None = None
    """``fp8``: a BF16 checkpoint is quantized while it loads."""
    routing: Literal["alike", "even"] | None = None
    """How a MoE model's tokens are taken to be routed: all alike (random weights, as the
    measurements were), or evenly; None: figures as measured, choices as for even routing."""
    speculative: bool = False
    """MTP layers are loaded, to speculate with."""
    cpu_offload_gib: Annotated[float, Field(ge=0, le=4096)] = 0.0
    """Weights of each rank that are kept in host memory (``--cpu-offload-gb``)."""
    kv_offload_gib: Annotated[float, Field(ge=0, le=65536)] = 0.0
    """Host memory of an engine for KV blocks that leave the GPU (``--kv-offloading-size``)."""
    split: bool | None = None
    """Prefill and decode apart; None: where it is better."""

    @model_validator(mode="after")
    def _fits_context(self) -> Ask:
        need = self.input_tokens + self.output_tokens
        if self.context and self.context < need:
            raise ValueError(
                f"a request of {self.input_tokens} + {self.output_tokens} tokens does not fit "
                f"the context of {self.context}: give a larger --context, or fewer tokens"
            )
        return self


class Settings(Value):
    """What the engine is told."""

    context: int
    kv_cache_dtype: str
    utilization: float
    max_batched_tokens: int
    max_seqs: int
    eager: bool
    quantization: str | None = None
    speculative: bool = False
    cpu_offload_gib: float = 0.0
    kv_offload_gib: float = 0.0


class RankBudget(Value):
    """Predicted memory of the fullest GPU, in GiB."""

    total: float
    weights: float
    activation: float
    graphs: float
    other: float
    kv_cache: float
    unused: float
    """Left alone by the engine, or held by others."""


class HostBudget(Value):
    """Predicted host memory that a replica takes on each of its nodes, in GiB."""

    processes: float
    weights: float = 0.0
    """Offloaded from the GPUs, pinned."""
    kv_cache: float = 0.0
    """Offloaded from the GPUs, pinned."""
    needs: float
    """All of it; reading the checkpoint passes through the page cache besides."""
    free: float | None = None
    """None: not known."""


class Role(Value):
    """Prefill and decode apart: how many workers do which.

    The plan's own layout and settings are a prefill worker's; decode workers are alike, where
    nothing else is said. ``replicas`` of either layout counts for nothing here.
    """

    prefill: Annotated[int, Field(ge=1)]
    decode: Annotated[int, Field(ge=1)]
    decode_layout: Layout | None = None
    decode_settings: Settings | None = None


class Pool(Value):
    """More replicas of the same model, on other nodes."""

    gpu: str
    nodes: int
    gpus: int
    layout: Layout
    settings: Settings
    output_tokens_per_s: float


class Proposal(Value):
    """One way to serve the model on the cluster, with what it should do."""

    model: str
    source: str
    stored: str
    """How its weights are stored: ``fp8-channel``."""
    engine: EngineName
    engine_version: str
    gpu: str
    nodes: int
    gpus: int
    """Of all replicas."""
    layout: Layout
    roles: Role | None = None
    pools: tuple[Pool, ...] = ()
    """Besides this layout; their throughput is in the sum."""
    settings: Settings
    memory: RankBudget
    host: HostBudget
    weights_gib_per_rank: float
    weights_gib_per_rank_interval: Interval
    kv_cache_tokens: int
    """Of one replica, as the engine prints it."""
    kv_cache_tokens_interval: tuple[int, int]
    kv_concurrency: float
    """Requests of the full context that one replica's KV cache holds."""
    kv_offload_tokens: int = 0
    """More, of prefixes seen before, that one engine keeps in host memory."""
    ttft_ms: float
    ttft_ms_interval: Interval
    tpot_ms: float
    tpot_ms_interval: Interval
    output_tokens_per_s: float
    """Of all replicas together."""
    output_tokens_per_s_interval: Interval
    ttft_ms_even_routing: float | None = None
    tpot_ms_even_routing: float | None = None
    output_tokens_per_s_even_routing: float | None = None
    """Of a MoE model whose tokens go to its experts evenly, as real ones nearly do; the figures
    above are for the routing that was measured, of random weights, which is all alike."""
    ready_s: float
    """From start to the first answer, caches cold."""
    ready_s_interval: Interval
    """From caches warm to cold."""
    meets_slo: bool | None = None
    """None: no SLO was given."""
    cost_per_hour: float | None = None
    cost_per_million_tokens: float | None = None
    """Of output."""
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def divided(self) -> str:
        """``2 x TP4``, ``2 x TP4 (1 prefill, 1 decode)``, or ``TP16 prefill, 2 x TP8 decode``."""
        roles = self.roles
        if not roles:
            return str(self.layout)
        if not roles.decode_layout:
            return f"{self.layout} ({roles.prefill} prefill, {roles.decode} decode)"
        prefill = self.layout.model_copy(update={"replicas": roles.prefill})
        decode = roles.decode_layout.model_copy(update={"replicas": roles.decode})
        return f"{prefill} prefill, {decode} decode"


class Replayed(Value):
    """What logged requests would have seen on a plan."""

    layout: Layout
    gpu: str
    gpus: int
    requests: int
    unserved: int
    """Too long for the KV cache."""
    ttft_p50_ms: float
    ttft_p95_ms: float
    ttft_p95_ms_interval: Interval
    tpot_p50_ms: float
    tpot_p95_ms: float
    output_tokens_per_s: float
    meets_slo: float | None = None
    """Share of the requests that the service level held for."""


class Proposals(Value):
    """The planner's answer: the chosen one first."""

    version: Annotated[int, Field(ge=1, le=SPEC_VERSION)] = SPEC_VERSION
    asked: Ask
    plans: tuple[Proposal, ...]
    """Chosen first, then the Pareto front, then the next best."""
    pareto: tuple[int, ...] = ()
    """Which of ``plans`` no other beats in latency, throughput and GPUs together."""
    rejected: tuple[Rejection, ...] = ()
    replayed: tuple[Replayed, ...] = ()
    """``--workload``: the log on the best plans, in their order."""
    smallest: str | None = None
    """Where nothing fits: the smallest hardware of the same kind that would do."""
    with_offload: str | None = None
    """Where nothing fits: what would with weights in host memory, and how slowly."""
