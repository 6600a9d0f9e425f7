"""What lint knows of models without reading any: their figures, and which layouts they allow. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from lemnos.lint.data import families, known_models

if TYPE_CHECKING:
    from lemnos.spec.architecture import Architecture

LAYOUT_RULES = (
    "heads-divide",
    "kv-heads-divide",
    "widths-divide",
    "expert-widths-divide",
    "quantization-blocks",
    "layers-cover-stages",
)
"""The planner's rules that hold whatever the machines are."""


@dataclass(frozen=True)
class Facts:
    """What lint asks of a model that lemnos knows: a row of ``models.json``.

    ``tensor`` and ``tensor_expert``: how many ways it divides, without and with whole experts a
    rank. ``method``: how its weights are stored, by the checkpoint's own word.
    """

    name: str
    repository: str
    architecture: str
    context: int
    moe: bool
    method: str
    tensor: tuple[int, ...]
    tensor_expert: tuple[int, ...]


def moved(text: str) -> tuple[str, str]:
    """(where the model is published now, why); empty where it did not move."""
    for row in families()["moved"]:
        if text.startswith(row["from"]):
            return row["to"] + text[len(row["from"]) :], row["why"]
    return "", ""


def facts_of(name: str) -> Facts | None:
    """A known model by name, alias or repository, whatever the case."""
    low = name.lower()
    for own, row in known_models().items():
        if low in row["names"]:
            rest = {key: row[key] for key in ("repository", "architecture", "method")}
            return Facts(
                own,
                **rest,
                context=row["context"],
                moe=row["moe"],
                tensor=tuple(row["tensor"]),
                tensor_expert=tuple(row["tensor_expert"]),
            )
    return None


@cache
def broken(
    name: str, tensor: int, pipeline: int, data: int, expert: bool
) -> tuple[tuple[str, str], ...]:
    """(rule, sentence) of the planner's rules that a layout breaks whatever the machines are."""
    from lemnos.planning.layouts import RULES, Site
    from lemnos.spec.cluster import GpuKind
    from lemnos.spec.layout import Layout

    architecture = _architecture(name)
    gpu = GpuKind(name="any", memory_gib=1, bandwidth_gb_s=1, tflops={}, source="none")
    site = Site(gpu, 1, tensor * pipeline * data, 1.0, 1.0, None, None, True)
    layout = Layout(tensor=tensor, pipeline=pipeline, data=data, expert=expert)
    rules = [rule for rule in RULES if rule.name in LAYOUT_RULES]
    said = ((rule.name, rule.check(architecture, layout, site)) for rule in rules)
    return tuple((rule, sentence) for rule, sentence in said if sentence)


@cache
def _architecture(name: str) -> Architecture:
    from lemnos.models.known import known_architecture, known_named

    known = known_named(name)
    assert known is not None
    return known_architecture(known)
