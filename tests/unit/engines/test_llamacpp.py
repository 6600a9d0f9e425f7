"""The embedded engine's adapter."""

from __future__ import annotations

import pytest

from lemnos.engines.base import JobFiles, engine_named
from lemnos.engines.llamacpp import LlamaCpp
from lemnos.errors import UsageError
from lemnos.spec.place import Place
from tests import samples

FILES = JobFiles(log="/d/engine-0.log", key_file="/d/engine.key")


def test_the_job_is_a_child_with_the_plans_settings() -> None:
    (job,) = LlamaCpp().jobs(samples.plan(), 0, Place(port=4567), FILES)
    argv = list(job.command.argv[1:])
    assert argv == [
        "-m",
        "lemnos.engines.llamacpp_server",
        *("--model", samples.SMOLLM2.path),
        *("--alias", "smollm2-135m-instruct"),
        *("--host", "127.0.0.1"),
        *("--port", "4567"),
        *("--context", "4096"),
        *("--slots", "4"),
        *("--threads", "2"),
        *("--key-file", "/d/engine.key"),
    ]
    assert job.command.env["OMP_WAIT_POLICY"] == "passive"
    assert job.command.env["OMP_NUM_THREADS"] == "2"
    assert job.id == "smollm2/engine-0"


def test_the_served_name_wins_over_the_models() -> None:
    made = samples.plan(model={"source": "x", "served_name": "mine"})
    (job,) = LlamaCpp().jobs(made, 0, Place(port=1), FILES)
    assert "mine" in job.command.argv


def test_machines_that_cannot_run_it_are_refused_with_the_fix() -> None:
    engine = LlamaCpp()
    assert engine.refusal(samples.host()) is None
    old = engine.refusal(samples.host(cpu_flags=("sse4_2",)))
    assert old and "no AVX2" in str(old)
    arm = samples.host(architecture="aarch64", cpu_flags=())
    assert engine.refusal(arm) is None
    bare = engine.refusal(samples.host(libgomp=False))
    assert bare and "apt-get install libgomp1" in str(bare)


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("0.00.004.214 I srv    load_model: loading model 'x.gguf'", "loading weights"),
        (
            "0.00.16 I llama_kv_cache:  CPU KV buffer size = 180.00 MiB",
            "making the KV cache",
        ),
        ("0.00.80 I cmn  init: llama threadpool init, n_threads = 2", "warming up"),
        ("0.00.98 I srv          init: listening on http://127.0.0.1:1", "listening"),
        ("0.01.15 I slot launch_slot_: id  3 | task 0 | processing task", None),
    ],
)
def test_stages_are_read_from_the_log(line: str, stage: str | None) -> None:
    assert LlamaCpp().stage(line) == stage


def test_engines_are_found_by_name() -> None:
    assert engine_named("llamacpp").name == "llamacpp"
    with pytest.raises(UsageError, match="unknown engine 'vlm'"):
        engine_named("vlm")
