"""Judge a command line as an engine's own parser would, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lemnos.engines.flags.schema import Schema


@dataclass(frozen=True)
class Problem:
    """What is wrong with one word of a command line.

    ``index`` is the word's place in argv; ``message`` is one sentence. ``fatal``: the engine's
    parser would refuse. A unique prefix and a deprecation are not fatal.
    """

    code: Literal[
        "unknown",
        "ambiguous",
        "prefix",
        "value",
        "choice",
        "missing-value",
        "unwanted-value",
        "deprecated",
        "positional",
    ]
    word: str
    index: int
    message: str
    fatal: bool


@dataclass(frozen=True)
class Parsed:
    """What a command line says: canonical option name -> its values as written."""

    values: dict[str, list[str]]
    positionals: tuple[str, ...]
    problems: tuple[Problem, ...]


def parse(schema: Schema, argv: Sequence[str]) -> Parsed:
    """Read ``argv``, the words after ``vllm serve`` or ``python -m sglang.launch_server``."""
    raise NotImplementedError
