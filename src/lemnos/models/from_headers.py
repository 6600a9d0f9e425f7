"""An architecture that nobody knows, from its files' headers (``--trust-headers``). Pure.

Names, shapes and dtypes give the layers, the weights in them and what each layer caches; a
config.json, where there is one, gives what no shape shows (experts a token, head size).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lemnos.errors import LemnosError
from lemnos.models.agreement import is_encoder, is_mtp
from lemnos.models.config import LIMITS, Config, shown
from lemnos.models.headers import Matrix, Tensor, matrices
from lemnos.models.quantization import on_load
from lemnos.spec.architecture import (
    Architecture,
    Attention,
    Layer,
    Moe,
    Split,
    Weight,
)

LONGEST = 1_048_576
"""The context that is assumed where nothing says how long it may be."""

_NUMBERED = re.compile(r"^(.*?)\.(\d{1,6})\.(.+)$")
_EXPERT = re.compile(r"^(.*experts)\.(\d+)\.(.+)$")
_CONTEXTS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_positions",
)
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k")

_SPLITS: tuple[tuple[str, Split], ...] = (
    (r"(^|[._])experts\.", "experts"),
    (r"\b(q_proj|q_b_proj|kv_b_proj|wq|wo|o_proj|out_proj)\b", "heads"),
    (r"\b(qkv_proj|query_key_value|c_attn|Wqkv|W_pack|in_proj\w*)\b", "heads"),
    (r"\b(k_proj|v_proj|wk|wv)\b", "kv_heads"),
    (
        r"\b(gate_proj|up_proj|down_proj|gate_up_proj|w[123]|fc[12]|c_fc|dense_\w+)\b",
        "inner",
    ),
)
"""What tensor parallelism divides, by the names that engines divide so."""


def architecture_from_headers(
    tensors: Iterable[Tensor],
    where: str,
    config: Config | None = None,
    *,
    quantization: str | None = None,
) -> Architecture:
    """The architecture of a checkpoint with these tensors. Raises LemnosError."""
    found = list(matrices(tensors).values())
    asked = _Asked(config or Config({}, where), where)
    main, extra, encoder, outside = _parts(found, asked)
    embedding, head, around = _around(outside, asked)
    built = _Layers(embedding.shape[1], asked)
    layers = tuple(built.layer(number, main[number]) for number in range(len(main)))
    if not any(layer.attention.heads for layer in layers):
        raise asked.odd("none of its layers has attention that its names show")
    weights = [_weight(replace(embedding, name="model.embed_tokens"), "vocabulary")]
    if head:
        weights.append(_weight(replace(head, name="lm_head"), "vocabulary"))
    weights += [_weight(matrix, "none") for matrix in (*around, *encoder)]
    notes = ["worked out from its files' headers alone: its architecture is not known"]
    notes += built.assumed
    if encoder:
        size = sum(matrix.bytes for matrix in encoder) / 1e9
        notes.append(
            f"its encoder's {size:.2f} GB are counted, what an image costs is not"
        )
    context = asked.first(_CONTEXTS)
    if not context:
        notes.append(
            f"nothing says how long its context may be: {LONGEST:,} is assumed"
        )
    names = asked.config.items("architectures")
    architecture = Architecture(
        name=shown(names[0], 80) if names else "unknown",
        family=shown(asked.config.text("model_type"), 80) or "unknown",
        hidden=embedding.shape[1],
        vocabulary=embedding.shape[0],
        max_context=context or LONGEST,
        layers=layers,
        outside=tuple(weights),
        tied=head is None,
        mtp=tuple(_weight(matrix) for matrix in extra),
        stored=_stored(found),
        notes=tuple(notes),
    )
    return _on_load(architecture, quantization, where) if quantization else architecture


@dataclass
class _Asked:
    """What the config says, language model first; and errors that name the place."""

    config: Config
    where: str

    def first(self, keys: Iterable[str]) -> int:
        """The first of ``keys`` that is there, or 0."""
        inside = self.config.part("text_config")
        for config in (inside, self.config):
            for key in keys:
                if key in config:
                    return config.number(key)
        return 0

    def need(self, key: str, why: str) -> LemnosError:
        return LemnosError(
            f"'{key}' is missing, and {why}",
            where=self.where,
            fix="put the model's config.json beside its files, with that key",
        )

    def odd(self, what: str) -> LemnosError:
        return LemnosError(
            what,
            where=self.where,
            fix="give a model of a known architecture ('lemnos models ls --known')",
        )


Rest = dict[str, Matrix]
"""Name inside its layer -> matrix."""


def _parts(
    found: list[Matrix], asked: _Asked
) -> tuple[list[Rest], list[Matrix], list[Matrix], list[Matrix]]:
    """Layers in order, MTP, encoder, and what is outside of layers."""
    encoder = [matrix for matrix in found if is_encoder(matrix.name)]
    stacks: dict[str, dict[int, Rest]] = defaultdict(lambda: defaultdict(dict))
    outside, extra = [], []
    count = asked.first(("num_hidden_layers", "n_layers", "n_layer")) or 10**9
    for matrix in found:
        if is_encoder(matrix.name):
            continue
        numbered = _NUMBERED.match(matrix.name)
        if is_mtp(matrix.name, count):
            extra.append(matrix)
        elif numbered:
            stacks[numbered[1]][int(numbered[2])][numbered[3]] = matrix
        else:
            outside.append(matrix)
    if not stacks:
        raise asked.odd("has no tensors in numbered layers")
    sizes = {
        name: sum(m.params for layer in stack.values() for m in layer.values())
        for name, stack in stacks.items()
    }
    largest = max(sizes, key=lambda name: sizes[name])
    layers = stacks.pop(largest)
    for stack in stacks.values():
        outside += [m for layer in stack.values() for m in layer.values()]
    missing = next((n for n in range(len(layers)) if n not in layers), None)
    if missing is not None or len(layers) > LIMITS["layers"]:
        raise asked.odd(
            f"has no layer {missing} among its {len(layers)} in '{shown(largest)}'"
            if missing is not None
            else f"has {len(layers)} layers, more than any model"
        )
    order = [layers[number] for number in range(len(layers))]
    while order and any("eh_proj" in name for name in order[-1]):
        extra += order.pop().values()
    return order, extra, encoder, outside


def _around(
    outside: list[Matrix], asked: _Asked
) -> tuple[Matrix, Matrix | None, list[Matrix]]:
    """The embedding, the output head where there is one, and the others."""

    def named(*endings: str) -> Matrix | None:
        for ending in endings:
            for matrix in outside:
                if len(matrix.shape) == 2 and matrix.name.split(".")[-1] == ending:
                    return matrix
        return None

    embedding = named(
        "embed_tokens",
        "tok_embeddings",
        "word_embeddings",
        "wte",
        "embeddings",
        "embed",
    )
    if embedding is None or not embedding.params:
        raise asked.odd("has no embedding (embed_tokens, wte, ...) among its tensors")
    head = named("lm_head", "output", "embed_out", "head")
    if head is not None and head.shape != embedding.shape:
        raise asked.odd(
            f"its head is {_by(head.shape)}, its embedding {_by(embedding.shape)}"
        )
    used = {embedding.name, head.name if head else ""}
    return embedding, head, [m for m in outside if m.name not in used]


class _Layers:
    """Builds layers; alike ones are one object."""

    def __init__(self, hidden: int, asked: _Asked) -> None:
        self._hidden = hidden
        self._asked = asked
        self._made: dict[tuple[Weight, ...], Layer] = {}
        self.assumed: list[str] = []

    def layer(self, number: int, parts: Rest) -> Layer:
        weights = self._weights(number, parts)
        if weights not in self._made:
            moe = self._moe(weights)
            attention = self._attention(number, parts, weights)
            self._made[weights] = Layer(attention, weights, moe, _inner(weights))
        return self._made[weights]

    def _weights(self, number: int, parts: Rest) -> tuple[Weight, ...]:
        experts: dict[str, list[Matrix]] = defaultdict(list)
        weights = []
        for name, matrix in parts.items():
            numbered = _EXPERT.match(name)
            if numbered:
                experts[f"{numbered[1]}.{numbered[3]}"].append(matrix)
            elif _is_stack(name, matrix):
                weights.append(self._stack(name, matrix))
            else:
                weights.append(_weight(replace(matrix, name=name)))
        for name, alike in experts.items():
            first = alike[0]
            if any(other.shape != first.shape for other in alike):
                raise self._asked.odd(
                    f"layer {number}: the experts' {shown(name)} differ in shape"
                )
            one = _weight(replace(first, name=name), "experts")
            weights.append(replace(one, copies=len(alike)))
        return tuple(sorted(weights, key=lambda weight: weight.name))

    def _stack(self, name: str, matrix: Matrix) -> Weight:
        """All experts in one tensor: (experts, a, b), or (experts, a) for biases."""
        copies, rows = matrix.shape[:2]
        columns = matrix.shape[2] if len(matrix.shape) == 3 else 1
        inwards = "down" in name or "w2" in name
        if columns > 1 and (inwards == (columns == self._hidden)) and rows != columns:
            rows, columns = columns, rows  # stored the other way round
        return Weight(name, rows, columns, "experts", copies, matrix.store)

    def _moe(self, weights: tuple[Weight, ...]) -> Moe | None:
        experts = [w for w in weights if w.split == "experts" and w.columns > 1]
        if not experts:
            return None
        count = max(weight.copies for weight in experts)
        if any(weight.copies != count for weight in experts):
            raise self._asked.odd("its experts' tensors differ in number")
        top_k = self._asked.first(_TOP_K)
        if not top_k:
            raise self._asked.need(
                "num_experts_per_tok",
                "headers do not show how many experts a token uses",
            )
        if top_k > count:
            raise self._asked.odd(
                f"'num_experts_per_tok' is {top_k}, and there are {count} experts"
            )
        return Moe(count, top_k, _width(experts))

    def _attention(
        self, number: int, parts: Rest, weights: tuple[Weight, ...]
    ) -> Attention:
        named = {
            name.split(".")[-1]: weight
            for name, weight in zip((w.name for w in weights), weights, strict=True)
            if weight.split != "experts" and not name.endswith("bias")
        }
        if "kv_a_proj_with_mqa" in named or "kv_a_proj" in named:
            return self._mla(number, named)
        if "A_log" in named:
            return self._linear(named)
        keys = named.get("k_proj") or named.get("wk")
        values = named.get("v_proj") or named.get("wv")
        out = next(
            (named[n] for n in ("o_proj", "wo", "out_proj", "c_proj") if n in named),
            None,
        )
        queries = named.get("q_proj") or named.get("wq")
        if keys and values and queries:
            return self._gqa(number, named, keys, values, queries, out)
        fused = next((n for n in _FUSED if n in named), None)
        if fused:
            return self._fused(number, named[fused], out)
        if any("attn" in name or "attention" in name for name in parts):
            raise self._asked.odd(
                f"layer {number}: its attention's names are not known "
                f"({', '.join(shown(n, 40) for n in list(parts)[:4])}, ...)"
            )
        self._assume("layers without attention keep nothing of a token")
        return Attention("linear", 0, 0, 0, 0)

    def _gqa(
        self,
        number: int,
        named: Mapping[str, Weight],
        keys: Weight,
        values: Weight,
        queries: Weight,
        out: Weight | None,
    ) -> Attention:
        size = self._head_dim(keys.rows, named.get("k_norm"))
        kv_heads = keys.rows // size
        if keys.rows % size or values.rows % kv_heads:
            raise self._asked.odd(
                f"layer {number}: keys of {keys.rows} and values of {values.rows} do not "
                f"divide into heads of {size}"
            )
        value = values.rows // kv_heads
        heads = (
            out.columns // value if out and out.columns > 1 else queries.rows // size
        )
        self._assume("attention is taken as full in every layer")
        return Attention("full", max(1, heads), kv_heads, size, value)

    def _fused(self, number: int, fused: Weight, out: Weight | None) -> Attention:
        heads = self._asked.first(("num_attention_heads", "n_head"))
        if not heads:
            raise self._asked.need(
                "num_attention_heads", "queries, keys and values are one tensor"
            )
        size = self._asked.first(("head_dim",)) or max(1, self._hidden // heads)
        kv_heads = (fused.rows // size - heads) // 2
        if kv_heads < 1 or (heads + 2 * kv_heads) * size != fused.rows:
            raise self._asked.odd(
                f"layer {number}: {fused.rows} rows of queries, keys and values are not "
                f"{heads} heads of {size} and theirs"
            )
        self._assume("attention is taken as full in every layer")
        return Attention("full", heads, kv_heads, size, size)

    def _head_dim(self, rows: int, norm: Weight | None) -> int:
        """From the norm of each head, else from the config."""
        if norm and 1 < norm.rows < rows and rows % norm.rows == 0:
            return norm.rows
        said = self._asked.first(("head_dim", "attention_head_dim"))
        heads = self._asked.first(("num_attention_heads", "n_head"))
        if not said and heads and self._hidden % heads == 0:
            said = self._hidden // heads
        if said:
            return said
        raise self._asked.need("head_dim", "no norm of a head shows it")

    def _mla(self, number: int, named: Mapping[str, Weight]) -> Attention:
        """Sizes follow from one another: see models/families.py."""
        down = named.get("kv_a_proj_with_mqa") or named["kv_a_proj"]
        norm, up = named.get("kv_a_layernorm"), named.get("kv_b_proj")
        queries = named.get("q_b_proj") or named.get("q_proj")
        out = named.get("o_proj")
        if not (norm and up and queries and out):
            raise self._asked.odd(f"layer {number}: its latent attention lacks tensors")
        rope = down.rows - norm.rows
        heads, odd = divmod(queries.rows - up.rows + out.columns, max(1, rope))
        value = out.columns // max(1, heads)
        if rope < 1 or heads < 1 or odd or value * heads != out.columns:
            raise self._asked.odd(
                f"layer {number}: its latent attention does not add up"
            )
        index = named.get("wk")
        top = self._asked.first(("index_topk",)) if index else 0
        return Attention(
            "mla",
            heads,
            1,
            queries.rows // heads,
            value,
            latent=down.rows,
            index_dim=index.rows if index else 0,
            top_tokens=top,
        )

    def _linear(self, named: Mapping[str, Weight]) -> Attention:
        """A state of a fixed size: gated delta nets, Mamba-2."""
        heads = named["A_log"].rows
        out, conv = named.get("out_proj"), named.get("conv1d")
        if not out or not conv or out.columns < heads:
            raise self._asked.odd("its linear attention lacks out_proj or conv1d")
        value = out.columns // heads
        mixed = max(0, conv.rows - out.columns)  # keys and queries, of all their heads
        groups = self._asked.first(("linear_num_key_heads", "n_groups"))
        size = self._asked.first(("linear_key_head_dim", "ssm_state_size"))
        size = size or mixed // 2 // max(1, groups)
        if not groups and not size:
            size = value
        self._assume("linear layers' states are taken from their tensors' shapes")
        state = heads * value * size + conv.rows * max(0, conv.columns - 1)
        return Attention("linear", heads, groups or heads, size, value, state=state)

    def _assume(self, what: str) -> None:
        if what not in self.assumed:
            self.assumed.append(what)


_FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "qkv")


def _is_stack(name: str, matrix: Matrix) -> bool:
    routed = "experts" in name and "shared" not in name
    return routed and len(matrix.shape) in (2, 3) and matrix.shape[0] > 1


def _weight(matrix: Matrix, split: Split | None = None) -> Weight:
    """A matrix as a weight; more than two dimensions (convolutions) as rows of all others."""
    rows = matrix.shape[0] if matrix.shape else 1
    columns = math.prod(matrix.shape[1:])
    return Weight(
        matrix.name, rows, columns, split or _split(matrix.name), store=matrix.store
    )


def _split(name: str) -> Split:
    return next((split for found, split in _SPLITS if re.search(found, name)), "none")


def _width(experts: list[Weight]) -> int:
    """The width inside an expert."""
    for weight in experts:
        if re.search(r"gate_up|w13", weight.name):
            return weight.rows // 2
        if re.search(r"gate_proj|up_proj|w1|w3", weight.name):
            return weight.rows
    return min(min(weight.rows, weight.columns) for weight in experts)


def _inner(weights: tuple[Weight, ...]) -> int:
    """The width of the dense or shared feed-forward network; 0 where there is none."""
    dense = [w for w in weights if w.split == "inner" and w.columns > 1]
    return _width(dense) if dense else 0


def _stored(found: list[Matrix]) -> str:
    sizes: Counter[str] = Counter()
    for matrix in found:
        sizes[matrix.store.name] += matrix.params
    return sizes.most_common(1)[0][0]


def _on_load(architecture: Architecture, name: str, where: str) -> Architecture:
    """Quantized by the engine while it loads."""
    if architecture.stored != "bf16":
        raise LemnosError(
            f"is stored as {architecture.stored} already",
            where=where,
            fix="leave --quantization away, or give the BF16 checkpoint",
        )
    stored = on_load(name)
    made = {}
    for layer in architecture.layers:
        if id(layer) not in made:
            weights = tuple(
                replace(w, store=stored.of(w.name, w)) for w in layer.weights
            )
            made[id(layer)] = replace(layer, weights=weights)
    note = f"quantized to {stored.store.name} by the engine while it loads"
    return replace(
        architecture,
        layers=tuple(made[id(layer)] for layer in architecture.layers),
        stored=stored.store.name,
        notes=(*architecture.notes, note),
    )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
