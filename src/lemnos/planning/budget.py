"""One layout on one site: the memory it would take, or why it does not fit. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lemnos.planning.calibration import Constants
from lemnos.planning.layouts import Site
from lemnos.planning.memory import (
    GIB,
    activation_bytes,
    graph_bytes,
    kv_bytes_per_token,
    kv_layouts,
    kv_tokens,
    weights_per_stage,
)
from lemnos.planning.rules import EngineRules
from lemnos.spec.architecture import Architecture
from lemnos.spec.layout import Layout
from lemnos.spec.proposal import Ask, HostBudget, RankBudget, Settings

OFFLOADED_AT_MOST = 0.95
"""Of a rank's weights: embeddings and the head stay on the GPU (vLLM offloads layers only)."""


@dataclass(frozen=True)
class Miss:
    """Why a layout does not fit."""

    sentence: str
    need_gib: float
    """A GPU, before any KV cache."""
    hopeless: bool
    """No smaller context would help."""


@dataclass(frozen=True)
class Fit:
    """A layout's memory: what is left for the KV cache, and what that holds."""

    settings: Settings
    budget: RankBudget
    host: HostBudget
    kv_tokens: int
    kv_tokens_low: int
    kv_tokens_high: int
    """With activation and graphs predicted too low or too high by the error seen."""
    offloaded: float = 0.0
    """Share of the fullest rank's weights that lie in host memory."""


def settings_for(
    architecture: Architecture, site: Site, ask: Ask, rules: EngineRules, kv_dtype: str
) -> Settings:
    """What the engine is told: what is pinned, else its defaults; no more memory than is free."""
    large = site.memory_gib >= 70 and "A100" not in site.gpu.name
    most = math.floor((site.free_gib - 0.3) / site.memory_gib * 100) / 100
    batched = ask.max_batched_tokens or (
        rules.batched_tokens if large else rules.batched_tokens_small
    )
    context = ask.context or architecture.max_context
    seqs = ask.max_seqs or min(batched, rules.seqs if large else rules.seqs_small)
    return Settings(
        context=context,
        kv_cache_dtype=kv_dtype,
        utilization=max(0.05, min(ask.utilization or rules.utilization, most)),
        max_batched_tokens=batched,
        max_seqs=seqs,
        eager=ask.eager,
        quantization=ask.quantization,
        speculative=ask.speculative,
        cpu_offload_gib=ask.cpu_offload_gib,
        kv_offload_gib=ask.kv_offload_gib,
    )


def fit(
    architecture: Architecture,
    layout: Layout,
    site: Site,
    settings: Settings,
    rules: EngineRules,
    constants: Constants,
) -> Fit | Miss:
    """The memory of the fullest rank and of a node's host, or why it does not fit."""
    host = host_budget(layout, site, settings, rules)
    if host.free is not None and host.needs > host.free:
        return Miss(
            f"needs {host.needs:.0f} GiB of a node's host memory (weights {host.weights:.0f}, "
            f"KV cache {host.kv_cache:.0f}, processes {host.processes:.0f}), and "
            f"{host.free:.0f} GiB are free",
            host.needs,
            hopeless=True,
        )
    moe = any(layer.moe for layer in architecture.layers)
    activation = _activation_gib(architecture, layout, settings, rules)
    reserved = rules.graph_estimate and (moe or rules.dense_graph_estimate)
    graphs = 0.0
    if reserved and not settings.eager:
        graphs = graph_bytes(architecture, layout, settings.max_seqs) / GIB
    other = rules.other_gib / layout.tensor
    usable = min(settings.utilization * site.memory_gib, site.free_gib)
    whole = weights_per_stage(architecture, layout, speculative=settings.speculative)
    moved = [
        min(settings.cpu_offload_gib, OFFLOADED_AT_MOST * each / GIB) for each in whole
    ]
    weights = [each / GIB - away for each, away in zip(whole, moved, strict=True)]
    left = [usable - w - activation - graphs - other for w in weights]
    fullest = min(range(len(left)), key=left.__getitem__)
    need = weights[fullest] + activation + graphs + other
    if left[fullest] <= 0:
        return Miss(
            f"needs {need:.1f} GiB a GPU before any KV cache (weights {weights[fullest]:.1f}, "
            f"activation {activation:.1f}), and {usable:.1f} GiB of {site.gpu.name} are usable",
            need,
            hopeless=True,
        )
    low, middle, high = (
        _tokens(
            architecture,
            layout,
            settings,
            [(each + error * need) * GIB for each in left],
        )
        for error in (-constants.error.memory, 0.0, constants.error.memory)
    )
    if middle < settings.context:
        return Miss(
            f"one request of {settings.context} tokens needs more KV cache than the "
            f"{max(middle, 0)} tokens that {left[fullest]:.1f} GiB hold",
            need,
            hopeless=False,
        )
    budget = RankBudget(
        total=site.memory_gib,
        weights=round(weights[fullest], 3),
        activation=round(activation, 3),
        graphs=round(graphs, 3),
        other=round(other, 3),
        kv_cache=round(left[fullest], 3),
        unused=round(site.memory_gib - usable, 3),
    )
    offloaded = moved[fullest] * GIB / whole[fullest]
    return Fit(settings, budget, host, middle, low, high, offloaded)


def host_budget(
    layout: Layout, site: Site, settings: Settings, rules: EngineRules
) -> HostBudget:
    """Host memory that one replica takes on each of its nodes.

    ``--cpu-offload-gb`` is a rank's; ``--kv-offloading-size`` is the sum over the ranks of one
    engine (vLLM 0.26, config/offload.py and config/cache.py): data-parallel ranks have one each.
    """
    here = min(layout.gpus, site.per_node)
    engine = layout.tensor * layout.pipeline
    weights = settings.cpu_offload_gib * here
    cache = settings.kv_offload_gib * here / engine
    processes = rules.host_gib * here
    return HostBudget(
        processes=round(processes, 1),
        weights=round(weights, 1),
        kv_cache=round(cache, 1),
        needs=round(processes + weights + cache, 1),
        free=site.host_free_gib,
    )


def kv_gib(
    architecture: Architecture, layout: Layout, kv_dtype: str, tokens: float
) -> float:
    """GiB of the KV cache of ``tokens`` on all ranks of an engine together."""
    each = sum(
        kv_bytes_per_token(layer.attention, layout.tensor, kv_dtype, layout.context)
        for layer in architecture.layers
    )
    return each * layout.tensor * tokens / GIB


def _activation_gib(
    architecture: Architecture, layout: Layout, settings: Settings, rules: EngineRules
) -> float:
    moe = any(layer.moe for layer in architecture.layers)
    copies = rules.sampler_copies if moe else rules.dense_sampler_copies
    held = 0.0 if settings.eager else rules.held_hidden_states
    return (
        activation_bytes(
            architecture,
            layout,
            settings.max_batched_tokens,
            settings.max_seqs,
            sampler_copies=copies,
            held_hidden_states=held,
        )
        / GIB
    )


def _tokens(
    architecture: Architecture, layout: Layout, settings: Settings, pools: list[float]
) -> int:
    """Tokens that the stage with the least room for them holds, a pool of bytes each."""
    caches = kv_layouts(
        architecture,
        layout,
        settings.kv_cache_dtype,
        speculative=settings.speculative,
    )
    in_flight = 2 * settings.max_batched_tokens
    return min(
        kv_tokens(cache, pool, settings.context, in_flight)
        for cache, pool in zip(caches, pools, strict=True)
    )
