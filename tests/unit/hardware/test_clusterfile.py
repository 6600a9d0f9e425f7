"""cluster.yaml: what is written is read again, and people can read it too."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemnos.errors import UsageError
from lemnos.hardware.catalogue import cluster_named
from lemnos.hardware.clusterfile import cluster_yaml, write_cluster
from lemnos.spec.cluster import (
    Cluster,
    Disk,
    Holder,
    Network,
    Nic,
    Node,
    NodeGpu,
    NodeLink,
)
from lemnos.spec.document import load, parse

GPU = NodeGpu(kind="H200", index=0, uuid="GPU-269b", memory_gib=139.8, free_gib=119.29)
HELD = (Holder(pid=550, user="root", command="python3", gib=20.51),)
WHOLE = Cluster(
    name="ours",
    nodes=(
        Node(
            name="n1",
            gpus=(GPU.model_copy(update={"held": HELD}), GPU),
            cuda="13.0",
            peer_access=True,
            nics=(Nic(name="eth0", kind="ethernet", up=False),),
            disks=(Disk(path="/nfs: x", filesystem="nfs4", shared=True),),
            unknown=("GPU 1: 20.5 GiB are held by processes that cannot be seen: é",),
        ),
        Node(name="no", count=3, unknown=("nothing could be read: no such host",)),
    ),
    network=Network(
        kind="roce", links=(NodeLink(a="n1", b="no", closed_ports=(6379, 8265)),)
    ),
)


def test_it_says_the_same_when_it_is_read_again() -> None:
    for cluster in (WHOLE, cluster_named("2x8xH100+GH200")):
        text = cluster_yaml(cluster)
        assert parse(text, Cluster, where="x") == cluster
        assert "null" not in text and "[]" not in text


def test_short_things_are_on_one_line() -> None:
    text = cluster_yaml(WHOLE)
    assert "      - {kind: H200, index: 0, uuid: GPU-269b, memory_gib: 139.8, free_gib: 119.29}\n" in text  # fmt: skip
    assert "          - {pid: 550, user: root, command: python3, gib: 20.51}\n" in text
    assert "closed_ports: [6379, 8265]" in text
    assert "cuda: '13.0'" in text
    assert text.startswith("# Written by 'lemnos probe'")


def test_only_a_probes_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    write_cluster(path, WHOLE)
    other = WHOLE.model_copy(update={"name": "later"})
    write_cluster(path, other)
    assert load(path, Cluster).name == "later"
    path.write_text("name: by hand\n")
    with pytest.raises(UsageError, match="no probe wrote it"):
        write_cluster(path, WHOLE)
    write_cluster(path, WHOLE, force=True)
    assert load(path, Cluster) == WHOLE
    with pytest.raises(UsageError, match="is no directory"):
        write_cluster(tmp_path / "none" / "cluster.yaml", WHOLE)
    with pytest.raises(UsageError, match="no probe wrote it"):
        write_cluster(tmp_path, WHOLE)
