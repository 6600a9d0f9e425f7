"""nvidia-smi's matrices. The 2xH200 is as a machine printed it (its head is underlined), the
others have the rows of machines that people showed, columns of NICs and affinities as there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemnos.hardware.topology import all_peers, parse_matrix, weakest_link

READINGS = Path(__file__).parents[2] / "data/readings/2xh200-nvml.json"
LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0
"""


def h100s() -> str:
    """8 H100 behind NVSwitches, each with a NIC on its bridge."""
    gpus, nics = range(8), range(8)
    head = [*(f"GPU{i}" for i in gpus), *(f"NIC{i}" for i in nics)]
    lines = ["\t".join(["", *head, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"])]
    for row in gpus:
        links = [" X " if row == column else "NV18" for column in gpus]
        ports = ["PIX" if row == column else "NODE" for column in nics]
        lines.append("\t".join([f"GPU{row}", *links, *ports, "0-55", "0", "", "N/A"]))
    for row in nics:
        cells = ["PIX" if row == column else "NODE" for column in gpus]
        lines.append("\t".join([f"NIC{row}", *cells, *(["PIX"] * 8)]))
    return "\n".join(lines) + LEGEND


GB200 = """\
\tGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tNV18\tNV18\tNV18\t0-71\t0,3-9,11-17\t\t2
GPU1\tNV18\t X \tNV18\tNV18\t0-71\t0,3-9,11-17\t\t10
GPU2\tNV18\tNV18\t X \tNV18\t72-143\t1,19-25,27-33\t\t18
GPU3\tNV18\tNV18\tNV18\t X \t72-143\t1,19-25,27-33\t\t26
"""
A100_PCIE = """\
\tGPU0\tGPU1\tmlx5_0\tCPU Affinity\tNUMA Affinity
GPU0\t X \tSYS\tPHB\t0-31\t0
GPU1\tSYS\t X \tSYS\t32-63\t1
mlx5_0\tPHB\tSYS\t X \t\t
"""
PAIRS_OF_NVLINK = """\
        GPU0    GPU1    GPU2    GPU3    CPU Affinity
GPU0     X      NV12    PXB     PXB     0-9
GPU1    NV12     X      PXB     PXB     0-9
GPU2    PXB     PXB      X      NV12    0-9
GPU3    PXB     PXB     NV12     X      0-9
"""
REFUSED = """\
 \tGPU0\tGPU1\t
 GPU0\tX\tGNS\t
 GPU1\tGNS\tX\t

Legend:
"""


@pytest.mark.parametrize(
    ("text", "pairs", "weakest"),
    [
        (h100s(), 56, "NV18"),
        (GB200 + LEGEND, 12, "NV18"),
        (A100_PCIE + LEGEND, 2, "SYS"),
        (PAIRS_OF_NVLINK, 12, "PXB"),
        (json.loads(READINGS.read_text())["texts"]["topology"], 2, "NV18"),
        ("\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n", 0, None),
        ("\tGPU0\tGPU1\nGPU0\t X \tNEW\nGPU1\tNEW\t X \n", 2, None),
        ("Failed to initialize NVML: Driver/library version mismatch\n", 0, None),
        ("", 0, None),
    ],
)
def test_links(text: str, pairs: int, weakest: str | None) -> None:
    matrix = parse_matrix(text)
    assert len(matrix) == pairs
    assert weakest_link(matrix) == weakest


def test_fewer_nvlinks_are_weaker_than_more_and_stronger_than_pcie() -> None:
    order = ["NV18", "NV4", "PIX", "PXB", "PHB", "NODE", "SYS"]
    for strong, weak in zip(order, order[1:], strict=False):
        assert weakest_link({(0, 1): weak, (0, 2): strong}) == weak


@pytest.mark.parametrize(
    ("text", "access"),
    [
        (json.loads(READINGS.read_text())["texts"]["peers"], True),
        (REFUSED, False),
        (REFUSED.replace("GNS", "U"), None),
        ("", None),
    ],
)
def test_peer_access(text: str, access: bool | None) -> None:
    assert all_peers(parse_matrix(text)) is access
