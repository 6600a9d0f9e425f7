"""The parts that decoder layers are made of: attention, feed-forward networks, experts.

Each returns what a layer needs of it (``Attention``, ``Moe``) with its weights, named as
checkpoints name them; sizes come from a config's keys, and what is missing or contradicts
is a LemnosError that names the key.
"""

from __future__ import annotations

from typing import Literal

from lemnos.models.config import Config, shown
from lemnos.spec.architecture import FP32, Attention, Layer, Moe, Weight

Kind = Literal["full", "sliding", "chunked", "mla", "linear"]
Attends = tuple[Attention, tuple[Weight, ...]]
"""What a layer looks back with, and the weights of that."""
Experts = tuple[Moe, tuple[Weight, ...]]


def gqa(
    config: Config,
    *,
    bias: bool = False,
    output_bias: bool = False,
    norm: Literal["head", "all"] | None = None,
    kind: Kind = "full",
    gated_queries: bool = False,
) -> Attends:
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


def mla(config: Config, *, indexer: bool = False, sparse: bool = False) -> Attends:
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


def gated_delta_net(config: Config, *, fused: bool) -> Attends:
    """Linear attention: a state for a request instead of a cache of its tokens.

    ``fused``: its input projections are two matrices (Qwen3-Next) instead of four (3.5).
    """
    hidden = config.number("hidden_size")
    keys, key = (
        config.number("linear_num_key_heads"),
        config.number("linear_key_head_dim"),
    )
    values = config.number("linear_num_value_heads")
    value = config.number("linear_value_head_dim")
    kernel = config.number("linear_conv_kernel_dim", 4)
    if values % keys:
        raise config.bad("linear_num_key_heads", f"({keys}) does not divide {values}")
    mixed, out = 2 * keys * key + values * value, values * value
    inputs = {"in_proj_qkv": mixed, "in_proj_z": out}
    inputs |= {"in_proj_b": values, "in_proj_a": values}
    if fused:
        inputs = {"in_proj_qkvz": mixed + out, "in_proj_ba": 2 * values}
    # What it multiplies as it goes, and the last inputs of the convolution.
    state = values * key * value + mixed * (kernel - 1)
    return (
        Attention("linear", values, keys, key, value, state=state),
        (
            *(
                Weight(f"linear_attn.{n}", r, hidden, "heads")
                for n, r in inputs.items()
            ),
            Weight("linear_attn.conv1d", mixed, kernel, "heads"),
            Weight("linear_attn.dt_bias", values, 1, "heads"),
            Weight("linear_attn.A_log", values, 1, "heads"),
            Weight("linear_attn.norm", value, 1),
            Weight("linear_attn.out_proj", hidden, out, "heads"),
        ),
    )


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
) -> Experts:
    """Router and experts. ``correction``: a bias that balances the routing, FP32."""
    hidden = config.number("hidden_size")
    moe = moe_of(config, count_key, inner_key)
    count, inner = moe.experts, moe.inner
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


def moe_of(config: Config, count_key: str, inner_key: str) -> Moe:
    """How many experts there are, how many a token takes, and how wide each is."""
    count, top_k = config.number(count_key), config.number("num_experts_per_tok")
    if top_k > count:
        raise config.bad(
            "num_experts_per_tok", f"({top_k}) is more than the {count} experts"
        )
    return Moe(count, top_k, config.number(inner_key))


def dense_layer(
    config: Config,
    attention: Attends,
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
    attention: Attends,
    experts: Experts,
    shared: int = 0,
) -> Layer:
    """Attention, experts (shared ones are among their weights), and the two norms."""
    weights = (*attention[1], *experts[1], *_norms(config.number("hidden_size")))
    return Layer(attention[0], weights, experts[0], shared)


def in_order(config: Config, kinds: list[str], built: dict[str, Layer]) -> list[Layer]:
    """``kinds`` as layers; raises LemnosError where they and the config's number differ."""
    count = layer_count(config)
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


def layer_count(config: Config) -> int:
    return config.number("num_hidden_layers")
