"""The search: what is chosen, what is told of the rest."""

from __future__ import annotations

import pytest

from lemnos.planning.options import Variant
from lemnos.planning.search import propose_plans
from lemnos.planning.sites import sites_of
from lemnos.spec.cluster import Cluster, Network, Node, NodeGpu
from lemnos.spec.proposal import Ask, Proposal, Slo
from tests.unit.planning.places import model, plans


def _chosen(name: str, cluster: str, **asked: object) -> Proposal:
    found = plans(name, cluster, **asked)
    assert found.plans, found.rejected[:3]
    return found.plans[0]


def test_what_was_asked_for_is_chosen_before_a_smaller_checkpoint() -> None:
    chosen = _chosen("glm-4.6", "8xH200")
    assert (chosen.model, chosen.layout.gpus) == ("glm-4.6", 8)
    chosen = _chosen("glm-4.6", "4xH200")
    assert chosen.model == "glm-4.6-fp8"  # BF16 needs 165 GiB a GPU


def test_fp8_cache_is_not_chosen_where_it_is_not_needed() -> None:
    assert _chosen("glm-4.5-air-fp8", "1xH200").settings.kv_cache_dtype == "auto"


def test_two_gh200_do_not_hold_glm46_and_the_answer_says_what_does() -> None:
    found = plans("glm-4.6-fp8", "2xGH200", context=32768)
    assert not found.plans
    first = found.rejected[0]
    assert first.option.startswith("2xGH200-96, glm-4.6-fp8")
    assert "weights 165.6" in first.reason and "[memory]" in first.reason
    assert (
        found.smallest and "glm-4.6-fp8 (fp8-channel) on 4xGH200-96" in found.smallest
    )


def test_what_only_just_fits_says_how_little_is_left() -> None:
    chosen = _chosen("glm-4.6-fp8", "2xGH200")  # AWQ, with 1.7 GiB of KV cache
    assert chosen.model == "glm-4.6-awq"
    assert chosen.settings.context < 16_384
    assert any("fits only tightly" in reason for reason in chosen.reasons)
    assert any("more does not fit" in reason for reason in chosen.reasons)


def test_pinned_layouts_are_taken_and_impossible_ones_told() -> None:
    chosen = _chosen(
        "glm-4.5-air-fp8",
        "4xH200",
        tensor=2,
        pipeline=1,
        data=1,
        expert=True,
        replicas=1,
    )
    assert (chosen.layout.tensor, chosen.layout.expert) == (2, True)
    assert chosen.gpus == 2
    found = plans("glm-4.5-air-fp8", "4xH200", tensor=5)
    assert not found.plans
    assert "[enough-gpus]" in found.rejected[0].reason


@pytest.mark.parametrize(
    ("asked", "field", "value"),
    [
        ({"eager": True}, "eager", True),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype", "fp8"),
        ({"context": 32768}, "context", 32768),
        ({"utilization": 0.8}, "utilization", 0.8),
        ({"max_batched_tokens": 2048}, "max_batched_tokens", 2048),
        ({"max_seqs": 64}, "max_seqs", 64),
    ],
)
def test_pinned_settings_are_kept(
    asked: dict[str, object], field: str, value: object
) -> None:
    chosen = _chosen("glm-4.5-air-fp8", "2xH200", **asked)
    assert getattr(chosen.settings, field) == value


def test_engine_defaults_are_used_where_nothing_is_pinned() -> None:
    settings = _chosen("glm-4.5-air-fp8", "1xH200").settings
    assert (settings.max_batched_tokens, settings.max_seqs) == (8192, 1024)
    assert settings.utilization == 0.92
    small = _chosen("qwen3-8b", "1xL40S").settings
    assert (small.max_batched_tokens, small.max_seqs) == (2048, 256)
    old = _chosen("glm-4.5-air-fp8", "2xH200", engine_version="0.15.0").settings
    assert old.utilization == 0.90


def test_the_service_level_comes_before_throughput() -> None:
    free = _chosen("qwen3-32b", "8xH100", concurrency=256)
    strict = _chosen(
        "qwen3-32b", "8xH100", concurrency=256, slo=Slo(tpot_s=0.027, ttft_s=10)
    )
    assert strict.meets_slo is True
    assert strict.tpot_ms <= 27
    assert free.output_tokens_per_s >= strict.output_tokens_per_s
    hopeless = _chosen("qwen3-32b", "1xH100", slo=Slo(tpot_s=0.0001))
    assert hopeless.meets_slo is False


def test_objectives() -> None:
    fewest = _chosen("glm-4.5-air-fp8", "8xH200", objective="gpus")
    assert fewest.gpus == 1
    quickest = _chosen("glm-4.5-air-fp8", "8xH200", objective="latency")
    every = plans("glm-4.5-air-fp8", "8xH200", objective="latency").plans
    assert quickest.tpot_ms_even_routing == min(
        p.tpot_ms_even_routing or 0 for p in every
    )
    most = _chosen("glm-4.5-air-fp8", "8xH200", concurrency=256)
    assert (most.output_tokens_per_s_even_routing or 0) > (
        fewest.output_tokens_per_s_even_routing or 0
    )


def test_figures_have_intervals_around_them() -> None:
    chosen = _chosen("glm-4.5-air-fp8", "2xH200", concurrency=32)
    for name in (
        "weights_gib_per_rank",
        "kv_cache_tokens",
        "ttft_ms",
        "tpot_ms",
        "output_tokens_per_s",
        "ready_s",
    ):
        low, high = getattr(chosen, f"{name}_interval")
        assert low <= getattr(chosen, name) <= high
        assert low < high
    assert chosen.tpot_ms_even_routing
    assert chosen.tpot_ms_interval[1] > chosen.tpot_ms_even_routing


def test_routing_that_is_asked_for_is_the_figure() -> None:
    alike = _chosen("glm-4.5-air-fp8", "1xH200", concurrency=32, routing="alike")
    even = _chosen("glm-4.5-air-fp8", "1xH200", concurrency=32, routing="even")
    assert alike.tpot_ms == pytest.approx(11.9, rel=0.25)  # measured
    assert even.tpot_ms == pytest.approx(31.53, rel=0.25)  # measured


def test_memory_adds_up_to_the_gpu() -> None:
    memory = _chosen("glm-4.5-air-fp8", "2xH200").memory
    parts = memory.weights + memory.activation + memory.graphs + memory.other
    assert parts + memory.kv_cache + memory.unused == pytest.approx(
        memory.total, abs=0.01
    )


def test_extrapolation_is_said_and_widens_the_interval() -> None:
    known = _chosen("glm-4.5-air-fp8", "2xH200", routing="alike")
    other = _chosen("glm-4.5-air-fp8", "2xH100", routing="alike")
    assert not any("extrapolated" in each for each in known.warnings)
    assert any("not on H100" in each for each in other.warnings)

    def width(plan: Proposal) -> float:
        return plan.ready_s_interval[1] - plan.ready_s_interval[0]

    assert other.tpot_ms_interval[0] / other.tpot_ms < (
        known.tpot_ms_interval[0] / known.tpot_ms
    )
    assert width(other) > 0


def test_prefill_and_decode_apart() -> None:
    split = plans("glm-4.5-air-fp8", "8xH200", concurrency=512, split=True)
    assert all(plan.roles for plan in split.plans)
    roles = split.plans[0].roles
    assert roles and roles.prefill + roles.decode == split.plans[0].layout.replicas
    whole = plans("glm-4.5-air-fp8", "8xH200", concurrency=512, split=False)
    assert not any(plan.roles for plan in whole.plans)


def test_other_sites_add_pools_of_the_same_model() -> None:
    found = plans("glm-4.5-air-fp8", "8xH200+8xH100", concurrency=512)
    chosen = found.plans[0]
    assert chosen.pools
    assert {pool.gpu for pool in chosen.pools} | {chosen.gpu} == {"H100", "H200"}
    alone = plans("glm-4.5-air-fp8", "8xH200", concurrency=512).plans[0]
    assert chosen.output_tokens_per_s > alone.output_tokens_per_s


def test_memory_that_others_hold_is_not_planned_on() -> None:
    gpu = NodeGpu(kind="H200", memory_gib=139.8, free_gib=110.0)
    cluster = Cluster(nodes=(Node(name="shared", gpus=(gpu,)),))
    variant = Variant("air", "x", model("glm-4.5-air-fp8"))
    found = propose_plans([variant], sites_of(cluster), Ask(context=8192))
    assert found.plans[0].settings.utilization == pytest.approx(0.78)
    assert found.plans[0].memory.unused > 29
    full = gpu.model_copy(update={"free_gib": 90.0})
    cluster = Cluster(nodes=(Node(name="shared", gpus=(full,)),))
    found = propose_plans([variant], sites_of(cluster), Ask(context=8192))
    assert not found.plans


def test_a_context_that_was_not_asked_for_is_lowered_to_what_fits() -> None:
    chosen = _chosen("glm-4.5-air-fp8", "1xH200")
    assert chosen.settings.context <= 131_072
    assert chosen.kv_cache_tokens >= chosen.settings.context
    too_long = plans("glm-4.5-air-fp8", "1xH200", context=131_073)
    assert "was trained for 131072" in too_long.rejected[0].reason


def test_arrival_rates_are_planned_too() -> None:
    slow = _chosen("qwen3-8b", "1xH100", rate=0.5)
    busy = _chosen("qwen3-8b", "1xH100", rate=8.0)
    assert busy.tpot_ms > slow.tpot_ms


def test_prices_make_costs() -> None:
    node = Node(name="a", gpus=(NodeGpu(kind="H200"),) * 2, price_per_hour=10.0)
    variant = Variant("air", "x", model("glm-4.5-air-fp8"))
    found = propose_plans(
        [variant],
        sites_of(Cluster(nodes=(node,))),
        Ask(objective="cost", concurrency=64),
    )
    chosen = found.plans[0]
    assert chosen.cost_per_hour == 5.0 * chosen.gpus
    assert chosen.cost_per_million_tokens == pytest.approx(
        chosen.cost_per_hour / chosen.output_tokens_per_s / 3600 * 1e6, rel=0.01
    )


def test_the_pareto_front_holds_the_best_of_each() -> None:
    found = plans("glm-4.5-air-fp8", "8xH200", concurrency=64, split=False)
    assert found.pareto
    front = [found.plans[number] for number in found.pareto]
    assert min(p.tpot_ms for p in found.plans) in {p.tpot_ms for p in front}


def test_several_nodes_without_a_known_network_say_so() -> None:
    chosen = _chosen("glm-4.6", "2x4xH200")
    assert chosen.nodes == 2
    assert any("network between nodes is not known" in w for w in chosen.warnings)
    rack = _chosen("glm-4.6", "8xGB200")  # one NVLink domain
    assert not any("network between nodes" in w for w in rack.warnings)


def test_slow_networks_split_layers_and_not_matrices() -> None:
    node = Node(name="n", count=2, gpus=(NodeGpu(kind="H200"),) * 4)
    cluster = Cluster(nodes=(node,), network=Network(gbit_s=10.0))
    variant = Variant("glm", "x", model("glm-4.6"))
    found = propose_plans([variant], sites_of(cluster), Ask())
    assert found.plans[0].layout.pipeline == 2
    assert any("[tensor-links]" in each.reason for each in found.rejected)


def test_tight_fits_are_told() -> None:
    chosen = _chosen("glm-4.6-fp8", "4xGH200", tensor=4, pipeline=1, data=1)
    assert any("fits only tightly" in reason for reason in chosen.reasons)
