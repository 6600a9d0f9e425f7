"""A checkpoint's architecture from its config and its headers together. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lemnos.errors import LemnosError
from lemnos.models import agreement
from lemnos.models.architecture import architecture_of
from lemnos.models.config import Config
from lemnos.models.from_headers import architecture_from_headers
from lemnos.models.headers import Tensor, tensors_of
from lemnos.models.safetensors import Header
from lemnos.spec.architecture import Architecture

_COPIES = re.compile(r"/|^consolidated")
"""Files of the same weights in another layout: Mistral's and Meta's own."""


def from_config(
    config: Config,
    quantization: str | None,
    names: Iterable[str] = (),
    tensors: Sequence[Tensor] = (),
) -> Architecture:
    """From the config, held against the tensors' ``names`` (an index) and headers, if given."""
    plain = architecture_of(config)
    names = list(names)
    own = agreement.carries_mtp_embeddings(names, len(plain.layers))
    if own:
        plain = architecture_of(config, mtp_embeddings=True)
    if names:
        plain = agreement.without_absent_mtp(plain, names)
    notes = agreement.disagreements(plain, tensors) if tensors else []
    made = plain
    if quantization:
        made = architecture_of(config, quantization=quantization, mtp_embeddings=own)
        made = replace(made, mtp=made.mtp if plain.mtp else ())
    return replace(made, notes=(*made.notes, *notes))


def from_headers(
    tensors: Sequence[Tensor],
    where: str,
    config: Config | None,
    quantization: str | None,
) -> Architecture:
    """From headers alone. Raises LemnosError where there are none, or they show too little."""
    if not tensors:
        raise LemnosError(
            "has no safetensors files whose headers could be trusted",
            where=where,
            fix="give a directory or a hub's model with safetensors files",
        )
    return architecture_from_headers(tensors, where, config, quantization=quantization)


def without_copies(paths: Iterable[str]) -> list[str]:
    """The safetensors files that hold a model, without the same weights in other layouts."""
    listed = list(paths)
    return [path for path in listed if not _COPIES.search(path)] or listed


def tensors_in(headers: Mapping[str, Header], where: str, fix: str) -> list[Tensor]:
    """The tensors of files by name. Raises LemnosError for entries that contradict themselves."""
    return [
        tensor
        for name, header in headers.items()
        for tensor in tensors_of(header, f"{where}: {name}", fix)
    ]
