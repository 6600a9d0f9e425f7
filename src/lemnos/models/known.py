"""Architectures by name (``architectures.yaml`` and ``configs/``): plans without a download."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

import yaml

from lemnos.models.architecture import architecture_of
from lemnos.models.config import Config
from lemnos.spec.architecture import Architecture
from lemnos.spec.base import Value


class Known(Value):
    """A published checkpoint whose architecture lemnos carries."""

    name: str
    aliases: tuple[str, ...] = ()
    source: str
    about: str
    licence: str
    config: str
    """A file of ``configs/``, without ``.json``."""
    variant_of: str | None = None
    """The model of which this is a smaller form."""
    quantization: dict[str, Any] | None = None
    """As in a config.json's ``quantization_config``."""
    mtp_embeddings: bool = False
    mtp_layers: int | None = None
    """Where the checkpoint leaves out what the config names."""

    @property
    def base(self) -> str:
        return self.variant_of or self.name

    @property
    def repository(self) -> str:
        """``zai-org/GLM-4.6``."""
        return self.source.partition("://")[2]


class KnownFigures(Value):
    """What people compare checkpoints by."""

    name: str
    parameters: int
    """Without next-token-prediction layers."""
    active_parameters: int
    """Multiplied for each token."""
    stored: str
    """How most of the weights are stored: ``fp8-channel``."""
    size_gib: float
    """Of the files: next-token-prediction layers with them."""
    context: int
    """The longest, in tokens."""
    source: str
    about: str
    licence: str


class KnownFile(Value):
    """The whole of ``architectures.yaml``."""

    quantizations: dict[str, Any]
    models: tuple[Known, ...]


@functools.cache
def known_models() -> tuple[Known, ...]:
    """Every entry, in the file's order."""
    text = resources.files("lemnos.models").joinpath("architectures.yaml").read_text()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # five times as quick
    return KnownFile.model_validate(yaml.load(text, Loader=loader)).models


def known_named(name: str) -> Known | None:
    """By name, alias, source or ``org/name``, whatever the case; None if there is none."""
    low = name.lower()
    for entry in known_models():
        names = (entry.name, *entry.aliases, entry.source, entry.repository)
        if low in {each.lower() for each in names}:
            return entry
    # ``GLM-4.6`` for ``zai-org/GLM-4.6``: a repository's name without its owner
    return next(
        (e for e in known_models() if e.repository.lower().endswith("/" + low)), None
    )


def variants_of(entry: Known) -> tuple[Known, ...]:
    """The checkpoints of the same model, this one among them."""
    return tuple(other for other in known_models() if other.base == entry.base)


def known_architecture(entry: Known, quantization: str | None = None) -> Architecture:
    """The entry's architecture; ``quantization`` as for ``architecture_of``."""
    path = resources.files("lemnos.models").joinpath(f"configs/{entry.config}.json")
    data = json.loads(path.read_text())
    if entry.quantization:
        data["quantization_config"] = entry.quantization
    if entry.mtp_layers is not None:
        data["num_nextn_predict_layers"] = entry.mtp_layers
    return architecture_of(
        Config(data, f"{entry.name}'s config"),
        quantization=quantization,
        mtp_embeddings=entry.mtp_embeddings,
    )


def known_figures() -> tuple[KnownFigures, ...]:
    """The figures of every entry, in the file's order."""
    return tuple(_figures(entry) for entry in known_models())


def _figures(entry: Known) -> KnownFigures:
    architecture = known_architecture(entry)
    return KnownFigures(
        name=entry.name,
        parameters=architecture.parameters,
        active_parameters=architecture.active_parameters,
        stored=architecture.stored,
        size_gib=round(architecture.checkpoint_bytes / 2**30, 2),
        context=architecture.max_context,
        source=entry.source,
        about=entry.about,
        licence=entry.licence,
    )
