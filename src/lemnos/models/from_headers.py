"""An architecture that nobody knows, from its files' headers (``--trust-headers``). Pure.

Names, shapes and dtypes give the layers, the weights in them and what each layer caches; a
config.json, where there is one, gives what no shape shows (experts a token, head size).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from lemnos.errors import LemnosError
from lemnos.models.config import LIMITS, Config, shown
from lemnos.models.from_shapes import attention_of
from lemnos.models.headers import Matrix, Tensor, matrices
from lemnos.models.hints import CONTEXTS, LAYERS, TOP_K, Hints
from lemnos.models.naming import (
    BITSANDBYTES,
    EMBEDDINGS,
    EXPERT,
    HEADS,
    NUMBERED,
    is_encoder,
    is_mtp,
    is_routed,
    split_of,
)
from lemnos.models.quantization import on_load
from lemnos.spec.architecture import Architecture, Layer, Moe, Split, Weight

LONGEST = 1_048_576
"""The context that is assumed where nothing says how long it may be."""


def architecture_from_headers(
    tensors: Iterable[Tensor],
    where: str,
    config: Config | None = None,
    *,
    quantization: str | None = None,
) -> Architecture:
    """The architecture of a checkpoint with these tensors. Raises LemnosError."""
    hints = Hints(config or Config({}, where), where)
    found = list(matrices(_readable(tensors, hints)).values())
    main, extra, encoder, outside = _parts(found, hints)
    embedding, head, around = _around(outside, hints)
    built = _Layers(embedding.shape[1], hints)
    layers = tuple(built.layer(number, main[number]) for number in range(len(main)))
    if not any(layer.attention.heads for layer in layers):
        raise hints.odd("none of its layers has attention that its names show")
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
    context = hints.first(CONTEXTS)
    if not context:
        notes.append(
            f"nothing says how long its context may be: {LONGEST:,} is assumed"
        )
    names = hints.config.texts("architectures")
    architecture = Architecture(
        name=shown(names[0], 80) if names else "unknown",
        family=shown(hints.config.text("model_type"), 80) or "unknown",
        hidden=embedding.shape[1],
        vocabulary=embedding.shape[0],
        max_context=context or LONGEST,
        layers=layers,
        outside=tuple(weights),
        tied=head is None,
        mtp=tuple(_weight(matrix) for matrix in extra),
        stored=_stored(main),
        notes=tuple(notes),
    )
    return _on_load(architecture, quantization, where) if quantization else architecture


def _readable(tensors: Iterable[Tensor], hints: Hints) -> list[Tensor]:
    """``tensors``, if their shapes are those of the matrices that they store."""
    listed = list(tensors)
    flat = next((t for t in listed if BITSANDBYTES.search(t.name)), None)
    if flat is None:
        return listed
    raise hints.odd(
        f"is quantized by bitsandbytes ('{shown(flat.name)}'), whose tensors do not show "
        "the shapes of the matrices"
    )


Rest = dict[str, Matrix]
"""Name inside its layer -> matrix."""


def _parts(
    found: list[Matrix], hints: Hints
) -> tuple[list[Rest], list[Matrix], list[Matrix], list[Matrix]]:
    """Layers in order, MTP, encoder, and what is outside of layers."""
    encoder = [matrix for matrix in found if is_encoder(matrix.name)]
    stacks: dict[str, dict[int, Rest]] = defaultdict(lambda: defaultdict(dict))
    outside, extra = [], []
    said = hints.first(LAYERS)
    for matrix in found:
        if is_encoder(matrix.name):
            continue
        numbered = NUMBERED.match(matrix.name)
        if is_mtp(matrix.name, said or LIMITS["layers"]):
            extra.append(matrix)
        elif numbered:
            stacks[numbered[1]][int(numbered[2])][numbered[3]] = matrix
        else:
            outside.append(matrix)
    if not stacks:
        raise hints.odd("has no tensors in numbered layers")
    sizes = {
        name: sum(m.params for layer in stack.values() for m in layer.values())
        for name, stack in stacks.items()
    }
    largest = max(sizes, key=lambda name: sizes[name])
    layers = stacks.pop(largest)
    for stack in stacks.values():
        outside += [m for layer in stack.values() for m in layer.values()]
    order = _in_order(largest, layers, hints)
    while order and any("eh_proj" in name for name in order[-1]):
        extra += order.pop().values()
    if said and len(order) != said:
        raise hints.odd(
            f"has {len(order)} layers in '{shown(largest)}', and its config says {said}"
        )
    return order, extra, encoder, outside


def _in_order(name: str, layers: Mapping[int, Rest], hints: Hints) -> list[Rest]:
    """The layers of a stack by number; none may be missing."""
    if len(layers) > LIMITS["layers"]:
        raise hints.odd(f"has {len(layers)} layers, more than any model")
    missing = next((n for n in range(len(layers)) if n not in layers), None)
    if missing is None:
        return [layers[number] for number in range(len(layers))]
    raise hints.odd(
        f"has no layer {missing} among its {len(layers)} in '{shown(name)}'"
    )


def _around(
    outside: list[Matrix], hints: Hints
) -> tuple[Matrix, Matrix | None, list[Matrix]]:
    """The embedding, the output head where there is one, and the others."""

    def named(endings: Iterable[str]) -> Matrix | None:
        tables = [matrix for matrix in outside if len(matrix.shape) == 2]
        by_end = {m.name.rpartition(".")[2]: m for m in reversed(tables)}
        return next((by_end[ending] for ending in endings if ending in by_end), None)

    embedding, head = named(EMBEDDINGS), named(HEADS)
    if embedding is None or not embedding.params:
        raise hints.odd("has no embedding (embed_tokens, wte, ...) among its tensors")
    if head is not None and head.shape != embedding.shape:
        raise hints.odd(
            f"its head is {_by(head.shape)}, its embedding {_by(embedding.shape)}"
        )
    used = {embedding.name, head.name if head else ""}
    return embedding, head, [m for m in outside if m.name not in used]


class _Layers:
    """Builds layers; alike ones are one object."""

    def __init__(self, hidden: int, hints: Hints) -> None:
        self._hidden = hidden
        self._hints = hints
        self._made: dict[tuple[object, ...], Layer] = {}
        self.assumed: list[str] = []

    def layer(self, number: int, parts: Rest) -> Layer:
        """Layer ``number``, of these matrices."""
        weights = self._weights(number, parts)
        key = (weights, self._hints.looks_back(number))
        if key not in self._made:
            found = attention_of(number, weights, self._hidden, self._hints)
            attention, assumed = found
            if assumed and assumed not in self.assumed:
                self.assumed.append(assumed)
            moe = self._moe(weights)
            self._made[key] = Layer(attention, weights, moe, _inner(weights))
        return self._made[key]

    def _weights(self, number: int, parts: Rest) -> tuple[Weight, ...]:
        experts: dict[str, list[Matrix]] = defaultdict(list)
        weights = []
        for name, matrix in parts.items():
            numbered = EXPERT.match(name)
            if numbered:
                experts[f"{numbered[1]}.{numbered[3]}"].append(matrix)
            elif _is_stack(name, matrix):
                weights.append(self._stack(name, matrix))
            else:
                weights.append(_weight(replace(matrix, name=name)))
        for name, alike in experts.items():
            first = alike[0]
            if any(other.shape != first.shape for other in alike):
                raise self._hints.odd(
                    f"layer {number}: the experts' {shown(name)} differ in shape"
                )
            one = _weight(replace(first, name=name), "experts")
            weights.append(replace(one, copies=len(alike)))
        return tuple(sorted(weights, key=lambda weight: weight.name))

    def _stack(self, name: str, matrix: Matrix) -> Weight:
        """All experts in one tensor: (experts, a, b), or (experts, a) for biases."""
        copies, rows = matrix.shape[:2]
        columns = matrix.shape[2] if len(matrix.shape) == 3 else 1
        store = matrix.store
        inwards = "down" in name or "w2" in name
        if columns > 1 and inwards == (columns == self._hidden) and rows != columns:
            rows, columns = columns, rows  # stored the other way round
            store = replace(store, block=store.block[::-1])
        return Weight(name, rows, columns, "experts", copies, store)

    def _moe(self, weights: tuple[Weight, ...]) -> Moe | None:
        experts = [w for w in weights if w.split == "experts" and w.columns > 1]
        if not experts:
            return None
        count = max(weight.copies for weight in experts)
        if any(weight.copies != count for weight in experts):
            raise self._hints.odd("its experts' tensors differ in number")
        top_k = self._hints.first(TOP_K)
        if not top_k:
            raise self._hints.need(
                "num_experts_per_tok",
                "headers do not show how many experts a token uses",
            )
        if top_k > count:
            raise self._hints.odd(
                f"'num_experts_per_tok' is {top_k}, and there are {count} experts"
            )
        return Moe(count, top_k, _width(experts))


def _is_stack(name: str, matrix: Matrix) -> bool:
    return is_routed(name) and len(matrix.shape) in (2, 3) and matrix.shape[0] > 1


def _weight(matrix: Matrix, split: Split | None = None) -> Weight:
    """A matrix as a weight; more than two dimensions (convolutions) as rows of all others."""
    rows = matrix.shape[0] if matrix.shape else 1
    columns = math.prod(matrix.shape[1:])
    return Weight(
        matrix.name, rows, columns, split or split_of(matrix.name), store=matrix.store
    )


def _width(network: list[Weight]) -> int:
    """The width inside a feed-forward network, or inside each of the experts."""
    for weight in network:
        if re.search(r"gate_up|w13", weight.name):
            return weight.rows // 2
        if re.search(r"gate_proj|up_proj|w1|w3|fc1|c_fc|dense_h_to", weight.name):
            return weight.rows
    return min(min(weight.rows, weight.columns) for weight in network)


def _inner(weights: tuple[Weight, ...]) -> int:
    """The width of the dense or shared feed-forward network; 0 where there is none."""
    dense = [w for w in weights if w.split == "inner" and w.columns > 1]
    return _width(dense) if dense else 0


def _stored(layers: list[Rest]) -> str:
    """How most of the layers' weights are stored."""
    sizes: Counter[str] = Counter()
    for matrix in (matrix for layer in layers for matrix in layer.values()):
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
