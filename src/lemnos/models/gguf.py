"""The header of a GGUF file: metadata and tensors, and whether the file is whole.

After the format's specification (ggml, docs/gguf.md), versions 2 and 3, little-endian.
Every count is checked against the file's size before anything is made of it: a header
that lies is a LemnosError, never a huge allocation.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lemnos.errors import LemnosError

MAGIC = b"GGUF"
HEADER_LIMIT = 512 * 1024 * 1024
"""No header is larger: the largest tokenizers take some 20 MB."""

# Value types: number -> struct format; 8 is a string, 9 an array.
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i",
    6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

# Tensor types: number -> (name, elements a block, bytes a block), from ggml's type table.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor's entry in the header."""

    name: str
    shape: tuple[int, ...]
    type: str
    """``F32``, ``Q4_1``, ..."""
    offset: int
    """Bytes from the start of the tensor data."""
    bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Gguf:
    """A header. Arrays of the metadata are kept as their length, except short ones."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    data_start: int
    """Where the tensor data begins, in bytes from the start of the file."""


LONG_ARRAY = 4096
"""Longer arrays of the metadata (vocabularies, merges) are kept as ``Length``."""


@dataclass(frozen=True)
class Length:
    """Stands for a long array of the metadata."""

    count: int


def read_gguf(path: Path) -> Gguf:
    """The header of ``path``. Raises LemnosError if it is no GGUF, or its header is cut or lies."""
    try:
        with path.open("rb") as handle:
            return _Reader(path, handle, path.stat().st_size).header()
    except OSError as error:
        raise LemnosError(
            f"cannot be read ({error.strerror})", where=str(path)
        ) from None


def check_whole(path: Path) -> Gguf:
    """The header, after checking that every tensor lies inside the file."""
    header = read_gguf(path)
    size = path.stat().st_size
    end = (
        max((t.offset + t.bytes for t in header.tensors), default=0) + header.data_start
    )
    if end > size:
        raise LemnosError(
            f"is cut off: its tensors need {end} bytes, and it has {size}",
            where=str(path),
            fix="download it again",
        )
    return header


class _Reader:
    """Reads values in their order; knows how many bytes are left."""

    def __init__(self, path: Path, handle: BinaryIO, size: int) -> None:
        self._path = path
        self._handle = handle
        self._left = min(size, HEADER_LIMIT)

    def header(self) -> Gguf:
        if self._handle.read(4) != MAGIC:
            raise self._bad("is not a GGUF file", "give a .gguf file")
        self._left -= 4
        version = self._scalar("<I")
        if version not in (2, 3):
            raise self._bad(f"is GGUF version {version}; versions 2 and 3 are known")
        tensor_count, value_count = self._scalar("<Q"), self._scalar("<Q")
        # The shortest entries: a tensor has 32 bytes, a value 13.
        if tensor_count * 32 + value_count * 13 > self._left:
            raise self._cut()
        metadata = {}
        for _ in range(value_count):
            key = self._string()
            metadata[key] = self._value(self._scalar("<I"))
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self._bad(f"has a general.alignment of {alignment!r}")
        start = -(-self._handle.tell() // alignment) * alignment
        return Gguf(version, metadata, tensors, start)

    def _tensor(self) -> Tensor:
        name = self._string()
        dimensions = self._scalar("<I")
        if dimensions > 8:
            raise self._bad(f"has a tensor '{name}' of {dimensions} dimensions")
        shape = tuple(self._scalar("<Q") for _ in range(dimensions))
        number = self._scalar("<I")
        offset = self._scalar("<Q")
        if number not in TENSOR_TYPES:
            raise self._bad(f"has a tensor '{name}' of the unknown type {number}")
        kind, block, block_bytes = TENSOR_TYPES[number]
        size = -(-math.prod(shape) // block) * block_bytes
        return Tensor(name, shape, kind, offset, size)

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth > 4:
            raise self._bad(f"has a value of the unknown type {kind}")
        item, count = self._scalar("<I"), self._scalar("<Q")
        smallest = struct.calcsize(_SCALARS[item]) if item in _SCALARS else 8
        if count * smallest > self._left:
            raise self._cut()
        if item in _SCALARS and count > LONG_ARRAY:
            self._skip(count * smallest)
            return Length(count)
        values = [self._value(item, depth + 1) for _ in range(count)]
        return values if count <= LONG_ARRAY else Length(count)

    def _scalar(self, kind: str) -> Any:
        return struct.unpack(kind, self._bytes(struct.calcsize(kind)))[0]

    def _string(self) -> str:
        return self._bytes(self._scalar("<Q")).decode("utf-8", "replace")

    def _bytes(self, count: int) -> bytes:
        if count > self._left:
            raise self._cut()
        self._left -= count
        data = self._handle.read(count)
        if len(data) != count:
            raise self._cut()
        return data

    def _skip(self, count: int) -> None:
        self._left -= count
        self._handle.seek(count, 1)

    def _cut(self) -> LemnosError:
        return self._bad(
            "is cut off within its header, or its header lies", "download it again"
        )

    def _bad(self, what: str, fix: str = "") -> LemnosError:
        return LemnosError(what, where=str(self._path), fix=fix)
