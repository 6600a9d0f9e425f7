"""The nodes that Slurm tells of, as a cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lemnos.errors import LemnosError
from lemnos.hardware.catalogue import kind_named
from lemnos.launchers.slurm.parse import SlurmNode, gpus_of
from lemnos.spec.cluster import Cluster, Node, NodeGpu

MIB = 1 / 1024


def cluster_of(
    nodes: Iterable[SlurmNode],
    partition: str | None = None,
    gpu_type: str | None = None,
) -> Cluster:
    """The nodes that jobs may run on, those that are alike as one with a count.

    ``partition`` (or several, with commas) and ``gpu_type``, as the spec has them, leave out others.
    Raises LemnosError where none is left.
    """
    wanted = set(partition.split(",")) if partition else set()
    groups: dict[object, list[SlurmNode]] = {}
    for node in nodes:
        if not node.usable or (wanted and not wanted & set(node.partitions)):
            continue
        if gpu_type and gpu_type not in [kind for kind, _ in gpus_of(node.gres)]:
            continue
        key = (node.gres.partition("(")[0], node.cpus, node.memory_mb, node.features)
        groups.setdefault(key, []).append(node)
    if not groups:
        of = f" of partition {partition}" if partition else ""
        raise LemnosError(
            f"no node{of} takes jobs now",
            where="slurm",
            fix="'sinfo -R' shows why they are down; or change slurm.partition or slurm.gpu_type",
        )
    return Cluster(name="slurm", nodes=tuple(_node(group) for group in groups.values()))


def _node(alike: list[SlurmNode]) -> Node:
    one = alike[0]
    unknown = [
        f"Slurm does not say which GPUs the {count} of {one.name} are"
        for kind, count in gpus_of(one.gres)
        if kind is None
    ]
    return Node(
        name=one.name,
        count=len(alike),
        gpus=_gpus(one),
        cores=one.cpus or None,
        memory_gib=round(one.memory_mb * MIB, 3) or None,
        unknown=tuple(unknown),
    )


def _gpus(node: SlurmNode) -> tuple[NodeGpu, ...]:
    found: list[NodeGpu] = []
    for word, count in gpus_of(node.gres):
        kind = _kind(word, node.features)
        for _ in range(count):
            found.append(NodeGpu(kind=kind, name=word, index=len(found)))
    return tuple(found)


def _kind(word: str | None, features: tuple[str, ...]) -> str | None:
    """By the gres' type (``h100``, ``nvidia_h100_80gb_hbm3``), or a feature of the node."""
    for name in (word, *features):
        if name and (kind := kind_named(name.replace("_", " "))):
            return kind.name
    return None
