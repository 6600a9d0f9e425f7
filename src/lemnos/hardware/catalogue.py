"""GPUs by name (``gpus.yaml``), and clusters written in a word: ``4xH200``."""

from __future__ import annotations

import functools
import re
from importlib import resources

from lemnos.errors import UsageError, near
from lemnos.spec.base import Value
from lemnos.spec.cluster import Cluster, GpuKind, Network, Node, NodeGpu
from lemnos.spec.document import parse

_GROUP = re.compile(
    r"(?:(?P<nodes>\d+)x)?(?:(?P<gpus>\d+)x)?(?P<kind>[A-Za-z][\w .-]*)"
)


class GpuCatalogue(Value):
    """The whole of ``gpus.yaml``."""

    gpus: tuple[GpuKind, ...]


@functools.cache
def gpu_kinds() -> tuple[GpuKind, ...]:
    """Every GPU of the catalogue."""
    text = resources.files("lemnos.hardware").joinpath("gpus.yaml").read_text()
    return parse(text, GpuCatalogue, where="gpus.yaml").gpus


def kind_named(name: str) -> GpuKind | None:
    """The kind of a name or alias, whatever the case and separators; None if there is none."""
    return _by_name().get(_plain(name))


def kind_of(name: str, memory_gib: float | None) -> GpuKind | None:
    """The kind of a GPU by its driver's name and its memory: "NVIDIA GH200 480GB" is said of
    two sizes. None where the catalogue has no such GPU."""
    named = kind_named(name)
    if named is None or memory_gib is None or _about(named, memory_gib):
        return named
    others = [kind for kind in gpu_kinds() if _family(kind) == _family(named)]
    return next((kind for kind in others if _about(kind, memory_gib)), named)


def gpu_kind(name: str) -> GpuKind:
    """As ``kind_named``; raises UsageError with the nearest name where there is none."""
    if found := kind_named(name):
        return found
    names = [kind.name for kind in gpu_kinds()]
    raise UsageError(
        f"the GPU '{name}' is not in the catalogue",
        fix=near(name, names)
        or f"it has {', '.join(names)}; add others to hardware/gpus.yaml",
    )


def cluster_named(text: str) -> Cluster:
    """``4xH200``, ``2x8xH100`` (nodes x GPUs), ``H200``, ``8xH100+2xL40S``.

    ``NxKIND`` fills nodes of the kind's usual size: 16xH100 is two nodes of 8, 4xGH200 four
    nodes of one. Raises UsageError that says how to write it.
    """
    nodes: list[Node] = []
    for part in text.split("+"):
        nodes += _group(part.strip(), len(nodes), text)
    fast = all(_spans_nodes(node) for node in nodes)
    network = Network(kind="nvlink") if fast and len(nodes) >= 1 else Network()
    return Cluster(name=text, nodes=tuple(nodes), network=network)


def _group(part: str, already: int, whole: str) -> list[Node]:
    found = _GROUP.fullmatch(part)
    if not found:
        raise UsageError(
            f"'{whole}' is no cluster",
            fix="write 4xH200, 2x8xH100 (nodes x GPUs), or give a cluster.yaml",
        )
    kind = gpu_kind(found["kind"])
    first, second = (int(found[key] or 0) for key in ("nodes", "gpus"))
    if "0" in (found["nodes"], found["gpus"]) or max(first, second) > 100_000:
        raise UsageError(f"'{part}' has no usable number of GPUs", fix="write 4xH200")
    if second:
        sizes = [(first, second)]
    else:
        count = first or 1
        full, rest = divmod(count, kind.per_node)
        sizes = [(full, kind.per_node)] if full else []
        sizes += [(1, rest)] if rest else []
    return [
        Node(
            name=f"{kind.name.lower()}-{already + number}",
            count=nodes,
            gpus=tuple(NodeGpu(kind=kind.name, index=i) for i in range(gpus)),
            architecture=kind.host,
        )
        for number, (nodes, gpus) in enumerate(sizes)
    ]


def _spans_nodes(node: Node) -> bool:
    """Its GPUs' NVLink domain is larger than the node."""
    kind = kind_named(node.gpus[0].kind or "") if node.gpus else None
    return bool(kind and kind.nvlink_gb_s and kind.link_domain > kind.per_node)


def _about(kind: GpuKind, memory_gib: float) -> bool:
    return abs(memory_gib - kind.memory_gib) < 0.05 * kind.memory_gib


def _family(kind: GpuKind) -> str:
    """``GH200`` of ``GH200-96``."""
    return re.sub(r"-\d+$", "", kind.name)


@functools.cache
def _by_name() -> dict[str, GpuKind]:
    names = {}
    for kind in gpu_kinds():
        for name in (kind.name, *kind.aliases):
            names[_plain(name)] = kind
    return names


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
