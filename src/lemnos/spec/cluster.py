"""The cluster: nodes, their GPUs, and the links between them, measured or written by hand.

``lemnos probe`` writes it as ``cluster.yaml``, ``lemnos plan --cluster`` reads it. None means
"not known": it was not written, or could not be read. Nothing is invented in its place.
Memory is in GiB (1024**3 bytes), bandwidth in Gbit/s (10**9 bits).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lemnos.spec.base import Value
from lemnos.spec.document import SPEC_VERSION

Gib = Annotated[float, Field(ge=0)]


class GpuKind(Value):
    """A GPU of the catalogue: what its makers and measurements say of it."""

    name: str
    """``H200``, ``GH200-96``: what people write."""
    aliases: tuple[str, ...] = ()
    """Other names, as drivers and schedulers report them."""
    memory_gib: Annotated[float, Field(gt=0)]
    """What an engine is told that there is (torch's total), before anything is allocated."""
    bandwidth_gb_s: Annotated[float, Field(gt=0)]
    """Of its memory, by the data sheet (10**9 bytes/s)."""
    tflops: dict[str, float]
    """Dense, by the data sheet: ``bf16``, ``fp8``, ``int8``, ``fp4``; absent: no such units."""
    capability: float | None = None
    """CUDA compute capability: 9.0 for Hopper; None for other makers."""
    nvlink_gb_s: float | None = None
    """To all peers together, one direction (10**9 bytes/s); None: PCIe only."""
    pcie_gb_s: float = 32.0
    """To the host, one direction (10**9 bytes/s); a superchip's C2C link counts here."""
    link_domain: int = 8
    """GPUs that one NVLink (or PCIe) domain joins, over nodes where the rack has such."""
    per_node: int = 8
    """GPUs that a node usually has: how ``16xH100`` is split into nodes."""
    host: str | None = None
    """The host's architecture where the GPU decides it: ``aarch64`` for GH200 and GB200."""
    watts: float | None = None
    source: str
    """Where the figures are from."""


class Holder(Value):
    """A process that holds GPU memory."""

    pid: int
    user: str | None = None
    command: str | None = None
    gib: Gib | None = None


class NodeGpu(Value):
    """One GPU of a node."""

    kind: str | None = None
    """Its name in the catalogue; None where the catalogue lacks it."""
    name: str | None = None
    """As its driver names it."""
    index: int | None = None
    uuid: str | None = None
    memory_gib: Gib | None = None
    """In all; the catalogue's where not given."""
    free_gib: Gib | None = None
    """Free when it was probed; all of it where not given."""
    held: tuple[Holder, ...] = ()


class Nic(Value):
    """A network device."""

    name: str
    kind: Literal["infiniband", "roce", "ethernet"]
    gbit_s: Gib | None = None
    up: bool | None = None


class Disk(Value):
    """A file system that models may lie on."""

    path: str
    filesystem: str
    shared: bool
    """A network or cluster file system: what one node writes, others read."""
    total_gib: Gib | None = None
    free_gib: Gib | None = None
    read_gb_s: Gib | None = None
    """Measured, in 10**9 bytes/s."""


class Node(Value):
    """A machine, or ``count`` machines that are alike."""

    name: str
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    gpus: tuple[NodeGpu, ...] = ()
    """``4xH200`` is short for four of that kind."""
    architecture: str | None = None
    """``x86_64``, ``aarch64``."""
    cpu: str | None = None
    cores: int | None = None
    memory_gib: Gib | None = None
    free_gib: Gib | None = None
    shm_gib: Gib | None = None
    """Size of /dev/shm, which tensor parallelism talks through."""
    driver: str | None = None
    cuda: str | None = None
    """The newest CUDA that the driver serves."""
    gpu_link: str | None = None
    """The weakest link between two of its GPUs: ``NV18``, ``PIX``, ``SYS`` (nvidia-smi's names)."""
    peer_access: bool | None = None
    """Every GPU can read every other's memory."""
    nvlink_domain: str | None = None
    """The NVLink domain over several nodes that its GPUs are in (``cluster/clique``)."""
    nics: tuple[Nic, ...] = ()
    disks: tuple[Disk, ...] = ()
    price_per_hour: Gib | None = None
    """Of one node, in the currency of the user's choice."""
    unknown: tuple[str, ...] = ()
    """What could not be read, and why, a sentence each."""

    @model_validator(mode="before")
    @classmethod
    def _short_gpus(cls, data: object) -> object:
        """``gpus: 4xH200`` and ``gpus: H200`` are short for a list of GPUs."""
        if not isinstance(data, dict) or not isinstance(data.get("gpus"), str):
            return data
        count, times, kind = data["gpus"].partition("x")
        if not times or not count.isdigit():
            count, kind = "1", data["gpus"]
        if not 0 < int(count) <= 1024:
            raise ValueError(f"{count} GPUs in a node: give 1 to 1024")
        return {**data, "gpus": [{"kind": kind, "index": i} for i in range(int(count))]}


class NodeLink(Value):
    """What was measured between two nodes."""

    a: str
    b: str
    latency_ms: Gib | None = None
    """Round trip."""
    gbit_s: Gib | None = None
    """TCP, from ``a`` to ``b``, several streams: RDMA and what it carries may be faster."""
    closed_ports: tuple[int, ...] = ()
    """Ports that ``b`` listened on for the trial and ``a`` could not reach."""
    closed_back: tuple[int, ...] = ()
    """The same, from ``b`` to ``a``."""
    busy_ports: tuple[int, ...] = ()
    """Ports that another program uses on one of the two: not tried."""
    unknown: str | None = None
    """Why nothing was measured."""


class Network(Value):
    """Between the nodes: what a plan over several nodes counts on."""

    kind: Literal["infiniband", "roce", "ethernet", "nvlink"] | None = None
    gbit_s: Gib | None = None
    """Of one node; the slowest link's where links were measured."""
    latency_ms: Gib | None = None
    links: tuple[NodeLink, ...] = ()
    verdict: str | None = None
    """Whether that is enough for one model over several nodes."""


class Cluster(Value):
    """The whole of ``cluster.yaml``."""

    version: Annotated[int, Field(ge=1, le=SPEC_VERSION)] = SPEC_VERSION
    name: str = "cluster"
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    network: Network = Network()
