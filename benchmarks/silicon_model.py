"""The planner's speed model over thousands of rows at once, and the fit of its constants.

The physics is that of lemnos.planning.speed (stages, bytes, FLOP and kernels are taken from its
``step_model``) and of a closed loop in its steady state instead of a simulated one. Added to it:
the kernels of sparse attention's indexer, speculative decoding, how Blackwell and FP8 in blocks
differ, what requests cost a step, and pools for prefill and decode. Constants are fitted as one value with
a deviation for each backend, both drawn towards the values below: few rows of few architectures
cannot tell forty constants apart, and what they cannot tell must not follow their noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np  # type: ignore[import-not-found,unused-ignore]
from scipy.optimize import least_squares  # type: ignore[import-untyped,import-not-found,unused-ignore]
from silicon_features import Table

Array = Any
"""A numpy array of a value a row."""
TIGHT, FREE = 0.2, 4.5
"""How far (in log) a constant may lie from its start: physics; habits of schedulers and loads."""
STARTS: dict[str, tuple[float, float]] = {
    # of the data sheet's bandwidth: dense weights, KV cache; times, for experts, blocks of FP8,
    # 4 bits multiplied in 16, Blackwell
    "memory": (0.75, TIGHT),
    "memory_kv": (0.70, TIGHT),
    "memory_experts": (0.90, TIGHT),
    "memory_block": (0.85, TIGHT),
    "memory_widened": (0.80, TIGHT),
    "memory_blackwell": (0.90, TIGHT),
    # of the dense peak in large products; times, for blocks of FP8, experts, Blackwell
    "bf16": (0.60, TIGHT),
    "fp8": (0.55, TIGHT),
    "block": (0.85, TIGHT),
    "fp4": (0.35, TIGHT),
    "attention": (0.50, TIGHT),
    "experts": (0.70, TIGHT),
    "blackwell": (0.90, TIGHT),
    "tile": (64.0, 2 * TIGHT),
    # microseconds: a small kernel, an all-reduce of two ranks and its growth with each
    # doubling, both of them times for Blackwell; an all-to-all; a step, and each request in it
    "kernel_us": (3.0, TIGHT),
    "kernel_blackwell": (0.8, TIGHT),
    "reduce_us": (8.0, TIGHT),
    "reduce_blackwell": (0.8, TIGHT),
    "reduce_doubling": (0.3, 2 * TIGHT),
    "exchange_us": (20.0, 2 * TIGHT),
    "step_us": (300.0, 2 * TIGHT),
    "sequence_us": (10.0, 2 * TIGHT),
    "link": (0.5, TIGHT),
    "spread": (0.7, TIGHT),
    # speculation: chance that a drafted token is accepted
    "accepted": (0.65, TIGHT),
    # prompts: a kernel's launch outside of graphs (in steps that decode, schedulers run
    # ahead and hide some of it); how much of a prompt's time others wait for
    "launch_us": (20.0, FREE),
    "launch_mixed_us": (10.0, FREE),
    "interference": (1.0, 2 * TIGHT),
    "interference_closed": (0.7, FREE),
    # time to the first token: constant, steps until a prompt is looked at (more in sweeps,
    # which batch the intake), share of the other streams' prompts that lie ahead, hand-over
    "request_ms": (15.0, FREE),
    "wait_steps": (0.7, FREE),
    "intake_steps": (6.0, FREE),
    "ahead": (0.1, FREE),
    "ahead_closed": (0.3, FREE),
    "ahead_split": (0.2, FREE),
    "transfer_ms": (80.0, FREE),
    # steps that attention's data-parallel ranks wait to start prompts together
    "balance_steps": (20.0, FREE),
}
NAMES = tuple(STARTS)


def step(
    e: Table,
    c: dict[str, Array],
    prompt: Array,
    past: Array,
    decoding: Array,
    context: Array,
    verified: Array | float = 1.0,
) -> Array:
    """lemnos.planning.speed.step_time of every row; ``verified``: tokens of each request."""
    on = e.on_blackwell > 0
    memory = e.bandwidth * c["memory"] * np.where(on, c["memory_blackwell"], 1.0)
    block = np.where(e.blocks > 0, c["memory_block"], 1.0)
    compute = np.where(on, c["blackwell"], 1.0)
    tokens = prompt + decoding * verified
    everyone, count = tokens * e.data, np.maximum(e.experts, 1.0)
    spread = np.minimum(1.0, c["spread"])
    hit = count * (1 - (1 - e.top_k / count) ** (np.maximum(1.0, everyone) ** spread))
    ranks = e.tensor * e.data
    apart = (e.expert > 0) & (ranks > 1)
    crowd = np.log(np.maximum(ranks, 1.001)) * ranks
    picks = np.maximum(everyone * e.top_k, 1.0)
    # the fullest rank; of experts drawn without replacement, none is fuller once all are hit
    fullest = 1 + np.sqrt(crowd / np.maximum(hit, 1.0) * (1 - 0.999 * hit / count))
    fullest = np.where(apart, np.minimum(ranks, fullest), 1.0)
    busiest = np.where(apart, np.minimum(ranks, 1 + np.sqrt(crowd / picks)), 1.0)
    rows = everyone * e.top_k / np.maximum(1.0, hit)
    time = 0.0
    for kind in ("bf16", "fp8", "fp4", "w4a16"):
        wide = "bf16" if kind == "w4a16" else kind
        peak = getattr(e, f"peak_{wide}") * c[wide] * compute
        width = {"fp8": block, "w4a16": c["memory_widened"]}.get(kind, 1.0)
        read = getattr(e, f"dense_bytes_{kind}") / (memory * width)
        if kind == "fp8":
            peak = peak * np.where(e.blocks > 0, c["block"], 1.0)
        work = getattr(e, f"dense_flop_{kind}") * (tokens + c["tile"]) / peak
        time = time + np.maximum(read, work)
        read = getattr(e, f"routed_bytes_{kind}") * np.minimum(
            1.0, hit / count * fullest
        )
        read = read / (memory * width * c["memory_experts"])
        work = (
            getattr(e, f"routed_flop_{kind}")
            * everyone
            * busiest
            / (peak * c["experts"])
        )
        work = work * (rows + c["tile"]) / np.maximum(rows, 1e-9)
        time = time + np.where(e.experts > 0, np.maximum(read, work), 0.0)
    cache = e.bandwidth * c["memory_kv"]
    peak = e.peak_bf16 * c["attention"] * compute
    once = e.peak_decode * c["attention"] * compute
    for look, span, back in (
        ("whole", context, past),
        ("short", np.minimum(context, e.window), np.minimum(past, e.window)),
    ):
        read = getattr(e, f"{look}_bytes") / cache
        work = getattr(e, f"{look}_decode_flop") * verified / once
        time = time + decoding * span * np.maximum(read, work)
        time = time + prompt * back * getattr(e, f"{look}_flop") / peak
    time = time + (decoding + (prompt > 0)) * e.state / (e.bandwidth * 0.5)
    time = time + _messages(e, c, tokens)
    kernels = e.kernels * c["kernel_us"] * np.where(on, c["kernel_blackwell"], 1.0)
    launch = np.where(decoding > 0, c["launch_mixed_us"], c["launch_us"])
    launched = np.maximum(kernels, e.kernels * launch)
    each = np.where(prompt > 0, launched, kernels) + decoding * c["sequence_us"]
    return time + (each + c["step_us"]) * 1e-6


def _messages(e: Table, c: dict[str, Array], tokens: Array) -> Array:
    """All-reduces of tensor parallelism, all-to-all of data-parallel experts."""
    ranks, inside = e.tensor * e.data, e.nvlink * c["link"]
    size = tokens * e.hidden * 2.0
    outside = 1 - 1 / e.nodes
    reduce = c["reduce_us"] * np.where(e.on_blackwell > 0, c["reduce_blackwell"], 1.0)
    reduce = reduce * (
        1 + c["reduce_doubling"] * np.log2(np.maximum(e.tensor, 2.0) / 2)
    )
    reduce = reduce * 1e-6 + 2 * (e.tensor - 1) / e.tensor * size / inside
    reduce = reduce + 2 * outside * size / 8 / 25e9
    copies = np.minimum(e.top_k, ranks) * (ranks - 1) / ranks
    size = tokens * e.hidden * copies * 3.0  # FP8 out, BF16 back
    exchange = 2 * c["exchange_us"] * 1e-6 + size / inside + size * outside / 25e9
    return np.where(e.tensor > 1, e.reduces * reduce, 0.0) + np.where(
        (e.moe_layers > 0) & (e.data > 1), e.moe_layers * exchange, 0.0
    )


CHUNK = 8192.0
"""Tokens of prompts in a step."""


def predict(
    load: Table, engine: Table, prefill: Table, values: Array
) -> tuple[Array, Array]:
    """(TPOT, TTFT) in ms in a closed loop's steady state; ``values``: log, constant x backend."""
    c = {name: np.exp(values[i])[load.backend] for i, name in enumerate(NAMES)}
    prompt, output, nothing = load.prompt, load.output, 0.0 * load.prompt
    chunk = np.minimum(prompt, CHUNK)
    chunks = np.maximum(1.0, prompt / chunk)
    alone = step(prefill, c, chunk, prompt / 2, nothing, nothing) * chunks
    full = np.maximum(prompt, CHUNK)
    batched = step(prefill, c, full, chunk / 2, nothing, nothing) * prompt / full
    chance = np.minimum(0.95, c["accepted"])
    yields = (1 - chance ** (load.drafts + 1)) / (1 - chance)
    yields = yields**load.speculative
    verified = (1 + load.drafts) ** load.speculative
    balance = load.sweep & (load.backend == 2) & (prefill.data > 1)
    context = prompt + output / 2
    fits = np.maximum(1.0, engine.kv_room / (prompt + 0.75 * output))
    first = c["request_ms"] * 1e-3 + alone
    ahead = np.where(load.sweep, c["ahead"], c["ahead_closed"])
    waits = c["wait_steps"] + load.intake * c["intake_steps"]

    # one engine: a request's steps are slowed by the prompts of the others
    asked = np.where(
        load.sweep | np.isnan(load.batch), load.concurrency / engine.data, load.batch
    )
    most = np.where(load.backend == 1, np.where(engine.data > 1, 1024.0, 256.0), 1024.0)
    running = np.minimum(np.maximum(1.0, asked), np.minimum(fits, most))
    base = step(engine, c, nothing, nothing, running, context)
    decode = step(engine, c, nothing, nothing, running, context, verified)
    mixed = step(engine, c, chunk, prompt / 2, running, context)
    longer, share = np.maximum(0.0, mixed - base), batched / chunks
    often = (running - 1) / output * chunks
    # prompts of one step share what a step costs beyond their own arithmetic
    slowed = often * np.minimum(longer, share)
    slowed = slowed + (1 - np.exp(-often)) * np.maximum(0.0, longer - share)
    meets = np.where(load.sweep, c["interference"], c["interference_closed"])
    tpot_one = decode / yields + meets * slowed
    cycle = output * tpot_one + alone
    busy = np.clip(running * longer * chunks / cycle, 0.0, 1.0)
    ttft_one = (
        first + waits * decode + ahead * (running - 1) * batched + 0.5 * busy * alone
    )
    ttft_one = ttft_one + np.where(balance, c["balance_steps"], 0.0) * decode
    ttft_one = ttft_one + np.maximum(0.0, asked / running - 1) * cycle

    # two pools: a closed network of prefill and decode
    servers = np.where(load.split, load.servers, 1.0)
    prefillers = np.where(load.split, load.prefillers, 1.0)
    serves = batched / prefill.data
    slots = np.minimum(fits, load.slots)
    hands = c["transfer_ms"] * 1e-3
    running = np.minimum(load.concurrency / servers / engine.data, slots)
    rate = nothing
    for _ in range(12):
        token = step(
            engine, c, nothing, nothing, np.maximum(1.0, running), context, verified
        )
        decodes = output * token / yields
        free, bound = load.concurrency / (alone + hands + decodes), prefillers / serves
        rate = (free**-6.0 + bound**-6.0) ** (-1 / 6)
        rate = np.minimum(rate, servers * engine.data * slots / decodes)
        running = 0.5 * running + 0.5 * np.minimum(
            rate * decodes / servers / engine.data, slots
        )
    token = step(
        engine, c, nothing, nothing, np.maximum(1.0, running), context, verified
    )
    tpot_two = token / yields
    queued = np.maximum(load.concurrency / rate - output * tpot_two, 0.0)
    ttft_two = first + hands + load.intake * c["intake_steps"] * token
    ttft_two = ttft_two + np.maximum(queued - alone, 0.0)
    ttft_two = (
        ttft_two
        + c["ahead_split"] * np.maximum(0.0, load.concurrency / prefillers - 1) * serves
    )
    tpot = np.where(load.split, tpot_two, tpot_one)
    return tpot * 1e3, np.where(load.split, ttft_two, ttft_one) * 1e3


def start() -> Array:
    """Where every fit starts: no row has been seen."""
    return np.concatenate(
        [np.log([s for s, _ in STARTS.values()]), np.zeros(3 * len(NAMES))]
    )


def unpack(fitted: Array) -> Array:
    """Constants in log, a row each, a column a backend."""
    return fitted[: len(NAMES), None] + fitted[len(NAMES) :].reshape(-1, 3)


def fit(
    parts: tuple[Table, Table, Table], weights: Array, begin: Array, steps: int
) -> Array:
    """Constants that bring log(predicted / measured) near 0, outliers counted linearly."""
    load, rows, number = parts[0], len(weights), len(NAMES)
    measured = np.log(load.tpot), np.log(load.ttft)
    origin = start()
    reach = np.array([s for _, s in STARTS.values()])
    # backends differ in their schedulers as much as they like, in physics half as much
    scale = np.concatenate(
        [reach, np.repeat(np.where(reach >= FREE, reach, reach / 2), 3)]
    )

    def residuals(fitted: Array) -> Array:
        tpot, ttft = predict(*parts, unpack(fitted))
        return np.concatenate(
            [
                _soft(np.log(tpot) - measured[0], 0.15) * weights,
                _soft(np.log(ttft) - measured[1], 0.15) * weights,
                PULL * (fitted - origin) / scale,
            ]
        )

    def slopes(fitted: Array) -> Array:
        # the backends' deviations touch different rows: one pass serves the three
        here, made, small = (
            residuals(fitted),
            np.zeros((2 * rows + len(fitted), len(fitted))),
            1e-4,
        )
        backend = np.concatenate([load.backend, load.backend])
        for i in range(number):
            moved = fitted.copy()
            moved[number + 3 * i : number + 3 * i + 3] += small
            change = (residuals(moved)[: 2 * rows] - here[: 2 * rows]) / small
            made[: 2 * rows, i] = change
            for b in range(3):
                made[: 2 * rows, number + 3 * i + b] = np.where(
                    backend == b, change, 0.0
                )
        at = np.arange(len(fitted))
        made[2 * rows + at, at] = PULL / scale
        return made

    return least_squares(residuals, begin, slopes, max_nfev=steps, x_scale="jac").x


PULL = 5.0
"""Weight of the starting values, in rows' errors of 100 %."""


def _soft(error: Array, knee: float) -> Array:
    return np.sign(error) * np.sqrt(
        2 * knee**2 * (np.sqrt(1 + (error / knee) ** 2) - 1)
    )
