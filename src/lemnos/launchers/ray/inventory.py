"""Ray's nodes as a cluster, and whether a unit fits among them now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.catalogue import kind_named
from lemnos.launchers.ray.parse import RayNode
from lemnos.spec.cluster import Cluster, Node, NodeGpu
from lemnos.spec.unit import Room

GIB = 1024**3
ACCELERATOR = "accelerator_type:"
LABEL = "ray.io/accelerator-type"


def cluster_of(nodes: Iterable[RayNode]) -> Cluster:
    """The nodes that are alive. Raises LemnosError where none is."""
    alive = [node for node in nodes if node.alive]
    if not alive:
        raise LemnosError("no node of this Ray cluster is alive", where="on: ray")
    return Cluster(name="ray", nodes=tuple(_node(node) for node in alive))


def room_of(bundle: Mapping[str, float], hosts: int, nodes: Sequence[RayNode]) -> Room:
    """Whether ``hosts`` nodes have ``bundle`` free now. Raises UsageError where too few have it at all."""
    alive = [node for node in nodes if node.alive]
    able = [node for node in alive if _holds(node.has, bundle)]
    if len(able) < hosts:
        raise _impossible(bundle, hosts, alive)
    free = sum(_holds(node.free, bundle) for node in able)
    if free >= hosts:
        return Room(free=True)
    return Room(
        free=False,
        why=f"{free} of the {hosts} nodes that it needs have {words(bundle)} free now",
    )


def words(bundle: Mapping[str, float]) -> str:
    """``8 GPU, 4 CPU``."""
    return ", ".join(f"{value:g} {name}" for name, value in bundle.items())


def _node(node: RayNode) -> Node:
    kind = _kind(node)
    memory = node.has.get("memory", 0.0)
    return Node(
        name=node.address,
        gpus=tuple(
            NodeGpu(kind=kind, index=index)
            for index in range(int(node.has.get("GPU", 0)))
        ),
        cores=int(node.has.get("CPU", 0)) or None,
        memory_gib=memory / GIB or None,
    )


def _kind(node: RayNode) -> str | None:
    """Ray names the GPU in a resource (``accelerator_type:H100``), and newer ones in a label, too."""
    named = [node.labels.get(LABEL, "")]
    named += [k.removeprefix(ACCELERATOR) for k in node.has if k.startswith(ACCELERATOR)]  # fmt: skip
    kinds = [kind_named(word) for word in named if word]
    return next((kind.name for kind in kinds if kind), None)


def _holds(has: Mapping[str, float], bundle: Mapping[str, float]) -> bool:
    return all(has.get(key, 0.0) >= number for key, number in bundle.items())


def _impossible(
    bundle: Mapping[str, float], hosts: int, alive: Sequence[RayNode]
) -> UsageError:
    for key, number in bundle.items():
        have = sum(node.has.get(key, 0.0) >= number for node in alive)
        if have < hosts:
            most = max((node.has.get(key, 0.0) for node in alive), default=0.0)
            count = "a node" if hosts == 1 else f"{hosts} nodes"
            return UsageError(
                f"{count} with {number:g} {key} {'is' if hosts == 1 else 'are'} needed, and {have} of "
                f"this Ray cluster's {len(alive)} have that (the largest has {most:g})",
                where="on: ray",
                fix="plan for the cluster that is there (lemnos plan --on ray), or add nodes to it",
            )
    return UsageError(
        f"too few of this Ray cluster's nodes have {words(bundle)} together",
        where="on: ray",
        fix="ask for less of a node: ray.cpus, ray.resources",
    )
