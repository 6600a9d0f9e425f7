"""What is known of the rows of the silicon sample: loads, and engines as the planner has them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np  # type: ignore[import-not-found,unused-ignore]
from silicon_rows import Pool, Row

from lemnos.hardware.catalogue import gpu_kind
from lemnos.planning.calibration import constants_for
from lemnos.planning.memory import kv_bytes_per_token, weights_per_stage
from lemnos.planning.speed import Fabric, step_model
from lemnos.spec.architecture import Architecture
from lemnos.spec.layout import Layout

Array = Any
"""A numpy array of a value a row."""
BACKENDS = ("vllm", "sglang", "trtllm")
GPUS = {
    "h100_sxm": "H100",
    "h200_sxm": "H200",
    "b200_sxm": "B200",
    "b300_sxm": "B300",
    "gb200": "GB200",
    "gb300": "GB300",
}
INDEXER = 8
"""Small kernels that sparse attention's indexer adds to a layer (projections, norm, rotary,
quantize, cache, scores, top-k)."""


class Table:
    """Features of rows, a numpy array each."""

    def __init__(self, columns: dict[str, Array]) -> None:
        self.columns = columns

    def __getattr__(self, name: str) -> Array:
        return self.columns[name]


def kv_dtype(row: Row) -> str:
    """Not told by the sample: as InferenceX' scripts set it (FP8, but for these)."""
    if not row.sweep:
        quantized = row.backend == "trtllm" and row.precision != "bf16"
        return "fp8" if quantized else "auto"
    if "Kimi" in row.model:
        return "fp8" if row.precision == "fp4" else "auto"
    hopper = row.system.startswith("h")
    if "gpt-oss" in row.model and hopper and row.backend == "vllm":
        return "auto"
    return "fp8"


def _intake(row: Row) -> float:
    """How rarely the engine looks for new requests, in 10 steps (--scheduler-recv-interval)."""
    if row.backend != "sglang" or row.mode == "disagg" or not row.sweep:
        return float(row.sweep)
    # as InferenceX' scripts set it: none on Hopper, nor for GLM-5 but in FP4
    if row.system.startswith("h") or ("GLM" in row.model and row.precision != "fp4"):
        return 0.0
    ten = "GLM" in row.model or (row.system == "b300_sxm" and "Qwen" in row.model)
    return 1.0 if ten or row.concurrency < 16 else 3.0


def tables(
    rows: Sequence[Row], architecture: Callable[[str, str], Architecture]
) -> tuple[Table, Table, Table]:
    """What is known of the rows: the load, the (decoding) engine, the prefill engine."""
    load = Table(
        {
            "backend": np.array([BACKENDS.index(row.backend) for row in rows]),
            "split": np.array([row.mode == "disagg" for row in rows]),
            "sweep": np.array([row.sweep for row in rows]),
            "intake": np.array([_intake(row) for row in rows]),
        }
        | {
            name: np.array([getattr(row, name) for row in rows], float)
            for name in (
                "prompt",
                "output",
                "concurrency",
                "batch",
                "speculative",
                "drafts",
                "slots",
                "ttft",
                "tpot",
            )
        }
        | {
            "servers": np.array([row.serve.workers for row in rows], float),
            "prefillers": np.array([row.prefill.workers for row in rows], float),
        }
    )

    @functools.cache
    def features(
        model: str, precision: str, pool: Pool, system: str, kv: str
    ) -> dict[str, float]:
        return _features(architecture(model, precision), pool, system, kv)

    def table(prefill: bool) -> Table:
        found = [
            features(
                row.model,
                row.precision,
                row.prefill if prefill else row.serve,
                row.system,
                kv_dtype(row),
            )
            for row in rows
        ]
        return Table({key: np.array([each[key] for each in found]) for key in found[0]})

    return load, table(False), table(True)


def _features(a: Architecture, pool: Pool, system: str, kv: str) -> dict[str, float]:
    gpu = gpu_kind(GPUS[system])
    layout = Layout(tensor=pool.gpus // pool.data, data=pool.data, expert=pool.expert)
    fabric = Fabric((gpu.nvlink_gb_s or 32.0) * 1e9, 25e9, 0.0)
    model = step_model(a, layout, gpu, fabric, constants_for("vllm"), kv_dtype=kv)
    (stage,) = model.stages
    blackwell = (gpu.capability or 0.0) >= 10
    weights = [weight for layer in a.layers for weight in layer.weights]
    stores = {weight.store.name for weight in weights}
    out: dict[str, float] = {}
    for group, products in (("dense", stage.dense), ("routed", stage.experts)):
        for kind in ("bf16", "fp8", "fp4", "w4a16"):
            out[f"{group}_bytes_{kind}"] = out[f"{group}_flop_{kind}"] = 0.0
        for product in products:
            kind = str(product.math)
            if kind == "w4a16" and blackwell and "mxfp4" in stores:
                kind = "fp8"  # MXFP4 x MXFP8 there
            out[f"{group}_bytes_{kind}"] += product.bytes
            out[f"{group}_flop_{kind}"] += product.flop
    whole = [look for look in stage.looks if not look.window]
    short = [look for look in stage.looks if look.window]
    attentions = [layer.attention for layer in a.layers]
    cached = sum(
        kv_bytes_per_token(each, layout.tensor, kv)
        for each in attentions
        if not each.window
    )
    room = gpu.memory_gib * 0.95 - 3.0
    for name, looks in (("whole", whole), ("short", short)):
        out[f"{name}_bytes"] = sum(look.kv_bytes for look in looks)
        out[f"{name}_flop"] = sum(look.flop for look in looks)
        out[f"{name}_decode_flop"] = sum(look.decode_flop for look in looks)
    return out | {
        "blocks": float("fp8-block" in stores),
        "window": float(short[0].window) if short else 1e9,
        "state": stage.state_bytes,
        "kernels": stage.kernels
        + INDEXER * sum(1.0 for e in attentions if e.index_dim),
        "reduces": float(stage.reduces),
        "moe_layers": float(stage.moe_layers),
        "experts": float(model.experts),
        "top_k": float(model.top_k),
        "hidden": float(a.hidden),
        "tensor": float(layout.tensor),
        "data": float(layout.data),
        "expert": float(layout.expert),
        "kv_room": max(0.0, room * 2**30 - weights_per_stage(a, layout)[0]) / cached,
        "bandwidth": gpu.bandwidth_gb_s * 1e9,
        "peak_bf16": gpu.tflops["bf16"] * 1e12,
        # Blackwell's kernels multiply an FP8 cache in FP8, Hopper's widen it
        "peak_decode": gpu.tflops["fp8" if blackwell and kv == "fp8" else "bf16"]
        * 1e12,
        "peak_fp8": gpu.tflops.get("fp8", gpu.tflops["bf16"]) * 1e12,
        "peak_fp4": gpu.tflops.get("fp4", gpu.tflops["bf16"]) * 1e12,
        "on_blackwell": float(blackwell),
        "nvlink": fabric.inside,
        "nodes": max(1.0, pool.gpus / gpu.link_domain),
    }
