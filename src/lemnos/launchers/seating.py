"""Which hosts and GPUs a unit is given, of those that tell of themselves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address

from lemnos.errors import LemnosError
from lemnos.hardware.host import parse_nvidia_smi
from lemnos.launchers import gpus
from lemnos.launchers.hosts import listening
from lemnos.launchers.shape import Shape
from lemnos.spec.base import Value
from lemnos.spec.facts import Gpu

Owned = tuple[str, str]
"""A deployment and a unit of it."""


class Told(Value):
    """What a host told of itself a moment ago."""

    sees: bool = False
    """Our directory is there, too: the hosts share it."""
    interface: str = ""
    """Its address on the interface that was asked for."""
    connection: tuple[str, ...] = ()
    """Of the SSH connection: the client's address and port, the host's own address and port."""
    addresses: tuple[str, ...] = ()
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES; None: not set."""
    gpus: tuple[Gpu, ...] = ()
    units: frozenset[Owned] = frozenset()
    """Of ours, that run there."""
    listening: frozenset[int] = frozenset()


def parse(said: str, marks: Collection[str]) -> Told:
    """What ``hosts_tell.j2`` printed. ``marks``: how the marks of our own units begin."""
    lines = [line.partition(" ")[::2] for line in said.splitlines()]
    of: dict[str, list[str]] = {}
    for word, rest in lines:
        of.setdefault(word, []).append(rest)
    units = {owned(mark, marks) for mark in of.get("mark", [])}
    return Told(
        sees="sees" in of,
        interface=of.get("interface", [""])[0],
        connection=_connection(of.get("connection", [""])[0]),
        addresses=tuple(a for a in of.get("addresses", [""])[0].split()),
        visible=of["visible"][0] if "visible" in of else None,
        gpus=parse_nvidia_smi("\n".join(of.get("gpu", []))),
        units=frozenset(unit for unit in units if unit),
        listening=frozenset(listening("\n".join(of.get("tcp", [])))),
    )


def choose(
    shape: Shape,
    told: Mapping[str, Told],
    load: Mapping[str, int],
    taken: Mapping[str, Collection[str]],
    wanted: Sequence[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(hosts, GPUs of each of them) for one more unit: hosts with the fewest units of ours first.

    ``load``: how many units each host has. ``taken``: GPUs of each host that units of ours have. ``wanted``:
    those that may be used (none: all). Raises LemnosError with what each host lacks.
    """
    order = sorted(told, key=lambda host: load.get(host, 0))
    if not shape.gpus:
        if len(order) < shape.hosts:
            raise _too_few(shape, {})
        return tuple(order[: shape.hosts]), ()
    hosts: list[str] = []
    common: list[str] = []
    lacks: dict[str, str] = {}
    for host in order:
        may, free = _devices(told[host], taken.get(host, ()), wanted)
        both = [device for device in free if device in common] if hosts else [*free]
        if len(both) < shape.gpus:
            lacks[host] = f"{len(free)} of {len(may)} GPUs are free"
            continue
        hosts.append(host)
        common = both
        if len(hosts) == shape.hosts:
            return tuple(hosts), tuple(common[: shape.gpus])
    raise _too_few(shape, lacks)


def _devices(
    told: Told, taken: Collection[str], wanted: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(those that may be used, those of them that are free)."""
    if not told.gpus:  # no driver to ask: as the scheduler says
        may = tuple(word for word in (told.visible or "").split(",") if word)
        may = tuple(word for word in may if not wanted or word in wanted)
    else:
        may = gpus.allowed(told.gpus, told.visible, wanted)
    return may, gpus.free(told.gpus, may, taken)


def _too_few(shape: Shape, lacks: Mapping[str, str]) -> LemnosError:
    count = "a host" if shape.hosts == 1 else f"{shape.hosts} hosts"
    with_gpus = f" with {shape.gpus} free GPUs" if shape.gpus else ""
    why = "; ".join(f"{host}: {text}" for host, text in lacks.items())
    return LemnosError(
        f"{count}{with_gpus} {'is' if shape.hosts == 1 else 'are'} needed, and there "
        "are not so many" + (f" ({why})" if why else ""),
        where="local.hosts",
        fix="`lemnos ps` shows what has them; name more hosts, plan for fewer, or free some",
    )


def is_address(text: str) -> bool:
    """Whether it is one of IPv4 or IPv6, not a name."""
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def _connection(text: str) -> tuple[str, ...]:
    """SSH_CONNECTION; () where the connection is no network's (``UNKNOWN``: a ProxyCommand)."""
    words = tuple(text.split())
    known = len(words) == 4 and is_address(words[0]) and is_address(words[2])
    return words if known else ()


def owned(mark: str, ours: Collection[str]) -> Owned | None:
    """``box`` and ``engine-0`` of ``owner|box|engine-0.1;``."""
    begins = next((begin for begin in ours if mark.startswith(f"{begin}|")), None)
    if begins is None:
        return None
    deployment, _, job = mark.removeprefix(f"{begins}|").partition("|")
    return deployment, job.rstrip(";").partition(".")[0]
