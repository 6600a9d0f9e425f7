"""Environment variables that follow from where an engine runs: links, devices, NCCL. Pure."""

from __future__ import annotations

from lemnos.spec.layout import Layout
from lemnos.spec.place import Place


def reach(place: Place) -> str:
    """The address that the API binds: loopback, or the fabric's where the gateway is elsewhere.

    Never all interfaces, but for a pod's own: an engine's port is not for clients.
    """
    return place.bind or place.hosts[0]


def links_of(place: Place, layout: Layout) -> dict[str, str]:
    """NCCL's, Gloo's and CUDA's variables for a rank at ``place``.

    NCCL and Gloo look for an interface by themselves; on hosts with several, both must be told
    the same one (vLLM's docs, "Parallelism and scaling"; NCCL's, "Environment variables").
    """
    env: dict[str, str] = {}
    if place.devices:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(place.devices)
    if not place.multicast and layout.tensor > 1:
        env["NCCL_NVLS_ENABLE"] = "0"
    if len(place.hosts) == 1:
        return env
    if place.interface:
        env["NCCL_SOCKET_IFNAME"] = place.interface
        env["GLOO_SOCKET_IFNAME"] = place.interface
    if place.multi_node_nvlink:
        # GB200 racks: without these NCCL talks over InfiniBand, past the NVLink between trays.
        env["NCCL_MNNVL_ENABLE"] = "1"
        env["NCCL_CUMEM_ENABLE"] = "1"
    return env
