"""Models for `local_gpus.py`: real configurations and tokenizers, files of the right size without a weight in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lemnos.models.architecture import architecture_of
from lemnos.models.config import Config
from tests import tiny_glm
from tests.unit.models.checkpoints import header_of, tensors_of

DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "max_position_embeddings": 4096,
    "vocab_size": tiny_glm.VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 256,
    "pad_token_id": 256,
}
"""Qwen3-0.6B's shape, with a token a byte."""
MOE = tiny_glm.CONFIG | {
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "intermediate_size": 2048,
    "moe_intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
"""A GLM whose KV cache has as many blocks as a real one's: a smaller one's has millions."""


def make_dense(directory: Path) -> Path:
    """A Qwen3 without experts, in ``directory``."""
    return _make(directory, DENSE)


def make_moe(directory: Path) -> Path:
    """A GLM with eight experts, in ``directory``."""
    return _make(directory, MOE)


def _make(directory: Path, config: dict[str, Any]) -> Path:
    tiny_glm.make_tiny_glm(directory)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    tensors = tensors_of(architecture_of(Config(config, "config.json")))
    text = json.dumps(header_of(tensors)).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + sum(tensor.bytes for tensor in tensors))
    return directory
