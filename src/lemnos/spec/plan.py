"""The plan: how a model will run, what that should take, and why not otherwise."""

from __future__ import annotations

from lemnos.spec.base import Value
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.facts import Host, LocalModel, ModelFacts
from lemnos.spec.layout import Layout, Rejection
from lemnos.spec.proposal import Proposal
from lemnos.spec.quirks import Quirks


class EngineSettings(Value):
    """What the embedded engine is told, beyond the model."""

    context: int
    """Tokens of one request's context."""
    slots: int
    """Requests served at the same time; each has ``context`` tokens of KV cache."""
    threads: int


class Memory(Value):
    """Predicted memory of the embedded engine, in bytes."""

    weights: int
    kv_cache: int
    compute: int
    """Activations, logits and the engine's own overhead."""
    free: int
    """What was free when the plan was made."""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


class Embedded(Value):
    """The plan of the embedded engine on this machine."""

    facts: ModelFacts
    host: Host
    settings: EngineSettings
    memory: Memory


class Plan(Value):
    """All that rendering needs: pure functions turn it into commands."""

    name: str
    """The deployment's."""
    spec: DeploymentSpec
    model: LocalModel
    engine: str
    engine_version: str
    program: tuple[str, ...] = ()
    """What starts the engine: ``/opt/envs/vllm-0.26.0/bin/python``; its name on the path by default."""
    router: tuple[str, ...] = ()
    """What has the router of a group: the Python of its environment; the engine's own by default."""
    layout: Layout
    embedded: Embedded | None = None
    """Of the embedded engine; of the others ``proposal``."""
    proposal: Proposal | None = None
    quirks: Quirks = Quirks()
    reasons: tuple[str, ...]
    """Why this plan, in sentences."""
    rejected: tuple[Rejection, ...] = ()

    @property
    def served_name(self) -> str:
        return self.spec.model.served_name or self.model.name

    @property
    def context(self) -> int:
        """Tokens of one request's context."""
        if self.embedded:
            return self.embedded.settings.context
        assert self.proposal is not None
        return self.proposal.settings.context


class Secret(Value):
    """A key on its way into a process: the launcher reads it from its file as it starts.

    It becomes the variable ``env``, or ``file`` (mode 600) with ``text``, in which ``{key}``
    stands for it.
    """

    key_file: str
    env: str | None = None
    file: str | None = None
    text: str = ""


class Command(Value):
    """A process to start. Nothing in it is secret: secrets travel as files that it names."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    """Set on top of the launcher's own environment."""
    secrets: tuple[Secret, ...] = ()


class Job(Value):
    """A command with a place in a deployment: what a launcher runs."""

    deployment: str
    role: str
    """``engine`` or ``gateway``."""
    index: int = 0
    """Which replica, from 0."""
    rank: int = 0
    """Which of the replica's processes, from 0; the first has the API."""
    part: str = ""
    """What it is among several: ``frontend``, ``prefill``."""
    command: Command
    host: str = "127.0.0.1"
    port: int
    """Where it will listen; 0: a rank without an API of its own."""
    log: str
    """The file that its output is appended to."""

    @property
    def id(self) -> str:
        rank = f".{self.rank}" if self.rank else ""
        return f"{self.deployment}/{self.role}-{self.index}{rank}"
