"""A layer's attention from the names and shapes of its weights. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lemnos.models.config import shown
from lemnos.models.hints import HEADS, Hints
from lemnos.models.naming import FUSED, KEYS, OUTPUTS, QUERIES, VALUES
from lemnos.spec.architecture import Attention, Weight

AS_FULL = "attention is taken as full where no config says otherwise"
NOTHING_KEPT = "layers without attention keep nothing of a token"
STATES = "linear layers' states are taken from their tensors' shapes"

_FEED_FORWARD = re.compile(r"(^|\.)(mlp|ffn|feed_forward)\.")

Named = Mapping[str, Weight]
"""Last part of a weight's name -> weight; no biases, no experts."""


def attention_of(
    number: int, weights: Iterable[Weight], hidden: int, hints: Hints
) -> tuple[Attention, str]:
    """The attention of layer ``number``, and what was assumed for it (or nothing).

    Raises LemnosError where names or shapes do not show it.
    """
    own = [
        weight
        for weight in weights
        if weight.split not in ("experts", "inner")
        and not weight.name.endswith("bias")
        and not _FEED_FORWARD.search(weight.name)
    ]
    named = {weight.name.rpartition(".")[2]: weight for weight in own}
    if "kv_a_proj_with_mqa" in named or "kv_a_proj" in named:
        return _latent(number, named, hints), ""
    if "A_log" in named:
        return _linear(named, hints), STATES
    keys, values, queries = (_any(named, names) for names in (KEYS, VALUES, QUERIES))
    if keys and values and queries:
        return _grouped(number, named, (queries, keys, values), hints)
    fused = _any(named, FUSED)
    if fused:
        return _fused(number, fused, hidden, hints)
    names = [weight.name for weight in own]
    if any("attn" in name or "attention" in name for name in names):
        raise hints.odd(
            f"layer {number}: its attention's names are not known "
            f"({', '.join(shown(name, 40) for name in names[:4])}, ...)"
        )
    return Attention("linear", 0, 0, 0, 0), NOTHING_KEPT


def _latent(number: int, named: Named, hints: Hints) -> Attention:
    """MLA. Its projections' rows are sums of the sizes: see ``blocks.mla``."""
    down = named.get("kv_a_proj_with_mqa") or named["kv_a_proj"]
    norm, up = named.get("kv_a_layernorm"), named.get("kv_b_proj")
    queries, out = _any(named, ("q_b_proj", "q_proj")), named.get("o_proj")
    if not (norm and up and queries and out):
        raise hints.odd(f"layer {number}: its latent attention lacks tensors")
    rope = down.rows - norm.rows
    heads, odd = divmod(queries.rows - up.rows + out.columns, max(1, rope))
    value = out.columns // max(1, heads)
    if rope < 1 or heads < 1 or odd or value * heads != out.columns:
        raise hints.odd(f"layer {number}: its latent attention does not add up")
    index = named.get("wk")
    return Attention(
        "mla",
        heads,
        1,
        queries.rows // heads,
        value,
        latent=down.rows,
        index_dim=index.rows if index else 0,
        top_tokens=hints.first(("index_topk",)) if index else 0,
    )


def _linear(named: Named, hints: Hints) -> Attention:
    """A state of a fixed size: gated delta nets, Mamba-2."""
    heads = named["A_log"].rows
    out, conv = named.get("out_proj"), named.get("conv1d")
    if not out or not conv or not heads or out.columns < heads:
        raise hints.odd("its linear attention lacks out_proj or conv1d")
    value = out.columns // heads
    mixed = max(0, conv.rows - out.columns)  # keys and queries, of all their heads
    groups = hints.first(("linear_num_key_heads", "n_groups"))
    size = hints.first(("linear_key_head_dim", "ssm_state_size"))
    size = size or (mixed // 2 // groups if groups else value)
    state = heads * value * size + conv.rows * max(0, conv.columns - 1)
    return Attention("linear", heads, groups or heads, size, value, state=state)


def _grouped(
    number: int,
    named: Named,
    projections: tuple[Weight, Weight, Weight],
    hints: Hints,
) -> tuple[Attention, str]:
    """Queries, keys and values apart. Gated queries have twice their rows: ``out`` counts."""
    queries, keys, values = projections
    out = _any(named, OUTPUTS)
    wide = out.columns if out and out.columns > 1 else queries.rows
    size = _head_dim(keys.rows, wide, named.get("k_norm"), hints)
    kv_heads = keys.rows // size
    if not kv_heads or keys.rows % size or values.rows % kv_heads:
        raise hints.odd(
            f"layer {number}: keys of {keys.rows} and values of {values.rows} do not "
            f"divide into heads of {size}"
        )
    value = values.rows // kv_heads
    heads = wide // value if value else 0
    if not heads or heads % kv_heads or wide % value:
        raise hints.odd(
            f"layer {number}: {wide} of queries are not heads of {value} for "
            f"{kv_heads} of keys"
        )
    kind, window = hints.looks_back(number)
    return Attention(kind, heads, kv_heads, size, value, window), AS_FULL


def _head_dim(rows: int, wide: int, norm: Weight | None, hints: Hints) -> int:
    """From the norm of each head; else from the config."""
    if norm and 1 < norm.rows < rows and rows % norm.rows == 0:
        return norm.rows
    said = hints.first(("head_dim", "attention_head_dim"))
    if said:
        return said
    heads = hints.first(HEADS)
    if heads and wide % heads == 0:
        return max(1, wide // heads)
    raise hints.need("head_dim", "no norm of a head shows it")


def _fused(
    number: int, fused: Weight, hidden: int, hints: Hints
) -> tuple[Attention, str]:
    """Queries, keys and values in one matrix."""
    heads = hints.first(HEADS)
    if not heads:
        raise hints.need(
            "num_attention_heads", "queries, keys and values are one tensor"
        )
    size = hints.first(("head_dim",)) or max(1, hidden // heads)
    kv_heads = (fused.rows // size - heads) // 2
    if kv_heads < 1 or (heads + 2 * kv_heads) * size != fused.rows:
        raise hints.odd(
            f"layer {number}: {fused.rows} rows of queries, keys and values are not "
            f"{heads} heads of {size} and theirs"
        )
    kind, window = hints.looks_back(number)
    return Attention(kind, heads, kv_heads, size, size, window), AS_FULL


def _any(named: Named, names: Iterable[str]) -> Weight | None:
    return next((named[name] for name in names if name in named), None)
