"""A model's architecture by name, path or source, and its other checkpoints; no weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lemnos.errors import LemnosError, UsageError, near
from lemnos.models import safetensors
from lemnos.models.architecture import read_config
from lemnos.models.catalogue import entry_named
from lemnos.models.checkpoint import (
    from_config,
    from_headers,
    tensors_in,
    without_copies,
)
from lemnos.models.headers import Tensor
from lemnos.models.known import (
    Known,
    known_architecture,
    known_models,
    known_named,
    variants_of,
)
from lemnos.models.safetensors import AGAIN, INDEX
from lemnos.models.sources import Source, parse_source
from lemnos.spec.architecture import Architecture

_PATHS = ("/", "./", "../", "~")


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

    ``text``: a directory with a config.json (or that file), a known name, or a hub's model
    (``org/name``, ``hf://``, ``modelscope://``), of which config and headers are fetched.
    ``quantization``: what the engine is to make of a BF16 checkpoint on load.
    ``trust_headers``: names and shapes of the tensors are enough, whatever the architecture.
    Raises LemnosError for what cannot be read, UsageError for names that nobody knows.
    """
    path = _path(text)
    if path is not None:
        return (_at_path(path, quantization, trust_headers),)
    entry = known_named(text)
    if entry is not None and revision is None:
        return _known(entry, quantization)
    source = _hub_source(entry.source if entry else text)
    source = replace(source, revision=revision or source.revision)
    from lemnos.models.on_hub import architecture_on_hub  # slow to import: HTTP

    architecture = architecture_on_hub(source, quantization, trust_headers)
    name = source.name.rpartition("/")[2].lower()
    return (Described(name, str(source), architecture),)


def _path(text: str) -> Path | None:
    """``text`` as a path, if there is something, or a path is meant. Raises UsageError."""
    plain = text.removeprefix("file://")
    try:
        path = Path(plain).expanduser()
        meant = plain != text or plain.startswith(_PATHS)
        if path.is_dir() and (meant or any(map(_is_model_file, path.iterdir()))):
            return path
        if path.suffix == ".json" and path.is_file():
            return path
    except (OSError, RuntimeError):  # too long for a path; ~ of nobody
        pass
    if plain.endswith(".gguf"):
        raise UsageError(
            f"'{text}' is a GGUF file, and plans for GPUs are of safetensors checkpoints",
            fix="lemnos up serves it with the embedded engine",
        )
    if plain != text or plain.startswith(_PATHS):
        raise UsageError(
            "is no directory with a config.json", where=plain, fix="check the path"
        )
    return None


def _is_model_file(path: Path) -> bool:
    return path.name == "config.json" or path.suffix == ".safetensors"


def _known(entry: Known, quantization: str | None) -> tuple[Described, ...]:
    """The entry, and its smaller variants, the largest first."""
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


def _hub_source(text: str) -> Source:
    """``text`` as a hub's model. Raises UsageError."""
    if "://" not in text and not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", text):
        names = [known.name for known in known_models()]
        if entry_named(text) is not None:
            raise UsageError(
                f"'{text}' is a GGUF model, and plans for GPUs are of safetensors checkpoints",
                fix=f"lemnos up {text} serves it with the embedded engine",
            )
        raise UsageError(
            f"unknown model '{text}'",
            fix=near(text[:100].lower(), names)
            or "give a directory with a config.json, org/name of a hub, or a known model: "
            "'lemnos models ls --known' lists them",
        )
    source = parse_source(text if "://" in text else f"hf://{text}")
    if source.kind not in ("hf", "modelscope") or source.file:
        raise UsageError(
            f"'{text}' is no model of a hub that plans are made for",
            fix="give hf://org/name[@revision] or modelscope://org/name[@revision]",
        )
    return source


def _at_path(path: Path, quantization: str | None, trust_headers: bool) -> Described:
    directory = path if path.is_dir() else path.parent
    config_path = directory / "config.json" if path.is_dir() else path
    index = directory / INDEX
    names: Iterable[str] = ()
    tensors: list[Tensor] = []
    if path.is_dir() and any(directory.glob("*.safetensors")):
        headers = safetensors.read_headers(directory)
        held = {name: headers[name] for name in without_copies(headers)}
        tensors = tensors_in(held, str(directory), AGAIN)
        names = [tensor.name for tensor in tensors]
    elif path.is_dir() and index.is_file():
        names = safetensors.read_index(index)
    if tensors and not trust_headers and not config_path.exists():
        raise LemnosError(
            "has no config.json",
            where=str(directory),
            fix="--trust-headers plans from its safetensors headers alone",
        )
    if trust_headers:
        config = read_config(config_path) if config_path.is_file() else None
        architecture = from_headers(tensors, str(directory), config, quantization)
    else:
        config = read_config(config_path)
        architecture = from_config(config, quantization, names, tensors)
    name = directory.resolve().name.lower()
    return Described(name, f"file://{directory.resolve()}", architecture)
