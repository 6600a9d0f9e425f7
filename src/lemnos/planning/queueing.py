"""Requests through an engine's scheduler: continuous batching with chunked prefill. Pure.

What vLLM's scheduler does each step: every running request gets one token, and what is left of
``max_batched_tokens`` goes to waiting prompts, first come first served, as long as there is
room for the request and its KV cache. Steps that differ only in how far requests have come are
taken together, so the work grows with the requests, not with their tokens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

StepTime = Callable[[float, float, float, float], float]
"""(prompt tokens, tokens behind them, decoding requests, their context) -> seconds."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it arrives (seconds), and its lengths."""

    at: float
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler may do at once."""

    max_batched_tokens: int
    max_seqs: int
    kv_tokens: int
    """Tokens that the KV cache holds."""


@dataclass(frozen=True, slots=True)
class Served:
    """What became of a request, in seconds."""

    ttft: float
    tpot: float
    """Mean between its tokens after the first; 0 where there was one only."""
    finished: float


@dataclass(slots=True)
class _Running:
    request: Request
    left: int
    """Of its prompt."""
    made: int = 0
    first: float = 0.0

    @property
    def context(self) -> int:
        return self.request.prompt - self.left + self.made


SPACING = 0.001
"""Seconds between requests that clients send at once: the front end takes them one by one."""


def closed_loop(
    concurrency: int, prompt: int, output: int, count: int
) -> list[Request]:
    """``count`` requests, ``concurrency`` of them in flight: each later one, which has -1 for
    its arrival, comes when an earlier one ends."""
    return [
        Request(i * SPACING if i < concurrency else -1.0, prompt, output)
        for i in range(count)
    ]


def poisson(rate: float, prompt: int, output: int, count: int) -> list[Request]:
    """``count`` requests at ``rate`` a second, at the quantiles of an exponential distribution.

    The gaps are deterministic (no randomness in a plan) in an order that mixes short and long.
    """
    gaps = [-math.log(1.0 - (i + 0.5) / count) / rate for i in range(count)]
    step = next(
        n
        for n in range(max(2, int(count * 0.618)), count + 2)
        if math.gcd(n, count) == 1
    )
    at, requests = 0.0, []
    for i in range(count):
        requests.append(Request(at, prompt, output))
        at += gaps[i * step % count]
    return requests


def simulate(
    requests: Sequence[Request], step: StepTime, limits: Limits, lag: float = 0.0
) -> list[Served]:
    """Serve ``requests`` (sorted by arrival); ``lag``: seconds of each request outside the engine.

    A request longer than the KV cache is never served: its times are infinite.
    """
    waiting: deque[tuple[float, Request]] = deque()
    arrivals = deque((r.at, r) for r in requests if r.at >= 0)
    follow = deque(r for r in requests if r.at < 0)
    running: list[_Running] = []
    served: list[Served] = []
    now, held = 0.0, 0
    while arrivals or waiting or running:
        while arrivals and arrivals[0][0] <= now:
            waiting.append(arrivals.popleft())
        decoding = [r for r in running if not r.left]
        budget = limits.max_batched_tokens - len(decoding)
        chunks: list[tuple[_Running, int]] = []
        for each in running:
            if each.left and budget > 0:
                take = min(each.left, budget)
                chunks.append((each, take))
                budget -= take
        while waiting and budget > 0 and len(running) < limits.max_seqs:
            at, request = waiting[0]
            need = request.prompt + request.output
            if need > limits.kv_tokens:
                waiting.popleft()
                served.append(Served(math.inf, math.inf, math.inf))
                if follow:
                    waiting.append((now, follow.popleft()))
                continue
            if held + need > limits.kv_tokens:
                break
            waiting.popleft()
            held += need
            fresh = _Running(
                Request(at, request.prompt, request.output), request.prompt
            )
            running.append(fresh)
            take = min(fresh.left, budget)
            chunks.append((fresh, take))
            budget -= take
        if not running:
            if arrivals:
                now = max(now, arrivals[0][0])
            continue
        context = sum(r.context for r in decoding) / len(decoding) if decoding else 0.0
        if not chunks:
            now = _decode(decoding, context, step, now, arrivals)
        else:
            tokens = sum(take for _, take in chunks)
            behind = sum((c.context + take / 2) * take for c, take in chunks) / tokens
            now += step(tokens, behind, len(decoding), context)
            for each in decoding:
                each.made += 1
            for each, take in chunks:
                each.left -= take
                if not each.left:
                    each.made, each.first = 1, now
        ended = [r for r in running if not r.left and r.made >= r.request.output]
        for number, each in enumerate(ended):
            running.remove(each)
            held -= each.request.prompt + each.request.output
            served.append(_served(each, now, lag))
            if follow:
                arrivals.append((now + lag + number * SPACING, follow.popleft()))
    return served


def _decode(
    decoding: list[_Running],
    context: float,
    step: StepTime,
    now: float,
    arrivals: deque[tuple[float, Request]],
) -> float:
    """Steps until one request ends or another arrives, taken together; the time after them."""
    steps = min(r.request.output - r.made for r in decoding)
    once = step(0.0, 0.0, len(decoding), context + steps / 2)
    if arrivals and once > 0:
        steps = max(1, min(steps, math.ceil((arrivals[0][0] - now) / once)))
    for each in decoding:
        each.made += steps
    return now + steps * once


def _served(each: _Running, now: float, lag: float) -> Served:
    request = each.request
    later = request.output - 1
    tpot = (now - each.first) / later if later else 0.0
    return Served(each.first - request.at + lag, tpot, now + lag)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``values`` lie, interpolated."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:
        return ordered[low]
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
