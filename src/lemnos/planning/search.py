"""The search: every variant, site, engine and layout, to the best few and why not the others. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from lemnos.planning.budget import kv_gib
from lemnos.planning.calibration import Constants, constants_for
from lemnos.planning.layouts import Site
from lemnos.planning.options import Option, Refused, Variant, options_of
from lemnos.planning.otherwise import smallest_that_fits, with_offload
from lemnos.planning.pace import paced, split_pace
from lemnos.planning.proposing import proposal_of, with_pools
from lemnos.planning.queueing import Request
from lemnos.planning.ranking import pareto, simplest_first, sort_key
from lemnos.planning.replay import replay
from lemnos.spec.layout import Rejection
from lemnos.spec.proposal import Ask, EngineName, Proposal, Proposals, Replayed, Role

REPLAYED = 3
"""Plans that a log is replayed on."""
SPLIT = 4
"""Layouts of several replicas that are tried with prefill and decode apart."""
SIMULATED = 10
"""Layouts that are followed request by request; the others are ranked in closed form."""
MOST_SIMULATED_STREAMS = 256


def propose_plans(
    variants: Sequence[Variant],
    sites: Sequence[Site],
    ask: Ask,
    constants: Sequence[Constants] = (),
    log: Sequence[Request] | None = None,
) -> Proposals:
    """The plans for ``ask``: chosen first. ``variants[0]`` is what was asked for.

    ``constants``: refitted ones, which hold for their engine instead of lemnos' own.
    ``log``: requests to replay on the best plans.
    """
    options: list[Option] = []
    refused: list[Refused] = []
    own = {each.engine: each for each in constants}
    engines: tuple[EngineName, ...] = (ask.engine,) if ask.engine else ("vllm",)
    for number, variant in enumerate(variants):
        for site in sites:
            for engine in engines:
                held = own.get(engine) or constants_for(engine)
                found, misses = options_of(variant, site, engine, held, ask)
                options += found
                refused += [
                    dataclasses.replace(miss, variant=number) for miss in misses
                ]
    if ask.split is not False:
        options = _with_splits(options, ask)
    ranked = sorted(options, key=lambda option: sort_key(option, ask))
    followed = [_followed(option, ask) for option in ranked[:SIMULATED]]
    followed.sort(key=lambda option: sort_key(option, ask))
    followed = simplest_first(followed, ask)
    plans = tuple(proposal_of(option, ask) for option in followed)
    if plans and len(sites) > 1 and ask.objective == "throughput":
        plans = (with_pools(plans[0], followed[0], options, ask), *plans[1:])
    return Proposals(
        asked=ask,
        plans=plans,
        pareto=pareto(plans),
        rejected=_told(refused),
        replayed=_replayed(followed, plans, log, ask) if log else (),
        smallest=None if plans else smallest_that_fits(variants, sites, ask),
        with_offload=None if plans else with_offload(variants, sites, ask),
    )


def _with_splits(options: Sequence[Option], ask: Ask) -> list[Option]:
    """The options, and those of several replicas with prefill and decode apart.

    Only the best few by their closed-form pace are split; ``ask.split`` wants nothing else.
    """
    several = [
        option
        for option in options
        if option.layout.replicas > 1 and ask.rate is None and ask.concurrency > 1
    ]
    several.sort(key=lambda option: sort_key(option, ask))
    split: list[Option] = []
    for option in several[:SPLIT]:
        total = option.layout.replicas
        kv = kv_gib(
            option.variant.architecture,
            option.layout,
            option.fitted.settings.kv_cache_dtype,
            ask.input_tokens,
        )
        best: Option | None = None
        for prefill in range(1, total):
            roles = Role(prefill=prefill, decode=total - prefill)
            pace, even = (
                split_pace(model, option.fitted, ask, prefill, roles.decode, kv)
                for model in (option.model, option.even)
            )
            tried = dataclasses.replace(option, roles=roles, pace=pace, even_pace=even)
            if best is None or sort_key(tried, ask) < sort_key(best, ask):
                best = tried
        if best:
            split.append(best)
    return split if ask.split and split else [*options, *split]


def _followed(option: Option, ask: Ask) -> Option:
    """The option with the pace that its scheduler would have."""
    replicas = option.layout.replicas
    if option.roles:
        return option
    if ask.concurrency / replicas / option.layout.data > MOST_SIMULATED_STREAMS:
        return option
    pace = paced(option.model, option.fitted, ask, replicas)
    even = pace
    if option.even is not option.model:
        even = paced(option.even, option.fitted, ask, replicas)
    return dataclasses.replace(option, pace=pace, even_pace=even)


def _replayed(
    options: Sequence[Option],
    plans: Sequence[Proposal],
    log: Sequence[Request],
    ask: Ask,
) -> tuple[Replayed, ...]:
    pairs = list(zip(options, plans, strict=True))[:REPLAYED]
    return tuple(
        replay(log, o.model, o.fitted, plan, ask.slo, o.constants.error.ttft)
        for o, plan in pairs
    )


def _told(refused: Iterable[Refused]) -> tuple[Rejection, ...]:
    """One sentence for each option: of each rule and variant the nearest miss, then the others."""
    kinds: set[tuple[int, str]] = set()
    first: dict[str, Rejection] = {}
    later: dict[str, Rejection] = {}
    said: set[tuple[str, str]] = set()
    for each in sorted(refused, key=lambda miss: miss.order):
        layout = each.option.rpartition(", ")[2]
        if (layout, each.reason) in said:
            continue  # of another checkpoint, the same
        said.add((layout, each.reason))
        told = later if (each.variant, each.rule) in kinds else first
        kinds.add((each.variant, each.rule))
        reason = f"{each.reason} [{each.rule}]"
        told.setdefault(each.option, Rejection(option=each.option, reason=reason))
    rest = [told for option, told in later.items() if option not in first]
    return (*first.values(), *rest)
