# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["torch==2.13.0", "transformers==5.17.0"]
# ///
"""Ask transformers for the parameters of every model of the catalogue.

Each model is built on the meta device (no memory, no download) from the config that lemnos
ships; its parameters and persistent buffers are counted. Writes tests/data/parameters.json,
which tests/unit/models/test_architecture.py holds lemnos' own counts against.

    uv run oracles/parameters.py        (torch's CPU wheel: UV_FIND_LINKS="$PIP_FIND_LINKS")
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "src/lemnos/models/configs"
OUT = ROOT / "tests/data/parameters.json"


def main() -> None:
    counts = {}
    for path in sorted(CONFIGS.glob("*.json")):
        data = json.loads(path.read_text())
        model = build(data)
        names = {id(p): p.numel() for p in model.parameters()}
        kept = sum(
            buffer.numel()
            for name, buffer in model.named_buffers()
            if name in model.state_dict()
        )
        counts[path.stem] = sum(names.values()) + kept
        sys.stdout.write(f"{path.stem:24} {counts[path.stem]:>20,}\n")
    found = {"transformers": transformers.__version__, "parameters": counts}
    OUT.write_text(json.dumps(found, indent=1) + "\n")


def build(data: dict) -> torch.nn.Module:
    """The model of a config, on the meta device."""
    kind = data.pop("model_type")
    # kimi_k2 is DeepSeek-V3's architecture under another name.
    config = AutoConfig.for_model({"kimi_k2": "deepseek_v3"}.get(kind, kind), **data)
    auto = (
        transformers.AutoModelForImageTextToText
        if "vision_config" in data
        else transformers.AutoModelForCausalLM
    )
    with torch.device("meta"):
        return auto.from_config(config)


if __name__ == "__main__":
    main()
