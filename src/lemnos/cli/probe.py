"""``lemnos probe``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lemnos.cli.output import Json, err, out, print_json, table

if TYPE_CHECKING:
    from lemnos.spec.cluster import Cluster, Network, Node, NodeGpu


def probe(
    hosts: Annotated[
        str | None,
        typer.Option(help="Over SSH: a,b,c or a file with one host a line."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--out", help="Write it as a cluster.yaml too.")
    ] = None,
    network: Annotated[
        bool, typer.Option(help="Measure between the hosts, and try their ports.")
    ] = True,
    ports: Annotated[
        str | None, typer.Option(help="Ports to try, instead of torch's and Ray's.")
    ] = None,
    measure_disk: Annotated[
        bool,
        typer.Option(
            "--measure-disk",
            help="Read from each file system; writes up to 1 GiB where no model lies.",
        ),
    ] = False,
    ssh_config: Annotated[
        Path | None, typer.Option(help="Instead of ~/.ssh/config.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that no probe wrote.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What is here: GPUs and who holds their memory, links, drivers, disks, network."""
    import lemnos

    cluster = lemnos.probe(
        hosts,
        network=network,
        measure_disk=measure_disk,
        ports=ports,
        ssh_config=ssh_config,
        note=lambda text: err().print(text, markup=False, style="dim"),
    )
    if save:
        lemnos.write_cluster(save, cluster, force=force)
    if as_json:
        print_json(cluster)
    else:
        _show(cluster)
        _say_where(save, hosts)
    if any(node.architecture is None for node in cluster.nodes):
        raise typer.Exit(1)


def _show(cluster: Cluster) -> None:
    console = out()
    console.print(_nodes(cluster.nodes))
    if any(node.gpus for node in cluster.nodes):
        console.print(_gpus(cluster.nodes))
    if any(node.nics for node in cluster.nodes):
        console.print(_nics(cluster.nodes))
    if any(node.disks for node in cluster.nodes):
        console.print(_disks(cluster.nodes))
    if cluster.network.links:
        console.print(_links(cluster.network))
    if cluster.network.verdict:
        console.print(f"network: {cluster.network.verdict}", markup=False)
    for node in cluster.nodes:
        for sentence in node.unknown:
            console.print(f"not known, {node.name}: {sentence}", markup=False)


def _say_where(save: Path | None, hosts: str | None) -> None:
    if save:
        err().print(f"written: {save}", markup=False)
        return
    again = "lemnos probe " + (f"--hosts {hosts} " if hosts else "")
    err().print(f"to save it: {again}--out cluster.yaml", markup=False, style="dim")


def _nodes(nodes: Sequence[Node]) -> Any:
    columns = ("node", "GPUs", "link", "peers", "driver", "CUDA", "cores", "memory GiB")
    grid = table(*columns, "free", "/dev/shm", "arch", "CPU")
    for node in nodes:
        grid.add_row(
            node.name,
            str(len(node.gpus)) if node.architecture else "?",
            node.gpu_link or "-",
            _yes(node.peer_access) if len(node.gpus) > 1 else "-",
            node.driver or "-",
            node.cuda or "-",
            _number(node.cores),
            _number(node.memory_gib),
            _number(node.free_gib),
            _number(node.shm_gib),
            node.architecture or "?",
            node.cpu or "?",
        )
    return grid


def _gpus(nodes: Sequence[Node]) -> Any:
    grid = table("node", "GPU", "kind", "memory GiB", "free", "held by")
    for node in nodes:
        for gpu in node.gpus:
            grid.add_row(
                node.name,
                _number(gpu.index),
                gpu.kind or gpu.name or "?",
                _number(gpu.memory_gib),
                _number(gpu.free_gib),
                _holders(gpu),
            )
    return grid


def _holders(gpu: NodeGpu) -> str:
    said = [
        f"{holder.user or '?'}: {holder.command or '?'} (pid {holder.pid}) "
        f"{_number(holder.gib)} GiB"
        for holder in gpu.held
    ]
    return "; ".join(said) or "-"


def _nics(nodes: Sequence[Node]) -> Any:
    grid = table("node", "network device", "kind", "Gbit/s", "up")
    for node in nodes:
        for nic in node.nics:
            speed = _number(nic.gbit_s)
            grid.add_row(node.name, nic.name, nic.kind, speed, _yes(nic.up))
    return grid


def _disks(nodes: Sequence[Node]) -> Any:
    grid = table("node", "file system", "kind", "shared", "GiB", "free", "read GB/s")
    for node in nodes:
        for disk in node.disks:
            grid.add_row(
                node.name,
                disk.path,
                disk.filesystem,
                _yes(disk.shared),
                _number(disk.total_gib),
                _number(disk.free_gib),
                _number(disk.read_gb_s) if disk.read_gb_s is not None else "-",
            )
    return grid


def _links(network: Network) -> Any:
    grid = table("from", "to", "round trip ms", "Gbit/s", "closed ports", "and back")
    for link in network.links:
        if link.unknown:
            grid.add_row(link.a, link.b, "?", "?", link.unknown, "")
            continue
        grid.add_row(
            link.a,
            link.b,
            _number(link.latency_ms),
            _number(link.gbit_s),
            ", ".join(map(str, link.closed_ports)) or "-",
            ", ".join(map(str, link.closed_back)) or "-",
        )
    return grid


def _number(value: float | None) -> str:
    """Three figures are enough for people."""
    if value is None:
        return "?"
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "?"}[value]
