"""Refitting: constants come back from points that were made with them."""

from __future__ import annotations

import pytest

from lemnos.errors import UsageError
from lemnos.hardware.catalogue import gpu_kind
from lemnos.planning.calibration import Constants, constants_for
from lemnos.planning.fitting import Measured, refit
from lemnos.planning.measured import predicted
from tests.unit.planning.places import model

ARCHITECTURE = model("qwen3-32b")
KIND = gpu_kind("H100")


def _predict(point: Measured, constants: Constants) -> tuple[float, float]:
    return predicted(point, ARCHITECTURE, KIND, constants)


def _points(constants: Constants) -> list[Measured]:
    found = []
    for concurrency in (1, 8, 32):
        point = Measured(
            model="qwen3-32b",
            gpu="H100",
            layout={"tensor": 2},
            context=8192,
            concurrency=concurrency,
            input_tokens=512,
            output_tokens=64,
            requests=2 * concurrency,
            ttft_ms=1,
            tpot_ms=1,
        )
        ttft, tpot = _predict(point, constants)
        found.append(point.model_copy(update={"ttft_ms": ttft, "tpot_ms": tpot}))
    return found


def test_a_refit_finds_what_slowed_the_machine() -> None:
    start = constants_for("vllm")
    slow = start.model_copy(
        update={"memory": start.memory * 0.7, "kernel_us": start.kernel_us * 2}
    )
    points = _points(slow)
    before = [abs(_predict(p, start)[1] / p.tpot_ms - 1) for p in points]
    fitted = refit(start, points, _predict, "a test")
    after = [abs(_predict(p, fitted)[1] / p.tpot_ms - 1) for p in points]
    assert max(before) > 0.15
    assert max(after) < 0.05
    assert fitted.gpus == ("H100",)
    assert fitted.source == "a test"
    assert fitted.error.tpot >= 0.05


def test_a_refit_leaves_right_constants_alone() -> None:
    start = constants_for("vllm")
    fitted = refit(start, _points(start), _predict, "a test")
    assert fitted.memory == pytest.approx(start.memory, rel=0.05)


def test_too_few_points_are_refused() -> None:
    start = constants_for("vllm")
    with pytest.raises(UsageError, match="too few"):
        refit(start, _points(start)[:2], _predict, "a test")
