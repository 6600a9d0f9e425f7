"""Lint's data files: model families, and environment variables."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import orjson


@cache
def families() -> dict[str, Any]:
    """Parsers by model, names that moved, quantizations by how weights are stored."""
    return _read("families.json")


@cache
def variables() -> dict[str, Any]:
    """NCCL's variables, names that nothing reads, and values that are taken."""
    return _read("variables.json")


@cache
def known_models() -> dict[str, Any]:
    """Models by name; ``scripts/lint_models.py`` writes them."""
    models: dict[str, Any] = _read("models.json")["models"]
    return models


def _read(name: str) -> dict[str, Any]:
    text = resources.files("lemnos.lint").joinpath(name).read_bytes()
    data: dict[str, Any] = orjson.loads(text)
    return data
