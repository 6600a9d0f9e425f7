"""Where units of ``on: local`` go: this machine's ports and GPUs, or those of several hosts."""

from __future__ import annotations

import os
from collections.abc import Sequence

import psutil

from lemnos import leases, paths
from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.catalogue import kind_named
from lemnos.hardware.host import probe_host
from lemnos.hardware.ports import free_port, port_is_free
from lemnos.launchers import gpus, seating
from lemnos.launchers.hosts import free_range
from lemnos.launchers.others import Others, address_of, is_this_machine, reaches
from lemnos.launchers.papers import Papers, Placed
from lemnos.launchers.processes import MARK
from lemnos.launchers.seating import Told
from lemnos.launchers.shape import Shape
from lemnos.launchers.site import Site
from lemnos.spec.cluster import Cluster, Node, NodeGpu
from lemnos.spec.place import INNER_PORTS, Place
from lemnos.spec.unit import Room, Unit
from lemnos.transport.ssh import Ssh

HERE = "127.0.0.1"


class Seats:
    """The ports, GPUs and hosts that a deployment's units may have."""

    def __init__(self, site: Site, papers: Papers, others: Others) -> None:
        self._site, self._papers, self._others = site, papers, others
        self._names = others.room

    def place(self, shape: Shape, name: str, *, dry: bool) -> Place:
        """Free ports, and GPUs (and hosts) that no other unit has; kept for this unit from now on."""
        if shape.hosts > max(1, len(self._names)):
            there = f"there are {len(self._names)}" if self._names else "this is one"
            raise UsageError(
                f"the plan needs {shape.hosts} hosts for a replica, and {there}",
                where="on: local",
                fix="name hosts in local.hosts, or use --on slurm, pbs or ray",
            )
        if dry:
            return self._dry(shape, name)
        with leases.lease(paths.state_dir() / "gpus.lease", what="GPUs", wait_s=120):
            place = self._over(shape, name) if self._names else self._here(shape, name)
            self._papers.reserve(name, place)
        return place

    def _dry(self, shape: Shape, name: str) -> Place:
        if not self._names:
            return Place(
                port=0, gpus_per_host=shape.per_host, multicast=_multicast(shape)
            )
        first = shape.hosts * int(name.rpartition("-")[2])
        turn = [self._names[(first + i) % len(self._names)] for i in range(shape.hosts)]
        return Place(
            hosts=tuple(turn),
            names=tuple(turn),
            port=0,
            gpus_per_host=shape.per_host,
            ray=self._ray(turn),
        )

    def _here(self, shape: Shape, name: str) -> Place:
        devices = self._devices(shape, name)
        return Place(
            port=free_port(HERE),
            inner_port=_free_range(INNER_PORTS) if devices else 0,
            gpus_per_host=shape.per_host,
            devices=devices,
            multicast=_multicast(shape),
        )

    def _over(self, shape: Shape, name: str) -> Place:
        """Among several hosts."""
        told, chosen, devices = self._choose(shape, name)
        first = told[chosen[0]]
        taken = {placed.place.port for placed in self._papers.placed(name)}
        inner = INNER_PORTS if devices or shape.hosts > 1 else 0
        seed = f"{self._site.owner}/{self._site.deployment}/{name}"
        used = {*taken, *first.listening}
        port = free_range(used, 1 + inner, seed, chosen[0])
        here = is_this_machine(chosen[0])
        direct = here or bool(self._others.allocation)
        direct = direct or reaches(first.connection, port)
        addresses = tuple(address_of(host, told[host]) for host in chosen)
        if shape.hosts == 1 and (here or not direct):
            addresses = (HERE,)
        return Place(
            hosts=addresses,
            names=chosen,
            forwarded=not direct,
            port=port,
            inner_port=port + 1 if inner else 0,
            gpus_per_host=shape.per_host,
            devices=devices,
            interface=self._site.spec.interface,
            multi_node_nvlink=shape.multi_node_nvlink,
            ray=self._ray(chosen),
        )

    def _choose(
        self, shape: Shape, name: str
    ) -> tuple[dict[str, Told], tuple[str, ...], tuple[str, ...]]:
        """(what hosts told, those for the unit, GPUs of each). Raises LemnosError where there is no room."""
        told, silent = self._told()
        taken: dict[str, set[str]] = {}
        load: dict[str, int] = {}
        for placed in self._papers.placed(name):
            for host in placed.place.names:
                if host in told and _holds(placed, told[host]):
                    load[host] = load.get(host, 0) + 1
                    taken.setdefault(host, set()).update(placed.place.devices)
        wanted = self._site.spec.local.devices
        try:
            chosen, devices = seating.choose(shape, told, load, taken, wanted)
        except LemnosError as error:
            why = "".join(f"; {h} does not answer ({e.what})" for h, e in silent.items())  # fmt: skip
            raise LemnosError(error.what + why, where=error.where, fix=error.fix) from None  # fmt: skip
        return told, chosen, devices

    def _told(self) -> tuple[dict[str, Told], dict[str, LemnosError]]:
        """What the hosts that can be used tell, and why others cannot be."""
        self._others.ask_scheduler(self._papers)
        told, silent = self._others.tell(self._names)
        if not told:
            raise next(iter(silent.values()))
        blind = [host for host in told if not told[host].sees]
        if self._others.allocation and blind:
            raise LemnosError(
                f"{blind[0]} does not see {self._site.directory}: the state directory must be on a file "
                "system that the nodes share",
                where=blind[0],
                fix="set LEMNOS_HOME",
            )
        return told, silent

    def _ray(self, hosts: Sequence[str]) -> bool:
        return self._site.spec.local.ray and len(hosts) > 1

    def inventory(self) -> Cluster:
        """This machine, or the hosts."""
        from lemnos.hardware.probe import probe_here, probe_hosts

        if not self._names:
            return probe_here(note=lambda _: None)
        far = [self._others.transport(n) for n in self._names if not is_this_machine(n)]
        there = [transport for transport in far if isinstance(transport, Ssh)]
        if len(there) == len(self._names):
            return probe_hosts(there, measure_network=False, note=lambda _: None)
        told, _ = self._others.tell(self._names)
        return Cluster(name="local", nodes=tuple(_node(n, t) for n, t in told.items()))

    def room(self, unit: Unit) -> Room:
        """Whether as many GPUs are free as the unit has."""
        need = len(unit.place.devices) or unit.place.gpus_per_host
        if not need:
            return Room(free=True)
        if self._names:
            try:
                shape = Shape(hosts=len(unit.place.hosts), gpus=need, per_host=need)
                self._choose(shape, unit.name)
            except LemnosError as error:
                return Room(free=False, why=error.what)
            return Room(free=True)
        host = probe_host()
        devices = gpus.allowed(host.gpus, _visible(), self._site.spec.local.devices)
        open_ = gpus.free(host.gpus, devices, self._taken(unit.name))
        if len(open_) >= need:
            return Room(free=True)
        return Room(free=False, why=f"{len(open_)} of {len(devices)} GPUs are free")

    def _devices(self, shape: Shape, name: str) -> tuple[str, ...]:
        """GPUs of this machine for the unit; none for an engine of the CPU."""
        if not shape.gpus:
            return ()
        host = probe_host()
        may = gpus.allowed(host.gpus, _visible(), self._site.spec.local.devices)
        return gpus.choose(host.gpus, may, self._taken(name), shape.gpus)

    def _taken(self, name: str) -> set[str]:
        """GPUs of all other units on this machine that run, or were placed a moment ago."""
        alive = Told(units=frozenset(_units_here()))
        taken: set[str] = set()
        for placed in self._papers.placed(name):
            here = not placed.place.names or any(map(is_this_machine, placed.place.names))  # fmt: skip
            if here and _holds(placed, alive):
                taken |= set(placed.place.devices)
        return taken


def _holds(placed: Placed, told: Told) -> bool:
    """Whether a unit has what it was given on the host that told."""
    return placed.fresh or (placed.deployment, placed.unit) in told.units


def _node(name: str, told: Told) -> Node:
    """A host of an allocation, as far as it tells."""
    found = tuple(
        NodeGpu(
            kind=kind.name if (kind := kind_named(gpu.name)) else None,
            name=gpu.name,
            index=gpu.index,
            memory_gib=round(gpu.memory_bytes / 1024**3, 3) if gpu.memory_bytes else None,
            free_gib=round(gpu.free_bytes / 1024**3, 3) if gpu.free_bytes else None,
        )
        for gpu in told.gpus
    )  # fmt: skip
    unknown = () if found or not told.visible else ("it has GPUs, and no nvidia-smi to say which",)  # fmt: skip
    return Node(name=name, gpus=found, unknown=unknown)


def _multicast(shape: Shape) -> bool:
    nvls = os.environ.get("NCCL_NVLS_ENABLE")
    return shape.gpus < 2 or gpus.multicast(probe_host().cpu_flags, nvls)


def _visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _units_here() -> set[seating.Owned]:
    """The units of ours that have processes on this machine."""
    found = set()
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
        except psutil.Error:
            continue
        if owned := seating.owned(mark, (str(paths.state_dir()),)):
            found.add(owned)
    return found


def _free_range(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on now."""
    for _ in range(50):
        first = free_port(HERE)
        rest = range(first + 1, first + count)
        if rest[-1] < 65536 and all(port_is_free(HERE, port) for port in rest):
            return first
    raise LemnosError(f"no {count} free ports in a row were found on this machine")
