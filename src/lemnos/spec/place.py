"""Where a replica runs: hosts, devices, ports and links, as a launcher decides them."""

from __future__ import annotations

from typing import Literal

from lemnos.spec.base import Value

Role = Literal["both", "prefill", "decode"]
"""What a replica does: whole requests, or prompts or answers only."""


class Place(Value):
    """The hosts and ports of one replica. Addresses are those of the fabric between the hosts."""

    hosts: tuple[str, ...] = ("127.0.0.1",)
    """Rank 0's first; one for a replica on one node."""
    gpus_per_host: int = 0
    """0: the engine computes on the CPU."""
    devices: tuple[str, ...] = ()
    """Of each host (``CUDA_VISIBLE_DEVICES``); empty: those that the scheduler gave."""
    port: int
    """Of the API, on the first host."""
    inner_port: int = 0
    """The first of ``INNER_PORTS`` free ports for the ranks to talk among themselves."""
    interface: str | None = None
    """The network interface between the hosts (``ib0``); None: the engine chooses."""
    multi_node_nvlink: bool = False
    """The hosts are one NVLink domain (GB200 NVL72)."""
    multicast: bool = True
    """NVLink multicast may be used; not on virtual machines, or hosts shared with others."""
    role: Role = "both"
    ray: bool = False
    """A Ray cluster joins the hosts, instead of the engine's own processes."""
    ray_is_there: bool = False
    """``ray``: the cluster runs already, and what starts the engine is in it."""
    bind: str = ""
    """The address that the API binds where that is not the first host's: in a pod all are its own."""
    names: tuple[str, ...] = ()
    """What the launcher calls the hosts, where that is not their addresses."""
    forwarded: bool = False
    """The gateway's machine reaches the first host through SSH only."""


INNER_PORTS = 16


class OpenPort(Value):
    """A port that hosts must reach, for ``--dry-run`` to list."""

    host: str
    port: int
    purpose: str
    keyed: bool
    """It demands a key; one that cannot must only be reachable for the replica's own hosts."""
