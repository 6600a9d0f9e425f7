"""Tensors of safetensors headers, and the matrices that they store.

A quantized matrix is several tensors (packed weights, scales, zero points); here they are
one, with the shape that it has for arithmetic and the bytes of all of them. Pure.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lemnos.errors import LemnosError
from lemnos.models.config import shown
from lemnos.models.quantization import MXFP8, STORES
from lemnos.models.safetensors import AGAIN, Header
from lemnos.spec.architecture import BF16, FP32, Store

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Of an element, by safetensors' names."""

_PART = re.compile(
    r"[._](weight_packed|qweight|blocks|weight_scale_inv|weight_scale_2|weight_scale|"
    r"weight_global_scale|input_global_scale|weight_zero_point|weight_g_idx|weight_shape|"
    r"input_scale|output_scale|[kvq]_scale|scale_inv|scales?|qzeros|g_idx|weight)$"
)
"""What a tensor is to its matrix, at the end of its name."""
_MAIN = ("weight", "qweight", "weight_packed", "blocks", "")
_OF_ACTIVATIONS = ("k_scale", "v_scale", "q_scale", "input_scale", "output_scale")
_ZEROS = ("qzeros", "weight_zero_point")
_SCALES = ("weight_scale_inv", "weight_scale", "scales", "scale_inv", "scale")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as a header has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of the model: outputs x inputs at the end of ``shape``, stacks before."""

    name: str
    """Without ``.weight``: ``model.layers.0.self_attn.q_proj``."""
    shape: tuple[int, ...]
    store: Store
    bytes: int
    """With its scales and zero points."""

    @property
    def params(self) -> int:
        return math.prod(self.shape)


def tensors_of(header: Header, where: str, fix: str = AGAIN) -> list[Tensor]:
    """The tensors of one header; raises LemnosError where shape, dtype and bytes contradict."""
    return [_tensor(name, entry, where, fix) for name, entry in header.items()]


def _tensor(name: str, entry: Mapping[str, Any], where: str, fix: str) -> Tensor:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    begin, end = entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_size, shape)):
        raise _bad(name, "has no valid shape", where, fix)
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _bad(name, f"has the unknown dtype {shown(dtype, 20)}", where, fix)
    needed = -(-math.prod(shape) * BITS[dtype] // 8)
    if needed != end - begin:
        what = f"needs {needed} bytes by its shape, and has {end - begin}"
        raise _bad(name, what, where, fix)
    return Tensor(name, dtype, tuple(shape), end - begin)


def _size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _bad(name: str, what: str, where: str, fix: str) -> LemnosError:
    return LemnosError(f"tensor '{shown(name, 100)}' {what}", where=where, fix=fix)


def matrices(tensors: Iterable[Tensor]) -> dict[str, Matrix]:
    """The matrices that ``tensors`` store, by name."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for tensor in tensors:
        if tensor.name.endswith("rotary_emb.inv_freq"):
            continue  # a table that old checkpoints carry; engines compute it
        found = _PART.search(tensor.name)
        base = tensor.name[: found.start()] if found else tensor.name
        parts[base][found[1] if found else ""] = tensor
    made = {}
    for name, own in parts.items():
        main = next((kind for kind in _MAIN if kind in own), None)
        if main is not None:
            made[name] = _matrix(name, own, main)
            continue
        for kind, tensor in own.items():  # scales of no weight: learned ones
            if kind in _OF_ACTIVATIONS:
                continue  # of the KV cache or of inputs, and nothing of the model
            made[tensor.name] = Matrix(
                tensor.name, tensor.shape, _plain(tensor), tensor.bytes
            )
    return made


def _matrix(name: str, own: Mapping[str, Tensor], kind: str) -> Matrix:
    main = own[kind]
    scale = next((own[k] for k in _SCALES if k in own), None)
    total = sum(tensor.bytes for tensor in own.values())
    if len(own) == 1 and kind in ("weight", ""):
        return Matrix(name, main.shape, _plain(main), total)
    base, shape = _unpacked(main, kind, scale, own.get("qzeros"))
    spread = sum(own[kind].bytes for kind in _ZEROS if kind in own)
    return Matrix(name, shape, _scaled(base, shape, scale, spread), total)


def _plain(tensor: Tensor) -> Store:
    """Of a tensor without scales."""
    bits = BITS[tensor.dtype]
    if bits == 16:
        return BF16
    if tensor.dtype == "F32":
        return FP32
    if tensor.dtype in ("F8_E4M3", "F8_E5M2"):
        return STORES["fp8-tensor"]
    return Store(tensor.dtype.lower(), bits, "fp8" if bits == 8 else "bf16")


def _unpacked(
    main: Tensor, kind: str, scale: Tensor | None, zeros: Tensor | None
) -> tuple[Store, tuple[int, ...]]:
    """The format of a quantized matrix, and its shape for arithmetic."""
    shape = main.shape
    if kind == "qweight" and len(shape) == 2:
        wide = scale.shape[-1] if scale and scale.shape else shape[1]
        if wide != shape[1]:  # AWQ packs along the outputs
            return _bits(STORES["awq"], 32 * shape[1], wide), (wide, shape[0])
        bits = 32 * zeros.shape[-1] if zeros and zeros.shape else 4 * wide
        store = _bits(STORES["gptq"], bits, wide)
        return store, (wide, int(shape[0] * 32 // store.bits))
    if kind == "blocks" and shape:  # MXFP4: (..., rows, groups, 16)
        return STORES["mxfp4"], (*shape[:-2], math.prod(shape[-2:]) * 2)
    if main.dtype == "I32" and shape:
        return STORES["int4"], (*shape[:-1], shape[-1] * 8)
    e8m0 = scale is not None and scale.dtype in ("F8_E8M0", "U8")
    if main.dtype == "F4":
        return STORES["mxfp4" if e8m0 else "nvfp4"], shape
    packed = main.dtype == "U8" or (main.dtype == "I8" and e8m0)
    if packed and shape:  # two to a byte
        return STORES["mxfp4" if e8m0 else "nvfp4"], (*shape[:-1], shape[-1] * 2)
    if main.dtype == "I8":
        return STORES["int8-channel"], shape
    return _plain(main), shape


def _bits(store: Store, packed: int, wide: int) -> Store:
    """``store`` with 8 bits where so many packed bits for ``wide`` weights say it."""
    return replace(store, bits=8) if wide and packed // wide == 8 else store


def _scaled(
    base: Store, shape: tuple[int, ...], scale: Tensor | None, zeros: int
) -> Store:
    """``base`` with the blocks that its scales have. ``zeros``: bytes of the zero points."""
    if len(shape) < 2 or scale is None or not math.prod(shape):
        return base
    rows, columns = shape[-2:]
    high, wide = _scales(base, shape, scale)
    if high * wide == 1:
        return base  # one a matrix: some bytes
    each = (scale.bytes + zeros) / (high * wide * math.prod(shape[:-2]))
    block = _block(rows, high), _block(columns, wide)
    if base.name == "fp8-tensor":
        channel = block in ((1, 0), (0, 1))
        base = (
            MXFP8
            if block == (1, 32)
            else STORES["fp8-channel" if channel else "fp8-block"]
        )
        if not channel:  # of a matrix narrower than a block, the other side shows it
            block = block[0] or block[1], block[1] or block[0]
    return replace(base, block=block, scale_bytes=each)


def _scales(base: Store, shape: tuple[int, ...], scale: Tensor) -> tuple[int, int]:
    """How many scales there are along the outputs and the inputs of each matrix."""
    each, rows = scale.elements // math.prod(shape[:-2]), shape[-2]
    if base.bits < 8 or base.name in ("awq", "gptq") or len(scale.shape) < 2:
        # GPTQ's and AWQ's lie the other way round.
        return (rows, each // rows) if each >= rows else (1, 1)
    return max(1, scale.shape[-2]), max(1, scale.shape[-1])


def _block(size: int, count: int) -> int:
    """How many rows or columns share one of ``count`` scales; 0: all of them.

    The last block may be cut off, so that several lengths are possible: powers of two first.
    """
    if count <= 1:
        return 0
    length = 1 << max(0, (size // count - 1).bit_length())
    return length if -(-size // length) == count else -(-size // count)
