"""A model's architecture by name, path or source, and its other checkpoints; no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lemnos.errors import LemnosError, UsageError, near
from lemnos.models.architecture import architecture_of, read_config
from lemnos.models.known import (
    known_architecture,
    known_models,
    known_named,
    variants_of,
)
from lemnos.spec.architecture import Architecture


@dataclass(frozen=True)
class Described:
    """One checkpoint, as the planner takes it."""

    name: str
    source: str
    architecture: Architecture


def describe(
    text: str,
    *,
    quantization: str | None = None,
    trust_headers: bool = False,
    revision: str | None = None,
) -> tuple[Described, ...]:
    """The checkpoint that ``text`` names, and after it the other known ones of the same model.

    ``text``: a directory with a config.json (or that file), a known name, or a hub's
    ``org/name``. ``quantization``: what the engine is to make of a BF16 checkpoint on load.
    Raises LemnosError for what cannot be read, UsageError for names that nobody knows.
    """
    path = Path(text).expanduser()
    if path.is_dir() or path.name == "config.json":
        return (_at_path(path, quantization),)
    entry = known_named(text)
    if entry is None:
        names = [known.name for known in known_models()]
        raise UsageError(
            f"unknown model '{text}'",
            fix=near(text.lower(), names)
            or "give a directory with a config.json, org/name of a hub, or a known model: "
            "'lemnos models ls --known' lists them",
        )
    first = Described(entry.name, entry.source, known_architecture(entry, quantization))
    others = [
        Described(other.name, other.source, known_architecture(other))
        for other in variants_of(entry)
        if other is not entry and not quantization
    ]
    others.sort(key=lambda each: -each.architecture.checkpoint_bytes)
    smaller = [
        each
        for each in others
        if each.architecture.checkpoint_bytes < first.architecture.checkpoint_bytes
    ]
    return (first, *smaller)


def _at_path(path: Path, quantization: str | None) -> Described:
    directory = path if path.is_dir() else path.parent
    config = read_config(path)
    architecture = architecture_of(config, quantization=quantization)
    if not architecture.layers:
        raise LemnosError("has no layers", where=config.where)
    name = directory.resolve().name.lower()
    return Described(name, f"file://{directory.resolve()}", architecture)
