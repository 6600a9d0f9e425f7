"""A step's time: physics that must hold, and the measurements it is held against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.hardware.catalogue import gpu_kind
from lemnos.planning.calibration import Constants, constants_for
from lemnos.planning.fitting import MeasuredFile
from lemnos.planning.measured import predicted
from lemnos.planning.speed import (
    Fabric,
    StepModel,
    imbalance,
    step_model,
    step_time,
    touched,
)
from lemnos.spec.document import load
from lemnos.spec.layout import Layout
from tests.unit.planning.places import model

MEASURED = Path(__file__).parents[3] / "benchmarks" / "measured"
FABRIC = Fabric(450e9, 25e9, 2e-5)


def _steps(
    name: str, layout: Layout | None = None, gpu: str = "H200", **options: object
) -> StepModel:
    constants = constants_for("vllm")
    if "spread" in options:
        spread = options.pop("spread")
        constants = constants.model_copy(update={"spread": spread})
    return step_model(
        model(name),
        layout or Layout(),
        gpu_kind(gpu),
        FABRIC,
        constants,
        **options,  # type: ignore[arg-type]
    )


def test_the_measured_points_are_predicted_within_the_figures() -> None:
    tpots, alone = [], []
    constants = constants_for("vllm")
    for path in sorted(MEASURED.glob("*.json")):
        for point in load(path, MeasuredFile).points:
            if point.skip:
                continue
            ttft, tpot = predicted(
                point, model(point.model), gpu_kind(point.gpu), constants
            )
            tpots.append(abs(tpot / point.tpot_ms - 1))
            if point.concurrency == 1:
                alone.append(abs(ttft / point.ttft_ms - 1))
    assert len(tpots) > 60
    assert median(tpots) <= 0.10
    assert max(tpots) <= 0.25
    assert median(alone) <= 0.20


def test_touched_experts() -> None:
    assert touched(128, 8, 1, 1.0) == pytest.approx(8)
    assert touched(128, 8, 32, 1.0) == pytest.approx(128 * (1 - (15 / 16) ** 32))
    assert touched(128, 8, 32, 0.0) == pytest.approx(8)  # all alike
    assert touched(0, 0, 32, 1.0) == 0


@given(
    experts=st.integers(1, 512),
    share=st.floats(0.01, 1.0),
    tokens=st.floats(1, 1e5),
    spread=st.floats(0, 1),
)
def test_touched_experts_lie_between_one_token_and_all(
    experts: int, share: float, tokens: float, spread: float
) -> None:
    top_k = max(1, int(experts * share))
    hit = touched(experts, top_k, tokens, spread)
    assert top_k * 0.999 <= hit <= experts * 1.001


def test_imbalance_lies_between_even_and_one_rank_alone() -> None:
    assert imbalance(8, 1) == 1.0
    assert 1.5 < imbalance(8, 4) < 2.2  # the fullest of 4 ranks gets 3 to 4 of 8
    assert imbalance(1, 8) <= 8
    assert imbalance(10_000, 8) < 1.05


@pytest.mark.parametrize("name", ["glm-4.5-air-fp8", "qwen3-32b", "glm-4.7-flash"])
def test_a_step_takes_longer_with_more_to_do(name: str) -> None:
    steps = _steps(name)
    decode = [step_time(steps, 0, 0, batch, 1000) for batch in (1, 8, 64, 256)]
    assert decode == sorted(decode)
    context = [step_time(steps, 0, 0, 8, length) for length in (0, 1000, 100_000)]
    assert context == sorted(context)
    prompt = [step_time(steps, tokens, 0, 0, 0) for tokens in (4096, 8192, 16384)]
    assert prompt == sorted(prompt)
    assert step_time(steps, 0, 0, 0, 0) == 0


def test_no_step_is_quicker_than_reading_what_it_must() -> None:
    """One token reads at least the active weights: 32.8 B of Qwen3-32B in BF16 at 4.8 TB/s."""
    floor = 2 * (32.76e9 - 151936 * 5120) / 4.8e12
    assert step_time(_steps("qwen3-32b"), 0, 0, 1, 0) > floor


def test_tensor_parallelism_is_quicker_but_not_for_nothing() -> None:
    one, two, four = (
        step_time(_steps("qwen3-32b", Layout(tensor=n)), 0, 0, 8, 1000)
        for n in (1, 2, 4)
    )
    assert one > two > four
    assert four > one / 4


def test_tensor_parallelism_over_nodes_pays_for_the_network() -> None:
    inside = _steps("qwen3-32b", Layout(tensor=2))
    over = replace(inside, fabric=replace(FABRIC, tensor_nodes=2))
    assert step_time(over, 0, 0, 8, 1000) > step_time(inside, 0, 0, 8, 1000)


def test_pipeline_stages_add_up() -> None:
    one = step_time(_steps("qwen3-32b"), 0, 0, 1, 1000)
    two = step_time(_steps("qwen3-32b", Layout(pipeline=2)), 0, 0, 1, 1000)
    assert two == pytest.approx(one, rel=0.05)


def test_without_graphs_the_host_sets_the_pace() -> None:
    graphs = step_time(_steps("glm-4.5-air-fp8"), 0, 0, 1, 1000)
    eager = step_time(_steps("glm-4.5-air-fp8", graphs=False), 0, 0, 1, 1000)
    assert 6 < eager / graphs < 12  # measured: 70.8 / 7.8
    eight = step_time(_steps("glm-4.5-air-fp8", graphs=False), 0, 0, 8, 1000)
    assert eight == pytest.approx(eager, rel=0.05)


def test_even_routing_reads_more_experts() -> None:
    alike = step_time(_steps("glm-4.5-air-fp8"), 0, 0, 32, 1200)
    even = step_time(_steps("glm-4.5-air-fp8", spread=1.0), 0, 0, 32, 1200)
    assert 2 < even / alike < 3.5  # measured: 31.5 / 11.9 with prefills in both
    dense = step_time(_steps("qwen3-32b"), 0, 0, 32, 1200)
    assert dense == step_time(_steps("qwen3-32b", spread=1.0), 0, 0, 32, 1200)


def test_formats_without_units_are_widened() -> None:
    """A100s have no FP8 units: FP8 weights are read narrow and multiplied in BF16."""
    hopper = _steps("qwen3-32b-fp8", gpu="H100")
    ampere = _steps("qwen3-32b-fp8", gpu="A100-80")
    assert step_time(ampere, 8192, 0, 0, 0) > 2 * step_time(hopper, 8192, 0, 0, 0)
    black = _steps("glm-4.7-nvfp4", Layout(tensor=4), gpu="B200")
    old = _steps("glm-4.7-nvfp4", Layout(tensor=4), gpu="H200")
    assert step_time(old, 8192, 0, 0, 0) > step_time(black, 8192, 0, 0, 0)


def test_expert_ranks_over_data_parallel_attention_exchange_tokens() -> None:
    spread = _steps("deepseek-v3", Layout(data=8, expert=True))
    sliced = _steps("deepseek-v3", Layout(tensor=8))
    assert step_time(spread, 0, 0, 1, 1000) > step_time(sliced, 0, 0, 1, 1000)
    far = replace(spread, fabric=replace(FABRIC, expert_nodes=2))
    assert step_time(far, 0, 0, 8, 1000) > step_time(spread, 0, 0, 8, 1000)


def test_constants_name_where_they_are_from() -> None:
    constants = constants_for("vllm")
    assert isinstance(constants, Constants)
    assert "H200" in constants.gpus and constants.source
    assert constants_for("no such engine") == constants
