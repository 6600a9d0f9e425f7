"""Architectures by family: config.json's keys to layers and weights.

Names and shapes are those of the checkpoints, so that quantization's ignore lists match
them and sums are exact; oracles/parameters.py holds every family against transformers.
A family here is one that vLLM and SGLang serve; others are refused by name, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lemnos.models.config import Config, shown
from lemnos.spec.architecture import FP32, Attention, Layer, Moe, Split, Weight

Kind = Literal["full", "sliding", "chunked", "mla", "linear"]


def llama(config: Config) -> list[Layer]:
    """Llama, Mistral: grouped-query attention and one gated feed-forward network."""
    bias = config.flag("attention_bias")
    window = config.optional("sliding_window")
    layer = dense_layer(
        config,
        gqa(config, bias=bias, output_bias=bias, kind="sliding" if window else "full"),
        bias=config.flag("mlp_bias"),
    )
    return [layer] * config.number("num_hidden_layers")


def qwen2(config: Config) -> list[Layer]:
    """Qwen2 and 2.5: as Llama, with biases on queries, keys and values."""
    return [dense_layer(config, gqa(config, bias=True))] * _layers(config)


def qwen3(config: Config) -> list[Layer]:
    """Qwen3 dense: a norm on each query and key head."""
    bias = config.flag("attention_bias")
    attention = gqa(config, bias=bias, output_bias=bias, norm="head")
    return [dense_layer(config, attention)] * _layers(config)


def mixtral(config: Config) -> list[Layer]:
    """Mixtral: every layer routed, no shared expert."""
    experts = routed(
        config, "block_sparse_moe", "num_local_experts", "intermediate_size"
    )
    return [moe_layer(config, gqa(config), experts)] * _layers(config)


def minimax_m2(config: Config) -> list[Layer]:
    """MiniMax-M2: every layer routed; norms over all heads together; a routing bias."""
    experts = routed(
        config,
        "block_sparse_moe",
        "num_local_experts",
        "intermediate_size",
        correction=True,
    )
    return [moe_layer(config, gqa(config, norm="all"), experts)] * _layers(config)


def qwen3_moe(config: Config) -> list[Layer]:
    """Qwen3-MoE, also inside Qwen3-VL-MoE: routed every ``decoder_sparse_step`` layers."""
    bias = config.flag("attention_bias")
    attention = gqa(config, bias=bias, output_bias=bias, norm="head")
    experts = routed(config, "mlp", "num_experts", "moe_intermediate_size")
    step = config.number("decoder_sparse_step", 1)
    dense_only = set(map(str, config.items("mlp_only_layers")))
    sparse = moe_layer(config, attention, experts)
    dense = dense_layer(config, attention) if step > 1 or dense_only else sparse
    return [
        sparse if (i + 1) % step == 0 and str(i) not in dense_only else dense
        for i in range(_layers(config))
    ]


def qwen3_next(config: Config) -> list[Layer]:
    """Qwen3-Next: three layers in four keep a state instead of a KV cache; one shared expert."""
    return _gated_delta_net(config, fused=True)


def qwen3_5_moe(config: Config) -> list[Layer]:
    """Qwen3.5-MoE: as Qwen3-Next, with the linear layers' projections apart."""
    return _gated_delta_net(config, fused=False)


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
    kinds = [str(kind) for kind in config.items("indexer_types")]
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
    count = config.number("num_local_experts")
    moe = Moe(count, config.number("num_experts_per_tok"), inner)
    experts = (
        Weight("mlp.router", count, hidden),
        Weight("mlp.router.bias", count, 1),
        Weight("mlp.experts.gate_up_proj", 2 * inner, hidden, "experts", count),
        Weight("mlp.experts.gate_up_proj_bias", 2 * inner, 1, "experts", count),
        Weight("mlp.experts.down_proj", hidden, inner, "experts", count),
        Weight("mlp.experts.down_proj_bias", hidden, 1, "experts", count),
    )
    kinds = [str(kind) for kind in config.items("layer_types")] or [
        "sliding_attention" if i % 2 == 0 else "full_attention"
        for i in range(_layers(config))
    ]
    built = {}
    for kind in {"sliding_attention", "full_attention"} & set(kinds):
        short: Kind = "sliding" if kind == "sliding_attention" else "full"
        attention, weights = gqa(config, bias=True, output_bias=True, kind=short)
        sinks = Weight("self_attn.sinks", attention.heads, 1, "heads")
        built[kind] = moe_layer(config, (attention, (*weights, sinks)), (moe, experts))
    return _in_order(config, kinds, built)


def llama4(config: Config) -> list[Layer]:
    """Llama-4: chunked attention but in every fourth layer; some layers dense (Maverick)."""
    hidden, inner = config.number("hidden_size"), config.number("intermediate_size")
    count = config.number("num_local_experts")
    moe = Moe(count, config.number("num_experts_per_tok"), inner)
    experts = (
        Weight("feed_forward.router", count, hidden),
        Weight(
            "feed_forward.experts.gate_up_proj", 2 * inner, hidden, "experts", count
        ),
        Weight("feed_forward.experts.down_proj", hidden, inner, "experts", count),
        *gated("feed_forward.shared_expert", hidden, inner),
    )
    interval = config.number("no_rope_layer_interval", 4)
    no_rope = config.items("no_rope_layers")
    step = config.number("interleave_moe_layer_step", 1)
    listed = set(map(str, config.items("moe_layers")))
    window = config.optional("attention_chunk_size")
    layers = []
    built: dict[tuple[bool, bool], Layer] = {}
    for i in range(_layers(config)):
        local = bool(no_rope[i]) if i < len(no_rope) else (i + 1) % interval != 0
        sparse = str(i) in listed if listed else (i + 1) % step == 0
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


# The parts that layers are made of.


def gqa(
    config: Config,
    *,
    bias: bool = False,
    output_bias: bool = False,
    norm: Literal["head", "all"] | None = None,
    kind: Kind = "full",
    gated_queries: bool = False,
) -> tuple[Attention, tuple[Weight, ...]]:
    """Grouped-query attention. ``norm``: of queries and keys, one a head or over all."""
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.bad("num_key_value_heads", f"({kv_heads}) does not divide {heads}")
    if "head_dim" not in config and hidden % heads:
        raise config.bad("head_dim", f"is missing, and {hidden} / {heads} is not whole")
    size = config.number("head_dim", max(1, hidden // heads))
    window = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}.get(kind)
    attention = Attention(
        kind, heads, kv_heads, size, size, config.number(window) if window else 0
    )
    queries = heads * size * (2 if gated_queries else 1)
    weights = [
        Weight("self_attn.q_proj", queries, hidden, "heads"),
        Weight("self_attn.k_proj", kv_heads * size, hidden, "kv_heads"),
        Weight("self_attn.v_proj", kv_heads * size, hidden, "kv_heads"),
        Weight("self_attn.o_proj", hidden, heads * size, "heads"),
    ]
    if bias:
        weights += [
            Weight("self_attn.q_proj.bias", queries, 1, "heads"),
            Weight("self_attn.k_proj.bias", kv_heads * size, 1, "kv_heads"),
            Weight("self_attn.v_proj.bias", kv_heads * size, 1, "kv_heads"),
        ]
    if output_bias:
        weights.append(Weight("self_attn.o_proj.bias", hidden, 1))
    if norm:
        whole = norm == "all"
        weights += [
            Weight("self_attn.q_norm", heads * size if whole else size, 1),
            Weight("self_attn.k_norm", kv_heads * size if whole else size, 1),
        ]
    return attention, tuple(weights)


def mla(
    config: Config, *, indexer: bool = False, sparse: bool = False
) -> tuple[Attention, tuple[Weight, ...]]:
    """Latent attention: one compressed vector and one rotary part cached for all heads."""
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    rank, rope = config.number("kv_lora_rank"), config.number("qk_rope_head_dim")
    nope, value = config.number("qk_nope_head_dim"), config.number("v_head_dim")
    query_rank = config.optional("q_lora_rank")
    if indexer and not query_rank:
        raise config.bad("q_lora_rank", "is missing, and the indexer reads it")
    weights = []
    if query_rank:
        weights += [
            Weight("self_attn.q_a_proj", query_rank, hidden),
            Weight("self_attn.q_a_layernorm", query_rank, 1),
            Weight("self_attn.q_b_proj", heads * (nope + rope), query_rank, "heads"),
        ]
    else:
        weights.append(
            Weight("self_attn.q_proj", heads * (nope + rope), hidden, "heads")
        )
    weights += [
        Weight("self_attn.kv_a_proj_with_mqa", rank + rope, hidden),
        Weight("self_attn.kv_a_layernorm", rank, 1),
        Weight("self_attn.kv_b_proj", heads * (nope + value), rank, "heads"),
        Weight("self_attn.o_proj", hidden, heads * value, "heads"),
    ]
    if config.flag("attention_bias"):
        weights.append(Weight("self_attn.kv_a_proj_with_mqa.bias", rank + rope, 1))
        weights.append(Weight("self_attn.o_proj.bias", hidden, 1))
        if query_rank:
            weights.append(Weight("self_attn.q_a_proj.bias", query_rank, 1))
    index = 0
    if indexer:
        index, count = config.number("index_head_dim"), config.number("index_n_heads")
        weights += [
            Weight("self_attn.indexer.wq_b", count * index, query_rank),
            Weight("self_attn.indexer.wk", index, hidden),
            Weight("self_attn.indexer.k_norm", index, 1),
            Weight("self_attn.indexer.k_norm.bias", index, 1),
            Weight("self_attn.indexer.weights_proj", count, hidden),
        ]
    attention = Attention(
        "mla",
        heads,
        1,
        nope + rope,
        value,
        latent=rank + rope,
        index_dim=index,
        top_tokens=config.number("index_topk", 2048) if indexer or sparse else 0,
    )
    return attention, tuple(weights)


def gated(name: str, hidden: int, inner: int) -> tuple[Weight, ...]:
    """A gated feed-forward network (SwiGLU)."""
    return (
        Weight(f"{name}.gate_proj", inner, hidden, "inner"),
        Weight(f"{name}.up_proj", inner, hidden, "inner"),
        Weight(f"{name}.down_proj", hidden, inner, "inner"),
    )


def routed(
    config: Config,
    name: str,
    count_key: str,
    inner_key: str,
    *,
    correction: bool = False,
) -> tuple[Moe, tuple[Weight, ...]]:
    """Router and experts. ``correction``: a bias that balances the routing, FP32."""
    hidden, inner = config.number("hidden_size"), config.number(inner_key)
    count = config.number(count_key)
    moe = Moe(count, config.number("num_experts_per_tok"), inner)
    if moe.top_k > count:
        raise config.bad("num_experts_per_tok", f"is more than the {count} experts")
    weights = [
        Weight(f"{name}.gate", count, hidden),
        Weight(f"{name}.experts.gate_proj", inner, hidden, "experts", count),
        Weight(f"{name}.experts.up_proj", inner, hidden, "experts", count),
        Weight(f"{name}.experts.down_proj", hidden, inner, "experts", count),
    ]
    if correction:
        weights.append(
            Weight(f"{name}.gate.e_score_correction_bias", count, 1, store=FP32)
        )
    return moe, tuple(weights)


def dense_layer(
    config: Config,
    attention: tuple[Attention, tuple[Weight, ...]],
    *,
    bias: bool = False,
    key: str = "intermediate_size",
    name: str = "mlp",
) -> Layer:
    """Attention, one feed-forward network, and the two norms."""
    hidden, inner = config.number("hidden_size"), config.number(key)
    biases = (
        (
            Weight(f"{name}.gate_proj.bias", inner, 1, "inner"),
            Weight(f"{name}.up_proj.bias", inner, 1, "inner"),
            Weight(f"{name}.down_proj.bias", hidden, 1),
        )
        if bias
        else ()
    )
    weights = (*attention[1], *gated(name, hidden, inner), *biases, *_norms(hidden))
    return Layer(attention[0], weights, inner=inner)


def moe_layer(
    config: Config,
    attention: tuple[Attention, tuple[Weight, ...]],
    experts: tuple[Moe, tuple[Weight, ...]],
    shared: int = 0,
) -> Layer:
    """Attention, experts (shared ones are among their weights), and the two norms."""
    weights = (*attention[1], *experts[1], *_norms(config.number("hidden_size")))
    return Layer(attention[0], weights, experts[0], shared)


def _glm_experts(config: Config) -> tuple[Moe, tuple[Weight, ...], int]:
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
    return moe, (*weights, *more), shared


def _first_dense(
    config: Config,
    attention: tuple[Attention, tuple[Weight, ...]],
    experts: tuple[Moe, tuple[Weight, ...], int],
) -> list[Layer]:
    """The first layers dense, the others routed."""
    count = _layers(config)
    kinds = [str(kind) for kind in config.items("mlp_layer_types")]
    first = config.number("first_k_dense_replace", 1 if not kinds else 0, zero=True)
    if first > count:
        raise config.bad(
            "first_k_dense_replace", f"({first}) is more than the {count} layers"
        )
    sparse = moe_layer(config, attention, experts[:2], experts[2])
    dense = dense_layer(config, attention)
    if kinds:
        return _in_order(config, kinds, {"dense": dense, "sparse": sparse})
    return [dense] * first + [sparse] * (count - first)


def _gated_delta_net(config: Config, *, fused: bool) -> list[Layer]:
    hidden = config.number("hidden_size")
    keys, key = (
        config.number("linear_num_key_heads"),
        config.number("linear_key_head_dim"),
    )
    values, value = (
        config.number("linear_num_value_heads"),
        config.number("linear_value_head_dim"),
    )
    kernel = config.number("linear_conv_kernel_dim", 4)
    mixed = 2 * keys * key + values * value
    inputs = (
        [
            ("in_proj_qkvz", mixed + values * value),
            ("in_proj_ba", 2 * values),
        ]
        if fused
        else [
            ("in_proj_qkv", mixed),
            ("in_proj_z", values * value),
            ("in_proj_b", values),
            ("in_proj_a", values),
        ]
    )
    linear = (
        Attention(
            "linear",
            values,
            keys,
            key,
            value,
            state=values * key * value + mixed * (kernel - 1),
        ),
        (
            *(Weight(f"linear_attn.{n}", rows, hidden, "heads") for n, rows in inputs),
            Weight("linear_attn.conv1d", mixed, kernel, "heads"),
            Weight("linear_attn.dt_bias", values, 1, "heads"),
            Weight("linear_attn.A_log", values, 1, "heads"),
            Weight("linear_attn.norm", value, 1),
            Weight("linear_attn.out_proj", hidden, values * value, "heads"),
        ),
    )
    full = gqa(config, norm="head", gated_queries=True)
    moe, weights = routed(config, "mlp", "num_experts", "moe_intermediate_size")
    shared = config.optional("shared_expert_intermediate_size")
    extra = (
        (
            *gated("mlp.shared_expert", hidden, shared),
            Weight("mlp.shared_expert_gate", 1, hidden),
        )
        if shared
        else ()
    )
    experts = (moe, (*weights, *extra))
    interval = config.number("full_attention_interval", 4)
    kinds = [str(kind) for kind in config.items("layer_types")] or [
        "full_attention" if (i + 1) % interval == 0 else "linear_attention"
        for i in range(_layers(config))
    ]
    return _in_order(
        config,
        kinds,
        {
            "full_attention": moe_layer(config, full, experts, shared),
            "linear_attention": moe_layer(config, linear, experts, shared),
        },
    )


def _in_order(config: Config, kinds: list[str], built: dict[str, Layer]) -> list[Layer]:
    """``kinds`` as layers; raises LemnosError where they and the config's number differ."""
    count = _layers(config)
    if len(kinds) < count:
        raise config.bad(
            "num_hidden_layers", f"is {count}, but {len(kinds)} are listed"
        )
    for kind in kinds[:count]:
        if kind not in built:
            raise config.bad("layer_types", f"has the unknown kind '{shown(kind, 40)}'")
    return [built[kind] for kind in kinds[:count]]


def _norms(hidden: int) -> tuple[Weight, Weight]:
    return Weight("input_layernorm", hidden, 1), Weight(
        "post_attention_layernorm", hidden, 1
    )


def _layers(config: Config) -> int:
    return config.number("num_hidden_layers")


__all__ = ["FAMILIES", "Split", "gated"]
