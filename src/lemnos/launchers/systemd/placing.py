"""Where units go: this machine with free GPUs, or whole hosts among those that are named."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.local import Local
from lemnos.launchers.shape import shape_of
from lemnos.spec.cluster import Cluster
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.place import INNER_PORTS, Place
from lemnos.spec.plan import Plan
from lemnos.transport.base import Transport

DRY_PORT = 8000
"""Stands for ports where nothing is to be looked up."""

# Prints a free port for the API, and the first of some in a row, on the host where it runs.
_FREE_PORTS = """
import socket, sys
def taken(port):
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return True
        return False
def some():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
count = int(sys.argv[1])
for _ in range(50):
    first = some()
    if first + count < 65536 and not any(map(taken, range(first, first + count + 1))):
        print(first, first + 1)
        sys.exit(0)
sys.exit("no free ports in a row")
"""


def here(local: Local, plan: Plan, name: str, *, dry: bool) -> Place:
    """This machine: ports and GPUs as for its processes without systemd, so that both can share it."""
    shape = shape_of(plan)
    if shape.hosts > 1:
        raise UsageError(
            f"the plan needs {shape.hosts} hosts for a replica, and this is one",
            where="on: systemd",
            fix="name them in systemd.hosts, or use --on slurm, pbs or ray",
        )
    place = local.place(plan, name, dry=dry)
    if not dry:
        return place
    return place.model_copy(update={"port": DRY_PORT, "inner_port": DRY_PORT + 1})


def choose_hosts(
    plan: Plan, spec: DeploymentSpec, busy: Sequence[Collection[str]]
) -> tuple[str, ...]:
    """The hosts for one more unit; those with the fewest units first. ``busy``: the hosts of each unit.

    A host has GPUs for one unit. Pure. Raises LemnosError where there are not enough.
    """
    shape, hosts = shape_of(plan), spec.systemd.hosts
    load = {host: sum(host in taken for taken in busy) for host in hosts}
    usable = [host for host in hosts if not (shape.gpus and load[host])]
    if len(usable) < shape.hosts:
        raise LemnosError(
            f"{shape.hosts} free hosts are needed, and there are {len(usable)} of {len(hosts)}",
            where="systemd.hosts",
            fix="name more hosts, or run fewer replicas",
        )
    return tuple(sorted(usable, key=lambda host: load[host])[: shape.hosts])


def over(
    hosts: tuple[str, ...], plan: Plan, spec: DeploymentSpec, ports: tuple[int, int]
) -> Place:
    """A replica on these hosts, all GPUs of each. Pure."""
    shape = shape_of(plan)
    return Place(
        hosts=hosts,
        gpus_per_host=shape.per_host,
        port=ports[0],
        inner_port=ports[1],
        interface=spec.interface,
        multi_node_nvlink=shape.multi_node_nvlink,
        ray=spec.systemd.ray and len(hosts) > 1,
    )


def free_ports(host: Transport) -> tuple[int, int]:
    """A port for the API and the first of ``INNER_PORTS``, free on the host now. Raises LemnosError."""
    done = host.run("python3", "-c", _FREE_PORTS, str(INNER_PORTS))
    words = done.out.split()
    if done.code or len(words) != 2:
        raise LemnosError(f"finds no free ports: {done.said}", where=host.where)
    return int(words[0]), int(words[1])


def inventory(local: Local, hosts: Sequence[str]) -> Cluster:
    """This machine, or the hosts as SSH reaches them. Raises LemnosError if none can be read."""
    if not hosts:
        return local.inventory()
    from lemnos.hardware.probe import hosts_named, probe_hosts

    there = hosts_named(",".join(hosts))
    return probe_hosts(there, measure_network=False, note=lambda _: None)
