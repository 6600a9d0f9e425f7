"""How GPUs reach each other, in nvidia-smi's own matrices."""

from __future__ import annotations

import re

# From the strongest: PCIe bridges between two GPUs, then sockets.
_PCIE = ("PIX", "PXB", "PHB", "NODE", "SYS")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GPU = re.compile(r"GPU(\d+)")


def parse_matrix(text: str) -> dict[tuple[int, int], str]:
    """(GPU, GPU) -> what ``nvidia-smi topo -m`` or ``topo -p2p r`` has between the two.

    Other columns (NICs, affinities) are left out; empty where the text is no matrix.
    """
    found = {}
    columns: list[int | None] = []
    for line in _COLOUR.sub("", text).splitlines():
        words = line.split()
        row = _GPU.fullmatch(words[0]) if words else None
        if row is None:
            continue
        if not columns:
            # The affinities' heads have two words: only what stands before them counts.
            numbers = [_GPU.fullmatch(word) for word in words]
            columns = [int(number[1]) if number else None for number in numbers]
            continue
        for column, cell in zip(columns, words[1:], strict=False):
            if column is not None and cell != "X":
                found[int(row[1]), column] = cell
    return found


def weakest_link(matrix: dict[tuple[int, int], str]) -> str | None:
    """The weakest of the links of ``topo -m``: ``NV18``, ``PIX``, ``SYS``; None: not known."""
    links = [link for link in matrix.values() if _rank(link) is not None]
    if not links or len(links) < len(matrix):
        return None
    return max(links, key=lambda link: _rank(link) or (0, 0))


def all_peers(matrix: dict[tuple[int, int], str]) -> bool | None:
    """Every GPU can read every other's memory, by ``topo -p2p r``; None: not known."""
    if not matrix or "U" in matrix.values():
        return None
    return all(cell == "OK" for cell in matrix.values())


def _rank(link: str) -> tuple[int, int] | None:
    """The larger, the weaker."""
    if re.fullmatch(r"NV\d+", link):
        return (0, -int(link[2:]))
    return (1, _PCIE.index(link)) if link in _PCIE else None
