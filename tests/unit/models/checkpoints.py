"""Checkpoints as published, for tests: an architecture's tensors, and files that hold them."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from lemnos.models.config import Config
from lemnos.models.headers import BITS, Tensor
from lemnos.spec.architecture import Architecture, Store, Weight
from tests.unit.models.configs import config_of

_BARE = ("A_log", "dt_bias", "sinks", "e_score_correction_bias", "bias")
"""Names that end without ``.weight``."""
_STACKED = ("gpt_oss", "llama4_text")
"""Families whose experts are one tensor."""


def shortened(name: str, layers: int = 4, **changes: Any) -> Config:
    """A shipped config with fewer layers and experts, so that tests are quick."""
    data = dict(config_of(name).data)
    inside = data.get("text_config")
    text = dict(inside) if isinstance(inside, dict) else data
    text["num_hidden_layers"] = layers
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if text.get(key):
            text[key] = 16
    if isinstance(inside, dict):
        data["text_config"] = text
    return Config(data | changes, f"{name}/config.json")


def tensor(name: str, dtype: str, *shape: int) -> Tensor:
    """A tensor of that shape, with the bytes that it needs."""
    return Tensor(name, dtype, shape, -(-math.prod(shape) * BITS[dtype] // 8))


def stored(name: str, rows: int, columns: int, store: Store) -> list[Tensor]:
    """A matrix as checkpoints of that format hold it: weights, scales, zero points."""
    wide = -(-columns // (store.block[1] or columns))
    high = -(-rows // (store.block[0] or rows))
    if store.name in ("fp8-tensor", "fp8-channel", "fp8-block", "int8-channel"):
        dtype = "I8" if store.name == "int8-channel" else "F8_E4M3"
        scale = "weight_scale_inv" if store.name == "fp8-block" else "weight_scale"
        shape = () if store.name == "fp8-tensor" else (high, wide)
        return [
            tensor(f"{name}.weight", dtype, rows, columns),
            tensor(f"{name}.{scale}", "F32", *shape),
        ]
    if store.name == "int4":
        return [
            tensor(f"{name}.weight_packed", "I32", rows, columns // 8),
            tensor(f"{name}.weight_scale", "BF16", rows, wide),
            tensor(f"{name}.weight_shape", "I64", 2),
        ]
    if store.name == "nvfp4":
        return [
            tensor(f"{name}.weight", "U8", rows, columns // 2),
            tensor(f"{name}.weight_scale", "F8_E4M3", rows, wide),
            tensor(f"{name}.weight_scale_2", "F32"),
            tensor(f"{name}.input_scale", "F32"),
        ]
    pack = int(32 // store.bits)
    if store.name == "awq":
        return [
            tensor(f"{name}.qweight", "I32", columns, rows // pack),
            tensor(f"{name}.scales", "F16", wide, rows),
            tensor(f"{name}.qzeros", "I32", wide, rows // pack),
        ]
    if store.name == "gptq":
        return [
            tensor(f"{name}.qweight", "I32", columns // pack, rows),
            tensor(f"{name}.scales", "F16", wide, rows),
            tensor(f"{name}.qzeros", "I32", wide, rows // pack),
            tensor(f"{name}.g_idx", "I32", columns),
        ]
    assert store.name in ("bf16", "fp32"), store.name
    plain = (rows, columns) if columns > 1 else (rows,)
    full = name if name.endswith(_BARE) else f"{name}.weight"
    return [tensor(full, "BF16" if store.bits == 16 else "F32", *plain)]


def tensors_of(architecture: Architecture) -> list[Tensor]:
    """Every tensor of ``architecture``'s checkpoint, without encoder and MTP."""
    made = [
        t for weight in architecture.outside for t in _published(weight.name, weight)
    ]
    stacked = architecture.family in _STACKED
    for number, layer in enumerate(architecture.layers):
        for weight in layer.weights:
            name = f"model.layers.{number}.{weight.name}"
            if weight.split != "experts":
                made += _published(name, weight)
            elif stacked:
                made += _stack(name, weight)
            else:
                made += _experts(name, weight)
    return made


def _published(name: str, weight: Weight) -> list[Tensor]:
    return stored(name, weight.rows, weight.columns, weight.store)


def _experts(name: str, weight: Weight) -> Iterator[Tensor]:
    before, _, after = name.partition(".experts.")
    for number in range(weight.copies):
        yield from _published(f"{before}.experts.{number}.{after}", weight)


def _stack(name: str, weight: Weight) -> list[Tensor]:
    count, rows, columns = weight.copies, weight.rows, weight.columns
    if weight.store.name == "mxfp4":
        return [
            tensor(f"{name}_blocks", "U8", count, rows, columns // 32, 16),
            tensor(f"{name}_scales", "U8", count, rows, columns // 32),
        ]
    if columns == 1:
        return [tensor(name, "BF16", count, rows)]
    if weight.store.name == "fp8-channel":  # Llama-4 keeps them inputs x outputs
        return [
            tensor(name, "F8_E4M3", count, columns, rows),
            tensor(f"{name}_scale", "F32", count, 1, rows),
        ]
    if "feed_forward" in name:
        return [tensor(name, "BF16", count, columns, rows)]
    return [tensor(name, "BF16", count, rows, columns)]


def header_of(tensors: Iterable[Tensor]) -> dict[str, dict[str, Any]]:
    """The header of a file with those tensors."""
    header, end = {}, 0
    for each in tensors:
        offsets = [end, end + each.bytes]
        header[each.name] = {
            "dtype": each.dtype,
            "shape": list(each.shape),
            "data_offsets": offsets,
        }
        end += each.bytes
    return header


def file_of(tensors: Iterable[Tensor]) -> bytes:
    """A safetensors file with those tensors, all zero."""
    header = header_of(tensors)
    text = json.dumps(header).encode()
    end = max((e["data_offsets"][1] for e in header.values()), default=0)
    return struct.pack("<Q", len(text)) + text + bytes(end)
