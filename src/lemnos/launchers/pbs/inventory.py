"""The nodes of a PBS as a cluster, and whether a unit fits among them now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.catalogue import kind_named
from lemnos.launchers.pbs.parse import PbsJob, PbsNode, amount
from lemnos.spec.cluster import Cluster, Node, NodeGpu
from lemnos.spec.unit import Room

GIB = 1024**3
_GENERAL = {"arch", "host", "vnode", "mem", "vmem", "ncpus"}


def cluster_of(nodes: Iterable[PbsNode], gpu_resource: str) -> Cluster:
    """The hosts that are up; vnodes of one host are together. Raises LemnosError where none is."""
    hosts: dict[str, list[PbsNode]] = {}
    for node in nodes:
        if node.up:
            hosts.setdefault(node.host, []).append(node)
    if not hosts:
        raise LemnosError("no node of this PBS is up", fix="`pbsnodes -a` says why")
    return Cluster(
        name="pbs",
        nodes=tuple(_node(host, own, gpu_resource) for host, own in hosts.items()),
    )


def room_of(
    chunks: int,
    chunk: dict[str, float],
    words: dict[str, str],
    nodes: Sequence[PbsNode],
    running: Iterable[PbsJob],
    *,
    at: float,
) -> Room:
    """Whether ``chunks`` nodes have ``chunk`` free now; if not, when running jobs' limits will have made
    room, as if nobody waited before us.

    ``chunk``: numbers, and bytes of memory; ``words``: resources with names (``gpu_model: h200``).
    Raises UsageError where it never can be.
    """
    up = [node for node in nodes if node.up and _named(node, words)]
    _refuse_impossible(chunks, chunk, words, up)
    free = {node.name: _free(node, chunk) for node in up}
    if (fits := _fitting(free, chunk)) >= chunks:
        return Room(free=True)
    short = [key for key in chunk if _fitting(free, {key: chunk[key]}) < chunks]
    why = (
        f"{fits} of the {chunks} nodes that it needs have room now "
        f"(too few have enough {', '.join(short) or 'of everything together'} free)"
    )
    ends = [
        (job.started_at + job.walltime_s, job)
        for job in running
        if job.started_at and job.walltime_s
    ]
    for end, job in sorted(ends, key=lambda pair: pair[0]):
        for name, held in job.held.items():
            for key in chunk if name in free else ():
                free[name][key] += held.get(key, 0.0)
        if _fitting(free, chunk) >= chunks:
            return Room(free=False, starts_at=max(end, at), why=why)
    return Room(free=False, why=why)


def _node(host: str, vnodes: Sequence[PbsNode], gpu_resource: str) -> Node:
    has = [node.has for node in vnodes]
    kind = next(filter(None, map(_kind, has)), None)
    memory = sum(amount(h.get("mem", "")) or 0.0 for h in has)
    return Node(
        name=host,
        gpus=tuple(
            NodeGpu(kind=kind, index=index)
            for index in range(int(_sum(has, gpu_resource)))
        ),
        cores=int(_sum(has, "ncpus")) or None,
        memory_gib=memory / GIB or None,
    )


def _kind(has: dict[str, str]) -> str | None:
    """Sites name the GPU in resources of their own (``gpu_model=h200``): any that the catalogue knows."""
    for key, value in has.items():
        for word in value.split(",") if key not in _GENERAL else ():
            if kind := kind_named(word):
                return kind.name
    return None


def _sum(has: Iterable[dict[str, str]], key: str) -> float:
    return sum(amount(h.get(key, "")) or 0.0 for h in has)


def _named(node: PbsNode, words: dict[str, str]) -> bool:
    return all(
        value.lower() in node.has.get(key, "").lower().split(",")
        for key, value in words.items()
    )


def _free(node: PbsNode, chunk: dict[str, float]) -> dict[str, float]:
    taken = {"job-exclusive", "resv-exclusive", "busy", "maintenance"} & set(
        node.states
    )
    return {
        key: 0.0
        if taken
        else (amount(node.has.get(key, "")) or 0.0)
        - (amount(node.used.get(key, "")) or 0.0)
        for key in chunk
    }


def _fitting(free: dict[str, dict[str, float]], chunk: dict[str, float]) -> int:
    return sum(
        all(own[key] >= number for key, number in chunk.items())
        for own in free.values()
    )


def _refuse_impossible(
    chunks: int, chunk: dict[str, float], words: dict[str, str], up: Sequence[PbsNode]
) -> None:
    asked = ", ".join(f"{key}={value}" for key, value in words.items())
    if words and not up:
        raise UsageError(
            f"no node that is up has {asked}",
            where="pbs.select",
            fix="`pbsnodes -a` shows what they have",
        )
    for key, number in chunk.items():
        most = max((amount(node.has.get(key, "")) or 0.0 for node in up), default=0.0)
        if most < number:
            raise UsageError(
                f"no node has {_shown(key, number)}: the largest has {_shown(key, most)}",
                where="pbs",
                fix="ask for less of a node (pbs.gpus_per_node, pbs.cpus, pbs.memory), and for "
                "more nodes (pbs.nodes)",
            )
    whole = {
        node.name: {key: amount(node.has.get(key, "")) or 0.0 for key in chunk}
        for node in up
    }
    if (possible := _fitting(whole, chunk)) < chunks:
        raise UsageError(
            f"{chunks} nodes are needed, and {possible} are large enough and up",
            where="pbs.nodes",
            fix="plan for fewer nodes, or wait until more are up (`pbsnodes -a`)",
        )


def _shown(key: str, number: float) -> str:
    return f"{number / GIB:.0f} GiB of memory" if key == "mem" else f"{number:g} {key}"
