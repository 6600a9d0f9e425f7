"""A config.json to an Architecture: the family's layers, what is around them, how it is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lemnos.errors import LemnosError, near
from lemnos.models.config import Config, shown
from lemnos.models.encoders import ENCODERS
from lemnos.models.families import FAMILIES
from lemnos.models.quantization import Quantization, on_load, quantization_of
from lemnos.spec.architecture import Architecture, Layer, Weight

CONFIG_LIMIT = 64 * 1024**2
"""Bytes; the longest published ones list every expert's format, in some 3 MB."""
HF_QUANT_CONFIG = "hf_quant_config.json"
"""Where ModelOpt's checkpoints say how they are stored, when config.json does not."""


def read_config(path: Path) -> Config:
    """The config.json at ``path`` (or in that directory). Raises LemnosError."""
    path = path / "config.json" if path.is_dir() else path
    config = parse_config(_text_of(path), str(path))
    beside = path.with_name(HF_QUANT_CONFIG)
    if beside.is_file():
        return with_quantization(config, parse_config(_text_of(beside), str(beside)))
    return config


def with_quantization(config: Config, beside: Config) -> Config:
    """``config`` with what a hf_quant_config.json ``beside`` it says, if it says nothing itself."""
    keys = {"quantization_config", "compression_config"}
    inside = config.data.get("text_config")
    said = {key for key, value in config.data.items() if value} & keys
    if isinstance(inside, dict):
        said |= {key for key, value in inside.items() if value} & keys
    if said:
        return config
    return replace(config, data={**config.data, "quantization_config": beside.data})


def _text_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > CONFIG_LIMIT:
            raise LemnosError(
                f"has {path.stat().st_size} bytes, which no config has",
                where=str(path),
                fix="give a model's directory with a config.json",
            )
        return path.read_bytes()
    except OSError as error:
        raise LemnosError(
            f"cannot be read ({error.strerror})",
            where=str(path),
            fix="give a model's directory with a config.json",
        ) from None


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
    names = config.texts("architectures")
    return Architecture(
        name=shown(names[0], 80) if names else family,
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
    if not family and not config.texts("architectures"):
        return config.bad("model_type", "is missing")
    names = [*config.texts("architectures"), family]
    return LemnosError(
        f"the architecture '{shown(names[0])}' (model_type '{shown(family)}') is not known",
        where=config.where,
        fix=f"{near(family[:100], list(FAMILIES)) or 'known are ' + ', '.join(FAMILIES) + '.'} "
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
    deepseeks, qwens = "num_nextn_predict_layers", "mtp_num_hidden_layers"
    key = deepseeks if deepseeks in text else qwens
    count = text.optional(key)
    if not count:
        return ()
    if count > 16:
        raise text.bad(key, f"is {count}")
    hidden, vocabulary = text.number("hidden_size"), text.number("vocab_size")
    own = [  # Qwen names them otherwise, and has the same
        Weight("eh_proj", hidden, 2 * hidden),
        Weight("enorm", hidden, 1),
        Weight("hnorm", hidden, 1),
        Weight("shared_head.norm", hidden, 1),
    ]
    if embeddings:
        own.append(Weight("embed_tokens", vocabulary, hidden, "vocabulary"))
        own.append(Weight("shared_head.head", vocabulary, hidden, "vocabulary"))
    where = f"model.layers.{len(layers)}" if key == deepseeks else "mtp.layers.0"
    inside = [
        replace(w, store=stored.of(f"{where}.{w.name}", w)) for w in layers[-1].weights
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
