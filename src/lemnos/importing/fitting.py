"""A plan for each model on the GPUs that it was given: as written, or the nearest that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from lemnos.errors import UsageError
from lemnos.hardware.catalogue import cluster_named
from lemnos.importing.config import Written
from lemnos.importing.notes import Kind, Note, note
from lemnos.importing.telling import Outcome, reason_of, told_of
from lemnos.importing.wishes import Wish
from lemnos.models.describe import Described, describe
from lemnos.proposals import propose
from lemnos.spec.cluster import Cluster, Node
from lemnos.spec.proposal import Proposal, Proposals

COUNTS = (1, 2, 4, 8)
"""GPUs of a node that are tried where the configuration does not say how many."""
PLAIN = ("bf16", "bfloat16", "fp16", "float16", "none", "auto")
"""What people write for a checkpoint that is not quantized."""
STREAMS_SINCE = "0.15.0"
"""vLLM before this one holds the BF16 weights while it quantizes (vllm-project/vllm#31914)."""


@dataclass(frozen=True)
class Fitted:
    """What a model gets."""

    plan: Proposal
    notes: tuple[Note, ...]


def fitted(
    written: Written, wish: Wish, cluster: Cluster | str, version: str
) -> Fitted:
    """The plan nearest to what is written. ``cluster``: the nodes there are, or a kind of GPU.

    Raises LemnosError with the reason, and what would do, where nothing fits on these GPUs.
    """
    described = describe(wish.source)
    quantization, notes = _quantization(written, wish, described, version)
    pins = wish.ask | {"engine_version": version, "replicas": 1}
    asked = pins | {"quantization": quantization}
    totals = [wish.gpus] if wish.gpus else _totals(wish.nodes, cluster)
    first: Proposals | None = None
    for keeping in (True, False):
        for total in totals:
            part = _part(written, wish, cluster, total)
            for changes in _attempts(wish.nodes, total, keeping):
                found = propose(wish.source, part, **(asked | changes))
                first = first or found
                plan = _pick(found, described[0].name, total, keeping)
                if plan:
                    outcome = Outcome(written, wish, plan, first, found, described)
                    return Fitted(plan, (*notes, *told_of(outcome)))
    assert first is not None
    raise _refusal(written, wish, first, described[0].name)


def _totals(nodes: int, cluster: Cluster | str) -> list[int]:
    """Numbers of GPUs to try where none is said: as many as the nodes have."""
    most = COUNTS[-1]
    if isinstance(cluster, Cluster):
        most = max(1, *(len(node.gpus) for node in cluster.nodes))
    return [count * nodes for count in COUNTS if count <= most]


def _attempts(nodes: int, total: int, keeping: bool) -> Iterator[dict[str, Any]]:
    """What to change of what is written, the least first; ``keeping``: not the checkpoint."""
    shorter = {"context": None}
    if keeping:
        yield {}
        yield {"tensor": total}
        yield {"tensor": total // nodes, "pipeline": nodes}
        yield shorter
        return
    for changes in ({}, shorter):
        yield changes | {"quantization": None}


def _pick(found: Proposals, name: str, total: int, keeping: bool) -> Proposal | None:
    """The best plan; with ``keeping`` the best of the checkpoint on all the GPUs."""
    if not keeping:
        return next(iter(found.plans), None)
    own = [plan for plan in found.plans if plan.model == name]
    return next((plan for plan in own if plan.gpus == total), None)


def _part(written: Written, wish: Wish, cluster: Cluster | str, total: int) -> Cluster:
    """As many of the cluster's nodes and GPUs as the model was given. Raises UsageError."""
    each = total // wish.nodes
    if isinstance(cluster, str):
        return cluster_named(f"{wish.nodes}x{each}x{cluster}")
    kinds: dict[str, list[Node]] = {}
    for node in cluster.nodes:
        if len(node.gpus) >= each:
            part = node.model_copy(update={"gpus": node.gpus[:each]})
            kinds.setdefault(str(node.gpus[0].kind), []).append(part)
    for nodes in kinds.values():
        if sum(node.count for node in nodes) >= wish.nodes:
            return cluster.model_copy(update={"nodes": _first(nodes, wish.nodes)})
    most = max((len(node.gpus) for node in cluster.nodes), default=0)
    raise UsageError(
        f"wants {wish.nodes} x {each} GPUs, and {cluster.name} has no {wish.nodes} nodes alike with "
        f"so many (at most {most} in a node)",
        where=f"{written.path}:{written.line('models', wish.key, 'gpus')}",
        fix="change gpus and nodes, or give the cluster that it is for: --cluster",
    )


def _first(nodes: list[Node], count: int) -> tuple[Node, ...]:
    taken = []
    for node in nodes:
        here = min(node.count, count)
        if here:
            taken.append(node.model_copy(update={"count": here}))
        count -= here
    return tuple(taken)


def _quantization(
    written: Written, wish: Wish, described: tuple[Described, ...], version: str
) -> tuple[str | None, list[Note]]:
    """What the engine is told to quantize to while it loads; the checkpoint may say it already."""
    word, stored = wish.quantization, described[0].architecture.stored
    at = ("models", wish.key, "quantization")

    def said(kind: Kind, text: str) -> list[Note]:
        return [note(written, kind, text, *at)]

    if word is None:
        return None, []
    low = word.lower()
    if stored != "bf16":
        if stored.startswith(low):
            text = f"no flag is needed: the checkpoint is stored as {stored}, and says so itself"
            return None, said("gone", text)
        text = (
            f"'{word}', and the checkpoint is stored as {stored}: it is served as it is"
        )
        return None, said("wrong", text)
    if low in PLAIN:
        text = "no flag is needed: the checkpoint is stored as bf16"
        return None, said("gone", text)
    ready = next(
        (d for d in described[1:] if d.architecture.stored.startswith(low)), None
    )
    also = (
        f"; {ready.source} is stored so, and is half the bytes to read" if ready else ""
    )
    if low != "fp8":
        text = f"vLLM does not quantize to '{word}' while it loads: it is served as bf16{also}"
        return None, said("wrong", text)
    if Version(version) < Version(STREAMS_SINCE):
        also += (
            f"; vLLM before {STREAMS_SINCE} holds the BF16 weights meanwhile: take that"
            if ready
            else ""
        )
    text = f"vLLM quantizes the BF16 checkpoint while it loads{also}"
    return "fp8", said("told", text)


def _refusal(written: Written, wish: Wish, found: Proposals, name: str) -> UsageError:
    smallest = f"it would on: {found.smallest}" if found.smallest else ""
    offload = (
        f"or here by offloading: {found.with_offload}" if found.with_offload else ""
    )
    return UsageError(
        f"models.{wish.key} fits the GPUs in no form: {reason_of(found, name)}",
        where=f"{written.path}:{written.line('models', wish.key, 'gpus')}",
        fix="; ".join(filter(None, (smallest, offload))) or "choose another model",
    )
