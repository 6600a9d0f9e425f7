"""``lemnos import`` as people run it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.command import failing, lemnos, report

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/seed-002-slurm/old/config.yaml"


def test_the_example_is_written_once(tmp_path: Path) -> None:
    directory = tmp_path / "specs"
    shown = lemnos("import", str(EXAMPLE), "--output", str(directory))
    assert ">   llama-4-scout.yaml" in shown.stdout
    assert "wrote 10 files" in shown.stderr
    assert f"{EXAMPLE}:108: changed: huggingface_id: does not fit" in shown.stdout
    assert f"{EXAMPLE}:29: no longer: distributed.rdzv_backend: " in shown.stdout
    assert len(os.listdir(directory)) == 10
    (directory / "glm-4-7.yaml").write_text("model: mine\n")
    said = failing("import", str(EXAMPLE), "--output", str(directory))
    assert "glm-4-7.yaml: is there already, and differs" in said
    assert (directory / "glm-4-7.yaml").read_text() == "model: mine\n"


def test_without_a_directory_nothing_is_written(tmp_path: Path) -> None:
    found = report("import", str(EXAMPLE), "--cluster", "2x4xH100")
    assert {model["gpu"] for model in found["models"]} == {"H100"}
    assert found["default"] == "llama-4-scout" and "files" not in found


def test_what_cannot_be_written_ends_with_one(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "models: {kimi: {huggingface_id: moonshotai/Kimi-K2-Instruct, gpus: 1}}\n"
    )
    done = lemnos("import", str(path), "--json", code=1)
    (model,) = json.loads(done.stdout)["models"]
    assert "fits the GPUs in no form" in model["refused"]["what"]
    assert "not written" in lemnos("import", str(path), code=1).stdout
    assert "No such file" in failing("import", str(tmp_path / "none.yaml"))
