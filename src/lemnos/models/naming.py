"""How checkpoints name their tensors: what a name says of its place and its sharding. Pure."""

from __future__ import annotations

import re

from lemnos.spec.architecture import Split

NUMBERED = re.compile(r"^(.*?)\.(\d{1,6})\.(.+)$")
"""A tensor of a numbered block: stack, number, name inside."""
EXPERT = re.compile(r"^(.*experts)\.(\d{1,6})\.(.+)$")
"""A tensor of one routed expert: experts, number, name inside."""
EMBEDDINGS = (
    "embed_tokens",
    "tok_embeddings",
    "word_embeddings",
    "wte",
    "embeddings",
    "embed",
)
HEADS = ("lm_head", "output", "embed_out", "head")
"""Last parts of the names of embeddings and of output heads, the surest first."""
QUERIES, KEYS, VALUES = ("q_proj", "wq"), ("k_proj", "wk"), ("v_proj", "wv")
OUTPUTS = ("o_proj", "wo", "out_proj", "c_proj", "dense")
FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "qkv")
"""Last parts of the names of attention's projections."""
BITSANDBYTES = re.compile(r"\.(absmax|quant_map|quant_state\.\w+)$")
"""Tensors beside a matrix whose own shape no longer shows its rows and columns."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,6})\.")
_MTP = re.compile(r"(?:^|\.)mtp\.")
_ENCODER = re.compile(
    r"(?:^|\.)(visual|vision\w*|vit|audio\w*|image_newline|mm_projector|"
    r"multi_modal_projector|multimodal_projector|patch_merge\w*)\."
)
_ROUTED = re.compile(r"(^|\.)experts\.")
_SPLITS: tuple[tuple[re.Pattern[str], Split], ...] = (
    (_ROUTED, "experts"),
    # Added once the parts are summed up: biases of what is divided by its inputs.
    (re.compile(r"\b(o_proj|wo|out_proj|c_proj|down_proj|w2|fc2)\.bias$"), "none"),
    (re.compile(r"\bindexer\."), "none"),
    (
        re.compile(
            r"\b(sinks|A_log|dt_bias|conv1d|q_proj|q_b_proj|kv_b_proj|wq|wo|o_proj|out_proj|qkv_proj|"
            r"query_key_value|c_attn|Wqkv|W_pack|in_proj\w*)\b"
        ),
        "heads",
    ),
    (re.compile(r"\b(k_proj|v_proj|wk|wv)\b"), "kv_heads"),
    (
        re.compile(
            r"\b(gate_proj|up_proj|down_proj|gate_up_proj|w[123]|fc[12]|c_fc|dense_\w+)\b"
        ),
        "inner",
    ),
)
"""What tensor parallelism divides, by the names that engines divide so."""


def is_encoder(name: str) -> bool:
    """Whether a tensor of that name belongs to an encoder of images or sounds."""
    return bool(_ENCODER.search(name))


def is_mtp(name: str, layers: int) -> bool:
    """Whether a tensor of that name belongs to a next-token-prediction layer."""
    if is_encoder(name):
        return False
    found = _LAYER.search(name)
    return bool(_MTP.search(name)) or bool(found and int(found[1]) >= layers)


def is_routed(name: str) -> bool:
    """Whether a tensor inside a layer belongs to routed experts (not to shared ones)."""
    return bool(_ROUTED.search(name))


def split_of(name: str) -> Split:
    """How engines divide the weight of that name inside a layer."""
    return next((split for found, split in _SPLITS if found.search(name)), "none")
