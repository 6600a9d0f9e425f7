"""vLLM: what each decision of a plan becomes, and that every model of the seeds renders."""

from __future__ import annotations

import json

import pytest

from lemnos.engines.base import engine_named
from lemnos.errors import UsageError
from lemnos.spec.place import Place
from lemnos.spec.proposal import Role
from tests.unit.engines.rendered import (
    BOX,
    FILES,
    TWO,
    flag,
    glm,
    jobs_of,
    plan_of,
    proposed,
    refused,
)

NEWEST = "0.33.0"
OTHER = "0.15.0"  # seed 002's
# (model, hardware): what each seed has, or what the model fits on where the seed is wrong (see
# docs/engines.md): GLM-4.6-FP8 needs four GH200, Llama-4 Scout in BF16 four H100.
SEEDS = [
    *(("glm-4.6-fp8", "4xGH200"), ("glm-4.6-awq", "4xGH200")),  # 000
    *(("glm-4.5-air-fp8", "2xH100"), ("glm-4.5-air", "4xH100")),  # 001
    *(("glm-4.5-fp8", "8xH100"), ("glm-4.5", "8xH200")),
    *(("gpt-oss-20b", "H100"), ("gpt-oss-120b", "H100")),  # 002
    *(("glm-4.7-flash", "2xH100"), ("glm-4.6v-fp8", "2xH100")),
    *(("glm-4.6v", "4xH100"), ("llama-4-scout-fp8", "2xH100")),
    *(("llama-4-scout", "4xH100"), ("glm-4.7-fp8", "2x4xH100")),
    *(("qwen3-vl-235b-a22b", "2x4xH100"), ("qwen3-vl-235b-a22b-fp8", "2x4xH100")),
    *(("llama-4-maverick-fp8", "2x4xH100"), ("llama-4-maverick", "2x8xH200")),
    *(("glm-4.7-nvfp4", "4xGB200"), ("glm-4.7", "2x8xH200")),  # 003
    ("glm-4.6", "8xH200"),  # 004
]


def place_for(model: str, cluster: str) -> Place:
    """As many hosts as a replica needs."""
    plan = proposed(model, cluster)
    here = -(-plan.gpus // plan.nodes)
    count = max(1, -(-plan.layout.gpus // here))
    hosts = tuple(f"10.0.0.{i}" for i in range(1, count + 1))
    return Place(
        hosts=hosts if count > 1 else ("127.0.0.1",),
        gpus_per_host=here,
        port=4000,
        inner_port=4100,
    )


@pytest.mark.parametrize("version", [OTHER, NEWEST])
@pytest.mark.parametrize(("model", "cluster"), SEEDS)
def test_every_model_of_the_seeds_renders_on_its_hardware(
    model: str, cluster: str, version: str
) -> None:
    plan = plan_of(proposed(model, cluster), "vllm", version, seed=42)
    place = place_for(model, cluster)
    jobs = jobs_of(plan, place)
    assert len(jobs) == len(place.hosts)
    for job in jobs:
        assert refused(plan, job) == []
        assert flag(job, "--seed") == "42"
        assert flag(job, "--host") == place.hosts[0]
        assert "--trust-remote-code" not in job.command.argv


def test_the_whole_command_of_seed_001() -> None:
    """GLM-4.5-Air-FP8 on 2xH100: parsers as the seed has them, and no flag that does not exist."""
    plan = plan_of(proposed("glm-4.5-air-fp8", "2xH100"), "vllm", "0.26.0", seed=7)
    (job,) = jobs_of(plan, place_for("glm-4.5-air-fp8", "2xH100"))
    assert job.command.argv == (
        *("vllm", "serve", "/models/glm-4.5-air-fp8"),
        *("--served-model-name", "glm-4.5-air-fp8"),
        *("--host", "127.0.0.1", "--port", "4000"),
        *("--tensor-parallel-size", "2"),
        *("--max-model-len", "131072"),
        *("--max-num-seqs", "1024"),
        *("--max-num-batched-tokens", "8192"),
        *("--gpu-memory-utilization", "0.92"),
        *("--seed", "7"),
        "--enable-auto-tool-choice",
        *("--tool-call-parser", "glm45"),
        *("--reasoning-parser", "glm45"),
    )
    assert job.command.env == {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": "/cache/vllm",
        "TRITON_CACHE_DIR": "/cache/triton",
        "FLASHINFER_WORKSPACE_BASE": "/cache",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.mark.parametrize("place", [BOX, TWO])
def test_the_key_is_in_no_command_and_no_variable(place: Place) -> None:
    for job in jobs_of(glm(), place):
        told = json.dumps([job.command.argv, job.command.env])
        assert "key" not in told.replace("key_", "")
        assert "--api-key" not in job.command.argv
    head = jobs_of(glm(), place)[0].command
    assert [secret.env for secret in head.secrets] == ["VLLM_API_KEY"]
    assert head.secrets[0].key_file == FILES.key_file


def test_ranks_without_an_api_get_no_key_and_no_port() -> None:
    _, worker = jobs_of(glm(), TWO)
    assert worker.command.secrets == ()
    assert worker.port == 0
    assert worker.log == "/d/engine-0.1.log"


def test_one_model_over_hosts_without_ray() -> None:
    head, worker = jobs_of(glm(layout={"tensor": 8}), TWO)
    for rank, job in enumerate((head, worker)):
        assert flag(job, "--nnodes") == "2"
        assert flag(job, "--node-rank") == str(rank)
        assert flag(job, "--master-addr") == "10.0.0.1"
        assert flag(job, "--master-port") == "4100"
        assert flag(job, "--distributed-executor-backend") == "mp"
        assert job.command.env["VLLM_HOST_IP"] == job.host
    assert "--headless" not in head.command.argv
    assert "--headless" in worker.command.argv
    ports = engine_named("vllm").ports(glm(layout={"tensor": 8}), TWO)
    assert [(each.port, each.keyed) for each in ports] == [(4000, True), (4100, False)]


def test_data_parallel_ranks_over_hosts() -> None:
    plan = glm(layout={"tensor": 2, "data": 4, "expert": True})
    head, worker = jobs_of(plan, TWO)
    for job in (head, worker):
        assert flag(job, "--data-parallel-size") == "4"
        assert flag(job, "--data-parallel-size-local") == "2"
        assert flag(job, "--data-parallel-address") == "10.0.0.1"
        assert flag(job, "--data-parallel-rpc-port") == "4101"
        assert "--enable-expert-parallel" in job.command.argv
        assert "--nnodes" not in job.command.argv
        assert refused(plan, job) == []
    assert flag(head, "--data-parallel-start-rank") is None
    assert flag(worker, "--data-parallel-start-rank") == "2"
    assert "--headless" in worker.command.argv
    purposes = [each.purpose for each in engine_named("vllm").ports(plan, TWO)]
    assert purposes == ["API", "data-parallel messages"]


def test_one_model_over_hosts_on_ray() -> None:
    plan = glm(layout={"tensor": 8}, program=("/envs/v/bin/python",))
    place = TWO.model_copy(update={"ray": True})
    serve, head, worker = jobs_of(plan, place)
    assert serve.command.argv[:5] == (
        *("/envs/v/bin/python", "-m", "vllm.entrypoints.cli.main"),
        *("serve", "/models/glm-4.5-air-fp8"),
    )
    assert flag(serve, "--distributed-executor-backend") == "ray"
    assert serve.command.env["RAY_ADDRESS"] == "10.0.0.1:4102"  # never ray://
    assert refused(plan, serve) == []
    assert head.command.argv[:5] == (
        *("/envs/v/bin/python", "-m", "ray.scripts.scripts", "start", "--head"),
    )
    assert "--include-dashboard=false" in head.command.argv
    assert "--address=10.0.0.1:4102" in worker.command.argv
    assert "--node-ip-address=10.0.0.2" in worker.command.argv
    assert [job.id for job in (serve, head, worker)] == [
        f"{plan.name}/engine-0{rank}" for rank in ("", ".1", ".2")
    ]
    assert [bool(job.command.secrets) for job in (serve, head, worker)] == [
        *(True, False, False)
    ]
    purposes = [each.purpose for each in engine_named("vllm").ports(plan, place)]
    assert purposes == ["API", "Ray's GCS"]


def test_data_parallel_ranks_on_ray() -> None:
    plan = glm(layout={"tensor": 4, "data": 2})
    serve, *_ = jobs_of(plan, TWO.model_copy(update={"ray": True}))
    assert flag(serve, "--data-parallel-backend") == "ray"
    assert refused(plan, serve) == []


def test_ray_on_one_host_is_no_ray() -> None:
    (job,) = jobs_of(glm(), BOX.model_copy(update={"ray": True}))
    assert "ray" not in job.command.argv


def test_without_ray_an_old_version_cannot_span_hosts() -> None:
    with pytest.raises(UsageError, match="several nodes without Ray") as error:
        jobs_of(glm(version="0.10.2", layout={"tensor": 8}), TWO)
    assert "0.11.2" in error.value.fix


def test_prompts_and_answers_apart_are_dynamos() -> None:
    place = BOX.model_copy(update={"role": "prefill"})
    with pytest.raises(
        UsageError, match="does not divide prompts and answers"
    ) as error:
        jobs_of(glm(), place)
    assert "engine: dynamo" in error.value.fix


def test_settings_of_a_plan_become_flags() -> None:
    plan = glm(
        layout={"pipeline": 2, "context": 2},
        settings={
            "eager": True,
            "kv_cache_dtype": "fp8",
            "quantization": "fp8",
            "cpu_offload_gib": 12.5,
            "kv_offload_gib": 64.0,
        },
        seed=0,
    )
    (job,) = jobs_of(plan)
    assert flag(job, "--pipeline-parallel-size") == "2"
    assert flag(job, "--decode-context-parallel-size") == "2"
    assert flag(job, "--enforce-eager") == ""
    assert flag(job, "--kv-cache-dtype") == "fp8"
    assert flag(job, "--quantization") == "fp8"
    assert flag(job, "--cpu-offload-gb") == "12.5"
    assert flag(job, "--kv-offloading-size") == "64"
    assert flag(job, "--seed") == "0"
    assert refused(plan, job) == []


def test_on_a_cpu_no_share_of_a_gpus_memory() -> None:
    (job,) = jobs_of(glm(), Place(port=4000))
    assert flag(job, "--gpu-memory-utilization") is None


def test_glms_mtp_layer_speculates() -> None:
    plan = glm(settings={"speculative": True})
    (job,) = jobs_of(plan)
    config = json.loads(flag(job, "--speculative-config") or "")
    assert config == {"method": "mtp", "num_speculative_tokens": 1}
    assert refused(plan, job) == []


def test_a_version_before_the_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="does not speculate with MTP layers"):
        jobs_of(glm(version="0.9.2", settings={"speculative": True}))


def test_reasoning_off_is_the_templates_switch() -> None:
    plan = glm(reasoning="off")
    (job,) = jobs_of(plan)
    switch = json.loads(flag(job, "--default-chat-template-kwargs") or "")
    assert switch == {"enable_thinking": False}
    assert refused(plan, job) == []


def test_reasoning_on_is_what_glm_does_by_itself() -> None:
    (job,) = jobs_of(glm(version="0.11.0", reasoning="on"))
    assert flag(job, "--default-chat-template-kwargs") is None


def test_a_version_without_the_switch_says_so() -> None:
    with pytest.raises(UsageError, match="cannot do reasoning off by default") as error:
        jobs_of(glm(version="0.11.0", reasoning="off"))
    assert "0.14.0" in error.value.fix


def test_gpt_oss_cannot_be_told_not_to_reason() -> None:
    plan = plan_of(proposed("gpt-oss-120b", "H100"), "vllm", OTHER, reasoning="off")
    with pytest.raises(UsageError, match="always reasons"):
        jobs_of(plan)


@pytest.mark.parametrize(("version", "there"), [("0.8.5", True), ("0.9.0", False)])
def test_reasoning_had_a_flag_of_its_own(version: str, there: bool) -> None:
    plan = glm(version=version)
    quirks = plan.quirks.model_copy(update={"reasoning_parser": "deepseek_r1"})
    (job,) = jobs_of(plan.model_copy(update={"quirks": quirks}))
    assert ("--enable-reasoning" in job.command.argv) == there


@pytest.mark.parametrize(("version", "fused"), [("0.12.0", False), ("0.26.0", True)])
def test_without_multicast_all_reduces_take_another_way(
    version: str, fused: bool
) -> None:
    plan = glm(version=version)
    (job,) = jobs_of(plan, BOX.model_copy(update={"multicast": False}))
    off = "--compilation-config.pass_config.fuse_allreduce_rms=false"
    assert (off in job.command.argv) == fused
    env = job.command.env
    assert env["VLLM_ALLREDUCE_USE_SYMM_MEM"] == "0"
    assert env["VLLM_FLASHINFER_ALLREDUCE_BACKEND"] == "trtllm"
    assert env["NCCL_NVLS_ENABLE"] == "0"
    assert refused(plan, job) == []


def test_multicast_is_on_where_it_may_be() -> None:
    (job,) = jobs_of(glm())
    assert "NCCL_NVLS_ENABLE" not in job.command.env
    assert not any("fuse_allreduce" in word for word in job.command.argv)


def test_gb200_hosts_are_one_nvlink_domain() -> None:
    place = TWO.model_copy(update={"multi_node_nvlink": True, "interface": "enP6"})
    for job in jobs_of(glm(layout={"tensor": 8}), place):
        assert job.command.env["NCCL_MNNVL_ENABLE"] == "1"
        assert job.command.env["NCCL_SOCKET_IFNAME"] == "enP6"


def test_quirks_and_the_spec_have_the_last_word_on_variables() -> None:
    plan = glm(engine_env={"VLLM_CACHE_ROOT": "/mine", "B": "spec"})
    quirks = plan.quirks.model_copy(
        update={"env": {"A": "quirk", "B": "quirk"}, "flags": {"--dtype": "bfloat16"}}
    )
    (job,) = jobs_of(plan.model_copy(update={"quirks": quirks}))
    env = job.command.env
    assert (env["A"], env["B"], env["VLLM_CACHE_ROOT"]) == ("quirk", "spec", "/mine")
    assert flag(job, "--dtype") == "bfloat16"


def test_a_hubs_name_may_be_looked_up() -> None:
    plan = glm()
    model = plan.model.model_copy(update={"path": "zai-org/GLM-4.5-Air-FP8"})
    (job,) = jobs_of(plan.model_copy(update={"model": model}))
    assert "HF_HUB_OFFLINE" not in job.command.env


def test_models_whose_code_is_needed_are_trusted() -> None:
    plan = glm()
    quirks = plan.quirks.model_copy(update={"trust_remote_code": True})
    (job,) = jobs_of(plan.model_copy(update={"quirks": quirks}))
    assert "--trust-remote-code" in job.command.argv


def test_a_served_name_wins() -> None:
    plan = glm()
    spec = plan.spec.model_copy(
        update={"model": plan.spec.model.model_copy(update={"served_name": "air"})}
    )
    (job,) = jobs_of(plan.model_copy(update={"spec": spec}))
    assert flag(job, "--served-model-name") == "air"


def test_the_engine_knows_itself() -> None:
    engine = engine_named("vllm")
    assert engine.version() == NEWEST
    assert engine.refusal(None) is None  # type: ignore[arg-type]
    assert [each.port for each in engine.ports(glm(), BOX)] == [4000]
    with pytest.raises(UsageError, match="unknown engine 'tgi'"):
        engine_named("tgi")


def test_roles_are_ignored_by_whole_replicas() -> None:
    (job,) = jobs_of(glm(roles=Role(prefill=1, decode=1)))
    assert flag(job, "--kv-transfer-config") is None
