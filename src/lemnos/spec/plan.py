"""The plan: how a model will run, what that should take, and why not otherwise."""

from __future__ import annotations

from lemnos.spec.base import Value
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.facts import Host, LocalModel, ModelFacts
from lemnos.spec.layout import Layout, Rejection


class EngineSettings(Value):
    """What the engine is told, beyond the model."""

    context: int
    """Tokens of one request's context."""
    slots: int
    """Requests served at the same time; each has ``context`` tokens of KV cache."""
    threads: int


class Memory(Value):
    """Predicted memory of one rank, in bytes."""

    weights: int
    kv_cache: int
    compute: int
    """Activations, logits and the engine's own overhead."""
    free: int
    """What was free when the plan was made."""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


class Plan(Value):
    """All that rendering needs: pure functions turn it into commands."""

    name: str
    """The deployment's."""
    spec: DeploymentSpec
    model: LocalModel
    facts: ModelFacts
    host: Host
    engine: str
    engine_version: str
    layout: Layout
    settings: EngineSettings
    memory: Memory
    reasons: tuple[str, ...]
    """Why this plan, in sentences."""
    rejected: tuple[Rejection, ...] = ()

    @property
    def served_name(self) -> str:
        return self.spec.model.served_name or self.model.name


class Command(Value):
    """A process to start. Nothing in it is secret: secrets travel as files that it names."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    """Set on top of the launcher's own environment."""


class Job(Value):
    """A command with a place in a deployment: what a launcher runs."""

    deployment: str
    role: str
    """``engine`` or ``gateway``."""
    index: int = 0
    """Which replica, from 0."""
    command: Command
    host: str = "127.0.0.1"
    port: int
    """Where it will listen."""
    log: str
    """The file that its output is appended to."""

    @property
    def id(self) -> str:
        return f"{self.deployment}/{self.role}-{self.index}"
