"""A record: what a run was, did and measured; enough to run it again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lemnos.spec.base import Value
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.plan import Plan

RECORD_VERSION = 1


class BenchSpec(Value):
    """What a benchmark sends."""

    target: str
    """A deployment's name or a URL."""
    model: str | None = None
    requests: int = Field(default=8, ge=1)
    concurrency: int = Field(default=1, ge=1)
    input_tokens: int = Field(default=64, ge=1)
    output_tokens: int = Field(default=64, ge=1)


class Record(Value):
    """One run. Written once, when it is over; never changed afterwards."""

    version: int = RECORD_VERSION
    id: str
    """Sorts by time: ``20261121T043657-3f2a``."""
    kind: Literal["up", "bench"]
    created: float
    """Epoch seconds at the run's start."""
    lemnos: str
    """The version that wrote it."""
    outcome: Literal["ok", "failed", "interrupted"]
    error: dict[str, str] | None = None
    spec: DeploymentSpec | BenchSpec
    plan: Plan | None = None
    predicted: dict[str, float] = {}
    measured: dict[str, float] = {}
    """Units in the names: ``ready_s``, ``ttft_ms``, ``output_tokens_per_s``."""
    engine_log: tuple[str, ...] = ()
    """The last lines of the engine's log, where they say something."""
