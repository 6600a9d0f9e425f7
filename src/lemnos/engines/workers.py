"""The workers of a plan whose replicas stand together behind a frontend or a router: which there
are, and on which hosts and GPUs of the unit each of them runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lemnos.engines.placing import possible
from lemnos.errors import UsageError
from lemnos.spec.deployment import EngineValue, RoleSpec
from lemnos.spec.place import Place, Role
from lemnos.spec.plan import Plan
from lemnos.spec.proposal import Proposal


class Seat(NamedTuple):
    """Where a worker runs, by the numbers of hosts and of GPUs."""

    host: int
    """The first of its hosts."""
    hosts: int
    gpu: int
    """The first of its GPUs there."""
    gpus: int
    """On each of its hosts."""


@dataclass(frozen=True)
class Worker:
    """One prefill, decode or whole worker of a unit."""

    role: Role
    proposal: Proposal
    """With this worker's own layout (of one replica) and settings."""
    place: Place
    """Its part of the unit's place; the ports are the unit's."""
    slot: int
    """Which of the workers that have their API on the same host, from 0: their ports differ."""


def is_group(plan: Plan) -> bool:
    """Whether all workers of the plan are one unit, with one API in front: Dynamo's, and SGLang's
    where prefill and decode are apart."""
    if plan.engine == "dynamo":
        return True
    apart = plan.proposal is not None and plan.proposal.roles is not None
    return apart and plan.engine == "sglang"


def args_of(plan: Plan, role: Role) -> dict[str, EngineValue]:
    """``engine_args`` of a worker: everybody's, and those of its role."""
    return plan.spec.engine_args | _own(plan, role).engine_args


def env_of(plan: Plan, role: Role) -> dict[str, str]:
    """What quirks and spec set in a worker's environment."""
    return plan.quirks.env | plan.spec.engine_env | _own(plan, role).engine_env


def _own(plan: Plan, role: Role) -> RoleSpec:
    found = {"prefill": plan.spec.prefill, "decode": plan.spec.decode}
    return found.get(role, RoleSpec())


def parts_of(proposal: Proposal) -> list[tuple[Role, Proposal]]:
    """Each worker's role, and the proposal as if it were alone; prefill first."""
    roles = proposal.roles
    whole = proposal.layout.model_copy(update={"replicas": 1})
    first = proposal.model_copy(update={"layout": whole})
    if roles is None:
        alone: tuple[Role, Proposal] = ("both", first)
        return [alone] * proposal.layout.replicas
    layout = roles.decode_layout or whole
    settings = roles.decode_settings or proposal.settings
    second = proposal.model_copy(
        update={
            "layout": layout.model_copy(update={"replicas": 1}),
            "settings": settings,
        }
    )
    prefill: tuple[Role, Proposal] = ("prefill", first)
    decode: tuple[Role, Proposal] = ("decode", second)
    return [prefill] * roles.prefill + [decode] * roles.decode


def seats(sizes: Sequence[int], per_host: int) -> list[Seat]:
    """Workers of so many GPUs on hosts with ``per_host`` each, taken in order.

    One that needs more than a host has whole hosts; those that fit share one.
    """
    found: list[Seat] = []
    host = used = 0
    for gpus in sizes:
        span = math.ceil(gpus / per_host)
        if used and (span > 1 or used + gpus > per_host):
            host, used = host + 1, 0
        found.append(Seat(host, span, used, math.ceil(gpus / span)))
        if span > 1:
            host += span
        else:
            used += gpus
    return found


def hosts_and_gpus(proposal: Proposal) -> tuple[int, int, int]:
    """(hosts of the unit, GPUs that it takes on each, GPUs that a host has).

    A plan says how many nodes there are, not how large: as large as they must be to hold it.
    """
    sizes = [own.layout.gpus for _, own in parts_of(proposal)]
    least = math.ceil(sum(sizes) / proposal.nodes)
    for per_host in range(least, sum(sizes) + 1):
        found = seats(sizes, per_host)
        hosts = max(seat.host + seat.hosts for seat in found)
        if hosts <= proposal.nodes:
            break
    return hosts, max(seat.gpu + seat.gpus for seat in found), per_host


def workers_of(
    proposal: Proposal, place: Place, engine: str, *, data_over_hosts: bool = False
) -> list[Worker]:
    """The workers on the hosts of ``place``, which are taken in order. Raises UsageError where they
    do not go there."""
    parts = parts_of(proposal)
    sizes = [own.layout.gpus for _, own in parts]
    workers: list[Worker] = []
    taken: dict[str, int] = {}
    for (role, own), seat in zip(parts, _seated(proposal, sizes, place), strict=True):
        hosts = place.hosts[seat.host : seat.host + seat.hosts]
        devices = _devices(place, seat)
        changed = {"hosts": hosts, "role": role, "devices": devices, "names": ()}
        there = place.model_copy(update=changed)
        possible(own.layout, there, engine, data_over_hosts=data_over_hosts)
        slot = taken.get(hosts[0], 0)
        taken[hosts[0]] = slot + 1
        workers.append(Worker(role, own, there, slot))
    return workers


def _seated(proposal: Proposal, sizes: list[int], place: Place) -> list[Seat]:
    hosts, per_host, count = len(place.hosts), place.gpus_per_host, len(sizes)
    if hosts == 1:
        if per_host and sum(sizes) > per_host:
            raise UsageError(
                f"{count} workers ({proposal.divided}) need {sum(sizes)} GPUs, and the host has "
                f"{per_host}",
                fix="give more hosts",
            )
        return seats(sizes, max(sum(sizes), 1))
    if len(set(sizes)) == 1 and hosts % count == 0:  # larger hosts than needed: spread
        each = hosts // count
        gpus = math.ceil(sizes[0] / each)
        return [Seat(number * each, each, 0, gpus) for number in range(count)]
    if not per_host:
        raise UsageError(
            f"{hosts} hosts cannot be divided evenly among {count} workers",
            fix=f"give {count} hosts, or a multiple of that",
        )
    found = seats(sizes, per_host)
    need = max(seat.host + seat.hosts for seat in found)
    if need > hosts:
        raise UsageError(
            f"{count} workers ({proposal.divided}) need {need} hosts of {per_host} GPUs, and "
            f"{hosts} are given",
            fix="give more hosts, or plan for these: lemnos plan --cluster",
        )
    return found


def _devices(place: Place, seat: Seat) -> tuple[str, ...]:
    """Those of the unit's GPUs that a worker has; all that the scheduler gave, where it has the host
    for itself."""
    if not place.gpus_per_host:
        return place.devices
    if len(place.hosts) > 1 and seat.gpus == place.gpus_per_host:
        return place.devices
    here = place.devices or tuple(str(i) for i in range(place.gpus_per_host))
    return here[seat.gpu : seat.gpu + seat.gpus]
