"""The readings of ``collect.py`` to a Node. What was not read is None, and said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lemnos.hardware import host
from lemnos.hardware.catalogue import kind_of
from lemnos.hardware.topology import all_peers, parse_matrix, weakest_link
from lemnos.spec.base import Value
from lemnos.spec.cluster import Disk, Holder, Nic, Node, NodeGpu

GIB = 1024**3
MIB = 1024**2
NVIDIA, AMD = "0x10de", "0x1002"

UNSEEN_GIB = 0.5
"""GPU memory that no process accounts for, from which it is somebody's that cannot be seen."""


class Port(Value):
    """A port of an RDMA device, as /sys has it."""

    device: str
    port: str
    rate: str
    state: str
    layer: str
    interfaces: tuple[str, ...]


class Interface(Value):
    """A network interface, as /sys has it."""

    name: str
    speed: str
    state: str
    type: str
    device: bool
    bond: bool
    address: str | None
    mask: str | None


class Readings(Value):
    """What ``collect.collect`` gives, which documents it."""

    name: str
    architecture: str
    cores: int
    files: Mapping[str, str]
    texts: Mapping[str, str]
    gpus: tuple[Mapping[str, Any], ...] | None
    apps: tuple[Mapping[str, Any], ...]
    people: Mapping[str, tuple[str | None, str]]
    driver: str | None
    cuda: str | None
    visible: str | None
    pci: tuple[str, ...]
    infiniband: tuple[Port, ...]
    interfaces: tuple[Interface, ...]
    shm: Mapping[str, Any] | None
    disks: tuple[Mapping[str, Any], ...]
    unknown: tuple[str, ...]


def node(readings: Readings, name: str | None = None) -> Node:
    """The machine as a Node, under ``name`` or its own."""
    unknown = [*readings.unknown]
    memory, free = host.usable_memory(_files(readings))
    if not memory:
        unknown.append("host memory: /proc/meminfo could not be read")
    gpus = _gpus(readings, unknown)
    matrix = parse_matrix(readings.texts.get("topology", ""))
    peers = parse_matrix(readings.texts.get("peers", ""))
    shown = {gpu.index for gpu in gpus}
    between = {pair: link for pair, link in matrix.items() if shown.issuperset(pair)}
    access = {pair: cell for pair, cell in peers.items() if shown.issuperset(pair)}
    if len(gpus) > 1 and weakest_link(between) is None:
        unknown.append("links between the GPUs: 'nvidia-smi topo -m' does not say")
    if len(gpus) > 1 and all_peers(access) is None:
        unknown.append("peer access: 'nvidia-smi topo -p2p r' does not say")
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", readings.texts.get("smi", ""))
    return Node(
        name=name or readings.name,
        gpus=gpus,
        architecture=readings.architecture,
        cpu=_cpu(readings),
        cores=host.usable_cores(_files(readings), readings.cores),
        memory_gib=_gib(memory) if memory else None,
        free_gib=_gib(free) if memory else None,
        shm_gib=_gib(readings.shm["total"]) if readings.shm else None,
        driver=readings.driver or _driver(readings),
        cuda=readings.cuda or (cuda[1] if cuda else None),
        gpu_link=weakest_link(between),
        peer_access=all_peers(access),
        nvlink_domain=_nvlink_domain(readings),
        nics=_nics(readings),
        disks=tuple(map(_disk, readings.disks)),
        unknown=tuple(unknown),
    )


def _files(readings: Readings) -> host.Read:
    return lambda path: readings.files.get(path, "")


def _cpu(readings: Readings) -> str | None:
    if name := host.parse_cpu_model(readings.files.get("proc/cpuinfo", "")):
        return name
    # Arm's /proc/cpuinfo has numbers only; lscpu knows them.
    said = re.search(r"^Model name:\s*(.+)$", readings.texts.get("lscpu", ""), re.M)
    return said[1].strip() if said and said[1].strip() != "-" else None


def _driver(readings: Readings) -> str | None:
    """The NVIDIA driver's version, by its own file in /proc."""
    text = readings.files.get("proc/driver/nvidia/version", "")
    said = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return said[1] if said else None


def _nvlink_domain(readings: Readings) -> str | None:
    domains = {gpu.get("fabric") for gpu in readings.gpus or ()}
    return domains.pop() if len(domains) == 1 else None


# ---------------------------------------------------------------- GPUs


def _gpus(readings: Readings, unknown: list[str]) -> tuple[NodeGpu, ...]:
    if readings.gpus is not None:
        found, apps = readings.gpus, readings.apps
    else:
        found = tuple(parse_smi_gpus(readings.texts.get("gpus", "")))
        apps = tuple(parse_smi_apps(readings.texts.get("apps", "")))
    if not found:
        unknown += _silent_gpus(readings)
    visible = [gpu for gpu in found if _is_visible(gpu, readings.visible)]
    if len(visible) < len(found):
        unknown.append(
            f"{len(found) - len(visible)} of {len(found)} GPUs are left out: "
            f"CUDA_VISIBLE_DEVICES={readings.visible} hides them"
        )
    return tuple(_gpu(gpu, apps, readings.people, unknown) for gpu in visible)


def parse_smi_gpus(text: str) -> list[dict[str, Any]]:
    """GPUs of ``nvidia-smi --query-gpu`` with collect's fields, or with its older ones."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) not in (5, 7) or not fields[0].isdigit():
            continue
        index, uuid, name, total, free, reserved, mig = [*fields, "", ""][:7]
        found.append(
            {
                "index": int(index),
                "uuid": uuid,
                "name": name,
                "total": _mib(total),
                "free": _mib(free),
                "reserved": _mib(reserved) or 0,
                "mig": mig == "Enabled",
            }
        )
    return found


def parse_smi_apps(text: str) -> list[dict[str, Any]]:
    """Processes of ``nvidia-smi --query-compute-apps``."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) >= 4 and fields[1].isdigit():
            # The name may have commas, and arguments, which are nobody's business.
            name = ",".join(fields[2:-1]).split(" ")[0].rpartition("/")[2]
            found.append(
                {
                    "uuid": fields[0],
                    "pid": int(fields[1]),
                    "name": name,
                    "used": _mib(fields[-1]),
                }
            )
    return found


def _gpu(
    gpu: Mapping[str, Any],
    apps: Sequence[Any],
    people: Mapping[str, tuple[str | None, str]],
    unknown: list[str],
) -> NodeGpu:
    total, free, name = gpu.get("total"), gpu.get("free"), gpu.get("name")
    # What an engine is told that there is: the driver's own part is not in it.
    memory = _gib(total - (gpu.get("reserved") or 0)) if total else None
    kind = kind_of(name, memory) if name else None
    held = [_holder(app, people) for app in apps if app["uuid"] == gpu.get("uuid")]
    label = f"GPU {gpu['index']}"
    if name and kind is None:
        unknown.append(f"{label}: the catalogue of GPUs has no '{name}'")
    if memory is None or free is None:
        unknown.append(f"{label}: its driver does not say how much memory is free")
    else:
        known = sum(holder.gib or 0 for holder in held)
        unseen = memory - _gib(free) - known
        if unseen >= UNSEEN_GIB and not any(h.gib is None for h in held):
            unknown.append(
                f"{label}: {unseen:.1f} GiB are held by processes that cannot be seen "
                "from here (another container's, or of a process that has ended badly)"
            )
    if gpu.get("mig"):
        unknown.append(f"{label} is split by MIG: its figures are of the whole GPU")
    return NodeGpu(
        kind=kind.name if kind else None,
        name=name,
        index=gpu["index"],
        uuid=gpu.get("uuid"),
        memory_gib=memory,
        free_gib=_gib(free) if free is not None else None,
        held=tuple(held),
    )


def _holder(app: Any, people: Mapping[str, tuple[str | None, str]]) -> Holder:
    user, command = people.get(str(app["pid"]), (None, ""))
    return Holder(
        pid=app["pid"],
        user=user,
        command=command or app.get("name") or None,
        gib=_gib(app["used"]) if app["used"] is not None else None,
    )


def _is_visible(gpu: Mapping[str, Any], visible: str | None) -> bool:
    """``CUDA_VISIBLE_DEVICES`` leaves the GPU: by its number, or by its UUID's beginning."""
    if visible is None:
        return True
    words = [word.strip() for word in visible.split(",")]
    uuid = gpu.get("uuid") or ""
    by_uuid = any(w.startswith("GPU-") and uuid.startswith(w) for w in words)
    return by_uuid or str(gpu["index"]) in words


def _silent_gpus(readings: Readings) -> list[str]:
    """GPUs that are on the bus, but whose driver says nothing."""
    said = []
    if count := readings.pci.count(NVIDIA):
        fix = "is the driver installed, and 'nvidia-smi' happy?"
        said.append(f"{count} NVIDIA devices are on the PCI bus, unread: {fix}")
    if count := readings.pci.count(AMD):
        said.append(
            f"{count} AMD graphics devices are on the PCI bus: the probe reads NVIDIA's only"
        )
    return said


# ---------------------------------------------------------------- network and disks


def _nics(readings: Readings) -> tuple[Nic, ...]:
    several = {port.device for port in readings.infiniband if port.port != "1"}
    nics = []
    rdma_interfaces: set[str] = set()
    for port in readings.infiniband:
        rdma_interfaces.update(port.interfaces)
        name = f"{port.device}:{port.port}" if port.device in several else port.device
        rate = re.match(r"([\d.]+) Gb/sec", port.rate)
        nics.append(
            Nic(
                name=name,
                kind="roce" if port.layer == "Ethernet" else "infiniband",
                gbit_s=float(rate[1]) if rate else None,
                up="ACTIVE" in port.state if port.state else None,
            )
        )
    for interface in readings.interfaces:
        real = interface.device or interface.bond or interface.name.startswith("e")
        if interface.type == "1" and real and interface.name not in rdma_interfaces:
            speed = int(interface.speed) if interface.speed.isdigit() else 0
            up = {"up": True, "down": False}.get(interface.state)
            nics.append(
                Nic(
                    name=interface.name,
                    kind="ethernet",
                    gbit_s=speed / 1000 if speed else None,
                    up=up,
                )
            )
    return tuple(nics)


def _disk(disk: Mapping[str, Any]) -> Disk:
    speed = disk.get("read")
    return Disk(
        path=disk["mount"],
        filesystem=disk["filesystem"],
        shared=disk["shared"],
        total_gib=_gib(disk["total"]) if "total" in disk else None,
        free_gib=_gib(disk["free"]) if "free" in disk else None,
        read_gb_s=round(speed / 1e9, 3) if speed else None,
    )


def _gib(count: float) -> float:
    return round(count / GIB, 2)


def _mib(text: str) -> int | None:
    return int(text) * MIB if text.isdigit() else None
