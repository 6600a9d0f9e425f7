"""Between nodes: pairs, rounds, addresses and the verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import UsageError
from lemnos.hardware import network
from lemnos.hardware.read import Interface
from lemnos.spec.cluster import Nic, Node, NodeLink


def interface(name: str, address: str | None, **changes: object) -> Interface:
    data: dict[str, object] = {
        "name": name,
        "speed": "",
        "state": "up",
        "type": "1",
        "device": True,
        "bond": False,
        "address": address,
        "mask": "255.255.255.0" if address else None,
    }
    return Interface.model_validate(data | changes)


LO = interface("lo", "127.0.0.1", state="unknown", mask="255.0.0.0")
DOCKER = interface("docker0", "172.17.0.1")


def test_the_fastest_common_network_is_used() -> None:
    a = [LO, DOCKER, interface("eth0", "10.0.0.1", speed="1000"), interface("ib0", "10.1.0.1", speed="400000", state="unknown")]  # fmt: skip
    b = [LO, DOCKER, interface("eth0", "10.0.0.2", speed="1000"), interface("ib0", "10.1.0.2", speed="400000")]  # fmt: skip
    assert network.addresses(a, b) == ("10.1.0.1", "10.1.0.2")
    down = [*b[:3], interface("ib0", "10.1.0.2", state="down")]
    assert network.addresses(a, down) == ("10.0.0.1", "10.0.0.2")


def test_routed_networks_twins_and_no_address_at_all() -> None:
    a, b = [LO, interface("eth0", "10.0.0.1")], [LO, interface("eth0", "10.9.0.2")]
    assert network.addresses(a, b) == ("10.0.0.1", "10.9.0.2")
    assert network.addresses(a, a) == ("10.0.0.1", "10.0.0.1")
    assert network.addresses([LO], b) is None


def test_every_pair_of_few_and_a_ring_of_many() -> None:
    assert network.pairs(["a", "b", "c"]) == [("a", "b"), ("a", "c"), ("b", "c")]
    ring = network.pairs([str(i) for i in range(20)])
    assert len(ring) == 20 and ring[-1] == ("19", "0")


@given(st.integers(0, 30))
def test_rounds_have_every_pair_once_and_no_node_twice(count: int) -> None:
    pairs = network.pairs([str(i) for i in range(count)]) if count > 1 else []
    groups = network.rounds(pairs)
    assert sorted(pair for group in groups for pair in group) == sorted(pairs)
    for group in groups:
        nodes = [name for pair in group for name in pair]
        assert len(nodes) == len(set(nodes))


def test_ports() -> None:
    assert network.parse_ports("29500, 6379,29500") == (29500, 6379)
    assert network.parse_ports("") == ()
    for wrong in ("22", "x", "70000", "1-5"):
        with pytest.raises(UsageError, match="no list of ports"):
            network.parse_ports(wrong)


def link(ms: float | None, gbit_s: float | None, **more: object) -> NodeLink:
    data = {"a": "a", "b": "b", "latency_ms": ms, "gbit_s": gbit_s, **more}
    return NodeLink.model_validate(data)


def node(name: str, *nics: Nic, domain: str | None = None) -> Node:
    return Node(name=name, nics=nics, nvlink_domain=domain)


IB = Nic(name="mlx5_0", kind="infiniband", gbit_s=400, up=True)
ETH = Nic(name="eth0", kind="ethernet", gbit_s=25, up=True)


def test_the_slowest_link_decides() -> None:
    links = [link(0.02, 180), link(0.03, 120)]
    found = network.network_of([node("a", ETH), node("b", ETH)], links)
    assert (found.kind, found.latency_ms, found.gbit_s) == ("ethernet", 0.03, 120)
    assert found.verdict == (
        "Enough for one model over several nodes: 0.03 ms round trip (under 1 ms is "
        "wanted), 120 Gbit/s (over 100 is wanted)."
    )


@pytest.mark.parametrize(
    ("ms", "gbit_s", "why"),
    [
        (1.0, 200.0, "nodes, too slow:"),
        (0.1, 100.0, "nodes, too narrow:"),
        (5.2, 9.4, "nodes, too slow and too narrow: 5.2 ms"),
    ],
)
def test_not_enough(ms: float, gbit_s: float, why: str) -> None:
    said = network.network_of(
        [node("a", ETH), node("b", ETH)], [link(ms, gbit_s)]
    ).verdict
    assert said and said.startswith("Not enough") and why in said


def test_rdma_closed_and_busy_ports_and_pairs_not_measured_are_said() -> None:
    links = [
        link(0.02, 40, closed_ports=(6379,), closed_back=(40001,), busy_ports=(8265,)),
        link(None, None, unknown="no port can be reached"),
    ]
    found = network.network_of([node("a", IB, IB, ETH), node("b", IB, ETH)], links)
    assert found.kind == "infiniband" and found.gbit_s == 40
    for part in (
        "RDMA may be faster, its devices are rated 400 Gbit/s a node",
        "1 of 2 pairs were not measured",
        "Closed between nodes: ports 6379, 40001;",
        "not tried: ports 8265.",
    ):
        assert part in (found.verdict or "")


def test_what_was_not_measured_has_no_figures() -> None:
    nodes = [node("a", ETH), node("b")]
    none = network.network_of(nodes, [])
    assert (none.kind, none.gbit_s, none.verdict) == (None, None, None)
    failed = network.network_of(nodes, [link(None, None, unknown="x")])
    assert failed.verdict == "Not known: no pair of nodes could be measured."


def test_one_nvlink_domain_is_the_network() -> None:
    nodes = [node("a", IB, domain="x/1"), node("b", IB, domain="x/1")]
    assert network.network_of(nodes, []).kind == "nvlink"
