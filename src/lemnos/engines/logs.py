"""What engines' logs tell: facts of a start, and the stage it is in. Patterns are data. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib import resources

import yaml

from lemnos.spec.base import Value


class EngineFacts(Value):
    """What a start said of itself; None: it did not say. Memory is that of one rank, in GiB."""

    version: str | None = None
    architecture: str | None = None
    weights_gib: float | None = None
    activation_gib: float | None = None
    kv_cache_gib: float | None = None
    kv_cache_tokens: int | None = None
    graphs_gib: float | None = None
    load_s: float | None = None
    compile_s: float | None = None
    capture_s: float | None = None
    start_s: float | None = None
    """Of the engine: profiling, cache, warm-up."""
    attention: str | None = None
    """The backend that was chosen; the same of the next three."""
    experts: str | None = None
    linear: str | None = None
    all_reduce: str | None = None


class Patterns(Value):
    """Of one engine: regular expressions whose group is the fact; several are parts of a sum."""

    facts: dict[str, tuple[str, ...]]
    stages: dict[str, tuple[str, ...]]
    """Stage, and what a line of it holds; the later stage wins in a line that holds both."""


def facts_of(engine: str, lines: Iterable[str]) -> EngineFacts:
    """What ``lines`` of the engine's log tell; of several values the last holds."""
    found: dict[str, str | float] = {}
    patterns = _compiled(engine)
    for line in lines:
        for fact, pattern in patterns:
            if match := pattern.search(line):
                found[fact] = _value(fact, match)
    return EngineFacts.model_validate(found)


def _value(fact: str, match: re.Match[str]) -> str | float:
    if fact not in _NUMBERS:
        return match[1]
    parts = [part.replace(",", "") for part in match.groups()]
    return parts[0] if len(parts) == 1 else sum(map(float, parts))


def stage_of(engine: str, line: str) -> str | None:
    """What a line says the engine is doing now; None: it does not say."""
    for stage, marks in reversed(_patterns()[engine].stages.items()):
        if any(mark in line for mark in marks):
            return stage
    return None


_NUMBERS = frozenset(
    name
    for name, field in EngineFacts.model_fields.items()
    if field.annotation in (float | None, int | None)
)


@functools.cache
def _patterns() -> dict[str, Patterns]:
    text = resources.files("lemnos.engines").joinpath("logs.yaml").read_text()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = yaml.load(text, Loader=loader)
    return {name: Patterns.model_validate(entry) for name, entry in data.items()}


@functools.cache
def _compiled(engine: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (fact, re.compile(pattern))
        for fact, patterns in _patterns()[engine].facts.items()
        for pattern in patterns
    )
