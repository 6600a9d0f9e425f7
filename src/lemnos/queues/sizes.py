"""How much of a room a plan may take: from one GPU up, and what that is as jobs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lemnos.spec.base import Value
from lemnos.spec.cluster import Cluster, Node, NodeGpu

MOST_NODES = 16
"""Nobody asks for more of them for one model without saying so (``--cluster``)."""


class Size(Value):
    """What a job asks for."""

    hosts: int = 1
    gpus: int = 0
    """On each host."""

    @property
    def total(self) -> int:
        """GPUs of all hosts."""
        return self.hosts * self.gpus

    def __str__(self) -> str:
        return f"{self.total} GPUs" + (f" on {self.hosts} nodes" if self.hosts > 1 else "")  # fmt: skip


class Part(Value):
    """So many alike GPUs of a room."""

    cluster: Cluster
    gpu_type: str = ""
    """The room's own word for them, where it has several kinds; jobs must ask for it."""
    per_node: int
    """GPUs that a whole node has."""


def parts_of(
    room: Cluster, gpus_per_node: int | None = None, nodes: int | None = None
) -> list[Part]:
    """Parts of ``room``, each kind's from one GPU to all nodes, doubling.

    ``gpus_per_node`` and ``nodes``: what the spec pins for each job. Nodes whose GPUs have no
    known kind are left out.
    """
    kinds: dict[tuple[str, int, float | None], list[Node]] = {}
    for node in room.nodes:
        for kind, own in _kinds_of(node).items():
            price = node.price_per_hour and node.price_per_hour * len(own) / len(node.gpus)  # fmt: skip
            narrowed = node.model_copy(update={"gpus": own, "price_per_hour": price})
            kinds.setdefault((kind, len(own), price), []).append(narrowed)
    several = len({kind for kind, _, _ in kinds}) > 1
    found = []
    for (_, per_node, _), own_nodes in kinds.items():
        word = own_nodes[0].gpus[0].name if several else None
        for count, width in _steps(sum(n.count for n in own_nodes), per_node, nodes, gpus_per_node):  # fmt: skip
            taken = _taken(own_nodes, count, width)
            cluster = room.model_copy(update={"nodes": taken})
            found.append(Part(cluster=cluster, gpu_type=word or "", per_node=per_node))
    return sorted(found, key=lambda part: _gpus(part.cluster))


def together(size: Size, replicas: int, per_node: int, nodes: int) -> list[Size]:
    """Jobs each of which could only start if ``replicas`` jobs of ``size`` could: on the fewest nodes,
    and each on nodes of its own."""
    if replicas == 1:
        return []
    each = min(max(1, per_node // size.gpus), replicas) if size.gpus else 1
    packed = Size(hosts=size.hosts * math.ceil(replicas / each), gpus=each * size.gpus)
    spread = Size(hosts=size.hosts * replicas, gpus=size.gpus)
    return [own for own in dict.fromkeys((packed, spread)) if own.hosts <= nodes]


def holds(size: Size, replica: Size) -> int:
    """How many jobs of ``replica`` fit where one of ``size`` does."""
    on_a_host = size.gpus // replica.gpus if replica.gpus else 1
    return size.hosts // replica.hosts * on_a_host


def _kinds_of(node: Node) -> dict[str, tuple[NodeGpu, ...]]:
    found: dict[str, tuple[NodeGpu, ...]] = {}
    for gpu in node.gpus:
        if gpu.kind:
            found[gpu.kind] = (*found.get(gpu.kind, ()), gpu)
    return found


def _steps(
    nodes: int, per_node: int, pinned_nodes: int | None, pinned_gpus: int | None
) -> Iterator[tuple[int, int]]:
    """(nodes, GPUs of each): 1, 2, 4 ... of a node, then 2, 4 ... whole ones, and all."""
    if pinned_gpus is not None and pinned_gpus > per_node:
        return
    whole = pinned_gpus or per_node
    step = pinned_nodes or 1
    if step == 1:
        for width in _doubling(1, whole):
            if pinned_gpus is None or width == pinned_gpus:
                yield 1, width
    for count in _doubling(step, min(nodes, max(MOST_NODES, step))):
        if count > 1 and count % step == 0:
            yield count, whole


def _doubling(first: int, last: int) -> Iterator[int]:
    """1, 2, 4 and 5 of 5."""
    if first > last:
        return
    while first < last:
        yield first
        first *= 2
    yield last


def _taken(nodes: list[Node], count: int, width: int) -> tuple[Node, ...]:
    """The first ``count`` of the nodes, with ``width`` of each one's GPUs, and their share of the rest."""
    found: list[Node] = []
    for node in nodes:
        share = width / len(node.gpus)
        own = {
            "count": min(node.count, count),
            "gpus": node.gpus[:width],
            "free_gib": node.free_gib and node.free_gib * share,
            "price_per_hour": node.price_per_hour and node.price_per_hour * share,
        }
        found.append(node.model_copy(update=own))
        count -= min(node.count, count)
        if not count:
            break
    return tuple(found)


def _gpus(cluster: Cluster) -> int:
    return sum(node.count * len(node.gpus) for node in cluster.nodes)
