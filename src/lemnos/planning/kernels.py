"""How many small kernels a layer launches: what decides one stream's speed, and graphs' memory.

Counted in the traces that vLLM 0.26 leaves of its compiled graphs, and checked against decode
times on an H200 at one stream: GLM-4.5-Air in FP8 (25 a layer) and BF16 (14), GLM-4.7-Flash
(18), Qwen3-32B (10), gpt-oss-120b (18).
"""

from __future__ import annotations

import functools

from lemnos.spec.architecture import Layer

ATTENTION = {"full": 6, "sliding": 6, "chunked": 6, "mla": 10, "linear": 10}
"""Norm, projections, rotary, cache, attention, output; latent attention projects twice."""
DENSE, EXPERTS, SHARED = 4, 6, 2
"""Feed-forward; router, top-k, align, two grouped products, sum; the shared expert beside them."""
QUANTIZED = {"fp8": (2, 1, 7, 2), "int8": (2, 1, 7, 2), "fp4": (2, 1, 7, 2)}
"""More where activations are quantized too: in attention, feed-forward, experts (permute,
quantize, products apart, unpermute), shared expert."""
WIDENED_EXPERTS = 5
"""More where experts are stored in 4 bits and multiplied in 16 (routing tables, biases)."""
HEAD_NORMS = 2
"""More where queries and keys are normed head by head (GLM-4.6 over Air)."""
BATCHED_EXPERTS = 4
"""More in routed layers as soon as a step has several tokens: 14 us a layer in each of four MoE
models from one stream to eight, whatever TP is."""
OUTSIDE = 12
"""Embedding, final norm, head, sampling."""


@functools.lru_cache(maxsize=4096)
def kernels_of(layer: Layer) -> int:
    """Of one decode step through ``layer``."""
    projection = next(
        (w for w in layer.weights if "attn" in w.name and w.columns > 1), None
    )
    attention, dense, _, _ = QUANTIZED.get(
        projection.store.math if projection else "", (0, 0, 0, 0)
    )
    count = ATTENTION[layer.attention.kind] + attention
    if any(weight.name == "self_attn.q_norm" for weight in layer.weights):
        count += HEAD_NORMS
    if not layer.moe:
        return count + DENSE + dense
    stored = next(w.store for w in layer.weights if w.split == "experts")
    _, _, experts, shared = QUANTIZED.get(stored.math, (0, 0, 0, 0))
    if stored.math == "w4a16":
        experts = WIDENED_EXPERTS
    return count + EXPERTS + experts + (SHARED + shared if layer.inner else 0)
