"""Every rule by name: what it refuses, and what it lets through."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lemnos.planning.layouts import RULES, candidates, refusals
from lemnos.spec.layout import Layout
from lemnos.spec.proposal import Ask
from tests.unit.planning.places import model, site


def _broken(name: str, cluster: str, layout: Layout) -> dict[str, str]:
    return dict(refusals(model(name), layout, site(cluster)))


@pytest.mark.parametrize(
    ("name", "cluster", "layout", "rule", "says"),
    [
        ("glm-4.6-fp8", "4xH200", Layout(tensor=8), "enough-gpus", "needs 8 GPUs"),
        ("glm-4.7-flash", "8xH200", Layout(tensor=8), "heads-divide", "20 attention"),
        ("qwen3-32b", "8xH200", Layout(tensor=3), "heads-divide", "64 attention"),
        (
            "glm-4.6",
            "1x12xH200",
            Layout(tensor=12),
            "kv-heads-divide",
            "8 KV heads are neither",
        ),
        (
            "qwen3-235b-a22b-fp8",
            "8xH200",
            Layout(tensor=8),
            "quantization-blocks",
            "1536 / 8 = 192 is not a multiple of 128",
        ),
        (
            "glm-4.6-awq",
            "8xH200",
            Layout(tensor=8),
            "quantization-blocks",
            "cannot be split 8 ways inside an expert",
        ),
        (
            "qwen3-8b",
            "64xH200",
            Layout(pipeline=64),
            "layers-cover-stages",
            "36 layers",
        ),
        ("qwen3-8b", "8xH200", Layout(expert=True), "experts-exist", "no experts"),
        ("qwen3-8b", "8xH200", Layout(data=2), "experts-exist", "replicas"),
        (
            "mixtral-8x7b",
            "16xH100",
            Layout(tensor=16, expert=True),
            "experts-exist",
            "8 experts are fewer than 16 ranks",
        ),
        (
            "glm-4.6",
            "8xH200",
            Layout(tensor=8, context=2),
            "context-parallel-copies",
            "copies none of 8",
        ),
        (
            "gpt-oss-120b",
            "16xH200",
            Layout(tensor=16, context=2),
            "context-parallel-copies",
            "full KV cache",
        ),
    ],
)
def test_a_rule_refuses_and_says_why(
    name: str, cluster: str, layout: Layout, rule: str, says: str
) -> None:
    broken = _broken(name, cluster, layout)
    assert rule in broken, broken
    assert says in broken[rule]


@pytest.mark.parametrize(
    ("name", "cluster", "layout"),
    [
        (
            "glm-4.6-fp8",
            "8xH200",
            Layout(tensor=8),
        ),  # per-channel FP8 does split 8 ways
        ("glm-4.6-fp8", "8xH200", Layout(tensor=8, expert=True)),
        ("qwen3-235b-a22b-fp8", "8xH200", Layout(tensor=8, expert=True)),
        ("glm-4.5-air-fp8", "1xH200", Layout()),
        ("deepseek-v3", "8xH200", Layout(tensor=8)),
        ("gpt-oss-120b", "4xH100", Layout(tensor=4)),
        ("glm-4.6", "16xH200", Layout(tensor=16)),
        ("deepseek-v3", "16xH200", Layout(tensor=16, context=16)),
    ],
)
def test_what_engines_do_run_is_not_refused(
    name: str, cluster: str, layout: Layout
) -> None:
    assert _broken(name, cluster, layout) == {}


def test_a_slow_network_keeps_one_layer_inside_a_node() -> None:
    slow = replace(site("2x8xH100"), gbit_s=25.0)
    far = replace(site("2x8xH100"), gbit_s=400.0, latency_ms=2.0)
    air = model("glm-4.5-air")
    broken = dict(refusals(air, Layout(tensor=16), slow))
    assert "needs over 100 Gbit/s" in broken["tensor-links"]
    broken = dict(refusals(air, Layout(tensor=16), far))
    assert "under 1 ms" in broken["tensor-links"]
    pipeline = Layout(tensor=8, pipeline=2)
    assert not refusals(air, pipeline, slow)
    wide = Layout(tensor=1, data=16, expert=True)
    assert "expert-links" in dict(refusals(air, wide, slow))


def test_every_rule_has_a_case() -> None:
    tested = {
        "enough-gpus",
        "heads-divide",
        "kv-heads-divide",
        "quantization-blocks",
        "layers-cover-stages",
        "experts-exist",
        "context-parallel-copies",
        "tensor-links",
        "expert-links",
        "widths-divide",
        "expert-widths-divide",
    }
    assert {rule.name for rule in RULES} == tested


def test_widths_that_do_not_divide() -> None:
    air = model(
        "glm-4.5-air"
    )  # feed-forward 10944 = 2**6 x 171, experts 1408 = 2**7 x 11
    nodes = site("256xH200")
    broken = dict(refusals(air, Layout(tensor=256, data=1), nodes))
    assert "cannot be split 256 ways" in broken["widths-divide"]
    assert "--ep can" in broken["expert-widths-divide"]


def test_candidates_respect_what_is_pinned() -> None:
    air, here = model("glm-4.5-air"), site("8xH200")
    pinned = Ask(tensor=2, pipeline=2, expert=False)
    layouts = list(candidates(air, here, pinned))
    assert layouts
    assert {(x.tensor, x.pipeline, x.expert) for x in layouts} == {(2, 2, False)}
    free = list(candidates(air, here, Ask()))
    assert len(free) == len(set(free))
    assert {x.tensor for x in free} == {1, 2, 4, 8}
    assert all(x.gpus <= 8 for x in free)


def test_dense_models_have_replicas_and_not_data_parallel_ranks() -> None:
    layouts = list(candidates(model("qwen3-8b"), site("8xH200"), Ask()))
    assert all(x.data == 1 and not x.expert for x in layouts)


def test_names_of_layouts() -> None:
    assert str(Layout(tensor=4)) == "TP4"
    assert str(Layout(tensor=2, pipeline=2, replicas=2)) == "2 x TP2 PP2"
    assert str(Layout(data=8, expert=True, context=2)) == "TP1 DP8 EP DCP2"
