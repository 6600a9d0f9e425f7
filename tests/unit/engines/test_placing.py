"""What engines ask before they render, and what hosts and links ask of a rank."""

from __future__ import annotations

import pytest

from lemnos.engines.environment import links_of, reach
from lemnos.engines.placing import planned, possible, reasoning_switch, speculation
from lemnos.errors import UsageError
from lemnos.spec.layout import Layout
from lemnos.spec.place import Place
from lemnos.spec.quirks import Quirks
from tests.unit.engines.rendered import TWO, glm


def test_a_plan_without_a_layout_is_refused_with_how_to_make_one() -> None:
    plan = glm().model_copy(update={"proposal": None})
    with pytest.raises(UsageError, match="has no layout to run vllm with") as error:
        planned(plan)
    assert "lemnos plan" in error.value.fix


def test_layouts_larger_than_the_hosts_are_refused() -> None:
    with pytest.raises(UsageError, match="needs 16 GPUs, and 2 x 4 are given"):
        possible(Layout(tensor=16), TWO, "vLLM")


def test_layouts_that_do_not_divide_over_the_hosts_are_refused() -> None:
    three = Place(hosts=("a", "b", "c"), gpus_per_host=8, port=1)
    with pytest.raises(UsageError, match="cannot be divided evenly over 3 hosts"):
        possible(Layout(tensor=4), three, "vLLM")


def test_a_data_parallel_rank_stays_on_a_host_where_the_engine_needs_it() -> None:
    three = Place(hosts=("a", "b", "c", "d"), gpus_per_host=2, port=1)
    with pytest.raises(UsageError, match="would cut one"):
        possible(Layout(tensor=4, data=2), three, "vLLM")
    possible(Layout(tensor=4, data=2), three, "SGLang", data_over_hosts=True)
    possible(Layout(tensor=2, data=4), three, "vLLM")
    possible(Layout(tensor=8), three, "vLLM")


def test_on_a_cpu_gpus_are_not_counted() -> None:
    possible(Layout(tensor=2), Place(port=1), "vLLM")


@pytest.mark.parametrize(
    ("wanted", "by_default", "switch"),
    [
        (None, True, {}),
        ("on", True, {}),
        ("off", True, {"enable_thinking": False}),
        ("off", False, {}),
        ("on", False, {"enable_thinking": True}),
    ],
)
def test_reasoning_is_switched_where_the_model_does_otherwise(
    wanted: str | None, by_default: bool, switch: dict[str, bool]
) -> None:
    plan = glm(reasoning=wanted)
    quirks = plan.quirks.model_copy(update={"reasons_by_default": by_default})
    assert reasoning_switch(plan.model_copy(update={"quirks": quirks})) == switch


@pytest.mark.parametrize(
    ("wanted", "by_default", "text"),
    [("off", True, "always reasons"), ("on", False, "does not reason")],
)
def test_what_no_switch_can_do_is_refused(
    wanted: str, by_default: bool, text: str
) -> None:
    """gpt-oss cannot be told not to reason; an instruct model cannot be told to."""
    plan = glm(reasoning=wanted)
    plan = plan.model_copy(update={"quirks": Quirks(reasons_by_default=by_default)})
    with pytest.raises(UsageError, match=text):
        reasoning_switch(plan)


def test_a_plan_that_speculates_needs_a_version_that_can() -> None:
    plan = glm(settings={"speculative": True})
    assert "--speculative-config" in speculation(plan, planned(plan))
    bare = plan.model_copy(update={"quirks": Quirks()})
    with pytest.raises(UsageError, match="does not speculate with MTP layers"):
        speculation(bare, planned(bare))
    calm = glm()
    assert speculation(calm, planned(calm)) == {}


def test_engines_bind_loopback_or_the_fabrics_address_and_never_all() -> None:
    assert reach(Place(port=1)) == "127.0.0.1"
    assert reach(TWO) == "10.0.0.1"


def test_one_host_needs_no_links() -> None:
    assert links_of(Place(port=1, multi_node_nvlink=True), Layout(tensor=4)) == {}


def test_devices_are_those_of_the_place() -> None:
    place = Place(port=1, devices=("2", "3"))
    assert links_of(place, Layout(tensor=2)) == {"CUDA_VISIBLE_DEVICES": "2,3"}


def test_both_libraries_get_the_same_interface() -> None:
    place = TWO.model_copy(update={"interface": "ib0"})
    assert links_of(place, Layout(tensor=8)) == {
        "NCCL_SOCKET_IFNAME": "ib0",
        "GLOO_SOCKET_IFNAME": "ib0",
    }


def test_a_rack_with_one_nvlink_domain_says_so_to_nccl() -> None:
    place = TWO.model_copy(update={"multi_node_nvlink": True})
    assert links_of(place, Layout(tensor=8)) == {
        "NCCL_MNNVL_ENABLE": "1",
        "NCCL_CUMEM_ENABLE": "1",
    }


@pytest.mark.parametrize(("tensor", "env"), [(2, {"NCCL_NVLS_ENABLE": "0"}), (1, {})])
def test_without_multicast_nccl_leaves_it_alone(
    tensor: int, env: dict[str, str]
) -> None:
    place = Place(port=1, multicast=False)
    assert links_of(place, Layout(tensor=tensor)) == env
