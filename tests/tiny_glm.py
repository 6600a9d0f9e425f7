"""A GLM MoE model small enough for a test: random weights, bytes as tokens, GLM's own marks."""

from __future__ import annotations

import json
import random
from array import array
from pathlib import Path
from typing import Any

from lemnos.models.architecture import architecture_of
from lemnos.models.config import Config
from lemnos.models.headers import Tensor
from tests.unit.models.checkpoints import header_of, tensors_of

MARKS = (
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|observation|>", "<think>", "</think>", "<tool_call>", "</tool_call>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "/nothink"),
)
VOCABULARY = 320
CONFIG: dict[str, Any] = {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "use_qk_norm": False,
    "attention_bias": True,
    "attention_dropout": 0.0,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 4096,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "num_nextn_predict_layers": 0,
    "torch_dtype": "bfloat16",
    "eos_token_id": [256, 260, 262],
    "pad_token_id": 256,
}
TEMPLATE = """\
[gMASK]<sop>{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{% for message in messages %}<|{{ message.role }}|>
{{ message.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}\
{% endif %}"""


def make_tiny_glm(directory: Path) -> Path:
    """The model's files in ``directory``; the same at each call."""
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "config.json", CONFIG)
    _write(directory / "generation_config.json", {"eos_token_id": [256, 260, 262]})
    _write(directory / "tokenizer.json", _tokenizer())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": MARKS[0],
        "pad_token": MARKS[0],
        "model_max_length": 4096,
        "chat_template": TEMPLATE,
    }
    _write(directory / "tokenizer_config.json", settings)
    architecture = architecture_of(Config(CONFIG, "config.json"))
    tensors = tensors_of(architecture)
    text = json.dumps(header_of(tensors)).encode()
    dice = random.Random(0)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(_values(tensor, dice))
    return directory


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1))


def _values(tensor: Tensor, dice: random.Random) -> bytes:
    """Ones for norms, zeros for biases, else small random numbers; BF16 or F32."""
    width = 2 if tensor.dtype == "BF16" else 4
    count = tensor.bytes // width
    if "norm" in tensor.name:
        floats = array("f", [1.0] * count)
    elif "bias" in tensor.name:
        floats = array("f", [0.0] * count)
    else:
        floats = array("f", (dice.gauss(0.0, 0.05) for _ in range(count)))
    data = floats.tobytes()
    if width == 4:
        return data
    short = bytearray(2 * count)  # BF16 is the upper half of a float
    short[0::2], short[1::2] = data[2::4], data[3::4]
    return bytes(short)


def _tokenizer() -> dict[str, Any]:
    """Byte-level BPE without merges: a token a byte, and GLM's marks."""
    vocabulary = {letter: number for number, letter in enumerate(_letters())}
    marks = [
        {
            "id": 256 + number,
            "content": mark,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": number < 7,
        }
        for number, mark in enumerate(MARKS)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": marks,
        "normalizer": None,
        "pre_tokenizer": level | {"use_regex": False},
        "post_processor": None,
        "decoder": level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _letters() -> list[str]:
    """A printable letter for each byte, as byte-level BPE writes them (GPT-2's alphabet)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]
