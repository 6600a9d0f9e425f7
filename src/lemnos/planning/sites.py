"""A cluster as the planner looks at it: nodes that are alike, and how they are joined. Pure."""

from __future__ import annotations

from dataclasses import replace

from lemnos.errors import LemnosError, UsageError, near
from lemnos.hardware.catalogue import gpu_kinds, kind_named
from lemnos.planning.layouts import Site
from lemnos.spec.cluster import Cluster, GpuKind, Node, NodeGpu


def sites_of(cluster: Cluster) -> tuple[Site, ...]:
    """Sites, the one with most memory first; nodes with nothing to plan on are left out.

    A node's GPUs count with what is free on the fullest of them. Raises LemnosError where no
    node has a GPU, and UsageError for GPUs that the catalogue lacks.
    """
    found: dict[tuple[object, ...], Site] = {}
    for node in cluster.nodes:
        for site in _of_node(node, cluster):
            key = (
                site.gpu.name,
                *(site.per_node, site.free_gib, site.memory_gib),
                *(site.gbit_s, site.price_per_hour, site.disk_gb_s),
            )
            nodes = node.count + (found[key].nodes if key in found else 0)
            found[key] = replace(site, nodes=nodes)
    if not found:
        raise LemnosError(
            "no node has a GPU to plan on",
            where=cluster.name,
            fix="give a cluster.yaml with GPUs, or for example --cluster 4xH200",
        )
    return tuple(sorted(found.values(), key=lambda site: -site.gpus * site.memory_gib))


def _of_node(node: Node, cluster: Cluster) -> list[Site]:
    """A site for each kind of GPU in the node, as if it was one node."""
    kinds: dict[str, list[NodeGpu]] = {}
    for gpu in node.gpus:
        kinds.setdefault(_kind(gpu, node).name, []).append(gpu)
    sites = []
    for name, gpus in kinds.items():
        kind = kind_named(name)
        assert kind is not None
        total = min(gpu.memory_gib or kind.memory_gib for gpu in gpus)
        total = min(total, kind.memory_gib) if total > kind.memory_gib else total
        free = min(
            total if gpu.free_gib is None else min(gpu.free_gib, total) for gpu in gpus
        )
        disk = max((disk.read_gb_s or 0.0 for disk in node.disks), default=0.0)
        network = cluster.network
        sites.append(
            Site(
                gpu=kind,
                nodes=1,
                per_node=len(gpus),
                free_gib=round(free, 1),
                memory_gib=total,
                gbit_s=network.gbit_s or _nic_gbit_s(node),
                latency_ms=network.latency_ms,
                nvlink=network.kind == "nvlink",
                price_per_hour=node.price_per_hour,
                host_free_gib=node.free_gib,
                disk_gb_s=disk or None,
            )
        )
    return sites


def _nic_gbit_s(node: Node) -> float | None:
    """The node's InfiniBand or RoCE devices together; None where it has, or says, none."""
    fast = [
        nic.gbit_s or 0.0
        for nic in node.nics
        if nic.kind in ("infiniband", "roce") and nic.up is not False
    ]
    return sum(fast) or None


def _kind(gpu: NodeGpu, node: Node) -> GpuKind:
    wanted = gpu.kind or gpu.name or "unnamed"
    if found := kind_named(wanted):
        return found
    names = [kind.name for kind in gpu_kinds()]
    raise UsageError(
        f"the GPU '{wanted}' is not in the catalogue",
        where=f"node {node.name}",
        fix=near(wanted, names)
        or f"it has {', '.join(names)}; give the nearest as 'kind:' with its memory_gib",
    )
