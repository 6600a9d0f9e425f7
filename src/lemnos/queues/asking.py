"""Asks a machine room when plans could start there: ``lemnos plan --on``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lemnos.deployments.prepare_gpu import plan_on_gpus
from lemnos.deployments.units import site_of, unit_of
from lemnos.errors import LemnosError, UsageError
from lemnos.launchers import late
from lemnos.launchers.base import Launcher
from lemnos.launchers.registry import launcher_for
from lemnos.launchers.shape import replicas_of, shape_of
from lemnos.queues import words
from lemnos.queues.offers import Offer, offers_of
from lemnos.queues.ranking import (
    Answer,
    Candidate,
    QueuedPlan,
    QueuedPlans,
    answered,
    is_now,
    queued,
    ranked,
)
from lemnos.queues.sizes import Size, together
from lemnos.spec.cluster import Cluster
from lemnos.spec.deployment import DeploymentSpec, WorkloadSpec, name_from
from lemnos.spec.plan import Plan
from lemnos.spec.proposal import Ask
from lemnos.spec.rooms import SchedulerSpec
from lemnos.spec.unit import Room, Unit

FIRST = "engine-0"
MOST_QUESTIONS = 40
"""Schedulers are shared: none is asked more often for one table."""


def queued_plans(
    spec: DeploymentSpec,
    cluster: str | Path | Cluster | None = None,
    *,
    trust_headers: bool = False,
    calibrate: str | Path | None = None,
    **asked: Any,
) -> QueuedPlans:
    """Plans for ``spec`` in the room that it names with ``on``, by when they would answer first.

    ``cluster``: the room's nodes, where its scheduler does not say what GPUs they have.
    ``asked`` are the fields of ``lemnos.spec.proposal.Ask``. What the room refuses of one layout
    is told in its row; raises LemnosError for what it refuses of all (an unknown partition), and
    where it cannot be asked. Nothing is submitted or written.
    """
    rooms = _Rooms(spec)
    launcher = rooms.launcher()
    options = {"trust_headers": trust_headers, "calibrate": calibrate}
    offers = offers_of(spec, launcher, cluster, asked, **options)
    ask = offers.asked
    jobs = [_job(rooms, queued_spec_of(spec, each, ask), each) for each in offers.all]
    rooms.ask_about(jobs, offers.nodes)
    at = time.time()
    found = (queued(job.told, rooms.answers(job.told.gpu_type), at) for job in jobs)
    plans = ranked(found, ask)
    some = [plan for plan in plans if not plan.refused]
    said = words.advice(some, ask, at, spec.on, queues=launcher.queues) if some else ""
    return QueuedPlans(
        on=spec.on,
        at=at,
        asked=ask,
        plans=plans,
        headline=words.headline(plans, at),
        advice=said,
        spec=spec,
        notes=offers.notes,
        rejected=offers.rejected,
        smallest=offers.smallest,
        with_offload=offers.with_offload,
    )


def queued_spec(found: QueuedPlans) -> DeploymentSpec:
    """The first plan as a deployment in its room, which ``lemnos up`` takes."""
    return queued_spec_of(found.spec, found.plans[0], found.asked)


def queued_spec_of(
    spec: DeploymentSpec, chosen: Offer | QueuedPlan, asked: Ask
) -> DeploymentSpec:
    """``spec`` with the plan that was chosen, its checkpoint, and the GPUs that it is for."""
    plan = chosen.plan
    model = spec.model.model_copy(
        update={"source": plan.source.removeprefix("file://")}
    )
    changes = {
        "model": model,
        "engine": spec.engine or plan.engine,
        "workload": WorkloadSpec(
            context=max(64, plan.settings.context),
            concurrency=min(4096, asked.concurrency),
        ),
        "plan": plan,
    }
    return _typed(spec.model_copy(update=changes), chosen.gpu_type)


def room_for(plan: Plan) -> Room:
    """When the room of ``plan`` would start a replica of it. Raises LemnosError where it refuses one."""
    launcher = launcher_for(site_of(plan.spec, plan.name))
    return launcher.room(_unit(launcher, plan))


class _Rooms:
    """One room, as it answers for each kind of GPU; every size is asked about once."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self._spec = spec
        name = spec.name or name_from(spec.model.served_name or spec.model.source)
        self._site = site_of(spec, name)
        self._launchers: dict[tuple[str, bool], Launcher] = {}
        self._answers: dict[str, dict[Size, Answer]] = {}
        self._refusals: list[LemnosError] = []
        self._questions = 0

    def launcher(self, gpu_type: str = "", *, free: bool = False) -> Launcher:
        """``free``: without the spec's numbers of nodes and GPUs, so that any can be asked about."""
        key = (gpu_type, free)
        if key not in self._launchers:
            spec = _typed(self._spec, gpu_type)
            own = _unpinned(spec) if free else spec
            site = dataclasses.replace(self._site, spec=own)
            self._launchers[key] = launcher_for(site)
        return self._launchers[key]

    def answers(self, gpu_type: str) -> dict[Size, Answer]:
        """What it said so far."""
        return self._answers.get(gpu_type, {})

    def ask_about(self, jobs: Sequence[_Job], nodes: int) -> None:
        """First of single replicas, the smallest first; then, where one could start, of all together."""
        for job in sorted(jobs, key=lambda job: job.told.size.total):
            self._ask(job, job.told.size)
        if self._refusals and self._questions == len(self._refusals):
            raise self._refusals[0]  # whatever it is about, nothing can start
        for job in jobs:
            own = self.answers(job.told.gpu_type).get(job.told.size)
            if own is None or own.refused:
                continue
            for size in together(job.told.size, job.told.replicas, job.per_node, nodes):
                answer = self._ask(job, size)
                if answer and is_now(answer.starts_at, time.time()):
                    break

    def _ask(self, job: _Job, size: Size) -> Answer | None:
        known = self._answers.setdefault(job.told.gpu_type, {})
        if size in known or job.unit is None or self._questions >= MOST_QUESTIONS:
            return known.get(size)
        self._questions += 1
        launcher = self.launcher(job.told.gpu_type, free=True)
        try:
            known[size] = answered(launcher.room(_sized(job.unit, size)), time.time())
        except LemnosError as error:
            self._refusals.append(error)
            alike = {each.what for each in self._refusals}
            if len(alike) == 1 and self._questions == len(self._refusals) > 1:
                raise  # in the same words for all sizes: an account, a partition
            known[size] = Answer(refused=_sentence(error))
        return known[size]


@dataclasses.dataclass(frozen=True)
class _Job:
    """A candidate, and the unit that the room is asked about; None: it cannot be one."""

    told: Candidate
    unit: Unit | None
    per_node: int


def _unpinned(spec: DeploymentSpec) -> DeploymentSpec:
    room = getattr(spec, spec.on, None)
    if not isinstance(room, SchedulerSpec):
        return spec
    free = room.model_copy(update={"gpus_per_node": None, "nodes": None})
    return spec.model_copy(update={spec.on: free})


def _typed(spec: DeploymentSpec, gpu_type: str) -> DeploymentSpec:
    """Slurm is told which of its kinds of GPU; others have no common word for it."""
    if not gpu_type or spec.on != "slurm" or spec.slurm.gpu_type:
        return spec
    slurm = spec.slurm.model_copy(update={"gpu_type": gpu_type})
    return spec.model_copy(update={"slurm": slurm})


def _job(rooms: _Rooms, spec: DeploymentSpec, offer: Offer) -> _Job:
    """The offer as the jobs that ``up`` would submit."""
    made = plan_on_gpus(spec)
    need = shape_of(made)
    size = Size(hosts=need.hosts, gpus=need.gpus)
    told = Candidate(
        plan=offer.plan,
        gpu_type=offer.gpu_type,
        size=size,
        replicas=spec.replicas or replicas_of(made),
        compromise=offer.compromise,
    )
    try:
        unit = _unit(rooms.launcher(offer.gpu_type), made)
    except UsageError as error:
        refused = told.model_copy(update={"refused": _sentence(error)})
        return _Job(refused, None, offer.per_node)
    if isinstance(getattr(spec, spec.on, None), SchedulerSpec):
        pinned = Size(hosts=len(unit.place.hosts), gpus=unit.place.gpus_per_host)
        told = told.model_copy(update={"size": pinned})
        if pinned.total < size.total:
            said = f"{spec.on}.nodes and {spec.on}.gpus_per_node give it {pinned}, and it needs {size}"
            refused = told.model_copy(update={"refused": said})
            return _Job(refused, None, offer.per_node)
    return _Job(told, unit, offer.per_node)


def _unit(launcher: Launcher, plan: Plan) -> Unit:
    place = launcher.place(plan, FIRST, dry=True)
    return unit_of(plan, FIRST, 1, place, launcher.files(FIRST))


def _sized(unit: Unit, size: Size) -> Unit:
    """The unit's job with other numbers of hosts and GPUs, to be asked about alone."""
    hosts = unit.place.hosts
    if len(hosts) != size.hosts:
        hosts = tuple(late.host(rank) for rank in range(size.hosts))
    place = unit.place.model_copy(update={"hosts": hosts, "gpus_per_host": size.gpus})
    return unit.model_copy(update={"place": place})


def _sentence(error: LemnosError) -> str:
    return f"{error.what}; {error.fix}" if error.fix else error.what
