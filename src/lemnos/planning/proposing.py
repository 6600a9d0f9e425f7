"""An option as the proposal that people read: figures with intervals, reasons, warnings. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lemnos.planning.budget import kv_gib
from lemnos.planning.explain import reasons_of, warnings_of
from lemnos.planning.options import Option
from lemnos.planning.pace import quick_pace
from lemnos.planning.ranking import TIE, cost_per_hour, meets, sort_key
from lemnos.spec.proposal import Ask, Interval, Pool, Proposal


def proposal_of(option: Option, ask: Ask) -> Proposal:
    """``option`` with its figures rounded, and an interval beside each."""
    fitted, pace, constants = option.fitted, option.pace, option.constants
    notes = warnings_of(option)
    error, wide = constants.error, 1.0 + 0.5 * len(notes.extrapolates)
    weights = fitted.budget.weights
    even = option.even_pace if option.even is not option.model else None
    if even and ask.routing == "even":
        pace = even
    high = even or pace
    tpot = _around(pace.tpot, high.tpot, error.tpot * wide)
    ttft = _around(pace.ttft, high.ttft, error.ttft * wide)
    speed = _around(pace.tokens_per_s, high.tokens_per_s, error.tpot * wide)
    cold, cached = option.ready
    priced = option.site.price_per_hour
    cost = cost_per_hour(option) if priced else None
    return Proposal(
        model=option.variant.name,
        source=option.variant.source,
        stored=option.variant.architecture.stored,
        engine=option.engine,
        engine_version=ask.engine_version or option.rules.version,
        gpu=option.site.gpu.name,
        nodes=math.ceil(option.gpus / option.site.per_node),
        gpus=option.gpus,
        layout=option.layout,
        roles=option.roles,
        settings=fitted.settings,
        memory=fitted.budget,
        host=fitted.host,
        weights_gib_per_rank=round(weights, 3),
        weights_gib_per_rank_interval=_rounded(
            weights * (1 - error.memory), weights * (1 + error.memory)
        ),
        kv_cache_tokens=fitted.kv_tokens,
        kv_cache_tokens_interval=(fitted.kv_tokens_low, fitted.kv_tokens_high),
        kv_concurrency=round(fitted.kv_tokens / fitted.settings.context, 2),
        kv_offload_tokens=_offload_tokens(option),
        ttft_ms=round(pace.ttft * 1e3, 2),
        ttft_ms_interval=_rounded(ttft[0] * 1e3, ttft[1] * 1e3),
        tpot_ms=round(pace.tpot * 1e3, 3),
        tpot_ms_interval=_rounded(tpot[0] * 1e3, tpot[1] * 1e3),
        output_tokens_per_s=round(pace.tokens_per_s, 1),
        output_tokens_per_s_interval=_rounded(*speed),
        ttft_ms_even_routing=round(even.ttft * 1e3, 2) if even else None,
        tpot_ms_even_routing=round(even.tpot * 1e3, 3) if even else None,
        output_tokens_per_s_even_routing=round(even.tokens_per_s, 1) if even else None,
        ready_s=round(cold, 1),
        ready_s_interval=_rounded(cached * (1 - error.ready), cold * (1 + error.ready)),
        meets_slo=meets(option.expected(ask), ask),
        cost_per_hour=round(cost, 2) if cost else None,
        cost_per_million_tokens=(
            round(cost / pace.tokens_per_s / 3600 * 1e6, 3) if cost else None
        ),
        reasons=reasons_of(option, ask),
        warnings=notes.all,
    )


def _around(low: float, high: float, error: float) -> Interval:
    """From a little under the lower of the two to a little over the higher."""
    return min(low, high) / (1 + error), max(low, high) * (1 + error)


def _rounded(low: float, high: float) -> Interval:
    return round(low, 3), round(high, 3)


def _offload_tokens(option: Option) -> int:
    """Tokens of KV cache that one engine's share of host memory holds."""
    settings = option.fitted.settings
    if not settings.kv_offload_gib:
        return 0
    each = kv_gib(
        option.variant.architecture, option.layout, settings.kv_cache_dtype, 1
    )
    return int(settings.kv_offload_gib / each) if each else 0


def with_pools(
    plan: Proposal, chosen: Option, options: Sequence[Option], ask: Ask
) -> Proposal:
    """``plan``, and the best layout of the same checkpoint on each of the other sites.

    Each pool is given the load that it can carry: throughputs add, and the times stay those
    of the chosen layout, whose share of the load is no larger than all of it.
    """
    if ask.replicas or chosen.roles or ask.rate is not None:
        return plan
    best: dict[int, Option] = {}
    for option in options:
        same = option.variant.name == chosen.variant.name and not option.roles
        if (
            not same
            or option.site is chosen.site
            or option.compromise > chosen.compromise
        ):
            continue
        key = id(option.site)
        if key not in best or sort_key(option, ask) < sort_key(best[key], ask):
            best[key] = option
    full = {key: option.pace.tokens_per_s for key, option in best.items()}
    whole = chosen.pace.tokens_per_s + sum(full.values())
    pools, total = [], 0.0
    for key, option in best.items():
        streams = max(1, round(ask.concurrency * full[key] / whole))
        own = ask.model_copy(update={"concurrency": streams})
        pace = quick_pace(option.model, option.fitted, own, option.layout.replicas)
        total += pace.tokens_per_s
        pools.append(
            Pool(
                gpu=option.site.gpu.name,
                nodes=math.ceil(option.gpus / option.site.per_node),
                gpus=option.gpus,
                layout=option.layout,
                settings=option.fitted.settings,
                output_tokens_per_s=round(pace.tokens_per_s, 1),
            )
        )
    share = max(
        1, ask.concurrency - round(ask.concurrency * sum(full.values()) / whole)
    )
    own = ask.model_copy(update={"concurrency": share})
    ours = quick_pace(chosen.model, chosen.fitted, own, chosen.layout.replicas)
    gain = (ours.tokens_per_s + total) / chosen.pace.tokens_per_s
    if gain < 1 + 2 * TIE:
        return plan
    low, high = plan.output_tokens_per_s_interval
    return plan.model_copy(
        update={
            "pools": tuple(pools),
            "output_tokens_per_s": round(plan.output_tokens_per_s * gain, 1),
            "output_tokens_per_s_interval": (
                round(low * gain, 1),
                round(high * gain, 1),
            ),
        }
    )
