"""Memory of one rank: weights, KV cache, activations, CUDA graphs, buffers. Pure.

The formulas are the engine's own (vLLM 0.26's sources, named at each), so that the result is
what its log will say. Bytes unless a name says otherwise; GiB are 1024**3 bytes.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lemnos.planning.kernels import kernels_of
from lemnos.spec.architecture import Architecture, Attention, Encoder, Layer, Weight
from lemnos.spec.layout import Layout

GIB = 1024**3
REMEMBERED = 20_000
"""Results kept: a search asks the same of a layout on every kind of node."""
BLOCK = 16
"""Tokens of a KV block (vLLM's default on CUDA)."""
VOCABULARY_PAD = 64
"""vLLM pads the vocabulary to this before it splits it (vocab_parallel_embedding.py)."""
FP32_ROUTERS = frozenset({"glm4_moe", "glm4v_moe_text", "glm4_moe_lite", "minimax_m2"})
"""Families whose router vLLM keeps in FP32 (glm4_moe.py, minimax_m2.py: dtype=torch.float32)."""
KV_BYTES = {"auto": 2.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "fp8_e4m3": 1.0}
KV_BYTES |= {"fp8_e5m2": 1.0, "nvfp4": 0.5625}
"""Bytes of a cached element, by ``--kv-cache-dtype``."""
ROUNDING = 2 * 1024**2
"""Bytes that a layer's matrices lose to torch's allocator, which gives memory in pieces of 2 MiB
(measured: 0.08 to 0.11 GiB for 46 layers, 0.2 for 92)."""
MXFP4_PADDING = 1.0105
"""vLLM's kernels lay MXFP4 experts and scales out in whole tiles (measured: 61.43 GiB of
gpt-oss-120b, whose tensors are 60.84)."""
STATE_BYTES = 2.0
"""Of an element of a linear layer's state: the model's BF16 (mamba_cache_dtype auto)."""


def stages(count: int, pipeline: int) -> list[range]:
    """The layers of each pipeline stage: even, the rest to the last but one backwards.

    vLLM's get_pp_indices (distributed/utils.py): first and last stages hold the embeddings.
    """
    sizes = [count // pipeline] * pipeline
    for i in range(2, count % pipeline + 2):
        sizes[-i if i <= pipeline else -1] += 1
    starts = [sum(sizes[:i]) for i in range(pipeline)]
    return [range(a, a + n) for a, n in zip(starts, sizes, strict=True)]


def share(weight: Weight, layout: Layout, kv_heads: int, fp32: bool) -> float:
    """Bytes of ``weight`` on one rank: vLLM's sharding of each kind of matrix."""
    tensor, whole = layout.tensor, weight.bytes
    if fp32 and weight.name.endswith(".gate"):
        whole = weight.params * 4.0
    if weight.split == "none":
        return whole
    if weight.split == "kv_heads":
        return whole / min(tensor, kv_heads)  # above that, KV heads are replicated
    if weight.split == "vocabulary":
        rows = math.ceil(weight.rows / VOCABULARY_PAD) * VOCABULARY_PAD
        return weight.store.bytes(rows / tensor, weight.columns)
    if weight.split == "experts":
        if weight.store.name == "mxfp4":
            whole *= MXFP4_PADDING
        ranks = tensor * layout.data  # MoE layers span the data-parallel ranks too
        if layout.expert:
            return whole * math.ceil(weight.copies / ranks) / weight.copies
        return whole / ranks
    return whole / tensor


@functools.lru_cache(maxsize=REMEMBERED)
def weights_per_stage(
    architecture: Architecture, layout: Layout, *, speculative: bool = False
) -> tuple[float, ...]:
    """Bytes of weights on a rank of each pipeline stage."""
    fp32 = architecture.family in FP32_ROUTERS
    by_kind: dict[int, float] = {}

    def of_layer(layer: Layer) -> float:
        if id(layer) not in by_kind:
            heads = layer.attention.kv_heads
            by_kind[id(layer)] = sum(
                share(weight, layout, heads, fp32) for weight in layer.weights
            )
        return by_kind[id(layer)]

    parts = stages(len(architecture.layers), layout.pipeline)
    totals = [
        sum(of_layer(architecture.layers[i]) + ROUNDING for i in part) for part in parts
    ]
    for weight in architecture.outside:
        first = weight.name == "model.embed_tokens"
        totals[0 if first else -1] += share(weight, layout, 1, False)
        if first and architecture.tied and layout.pipeline > 1:
            totals[-1] += share(weight, layout, 1, False)  # the head is a copy there
    if architecture.encoder:
        totals[0] += encoder_bytes(architecture.encoder, layout.tensor)
    if speculative:
        heads = architecture.layers[-1].attention.kv_heads
        totals[-1] += sum(share(w, layout, heads, fp32) for w in architecture.mtp)
    return tuple(totals)


def kv_bytes_per_token(
    attention: Attention, tensor: int, kv_dtype: str, context_parallel: int = 1
) -> float:
    """Bytes a rank keeps of one token in one layer; 0 for a layer that keeps a state.

    Latent attention keeps one vector for all heads on every rank; decode context
    parallelism divides what tensor parallelism would only replicate.
    """
    size = KV_BYTES[kv_dtype]
    if attention.kind == "linear":
        return 0.0
    if attention.kind == "mla":
        index = attention.index_dim * 1.0 + 4.0 if attention.index_dim else 0.0
        return (attention.latent * size + index) / context_parallel
    heads = max(1.0, attention.kv_heads / tensor)
    return heads * (attention.head_dim + attention.value_dim) * size / context_parallel


@dataclass(frozen=True, slots=True)
class KvLayout:
    """How vLLM lays the KV cache out: groups of layers that share blocks.

    v1/core/kv_cache_utils.py: layers of one kind are split into groups of equal size; a
    block holds ``block`` tokens of each layer of a group.
    """

    block: int
    block_bytes: float
    """Of one block over the layers of a group."""
    groups: tuple[tuple[str, int], ...]
    """(kind, window) of each group."""

    def blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks that a request of ``tokens`` takes, its batches in flight counted in."""
        total = 0
        for kind, window in self.groups:
            kept = tokens
            if kind == "sliding":
                kept = min(tokens, window - 1 + in_flight)
            elif kind == "chunked":
                kept = min(tokens, window + in_flight)
            if kind == "linear":
                total += 1
            else:
                extra = 1 if kind == "sliding" and kept < tokens else 0
                total += math.ceil(kept / self.block) + extra
        return total


def kv_layout(
    layers: Iterable[Layer],
    tensor: int,
    kv_dtype: str,
    context_parallel: int,
    hybrid: bool,
) -> KvLayout:
    """The KV cache's layout for the layers of one pipeline stage."""
    kinds: Counter[tuple[str, int]] = Counter()
    token_bytes, state = 0.0, 0.0
    for layer, count in Counter(layers).items():
        attention = layer.attention
        window = attention.window
        kind = attention.kind
        if not hybrid and kind in ("sliding", "chunked"):
            kind, window = "full", 0
        kinds[kind, window] += count
        if kind == "linear":
            state = max(state, attention.state / tensor * STATE_BYTES)
        else:
            own = kv_bytes_per_token(attention, tensor, kv_dtype, context_parallel)
            token_bytes = max(token_bytes, own)
    block = BLOCK
    if state and token_bytes:  # a block of tokens is made as large as a state
        block = max(BLOCK, math.ceil(state / token_bytes / BLOCK) * BLOCK)
    page = max(block * token_bytes, state)
    fewest, most = min(kinds.values()), max(kinds.values())
    size = most if most < fewest * 1.5 else fewest
    groups = tuple(
        kind for kind, count in kinds.items() for _ in range(math.ceil(count / size))
    )
    return KvLayout(block, page * size, groups)


def kv_tokens(layout: KvLayout, pool: float, context: int, in_flight: int) -> int:
    """Tokens that a pool of ``pool`` bytes holds in requests of ``context`` tokens.

    As vLLM prints it ("GPU KV cache size"): concurrency at the full context x the context.
    """
    if pool <= 0 or layout.block_bytes <= 0:
        return 0
    blocks = int(pool // layout.block_bytes)
    return int(blocks / layout.blocks(context, in_flight) * context)


@functools.lru_cache(maxsize=REMEMBERED)
def kv_layouts(
    architecture: Architecture,
    layout: Layout,
    kv_dtype: str,
    *,
    hybrid: bool = True,
    speculative: bool = False,
) -> tuple[KvLayout, ...]:
    """``kv_layout`` of each pipeline stage; an MTP layer caches as the model's last one does.

    ``hybrid``: the hybrid KV manager is on, so that layers with a window keep the window only.
    """
    parts = stages(len(architecture.layers), layout.pipeline)
    held = [[architecture.layers[i] for i in part] for part in parts]
    if speculative:
        held[-1].append(architecture.layers[-1])
    return tuple(
        kv_layout(layers, layout.tensor, kv_dtype, layout.context, hybrid)
        for layers in held
    )


@functools.lru_cache(maxsize=REMEMBERED)
def activation_bytes(
    architecture: Architecture,
    layout: Layout,
    tokens: int,
    seqs: int,
    *,
    sampler_copies: float,
    held_hidden_states: float = 0.0,
) -> float:
    """Peak of the engine's profiling run (``tokens`` in ``seqs`` requests) beyond the weights.

    Workspaces of the MoE kernels stay allocated; on top of them the larger of two moments: the
    widest layer of a full batch, or sampling for every sequence over the whole vocabulary.
    ``sampler_copies``, ``held_hidden_states``: the engine's, see rules.py.
    """
    hidden = architecture.hidden
    kept, transient = 0.0, 0.0
    for layer in set(architecture.layers):
        work, passing = _layer_activation(layer, layout, tokens, hidden)
        kept, transient = max(kept, work), max(transient, passing)
    sampling = sampler_copies * 4.0 * seqs * architecture.vocabulary
    residual = 4 * tokens * hidden * 2.0  # input, residual, shared experts', output
    normed = any(
        weight.name == "self_attn.q_norm"
        for layer in set(architecture.layers)
        if layer.moe
        for weight in layer.weights
    )
    if normed:
        kept += held_hidden_states * tokens * hidden * 2.0
    peak = kept + max(transient + residual, sampling)
    if architecture.encoder:
        peak = max(peak, encoder_activation(architecture.encoder, layout.tensor))
    return peak


def graph_bytes(architecture: Architecture, layout: Layout, max_seqs: int) -> float:
    """What vLLM sets aside for CUDA graphs: so much a kernel of each graph, and a pool.

    Sizes are 1, 2, 4, then every 8 up to 256, every 16 up to 512, twice ``max_seqs`` at most; all
    are captured in pieces for mixed batches, those up to ``max_seqs`` whole for decoding
    (config/vllm.py, _set_cudagraph_sizes). Held against six starts on an H200: 0.66 to 1.64
    GiB, 0.15 GiB off on average.
    """
    largest = min(512, 2 * max_seqs)
    sizes = [1, 2, 4, *range(8, min(largest + 1, 256), 8), *range(256, largest + 1, 16)]
    graphs = len(sizes) + sum(1 for size in sizes if size <= max_seqs)
    depth = math.ceil(len(architecture.layers) / layout.pipeline)
    each = sum(kernels_of(layer) for layer in architecture.layers)
    kernels = each * depth / len(architecture.layers)
    return GRAPH_POOL + GRAPH_KERNEL * kernels * graphs


GRAPH_POOL = 0.25 * GIB
GRAPH_KERNEL = 8.5 * 1024
"""Bytes of a kernel's node in a graph (measured, see ``graph_bytes``)."""


def _layer_activation(
    layer: Layer, layout: Layout, tokens: int, hidden: int
) -> tuple[float, float]:
    """(workspaces that stay, bytes that pass) of one layer for ``tokens``."""
    attention, tensor = layer.attention, layout.tensor
    heads = max(1.0, attention.heads / tensor)
    kv_heads = max(1.0, attention.kv_heads / tensor)
    # queries, keys and values; the queries turned by the rotary embedding; the output
    wide = (2 * heads + kv_heads) * attention.head_dim
    passing = tokens * (wide + (heads + kv_heads) * attention.value_dim) * 2.0
    if any(w.store.math == "fp8" and "attn" in w.name for w in layer.weights):
        passing += tokens * heads * attention.value_dim  # the output, quantized
    dense = tokens * (3 * layer.inner / tensor) * 2.0
    if not layer.moe:
        return 0.0, max(passing, dense)
    moe = layer.moe
    experts = next(w for w in layer.weights if w.split == "experts" and w.columns > 1)
    inner = moe.inner if layout.expert else moe.inner / tensor
    rows = tokens * moe.top_k
    # modular_kernel.py: workspace13 and workspace2 of the CUTLASS and Triton experts, in BF16.
    kept = rows * (max(2 * inner, hidden) + max(inner, hidden)) * 2.0
    # permuted and quantized inputs of both products, where activations are quantized
    narrow = 1.0 if experts.store.math == "fp8" else 0.0
    return kept, max(
        passing, rows * (hidden + inner) * narrow + tokens * hidden * narrow
    )


def encoder_bytes(encoder: Encoder, tensor: int) -> float:
    """Of a rank: split by its heads where they divide, else whole (vLLM's vision towers)."""
    divides = encoder.heads % tensor == 0
    return sum(weight.bytes for weight in encoder.weights) / (tensor if divides else 1)


def encoder_activation(encoder: Encoder, tensor: int) -> float:
    """Of the largest image: patches x (hidden states, and a gated width of four times that)."""
    return encoder.max_patches * encoder.hidden * 2.0 * (3 + 8 / tensor)
