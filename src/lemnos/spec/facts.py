"""Facts that plans are made from: what a model is, and what a machine has."""

from __future__ import annotations

from typing import Literal

from lemnos.spec.base import Value

ModelFormat = Literal["gguf", "safetensors"]


class LocalModel(Value):
    """A whole, verified model on this machine's file system."""

    name: str
    """The name people use: ``smollm2-135m-instruct``."""
    source: str
    """Where it came from, as a source: ``hf://org/name``, ``pypi://...``, ``file:///...``."""
    revision: str | None = None
    format: ModelFormat
    path: str
    """The file (GGUF) or the directory (safetensors) that an engine is given."""
    bytes: int
    """Size on disk."""
    sha256: str | None = None
    """Of a single-file model."""


class ModelFacts(Value):
    """What the planner needs to know of a model's architecture."""

    name: str
    architecture: str
    format: ModelFormat
    parameters: int
    weights_bytes: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_context: int
    """Positions the model was trained for."""
    quantization: str
    """The commonest tensor type: ``Q4_1``, ``BF16``."""
    has_chat_template: bool = False


class Gpu(Value):
    """A GPU as its driver reports it; None where that could not be read."""

    index: int
    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None


class Host(Value):
    """A machine as it is now; None means that it could not be read, never a guess."""

    name: str
    architecture: str
    """``x86_64``, ``aarch64``."""
    cpu: str | None = None
    cores: int
    """Cores this process may use: affinity and cgroup quota counted in."""
    cpu_flags: tuple[str, ...] = ()
    memory_bytes: int
    """Memory this process may use: the cgroup's limit counted in."""
    free_bytes: int
    """Memory available now."""
    libgomp: bool
    """GNU OpenMP's runtime can be loaded (the embedded engine needs it)."""
    gpus: tuple[Gpu, ...] = ()
