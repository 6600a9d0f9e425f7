"""SGLang: what each decision of a plan becomes."""

from __future__ import annotations

import json

import pytest

from lemnos.engines.base import engine_named
from lemnos.errors import UsageError
from lemnos.spec.place import Place
from tests.unit.engines.rendered import (
    BOX,
    TWO,
    flag,
    glm,
    jobs_of,
    plan_of,
    proposed,
    refused,
)
from tests.unit.engines.test_vllm import SEEDS, place_for

KEY = "/d/engine-0.key.yaml"


@pytest.mark.parametrize(("model", "cluster"), SEEDS)
def test_every_model_of_the_seeds_renders_on_its_hardware(
    model: str, cluster: str
) -> None:
    base = proposed(model, cluster).model_copy(update={"engine": "sglang"})
    plan = plan_of(base, "sglang", "0.5.23", seed=42)
    for job in jobs_of(plan, place_for(model, cluster)):
        assert refused(plan, job) == []
        assert flag(job, "--random-seed") == "42"
        assert "--trust-remote-code" not in job.command.argv


def test_the_whole_command_of_seed_001() -> None:
    base = proposed("glm-4.5-air-fp8", "2xH100")
    settings = base.settings.model_copy(update={"speculative": True})
    base = base.model_copy(update={"engine": "sglang", "settings": settings})
    plan = plan_of(base, "sglang", "0.5.23")
    (job,) = jobs_of(plan, place_for("glm-4.5-air-fp8", "2xH100"))
    assert job.command.argv == (
        *("python3", "-m", "sglang.launch_server"),
        *("--model-path", "/models/glm-4.5-air-fp8"),
        *("--config", KEY),
        *("--served-model-name", "glm-4.5-air-fp8"),
        *("--host", "127.0.0.1", "--port", "4000"),
        *("--tp-size", "2"),
        *("--context-length", "131072"),
        *("--max-running-requests", "1024"),
        *("--chunked-prefill-size", "8192"),
        *("--mem-fraction-static", "0.92"),
        *("--speculative-algorithm", "EAGLE"),
        *("--speculative-num-steps", "3"),
        *("--speculative-eagle-topk", "1"),
        *("--speculative-num-draft-tokens", "4"),
        "--enable-metrics",
        *("--tool-call-parser", "glm45"),
        *("--reasoning-parser", "glm45"),
    )
    assert refused(plan, job) == []


def test_the_key_is_in_a_file_of_its_own() -> None:
    for job in jobs_of(glm("sglang"), TWO):
        told = json.dumps([job.command.argv, job.command.env])
        assert "api-key" not in told
        (secret,) = job.command.secrets
        assert secret.file == KEY
        assert secret.env is None
        assert secret.text == "api-key: {key}\n"


def test_a_version_that_would_show_the_key_is_refused() -> None:
    with pytest.raises(UsageError, match="takes its key on the command line only"):
        jobs_of(glm("sglang", "0.4.6"))


def test_one_model_over_hosts() -> None:
    plan = glm("sglang", layout={"tensor": 8})
    head, worker = jobs_of(plan, TWO)
    for rank, job in enumerate((head, worker)):
        assert flag(job, "--nnodes") == "2"
        assert flag(job, "--node-rank") == str(rank)
        assert flag(job, "--dist-init-addr") == "10.0.0.1:4100"
        assert job.command.env["SGLANG_HOST_IP"] == job.host
        assert "VLLM_HOST_IP" not in job.command.env
        assert refused(plan, job) == []
    assert (head.port, worker.port) == (4000, 0)
    ports = engine_named("sglang").ports(plan, TWO)
    assert [(each.port, each.keyed) for each in ports] == [(4000, True), (4100, False)]


def test_ray_is_refused() -> None:
    with pytest.raises(UsageError, match="not started on Ray"):
        jobs_of(glm("sglang"), TWO.model_copy(update={"ray": True}))


def test_attention_ranks_share_what_vllm_gives_to_each() -> None:
    """SGLang divides both by --dp-size (arg_groups/parallel_hook.py, pool_configurator.py)."""
    plan = glm(
        "sglang",
        layout={"tensor": 2, "data": 4, "expert": True},
        settings={"max_seqs": 256, "max_batched_tokens": 8192},
    )
    (job,) = jobs_of(plan)
    assert flag(job, "--tp-size") == "8"
    assert flag(job, "--dp-size") == "4"
    assert flag(job, "--ep-size") == "8"
    assert "--enable-dp-attention" in job.command.argv
    assert flag(job, "--max-running-requests") == "1024"
    assert flag(job, "--chunked-prefill-size") == "32768"
    assert refused(plan, job) == []


def test_settings_of_a_plan_become_flags() -> None:
    plan = glm(
        "sglang",
        layout={"pipeline": 2},
        settings={
            "kv_cache_dtype": "fp8",
            "quantization": "fp8",
            "cpu_offload_gib": 12.0,
        },
    )
    (job,) = jobs_of(plan)
    assert flag(job, "--pp-size") == "2"
    assert flag(job, "--kv-cache-dtype") == "fp8_e4m3"
    assert flag(job, "--quantization") == "fp8"
    assert flag(job, "--cpu-offload-gb") == "12"
    assert refused(plan, job) == []


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.5.13", {"--disable-cuda-graph"}),
        ("0.5.23", {"--cuda-graph-backend-decode", "--cuda-graph-backend-prefill"}),
    ],
)
def test_graphs_are_turned_off_as_the_version_does(
    version: str, words: set[str]
) -> None:
    plan = glm("sglang", version, settings={"eager": True})
    (job,) = jobs_of(plan)
    assert {word for word in job.command.argv if "cuda-graph" in word} == words
    assert refused(plan, job) == []


def test_what_lemnos_does_not_start_sglang_with_is_refused() -> None:
    with pytest.raises(UsageError, match="decode context parallelism"):
        jobs_of(glm("sglang", layout={"context": 2}))
    with pytest.raises(UsageError, match="does not offload SGLang's KV cache") as error:
        jobs_of(glm("sglang", settings={"kv_offload_gib": 8.0}))
    assert "enable-hierarchical-cache" in error.value.fix


def test_reasoning_off_is_the_templates_switch() -> None:
    plan = glm("sglang", reasoning="off")
    (job,) = jobs_of(plan)
    switch = json.loads(flag(job, "--default-chat-template-kwargs") or "")
    assert switch == {"enable_thinking": False}
    assert refused(plan, job) == []


def test_a_version_without_the_switch_says_so() -> None:
    with pytest.raises(UsageError, match="cannot do reasoning off by default"):
        jobs_of(glm("sglang", "0.5.10", reasoning="off"))


@pytest.mark.parametrize(("version", "fused"), [("0.5.9", False), ("0.5.23", True)])
def test_without_multicast_all_reduces_take_another_way(
    version: str, fused: bool
) -> None:
    plan = glm("sglang", version)
    (job,) = jobs_of(plan, BOX.model_copy(update={"multicast": False}))
    off = "--enforce-disable-flashinfer-allreduce-fusion"
    assert (off in job.command.argv) == fused
    assert job.command.env["NCCL_NVLS_ENABLE"] == "0"
    assert refused(plan, job) == []


def test_a_hubs_name_may_be_looked_up_and_code_trusted_where_needed() -> None:
    plan = glm("sglang")
    model = plan.model.model_copy(update={"path": "org/name"})
    quirks = plan.quirks.model_copy(
        update={"trust_remote_code": True, "flags": {"--dtype": "auto"}}
    )
    (job,) = jobs_of(plan.model_copy(update={"model": model, "quirks": quirks}))
    assert "HF_HUB_OFFLINE" not in job.command.env
    assert "--trust-remote-code" in job.command.argv
    assert flag(job, "--dtype") == "auto"


def test_on_a_cpu_no_share_of_a_gpus_memory() -> None:
    (job,) = jobs_of(glm("sglang"), Place(port=4000))
    assert flag(job, "--mem-fraction-static") is None


def test_the_engine_knows_itself() -> None:
    engine = engine_named("sglang")
    assert engine.version() == "0.5.23"
    assert engine.refusal(None) is None  # type: ignore[arg-type]
