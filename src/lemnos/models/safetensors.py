"""Safetensors files: headers, and whether files and index are whole and agree.

Format: 8 bytes of header length (little-endian), a JSON header of tensors with their byte
ranges, and the data, which the ranges cover without gaps.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lemnos.errors import LemnosError
from lemnos.models.config import shown

HEADER_LIMIT = 100_000_000
"""As the reference implementation has it."""
INDEX = "model.safetensors.index.json"
AGAIN = "download it again"

Header = dict[str, dict[str, Any]]
"""Tensor name -> {dtype, shape, data_offsets}."""


def read_header(path: Path) -> Header:
    """The header of a whole file; raises LemnosError if it is not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            count = header_size(handle.read(8), size, str(path))
            return parse_header(handle.read(count), size, str(path))
    except OSError as error:
        raise _bad(path, f"cannot be read ({error.strerror})") from None


def header_size(first: bytes, size: int, where: str, fix: str = AGAIN) -> int:
    """Bytes of the header, from a file's ``first`` 8 bytes and its ``size``.

    Raises LemnosError for sizes that no header has, or that the file cannot hold.
    """
    count = struct.unpack("<Q", first[:8])[0] if len(first) >= 8 else 0
    if min(len(first), size) < 8:
        raise _bad(where, "is cut off: not even the length of its header is there", fix)
    if not 2 <= count <= HEADER_LIMIT:
        what = f"is no safetensors file: its header would have {count} bytes"
        raise _bad(where, what, fix)
    if count > size - 8:
        what = (
            f"is cut off within its header: it has {size} bytes of {count + 8} or more"
        )
        raise _bad(where, what, fix)
    return int(count)


def parse_header(text: bytes, size: int, where: str, fix: str = AGAIN) -> Header:
    """A header's ``text``, held against the file's ``size``.

    Raises LemnosError for what is no JSON object of tensors, and for byte ranges that overlap,
    leave gaps, or do not end where the file does.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad(where, "has a header that is not valid JSON", fix) from None
    if not isinstance(header, dict):
        raise _bad(where, "has a header that is not a JSON object", fix)
    header.pop("__metadata__", None)
    end = 0
    for begin, stop in sorted(
        _range(where, name, entry, fix) for name, entry in header.items()
    ):
        if begin != end:
            raise _bad(where, f"has a gap or an overlap in its data at byte {end}", fix)
        end = stop
    needed = 8 + len(text) + end
    if needed > size:
        raise _bad(where, f"is cut off: it needs {needed} bytes, and has {size}", fix)
    if needed < size:
        what = f"has {size - needed} bytes after the data that its header names"
        raise _bad(where, what, fix)
    return header


def check_whole(directory: Path) -> int:
    """Check every safetensors file, and the index if there is one; the tensors' number."""
    return sum(len(header) for header in read_headers(directory).values())


def read_headers(directory: Path) -> dict[str, Header]:
    """File name -> header, of the files that the index names, or of all there are.

    Index and headers must name the same tensors in the same files.
    """
    index = directory / INDEX
    if not index.exists():
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise _bad(directory, "has no safetensors files")
        return {path.name: read_header(path) for path in files}
    wanted = read_index(index)
    headers = {}
    for name in sorted(set(wanted.values())):
        path = directory / name
        if not path.is_file():
            raise _bad(directory, f"lacks {name}, which its index names")
        headers[name] = read_header(path)
    check_index(wanted, headers, str(index))
    return headers


def read_index(index: Path) -> dict[str, str]:
    """The ``weight_map`` of the index at that path."""
    try:
        text = index.read_bytes()
    except OSError as error:
        raise _bad(index, f"cannot be read ({error.strerror})") from None
    return parse_index(text, str(index))


def parse_index(text: bytes, where: str, fix: str = AGAIN) -> dict[str, str]:
    """An index's ``weight_map``: tensor -> file."""
    try:
        weight_map = json.loads(text)["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _bad(where, "is not a valid index", fix) from None
    plain = isinstance(weight_map, dict) and all(
        isinstance(name, str) and _is_plain(name) for name in weight_map.values()
    )
    if not plain or not weight_map:
        raise _bad(where, "is not a valid index: weight_map names no plain files", fix)
    return dict(weight_map)


def _is_plain(name: str) -> bool:
    """Whether ``name`` can be that of a file in the same directory, and be shown."""
    return 0 < len(name) <= 200 and name.isprintable() and Path(name).name == name


def check_index(
    wanted: Mapping[str, str],
    headers: Mapping[str, Header],
    where: str,
    fix: str = AGAIN,
) -> None:
    """Raise LemnosError unless index and headers have the same tensors in the same files."""
    found = {tensor: name for name, header in headers.items() for tensor in header}
    if found == wanted:
        return
    tensor, file = sorted(found.items() ^ wanted.items())[0]
    only = "index" if wanted.get(tensor) == file else "header of the file"
    raise _bad(
        where,
        f"and the headers do not agree: tensor '{shown(tensor, 100)}' in {shown(file)} "
        f"is in the {only} only",
        fix,
    )


def _range(where: str, name: str, entry: Any, fix: str) -> tuple[int, int]:
    try:
        begin, end = entry["data_offsets"]
        if type(begin) is type(end) is int and 0 <= begin <= end < 2**63:
            return begin, end
    except (TypeError, ValueError, KeyError):
        pass
    raise _bad(where, f"has a tensor '{shown(name, 80)}' without a valid range", fix)


def _bad(where: str | Path, what: str, fix: str = AGAIN) -> LemnosError:
    return LemnosError(what, where=str(where), fix=fix)
