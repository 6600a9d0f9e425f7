"""Host memory: weights and KV cache that leave the GPU; and MTP layers that come onto it."""

from __future__ import annotations

import dataclasses

import pytest

from lemnos.planning.budget import Fit, Miss, fit, settings_for
from lemnos.planning.calibration import constants_for
from lemnos.planning.memory import GIB, weights_per_stage
from lemnos.planning.rules import rules_for
from lemnos.spec.layout import Layout
from lemnos.spec.proposal import Ask
from tests.unit.planning.places import model, plans, site

RULES, CONSTANTS = rules_for("vllm", None), constants_for("vllm")


def _fit(
    name: str, where: str, layout: Layout, free: float | None = None, **asked: object
) -> Fit | Miss:
    place = dataclasses.replace(site(where), host_free_gib=free)
    ask = Ask.model_validate({"context": 8192, **asked})
    settings = settings_for(model(name), place, ask, RULES, "auto")
    return fit(model(name), layout, place, settings, RULES, CONSTANTS)


def test_offloaded_weights_make_room_for_the_kv_cache() -> None:
    two = Layout(tensor=2)
    here = _fit("glm-4.5-air-fp8", "2xH100", two)
    moved = _fit("glm-4.5-air-fp8", "2xH100", two, cpu_offload_gib=20)
    assert isinstance(here, Fit) and isinstance(moved, Fit)
    assert moved.budget.weights == pytest.approx(here.budget.weights - 20, abs=0.01)
    assert moved.budget.kv_cache == pytest.approx(here.budget.kv_cache + 20, abs=0.01)
    assert moved.host.weights == 40
    assert moved.offloaded == pytest.approx(20 / here.budget.weights, rel=0.01)


def test_more_is_never_offloaded_than_there_is() -> None:
    fitted = _fit("glm-4.5-air-fp8", "1xH200", Layout(), cpu_offload_gib=4096)
    assert isinstance(fitted, Fit)
    assert 0 < fitted.budget.weights < 10
    assert fitted.offloaded == pytest.approx(0.95)


def test_a_host_too_small_refuses_with_its_sum() -> None:
    four = Layout(tensor=4)
    asked: dict[str, object] = {"cpu_offload_gib": 30, "kv_offload_gib": 200}
    refused = _fit("glm-4.5-air-fp8", "4xH100", four, free=300, **asked)
    assert isinstance(refused, Miss)
    assert "340 GiB of a node's host memory" in refused.sentence
    assert "weights 120, KV cache 200, processes 20" in refused.sentence
    assert "300 GiB are free" in refused.sentence
    assert isinstance(_fit("glm-4.5-air-fp8", "4xH100", four, free=400, **asked), Fit)


def test_an_engine_over_two_nodes_takes_half_its_kv_offload_on_each() -> None:
    layout = Layout(tensor=4, pipeline=2)
    fitted = _fit("glm-4.6-fp8", "2x4xH200", layout, kv_offload_gib=200)
    assert isinstance(fitted, Fit)
    assert fitted.host.kv_cache == 100


def test_c2c_reads_offloaded_weights_faster_than_pcie() -> None:
    asked = {"tensor": 1, "context": 8192, "cpu_offload_gib": 60, "replicas": 1}
    superchip = plans("glm-4.5-air-fp8", "1xGH200", **asked).plans[0]
    card = plans("glm-4.5-air-fp8", "1xH100", **asked).plans[0]
    free = plans("glm-4.5-air-fp8", "1xH200", tensor=1, context=8192).plans[0]
    assert card.tpot_ms > 3 * superchip.tpot_ms > 3 * free.tpot_ms
    assert any("weights in host memory" in each for each in card.warnings)
    assert any("host's memory is not known" in each for each in card.warnings)


def test_kv_offload_is_counted_in_tokens_and_against_computing_again() -> None:
    asked = {"tensor": 4, "context": 8192, "kv_offload_gib": 100, "replicas": 1}
    plan = plans("glm-4.5-air-fp8", "4xH200", **asked).plans[0]
    # 188,416 bytes a token (facts/models.md), whatever the ranks
    assert plan.kv_offload_tokens == pytest.approx(100 * GIB / 188_416, rel=0.001)
    assert any("come back in about" in reason for reason in plan.reasons)
    assert plans("glm-4.5-air-fp8", "4xH200").plans[0].kv_offload_tokens == 0


def test_mtp_layers_cost_weights_and_a_layer_of_cache() -> None:
    air, one = model("glm-4.5-air-fp8"), Layout()
    plain, more = (
        weights_per_stage(air, one, speculative=speculative)[0] / GIB
        for speculative in (False, True)
    )
    assert 3.3 < more - plain < 6.8  # 3.62 B parameters, in 8 and 16 bits
    without = _fit("glm-4.5-air-fp8", "1xH200", one)
    fitted = _fit("glm-4.5-air-fp8", "1xH200", one, speculative=True)
    assert isinstance(without, Fit) and isinstance(fitted, Fit)
    tokens = fitted.budget.kv_cache / without.budget.kv_cache * 46 / 47
    assert fitted.kv_tokens == pytest.approx(without.kv_tokens * tokens, rel=0.01)
    warnings = plans("glm-4.5-air-fp8", "1xH200", speculative=True).plans[0].warnings
    assert any("without the gain of speculation" in each for each in warnings)


def test_a_model_without_mtp_layers_cannot_speculate_with_them() -> None:
    found = plans("qwen3-32b", "1xH200", speculative=True)
    assert not found.plans and not found.smallest
    assert all("no MTP layers" in each.reason for each in found.rejected)


def test_where_nothing_fits_offloading_is_told_with_its_price() -> None:
    found = plans("glm-4.6-fp8", "2xGH200", context=32768)
    assert found.with_offload and "--cpu-offload-gib" in found.with_offload
    assert "host memory a node" in found.with_offload
    assert plans("glm-4.5-air-fp8", "2xH100").with_offload is None
