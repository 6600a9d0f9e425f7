"""What one unit of a plan needs of a room: hosts, and GPUs on each. Pure."""

from __future__ import annotations

import math

from lemnos.engines.workers import hosts_and_gpus, is_group
from lemnos.hardware.catalogue import gpu_kind
from lemnos.spec.base import Value
from lemnos.spec.plan import Plan


class Shape(Value):
    """The hosts of one replica (or of all, where the engine keeps them together)."""

    hosts: int = 1
    gpus: int = 0
    """That the unit takes on each host; 0: it computes on the CPU."""
    per_host: int = 0
    """GPUs that a host has, as the plan was made for."""
    multi_node_nvlink: bool = False
    """The hosts should be one NVLink domain (GB200 NVL72)."""
    start_s: float = 0.0
    """What starting is predicted to take."""


def shape_of(plan: Plan) -> Shape:
    """What a unit of ``plan`` needs. The workers of a group are one unit, behind what has its API."""
    proposal = plan.proposal
    if proposal is None:
        return Shape(start_s=10.0)
    if is_group(plan):
        hosts, gpus, per_host = hosts_and_gpus(proposal)
    else:
        per_host = math.ceil(proposal.gpus / proposal.nodes)
        hosts = max(1, math.ceil(proposal.layout.gpus / per_host))
        gpus = math.ceil(proposal.layout.gpus / hosts)
    kind = gpu_kind(proposal.gpu)
    return Shape(
        hosts=hosts,
        gpus=gpus,
        per_host=per_host,
        multi_node_nvlink=hosts > 1 and kind.link_domain > kind.per_node,
        start_s=proposal.ready_s,
    )


def replicas_of(plan: Plan) -> int:
    """Units that the plan has."""
    return 1 if is_group(plan) else plan.layout.replicas
