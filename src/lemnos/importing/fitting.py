"""A plan for each model on the GPUs that it was given: as written, or the nearest that fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from lemnos.errors import UsageError
from lemnos.hardware.catalogue import cluster_named
from lemnos.importing.config import OldModel, Written
from lemnos.importing.notes import Kind, Note, note
from lemnos.importing.wishes import Wish, tokens_of
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
                    told = _told(written, wish, plan, first, found, total, described)
                    return Fitted(plan, (*notes, *told))
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


def _told(
    written: Written,
    wish: Wish,
    plan: Proposal,
    first: Proposals,
    found: Proposals,
    total: int,
    described: tuple[Described, ...],
) -> list[Note]:
    """How the plan differs from what is written, and what in it cannot be true."""
    at, model = ("models", wish.key), written.config.models[wish.key]
    notes: list[Note] = []

    def say(kind: Kind, text: str, *keys: str) -> None:
        notes.append(note(written, kind, text, *at, *keys))

    if wish.gpus is None:
        say("told", f"gpus is not given: the fewest that hold it are {plan.gpus}")
    context, reason = wish.ask["context"], _reason(first, described[0].name)
    if plan.model != described[0].name:
        text = f"does not fit as written ({reason}): {plan.source} ({plan.stored}) is planned instead"
        say("changed", text, "huggingface_id")
    if plan.settings.context != context:
        text = (
            f"a context of {context} does not fit ({reason}): {plan.settings.context} is planned, "
            "and max_model_len says so"
        )
        say("changed", text)
    if plan.gpus != total and wish.gpus:
        say(
            "changed",
            f"no layout uses {total} GPUs: {plan.layout} takes {plan.gpus}",
            "gpus",
        )
    kv_dtype = plan.settings.kv_cache_dtype
    if kv_dtype != "auto" and "kv_cache_dtype" not in wish.ask:
        say(
            "changed",
            f"the KV cache is kept as {kv_dtype}: as bf16 the context does not fit",
        )
    if wish.nodes > 1 and plan.layout.tensor != total:
        say("changed", _other_layout(plan, found, wish.nodes, total), "nodes")
    notes += _claims(written, wish.key, model, plan, described)
    low, high = plan.ready_s_interval
    limit = written.config.distributed.rdzv_timeout
    if limit and limit < high:
        text = f"{limit:g} s are given, and starting is predicted to take {low:.0f} to {high:.0f} s"
        notes.append(note(written, "wrong", text, "distributed", "rdzv_timeout"))
    return notes


def _other_layout(plan: Proposal, found: Proposals, nodes: int, total: int) -> str:
    """Why tensor parallelism stays inside a node."""
    wide = next(
        (
            each
            for each in found.plans
            if each.model == plan.model and each.layout.tensor == total
        ),
        None,
    )
    text = f"the scripts' TP{total} over {nodes} nodes is planned as {plan.layout}"
    if wide is None:
        return text
    return f"{text}: {_speed(plan)} instead of {_speed(wide)} tokens/s predicted"


def _speed(plan: Proposal) -> str:
    return f"{plan.output_tokens_per_s_even_routing or plan.output_tokens_per_s:,.0f}"


def _claims(
    written: Written,
    key: str,
    model: OldModel,
    plan: Proposal,
    described: tuple[Described, ...],
) -> list[Note]:
    """What the configuration says of the model, against what is known of it."""
    found = []
    own = next(d.architecture for d in described if d.name == plan.model)
    at = ("models", key)
    claimed = tokens_of(model.context) if model.context else None
    if claimed:
        found.append(
            note(
                written,
                *_of_context(claimed, model, plan, own.max_context),
                *at,
                "context",
            )
        )
    if model.vision and own.encoder is None:
        text = f"{plan.model} takes no images"
        found.append(note(written, "wrong", text, *at, "vision"))
    gib = re.fullmatch(r"(\d+(?:\.\d+)?)\s*G(i?)B?", model.vram or "", re.IGNORECASE)
    weights = plan.weights_gib_per_rank * plan.layout.gpus
    have = plan.memory.total * plan.gpus
    if gib and float(gib[1]) < weights:
        text = f"{model.vram} would not hold the weights, {weights:.0f} GiB on all GPUs together"
        found.append(note(written, "wrong", text, *at, "vram"))
    elif gib and float(gib[1]) > have * 1.08:
        text = (
            f"{model.vram} is more than {plan.gpus} x {plan.gpu} have ({have:.0f} GiB)"
        )
        found.append(note(written, "wrong", text, *at, "vram"))
    return found


def _of_context(
    claimed: int, model: OldModel, plan: Proposal, trained: int
) -> tuple[Kind, str]:
    """What becomes of the context that a model is said to have."""
    served, held = plan.settings.context, plan.kv_cache_tokens
    if claimed > trained * 1.01:
        return (
            "wrong",
            f"{model.context} is said, and {plan.model} was trained for {trained:,}",
        )
    if served >= min(claimed, trained):
        return "gone", f"all of it is served: max_model_len is {served:,}"
    text = f"{served:,} of {model.context} are served, as max_model_len says; "
    if held >= claimed:
        return "told", f"{text}the KV cache holds {held:,}: all of it would fit too"
    return "wrong", f"{text}{model.context} would not fit: the KV cache holds {held:,}"


def _reason(found: Proposals, name: str) -> str:
    """Why the checkpoint does not go on all the GPUs, in the planner's words."""
    own = [each for each in found.rejected if f", {name}, " in f"{each.option}, "]
    own = own or [each for each in found.rejected if each.option == name]
    if not own:
        return "the planner found no layout"
    return own[0].reason.rpartition(" [")[0] or own[0].reason


def _refusal(written: Written, wish: Wish, found: Proposals, name: str) -> UsageError:
    smallest = f"it would on: {found.smallest}" if found.smallest else ""
    offload = (
        f"or here by offloading: {found.with_offload}" if found.with_offload else ""
    )
    return UsageError(
        f"models.{wish.key} fits the GPUs in no form: {_reason(found, name)}",
        where=f"{written.path}:{written.line('models', wish.key, 'gpus')}",
        fix="; ".join(filter(None, (smallest, offload))) or "choose another model",
    )
