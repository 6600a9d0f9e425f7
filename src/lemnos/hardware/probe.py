"""Probe this machine, or hosts over SSH and the network between them, into a Cluster.

Nothing is installed or left on the hosts: their own ``python3`` runs scripts that arrive on
its standard input, and end with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from lemnos.errors import LemnosError, UsageError
from lemnos.hardware import agent, collect, disk_speed, network, read
from lemnos.hardware.network import Pair
from lemnos.hardware.remote import RemoteScript
from lemnos.spec.cluster import Cluster, Network, Node, NodeLink
from lemnos.transport.ssh import Ssh

COLLECT_S = 150
DISK_S = 300
AGENT_S = 40  # one answer of an agent; and its whole life is so long for each pair
SECONDS, STREAMS = 2.0, 8
SAMPLES = 2  # ports that the system chooses, as NCCL and the workers let it
AT_ONCE = 8  # a jump host takes ten connections at a time before it drops some

Note = Callable[[str], None]


def probe_here(*, measure_disk: bool = False, note: Note) -> Cluster:
    """This machine alone."""
    note("reading this machine")
    readings = collect.collect()
    if measure_disk:
        note("measuring how fast files are read")
        _add_speeds(readings, disk_speed.measure(_disk_paths(readings)))
    node = read.node(read.Readings.model_validate(readings))
    return Cluster(name=node.name, nodes=(node,))


def probe_hosts(
    hosts: Sequence[Ssh],
    *,
    ports: Sequence[int] = network.PORTS,
    measure_network: bool = True,
    measure_disk: bool = False,
    note: Note,
) -> Cluster:
    """The hosts, and the network between them. A host that cannot be read stays in the
    cluster, and says why. Raises LemnosError if none can be read."""
    note(f"reading {len(hosts)} hosts over SSH")
    with _Scripts() as scripts:

        def reading(host: Ssh) -> read.Readings | LemnosError:
            return _readings(host, scripts, measure_disk)

        found = list(scripts.pool.map(reading, hosts))
    problems = [answer for answer in found if isinstance(answer, LemnosError)]
    if len(problems) == len(hosts):
        raise problems[0]
    names = [host.host.rpartition("@")[2] for host in hosts]
    nodes = tuple(
        _node(name, answer) for name, answer in zip(names, found, strict=True)
    )
    there = {
        name: (host, answer)
        for name, host, answer in zip(names, hosts, found, strict=True)
        if isinstance(answer, read.Readings)
    }
    measured = Network()
    if measure_network and len(there) > 1:
        links = _links(there, ports, note)
        measured = network.network_of(
            [node for node in nodes if node.name in there], links
        )
    return Cluster(nodes=nodes, network=measured)


def hosts_named(text: str, config: Path | None = None) -> list[Ssh]:
    """``a,b,c``, or a file with one host a line (further words, as in an MPI host file, and
    comments are left out). Raises UsageError."""
    path = Path(text)
    if "," not in text and path.is_file():
        lines = path.read_text(errors="replace").splitlines()
        words = [line.partition("#")[0].split()[:1] for line in lines]
        names = [word[0] for word in words if word]
    else:
        names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("names no host", where=text, fix="write --hosts a,b,c")
    by_name: dict[str, str] = {}
    for name in names:  # a host is probed once, whoever's account is named
        by_name.setdefault(name.rpartition("@")[2], name)
    return [Ssh(name, config) for name in by_name.values()]


class _Scripts:
    """Scripts on hosts, some at a time; all of them are ended whatever happens (Ctrl-C)."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self._started: list[RemoteScript] = []

    def start(
        self, host: Ssh, module: ModuleType, limit_s: int, **request: Any
    ) -> RemoteScript:
        script = RemoteScript(host, module, limit_s, **request)
        self._started.append(script)
        return script

    def __enter__(self) -> _Scripts:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        with ThreadPoolExecutor(AT_ONCE) as ending:
            list(ending.map(RemoteScript.close, list(self._started)))
        self.pool.shutdown()


def _readings(
    host: Ssh, scripts: _Scripts, measure_disk: bool
) -> read.Readings | LemnosError:
    try:
        readings = scripts.start(host, collect, COLLECT_S).answer(COLLECT_S)
        if measure_disk:
            paths = _disk_paths(readings)
            measuring = scripts.start(host, disk_speed, DISK_S, paths=paths)
            _add_speeds(readings, measuring.answer(DISK_S))
        return read.Readings.model_validate(readings)
    except LemnosError as error:
        return error


def _node(name: str, answer: read.Readings | LemnosError) -> Node:
    if isinstance(answer, read.Readings):
        return read.node(answer, name)
    return Node(name=name, unknown=(f"nothing could be read: {answer.what}",))


def _disk_paths(readings: dict[str, Any]) -> list[str]:
    return [disk["path"] for disk in readings["disks"] if "path" in disk]


def _add_speeds(readings: dict[str, Any], speeds: dict[str, Any]) -> None:
    for disk in readings["disks"]:
        speed, why = speeds.get(disk.get("path"), (None, None))
        disk["read"] = speed
        if why:
            where = disk["mount"]
            readings["unknown"].append(f"reading from {where} was not measured: {why}")


# ---------------------------------------------------------------- between nodes


def _links(
    there: dict[str, tuple[Ssh, read.Readings]], ports: Sequence[int], note: Note
) -> list[NodeLink]:
    """Every pair's link, in the order of ``network.pairs``."""
    wanted = network.pairs(list(there))
    groups = network.rounds(wanted)
    links: dict[Pair, NodeLink] = {}
    with _Scripts() as scripts:

        def begin(name: str) -> RemoteScript:
            life = AGENT_S * (len(groups) + 1)
            agent_there = scripts.start(there[name][0], agent, life)
            with suppress(LemnosError):  # whoever measures with it is told
                agent_there.ask(AGENT_S, do="close")
            return agent_there

        def measure(pair: Pair) -> NodeLink:
            a, b = pair
            ends = network.addresses(there[a][1].interfaces, there[b][1].interfaces)
            return _link(pair, agents[a], agents[b], ends, ports)

        agents = dict(zip(there, scripts.pool.map(begin, there), strict=True))
        for number, group in enumerate(groups, 1):
            note(f"measuring between nodes, round {number} of {len(groups)}")
            links.update(zip(group, scripts.pool.map(measure, group), strict=True))
    return [links[pair] for pair in wanted]


def _link(
    pair: Pair,
    a: RemoteScript,
    b: RemoteScript,
    ends: tuple[str, str] | None,
    ports: Sequence[int],
) -> NodeLink:
    """One pair: ports both ways, then latency and bandwidth by one that is open."""
    if ends is None:
        return NodeLink(a=pair[0], b=pair[1], unknown="a node has no IPv4 address")
    token = secrets.token_hex(16)
    try:
        there, closed = _ports(a, b, ends[1], token, ports)
        back, closed_back = _ports(b, a, ends[0], token, ports)
        found = {
            "a": pair[0],
            "b": pair[1],
            "closed_ports": closed,
            "closed_back": closed_back,
            "busy_ports": sorted({*there["busy"], *back["busy"]}),
        }
        if there["open"]:
            found |= _figures(a, ends[1], token, there["open"][0])
        elif back["open"]:
            found |= _figures(b, ends[0], token, back["open"][0])
        else:
            found["unknown"] = f"no port of {ends[1]} or {ends[0]} can be reached"
        a.ask(AGENT_S, do="close")
        b.ask(AGENT_S, do="close")
        return NodeLink.model_validate(found)
    except LemnosError as error:
        return NodeLink(a=pair[0], b=pair[1], unknown=str(error))


def _ports(
    source: RemoteScript,
    target: RemoteScript,
    address: str,
    token: str,
    ports: Sequence[int],
) -> tuple[dict[str, Any], list[int]]:
    """What ``target`` listens on, and which of it ``source`` cannot reach."""
    answer = target.ask(
        AGENT_S,
        do="listen",
        address=address,
        token=token,
        ports=list(ports),
        samples=SAMPLES,
    )
    if "error" in answer:
        raise LemnosError(f"cannot listen on {answer['error']}")
    listening = answer["chosen"] + answer["opened"]
    reached = source.ask(
        AGENT_S, do="reach", address=address, token=token, ports=listening
    )
    closed = [port for port in listening if port not in reached["open"]]
    return {**answer, **reached}, sorted(closed)


def _figures(
    source: RemoteScript, address: str, token: str, port: int
) -> dict[str, Any]:
    answer = source.ask(
        AGENT_S,
        do="measure",
        address=address,
        token=token,
        port=port,
        seconds=SECONDS,
        streams=STREAMS,
    )
    if "error" in answer:
        return {"unknown": f"the measurement broke off: {answer['error']}"}
    return {
        "latency_ms": round(answer["latency_s"] * 1000, 3),
        "gbit_s": round(answer["bits_s"] / 1e9, 3),
    }
