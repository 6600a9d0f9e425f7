"""What engines' logs tell: lines of real logs here, and whole ones where ../shared is at hand."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lemnos.engines.base import engine_named
from lemnos.engines.logs import EngineFacts, facts_of, stage_of

LOGS = Path(__file__).parents[4] / "shared" / "logs"

# GLM-4.5-Air-FP8 at TP2 over two hosts, vLLM 0.26; times and process numbers cut.
VLLM = """\
INFO [core.py:121] Initializing a V1 LLM engine (v0.26.0) with config: model='/m'
INFO [model.py:580] Resolved architecture: Glm4MoeForCausalLM
INFO [gpu_model_runner.py:5252] Starting to load model /m...
INFO [cuda_communicator.py:222] Using ['PYNCCL'] all-reduce backends
INFO [__init__.py:720] Selected CutlassFP8ScaledMMLinearKernel for CompressedTensorsW8A8Fp8
INFO [cuda.py:480] Using FLASH_ATTN attention backend out of potential backends
INFO [flash_attn.py:100] Using FlashAttention version 3
INFO [fp8.py:400] Using VLLM_CUTLASS Fp8 MoE backend out of potential backends
INFO [gpu_model_runner.py:5347] Model loading took 50.6 GiB memory and 3.176998 seconds
INFO [backends.py:1000] Using cache directory: /c for vLLM's torch.compile
INFO [monitor.py:53] torch.compile took 30.83 s in total
INFO [gpu_worker.py:500] Available KV cache memory: 69.34 GiB
INFO [kv_cache_utils.py:1700] GPU KV cache size: 790,320 tokens
INFO [gpu_model_runner.py:6500] Capturing CUDA graphs (decode, FULL): 100%
INFO [gpu_model_runner.py:6540] Graph capturing finished in 19 secs, took 2.89 GiB
INFO [core.py:300] init engine (profile, create kv cache, warmup model) took 61.38 s
INFO [api_server.py:677] Starting vLLM server on http://127.0.0.1:4000
""".splitlines()

SGLANG = """\
[2026-11-01 10:00:00] server_args=ServerArgs(model_path='/m', attention_backend='fa3', moe_runner_backend='auto')
[2026-11-01 10:00:09 TP0] Load weight begin. avail mem=138.00 GB
[2026-11-01 10:01:00 TP0] Load weight end. elapsed=51.20 s, type=Glm4MoeForCausalLM, avail mem=87.00 GB, mem usage=50.70 GB.
[2026-11-01 10:01:01 TP0] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 790320, K size: 34.00 GB, V size: 34.50 GB
[2026-11-01 10:01:01 TP0] Memory pool end. avail mem=18.00 GB
""".splitlines()


def test_a_start_of_vllm_tells_its_facts() -> None:
    assert facts_of("vllm", VLLM) == EngineFacts(
        version="0.26.0",
        architecture="Glm4MoeForCausalLM",
        weights_gib=50.6,
        kv_cache_gib=69.34,
        kv_cache_tokens=790_320,
        graphs_gib=2.89,
        load_s=3.176998,
        compile_s=30.83,
        capture_s=19.0,
        start_s=61.38,
        attention="FlashAttention version 3",
        experts="VLLM_CUTLASS",
        linear="CutlassFP8ScaledMMLinearKernel",
        all_reduce="PYNCCL",
    )


def test_stages_of_vllm_come_in_the_order_of_a_start() -> None:
    seen = [stage for line in VLLM if (stage := stage_of("vllm", line))]
    assert list(dict.fromkeys(seen)) == [
        "starting",
        "loading weights",
        "compiling",
        "making the KV cache",
        "capturing CUDA graphs",
        "warming up",
        "listening",
    ]


def test_a_line_that_says_nothing_has_no_stage() -> None:
    assert stage_of("vllm", "INFO: 127.0.0.1 GET /health 200 OK") is None


@pytest.mark.parametrize(
    "lines",
    [
        [  # up to 0.5.1x
            "Capture cuda graph begin. This can take up to several minutes. avail mem=17.9 GB",
            "Capture cuda graph end. Time elapsed: 19.00 s. mem usage=2.90 GB. avail mem=15.0 GB.",
        ],
        [  # 0.5.23: a line for each phase
            "Capture target prefill CUDA graph begin. backend=full, num_tokens=[4], avail mem=17.9 GB",
            "Capture target prefill CUDA graph end. elapsed=3.00 s, mem usage=0.50 GB, avail mem=17.4 GB.",
            "Capture target decode CUDA graph begin. backend=full, num_tokens_per_req=1",
            "Capture target decode CUDA graph end. bs=[1, 2], elapsed=19.00 s, mem usage=2.90 GB, avail mem=15.0 GB.",
        ],
    ],
)
def test_a_start_of_sglang_tells_its_facts(lines: list[str]) -> None:
    found = facts_of("sglang", [*SGLANG, *lines])
    assert found == EngineFacts(
        weights_gib=50.7,
        load_s=51.2,
        kv_cache_tokens=790_320,
        kv_cache_gib=68.5,
        graphs_gib=2.9,
        capture_s=19.0,
        attention="fa3",
        experts="auto",
    )
    stages = [
        stage for line in (*SGLANG, *lines) if (stage := stage_of("sglang", line))
    ]
    assert list(dict.fromkeys(stages)) == [
        "starting",
        "loading weights",
        "making the KV cache",
        "capturing CUDA graphs",
        "warming up",
    ]


def test_sglangs_latent_cache_is_one() -> None:
    line = "KV Cache is allocated. dtype: torch.bfloat16, #tokens: 5, KV size: 12.25 GB"
    assert facts_of("sglang", [line]).kv_cache_gib == 12.25


def test_sglang_listens_when_it_says_so() -> None:
    line = "[2026-11-01] The server is fired up and ready to roll!"
    assert stage_of("sglang", line) == "listening"


def test_dynamos_workers_speak_as_their_engine() -> None:
    dynamo = engine_named("dynamo")
    assert dynamo.facts(VLLM).kv_cache_tokens == 790_320
    assert dynamo.facts(SGLANG).weights_gib == 50.7
    assert dynamo.stage(VLLM[2]) == "loading weights"
    assert dynamo.stage(SGLANG[1]) == "loading weights"


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_each_adapter_reads_its_own_log(name: str) -> None:
    engine = engine_named(name)
    lines = VLLM if name == "vllm" else SGLANG
    assert engine.facts(lines).weights_gib is not None
    assert "loading weights" in {engine.stage(line) for line in lines}


# What the logs in ../shared say, as read by people.
KNOWN: dict[str, dict[str, object]] = {
    "tp1-started": {
        "weights_gib": 100.97,
        "activation_gib": 3.29,
        "kv_cache_gib": 22.86,
        "kv_cache_tokens": 130_272,
        "graphs_gib": 1.82,
        "capture_s": 20.0,
        "start_s": 99.12,
    },
    "started-two_nodes_rank0": {
        "weights_gib": 50.6,
        "kv_cache_gib": 69.34,
        "kv_cache_tokens": 790_320,
        "all_reduce": "PYNCCL",
    },
    "started-two_nodes_rank1": {"weights_gib": 50.6, "kv_cache_gib": 69.34},
    "tp2-allreduce-illegal-access": {"compile_s": 37.76, "graphs_gib": None},
    "failed-oom_weights": {"weights_gib": None, "version": "0.26.0"},
    "failed-port_in_use": {"weights_gib": None, "version": "0.26.0"},
    "failed-bad_flag_swap_space": {"version": None},
}


@pytest.mark.skipif(
    not LOGS.is_dir(), reason="../shared/logs is not beside this checkout"
)
@pytest.mark.parametrize("name", KNOWN)
def test_real_logs_of_vllm(name: str) -> None:
    with gzip.open(LOGS / f"vllm-0.26-{name}.log.gz", "rt") as file:
        lines = file.read().splitlines()
    found = facts_of("vllm", lines).model_dump()
    assert {key: found[key] for key in KNOWN[name]} == KNOWN[name]
    stages = list(dict.fromkeys(s for line in lines if (s := stage_of("vllm", line))))
    assert ("listening" in stages) == (
        name in ("tp1-started", "started-two_nodes_rank0")
    )
