"""What a config.json adds to headers, and the errors of working without it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lemnos.errors import LemnosError
from lemnos.models.config import Config

CONTEXTS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_positions",
)
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k")
LAYERS = ("num_hidden_layers", "n_layers", "n_layer")
HEADS = ("num_attention_heads", "n_head")
"""Keys of the same number, by the names that model families give it."""

_WINDOWS: dict[str, tuple[Literal["sliding", "chunked"], str]] = {
    "sliding_attention": ("sliding", "sliding_window"),
    "chunked_attention": ("chunked", "attention_chunk_size"),
}


@dataclass(frozen=True)
class Hints:
    """A config of an architecture that is not known: only what any architecture may say."""

    config: Config
    """Empty where the checkpoint has none."""
    where: str

    def first(self, keys: Iterable[str]) -> int:
        """The first of ``keys`` that is there, the language model's before the whole's; or 0."""
        inside = self.config.part("text_config")
        for config in (inside, self.config):
            for key in keys:
                if key in config:
                    return config.number(key)
        return 0

    def looks_back(
        self, number: int
    ) -> tuple[Literal["full", "sliding", "chunked"], int]:
        """How layer ``number`` looks back, and how many tokens (0: all of them)."""
        inside = self.config.part("text_config")
        config = inside if "layer_types" in inside else self.config
        kinds = config.texts("layer_types")
        if number >= len(kinds) or kinds[number] not in _WINDOWS:
            return "full", 0
        kind, key = _WINDOWS[kinds[number]]
        return (kind, config.number(key)) if key in config else ("full", 0)

    def need(self, key: str, why: str) -> LemnosError:
        """``key`` is missing, and headers cannot tell it."""
        return LemnosError(
            f"'{key}' is missing, and {why}",
            where=self.where,
            fix="put the model's config.json beside its files, with that key",
        )

    def odd(self, what: str) -> LemnosError:
        """The tensors show nothing that could be planned."""
        return LemnosError(
            what,
            where=self.where,
            fix="give a model of a known architecture ('lemnos models ls --known')",
        )
