"""A command against the machines: GPUs, nodes, and memory through the planner.

Reads a cluster file where one is named; nothing else outside is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from lemnos.errors import LemnosError
from lemnos.lint.command import Command, rewritten
from lemnos.lint.facts import facts_of
from lemnos.lint.findings import Edit, Finding
from lemnos.lint.modelling import Model, Ways, ways_of

if TYPE_CHECKING:
    from lemnos.spec.cluster import Cluster
    from lemnos.spec.proposal import Proposals


def machine_findings(
    command: Command, model: Model | None, cluster: Cluster | None
) -> Iterator[Finding]:
    """GPUs and nodes that are not there, and memory that cannot fit."""
    ways = ways_of(command)
    if ways is None:
        return
    yield from _nodes(command, ways)
    there = command.gpus
    if cluster is not None:
        there = sum(node.count * len(node.gpus) for node in cluster.nodes)
    needs = ways.gpus if command.found.gpus is None else ways.gpus // ways.nodes
    if there and needs > there:
        yield _at_layout(
            command,
            "too-many-gpus",
            f"TP{ways.tensor} x PP{ways.pipeline} x DP{ways.data} needs {needs} GPUs, "
            f"and there are {there}",
        )
        return
    yield from _visible(command, ways)
    if command.open_ended():
        return  # further flags may change what fits
    if model is not None and model.known is not None and cluster is not None:
        yield from _memory(command, model, ways, cluster)


def cluster_from(text: str) -> Cluster:
    """A cluster from its file, or from a word such as ``4xH200``. Raises LemnosError."""
    from lemnos.proposals import cluster_of

    return cluster_of(text)


def _nodes(command: Command, ways: Ways) -> Iterator[Finding]:
    if ways.nodes == 1:
        return
    if ways.gpus % ways.nodes:
        yield _at_layout(
            command,
            "nodes",
            f"{ways.gpus} ranks cannot be spread evenly over --nnodes {ways.nodes}",
        )
    wanted = ["--node-rank"]
    wanted.append("--master-addr" if command.engine == "vllm" else "--dist-init-addr")
    for name in wanted:
        if command.option(name) and not command.use(name) and not command.open_ended():
            yield _at_layout(
                command, "missing-partner", f"--nnodes {ways.nodes} needs {name}"
            )


def _visible(command: Command, ways: Ways) -> Iterator[Finding]:
    """CUDA_VISIBLE_DEVICES against the ranks on this node."""
    word = command.found.env.get("CUDA_VISIBLE_DEVICES")
    if word is None or not word.known or ways.nodes > 1:
        return
    if command.value("--distributed-executor-backend") == "ray":
        return  # the ranks may be on other nodes
    names = [name for name in word.text.split(",") if name.strip()]
    if len(names) >= ways.gpus:
        return
    yield Finding(
        "visible-devices",
        word.start,
        word.end,
        f"CUDA_VISIBLE_DEVICES shows {len(names)} GPU{'s' * (len(names) != 1)}, and the layout "
        f"uses {ways.gpus}",
        "the engine ends with an error at start",
        "name as many as the layout uses",
        (),
        command.number,
    )


def _memory(
    command: Command, model: Model, ways: Ways, cluster: Cluster
) -> Iterator[Finding]:
    assert model.known is not None
    asked = _asked(command, ways)
    try:
        found = _proposals(model.known.name, cluster, tuple(sorted(asked.items())))
    except LemnosError as error:  # what cannot be planned is other rules' matter
        if "context" in error.what:
            return
        found = None
    if found is None or any(plan.model == model.known.name for plan in found.plans):
        return
    reason = next(
        (
            one.reason
            for one in found.rejected
            if f"{model.known.name}," in one.option + ","
        ),
        "it does not fit",
    )
    if "trained for" in reason:
        return
    instead, edits = _smaller(model, found)
    yield Finding(
        "memory",
        model.word.start,
        model.word.end,
        f"{model.known.name} with this layout does not fit on {cluster.name or 'the cluster'}: "
        f"{reason}",
        "planned with lemnos plan, from the model's layers and the engine's own sums",
        instead,
        edits,
        command.number,
    )


def _smaller(model: Model, found: Proposals) -> tuple[str, tuple[Edit, ...]]:
    """Another checkpoint of the same model that does fit, with the layout as it is."""
    if not found.plans:
        return (f"smallest that fits: {found.smallest}" if found.smallest else ""), ()
    other = facts_of(found.plans[0].model)
    if other is None:
        return "", ()
    repository = other.repository
    plan = found.plans[0]
    advice = (
        f"{repository} ({plan.stored}) fits with the same layout: weights "
        f"{plan.weights_gib_per_rank:.1f} GiB a GPU, KV cache for {plan.kv_cache_tokens:,} tokens"
    )
    if "/" in model.word.text and not model.word.text.startswith(("/", ".", "~")):
        return advice, rewritten(model.word, repository)
    return advice, ()


def _asked(command: Command, ways: Ways) -> dict[str, Any]:
    """The command's pins, as the planner takes them."""
    sglang = command.engine == "sglang"
    asked: dict[str, Any] = {
        "engine": "sglang" if sglang else "vllm",
        "engine_version": (command.extra or (command.schema,))[0].version,
        "tensor": ways.tensor,
        "pipeline": ways.pipeline,
        "data": ways.data,
        "expert": ways.expert,
        "concurrency": 1,
        "context": command.number_of("--max-model-len", "--context-length"),
        "max_seqs": command.number_of("--max-num-seqs", "--max-running-requests"),
        "max_batched_tokens": command.number_of("--max-num-batched-tokens"),
        "eager": command.has("--enforce-eager", "--disable-cuda-graph"),
    }
    share = command.value("--gpu-memory-utilization", "--mem-fraction-static")
    if share and share.replace(".", "", 1).isdecimal() and 0 < float(share) <= 1:
        asked["utilization"] = float(share)
    cache_type = command.value("--kv-cache-dtype")
    if cache_type in ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"):
        asked["kv_cache_dtype"] = cache_type
    if command.value("--quantization") == "fp8":
        asked["quantization"] = "fp8"
    offload = command.value("--cpu-offload-gb")
    if offload and offload.replace(".", "", 1).isdecimal():
        asked["cpu_offload_gib"] = float(offload)
    return {key: value for key, value in asked.items() if value is not None}


@cache
def _proposals(
    model: str, cluster: Cluster, asked: tuple[tuple[str, Any], ...]
) -> Proposals:
    from lemnos.proposals import propose

    pins = dict(asked)
    facts = facts_of(model)
    assert facts is not None
    pins.setdefault("context", facts.context)
    return propose(model, cluster, **pins)


def _at_layout(command: Command, rule: str, what: str) -> Finding:
    use = command.use("--tensor-parallel-size", "--tp-size") or command.use("--nnodes")
    start, end = command.start, command.end
    if use:
        start = command.words[use.index].start
        end = max(command.words[use.index].end, command.words[use.stop - 1].end)
    return Finding(rule, start, end, what, command=command.number)
