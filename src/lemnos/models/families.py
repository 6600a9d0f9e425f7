"""Architectures by family: config.json's keys to layers and weights.

Names and shapes are those of the checkpoints, so that quantization's ignore lists match
them and sums are exact; oracles/parameters.py holds every family against transformers.
A family here is one that vLLM and SGLang serve; others are refused by name, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable

from lemnos.models.blocks import (
    Attends,
    Experts,
    Kind,
    dense_layer,
    gated,
    gated_delta_net,
    gqa,
    in_order,
    layer_count,
    mla,
    moe_layer,
    moe_of,
    routed,
)
from lemnos.models.config import Config
from lemnos.spec.architecture import Layer, Weight


def llama(config: Config) -> list[Layer]:
    """Llama, Mistral: grouped-query attention and one gated feed-forward network."""
    bias = config.flag("attention_bias")
    window = config.optional("sliding_window")
    layer = dense_layer(
        config,
        gqa(config, bias=bias, output_bias=bias, kind="sliding" if window else "full"),
        bias=config.flag("mlp_bias"),
    )
    return [layer] * layer_count(config)


def qwen2(config: Config) -> list[Layer]:
    """Qwen2 and 2.5: as Llama, with biases on queries, keys and values."""
    return [dense_layer(config, gqa(config, bias=True))] * layer_count(config)


def qwen3(config: Config) -> list[Layer]:
    """Qwen3 dense: a norm on each query and key head."""
    bias = config.flag("attention_bias")
    attention = gqa(config, bias=bias, output_bias=bias, norm="head")
    return [dense_layer(config, attention)] * layer_count(config)


def mixtral(config: Config) -> list[Layer]:
    """Mixtral: every layer routed, no shared expert."""
    experts = routed(
        config, "block_sparse_moe", "num_local_experts", "intermediate_size"
    )
    return [moe_layer(config, gqa(config), experts)] * layer_count(config)


def minimax_m2(config: Config) -> list[Layer]:
    """MiniMax-M2: every layer routed; norms over all heads together; a routing bias."""
    experts = routed(
        config,
        "block_sparse_moe",
        "num_local_experts",
        "intermediate_size",
        correction=True,
    )
    return [moe_layer(config, gqa(config, norm="all"), experts)] * layer_count(config)


def qwen3_moe(config: Config) -> list[Layer]:
    """Qwen3-MoE, also inside Qwen3-VL-MoE: routed every ``decoder_sparse_step`` layers."""
    bias = config.flag("attention_bias")
    attention = gqa(config, bias=bias, output_bias=bias, norm="head")
    experts = routed(config, "mlp", "num_experts", "moe_intermediate_size")
    step = config.number("decoder_sparse_step", 1)
    dense_only = set(config.numbers("mlp_only_layers"))
    sparse = moe_layer(config, attention, experts)
    dense = dense_layer(config, attention) if step > 1 or dense_only else sparse
    return [
        sparse if (i + 1) % step == 0 and i not in dense_only else dense
        for i in range(layer_count(config))
    ]


def qwen3_next(config: Config) -> list[Layer]:
    """Qwen3-Next: three layers in four keep a state instead of a KV cache; one shared expert."""
    return _mostly_linear(config, fused=True)


def qwen3_5_moe(config: Config) -> list[Layer]:
    """Qwen3.5-MoE: as Qwen3-Next, with the linear layers' projections apart."""
    return _mostly_linear(config, fused=False)


def glm4_moe(config: Config) -> list[Layer]:
    """GLM-4.5, 4.6, 4.7 and Air, also inside GLM-4.5V and 4.6V."""
    attention = gqa(
        config,
        bias=config.flag("attention_bias"),
        norm="head" if config.flag("use_qk_norm") else None,
    )
    return _first_dense(config, attention, _glm_experts(config))


def deepseek(config: Config) -> list[Layer]:
    """DeepSeek-V3, R1, Kimi-K2 and GLM-4.7-Flash: latent attention (MLA), shared experts."""
    return _first_dense(config, mla(config), _glm_experts(config))


def deepseek_sparse(config: Config) -> list[Layer]:
    """DeepSeek-V3.2 and GLM-5: MLA whose indexer picks the tokens looked at."""
    kinds = config.texts("indexer_types")
    if not set(kinds) - {"full"}:
        return _first_dense(config, mla(config, indexer=True), _glm_experts(config))
    # GLM-5.2 and later: layers marked "shared" use the index of the one before.
    own = _first_dense(config, mla(config, indexer=True), _glm_experts(config))
    borrowed = _first_dense(config, mla(config, sparse=True), _glm_experts(config))
    return [
        own[i] if i >= len(kinds) or kinds[i] == "full" else borrowed[i]
        for i in range(len(own))
    ]


def gpt_oss(config: Config) -> list[Layer]:
    """GPT-OSS: biases and sinks, every second layer looks back one window only."""
    hidden, inner = config.number("hidden_size"), config.number("intermediate_size")
    moe = moe_of(config, "num_local_experts", "intermediate_size")
    count = moe.experts
    experts = (
        Weight("mlp.router", count, hidden),
        Weight("mlp.router.bias", count, 1),
        Weight("mlp.experts.gate_up_proj", 2 * inner, hidden, "experts", count),
        Weight("mlp.experts.gate_up_proj_bias", 2 * inner, 1, "experts", count),
        Weight("mlp.experts.down_proj", hidden, inner, "experts", count),
        Weight("mlp.experts.down_proj_bias", hidden, 1, "experts", count),
    )
    kinds = config.texts("layer_types") or [
        "sliding_attention" if i % 2 == 0 else "full_attention"
        for i in range(layer_count(config))
    ]
    built = {}
    for kind in {"sliding_attention", "full_attention"} & set(kinds):
        short: Kind = "sliding" if kind == "sliding_attention" else "full"
        attention, weights = gqa(config, bias=True, output_bias=True, kind=short)
        sinks = Weight("self_attn.sinks", attention.heads, 1, "heads")
        built[kind] = moe_layer(config, (attention, (*weights, sinks)), (moe, experts))
    return in_order(config, kinds, built)


def llama4(config: Config) -> list[Layer]:
    """Llama-4: chunked attention but in every fourth layer; some layers dense (Maverick)."""
    hidden, inner = config.number("hidden_size"), config.number("intermediate_size")
    moe = moe_of(config, "num_local_experts", "intermediate_size")
    count = moe.experts
    experts = (
        Weight("feed_forward.router", count, hidden),
        Weight(
            "feed_forward.experts.gate_up_proj", 2 * inner, hidden, "experts", count
        ),
        Weight("feed_forward.experts.down_proj", hidden, inner, "experts", count),
        *gated("feed_forward.shared_expert", hidden, inner),
    )
    interval = config.number("no_rope_layer_interval", 4)
    no_rope = config.numbers("no_rope_layers")
    step = config.number("interleave_moe_layer_step", 1)
    listed = set(config.numbers("moe_layers"))
    window = config.optional("attention_chunk_size")
    layers = []
    built: dict[tuple[bool, bool], Layer] = {}
    for i in range(layer_count(config)):
        local = bool(no_rope[i]) if i < len(no_rope) else (i + 1) % interval != 0
        sparse = i in listed if listed else (i + 1) % step == 0
        if (local, sparse) not in built:
            kind: Kind = "chunked" if local and window else "full"
            attention = gqa(config, kind=kind)
            built[local, sparse] = (
                moe_layer(config, attention, (moe, experts), shared=inner)
                if sparse
                else dense_layer(
                    config, attention, key="intermediate_size_mlp", name="feed_forward"
                )
            )
        layers.append(built[local, sparse])
    return layers


def _glm_experts(config: Config) -> tuple[Experts, int]:
    """GLM's and DeepSeek's: routed with a correction bias, and shared ones as one wide one."""
    moe, weights = routed(
        config,
        "mlp",
        "n_routed_experts",
        "moe_intermediate_size",
        correction=config.text("topk_method", "noaux_tc") == "noaux_tc",
    )
    shared = config.optional("n_shared_experts") * moe.inner
    hidden = config.number("hidden_size")
    more = gated("mlp.shared_experts", hidden, shared) if shared else ()
    return (moe, (*weights, *more)), shared


def _first_dense(
    config: Config,
    attention: Attends,
    experts: tuple[Experts, int],
) -> list[Layer]:
    """The first layers dense, the others routed."""
    count = layer_count(config)
    kinds = config.texts("mlp_layer_types")
    first = config.number("first_k_dense_replace", 1 if not kinds else 0, zero=True)
    if first > count:
        raise config.bad(
            "first_k_dense_replace", f"({first}) is more than the {count} layers"
        )
    sparse = moe_layer(config, attention, *experts)
    dense = dense_layer(config, attention)
    if kinds:
        return in_order(config, kinds, {"dense": dense, "sparse": sparse})
    return [dense] * first + [sparse] * (count - first)


def _mostly_linear(config: Config, *, fused: bool) -> list[Layer]:
    """Gated delta nets with full attention between them; a shared expert behind a gate."""
    hidden = config.number("hidden_size")
    moe, weights = routed(config, "mlp", "num_experts", "moe_intermediate_size")
    shared = config.optional("shared_expert_intermediate_size")
    if shared:
        more = gated("mlp.shared_expert", hidden, shared)
        weights = (*weights, *more, Weight("mlp.shared_expert_gate", 1, hidden))
    interval = config.number("full_attention_interval", 4)
    kinds = config.texts("layer_types") or [
        "full_attention" if (i + 1) % interval == 0 else "linear_attention"
        for i in range(layer_count(config))
    ]
    full = gqa(config, norm="head", gated_queries=True)
    linear = gated_delta_net(config, fused=fused)
    built = {
        "full_attention": moe_layer(config, full, (moe, weights), shared),
        "linear_attention": moe_layer(config, linear, (moe, weights), shared),
    }
    return in_order(config, kinds, built)


FAMILIES: dict[str, Callable[[Config], list[Layer]]] = {
    "llama": llama,
    "mistral": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3_vl_text": qwen3,
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
    "qwen3_vl_moe_text": qwen3_moe,
    "qwen3_next": qwen3_next,
    "qwen3_5_moe_text": qwen3_5_moe,
    "glm4_moe": glm4_moe,
    "glm4v_moe_text": glm4_moe,
    "glm4_moe_lite": deepseek,
    "deepseek_v3": deepseek,
    "kimi_k2": deepseek,
    "deepseek_v32": deepseek_sparse,
    "glm_moe_dsa": deepseek_sparse,
    "gpt_oss": gpt_oss,
    "llama4_text": llama4,
    "minimax_m2": minimax_m2,
}
"""``model_type`` of a language model -> its layers. A new family is one function and one line."""
