"""What ``lemnos probe`` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemnos.cli import probe
from lemnos.hardware.network import network_of
from lemnos.hardware.read import Readings, node
from lemnos.spec.cluster import Cluster, Node, NodeLink

READINGS = Path(__file__).parents[2] / "data/readings/2xh200-nvml.json"


def test_gpus_holders_links_and_what_is_not_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = node(Readings.model_validate(json.loads(READINGS.read_text())))
    lost = Node(name="n2", unknown=("nothing could be read: no such host",))
    links = [
        NodeLink(a="h200-node", b="n3", latency_ms=0.052, gbit_s=41.09, closed_ports=(6379,)),
        NodeLink(a="h200-node", b="n4", unknown="a node has no IPv4 address"),
    ]  # fmt: skip
    network = network_of([real, lost], links)
    probe._show(Cluster(nodes=(real, lost), network=network))
    printed = capsys.readouterr().out
    for part in (
        "NV18",
        "580.159.04",
        "root: python3 (pid 550) 20.5 GiB",
        "119",
        "0.052",
        "41.1",
        "6379",
        "a node has no IPv4 address",
        "network: Not enough",
        "not known, n2: nothing could be read: no such host",
    ):
        assert part in printed
