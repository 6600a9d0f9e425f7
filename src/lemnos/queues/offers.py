"""What a room could be asked to run: the best layouts for each part of it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemnos.errors import LemnosError
from lemnos.launchers.base import Launcher
from lemnos.models.describe import describe
from lemnos.proposals import asked_for, cluster_of, propose
from lemnos.queues.sizes import Part, parts_of
from lemnos.spec.cluster import Cluster
from lemnos.spec.deployment import DeploymentSpec, WorkloadSpec
from lemnos.spec.layout import Rejection
from lemnos.spec.proposal import Ask, Proposal, Proposals
from lemnos.spec.rooms import SchedulerSpec


@dataclass(frozen=True)
class Offer:
    """A layout for a part of the room."""

    plan: Proposal
    per_node: int
    """GPUs of a whole node there."""
    gpu_type: str = ""
    """The room's own word for them, where jobs must ask for it."""
    compromise: int = 0
    """0: the checkpoint and KV cache that were asked for."""


@dataclass(frozen=True)
class Offers:
    """All of them, and why there are no others."""

    all: tuple[Offer, ...]
    asked: Ask
    nodes: int
    """Of the room."""
    notes: tuple[str, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    smallest: str | None = None
    with_offload: str | None = None


def offers_of(
    spec: DeploymentSpec,
    launcher: Launcher,
    cluster: str | Path | Cluster | None,
    asked: dict[str, Any],
    **options: Any,
) -> Offers:
    """The best layouts of each part of the room; the one that ``spec`` has, where it has one and
    nothing else is asked for.

    ``cluster``: the room, instead of what its scheduler tells. ``options``: of ``propose``.
    """
    wanted = _wanted(spec, asked)
    if spec.plan and not asked:
        offer = Offer(spec.plan, math.ceil(spec.plan.gpus / spec.plan.nodes))
        return Offers((offer,), asked_for(**wanted), nodes=spec.plan.nodes)
    room = cluster_of(cluster) if cluster else _inventory(spec, launcher)
    # Without parts the planner says what is wrong with the room's GPUs.
    parts = parts_of(room, *_pins(spec)) or [Part(cluster=room, per_node=0)]
    source, options = spec.model.source, {"revision": spec.model.revision, **options}
    found = [propose(source, part.cluster, **options, **wanted) for part in parts]
    whole = found[-1]
    order = _checkpoints(source, whole.asked, options)
    offers: dict[tuple[object, ...], Offer] = {}
    for part, proposals in zip(parts, found, strict=True):
        for plan in _two(proposals):
            narrow = plan.settings.kv_cache_dtype != (wanted["kv_cache_dtype"] or "auto")  # fmt: skip
            level = order.get(plan.model, 0) + narrow
            key = (part.gpu_type, plan.gpu, plan.model, plan.divided)
            offers.setdefault(key, Offer(plan, part.per_node, part.gpu_type, level))
    return Offers(
        tuple(offers.values()),
        whole.asked,
        nodes=sum(node.count for node in room.nodes),
        notes=_notes(spec, room, parts),
        rejected=whole.rejected,
        smallest=None if offers else whole.smallest,
        with_offload=None if offers else whole.with_offload,
    )


def _wanted(spec: DeploymentSpec, asked: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, else what the spec says of the load and the engine."""
    load = spec.workload
    own = {
        "context": load.context,
        "concurrency": load.concurrency if load != WorkloadSpec() else None,
        "engine": spec.engine if spec.engine in ("vllm", "sglang") else None,
        "engine_version": spec.engine_version,
        "replicas": spec.replicas,
        "kv_cache_dtype": None,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    return own | given


def _inventory(spec: DeploymentSpec, launcher: Launcher) -> Cluster:
    room = launcher.inventory()
    gpus = [gpu for node in room.nodes for gpu in node.gpus]
    if gpus and not any(gpu.kind for gpu in gpus):
        said = sorted({gpu.name for gpu in gpus if gpu.name})
        named = f" (it calls them {', '.join(said)})" if said else ""
        raise LemnosError(
            f"{spec.on} does not say which GPUs its nodes have{named}",
            where=spec.via or spec.on,
            fix="say it with --cluster, for example --cluster 2x8xH100 (nodes x GPUs)",
        )
    return room


def _pins(spec: DeploymentSpec) -> tuple[int | None, int | None]:
    """GPUs of a node and nodes, as the spec has them for each job."""
    room = getattr(spec, spec.on, None)
    if not isinstance(room, SchedulerSpec):
        return None, None
    return room.gpus_per_node, room.nodes


def _checkpoints(source: str, ask: Ask, options: dict[str, Any]) -> dict[str, int]:
    """The model's checkpoints, what was asked for first."""
    described = describe(
        source,
        quantization=ask.quantization,
        trust_headers=options.get("trust_headers", False),
        revision=options["revision"],
    )
    return {each.name: number for number, each in enumerate(described)}


def _two(found: Proposals) -> list[Proposal]:
    """The best, and the best of smaller replicas, whose first may find room earlier."""
    if not found.plans:
        return []
    best = found.plans[0]
    smaller = (plan for plan in found.plans if plan.layout.gpus < best.layout.gpus)
    return [best, *itertools.islice(smaller, 1)]


def _notes(spec: DeploymentSpec, room: Cluster, parts: list[Part]) -> tuple[str, ...]:
    notes = [said for node in room.nodes for said in node.unknown]
    kinds = {
        gpu.kind
        for part in parts
        for node in part.cluster.nodes
        for gpu in node.gpus
        if gpu.kind
    }
    if len(kinds) > 1 and spec.on != "slurm":
        word = "pbs.select chooses between them; " if spec.on == "pbs" else ""
        notes.append(
            f"{spec.on} has {' and '.join(sorted(kinds))}: {word}its answers are for any of them"
        )
    return tuple(notes)
