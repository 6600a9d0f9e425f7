"""GPUs by name, and clusters in a word."""

from __future__ import annotations

import pytest

from lemnos.errors import UsageError
from lemnos.hardware.catalogue import cluster_named, gpu_kind, gpu_kinds, kind_named


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("H200", [(1, 1)]),
        ("4xH200", [(1, 4)]),
        ("16xH100", [(2, 8)]),
        ("20xH100", [(2, 8), (1, 4)]),
        ("2x8xH100", [(2, 8)]),
        ("4xGH200", [(4, 1)]),
        ("8xH100+2xL40S", [(1, 8), (1, 2)]),
    ],
)
def test_clusters_in_a_word(text: str, nodes: list[tuple[int, int]]) -> None:
    found = cluster_named(text)
    assert [(node.count, len(node.gpus)) for node in found.nodes] == nodes
    assert len({node.name for node in found.nodes}) == len(nodes)


def test_a_rack_has_one_nvlink_domain() -> None:
    assert cluster_named("8xGB200").network.kind == "nvlink"
    assert cluster_named("8xH100").network.kind is None


@pytest.mark.parametrize("text", ["", "4x", "0xH200", "4xH2OO", "x", "2x0xH100"])
def test_words_that_are_no_cluster(text: str) -> None:
    with pytest.raises(UsageError):
        cluster_named(text)


def test_names_that_are_near_are_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        gpu_kind("H20O")
    assert "Did you mean" in caught.value.fix
    assert kind_named("nvidia h200") is kind_named("H200")


def test_every_kind_has_a_source_and_sensible_figures() -> None:
    names = [kind.name for kind in gpu_kinds()]
    assert len(names) == len(set(names))
    for kind in gpu_kinds():
        assert kind.source and kind.tflops.get("bf16"), kind.name
