"""config.yaml as people have it: shapes that are wrong get a sentence with file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.importing.config import read_config
from tests.unit.importing.old_configs import ONE, imported, only, spec, told


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "config.yaml: is empty"),
        ("# nothing\n", "config.yaml: is empty"),
        ("- a\n", "config.yaml: is not a mapping"),
        ("slurm: {partition: x}\n", "has no 'models'"),
        ("modles: {a: {gpus: 1}}\n", "did you mean 'models' by 'modles'"),
        ("a: 1\nmodels:\n", "config.yaml:2: models: is empty"),
        ("models: {}\n", "config.yaml:1: models: is empty"),
        ("models: [a]\n", "config.yaml:1: models: needs a name for each model"),
        ("models:\n  a: gpt\n", "config.yaml:2: models.a: needs keys and values"),
        ("models: {a: {gpus: four}}\n", "models.a.gpus: .*valid integer"),
        (
            "models:\n  a:\n    gpus: true\n",
            "config.yaml:3: models.a.gpus: is yes or no",
        ),
        ("models:\n  a:\n    gpus: 0\n", "config.yaml:3: models.a.gpus: "),
        ("models:\n  a: {port: 70000}\n", "config.yaml:2: models.a.port: "),
        ("models:\n  a: {gpus: 1}\n  a: {gpus: 2}\n", "config.yaml:3:3: .*given twice"),
        ("models: [\n", "config.yaml:2:1: is not valid YAML"),
        ("slurm: 5\n" + ONE, "config.yaml:1: slurm: needs keys and values"),
        ("slurm: {partition: a b}\n" + ONE, "slurm.partition: 'a b' is no name"),
        ("slurm: {account: '$(id)'}\n" + ONE, r"slurm.account: '\$\(id\)' is no name"),
        ("slurm: {time_default: soon}\n" + ONE, "config.yaml:1: .*'soon' is no time"),
        ("vllm: {gpu_memory_utilization: 90}\n" + ONE, "vllm.gpu_memory_utilization: "),
        ("active_model: gpt-os\n" + ONE, "no model 'gpt-os'\n.*'gpt-oss-20b'"),
        (
            "models:\n  A B: {gpus: 1}\n  a-b: {gpus: 1}\n",
            "config.yaml:3: models.a-b: becomes the deployment 'a-b', as models.A B does",
        ),
        ("models: {lemnos: {gpus: 1}}\n", "becomes the deployment 'lemnos'"),
    ],
)
def test_what_cannot_be_right_is_a_sentence(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        imported(tmp_path, text)
    assert re.search(says, str(error.value)), str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_config(tmp_path / "binary.yaml")


def test_anchors_and_merges_are_followed_to_their_line(tmp_path: Path) -> None:
    text = """defaults: &d
  gpus: 1
  time: 24:00:00
  partion: long
models:
  gpt-oss-20b:
    <<: *d
    huggingface_id: openai/gpt-oss-20b
"""
    found = imported(tmp_path, text)
    assert spec(found).slurm.time == 86400
    (note,) = [n for n in only(found).notes if n.kind == "unknown"]
    assert (note.line, note.key) == (4, "models.gpt-oss-20b.partion")
    assert "'partition'" in note.text


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("24:00:00", 86400), ("'08:30:00'", 30600), ("1-00:00:00", 86400), ("90", 5400)],
)
def test_times_are_read_as_slurm_reads_them(
    typed: str, seconds: float, tmp_path: Path
) -> None:
    found = imported(tmp_path, f"slurm: {{time_default: {typed}}}\n{ONE}")
    assert spec(found).slurm.time == seconds


def test_no_limit_is_no_key(tmp_path: Path) -> None:
    found = imported(tmp_path, f"slurm: {{time_default: UNLIMITED}}\n{ONE}")
    assert spec(found).slurm.time is None
    assert told(found, "slurm.time_default")[0][0] == "changed"


def test_numbers_may_stand_for_words(tmp_path: Path) -> None:
    text = f"slurm: {{partition: 2024, mem_per_gpu: 64000}}\n{ONE}"
    slurm = spec(imported(tmp_path, text)).slurm
    assert (slurm.partition, slurm.memory_per_gpu) == ("2024", "64000M")


def test_unknown_keys_are_told_with_the_nearest(tmp_path: Path) -> None:
    text = "vlm: {a: 1}\nslurm:\n  acount: x\n  dtype: auto\n  wholly: 1\n" + ONE
    found = imported(tmp_path, text)
    lines = {n.key: (n.line, n.text) for n in found.notes if n.kind == "unknown"}
    assert lines["vlm"][0] == 1 and "'vllm'" in lines["vlm"][1]
    assert lines["slurm.acount"][0] == 3 and "'account'" in lines["slurm.acount"][1]
    assert "key of vllm and a model" in lines["slurm.dtype"][1]
    assert "Known keys: partition" in lines["slurm.wholly"][1]


def test_flags_of_vllm_are_handed_over(tmp_path: Path) -> None:
    text = f"vllm: {{swap_space: 4, tensor_parallel_size: 2, swop: 1}}\n{ONE}"
    found = imported(tmp_path, text)
    assert spec(found).engine_args == {"swap-space": 4}
    assert told(found, "vllm.swap_space") == [
        ("told", "is handed to vLLM as --swap-space")
    ]
    assert (
        "lemnos sets --tensor-parallel-size itself"
        in told(found, "vllm.tensor_parallel_size")[0][1]
    )
    assert told(found, "vllm.swop")[0][0] == "unknown"
