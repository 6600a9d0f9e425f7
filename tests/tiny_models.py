"""The smallest models that are valid: a GGUF file and a safetensors directory, as bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 256,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.chat_template": "{{ messages }}",
}


def gguf(
    metadata: dict[str, Any] | None = None, tensors: dict[str, int] | None = None
) -> bytes:
    """A GGUF with F32 tensors of so many elements."""
    metadata = METADATA if metadata is None else metadata
    tensors = (
        {"token_embd.weight": 192, "output.weight": 192} if tensors is None else tensors
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _string(key) + _typed(value)
    offset = 0
    for name, elements in tensors.items():
        head += _string(name) + struct.pack("<IQIQ", 1, elements, 0, offset)
        offset += 4 * elements
    head += b"\0" * (-len(head) % 32)
    return head + bytes(range(256)) * (offset // 256 + 1)


def _typed(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, list):
        kind = 8 if value and isinstance(value[0], str) else 4
        items = b"".join(
            _string(v) if kind == 8 else struct.pack("<I", v) for v in value
        )
        return struct.pack("<IIQ", 9, kind, len(value)) + items
    raise TypeError(type(value))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def safetensors(tensors: dict[str, int]) -> bytes:
    """A safetensors file with U8 tensors of so many bytes."""
    header, offset = {}, 0
    for name, count in tensors.items():
        header[name] = {
            "dtype": "U8",
            "shape": [count],
            "data_offsets": [offset, offset + count],
        }
        offset += count
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\1" * offset


def safetensors_model() -> dict[str, bytes]:
    """A repository: two shards, their index, a config, and files that nobody needs."""
    shards = {
        "model-00001-of-00002.safetensors": {"a": 1000, "b": 24},
        "model-00002-of-00002.safetensors": {"c": 2048},
    }
    index = {name: file for file, tensors in shards.items() for name in tensors}
    files = {file: safetensors(tensors) for file, tensors in shards.items()}
    return files | {
        "model.safetensors.index.json": json.dumps({"weight_map": index}).encode(),
        "config.json": b'{"architectures": ["X"]}',
        "README.md": b"# about",
        "pytorch_model.bin": b"the same weights again",
        "original/consolidated.pth": b"and again",
    }
