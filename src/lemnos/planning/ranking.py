"""Which of the options is better. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lemnos.planning.options import Option
from lemnos.planning.pace import Pace
from lemnos.spec.proposal import Ask, Proposal

SPLIT_MARGIN = 0.85
"""A split has to promise this much more: it adds a transfer and a scheduler, and none was measured."""
TIE = 0.02
"""Throughputs nearer than this are alike: the simpler layout is taken."""


def sort_key(option: Option, ask: Ask) -> tuple[float, ...]:
    """Smaller is better: the SLO first, then no compromise in quality, then the objective."""
    pace = option.expected(ask)
    late = 0.0 if meets(pace, ask) in (True, None) else 1.0
    parts = option.layout
    simple = parts.pipeline + parts.expert + parts.context / 100 + bool(option.roles)
    cost = cost_per_hour(option)
    speed = pace.tokens_per_s * (SPLIT_MARGIN if option.roles else 1.0)
    by: dict[str, tuple[float, ...]] = {
        "throughput": (-speed, option.gpus, simple),
        "latency": (pace.tpot, pace.ttft, option.gpus, simple),
        "cost": (cost / speed, option.gpus, simple),
        "gpus": (option.gpus, -speed, simple),
    }
    unserved = 1.0 if not math.isfinite(pace.tpot) else 0.0
    return (unserved, late, option.compromise, *by[ask.objective])


def simplest_first(options: list[Option], ask: Ask) -> list[Option]:
    """Of throughputs that are alike, the fewest GPUs and the plainest layout come first."""
    if ask.objective != "throughput" or not options:
        return options
    best = options[0]
    alike = [
        option
        for option in options
        if option.compromise == best.compromise
        and meets(option.expected(ask), ask) == meets(best.expected(ask), ask)
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


def meets(pace: Pace, ask: Ask) -> bool | None:
    """Whether the service level is kept; None where none was asked for."""
    slo = ask.slo
    if slo.ttft_s is None and slo.tpot_s is None:
        return None
    return (slo.ttft_s is None or pace.ttft <= slo.ttft_s) and (
        slo.tpot_s is None or pace.tpot <= slo.tpot_s
    )


def cost_per_hour(option: Option) -> float:
    """Of an hour; GPUs count as one each where the nodes have no price."""
    price = option.site.price_per_hour
    return price / option.site.per_node * option.gpus if price else float(option.gpus)


def pareto(plans: Sequence[Proposal]) -> tuple[int, ...]:
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
