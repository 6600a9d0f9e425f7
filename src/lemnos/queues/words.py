"""What a person should know of plans in a queue, in sentences. Pure, but for the local time zone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from lemnos.queues.ranking import (
    QueuedPlan,
    better_later,
    gain,
    is_now,
    tokens_per_s,
)
from lemnos.spec.proposal import Ask

HOUR = 3600.0


def headline(plans: Sequence[QueuedPlan], at: float) -> str:
    """``H100 GPUs: 1, 2, 4 now; 8 in 9 h``, a line for each kind of GPU."""
    lines = []
    for kind in sorted({plan.plan.gpu for plan in plans}):
        own = [plan for plan in plans if plan.plan.gpu == kind]
        groups: list[tuple[str, list[int]]] = []
        for count in sorted({plan.gpus for plan in own}):
            when = _soonest([plan for plan in own if plan.gpus == count], at)
            if groups and groups[-1][0] == when:
                groups[-1][1].append(count)
            else:
                groups.append((when, [count]))
        parts = [f"{', '.join(map(str, counts))} {when}" for when, counts in groups]
        lines.append(f"{kind} GPUs: {'; '.join(parts)}")
    return "\n".join(lines)


def advice(
    plans: Sequence[QueuedPlan], ask: Ask, at: float, on: str, *, queues: bool = True
) -> str:
    """What to do, in a sentence or two; ``plans`` as ranked, and at least one is not refused.

    ``queues``: what there is no room for now can wait there.
    """
    chosen = plans[0]
    if chosen.first_at is None:
        why = f" ({chosen.why})" if chosen.why else ""
        if not queues:
            return f"{on} has no room for any of them now{why}, and no queue to wait in"
        return (
            f"{on} does not say when anything would start{why}: lemnos up waits in its queue, "
            f"with {chosen.gpus} GPUs for {_name(chosen)}"
        )
    said = _begin(chosen, at)
    later = better_later(plans, ask)
    if later is None or later.full_at is None:
        return said
    return (
        f"{said}; {later.gpus} ({_name(later)}) would {_gives(later, chosen, ask)} "
        f"from {clock(later.full_at, at)} on (in {length(later.full_at - at)})"
    )


def when(time: float | None, at: float) -> str:
    """``now``, ``03:10 (in 9 h)``, ``not known``."""
    if time is None:
        return "not known"
    if is_now(time, at):
        return "now"
    return f"{clock(time, at)} (in {length(time - at)})"


def length(seconds: float) -> str:
    """``40 s``, ``12 min``, ``9 h``, ``1.5 h``, ``3 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * HOUR:
        return f"{_short(seconds / HOUR)} h"
    return f"{_short(seconds / 24 / HOUR)} days"


def clock(time: float, at: float) -> str:
    """``03:10`` in the coming hours, ``Sun 03:10`` in the coming days, else with its date; local time."""
    there = datetime.fromtimestamp(time).astimezone()
    if time - at < 20 * HOUR:
        return f"{there:%H:%M}"
    if time - at < 6 * 24 * HOUR:
        return f"{there:%a %H:%M}"
    return f"{there:%Y-%m-%d %H:%M}"


def _begin(chosen: QueuedPlan, at: float) -> str:
    gives = f"{tokens_per_s(chosen.plan):,.0f} tokens/s"
    if is_now(chosen.full_at, at):
        return f"start with {chosen.gpus} GPUs now ({_name(chosen)}, {gives})"
    first = chosen.replicas_then * chosen.size.total
    begin = when(chosen.first_at, at)
    if chosen.full_at is not None and chosen.full_at == chosen.first_at:
        return f"the first that can start is {chosen.gpus} GPUs ({_name(chosen)}, {gives}), at {begin}"  # fmt: skip
    rest = (
        f"all of them from {when(chosen.full_at, at)} on"
        if chosen.full_at is not None
        else "and nobody says when the others can"
    )
    lead = "now" if is_now(chosen.first_at, at) else f"at {begin}"
    return (
        f"start with {_name(chosen)}: {first} of its {chosen.gpus} GPUs can start {lead}, "
        f"{rest} ({gives} then)"
    )


def _gives(later: QueuedPlan, chosen: QueuedPlan, ask: Ask) -> str:
    if later.compromise < chosen.compromise:
        return f"serve {later.plan.model}"
    times = gain(later, chosen, ask)
    many = "twice" if 1.9 <= times < 2.1 else f"{times:.1f} times"
    return {
        "throughput": f"give {many} the tokens" if many == "twice" else f"give {many} as many tokens",
        "latency": f"be {many} as fast with each token",
        "cost": f"give {many} the tokens for the money",
        "gpus": f"take {many} fewer GPUs",
    }[ask.objective]  # fmt: skip


def _name(plan: QueuedPlan) -> str:
    return f"{plan.plan.model} as {plan.plan.divided}"


def _soonest(plans: Sequence[QueuedPlan], at: float) -> str:
    known = [plan.full_at for plan in plans if plan.full_at is not None]
    if known:
        return "now" if is_now(min(known), at) else f"in {length(min(known) - at)}"
    if all(plan.refused for plan in plans):
        return "refused"
    return "not known"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 10 else f"{number:.0f}"
