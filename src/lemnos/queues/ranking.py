"""Plans by when they answer first, the queue included, and by what they give then. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from lemnos.planning.ranking import TIE
from lemnos.queues.sizes import Size, holds
from lemnos.spec.base import Value
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import SPEC_VERSION
from lemnos.spec.layout import Rejection
from lemnos.spec.proposal import Ask, Proposal
from lemnos.spec.unit import Room

ALIKE_S = 300.0
"""First tokens that are no further apart count as equally early: what starts then, decides."""
SOON_S = 60.0
"""What starts within this starts now: schedulers look every half minute."""
TIMES_BETTER = 1.2
"""Less is not worth waiting for."""


class Answer(Value):
    """What the room says of a job of one size."""

    starts_at: float | None = None
    """Epoch seconds; None: it does not say."""
    why: str = ""
    """Why not now, in words."""
    refused: str = ""
    """Why it never could, in words."""


class Candidate(Value):
    """A plan, as the jobs that it would be."""

    plan: Proposal
    gpu_type: str = ""
    """The room's own word for its GPUs, where jobs must ask for it."""
    size: Size
    """Of a replica, which is a job."""
    replicas: int = 1
    compromise: int = 0
    """0: the checkpoint and KV cache that were asked for."""
    refused: str = ""
    """Why it is no job at all."""


class QueuedPlan(Value):
    """A plan, and when the room would start it."""

    plan: Proposal
    gpu_type: str = ""
    size: Size
    replicas: int = 1
    compromise: int = 0
    first_at: float | None = None
    """When the first replica could start, epoch seconds; None: not known."""
    replicas_then: int = 0
    """Of which it is known that they could start then, too."""
    full_at: float | None = None
    """When all could have, at the latest; None: not known."""
    wait_s: float | None = None
    """Until ``first_at``."""
    first_token_s: float | None = None
    """From now: the queue, then what starting and a first token take."""
    why: str = ""
    """Why not all of it now, in words."""
    refused: str = ""
    """Why the room would never start it, in words."""

    @property
    def gpus(self) -> int:
        """That its jobs take."""
        return self.size.total * self.replicas


class QueuedPlans(Value):
    """The answer: the plan to begin with first."""

    version: int = SPEC_VERSION
    on: str
    at: float
    """When the room was asked, epoch seconds."""
    asked: Ask
    plans: tuple[QueuedPlan, ...]
    """Those that the room refuses last."""
    headline: str = ""
    """``H100 GPUs: 4 now; 8 in 9 h``, a line for each kind of GPU."""
    advice: str = ""
    spec: DeploymentSpec
    """What the plans are for."""
    notes: tuple[str, ...] = ()
    """What the room did not say."""
    rejected: tuple[Rejection, ...] = ()
    smallest: str | None = None
    with_offload: str | None = None

    @property
    def startable(self) -> tuple[QueuedPlan, ...]:
        """Without those that the room refuses."""
        return tuple(plan for plan in self.plans if not plan.refused)


def answered(room: Room, at: float) -> Answer:
    """What ``room`` says, as a time."""
    starts_at = at if room.free and room.starts_at is None else room.starts_at
    return Answer(starts_at=starts_at, why="" if room.free else room.why)


def queued(
    candidate: Candidate, answers: Mapping[Size, Answer], at: float
) -> QueuedPlan:
    """When ``candidate`` would start, by what the room said of jobs of its size and of larger ones."""
    own = answers.get(candidate.size, Answer())
    made = QueuedPlan(
        plan=candidate.plan,
        gpu_type=candidate.gpu_type,
        size=candidate.size,
        replicas=candidate.replicas,
        compromise=candidate.compromise,
        refused=candidate.refused or own.refused,
    )
    if made.refused:
        return made
    times = [
        (answer.starts_at, held)
        for size, answer in answers.items()
        if answer.starts_at is not None and (held := holds(size, candidate.size))
    ]
    if not times:
        return made.model_copy(update={"why": own.why})
    first = min(time for time, _ in times)
    then = max(held for time, held in times if time <= first + ALIKE_S)
    full = [time for time, held in times if held >= candidate.replicas]
    wait = max(0.0, first - at)
    plan = candidate.plan
    return made.model_copy(
        update={
            "first_at": max(first, at),
            "replicas_then": min(then, candidate.replicas),
            "full_at": max(min(full), at) if full else None,
            "wait_s": round(wait, 1),
            "first_token_s": round(wait + plan.ready_s + _ttft(plan) / 1e3, 1),
            "why": _why(candidate, answers, at),
        }
    )


def ranked(plans: Iterable[QueuedPlan], ask: Ask) -> tuple[QueuedPlan, ...]:
    """The one to begin with first. Before all, the service level is kept; refused ones are last."""
    order: list[QueuedPlan] = []
    rest = sorted(plans, key=lambda plan: _time_order(plan, ask))
    while rest:
        alike = [plan for plan in rest if _alike(rest[0], plan)]
        rest = [plan for plan in rest if not _alike(alike[0], plan)]
        alike.sort(key=lambda plan: _value_order(plan, ask))
        order += _fewest_first(alike, ask)
    return tuple(order)


def is_now(time: float | None, at: float) -> bool:
    """Whether something that starts at ``time`` starts now."""
    return time is not None and time <= at + SOON_S


def gain(plan: QueuedPlan, over: QueuedPlan, ask: Ask) -> float:
    """How many times better all of ``plan`` is than all of ``over``, by the objective: 2.0 is twice."""
    mine, others = _figure(plan, ask), _figure(over, ask)
    return others / mine if mine else math.inf


def better_later(plans: Sequence[QueuedPlan], ask: Ask) -> QueuedPlan | None:
    """What is worth waiting for after ``plans[0]`` was started: the best that comes later, if it is
    known when, and is much better or no compromise."""
    chosen = plans[0]
    begun = chosen.full_at or chosen.first_at or 0.0
    later = [
        plan
        for plan in plans[1:]
        if plan.full_at is not None
        and plan.full_at > begun + ALIKE_S
        and (plan.plan.meets_slo is not False or chosen.plan.meets_slo is False)
        and plan.compromise <= chosen.compromise
        and (
            plan.compromise < chosen.compromise
            or gain(plan, chosen, ask) >= TIMES_BETTER
        )
    ]
    if not later:
        return None
    least = min(plan.compromise for plan in later)
    alike = [plan for plan in later if plan.compromise == least]
    best = max(gain(plan, chosen, ask) for plan in alike)
    near = [plan for plan in alike if gain(plan, chosen, ask) >= best * (1 - TIE)]
    return min(near, key=lambda plan: (plan.full_at, plan.gpus))


def tokens_per_s(plan: Proposal) -> float:
    """Of all replicas, as choices are made: experts evenly used, where there are experts."""
    return plan.output_tokens_per_s_even_routing or plan.output_tokens_per_s


def _ttft(plan: Proposal) -> float:
    return plan.ttft_ms_even_routing or plan.ttft_ms


def _why(candidate: Candidate, answers: Mapping[Size, Answer], at: float) -> str:
    """Why the first replica cannot start now; else why not all of them."""
    own = answers.get(candidate.size, Answer())
    if own.why:
        return own.why
    whole = [
        answer
        for size, answer in answers.items()
        if holds(size, candidate.size) >= candidate.replicas
    ]
    if any(is_now(answer.starts_at, at) for answer in whole):
        return ""
    if said := [answer.why for answer in whole if answer.why]:
        return said[0]
    if any(answer.refused for answer in whole):
        return "no job may be as large as all of its jobs, so they cannot be asked about together"
    return "it was not asked about all of its jobs together"


def _time_order(plan: QueuedPlan, ask: Ask) -> tuple[float, ...]:
    known = plan.first_token_s
    return (
        bool(plan.refused),
        plan.plan.meets_slo is False,
        known is None,
        known if known is not None else plan.size.total,
    )


def _alike(first: QueuedPlan, other: QueuedPlan) -> bool:
    """Whether ``other`` answers about as early as ``first``, and both are known to, or not."""
    same = (bool(first.refused), first.plan.meets_slo is False)
    if same != (bool(other.refused), other.plan.meets_slo is False):
        return False
    if first.first_token_s is None or other.first_token_s is None:
        return first.first_token_s is other.first_token_s
    return other.first_token_s - first.first_token_s <= ALIKE_S


def _value_order(plan: QueuedPlan, ask: Ask) -> tuple[float, ...]:
    """Smaller is better: no compromise, then what starts first, then all of it."""
    full = _figure(plan, ask)
    part = plan.replicas_then / plan.replicas or 1.0
    early = full / part if ask.objective == "throughput" else full
    return plan.compromise, early, full, plan.gpus


def _fewest_first(plans: list[QueuedPlan], ask: Ask) -> list[QueuedPlan]:
    """Of throughputs that are alike, the fewest GPUs come first."""
    if ask.objective != "throughput" or not plans:
        return plans
    best = plans[0]
    alike = [
        plan
        for plan in plans
        if plan.compromise == best.compromise
        and _value_order(plan, ask)[1] <= _value_order(best, ask)[1] * (1 + TIE)
        and _figure(plan, ask) <= _figure(best, ask) * (1 + TIE)
    ]
    least = min(alike, key=lambda plan: plan.gpus)
    return [least, *(plan for plan in plans if plan is not least)]


def _figure(plan: QueuedPlan, ask: Ask) -> float:
    """Of all of the plan, by the objective; smaller is better."""
    speed = tokens_per_s(plan.plan)
    per_hour = plan.plan.cost_per_hour or float(plan.plan.gpus)
    if ask.objective == "latency":
        return plan.plan.tpot_ms_even_routing or plan.plan.tpot_ms
    if ask.objective == "cost":
        return per_hour / speed if speed else math.inf
    if ask.objective == "gpus":
        return float(plan.plan.gpus)
    return 1.0 / speed if speed else math.inf
