"""What fits on a machine without a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import LemnosError, UsageError
from lemnos.planning.llamacpp import SPARE, memory_of, plan_llamacpp
from lemnos.spec.facts import Gpu
from tests import samples

GIB = 1024**3


def test_kv_cache_is_what_llama_cpp_allocates() -> None:
    # llama.cpp's own log for this model: "KV buffer size = 180.00 MiB (2048 cells, 4 seqs)"
    memory = memory_of(samples.SMOLLM2_FACTS, 2048, 4, 8 * GIB)
    assert memory.kv_cache == 180 * 1024**2


def test_compute_is_close_to_what_llama_cpp_reserves() -> None:
    # its log for 2048 tokens a batch: "compute buffer size = 414.61 MiB"; ours are 512
    memory = memory_of(samples.SMOLLM2_FACTS, 2048, 4, 8 * GIB)
    from lemnos.planning.llamacpp import PROCESS_BYTES

    expected = 414.61 / 4 * 1024**2
    assert memory.compute - PROCESS_BYTES == pytest.approx(expected, rel=0.01)


def test_without_a_wish_the_context_is_4096() -> None:
    made = samples.plan()
    assert made.embedded
    assert made.embedded.settings.context == 4096
    assert made.embedded.settings.slots == 4
    assert made.embedded.settings.threads == 2
    assert not made.rejected
    assert "no GPU" in made.reasons[0]


def test_little_memory_gives_a_smaller_context_and_says_so() -> None:
    need = memory_of(samples.SMOLLM2_FACTS, 2048, 4, 0).total
    host = samples.host(free_bytes=int(need / (1 - SPARE)) + 1)
    made = plan_llamacpp(
        "x", samples.spec(), samples.SMOLLM2, samples.SMOLLM2_FACTS, host, "1"
    )
    assert made.context == 2048
    assert [r.option for r in made.rejected] == ["context 4096 x 4"]
    assert "GiB are free" in made.rejected[0].reason


def test_a_context_that_was_asked_for_is_kept_or_refused() -> None:
    assert samples.plan(workload={"context": 8192}).context == 8192
    with pytest.raises(UsageError, match="8193 is over what smollm2.* trained for"):
        samples.plan(workload={"context": 8193})


def test_what_does_not_fit_is_refused_with_the_figures() -> None:
    host = samples.host(free_bytes=100 * 1024**2)
    with pytest.raises(LemnosError, match=r"needs 0\.\d\d GiB .* 0\.10 GiB are free"):
        plan_llamacpp(
            "x", samples.spec(), samples.SMOLLM2, samples.SMOLLM2_FACTS, host, "1"
        )


def test_gpus_are_named_when_they_stay_idle() -> None:
    host = samples.host(gpus=(Gpu(index=0, name="NVIDIA H200"),))
    made = plan_llamacpp(
        "x", samples.spec(), samples.SMOLLM2, samples.SMOLLM2_FACTS, host, "1"
    )
    assert "its GPUs stay free" in made.reasons[0]


def test_a_small_model_gets_all_of_its_context() -> None:
    facts = samples.SMOLLM2_FACTS.model_copy(update={"max_context": 2048})
    made = plan_llamacpp(
        "x", samples.spec(), samples.SMOLLM2, facts, samples.host(), "1"
    )
    assert made.context == 2048
    assert "all that the model was trained for" in made.reasons[2]


@given(free=st.integers(50 * 1024**2, 4 * GIB), slots=st.integers(1, 64))
def test_a_plan_never_takes_more_than_is_free(free: int, slots: int) -> None:
    spec = samples.spec(workload={"concurrency": slots})
    host = samples.host(free_bytes=free)
    try:
        made = plan_llamacpp(
            "x", spec, samples.SMOLLM2, samples.SMOLLM2_FACTS, host, "1"
        )
    except LemnosError:
        smallest = memory_of(samples.SMOLLM2_FACTS, 512, slots, free)
        assert smallest.total > free * (1 - SPARE)
        return
    assert made.embedded
    assert made.embedded.memory.total <= free * (1 - SPARE)
