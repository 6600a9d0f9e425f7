"""What becomes of each key, and of models that do not fit as written."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from lemnos.deployments.prepare_gpu import places_of, plan_on_gpus
from lemnos.engines.base import JobFiles, engine_named
from lemnos.errors import UsageError
from lemnos.importing import Imported, default_spec, import_config, write
from lemnos.importing.wishes import path_of, tokens_of
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import parse
from tests.tiny_glm import make_tiny_glm
from tests.unit.importing.old_configs import EXAMPLE, ONE, imported, only, spec, told

NINE = {
    "gpt-oss-20b": ("hf://openai/gpt-oss-20b", "TP1", 1, 1),
    "gpt-oss-120b": ("hf://openai/gpt-oss-120b", "TP1", 1, 1),
    "glm-4-7-flash": ("hf://zai-org/GLM-4.7-Flash", "TP2", 2, 1),
    "glm-4-6v-fp8": ("hf://zai-org/GLM-4.6V-FP8", "TP2", 2, 1),
    "glm-4-6v-fp16": ("hf://zai-org/GLM-4.6V", "TP4", 4, 1),
    "llama-4-scout": (
        "hf://RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic",
        *("TP2", 2, 1),
    ),
    "llama-4-maverick": (
        "hf://meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        *("TP4 PP2", 8, 2),
    ),
    "glm-4-7": ("hf://zai-org/GLM-4.7-FP8", "TP4 PP2", 8, 2),
    "qwen3-vl-235b": ("hf://Qwen/Qwen3-VL-235B-A22B-Instruct", "TP4 PP2", 8, 2),
}
"""Deployment -> source, layout, GPUs, nodes: BF16 of Scout and GLM-4.7 does not fit their GPUs."""


@functools.cache
def nine() -> Imported:
    return import_config(EXAMPLE, env={})


def test_the_seeds_nine_models_all_become_specs() -> None:
    found = nine()
    shapes = {m.name: (m.source, m.layout, m.gpus, m.nodes) for m in found.models}
    assert shapes == NINE
    assert found.default == "llama-4-scout"
    assert sorted(found.files) == sorted([f"{n}.yaml" for n in NINE] + ["lemnos.yaml"])


@pytest.mark.parametrize("name", NINE)
def test_each_renders_as_it_was_pinned(name: str) -> None:
    made = spec(nine(), name)
    plan = plan_on_gpus(made)
    files = JobFiles(log="/d/x.log", key_file="/d/key", cache="/cache")
    (place,) = places_of(plan)
    jobs = engine_named("vllm").jobs(plan, 0, place, files)
    assert len(jobs) == NINE[name][3]
    argv = " ".join(jobs[0].command.argv)
    for words in (
        "--max-model-len 32768",
        "--max-num-seqs 16",
        "--gpu-memory-utilization 0.9",
        "--seed 42",
    ):
        assert words in argv
    assert ("--quantization fp8" in argv) == (name == "llama-4-maverick")
    assert jobs[0].command.env["NCCL_IB_TIMEOUT"] == "22"
    assert jobs[0].command.env["NCCL_DEBUG"] == "WARN"


def test_what_slurm_is_asked_for() -> None:
    made = spec(nine(), "llama-4-maverick")
    slurm = made.slurm
    assert (made.on, slurm.account, slurm.partition) == (
        *("slurm", "p_scads_pathology"),
        "capella",
    )
    assert (slurm.time, slurm.cpus_per_gpu, slurm.memory_per_gpu) == (86400, 16, "64G")
    assert (slurm.nodes, slurm.port_base) == (2, 29500)
    assert (made.ready_timeout_s, made.endpoint.port) == (1200, 8006)
    assert made.model.served_name == "Llama-4-Maverick-17B-128E-Instruct"
    single = spec(nine(), "gpt-oss-20b").slurm
    assert (single.time, single.nodes) == (12 * 3600, None)


def test_every_key_of_the_seed_is_kept_or_named() -> None:
    """Nothing is dropped in silence: these have no meaning any more, and are told."""
    gone = {n.key for n in nine().notes if n.kind == "gone"}
    assert gone == {"distributed.rdzv_backend", "nccl.blocksize", "vllm.dtype"}
    for model in nine().models:
        keys = {n.key.rpartition(".")[2] for n in model.notes if n.kind == "gone"}
        assert {"job_script", "description", "vram", "vision"} <= keys
        assert not [n for n in model.notes if n.kind == "unknown"]
    assert not [n for n in nine().notes if n.kind == "unknown"]


def test_what_does_not_fit_is_told_with_what_does() -> None:
    by_name = {model.name: model for model in nine().models}
    (scout,) = told(by_name["llama-4-scout"], "huggingface_id")
    assert scout[0] == "changed" and "71.3 GiB of H100 are usable" in scout[1]
    assert "FP8-dynamic (fp8-channel) is planned instead" in scout[1]
    (context,) = told(by_name["llama-4-scout"], "context")
    assert context[0] == "wrong" and "10M would not fit" in context[1]
    (fits,) = told(by_name["gpt-oss-20b"], "context")
    assert fits[0] == "told" and "all of it would fit too" in fits[1]
    (layout,) = told(by_name["glm-4-7"], "nodes")
    assert "TP8 over 2 nodes is planned as TP4 PP2" in layout[1]


def test_no_way_is_a_sentence_and_the_others_are_written(tmp_path: Path) -> None:
    text = ONE + "  kimi: {huggingface_id: moonshotai/Kimi-K2-Instruct, gpus: 2}\n"
    one, kimi = imported(tmp_path, text).models
    assert one.file == "gpt-oss-20b.yaml"
    assert kimi.file is None and kimi.refused
    assert "config.yaml:5" in kimi.refused["where"]
    assert "fits the GPUs in no form" in kimi.refused["what"]
    assert "16xH100" in kimi.refused["fix"]


def test_more_context_than_the_model_has_is_cut(tmp_path: Path) -> None:
    found = imported(tmp_path, ONE + "    max_model_len: 200000\n")
    assert only(found).context == 131072 == spec(found).workload.context
    assert "trained for 131072" in told(only(found), "max_model_len")[0][1]


def test_all_gpus_are_used_as_written(tmp_path: Path) -> None:
    found = imported(tmp_path, ONE.replace("gpus: 1", "gpus: 8"))
    assert only(found).layout == "TP8"


def test_gpus_that_are_not_given_are_the_fewest(tmp_path: Path) -> None:
    text = "models: {m: {huggingface_id: zai-org/GLM-4.5-Air-FP8}}\n"
    assert only(imported(tmp_path, text)).gpus == 2
    (refused,) = imported(tmp_path, text, cluster="1xL40S").models
    assert refused.refused and "fits the GPUs in no form" in refused.refused["what"]


def test_the_cluster_says_what_there_is(tmp_path: Path) -> None:
    found = imported(tmp_path, ONE, cluster="2x4xA100-80")
    assert only(found).gpu == "A100-80"
    text = ONE.replace("gpus: 1", "gpus: 8")
    (refused,) = imported(tmp_path, text, cluster="2x4xH100").models
    assert refused.refused and "wants 1 x 8 GPUs" in refused.refused["what"]


@pytest.mark.parametrize(
    ("keys", "key", "says"),
    [
        ("quantization: awq", "quantization", "stored as mxfp4: it is served as it is"),
        ("quantization: MXFP4", "quantization", "no flag is needed"),
        ("job_script: x_2nodes_8gpus.sh", "job_script", "is for 2 nodes"),
        ("vram: 8GB", "vram", "would not hold the weights"),
        ("vram: 900GB", "vram", "is more than 1 x H100 have"),
        ("vision: true", "vision", "takes no images"),
        ("context: lots", "context", "is no number of tokens"),
        ("context: 10M", "context", "was trained for 131,072"),
        ("context: 8K\n    max_model_len: 9000", "max_model_len", "is more than"),
    ],
)
def test_contradictions_are_said(
    keys: str, key: str, says: str, tmp_path: Path
) -> None:
    found = imported(tmp_path, f"{ONE}    {keys}\n")
    assert any(says in text for _, text in told(only(found), key))


def test_a_start_that_takes_longer_than_allowed(tmp_path: Path) -> None:
    found = imported(tmp_path, f"distributed: {{rdzv_timeout: 30}}\n{ONE}")
    ((kind, text),) = told(only(found), "rdzv_timeout")
    assert kind == "wrong" and text.startswith("30 s are given")
    assert spec(found).ready_timeout_s == 30


def test_fp8_on_load_is_the_flag_unless_the_checkpoint_is_stored_so(
    tmp_path: Path,
) -> None:
    text = "models: {m: {huggingface_id: zai-org/GLM-4.5-Air, gpus: 4, quantization: fp8}}\n"
    plan = spec(imported(tmp_path, text)).plan
    assert plan and (plan.settings.quantization, plan.model) == ("fp8", "glm-4.5-air")
    old = imported(tmp_path, text, engine_version="0.14.0")
    assert "holds the BF16 weights meanwhile" in told(only(old), "quantization")[0][1]
    stored = text.replace("Air,", "Air-FP8,")
    plan = spec(imported(tmp_path, stored)).plan
    assert plan and plan.settings.quantization is None


def test_the_venvs_own_version_is_what_specs_are_written_for(tmp_path: Path) -> None:
    packages = tmp_path / "venv/lib/python3.12/site-packages"
    (packages / "vllm-0.17.1+cu129.dist-info").mkdir(parents=True)
    found = imported(tmp_path, f"paths: {{venv_dir: {tmp_path}/venv}}\n{ONE}")
    made = spec(found)
    assert (made.engine_version, made.venv) == ("0.17.1", f"{tmp_path}/venv")
    asked = imported(tmp_path, ONE, engine_version="v0.26.0")
    assert spec(asked).engine_version == "0.26.0"


def test_paths_become_what_a_shell_would_have_made_of_them(tmp_path: Path) -> None:
    text = f"""cache:
  xdg_cache_home: /data/$USER/cache
  triton_cache_dir: ~/triton
  huggingface_cache: ${{NOBODY}}/hf
paths: {{venv_dir: /data/YOUR_USERNAME/.venv}}
{ONE}"""
    found = imported(tmp_path, text)
    made = spec(found)
    assert made.cache == "/data/ann/cache" and made.venv is None
    assert made.engine_env == {"TRITON_CACHE_DIR": "/home/ann/triton"}
    wrong = {n.key: n.text for n in found.notes if n.kind == "wrong"}
    assert "is a placeholder" in wrong["paths.venv_dir"]
    assert "a variable that is not set" in wrong["cache.huggingface_cache"]


def test_a_model_may_be_a_directory(tmp_path: Path) -> None:
    make_tiny_glm(tmp_path / "Tiny GLM")
    text = (
        'models: {a: {huggingface_id: "$HOME/Tiny GLM", gpus: 1, max_model_len: 512}}'
    )
    found = imported(tmp_path, text, env={"HOME": str(tmp_path)})
    assert spec(found).model.source == f"{tmp_path}/Tiny GLM"
    (refused,) = imported(tmp_path, text, env={}).models
    assert refused.refused and "variable that is not set" in refused.refused["what"]


def test_a_version_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'newest' is no version"):
        imported(tmp_path, ONE, engine_version="newest")


def test_no_path_is_run(tmp_path: Path) -> None:
    for text in ("/x/$(touch y)", "/x/`id`$", "$((1))"):
        assert path_of(text, {})[0] is None
    assert path_of("relative/venv", {})[1].endswith("write it from / on")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        *(("128K", 131072), ("131K", 131000), ("10M", 10_000_000), ("1m", 1 << 20)),
        *(("32768", 32768), ("256k tokens", 262144), ("lots", None), ("-1", None)),
    ],
)
def test_tokens(text: str, tokens: int | None) -> None:
    assert tokens_of(text) == tokens


def test_a_directory_says_which_spec_is_its_default(tmp_path: Path) -> None:
    directory = tmp_path / "specs"
    write(nine().files, directory)
    expected = directory / "llama-4-scout.yaml"
    assert (
        default_spec(directory) == expected == default_spec(directory / "lemnos.yaml")
    )
    assert default_spec(tmp_path) is None and default_spec(expected) is None
    made = parse(expected.read_text(), DeploymentSpec, where="x")
    assert made.name == "llama-4-scout"
