"""A model of a hub, described by its config and its headers; no weights are downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lemnos.errors import LemnosError
from lemnos.models import agreement, safetensors
from lemnos.models.architecture import (
    CONFIG_LIMIT,
    HF_QUANT_CONFIG,
    parse_config,
    with_quantization,
)
from lemnos.models.checkpoint import (
    from_config,
    from_headers,
    tensors_in,
    without_copies,
)
from lemnos.models.config import Config
from lemnos.models.download import RemoteFile
from lemnos.models.headers import Tensor
from lemnos.models.hubs import list_files
from lemnos.models.remote import DAMAGED, Hub, session
from lemnos.models.safetensors import INDEX
from lemnos.models.sources import Source
from lemnos.spec.architecture import Architecture

INDEX_LIMIT = 256 * 1024**2
"""Bytes; that of a model with 384 experts in 61 layers is some 20 MB."""


def architecture_on_hub(
    source: Source, quantization: str | None, trust_headers: bool
) -> Architecture:
    """The architecture of a hub's model, at the source's revision. Raises LemnosError."""
    files = {file.path: file for file in list_files(source, source.revision).files}
    paths = without_copies(path for path in files if path.endswith(".safetensors"))
    weights = [files[path] for path in paths]
    with session(source) as http:
        hub = Hub(source, http)
        config = _config(hub, files)
        if trust_headers:
            tensors = _tensors(hub, files, weights)
            return from_headers(tensors, str(source), config, quantization)
        if config is None:
            raise _no_config(source, files)
        made = from_config(config, quantization)
        if made.mtp:  # whether it is among the files, and with what
            made = from_config(config, quantization, _names(hub, files, weights))
    held = sum(file.size for file in weights)
    if quantization or not held:
        return made
    notes = agreement.bytes_apart(made, held)
    return replace(made, notes=(*made.notes, *notes))


def _config(hub: Hub, files: Mapping[str, RemoteFile]) -> Config | None:
    """config.json, with what hf_quant_config.json says; None where there is none."""

    def config(name: str) -> Config:
        text = hub.small(files[name], CONFIG_LIMIT)
        return parse_config(text, f"{hub.source}: {name}")

    if "config.json" not in files:
        return None
    main = config("config.json")
    if HF_QUANT_CONFIG not in files:
        return main
    return with_quantization(main, config(HF_QUANT_CONFIG))


def _index(hub: Hub, file: RemoteFile) -> dict[str, str]:
    text = hub.small(file, INDEX_LIMIT)
    return safetensors.parse_index(text, f"{hub.source}: {file.path}", DAMAGED)


def _names(
    hub: Hub, files: Mapping[str, RemoteFile], weights: list[RemoteFile]
) -> list[str]:
    """The tensors' names, from the index or, without one, the headers."""
    if INDEX in files:
        return list(_index(hub, files[INDEX]))
    return [name for header in hub.headers(weights).values() for name in header]


def _tensors(
    hub: Hub, files: Mapping[str, RemoteFile], weights: list[RemoteFile]
) -> list[Tensor]:
    """The tensors of the files that the index names, or of all there are."""
    where = f"{hub.source}: {INDEX}"
    wanted = _index(hub, files[INDEX]) if INDEX in files else {}
    if wanted:
        missing = set(wanted.values()) - set(files)
        if missing:
            raise LemnosError(
                f"names {min(missing)}, which the hub lacks", where=where, fix=DAMAGED
            )
        weights = [files[name] for name in sorted(set(wanted.values()))]
    headers = hub.headers(weights)
    if wanted:
        safetensors.check_index(wanted, headers, where, DAMAGED)
    return tensors_in(headers, str(hub.source), DAMAGED)


def _no_config(source: Source, files: Mapping[str, RemoteFile]) -> LemnosError:
    if any(path.endswith(".gguf") for path in files):
        return LemnosError(
            "has GGUF files, and plans for GPUs are of safetensors checkpoints",
            where=str(source),
            fix=f"lemnos up {source} serves one with the embedded engine",
        )
    return LemnosError(
        "has no config.json",
        where=str(source),
        fix="--trust-headers plans from its safetensors headers alone",
    )
