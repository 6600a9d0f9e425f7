"""The configs that lemnos carries, for tests to start from."""

from __future__ import annotations

import json
from importlib import resources

from lemnos.models.config import Config

_FOLDER = resources.files("lemnos.models").joinpath("configs")
CONFIGS = sorted(
    file.name.removesuffix(".json")
    for file in _FOLDER.iterdir()
    if file.name.endswith(".json")
)


def config_of(name: str) -> Config:
    """One of them, without quantization, as read from its file."""
    return Config(json.loads(_FOLDER.joinpath(f"{name}.json").read_text()), name)
