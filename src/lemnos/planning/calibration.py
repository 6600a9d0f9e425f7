"""The speed model's constants: data with their provenance."""

from __future__ import annotations

import functools
from importlib import resources

import yaml

from lemnos.spec.base import Value


class Errors(Value):
    """Relative error seen where the constants were fitted: half of an interval's width."""

    tpot: float
    ttft: float
    memory: float
    ready: float


class Ready(Value):
    """Seconds until an engine answers, measured."""

    start_s: float
    """Processes, imports, profiling, the KV cache."""
    rank_s: float
    """For each doubling of the ranks."""
    kernels_s: float
    """Kernels that are built or tuned the first time."""
    compile_s: float
    """torch.compile; alike layers are compiled once, so that depth hardly counts."""
    capture_s: float
    """CUDA graphs."""


class Constants(Value):
    """Measured efficiencies of an engine; see calibration.yaml for what each is."""

    engine: str
    gpus: tuple[str, ...]
    """Where they were measured."""
    memory: float
    memory_kv: float
    compute: dict[str, float]
    experts: dict[str, float]
    tile: float
    kernel_us: float
    launch_us: float
    step_us: float
    request_ms: float
    reduce_us: float
    link: float
    host_link: float = 0.8
    spread: float
    ready: Ready
    error: Errors
    source: str


class Calibration(Value):
    """The whole of ``calibration.yaml``."""

    constants: tuple[Constants, ...]


@functools.cache
def calibration() -> tuple[Constants, ...]:
    """What lemnos ships."""
    text = resources.files("lemnos.planning").joinpath("calibration.yaml").read_text()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return Calibration.model_validate(yaml.load(text, Loader=loader)).constants


def constants_for(engine: str) -> Constants:
    """The engine's constants; those of the first entry where it has none of its own."""
    return next((c for c in calibration() if c.engine == engine), calibration()[0])
