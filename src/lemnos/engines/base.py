"""The engine protocol: turns a plan into jobs, and reads its own logs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lemnos.engines.logs import EngineFacts
from lemnos.errors import LemnosError, UsageError
from lemnos.spec.base import Value
from lemnos.spec.facts import Host, ModelFormat
from lemnos.spec.place import OpenPort, Place
from lemnos.spec.plan import Job, Plan


class JobFiles(Value):
    """Files that a job is given: paths only, so that a job holds nothing secret."""

    log: str
    """Of the first rank; the others' have their number before the suffix."""
    key_file: str
    """The bearer key that the engine demands: an engine's port is never for clients."""
    cache: str = ""
    """A directory for what compiling and tuning made, kept between starts; empty: the engine's own."""

    def log_of(self, rank: int) -> str:
        """``engine-0.log``, ``engine-0.1.log``."""
        if not rank:
            return self.log
        stem, dot, suffix = self.log.rpartition(".")
        return f"{stem}.{rank}{dot}{suffix}" if dot else f"{self.log}.{rank}"


class Metrics(Value):
    """The Prometheus names of what lemnos watches; None: the engine does not tell."""

    path: str = "/metrics"
    running: str | None = None
    waiting: str | None = None
    kv_usage: str | None = None
    """0 to 1."""
    prefix_hits: str | None = None
    prefix_queries: str | None = None
    preemptions: str | None = None
    prompt_tokens: str | None = None
    output_tokens: str | None = None
    ttft: str | None = None
    """A histogram, in seconds; so are the next two."""
    tpot: str | None = None
    latency: str | None = None


class Engine(Protocol):
    """What each engine knows of itself. All but ``version`` is pure."""

    name: str
    formats: tuple[ModelFormat, ...]
    health: str
    """Answers 200 when the engine is ready."""
    metrics: Metrics

    def version(self) -> str:
        """The version that will run on this machine."""
        ...

    def refusal(self, host: Host) -> LemnosError | None:
        """Why this engine cannot run on ``host``, if it cannot."""
        ...

    def jobs(
        self, plan: Plan, index: int, place: Place, files: JobFiles
    ) -> tuple[Job, ...]:
        """Replica ``index`` of ``plan`` at ``place``: a job for each process, the one with the API first.

        Raises UsageError for what the engine's version cannot do, with what to change.
        """
        ...

    def ports(self, plan: Plan, place: Place) -> tuple[OpenPort, ...]:
        """The ports that the replica opens, and for what."""
        ...

    def stage(self, line: str) -> str | None:
        """What a line of the engine's log says it is doing now, if it says so."""
        ...

    def facts(self, lines: Iterable[str]) -> EngineFacts:
        """What a start's log tells."""
        ...


def engine_named(name: str) -> Engine:
    """The engine adapter called ``name``."""
    from lemnos.engines.dynamo import Dynamo
    from lemnos.engines.llamacpp import LlamaCpp
    from lemnos.engines.sglang import Sglang
    from lemnos.engines.vllm import Vllm

    engines: dict[str, Engine] = {
        engine.name: engine for engine in (LlamaCpp(), Vllm(), Sglang(), Dynamo())
    }
    if name not in engines:
        raise UsageError(f"unknown engine '{name}'", fix=f"known: {', '.join(engines)}")
    return engines[name]
