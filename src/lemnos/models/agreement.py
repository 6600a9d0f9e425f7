"""Whether an architecture and the headers of its files agree; what only headers say. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lemnos.models.headers import Matrix, Tensor, matrices
from lemnos.models.naming import is_encoder, is_mtp
from lemnos.spec.architecture import Architecture

BYTES_APART = 0.01
"""Scales are kept in more ways than a config says; more than this is another format."""


def carries_mtp_embeddings(names: Iterable[str], layers: int) -> bool:
    """Whether the MTP layer has an embedding and a head of its own."""
    own = ("embed_tokens", "shared_head.head")
    return any(is_mtp(name, layers) and any(o in name for o in own) for name in names)


def without_absent_mtp(
    architecture: Architecture, names: Iterable[str]
) -> Architecture:
    """Without the MTP layers where the checkpoint leaves out those that its config names."""
    layers = len(architecture.layers)
    if not architecture.mtp or any(is_mtp(name, layers) for name in names):
        return architecture
    return replace(architecture, mtp=())


def disagreements(architecture: Architecture, tensors: Iterable[Tensor]) -> list[str]:
    """Notes of both numbers where headers contradict ``architecture``; exact ones give none."""
    layers = len(architecture.layers)
    found = [
        matrix
        for matrix in matrices(tensors).values()
        if not (architecture.tied and matrix.name.endswith("lm_head"))
        and not (architecture.encoder is None and is_encoder(matrix.name))
    ]
    main = [m for m in found if not is_mtp(m.name, layers)]
    extra = [m for m in found if is_mtp(m.name, layers)]
    notes = _apart("its main", architecture.parameters, main)
    notes += _apart("its MTP", architecture.mtp_parameters, extra)
    return notes + bytes_apart(architecture, sum(matrix.bytes for matrix in found))


def bytes_apart(architecture: Architecture, held: int) -> list[str]:
    """A note where the files hold another number of bytes than the architecture says."""
    said = architecture.checkpoint_bytes
    # Some store the head of tied models once more.
    again = architecture.outside[0].bytes if architecture.tied else 0.0
    if any(abs(held - each) <= BYTES_APART * each for each in (said, said + again)):
        return []
    return [
        f"its files hold {held / 1e9:.2f} GB of weights, the architecture says "
        f"{said / 1e9:.2f} GB: figures follow the architecture"
    ]


def _apart(part: str, said: int, found: list[Matrix]) -> list[str]:
    held = sum(matrix.params for matrix in found)
    if held == said:
        return []
    return [
        f"{part} layers hold {held:,} parameters in the files, the architecture says "
        f"{said:,}: figures follow the architecture"
    ]
