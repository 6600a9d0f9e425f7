"""A measured point as the model predicts it: what calibration and benchmarks compare. Pure."""

from __future__ import annotations

from lemnos.errors import LemnosError
from lemnos.planning.budget import Fit, Miss, fit, settings_for
from lemnos.planning.calibration import Constants
from lemnos.planning.fitting import Measured
from lemnos.planning.layouts import Site
from lemnos.planning.pace import serve, steps_of
from lemnos.planning.queueing import closed_loop, percentile
from lemnos.planning.rules import rules_for
from lemnos.planning.speed import StepModel
from lemnos.spec.architecture import Architecture
from lemnos.spec.cluster import GpuKind
from lemnos.spec.document import validated
from lemnos.spec.proposal import Ask


def fitted_to(
    point: Measured, architecture: Architecture, gpu: GpuKind, constants: Constants
) -> tuple[Fit | Miss, StepModel | None]:
    """The memory, and the step model, of the engine that ``point`` was measured on."""
    site = Site(
        gpu=gpu,
        nodes=1,
        per_node=point.layout.gpus,
        free_gib=gpu.memory_gib,
        memory_gib=gpu.memory_gib,
        gbit_s=None,
        latency_ms=None,
        nvlink=False,
    )
    ask = validated(
        Ask,
        {
            "context": point.context,
            "max_batched_tokens": point.max_batched_tokens,
            "max_seqs": point.max_seqs,
            "utilization": point.utilization,
            "eager": point.eager,
            "input_tokens": point.input_tokens,
            "output_tokens": point.output_tokens,
        },
    )
    rules = rules_for("vllm", None)
    settings = settings_for(architecture, site, ask, rules, point.kv_cache_dtype)
    fitted = fit(architecture, point.layout, site, settings, rules, constants)
    if isinstance(fitted, Miss):
        return fitted, None
    return fitted, steps_of(architecture, point.layout, site, fitted, constants)


def predicted(
    point: Measured, architecture: Architecture, gpu: GpuKind, constants: Constants
) -> tuple[float, float]:
    """(median TTFT, median TPOT) in ms of a closed loop, as ``point`` measured them.

    Raises LemnosError where the planner thinks that it cannot have run.
    """
    if point.spread is not None:
        constants = constants.model_copy(update={"spread": point.spread})
    fitted, model = fitted_to(point, architecture, gpu, constants)
    if isinstance(fitted, Miss) or model is None:
        raise LemnosError(
            f"{point.model} {point.layout} on {point.gpu} was measured, but does not fit: "
            f"{fitted.sentence if isinstance(fitted, Miss) else ''}",
            fix="check the point's context, utilization and max_seqs",
        )
    requests = closed_loop(
        point.concurrency, point.input_tokens, point.output_tokens, point.requests
    )
    served = serve(model, fitted, requests)
    return (
        percentile([each.ttft for each in served], 0.5) * 1e3,
        percentile([each.tpot for each in served], 0.5) * 1e3,
    )
