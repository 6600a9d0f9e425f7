"""Refit the speed model's constants to what was measured. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from lemnos.errors import UsageError
from lemnos.planning.calibration import Constants
from lemnos.spec.base import Value
from lemnos.spec.layout import Layout

FITTED = (
    "memory",
    "memory_kv",
    "compute",
    "kernel_us",
    "launch_us",
    "request_ms",
    "reduce_us",
    "link",
)
"""``compute`` scales the efficiency of every format alike."""
BOUNDS = {
    "memory": (0.3, 0.95),
    "memory_kv": (0.2, 0.95),
    "compute": (0.2, 2.0),
    "kernel_us": (1.0, 20.0),
    "launch_us": (2.0, 200.0),
    "request_ms": (0.5, 100.0),
    "reduce_us": (1.0, 60.0),
    "link": (0.1, 0.9),
}
PULL = 0.02
"""How strongly constants are held where they were: what was not measured must not wander."""
ROUNDS = 25


class Measured(Value):
    """One measured point: what ran where, under which load, and what clients saw."""

    model: str
    gpu: str
    layout: Layout = Layout()
    eager: bool = False
    kv_cache_dtype: str = "auto"
    max_batched_tokens: int | None = None
    max_seqs: int | None = None
    context: int | None = None
    concurrency: Annotated[int, Field(ge=1)]
    input_tokens: Annotated[int, Field(ge=1)]
    output_tokens: Annotated[int, Field(ge=1)]
    requests: Annotated[int, Field(ge=1)]
    ttft_ms: Annotated[float, Field(gt=0)]
    tpot_ms: Annotated[float, Field(gt=0)]
    utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    weights_gib_per_rank: float | None = None
    kv_cache_tokens: int | None = None
    """What the engine's log said; not needed to refit."""
    spread: Annotated[float, Field(ge=0, le=1)] | None = None
    """How the tokens were routed: 0 all alike (random weights), 1 evenly; None: as the constants say."""
    skip: str | None = None
    """Why this point is not to be fitted or counted."""


class MeasuredFile(Value):
    """What ``--calibrate`` reads."""

    engine: str = "vllm"
    points: Annotated[tuple[Measured, ...], Field(min_length=1)]


Predict = Callable[[Measured, Constants], tuple[float, float]]
"""(TTFT, TPOT) in milliseconds."""


def refit(
    constants: Constants, points: Sequence[Measured], predict: Predict, source: str
) -> Constants:
    """``constants`` moved to where the logarithms of predicted and measured differ least.

    Each constant in turn is tried a step up and down; steps that help grow, others shrink.
    Robust (absolute deviations beyond 0.2 count linearly), so that one odd point does not
    rule. Raises UsageError where there is too little to fit.
    """
    if len(points) < 3:
        raise UsageError(
            f"{len(points)} measured points are too few to refit the speed model",
            fix="measure at least three loads: lemnos bench --concurrency 1,8,32",
        )
    factors = dict.fromkeys(FITTED, 0.0)

    def loss(trial: dict[str, float]) -> float:
        moved = _moved(constants, trial)
        total = PULL * sum(shift**2 for shift in trial.values()) * len(points)
        for point in points:
            ttft, tpot = predict(point, moved)
            total += _huber(math.log(max(tpot, 1e-9) / point.tpot_ms))
            total += 0.4 * _huber(math.log(max(ttft, 1e-9) / point.ttft_ms))
        return total

    best = loss(factors)
    steps = dict.fromkeys(FITTED, 0.15)
    for _ in range(ROUNDS):
        for name in FITTED:
            for sign in (1.0, -1.0):
                trial = {**factors, name: factors[name] + sign * steps[name]}
                if (result := loss(trial)) < best:
                    best, factors = result, trial
                    steps[name] *= 1.3
                    break
            else:
                steps[name] *= 0.6
    moved = _moved(constants, factors)
    errors = [predict(point, moved) for point in points]
    tpots = [abs(e[1] / p.tpot_ms - 1) for e, p in zip(errors, points, strict=True)]
    ttfts = [abs(e[0] / p.ttft_ms - 1) for e, p in zip(errors, points, strict=True)]
    gpus = tuple(sorted({point.gpu for point in points}))
    error = constants.error.model_copy(
        update={"tpot": max(0.05, _p90(tpots)), "ttft": max(0.05, _p90(ttfts))}
    )
    return moved.model_copy(update={"error": error, "gpus": gpus, "source": source})


def _moved(constants: Constants, factors: dict[str, float]) -> Constants:
    """Every constant times e to its factor, within its bounds."""
    changes: dict[str, object] = {}
    for name, factor in factors.items():
        low, high = BOUNDS[name]
        if name == "compute":
            scale = min(max(math.exp(factor), low), high)
            changes[name] = {k: v * scale for k, v in constants.compute.items()}
        else:
            value = getattr(constants, name) * math.exp(factor)
            changes[name] = min(max(value, low), high)
    return constants.model_copy(update=changes)


def _huber(deviation: float, edge: float = 0.2) -> float:
    size = abs(deviation)
    return size**2 if size <= edge else edge * (2 * size - edge)


def _p90(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
