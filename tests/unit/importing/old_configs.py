"""Old configurations, and what an import makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lemnos.importing import Imported, import_config
from lemnos.importing.importing import ImportedModel
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import parse

EXAMPLE = Path(__file__).parents[3] / "examples/seed-002-slurm/old/config.yaml"
ONE = "models:\n  gpt-oss-20b:\n    huggingface_id: openai/gpt-oss-20b\n    gpus: 1\n"


def imported(directory: Path, text: str, **asked: Any) -> Imported:
    """What an import makes of ``text``."""
    path = directory / "config.yaml"
    path.write_text(text, encoding="utf-8")
    asked.setdefault("env", {"HOME": "/home/ann", "USER": "ann"})
    return import_config(path, **asked)


def only(found: Imported) -> ImportedModel:
    """The one model that there is, which was not refused."""
    (model,) = found.models
    assert model.refused is None, model.refused
    return model


def spec(found: Imported, name: str | None = None) -> DeploymentSpec:
    """A spec, as ``lemnos up`` reads it."""
    file = f"{name or only(found).name}.yaml"
    return parse(found.files[file], DeploymentSpec, where=file)


def told(found: Imported | ImportedModel, key: str) -> list[tuple[str, str]]:
    """(kind, text) of what is said about a key."""
    return [
        (n.kind, n.text)
        for n in found.notes
        if n.key == key or n.key.endswith("." + key)
    ]
