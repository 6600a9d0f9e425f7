"""Between nodes: who is measured with whom, over which addresses, and what that is good for."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Interface

from lemnos.errors import UsageError
from lemnos.hardware.read import Interface
from lemnos.spec.cluster import Network, Node, NodeLink

WANTED_MS = 1.0
WANTED_GBIT_S = 100.0
"""What one model over several nodes needs (Ray's and vLLM's guides say the same)."""

PORTS = (29500, 6379, 8265, 10001)
"""torch's rendezvous, Ray's GCS, its dashboard, its clients. What NCCL and the workers listen
on is chosen by the system, so ports that it chooses are tried too."""

ALL_PAIRS = 8
"""Up to so many nodes, every pair is measured; beyond, a ring."""

Pair = tuple[str, str]


def parse_ports(text: str) -> tuple[int, ...]:
    """``29500,6379`` as numbers. Raises UsageError."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdigit() and 1024 <= int(word) < 65536 for word in words):
        raise UsageError(
            f"'{text}' is no list of ports from 1024 to 65535",
            fix="write --ports 29500,6379",
        )
    return tuple(dict.fromkeys(map(int, words)))


def pairs(names: Sequence[str]) -> list[Pair]:
    """Who is measured with whom."""
    count = len(names)
    if count <= ALL_PAIRS:
        return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return [(names[i], names[(i + 1) % count]) for i in range(count)]


def rounds(wanted: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs in groups that can be measured at once: no node is twice in a group."""
    groups: list[list[Pair]] = []
    for pair in wanted:
        free = (g for g in groups if not any(set(pair) & set(other) for other in g))
        group = next(free, None)
        if group is None:
            groups.append(group := [])
        group.append(pair)
    return groups


def addresses(a: Sequence[Interface], b: Sequence[Interface]) -> tuple[str, str] | None:
    """The addresses of ``a`` and ``b`` by which they reach each other: of their fastest
    common network, else (nodes in different networks) of each one's fastest interface.

    None where one has no address. Addresses that both have (docker0's) lead nowhere.
    """
    both = {i.address for i in a} & {i.address for i in b}
    ours, theirs = _usable(a, both), _usable(b, both)
    if not ours or not theirs:
        # Two names of one machine have every address in common.
        ours, theirs = _usable(a, set()), _usable(b, set())
    common = [(i, j) for i in ours for j in theirs if _network(i) == _network(j)]
    crossed = [(i, j) for i in ours for j in theirs]
    best = max(common or crossed, key=lambda pair: min(map(_speed, pair)), default=None)
    if best is None or best[0].address is None or best[1].address is None:
        return None
    return best[0].address, best[1].address


def network_of(nodes: Sequence[Node], links: Sequence[NodeLink]) -> Network:
    """What was measured, and whether it is enough."""
    speeds = [link.gbit_s for link in links if link.gbit_s is not None]
    times = [link.latency_ms for link in links if link.latency_ms is not None]
    found = Network(
        kind=_kind(nodes),
        gbit_s=min(speeds, default=None),
        latency_ms=max(times, default=None),
        links=tuple(links),
    )
    return found.model_copy(update={"verdict": verdict(found, _rdma_gbit_s(nodes))})


def verdict(network: Network, rdma_gbit_s: float | None = None) -> str | None:
    """Sentences: whether one model over several nodes can be served well, and why not."""
    if not network.links:
        return None
    if network.gbit_s is None or network.latency_ms is None:
        said = ["Not known: no pair of nodes could be measured."]
    else:
        said = [_speed_sentence(network.latency_ms, network.gbit_s)]
        if rdma_gbit_s:
            said.append(
                f"This is TCP's figure: RDMA may be faster, its devices are rated "
                f"{rdma_gbit_s:g} Gbit/s a node."
            )
        if missing := sum(link.gbit_s is None for link in network.links):
            said.append(f"{missing} of {len(network.links)} pairs were not measured.")
    closed = {p for link in network.links for p in link.closed_ports + link.closed_back}
    if closed:
        said.append(
            "Closed between nodes: ports "
            + ", ".join(map(str, sorted(closed)))
            + "; open them, and the range that the system chooses from, for all nodes."
        )
    busy = {port for link in network.links for port in link.busy_ports}
    if busy:
        said.append(
            "In use by another program, so not tried: ports "
            + ", ".join(map(str, sorted(busy)))
            + "."
        )
    return " ".join(said)


def _speed_sentence(latency_ms: float, gbit_s: float) -> str:
    figures = (
        f"{latency_ms:.3g} ms round trip (under {WANTED_MS:g} ms is wanted), "
        f"{gbit_s:.3g} Gbit/s (over {WANTED_GBIT_S:g} is wanted)"
    )
    slow, narrow = latency_ms >= WANTED_MS, gbit_s <= WANTED_GBIT_S
    if not slow and not narrow:
        return f"Enough for one model over several nodes: {figures}."
    why = " and ".join(
        word for word, so in (("too slow", slow), ("too narrow", narrow)) if so
    )
    return (
        f"Not enough for tensor or expert parallelism over nodes, {why}: {figures}. "
        "Keep those inside a node; pipeline parallelism or replicas go over nodes."
    )


def _kind(nodes: Sequence[Node]) -> str | None:
    domains = {node.nvlink_domain for node in nodes}
    if len(domains) == 1 and None not in domains:
        return "nvlink"
    for kind in ("infiniband", "roce", "ethernet"):
        if all(any(n.kind == kind and n.up for n in node.nics) for node in nodes):
            return kind
    return None


def _rdma_gbit_s(nodes: Sequence[Node]) -> float | None:
    """What the RDMA devices of the least node are rated; None where a node has none."""
    rated = [
        sum(nic.gbit_s or 0 for nic in node.nics if nic.up and nic.kind != "ethernet")
        for node in nodes
    ]
    return min(rated, default=0) or None


def _usable(
    interfaces: Sequence[Interface], without: set[str | None]
) -> list[Interface]:
    return [
        interface
        for interface in interfaces
        if interface.address
        and interface.address not in without
        and interface.name != "lo"
        and interface.state != "down"
    ]


def _network(interface: Interface) -> object:
    return IPv4Interface(f"{interface.address}/{interface.mask}").network


def _speed(interface: Interface) -> int:
    return int(interface.speed) if interface.speed.isdigit() else 0
