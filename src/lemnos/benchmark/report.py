"""From samples to figures. Pure; definitions as in vLLM's serving benchmark.

TTFT: from sending to the first piece of text. TPOT: (end - first piece) / (tokens - 1).
ITL: between two pieces of text. Throughput: tokens of all requests over the whole time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One request; times in seconds on one monotonic clock."""

    sent: float
    pieces: tuple[float, ...] = ()
    """When each piece of text came; none for an answer that ended at once."""
    ended: float = 0.0
    output_tokens: int = 0
    """As the server counts them; the pieces, where it does not."""
    prompt_tokens: int = 0
    error: str = ""


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """Figures with their units in their names; those that need an answer are absent without one."""
    good = [sample for sample in samples if not sample.error]
    result = {
        "requests": float(len(samples)),
        "failed": float(len(samples) - len(good)),
    }
    if not good:
        return result
    ttft = [sample.pieces[0] - sample.sent for sample in good if sample.pieces]
    e2e = [sample.ended - sample.sent for sample in good]
    tpot = [
        (sample.ended - sample.pieces[0]) / (sample.output_tokens - 1)
        for sample in good
        if sample.pieces and sample.output_tokens > 1
    ]
    itl = [
        later - earlier
        for sample in good
        for earlier, later in zip(sample.pieces, sample.pieces[1:], strict=False)
    ]
    seconds = max(s.ended for s in good) - min(s.sent for s in good)
    result |= _percentiles("ttft_ms", ttft) | _percentiles("tpot_ms", tpot)
    result |= _percentiles("itl_ms", itl) | _percentiles("e2e_ms", e2e)
    result |= {
        "duration_s": seconds,
        "requests_per_s": len(good) / seconds,
        "output_tokens_per_s": sum(s.output_tokens for s in good) / seconds,
        "input_tokens_mean": statistics.fmean(s.prompt_tokens for s in good),
        "output_tokens_mean": statistics.fmean(s.output_tokens for s in good),
    }
    return {key: round(value, 3) for key, value in result.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, int(rank) - 1)]


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ms = [1000 * value for value in seconds]
    found = {f"{name}_p{p}": percentile(ms, p / 100) for p in (50, 95, 99)}
    return found | {f"{name}_mean": statistics.fmean(ms)}
