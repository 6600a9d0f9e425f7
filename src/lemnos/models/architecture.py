"""A config.json to an Architecture: the family's layers, what is around them, how it is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lemnos.errors import LemnosError, near
from lemnos.models.config import Config
from lemnos.models.encoders import ENCODERS
from lemnos.models.families import FAMILIES
from lemnos.models.quantization import Quantization, on_load, quantization_of
from lemnos.spec.architecture import Architecture, Layer, Weight


def read_config(path: Path) -> Config:
    """The config.json at ``path`` (or in that directory). Raises LemnosError."""
    path = path / "config.json" if path.is_dir() else path
    try:
        text = path.read_bytes()
    except OSError as error:
        raise LemnosError(
            f"cannot be read ({error.strerror})",
            where=str(path),
            fix="give a model's directory with a config.json",
        ) from None
    return parse_config(text, str(path))


def parse_config(text: bytes | str, where: str) -> Config:
    """``text`` as a Config. Raises LemnosError for what is no JSON object."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise LemnosError(
            "is not valid JSON", where=where, fix="download it again"
        ) from None
    if not isinstance(data, dict):
        raise LemnosError("is no JSON object", where=where, fix="download it again")
    return Config(data, where)


def architecture_of(
    config: Config, *, quantization: str | None = None, mtp_embeddings: bool = False
) -> Architecture:
    """The architecture that ``config`` describes.

    ``quantization`` quantizes a BF16 checkpoint on load. ``mtp_embeddings``: its MTP layer
    carries its own embedding and head (GLM-4.5, not 4.6), which no config says.
    Raises LemnosError for unknown families and for keys that are missing or contradict.
    """
    text, family = _language_model(config)
    if family not in FAMILIES:
        raise _unknown(config, family)
    stored = quantization_of(config if "quantization_config" in config else text)
    if quantization:
        if stored.store.name != "bf16":
            raise LemnosError(
                f"is stored as {stored.store.name} already",
                where=config.where,
                fix="leave --quantization away, or give the BF16 checkpoint",
            )
        stored = on_load(quantization)
    layers = FAMILIES[family](text)
    hidden, vocabulary = text.number("hidden_size"), text.number("vocab_size")
    tied = text.flag("tie_word_embeddings", config.flag("tie_word_embeddings"))
    outside = [Weight("model.embed_tokens", vocabulary, hidden, "vocabulary")]
    if not tied:
        outside.append(Weight("lm_head", vocabulary, hidden, "vocabulary"))
    outside.append(Weight("model.norm", hidden, 1))
    wrapper = config.text("model_type")
    vision = config.part("vision_config")
    encoder = (
        ENCODERS[wrapper](vision, text) if vision.data and wrapper in ENCODERS else None
    )
    names = config.items("architectures")
    return Architecture(
        name=str(names[0])[:80] if names else family,
        family=family,
        hidden=hidden,
        vocabulary=vocabulary,
        max_context=text.number("max_position_embeddings"),
        layers=_stored_layers(layers, stored),
        outside=tuple(outside),
        tied=tied,
        mtp=_mtp(text, layers, stored, mtp_embeddings),
        encoder=encoder,
        stored=stored.store.name,
        notes=_notes(config, encoder is None and bool(vision.data), stored),
    )


def _language_model(config: Config) -> tuple[Config, str]:
    """The part that describes the language model, and its ``model_type``."""
    if "text_config" not in config:
        return config, config.text("model_type")
    text = config.part("text_config")
    return text, text.text("model_type") or config.text("model_type") + "_text"


def _unknown(config: Config, family: str) -> LemnosError:
    names = [str(name) for name in config.items("architectures")] or [family]
    if not family and not config.items("architectures"):
        return config.bad("model_type", "is missing")
    return LemnosError(
        f"the architecture '{names[0][:60]}' (model_type '{family[:60]}') is not known",
        where=config.where,
        fix=f"{near(family, list(FAMILIES)) or 'known are ' + ', '.join(FAMILIES) + '.'} "
        "--trust-headers plans from the safetensors headers alone",
    )


def _stored_layers(layers: list[Layer], stored: Quantization) -> tuple[Layer, ...]:
    """The layers with each weight's store; alike ones stay one object."""
    made: dict[tuple[int, tuple[str, ...]], Layer] = {}
    result = []
    for index, layer in enumerate(layers):
        stores = [
            stored.of(f"model.layers.{index}.{weight.name}", weight)
            for weight in layer.weights
        ]
        key = (id(layer), tuple(store.name for store in stores))
        if key not in made:
            weights = tuple(
                replace(weight, store=store)
                for weight, store in zip(layer.weights, stores, strict=True)
            )
            made[key] = replace(layer, weights=weights)
        result.append(made[key])
    return tuple(result)


def _mtp(
    text: Config, layers: list[Layer], stored: Quantization, embeddings: bool
) -> tuple[Weight, ...]:
    """The next-token-prediction layers: one more decoder layer each, and what joins them."""
    count = text.optional("num_nextn_predict_layers")
    if not count:
        return ()
    if count > 16:
        raise text.bad("num_nextn_predict_layers", f"is {count}")
    hidden, vocabulary = text.number("hidden_size"), text.number("vocab_size")
    own = [
        Weight("eh_proj", hidden, 2 * hidden),
        Weight("enorm", hidden, 1),
        Weight("hnorm", hidden, 1),
        Weight("shared_head.norm", hidden, 1),
    ]
    if embeddings:
        own.append(Weight("embed_tokens", vocabulary, hidden, "vocabulary"))
        own.append(Weight("shared_head.head", vocabulary, hidden, "vocabulary"))
    index = len(layers)
    inside = [
        replace(w, store=stored.of(f"model.layers.{index}.{w.name}", w))
        for w in layers[-1].weights
    ]
    return tuple((own + inside) * count)


def _notes(config: Config, blind: bool, stored: Quantization) -> tuple[str, ...]:
    notes = []
    if blind:
        notes.append("its vision encoder is not known: its memory is not counted")
    if stored.on_load:
        notes.append(f"quantized to {stored.store.name} by the engine while it loads")
    return tuple(notes)


def summary(architecture: Architecture) -> dict[str, Any]:
    """The figures that people ask for, as plain numbers."""
    return {
        "architecture": architecture.name,
        "parameters": architecture.parameters,
        "active_parameters": architecture.active_parameters,
        "checkpoint_bytes": round(architecture.checkpoint_bytes),
        "layers": len(architecture.layers),
        "stored": architecture.stored,
    }
