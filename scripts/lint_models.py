"""Write src/lemnos/lint/models.json: what lint asks of the models that lemnos knows.

    uv run scripts/lint_models.py          after a change of models/architectures.yaml

Lint looks at a model in less time than importing pydantic takes; everything here follows from
``models/`` and ``planning/layouts.py``, and a test holds it against them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from lemnos.lint.facts import broken
from lemnos.models.known import Known, known_architecture, known_models

OUT = Path(__file__).parent.parent / "src/lemnos/lint/models.json"
MOST = 64
"""Tensor parallelism up to this is in the table; more is computed when it is asked for."""


def table() -> dict[str, Any]:
    """Every known model by name."""
    return {
        "_about": "Written by scripts/lint_models.py.",
        "models": {entry.name: _row(entry) for entry in known_models()},
    }


def _row(entry: Known) -> dict[str, Any]:
    architecture = known_architecture(entry)
    names = [entry.name, *entry.aliases, entry.source, entry.repository]
    names.append(entry.repository.rpartition("/")[2])
    moe = any(layer.moe for layer in architecture.layers)
    return {
        "names": sorted({name.lower() for name in names}),
        "repository": entry.repository,
        "architecture": architecture.name,
        "context": architecture.max_context,
        "moe": moe,
        "method": (entry.quantization or {}).get("quant_method", ""),
        "tensor": _fine(entry, expert=False),
        "tensor_expert": _fine(entry, expert=True) if moe else [],
    }


def _fine(entry: Known, expert: bool) -> list[int]:
    """Ways that tensor parallelism can divide the model."""
    ways = range(1, MOST + 1)
    return [n for n in ways if not broken(entry.name, n, 1, 1, expert)]


def main() -> None:
    """Write the table."""
    data = table()
    OUT.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.write(
        f"{len(data['models'])} models: {OUT.stat().st_size // 1024} KiB\n"
    )


if __name__ == "__main__":
    main()
