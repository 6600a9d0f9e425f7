"""What a model is made of: its layers, the weights in them, and how each is stored.

Plain frozen dataclasses: a search looks at them many thousand times. Sizes are numbers of
elements unless a name says bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["none", "heads", "kv_heads", "inner", "vocabulary", "experts"]
"""What tensor parallelism divides: nothing (each rank has it whole), query heads, KV heads (at
least one a rank), a width inside the layer, the vocabulary, or the width inside each expert
(whole experts under expert parallelism)."""

Math = Literal["bf16", "fp8", "int8", "fp4", "w4a16"]
"""How a stored weight is multiplied: on the tensor cores of that format; ``w4a16`` widens four
bits to 16 on the way."""


@dataclass(frozen=True, slots=True)
class Store:
    """How a matrix is kept: bits for each weight, and its scales."""

    name: str
    """``bf16``, ``fp8-channel``, ``int4-g128``, ``nvfp4``."""
    bits: float
    math: Math
    block: tuple[int, int] = (0, 0)
    """Rows (outputs) and columns (inputs) that share a scale; 0: all of them."""
    scale_bytes: float = 0.0
    """Bytes of a block's scale, and of its zero point where there is one."""

    def bytes(self, rows: float, columns: float) -> float:
        """Bytes of a ``rows`` x ``columns`` matrix."""
        weights = rows * columns * self.bits / 8
        if not self.scale_bytes:
            return weights
        high = rows / self.block[0] if self.block[0] else 1.0
        wide = columns / self.block[1] if self.block[1] else 1.0
        return weights + max(high, 1.0) * max(wide, 1.0) * self.scale_bytes


BF16 = Store("bf16", 16, "bf16")
FP32 = Store("fp32", 32, "bf16")


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix (outputs x inputs), a vector (inputs 1), or ``copies`` alike, one an expert."""

    name: str
    """Inside its layer: ``self_attn.q_proj``."""
    rows: int
    columns: int
    split: Split = "none"
    copies: int = 1
    store: Store = BF16

    @property
    def params(self) -> int:
        return self.copies * self.rows * self.columns

    @property
    def bytes(self) -> float:
        """Unsharded."""
        return self.copies * self.store.bytes(self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Attention:
    """How a layer looks back, and what it keeps of each token."""

    kind: Literal["full", "sliding", "chunked", "mla", "linear"]
    heads: int
    kv_heads: int
    head_dim: int
    """Of queries and keys."""
    value_dim: int
    window: int = 0
    """Tokens that a sliding or chunked layer looks back, 0 for all."""
    latent: int = 0
    """MLA: elements cached a token (compressed KV and rotary part), for all heads together."""
    state: int = 0
    """Linear attention: elements of its state for a request, whatever the context."""
    index_dim: int = 0
    """Sparse attention's indexer: elements that it caches a token besides."""
    top_tokens: int = 0
    """Sparse attention: tokens it looks at; 0 for all."""


@dataclass(frozen=True, slots=True)
class Moe:
    """Routed experts."""

    experts: int
    top_k: int
    inner: int


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One decoder layer. Alike layers are one object, so identity tells kinds apart, quickly."""

    attention: Attention
    weights: tuple[Weight, ...]
    moe: Moe | None = None
    inner: int = 0
    """Width of the dense (or shared) feed-forward network."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A vision encoder: its weights, and what an image costs."""

    weights: tuple[Weight, ...]
    layers: int
    hidden: int
    heads: int
    pixels_per_token: int
    """Side of the square of pixels that becomes one token of the language model."""
    patches_per_token: int
    max_patches: int
    """Of one image: sets the encoder's peak activation."""

    def tokens(self, width: int, height: int) -> int:
        """Tokens that an image of ``width`` x ``height`` pixels becomes."""
        across = -(-width // self.pixels_per_token)
        return across * -(-height // self.pixels_per_token)


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """A whole model. Compared by identity, so that what follows from it is quickly looked up."""

    name: str
    """``Glm4MoeForCausalLM``."""
    family: str
    """``glm4_moe``."""
    hidden: int
    vocabulary: int
    max_context: int
    layers: tuple[Layer, ...]
    """In order; alike layers are one object."""
    outside: tuple[Weight, ...]
    """Embedding, output head (absent where tied) and final norm."""
    tied: bool
    mtp: tuple[Weight, ...] = ()
    """Next-token-prediction layers: in the checkpoint, loaded only for speculative decoding."""
    encoder: Encoder | None = None
    stored: str = "bf16"
    """How most of the weights are stored: ``fp8-channel``."""
    notes: tuple[str, ...] = field(default=())
    """What was assumed, in sentences."""

    @property
    def main_weights(self) -> tuple[Weight, ...]:
        """All but MTP's."""
        inside = tuple(w for layer in self.layers for w in layer.weights)
        encoder = self.encoder.weights if self.encoder else ()
        return (*self.outside, *inside, *encoder)

    @property
    def parameters(self) -> int:
        """Of the model itself, without MTP layers."""
        return sum(weight.params for weight in self.main_weights)

    @property
    def mtp_parameters(self) -> int:
        return sum(weight.params for weight in self.mtp)

    @property
    def checkpoint_bytes(self) -> float:
        """On disk: MTP layers with them."""
        encoder = self.encoder.weights if self.encoder else ()
        total = sum(weight.bytes for weight in (*self.outside, *encoder, *self.mtp))
        for layer, count in Counter(self.layers).items():
            total += count * sum(weight.bytes for weight in layer.weights)
        return total

    @property
    def active_parameters(self) -> int:
        """Multiplied for each token: no embedding look-up, ``top_k`` of the experts."""
        total = 0
        for layer in self.layers:
            for weight in layer.weights:
                if weight.split == "experts" and layer.moe:
                    total += weight.params * layer.moe.top_k // layer.moe.experts
                else:
                    total += weight.params
        head = next((w for w in self.outside if w.name == "lm_head"), None)
        return total + (head.params if head else self.vocabulary * self.hidden)
