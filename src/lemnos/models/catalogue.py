"""The models that lemnos knows by name: ``catalogue.yaml``, a file to add to."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from lemnos.spec.base import Value
from lemnos.spec.document import parse
from lemnos.spec.facts import ModelFacts


class Entry(Value):
    """One model of the catalogue."""

    name: str
    aliases: tuple[str, ...] = ()
    about: str
    licence: str
    source: str
    package_sha256: str | None = None
    """Of the wheel, for ``pypi://`` sources."""
    sha256: str | None = None
    """Of a single-file model."""
    bytes: int
    facts: dict[str, Any]
    """What ``model_facts`` reads from the files, so that planning needs no download."""

    def model_facts(self) -> ModelFacts:
        """The facts as the planner takes them."""
        return ModelFacts.model_validate({"name": self.name, **self.facts})


class Catalogue(Value):
    """The whole file."""

    models: tuple[Entry, ...]


@functools.cache
def catalogue() -> tuple[Entry, ...]:
    """Every entry, in the file's order: the first that suits a machine is its default."""
    text = resources.files("lemnos.models").joinpath("catalogue.yaml").read_text()
    return parse(text, Catalogue, where="catalogue.yaml").models


def entry_named(name: str) -> Entry | None:
    """The entry of a name or alias, whatever the case."""
    low = name.lower()
    return next((e for e in catalogue() if low in (e.name, *e.aliases)), None)


def entry_of_source(source: str) -> Entry | None:
    """The entry that comes from ``source``."""
    return next((e for e in catalogue() if e.source == source), None)


def all_names() -> list[str]:
    """Names and aliases, for suggestions."""
    return [name for entry in catalogue() for name in (entry.name, *entry.aliases)]
