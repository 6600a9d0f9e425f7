"""Memory of a rank, against what engines said of themselves and against arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.hardware.catalogue import gpu_kind
from lemnos.planning.budget import Fit
from lemnos.planning.calibration import constants_for
from lemnos.planning.fitting import Measured, MeasuredFile
from lemnos.planning.measured import fitted_to
from lemnos.planning.memory import (
    GIB,
    KvLayout,
    graph_bytes,
    kv_bytes_per_token,
    kv_layout,
    kv_tokens,
    stages,
    weights_per_stage,
)
from lemnos.spec.document import load
from lemnos.spec.layout import Layout
from tests.unit.planning.places import model

MEASURED = Path(__file__).parents[3] / "benchmarks" / "measured"


def _cases() -> list[Measured]:
    """One point of each measured case."""
    found: dict[str, Measured] = {}
    for path in sorted(MEASURED.glob("*.json")):
        for point in load(path, MeasuredFile).points:
            key = f"{point.model} {point.layout} {point.eager} {point.max_seqs}"
            found.setdefault(key, point)
    return list(found.values())


@pytest.mark.parametrize("point", _cases(), ids=lambda p: f"{p.model} {p.layout}")
def test_measured_engines_are_predicted(point: Measured) -> None:
    fitted, _ = fitted_to(
        point, model(point.model), gpu_kind(point.gpu), constants_for("vllm")
    )
    assert isinstance(fitted, Fit)
    assert fitted.budget.weights == pytest.approx(point.weights_gib_per_rank, rel=0.005)
    assert fitted.kv_tokens == pytest.approx(point.kv_cache_tokens, rel=0.02)


def test_air_fp8_on_one_h200_is_what_the_log_says() -> None:
    (point,) = [
        p
        for p in _cases()
        if p.model == "glm-4.5-air-fp8" and p.layout == Layout() and not p.eager
        if p.max_seqs is None
    ]
    fitted, _ = fitted_to(
        point, model(point.model), gpu_kind("H200"), constants_for("vllm")
    )
    assert isinstance(fitted, Fit)
    assert fitted.budget.weights == pytest.approx(100.97, rel=0.005)
    assert fitted.kv_tokens == pytest.approx(130_272, rel=0.02)


@given(count=st.integers(1, 200), pipeline=st.integers(1, 16))
def test_stages_cover_every_layer_once(count: int, pipeline: int) -> None:
    if pipeline > count:
        return
    parts = stages(count, pipeline)
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_stages_give_the_rest_to_the_middle_as_vllm_does() -> None:
    assert [len(part) for part in stages(46, 4)] == [11, 12, 12, 11]
    assert [len(part) for part in stages(92, 8)] == [11, 11, 11, 12, 12, 12, 12, 11]


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
@pytest.mark.parametrize("expert", [False, True])
def test_ranks_together_hold_the_whole_model(tensor: int, expert: bool) -> None:
    air = model("glm-4.5-air")
    each = weights_per_stage(air, Layout(tensor=tensor, expert=expert))[0]
    whole = sum(weight.bytes for weight in air.main_weights)
    assert each * tensor >= whole
    assert each * tensor < whole * 1.02 + tensor * 0.3 * GIB  # what is replicated


def test_data_parallel_ranks_share_experts_and_repeat_attention() -> None:
    air = model("glm-4.5-air-fp8")
    shared = weights_per_stage(air, Layout(tensor=1, data=4, expert=True))[0]
    sliced = weights_per_stage(air, Layout(tensor=4, expert=True))[0]
    assert shared > sliced  # attention and embeddings are whole on each
    assert shared < weights_per_stage(air, Layout())[0] / 3


def test_kv_of_the_facts_table() -> None:
    """facts/models.md: 188,416 bytes a token for Air, 376,832 for GLM-4.6, in BF16."""
    for name, wanted in (("glm-4.5-air", 188_416), ("glm-4.6", 376_832)):
        layers = model(name).layers
        each = [kv_bytes_per_token(x.attention, 1, "auto") for x in layers]
        assert sum(each) == wanted


def test_more_tp_than_kv_heads_saves_no_more_kv_cache() -> None:
    attention = model("glm-4.6").layers[0].attention
    eight = kv_bytes_per_token(attention, 8, "auto")
    assert kv_bytes_per_token(attention, 16, "auto") == eight
    assert kv_bytes_per_token(attention, 16, "auto", context_parallel=2) == eight / 2


def test_latent_attention_keeps_one_vector_for_all_heads() -> None:
    attention = model("deepseek-v3").layers[0].attention
    kept = kv_bytes_per_token(attention, 1, "auto")
    assert kept == 576 * 2
    assert kv_bytes_per_token(attention, 8, "auto") == kept
    heads = 128 * (192 + 128) * 2  # what a formula for heads would say
    assert heads / kept > 14


def test_windows_stop_growing_only_while_the_hybrid_manager_is_on() -> None:
    layers = model("gpt-oss-120b").layers
    hybrid = kv_layout(layers, 1, "auto", 1, True)
    assert {kind for kind, _ in hybrid.groups} == {"full", "sliding"}
    short, long = hybrid.blocks(8192, 0), hybrid.blocks(131_072, 0)
    assert long < short * 16
    plain = kv_layout(layers, 1, "auto", 1, False)
    assert len(plain.groups) == 1
    assert plain.blocks(131_072, 0) == plain.blocks(8192, 0) * 16


def test_linear_layers_keep_a_state_whatever_the_context() -> None:
    layers = model("qwen3-next-80b-a3b").layers
    assert kv_bytes_per_token(layers[0].attention, 1, "auto") == 0
    cache = kv_layout(layers, 1, "auto", 1, True)
    assert cache.block > 16  # a block of tokens is as large as a state
    assert [kind for kind, _ in cache.groups].count("linear") == 3


@given(
    pool=st.floats(0, 1e12),
    context=st.integers(16, 200_000),
    block_bytes=st.floats(1, 1e7),
)
def test_kv_tokens_fit_their_pool(
    pool: float, context: int, block_bytes: float
) -> None:
    layout = KvLayout(16, block_bytes, (("full", 0),))
    tokens = kv_tokens(layout, pool, context, 0)
    assert 0 <= tokens <= pool / block_bytes * 16 + 16


def test_graphs_grow_with_depth_and_with_the_batch() -> None:
    air, flash = model("glm-4.5-air-fp8"), model("glm-4.6-fp8")
    one = Layout()
    assert graph_bytes(air, one, 1024) / GIB == pytest.approx(1.25, abs=0.25)
    assert graph_bytes(air, one, 128) / GIB == pytest.approx(0.81, abs=0.2)
    assert graph_bytes(flash, one, 1024) > graph_bytes(air, one, 1024)


def test_vocabularies_are_padded_before_they_are_split() -> None:
    llama = model("llama-3.1-8b")
    two = weights_per_stage(llama, Layout(tensor=2))[0]
    assert two * 2 > sum(weight.bytes for weight in llama.main_weights)


def test_a_tied_head_is_a_copy_on_the_last_stage() -> None:
    import json
    from importlib import resources

    from lemnos.models.architecture import architecture_of
    from lemnos.models.config import Config

    text = resources.files("lemnos.models").joinpath("configs/qwen3-8b.json")
    data = json.loads(text.read_text()) | {"tie_word_embeddings": True}
    tied = architecture_of(Config(data, "test"))
    first, last = weights_per_stage(tied, Layout(pipeline=2))
    embedding = tied.vocabulary * tied.hidden * 2
    assert first == pytest.approx(last, rel=0.02)
    assert last > embedding
