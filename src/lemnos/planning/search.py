"""The search: every variant, site, engine and layout, to the best few and why not the others. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lemnos.planning.calibration import Constants, constants_for
from lemnos.planning.explain import reasons_of, warnings_of
from lemnos.planning.layouts import Site, candidates, refusals
from lemnos.planning.memory import GIB, kv_bytes_per_token
from lemnos.planning.predict import (
    Fit,
    Miss,
    Pace,
    fit,
    paced,
    quick_pace,
    ready_seconds,
    settings_for,
    split_pace,
    steps_of,
)
from lemnos.planning.queueing import Request
from lemnos.planning.replay import replay
from lemnos.planning.rules import EngineRules, rules_for
from lemnos.planning.speed import StepModel
from lemnos.spec.architecture import Architecture
from lemnos.spec.layout import Layout, Rejection
from lemnos.spec.proposal import (
    Ask,
    EngineName,
    Interval,
    Pool,
    Proposal,
    Proposals,
    Replayed,
    Role,
)

REPLAYED = 3
"""Plans that a log is replayed on."""
WIDEST = 4
"""Beyond a node, layouts are looked at up to this many times the smallest that fits."""
NARROW_CACHE = 0.5
"""How much of a compromise an FP8 KV cache is, where a smaller checkpoint is 1."""
SPLIT_MARGIN = 0.85
"""A split has to promise this much more: it adds a transfer and a scheduler, and none was measured."""
SPLIT = 4
"""Layouts of several replicas that are tried with prefill and decode apart."""
SIMULATED = 10
"""Layouts that are followed request by request; the others are ranked in closed form."""
MOST_SIMULATED_STREAMS = 256
TIE = 0.02
"""Throughputs nearer than this are alike: the simpler layout is taken."""
CONTEXTS = (131072, 65536, 32768, 16384, 8192, 4096, 2048)
"""What to try where none is asked for and the model's own does not fit."""


@dataclass(frozen=True)
class Variant:
    """A checkpoint of the model."""

    name: str
    source: str
    architecture: Architecture
    compromise: int = 0
    """0: what was asked for; then its other checkpoints, the smaller the later."""


@dataclass(frozen=True)
class Refused:
    """A layout that was not taken; the nearest misses are told first."""

    option: str
    reason: str
    rule: str
    variant: int
    need_gib: float = 0.0
    """Of memory, where that is what lacks: less is nearer to fitting."""

    @property
    def order(self) -> tuple[int, bool, float]:
        return self.variant, self.rule != "memory", self.need_gib


@dataclass(frozen=True)
class Option:
    """A layout that fits, with its closed-form pace."""

    variant: Variant
    site: Site
    engine: EngineName
    rules: EngineRules
    constants: Constants
    layout: Layout
    fitted: Fit
    model: StepModel
    """With the routing that was measured; ``even`` is the same with even routing."""
    even: StepModel
    pace: Pace
    even_pace: Pace
    ready: tuple[float, float]
    compromise: float
    roles: Role | None = None

    @property
    def gpus(self) -> int:
        return self.layout.gpus * self.layout.replicas

    def expected(self, ask: Ask) -> Pace:
        """What choices are made by: even routing, unless alike routing is asked for."""
        return self.pace if ask.routing == "alike" else self.even_pace


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
                found, misses = _options(variant, site, engine, held, ask)
                options += found
                refused += [
                    dataclasses.replace(miss, variant=number) for miss in misses
                ]
    if ask.split is not False:
        options = _with_splits(options, ask)
    ranked = sorted(options, key=lambda option: _key(option, ask))
    followed = [_followed(option, ask) for option in ranked[:SIMULATED]]
    followed.sort(key=lambda option: _key(option, ask))
    followed = _simplest_first(followed, ask)
    plans = tuple(_proposal(option, ask) for option in followed)
    if plans and len(sites) > 1 and ask.objective == "throughput":
        plans = (_with_pools(plans[0], followed[0], options, ask), *plans[1:])
    return Proposals(
        asked=ask,
        plans=plans,
        pareto=_pareto(plans),
        rejected=_told(refused),
        replayed=_replayed(followed, plans, log, ask) if log else (),
        smallest=None if plans else smallest_that_fits(variants, sites, ask),
    )


def _with_pools(
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
        if key not in best or _key(option, ask) < _key(best[key], ask):
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


def smallest_that_fits(
    variants: Sequence[Variant], sites: Sequence[Site], ask: Ask
) -> str | None:
    """The fewest GPUs of each kind at hand that would hold each variant; None: none do."""
    free = ask.model_copy(
        update={"tensor": None, "pipeline": None, "data": None, "expert": None}
    )
    found = []
    rules = rules_for("vllm", ask.engine_version)
    constants = constants_for("vllm")
    for site in {site.gpu.name: site for site in sites}.values():
        for variant in variants:
            for count in (1, 2, 4, 8, 16, 32, 64, 128):
                larger = dataclasses.replace(
                    site,
                    nodes=math.ceil(count / site.gpu.per_node),
                    per_node=min(count, site.gpu.per_node),
                    free_gib=site.memory_gib,
                )
                layout = _first_that_fits(
                    variant, larger, free, rules, constants, count
                )
                if layout:
                    found.append(
                        f"{variant.name} ({variant.architecture.stored}) on "
                        f"{count}x{site.gpu.name} ({layout})"
                    )
                    break
    return "; ".join(found) or None


def _first_that_fits(
    variant: Variant,
    site: Site,
    ask: Ask,
    rules: EngineRules,
    constants: Constants,
    count: int,
) -> Layout | None:
    """The plainest layout of ``count`` GPUs that holds the variant."""
    architecture = variant.architecture
    layouts = [
        each for each in candidates(architecture, site, ask) if each.gpus == count
    ]
    kv_dtype = ask.kv_cache_dtype or "auto"
    for layout in sorted(layouts, key=_plainness):
        if refusals(architecture, layout, site):
            continue
        fitted = _fitted(architecture, layout, site, ask, rules, constants, kv_dtype)
        if not isinstance(fitted, Miss):
            return layout
    return None


def _size(layout: Layout) -> int:
    return layout.gpus


def _plainness(layout: Layout) -> tuple[int, ...]:
    """Layouts with fewer parts first."""
    return layout.pipeline, layout.data, layout.expert, layout.context


def _options(
    variant: Variant, site: Site, engine: EngineName, constants: Constants, ask: Ask
) -> tuple[list[Option], list[Refused]]:
    rules = rules_for(engine, ask.engine_version)
    options: list[Option] = []
    rejected: list[Refused] = []
    architecture = variant.architecture
    tokens = ask.context or ask.input_tokens + ask.output_tokens
    if tokens > architecture.max_context:
        reason = f"was trained for {architecture.max_context} tokens, and {tokens} are asked for"
        return [], [Refused(variant.name, reason, "context", 0)]
    checkpoint = architecture.checkpoint_bytes / GIB
    largest = math.inf
    for layout in sorted(candidates(architecture, site, ask), key=_size):
        if layout.gpus > largest:
            break
        name = f"{site.gpus}x{site.gpu.name}, {variant.name}, {layout}"
        broken = refusals(architecture, layout, site)
        if broken:
            rule, sentence = broken[0]
            rejected.append(Refused(name, sentence, rule, 0))
            continue
        for kv_dtype in _kv_dtypes(ask):
            fitted = _fitted(
                architecture, layout, site, ask, rules, constants, kv_dtype
            )
            if isinstance(fitted, Miss):
                if kv_dtype == _kv_dtypes(ask)[-1]:
                    rejected.append(
                        Refused(name, fitted.sentence, "memory", 0, fitted.need_gib)
                    )
                continue
            replicas = _replicas(layout, site, ask)
            if not replicas:
                continue
            largest = min(largest, max(site.domain, WIDEST * layout.gpus))
            whole = layout.model_copy(update={"replicas": replicas})
            model = steps_of(architecture, layout, site, fitted, constants)
            even = _evenly(model)
            options.append(
                Option(
                    variant,
                    site,
                    engine,
                    rules,
                    constants,
                    whole,
                    fitted,
                    model,
                    even,
                    quick_pace(model, fitted, ask, replicas),
                    quick_pace(even, fitted, ask, replicas),
                    ready_seconds(
                        architecture, fitted, layout, site, constants, checkpoint
                    ),
                    variant.compromise
                    + (kv_dtype != "auto" and not ask.kv_cache_dtype),
                )
            )
    return options, rejected


def _evenly(model: StepModel) -> StepModel:
    """The same with even routing; itself where there are no experts, or routing is even."""
    if not model.experts or model.constants.spread == 1.0:
        return model
    constants = model.constants.model_copy(update={"spread": 1.0})
    return dataclasses.replace(model, constants=constants)


def _fitted(
    architecture: Architecture,
    layout: Layout,
    site: Site,
    ask: Ask,
    rules: EngineRules,
    constants: Constants,
    kv_dtype: str,
) -> Fit | Miss:
    """As asked; else with less context, where none is asked for; else with tighter settings."""
    settings = settings_for(architecture, site, ask, rules, kv_dtype)
    tight = settings_for(architecture, site, _tightened(ask), rules, kv_dtype)
    least = ask.input_tokens + ask.output_tokens
    contexts = [c for c in CONTEXTS if least <= c < settings.context]
    contexts = [settings.context, *(() if ask.context else contexts)]
    result: Miss | None = None
    for each in (settings, tight):
        for context in contexts:
            tried = each.model_copy(update={"context": context})
            outcome = fit(architecture, layout, site, tried, rules, constants)
            if not isinstance(outcome, Miss):
                return outcome
            result = result or outcome
            if outcome.hopeless:
                break
    assert result is not None
    return result


def _tightened(ask: Ask) -> Ask:
    """Smaller batches and less headroom, as far as they are not pinned."""
    return ask.model_copy(
        update={
            "utilization": ask.utilization or 0.95,
            "max_batched_tokens": ask.max_batched_tokens or 2048,
            "max_seqs": ask.max_seqs or max(16, min(128, ask.concurrency)),
        }
    )


def _kv_dtypes(ask: Ask) -> tuple[str, ...]:
    return (ask.kv_cache_dtype,) if ask.kv_cache_dtype else ("auto", "fp8")


def _replicas(layout: Layout, site: Site, ask: Ask) -> int:
    """How many copies of ``layout`` the site holds, and the load keeps busy."""
    inside = site.per_node // layout.gpus
    room = site.nodes * inside if inside else site.gpus // layout.gpus
    if ask.replicas:
        return ask.replicas if ask.replicas <= room else 0
    if ask.objective == "gpus":
        return min(1, room)
    return min(room, max(1, ask.concurrency // layout.data))


def _with_splits(options: Sequence[Option], ask: Ask) -> list[Option]:
    """The options, and those of several replicas with prefill and decode apart.

    Only the best few by their closed-form pace are split; ``ask.split`` wants nothing else.
    """
    several = [
        option
        for option in options
        if option.layout.replicas > 1 and ask.rate is None and ask.concurrency > 1
    ]
    several.sort(key=lambda option: _key(option, ask))
    split: list[Option] = []
    for option in several[:SPLIT]:
        total = option.layout.replicas
        kv = _kv_gib(option, ask.input_tokens)
        best: Option | None = None
        for prefill in range(1, total):
            roles = Role(prefill=prefill, decode=total - prefill)
            pace, even = (
                split_pace(model, option.fitted, ask, prefill, roles.decode, kv)
                for model in (option.model, option.even)
            )
            tried = dataclasses.replace(option, roles=roles, pace=pace, even_pace=even)
            if best is None or _key(tried, ask) < _key(best, ask):
                best = tried
        if best:
            split.append(best)
    return split if ask.split and split else [*options, *split]


def _kv_gib(option: Option, tokens: int) -> float:
    """Of ``tokens`` on all ranks of a replica: what a split sends for each request."""
    layout = option.layout
    each = sum(
        kv_bytes_per_token(
            layer.attention,
            layout.tensor,
            option.fitted.settings.kv_cache_dtype,
            layout.context,
        )
        for layer in option.variant.architecture.layers
    )
    return each * layout.tensor * tokens / GIB


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


def _key(option: Option, ask: Ask) -> tuple[float, ...]:
    """Smaller is better: the SLO first, then no compromise in quality, then the objective."""
    pace = option.expected(ask)
    late = 0.0 if _meets(pace, ask) in (True, None) else 1.0
    parts = option.layout
    simple = parts.pipeline + parts.expert + parts.context / 100 + bool(option.roles)
    cost = _cost(option)
    speed = pace.tokens_per_s * (SPLIT_MARGIN if option.roles else 1.0)
    by: dict[str, tuple[float, ...]] = {
        "throughput": (-speed, option.gpus, simple),
        "latency": (pace.tpot, pace.ttft, option.gpus, simple),
        "cost": (cost / speed, option.gpus, simple),
        "gpus": (option.gpus, -speed, simple),
    }
    unserved = 1.0 if not math.isfinite(pace.tpot) else 0.0
    return (unserved, late, option.compromise, *by[ask.objective])


def _simplest_first(options: list[Option], ask: Ask) -> list[Option]:
    """Of throughputs that are alike, the fewest GPUs and the plainest layout come first."""
    if ask.objective != "throughput" or not options:
        return options
    best = options[0]
    alike = [
        option
        for option in options
        if option.compromise == best.compromise
        and _meets(option.expected(ask), ask) == _meets(best.expected(ask), ask)
        and option.expected(ask).tokens_per_s
        >= best.expected(ask).tokens_per_s * (1 - TIE)
    ]
    alike.sort(
        key=lambda option: (
            option.gpus,
            bool(option.roles),
            option.layout.pipeline,
            option.layout.expert,
            option.layout.context,
            -option.expected(ask).tokens_per_s,
        )
    )
    return alike[:1] + [option for option in options if option is not alike[0]]


def _meets(pace: Pace, ask: Ask) -> bool | None:
    slo = ask.slo
    if slo.ttft_s is None and slo.tpot_s is None:
        return None
    return (slo.ttft_s is None or pace.ttft <= slo.ttft_s) and (
        slo.tpot_s is None or pace.tpot <= slo.tpot_s
    )


def _cost(option: Option) -> float:
    """Of an hour; GPUs count as one each where the nodes have no price."""
    price = option.site.price_per_hour
    return price / option.site.per_node * option.gpus if price else float(option.gpus)


def _proposal(option: Option, ask: Ask) -> Proposal:
    fitted, pace, constants = option.fitted, option.pace, option.constants
    notes = warnings_of(
        option.variant.architecture, option.site, option.layout, constants
    )
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
    cost = _cost(option) if priced else None
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
        weights_gib_per_rank=round(weights, 3),
        weights_gib_per_rank_interval=_rounded(
            weights * (1 - error.memory), weights * (1 + error.memory)
        ),
        kv_cache_tokens=fitted.kv_tokens,
        kv_cache_tokens_interval=(fitted.kv_tokens_low, fitted.kv_tokens_high),
        kv_concurrency=round(fitted.kv_tokens / fitted.settings.context, 2),
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
        meets_slo=_meets(option.expected(ask), ask),
        cost_per_hour=round(cost, 2) if cost else None,
        cost_per_million_tokens=(
            round(cost / pace.tokens_per_s / 3600 * 1e6, 3) if cost else None
        ),
        reasons=reasons_of(
            option.variant.architecture, option.layout, fitted.settings, ask
        ),
        warnings=notes.all,
    )


def _around(low: float, high: float, error: float) -> Interval:
    """From a little under the lower of the two to a little over the higher."""
    return min(low, high) / (1 + error), max(low, high) * (1 + error)


def _rounded(low: float, high: float) -> Interval:
    return round(low, 3), round(high, 3)


def _pareto(plans: Sequence[Proposal]) -> tuple[int, ...]:
    """Plans that no other is at least as good as in TPOT, throughput and GPUs, and better in one."""

    def better(a: Proposal, b: Proposal) -> bool:
        one = (a.tpot_ms, -a.output_tokens_per_s, a.gpus)
        two = (b.tpot_ms, -b.output_tokens_per_s, b.gpus)
        return one != two and all(x <= y for x, y in zip(one, two, strict=True))

    return tuple(
        number
        for number, plan in enumerate(plans)
        if not any(better(other, plan) for other in plans)
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
