"""Slurm's lists of nodes: ``n[1-3,07],login``. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST = 100_000


def expand(text: str) -> tuple[str, ...]:
    """The names of ``n[01-03],x[1-2]-ib``, in order; text that is no such list is its own name."""
    found: list[str] = []
    for part in _parts(text):
        found += _names(part)
        if len(found) > MOST:
            break
    return tuple(found)


def _parts(text: str) -> Iterator[str]:
    """Split at the commas that are not within brackets."""
    depth = start = 0
    for at, character in enumerate(text):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth <= 0:
            yield text[start:at]
            start = at + 1
    if text[start:]:
        yield text[start:]


def _names(part: str) -> list[str]:
    match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]*)\](.*)", part)
    if not match:
        return [part] if part else []
    before, ranges, after = match.groups()
    tails = _names(after) or [""]
    return [f"{before}{n}{tail}" for n in _numbers(ranges) for tail in tails]


def _numbers(ranges: str) -> Iterator[str]:
    for each in ranges.split(","):
        match = re.fullmatch(r"(\d+)-(\d+)", each)
        if not match:
            yield each
            continue
        width, last = len(match[1]), min(int(match[2]), int(match[1]) + MOST)
        for number in range(int(match[1]), last + 1):
            yield f"{number:0{width}d}"
