"""``lemnos plan`` as people run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemnos.gateway.ledger import Ledger, default_path, sqlite_url
from tests.command import lemnos, report
from tests.entries import entry

AIR = ("plan", "zai-org/GLM-4.5-Air-FP8", "--cluster", "1xH200", "--context", "8192")


def test_json_has_plain_numbers_chosen_first() -> None:
    answer = report(*AIR, "--concurrency", "32")
    chosen = answer["plans"][0]
    for name in (
        "weights_gib_per_rank",
        "kv_cache_tokens",
        "ttft_ms",
        "tpot_ms",
        "output_tokens_per_s",
        "ready_s",
    ):
        low, high = chosen[f"{name}_interval"]
        assert low <= chosen[name] <= high
    assert chosen["weights_gib_per_rank"] == pytest.approx(100.97, rel=0.005)
    assert chosen["kv_cache_tokens"] == pytest.approx(130_272, rel=0.02)
    assert chosen["tpot_ms"] == pytest.approx(11.9, rel=0.25)
    assert answer["asked"]["concurrency"] == 32


def test_every_pin_is_an_option() -> None:
    words = (
        "plan glm-4.6-fp8 --cluster 4xH200 --tp 4 --pp 1 --dp 1 --ep --enforce-eager"
    )
    words += " --kv-cache-dtype fp8 --gpu-memory-utilization 0.95 --context 32768"
    words += " --max-num-seqs 8 --max-batched-tokens 32768 --concurrency 8"
    words += (
        " --input-tokens 6100 --output-tokens 64 --engine vllm --engine-version 0.26.0"
    )
    words += " --slo ttft=10s,tpot=500ms"
    chosen = report(*words.split())["plans"][0]
    assert chosen["layout"]["expert"] is True
    assert chosen["weights_gib_per_rank"] == pytest.approx(83.07, rel=0.005)
    assert chosen["kv_cache_tokens"] == pytest.approx(949_280, rel=0.02)
    assert chosen["tpot_ms"] == pytest.approx(175.93, rel=0.25)
    assert chosen["meets_slo"] is True


def test_people_see_the_bar_the_table_and_why_not() -> None:
    text = lemnos("plan", "glm-4.6", "--cluster", "8xH200").stdout
    assert "memory of a GPU" in text and "# weights" in text
    assert "why not" in text and "[memory]" in text
    assert "> chosen" in text


def test_nothing_fits_is_exit_1_and_what_would() -> None:
    done = lemnos(
        *("plan", "glm-4.6", "--cluster", "2xGH200", "--context", "131072"), code=1
    )
    assert "nothing fits" in done.stdout
    assert "smallest that fits" in done.stdout


def test_a_directory_with_a_config_is_a_model(tmp_path: Path) -> None:
    from importlib import resources

    config = resources.files("lemnos.models").joinpath("configs/qwen3-8b.json")
    (tmp_path / "config.json").write_text(config.read_text())
    chosen = report("plan", str(tmp_path), "--cluster", "1xH100")["plans"][0]
    assert chosen["weights_gib_per_rank"] == pytest.approx(15.3, rel=0.02)


def test_a_cluster_file_and_a_workload(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        "nodes:\n- {name: a, count: 2, gpus: 4xH100, price_per_hour: 12}\n"
        "network: {gbit_s: 400, latency_ms: 0.01}\n"
    )
    log = tmp_path / "week.csv"
    log.write_text("time,input_tokens,output_tokens\n0,3000,200\n1,500,100\n")
    answer = report(
        *("plan", "glm-4.5-air-fp8", "--cluster", str(cluster)),
        *("--workload", str(log), "--slo", "ttft=5s"),
    )
    assert answer["replayed"][0]["requests"] == 2
    assert answer["plans"][0]["cost_per_hour"] > 0


def test_what_the_gateways_served_is_a_workload() -> None:
    ledger = Ledger(sqlite_url(default_path()))
    for at in range(3):
        ledger.record(entry(at=1e9 + at, input_tokens=2000, output_tokens=50))
    ledger.record(entry(at=1e9, input_tokens=None, output_tokens=None))
    ledger.close()
    answer = report(*AIR, "--workload", "ledger")
    assert answer["replayed"][0]["requests"] == 3


def test_a_saved_plan_is_a_deployment_that_up_reads(tmp_path: Path) -> None:
    saved = tmp_path / "plan.yaml"
    lemnos("plan", "glm-4.5-air-fp8", "--cluster", "2xH200", "--save", str(saved))
    shown = report("up", str(saved), "--dry-run")
    engines = [job for job in shown["jobs"] if job["role"] == "engine"]
    assert "--max-model-len" in engines[0]["command"]["argv"]
    done = lemnos("up", str(saved), code=1)
    assert "is not here" in done.stderr
    lemnos("plan", "--save", str(saved))
    assert "smollm2" in saved.read_text()
    plan = json.loads(lemnos("up", str(saved), "--dry-run", "--json").stdout)
    assert plan["plan"]["engine"] == "llamacpp"


def test_measurements_refit_the_model(tmp_path: Path) -> None:
    points = [
        {
            "model": "glm-4.5-air-fp8",
            "gpu": "H200",
            "context": 8192,
            "concurrency": streams,
            "input_tokens": 1024,
            "output_tokens": 64,
            "requests": 2 * streams,
            "ttft_ms": 200.0,
            "tpot_ms": 16.0 + streams / 10,
        }
        for streams in (1, 2, 4, 8)
    ]
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"points": points}))
    plain = report(*AIR, "--concurrency", "4")["plans"][0]
    refit = report(*AIR, "--concurrency", "4", "--calibrate", str(path))["plans"][0]
    assert refit["tpot_ms"] > 1.3 * plain["tpot_ms"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("glm-4.66 --cluster 4xH200", "Did you mean 'glm-4.6'"),
        ("glm-4.6 --cluster 4xH20", "Did you mean 'H200'"),
        ("glm-4.6 --cluster four", "not in the catalogue"),
        ("glm-4.6 --cluster nowhere.yaml", "cannot be read"),
        ("glm-4.6 --cluster 4xH200 --slo fast", "write ttft=1s,tpot=50ms"),
        ("glm-4.6 --cluster 4xH200 --tp 0", "greater than or equal to 1"),
        ("glm-4.6 --cluster 4xH200 --concurrency 0", "greater than or equal to 1"),
        ("glm-4.6 --cluster 4xH200 --input-tokens -5", "greater than or equal to 1"),
        ("glm-4.6 --cluster 4xH200 --kv-cache-dtype int3", "'fp8'"),
        ("glm-4.6 --cluster 4xH200 --engine vlm", "'vllm'"),
        ("glm-4.6 --cluster 4xH200 --engine-version abc", "write it as 0.26.0"),
        (
            "glm-4.6-fp8 --cluster 4xH200 --quantization fp8",
            "leave --quantization away",
        ),
        (
            "glm-4.6 --cluster 4xH200 --context 1000 --input-tokens 2000",
            "does not fit the context",
        ),
        ("glm-4.6 --cluster 4xH200 --workload ledger", "there is no ledger yet"),
        ("glm-4.6 --cluster 4xH200 --workload nowhere.csv", "cannot be read"),
    ],
)
def test_mistakes_are_a_sentence(words: str, says: str) -> None:
    from tests.command import failing

    assert says in failing("plan", *words.split())
