"""Clusters as sites."""

from __future__ import annotations

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.catalogue import cluster_named, gpu_kinds
from lemnos.planning.sites import sites_of
from lemnos.spec.cluster import Cluster, Disk, Network, Nic, Node, NodeGpu


def test_nodes_that_are_alike_are_one_site() -> None:
    found = sites_of(cluster_named("16xH100+8xH200"))
    assert [(s.gpu.name, s.nodes, s.per_node) for s in found] == [
        ("H100", 2, 8),
        ("H200", 1, 8),
    ]


def test_words_for_clusters() -> None:
    assert sites_of(cluster_named("4xGH200"))[0].per_node == 1
    rack = sites_of(cluster_named("16xGB200"))[0]
    assert (rack.nodes, rack.per_node, rack.nvlink, rack.domain) == (4, 4, True, 16)
    assert sites_of(cluster_named("h200"))[0].gpus == 1
    two = sites_of(cluster_named("2x4xH100"))[0]
    assert (two.nodes, two.domain) == (2, 4)


@pytest.mark.parametrize("text", ["", "4x", "x4", "0xH100", "4xH100x", "-1xH100"])
def test_words_that_are_no_cluster(text: str) -> None:
    with pytest.raises(UsageError):
        cluster_named(text)


def test_the_fullest_gpu_decides() -> None:
    gpus = (
        NodeGpu(kind="H200", free_gib=130.0),
        NodeGpu(kind="H200", free_gib=60.0),
    )
    (site,) = sites_of(Cluster(nodes=(Node(name="a", gpus=gpus),)))
    assert site.free_gib == 60.0


def test_what_was_measured_is_used() -> None:
    node = Node(
        name="a",
        gpus=(NodeGpu(kind="H100"),),
        nics=(Nic(name="mlx5_0", kind="infiniband", gbit_s=400.0, up=True),),
        disks=(Disk(path="/m", filesystem="ext4", shared=False, read_gb_s=6.5),),
    )
    (site,) = sites_of(Cluster(nodes=(node,), network=Network(latency_ms=0.01)))
    assert (site.gbit_s, site.disk_gb_s, site.latency_ms) == (400.0, 6.5, 0.01)


def test_driver_names_are_known() -> None:
    node = Node(name="a", gpus=(NodeGpu(name="NVIDIA H100 80GB HBM3"),))
    assert sites_of(Cluster(nodes=(node,)))[0].gpu.name == "H100"


def test_unknown_gpus_and_none_at_all() -> None:
    with pytest.raises(UsageError, match="not in the catalogue"):
        sites_of(Cluster(nodes=(Node(name="a", gpus=(NodeGpu(kind="H1000"),)),)))
    with pytest.raises(LemnosError, match="no node has a GPU"):
        sites_of(Cluster(nodes=(Node(name="a"),)))


def test_the_catalogue_holds_together() -> None:
    names = [name for kind in gpu_kinds() for name in (kind.name, *kind.aliases)]
    assert len({name.lower() for name in names}) == len(names)
    wanted = "A100-40 A100-80 H100 H100-PCIE H200 GH200-96 GH200-144 B200 GB200 L40S"
    wanted += " RTX-6000-ADA RTX-PRO-6000 MI300X"
    assert set(wanted.split()) <= {kind.name for kind in gpu_kinds()}
    for kind in gpu_kinds():
        assert kind.source and "bf16" in kind.tflops
