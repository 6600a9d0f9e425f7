"""Safetensors files: headers, and whether files and index are whole and agree.

Format: 8 bytes of header length (little-endian), a JSON header of tensors with their byte
ranges, and the data, which the ranges cover without gaps.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from lemnos.errors import LemnosError

HEADER_LIMIT = 100_000_000
"""As the reference implementation has it."""


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> {dtype, shape, data_offsets}; raises LemnosError if the file is not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            length = handle.read(8)
            count = struct.unpack("<Q", length)[0] if len(length) == 8 else 0
            if not 2 <= count <= min(HEADER_LIMIT, size - 8):
                raise _bad(
                    path, "is cut off, or no safetensors file: its header cannot be"
                )
            header = json.loads(handle.read(count))
    except OSError as error:
        raise _bad(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise _bad(path, "has a header that is not valid JSON") from None
    if not isinstance(header, dict):
        raise _bad(path, "has a header that is not a JSON object")
    header.pop("__metadata__", None)
    end = 0
    for begin, stop in sorted(
        _range(path, name, entry) for name, entry in header.items()
    ):
        if begin != end:
            raise _bad(path, f"has a gap or an overlap in its data at byte {end}")
        end = stop
    if 8 + count + end != size:
        raise _bad(
            path, f"is cut off: it needs {8 + count + end} bytes, and has {size}"
        )
    return header


def check_whole(directory: Path) -> int:
    """Check every safetensors file, and the index if there is one; the tensors' number.

    Index and headers must name the same tensors in the same files.
    """
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise _bad(directory, "has no safetensors files")
        return sum(len(read_header(path)) for path in files)
    wanted = _weight_map(index)
    found: dict[str, str] = {}
    for name in sorted(set(wanted.values())):
        path = directory / name
        if not path.is_file():
            raise _bad(directory, f"lacks {name}, which its index names")
        found |= dict.fromkeys(read_header(path), name)
    if found != wanted:
        odd = sorted(found.items() ^ wanted.items())[0]
        raise _bad(
            index, f"and the headers do not agree: tensor '{odd[0]}' in {odd[1]}"
        )
    return len(found)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _bad(index, "is not a valid index") from None
    plain = isinstance(weight_map, dict) and all(
        isinstance(name, str) and Path(name).name == name
        for name in weight_map.values()
    )
    if not plain or not weight_map:
        raise _bad(index, "is not a valid index: weight_map names no plain files")
    return dict(weight_map)


def _range(path: Path, name: str, entry: Any) -> tuple[int, int]:
    try:
        begin, end = entry["data_offsets"]
        if isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end:
            return begin, end
    except (TypeError, ValueError, KeyError):
        pass
    raise _bad(path, f"has a tensor '{name[:80]}' without a valid range")


def _bad(path: Path, what: str) -> LemnosError:
    return LemnosError(what, where=str(path), fix="download it again")
