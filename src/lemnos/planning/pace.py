"""How fast a layout that fits would be, and when it would be ready. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lemnos.planning.budget import Fit
from lemnos.planning.calibration import Constants
from lemnos.planning.layouts import Site
from lemnos.planning.memory import GIB
from lemnos.planning.queueing import (
    Limits,
    Request,
    Served,
    closed_loop,
    percentile,
    poisson,
    simulate,
)
from lemnos.planning.speed import Fabric, StepModel, step_model, step_time
from lemnos.spec.architecture import Architecture
from lemnos.spec.layout import Layout
from lemnos.spec.proposal import Ask

DEFAULT_BETWEEN_GBIT_S = 200.0
"""Counted on between nodes where nothing is known, and said so: one NDR200 or two 100G links."""
DEFAULT_DISK_GB_S = 3.0
"""Counted on for reading weights where no disk was measured: a data-centre NVMe drive."""


def fabric_of(layout: Layout, site: Site) -> Fabric:
    """The links that ``layout`` uses on ``site``."""
    gpu = site.gpu
    inside = (gpu.nvlink_gb_s or gpu.pcie_gb_s) * 1e9
    gbit = site.gbit_s if site.gbit_s is not None else DEFAULT_BETWEEN_GBIT_S
    # A node's network is shared by its GPUs that talk at once.
    between = gbit / 8 * 1e9 / max(1, min(site.per_node, layout.gpus))
    latency = (site.latency_ms or 0.02) * 1e-3
    if site.nvlink:
        between, latency = inside, 5e-6
    span = max(1, math.ceil(layout.tensor / site.domain))
    wide = max(1, math.ceil(layout.tensor * layout.data / site.domain))
    whole = max(1, math.ceil(layout.gpus / site.domain))
    return Fabric(inside, between, latency, span, wide, whole)


def steps_of(
    architecture: Architecture,
    layout: Layout,
    site: Site,
    fitted: Fit,
    constants: Constants,
) -> StepModel:
    """The step model of a fitted layout. vLLM captures graphs up to 512 tokens."""
    return step_model(
        architecture,
        layout,
        site.gpu,
        fabric_of(layout, site),
        constants,
        kv_dtype=fitted.settings.kv_cache_dtype,
        graphs=not fitted.settings.eager,
        largest_graph=min(512, 2 * fitted.settings.max_seqs),
        offloaded=fitted.offloaded,
    )


@dataclass(frozen=True)
class Pace:
    """Speed under the asked load: medians in seconds, and output tokens/s of all replicas."""

    ttft: float
    tpot: float
    tokens_per_s: float


def quick_pace(model: StepModel, fitted: Fit, ask: Ask, replicas: int) -> Pace:
    """The steady state in closed form: for ranking many layouts.

    A request's prefill and its share of everybody else's stretch the time between tokens:
    with B in flight, each output token waits for B prefills / B requests of one each.
    """
    streams = _streams(ask, model, fitted, replicas)
    context = ask.input_tokens + ask.output_tokens / 2
    stages_in_flight = len(model.stages)
    batch = max(1.0, streams / stages_in_flight)
    decode = step_time(model, 0, 0, batch, context)
    chunk = min(ask.input_tokens, fitted.settings.max_batched_tokens)
    alone = step_time(model, chunk, ask.input_tokens / 2, 0, 0)
    prefill = alone * ask.input_tokens / chunk
    full = min(fitted.settings.max_batched_tokens, ask.input_tokens * streams)
    each = step_time(model, full, ask.input_tokens / 2, 0, 0) / full * ask.input_tokens
    total = ask.output_tokens * decode + each * streams / stages_in_flight
    rounds = streams / max(1.0, _admitted(ask, fitted, streams))
    ttft = max(prefill, each * streams / 2) + model.constants.request_ms * 1e-3
    seconds = total * max(1.0, rounds)
    lanes = _lanes(ask, model, replicas)
    speed = streams * lanes * ask.output_tokens / seconds
    return Pace(ttft, max(decode, (total - ttft) / ask.output_tokens), speed)


def paced(model: StepModel, fitted: Fit, ask: Ask, replicas: int) -> Pace:
    """The asked load through the scheduler, request by request."""
    streams = max(1, round(_streams(ask, model, fitted, replicas)))
    wide = _lanes(ask, model, replicas)
    if ask.rate is not None:
        requests = poisson(ask.rate / wide, ask.input_tokens, ask.output_tokens, 256)
    else:
        count = max(3, 2 * min(streams, 256))
        requests = closed_loop(streams, ask.input_tokens, ask.output_tokens, count)
    served = serve(model, fitted, requests)
    ttft = percentile([each.ttft for each in served], 0.5)
    tpot = percentile([each.tpot for each in served], 0.5)
    last = max(each.finished for each in served)
    return Pace(ttft, tpot, len(served) * ask.output_tokens * wide / last)


def serve(model: StepModel, fitted: Fit, requests: list[Request]) -> list[Served]:
    """``requests`` through one data-parallel rank's scheduler."""
    deep = len(model.stages)

    def step(prompt: float, past: float, decoding: float, context: float) -> float:
        if deep == 1 or prompt:
            return step_time(model, prompt, past, decoding, context)
        # Pipeline stages work on different requests: each token passes all of them, with the
        # batch divided.
        return step_time(model, 0, 0, max(1.0, decoding / deep), context)

    limits = Limits(
        fitted.settings.max_batched_tokens, fitted.settings.max_seqs, fitted.kv_tokens
    )
    return simulate(requests, step, limits, model.constants.request_ms * 1e-3)


def split_pace(
    model: StepModel, fitted: Fit, ask: Ask, prefill: int, decode: int, kv_gib: float
) -> Pace:
    """The steady state with ``prefill`` replicas for prompts and ``decode`` for answers.

    Decoding is never interrupted, and every prompt's KV cache (``kv_gib``) crosses the links
    once. The slower of the two pools sets the pace of the closed loop.
    """
    streams = float(ask.concurrency)
    context = ask.input_tokens + ask.output_tokens / 2
    batch = max(1.0, streams / decode / model.layout.data)
    tpot = step_time(model, 0, 0, batch / len(model.stages), context)
    full = min(fitted.settings.max_batched_tokens, ask.input_tokens * streams / prefill)
    full = max(full, min(ask.input_tokens, fitted.settings.max_batched_tokens))
    each = step_time(model, full, ask.input_tokens / 2, 0, 0) / full * ask.input_tokens
    chunk = min(ask.input_tokens, fitted.settings.max_batched_tokens)
    alone = step_time(model, chunk, ask.input_tokens / 2, 0, 0)
    alone *= ask.input_tokens / chunk
    sending = kv_gib * GIB / model.fabric.inside / model.layout.tensor
    decoding = ask.output_tokens * tpot
    cycle = max(streams * each / prefill, decoding + alone + sending)
    ttft = cycle - decoding + model.constants.request_ms * 1e-3
    return Pace(ttft, tpot, streams * ask.output_tokens / cycle)


def ready_seconds(
    architecture: Architecture,
    fitted: Fit,
    layout: Layout,
    site: Site,
    constants: Constants,
    checkpoint_gib: float,
) -> tuple[float, float]:
    """(cold, cached) seconds from start to ready: process, read, load, compile, capture.

    Reading: the whole checkpoint once a node. The other terms are constants.ready's, measured.
    """
    ready, settings = constants.ready, fitted.settings
    disk = site.disk_gb_s or DEFAULT_DISK_GB_S
    nodes = max(1, math.ceil(layout.gpus / site.per_node))
    reading = checkpoint_gib * GIB / 1e9 / disk / (nodes if layout.pipeline > 1 else 1)
    world = math.log2(layout.gpus) * ready.rank_s
    cached = ready.start_s + world + reading
    cold = cached + ready.kernels_s
    if not settings.eager:
        cached += ready.capture_s
        cold += ready.capture_s + ready.compile_s
    return cold, cached


def _lanes(ask: Ask, model: StepModel, replicas: int) -> float:
    """Data-parallel ranks of all replicas that have something to do."""
    wide = model.layout.data * replicas
    return wide if ask.rate is not None else min(wide, ask.concurrency)


def _streams(ask: Ask, model: StepModel, fitted: Fit, replicas: int) -> float:
    """Requests in flight on one data-parallel rank of one replica."""
    wide = model.layout.data * replicas
    if ask.rate is None:
        return max(1.0, math.ceil(ask.concurrency / wide))
    # Little's law, with the time of a request nearly alone.
    alone = ask.output_tokens * step_time(model, 0, 0, 1, ask.input_tokens)
    return max(1.0, ask.rate / wide * alone)


def _admitted(ask: Ask, fitted: Fit, streams: float) -> float:
    held = fitted.kv_tokens // (ask.input_tokens + ask.output_tokens)
    return max(1.0, min(streams, held, fitted.settings.max_seqs))
