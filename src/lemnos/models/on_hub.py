"""A model of a hub, described by its config and its headers; no weights are downloaded."""

from __future__ import annotations

import re
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
from lemnos.models.checkpoint import from_config, from_headers, tensors_in
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
_COPIES = re.compile(r"/|^consolidated")
"""Files of the same weights in another layout."""


def _on_hub(
    source: Source, revision: str | None, quantization: str | None, trust_headers: bool
) -> Described:
    listing = list_files(source, revision or source.revision)
    files = {file.path: file for file in listing.files}
    shards = [f for path, f in files.items() if path.endswith(".safetensors")]
    shards = [f for f in shards if not _COPIES.search(f.path)] or shards
    source = replace(source, revision=revision or source.revision)
    with session(source) as http:
        hub = Hub(source, http)
        config = _hub_config(hub, files)
        if trust_headers:
            tensors = _hub_tensors(hub, files, shards)
            made = _from_headers(tensors, str(source), config, quantization)
        else:
            if config is None:
                raise _no_config(source, files)
            made = _architecture(config, quantization, [], [])
            if made.mtp and INDEX in files:  # whether it is there, and with what
                names = _hub_index(hub, files[INDEX])
                made = _architecture(config, quantization, names, [])
            if not quantization:
                held = sum(file.size for file in shards)
                notes = agreement.bytes_apart(made, held) if held else []
                made = replace(made, notes=(*made.notes, *notes))
    return Described(source.name.rpartition("/")[2].lower(), str(source), made)


def _hub_config(hub: Hub, files: Mapping[str, RemoteFile]) -> Config | None:
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


def _hub_index(hub: Hub, file: RemoteFile) -> dict[str, str]:
    text = hub.small(file, INDEX_LIMIT)
    return safetensors.parse_index(text, f"{hub.source}: {file.path}", DAMAGED)


def _hub_tensors(
    hub: Hub, files: Mapping[str, RemoteFile], shards: list[RemoteFile]
) -> list[Tensor]:
    """The tensors of the files that the index names, or of all shards."""
    where = f"{hub.source}: {INDEX}"
    wanted = _hub_index(hub, files[INDEX]) if INDEX in files else {}
    if wanted:
        missing = set(wanted.values()) - set(files)
        if missing:
            raise LemnosError(
                f"names {min(missing)}, which the hub lacks", where=where, fix=DAMAGED
            )
        shards = [files[name] for name in sorted(set(wanted.values()))]
    headers = hub.headers(shards)
    if wanted:
        safetensors.check_index(wanted, headers, where, DAMAGED)
    return _tensors(headers, str(hub.source), DAMAGED)


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
