"""The engine protocol: turns a plan into jobs, and reads its own logs."""

from __future__ import annotations

from typing import Protocol

from lemnos.errors import LemnosError, UsageError
from lemnos.spec.base import Value
from lemnos.spec.facts import Host, ModelFormat
from lemnos.spec.plan import Job, Plan


class JobFiles(Value):
    """Files that a job is given: paths only, so that a job holds nothing secret."""

    log: str
    key_file: str
    """The bearer key that the engine demands: an engine's port is never for clients."""


class Engine(Protocol):
    """What each engine knows of itself. All but ``version`` is pure."""

    name: str
    formats: tuple[ModelFormat, ...]

    def version(self) -> str:
        """The version that will run on this machine."""
        ...

    def refusal(self, host: Host) -> LemnosError | None:
        """Why this engine cannot run on ``host``, if it cannot."""
        ...

    def job(self, plan: Plan, index: int, port: int, files: JobFiles) -> Job:
        """The job of replica ``index`` of ``plan``, listening on ``port`` of loopback."""
        ...

    def stage(self, line: str) -> str | None:
        """What a line of the engine's log says it is doing now, if it says so."""
        ...


def engine_named(name: str) -> Engine:
    """The engine adapter called ``name``."""
    from lemnos.engines.llamacpp import LlamaCpp

    engines: dict[str, Engine] = {"llamacpp": LlamaCpp()}
    if name in ("vllm", "sglang"):
        raise LemnosError(
            f"this lemnos plans for {name}, but cannot start it yet",
            fix="the plan says with which layout and settings to start it yourself; "
            "the embedded engine (llamacpp) serves a GGUF of the model",
        )
    if name not in engines:
        raise UsageError(f"unknown engine '{name}'", fix=f"known: {', '.join(engines)}")
    return engines[name]
