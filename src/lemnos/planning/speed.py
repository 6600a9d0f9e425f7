"""Time of one engine step: a roofline with measured efficiencies. Pure.

A step multiplies a batch of tokens through every layer. Each part takes the longer of reading
its bytes and doing its arithmetic; on top come what each small kernel costs, what the ranks
say to each other, and what the host does for a step. Seconds, bytes and FLOP throughout.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from lemnos.planning.calibration import Constants
from lemnos.planning.kernels import BATCHED_EXPERTS, OUTSIDE, kernels_of
from lemnos.planning.memory import (
    REMEMBERED,
    STATE_BYTES,
    kv_bytes_per_token,
    share,
    stages,
)
from lemnos.spec.architecture import Architecture, Layer, Math
from lemnos.spec.cluster import GpuKind
from lemnos.spec.layout import Layout


@dataclass(frozen=True, slots=True)
class Fabric:
    """Links as a layout uses them: bytes/s of one GPU, one direction."""

    inside: float
    """Between the GPUs of a node (or NVLink domain)."""
    between: float
    """Of one GPU's share of its node's network."""
    latency: float
    """Of a message between nodes, in seconds."""
    tensor_nodes: int = 1
    """Nodes that one tensor-parallel group spans."""
    expert_nodes: int = 1
    pipeline_nodes: int = 1


@dataclass(frozen=True, slots=True)
class Product:
    """Matrices that are multiplied alike: one rank's bytes, and FLOP for each token."""

    math: Math
    bytes: float
    flop: float


@dataclass(frozen=True, slots=True)
class Look:
    """Attention of one kind in one stage: what a step reads and computes of the past."""

    kv_bytes: float
    """A token of context, over the layers."""
    flop: float
    """A pair of query and key, over the layers."""
    window: int
    """0: all of the context."""
    decode_flop: float = 0.0
    """The same in decode, where latent attention works on what is cached: queries as wide as
    the latent vector, for every head (DeepSeek-V2, 2405.04434, 2.1.2: absorbed projections)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage on one rank, summed up so that a step costs a few operations."""

    dense: tuple[Product, ...]
    experts: tuple[Product, ...]
    """As if every expert of the rank was touched, and FLOP as if tokens went everywhere evenly."""
    looks: tuple[Look, ...]
    state_bytes: float
    """Read and written a request and step by linear layers."""
    kernels: int
    reduces: int
    """All-reduces of the hidden states."""
    moe_layers: int


@dataclass(frozen=True, slots=True)
class StepModel:
    """All that ``step_time`` needs of a model, a layout and a machine."""

    stages: tuple[Stage, ...]
    gpu: GpuKind
    fabric: Fabric
    constants: Constants
    layout: Layout
    hidden: int
    experts: int
    top_k: int
    graphs: bool
    largest_graph: int
    weight_bandwidth: float
    """Bytes/s at which weights are read, those in host memory included."""
    decode_math: Math
    """How queries and cached keys are multiplied: an FP8 cache in FP8 on Blackwell (the public
    silicon sample tells: benchmarks/silicon_sample.py), else in BF16."""


def step_model(
    architecture: Architecture,
    layout: Layout,
    gpu: GpuKind,
    fabric: Fabric,
    constants: Constants,
    *,
    kv_dtype: str = "auto",
    graphs: bool = True,
    largest_graph: int = 512,
    offloaded: float = 0.0,
) -> StepModel:
    """The step model of one replica.

    ``largest_graph``: tokens of the largest CUDA graph; ``offloaded``: share of the weights
    that is read from host memory, over the GPU's link to it.
    """
    near = gpu.bandwidth_gb_s * 1e9 * constants.memory
    far = gpu.pcie_gb_s * 1e9 * constants.host_link
    moe = next((layer.moe for layer in architecture.layers if layer.moe), None)
    return StepModel(
        _stages(architecture, layout, kv_dtype),
        gpu,
        fabric,
        constants,
        layout,
        architecture.hidden,
        moe.experts if moe else 0,
        moe.top_k if moe else 0,
        graphs,
        largest_graph,
        1.0 / ((1.0 - offloaded) / near + offloaded / far),
        "fp8" if kv_dtype.startswith("fp8") and (gpu.capability or 0) >= 10 else "bf16",
    )


def step_time(
    model: StepModel, prompt: float, past: float, decoding: float, context: float
) -> float:
    """Seconds of a step through all stages.

    ``prompt``: tokens of prompts in it, that look back on ``past`` tokens each on average;
    ``decoding``: requests that get one token each, with ``context`` tokens behind them.
    """
    if prompt + decoding <= 0:
        return 0.0
    gpu = sum(
        _stage_time(model, stage, prompt, past, decoding, context)
        for stage in model.stages
    )
    hops = len(model.stages) - 1
    if hops:
        gpu += hops * _send(model, (prompt + decoding) * model.hidden * 2.0)
    return max(gpu, cpu_time(model, prompt, decoding)) + model.constants.step_us * 1e-6


def cpu_time(model: StepModel, prompt: float, decoding: float) -> float:
    """Seconds the host takes to launch a step; next to none where a CUDA graph replays it."""
    kernels = sum(stage.kernels + stage.reduces for stage in model.stages)
    launch = kernels * model.constants.launch_us * 1e-6
    if model.graphs:
        return launch if prompt + decoding > model.largest_graph else 0.0
    # Asynchronous scheduling: a prompt's first token is handed out after the next step
    # has been launched too.
    return 2 * launch if prompt else launch


def touched(experts: int, top_k: int, tokens: float, spread: float) -> float:
    """Expected experts that ``tokens`` touch: E (1 - (1 - k/E)^B).

    ``spread`` is how independently tokens are routed: B counts as B^spread. 1 is independent
    (even routing); 0 is all tokens alike, as with random weights, whose router is decided by
    its bias alone.
    """
    if not experts:
        return 0.0
    independent = math.pow(max(1.0, tokens), spread)
    return experts * (1.0 - math.pow(1.0 - top_k / experts, independent))


def imbalance(picks: float, ranks: int) -> float:
    """The fullest of ``ranks`` over the mean, when ``picks`` experts fall on them at random.

    The largest of r binomial loads of mean n/r: about n/r + sqrt(n/r x ln r) (Raab and
    Steger, 1998, for n well above r ln r).
    """
    if ranks <= 1 or picks <= 0:
        return 1.0
    return min(float(ranks), 1.0 + math.sqrt(math.log(ranks) * ranks / picks))


@functools.lru_cache(maxsize=REMEMBERED)
def _stages(
    architecture: Architecture, layout: Layout, kv_dtype: str
) -> tuple[Stage, ...]:
    parts = stages(len(architecture.layers), layout.pipeline)
    head = 2.0 * architecture.vocabulary * architecture.hidden / layout.tensor
    made = []
    for number, part in enumerate(parts):
        counts = Counter(architecture.layers[i] for i in part)
        last = number == len(parts) - 1
        made.append(_stage(counts, layout, kv_dtype, head if last else 0.0))
    return tuple(made)


def _stage(counts: Counter[Layer], layout: Layout, kv_dtype: str, head: float) -> Stage:
    dense: dict[Math, list[float]] = defaultdict(lambda: [0.0, 0.0])
    routed: dict[Math, list[float]] = defaultdict(lambda: [0.0, 0.0])
    looks: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    state, kernels, reduces, moe_layers = 0.0, 0, 0, 0
    ranks = layout.tensor * layout.data
    for layer, count in counts.items():
        attention = layer.attention
        for weight in layer.weights:
            own = share(weight, layout, attention.kv_heads, False)
            flop = 2.0 * weight.params
            if weight.split == "experts" and layer.moe:
                flop *= layer.moe.top_k / layer.moe.experts / ranks
                sums = routed[weight.store.math]
            else:
                flop *= own / weight.bytes
                sums = dense[weight.store.math]
            sums[0] += own * count
            sums[1] += flop * count
        if attention.kind == "linear":
            # read and written
            state += count * attention.state * 2 * STATE_BYTES / layout.tensor
        else:
            heads = max(1.0, attention.heads / layout.tensor)
            wide = attention.head_dim + attention.value_dim
            sums = looks[attention.window or attention.top_tokens]
            cached = kv_bytes_per_token(
                attention, layout.tensor, kv_dtype, layout.context
            )
            if attention.index_dim:  # sparse attention's indexer reads all of its keys
                index = (attention.index_dim + 4.0) / layout.context
                looks[0][0] += count * index
                cached -= index
            sums[0] += count * cached
            sums[1] += 2.0 * heads * wide * count
            # keys are the latent vector with its rotary part, values nearly all of it
            wide = 2 * attention.latent if attention.kind == "mla" else wide
            sums[2] += 2.0 * heads * wide * count
        kernels += kernels_of(layer) * count
        moe_layers += count if layer.moe else 0
        reduces += 2 * count if layout.tensor > 1 else 0
    if head:
        dense["bf16"][0] += head  # its arithmetic is for one token a request: little
        kernels += OUTSIDE
    return Stage(
        tuple(Product(kind, *sums) for kind, sums in dense.items()),
        tuple(Product(kind, *sums) for kind, sums in routed.items()),
        tuple(
            Look(sums[0], sums[1], window, sums[2]) for window, sums in looks.items()
        ),
        state,
        kernels,
        reduces,
        moe_layers,
    )


def _stage_time(
    model: StepModel,
    stage: Stage,
    prompt: float,
    past: float,
    decoding: float,
    context: float,
) -> float:
    constants, gpu = model.constants, model.gpu
    tokens = prompt + decoding
    bandwidth = gpu.bandwidth_gb_s * 1e9
    time = 0.0
    for product in stage.dense:
        reading = product.bytes / model.weight_bandwidth
        time += max(
            reading, product.flop * _rows(model, tokens) / _peak(model, product.math)
        )
    if stage.experts:
        time += _experts_time(model, stage, tokens)
    for look in stage.looks:
        seen = min(context, look.window) if look.window else context
        reading = look.kv_bytes / (bandwidth * constants.memory_kv)
        work = look.decode_flop / _peak(model, model.decode_math)
        time += decoding * seen * max(reading, work)
        behind = min(past, look.window) if look.window else past
        pairs = prompt * behind
        time += pairs * look.flop / _peak(model, "bf16")
    time += (decoding + (1 if prompt else 0)) * stage.state_bytes / (bandwidth * 0.5)
    if stage.reduces:
        time += stage.reduces * _all_reduce(model, tokens * model.hidden * 2.0)
    if stage.moe_layers and model.layout.data > 1:
        time += stage.moe_layers * _all_to_all(model, tokens)
    kernels = stage.kernels
    if tokens > 1:
        kernels += BATCHED_EXPERTS * stage.moe_layers
    return time + kernels * constants.kernel_us * 1e-6


def _experts_time(model: StepModel, stage: Stage, tokens: float) -> float:
    """Routed experts: the bytes of those touched, or the arithmetic of the fullest rank."""
    constants, layout = model.constants, model.layout
    everyone = tokens * layout.data
    hit = touched(model.experts, model.top_k, everyone, constants.spread)
    ranks = layout.tensor * layout.data
    uneven = imbalance(hit, ranks) if layout.expert else 1.0
    fraction = min(1.0, hit / model.experts * uneven)
    rows = everyone * model.top_k / max(1.0, hit)
    time = 0.0
    for product in stage.experts:
        reading = product.bytes * fraction / model.weight_bandwidth
        work = product.flop * everyone * uneven
        work /= _peak(model, product.math, constants.experts)
        time += max(reading, work * _rows(model, rows) / rows)
    return time


def _peak(
    model: StepModel, math_kind: Math, efficiency: dict[str, float] | None = None
) -> float:
    """FLOP/s that large products reach; formats without units of their own are widened."""
    peaks, efficiency = model.gpu.tflops, efficiency or model.constants.compute
    if math_kind in peaks:
        return peaks[math_kind] * 1e12 * efficiency[math_kind]
    widened = efficiency["w4a16" if math_kind in ("w4a16", "fp4") else "bf16"]
    return peaks["bf16"] * 1e12 * widened


def _rows(model: StepModel, rows: float) -> float:
    """Rows that are paid for: products work in tiles, so that few rows cost as many do."""
    return rows + model.constants.tile


def _all_reduce(model: StepModel, size: float) -> float:
    """Ring: each rank sends and receives 2 (n-1)/n of the message; across nodes, their network."""
    ranks, constants, fabric = model.layout.tensor, model.constants, model.fabric
    moved = 2.0 * (ranks - 1) / ranks * size
    time = constants.reduce_us * 1e-6 + moved / (fabric.inside * constants.link)
    if fabric.tensor_nodes > 1:
        nodes = fabric.tensor_nodes
        across = 2.0 * (nodes - 1) / nodes * size / max(1, ranks // nodes)
        time += 2 * fabric.latency * math.log2(nodes) + across / fabric.between
    return time


def _all_to_all(model: StepModel, tokens: float) -> float:
    """Dispatch and combine of data-parallel experts: each token's hidden states, top-k ways."""
    ranks = model.layout.tensor * model.layout.data
    copies = min(model.top_k, ranks) * (ranks - 1) / ranks
    size = tokens * model.hidden * copies * 3.0  # FP8 out, BF16 back
    fabric, constants = model.fabric, model.constants
    time = 2 * constants.reduce_us * 1e-6 + size / (fabric.inside * constants.link)
    if fabric.expert_nodes > 1:
        outside = (fabric.expert_nodes - 1) / fabric.expert_nodes
        time += 2 * fabric.latency + size * outside / fabric.between
    return time


def _send(model: StepModel, size: float) -> float:
    """A stage's hidden states to the next."""
    fabric = model.fabric
    link = fabric.between if fabric.pipeline_nodes > 1 else fabric.inside
    return size / link + max(fabric.latency, model.constants.reduce_us * 1e-6)
