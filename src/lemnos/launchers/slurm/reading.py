"""From the queue and the units' papers to each unit's status. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from lemnos.launchers.slurm.papers import Papers
from lemnos.launchers.slurm.parse import SlurmJob
from lemnos.launchers.slurm.words import (
    NO_ADDRESS,
    UNSEEN,
    ending,
    waiting,
    words,
)
from lemnos.launchers.slurm.words import unseen as unseen_by
from lemnos.spec.unit import UnitStatus

NONE = Papers()
UrlOf = Callable[[str, int], str]


def by_unit(jobs: Iterable[SlurmJob], mark: str) -> dict[str, SlurmJob]:
    """The job of each unit whose comment begins with ``mark``: one that lives, else the newest."""
    found: dict[str, SlurmJob] = {}
    for job in jobs:
        if not job.comment.startswith(mark):
            continue
        name = job.comment.removeprefix(mark)
        if name not in found or _order(job) > _order(found[name]):
            found[name] = job
    return found


def is_over(job: SlurmJob, papers: Papers = NONE) -> bool:
    """Whether the job has ended; one that Slurm still cleans up after has, unless it starts again."""
    if job.state == "COMPLETING":  # plain squeue hides the state behind
        return job.restarts <= papers.attempt
    return job.state not in words().queued and job.state not in words().running


def is_gone(job: SlurmJob) -> bool:
    """Whether nothing of the job runs any more."""
    return is_over(job) and "COMPLETING" not in job.states


def is_queued(job: SlurmJob) -> bool:
    """Whether it waits, for the first time or again."""
    return job.state in words().queued or job.state == "COMPLETING"


def statuses(
    jobs: Mapping[str, SlurmJob],
    papers: Mapping[str, Papers],
    url_of: UrlOf,
    *,
    unseen: Collection[int] = (),
    directory: str = "",
    cancelled_by: Mapping[int, str] | None = None,
) -> dict[str, UnitStatus]:
    """Every unit that has a job, or that had one by its papers.

    ``unseen``: jobs that run for so long without a word that their nodes do not see ``directory``.
    An ended job counts only where papers tell of it: others are of an earlier deployment.
    """
    found = {}
    for name, job in jobs.items():
        paper = papers.get(name, NONE)
        if is_over(job, paper):
            if paper.of(job.id):
                who = (cancelled_by or {}).get(job.id, "")
                found[name] = _ended(job, paper, who, directory)
        elif is_queued(job):
            found[name] = UnitStatus(
                state="queued",
                why=waiting(job),
                id=str(job.id),
                starts_at=job.starts_at,
                starts=job.restarts,
            )
        else:
            lost = directory if job.id in unseen else ""
            found[name] = _running(job, paper, url_of, lost)
    for name, paper in papers.items():
        if name not in jobs and paper.newest:
            found[name] = _vanished(paper)
    return found


def _running(job: SlurmJob, paper: Papers, url_of: UrlOf, lost: str) -> UnitStatus:
    here = paper.here if paper.registered(job.id, job.restarts) else None
    broken = paper.how_ended(job.id, job.restarts) or words().running.get(job.state, "")
    if lost and not here and not broken:
        broken = unseen_by(job, lost)
    return UnitStatus(
        state="running",
        broken=broken,
        leaving=paper.why_leaving(job.id, job.restarts),
        id=str(job.id),
        url=url_of(here.host, here.port) if here else "",
        hosts=(here.hosts if here else ()) or job.nodes,
        ends_at=job.ends_at,
        starts=job.restarts,
    )


def _ended(job: SlurmJob, paper: Papers, who: str, directory: str) -> UnitStatus:
    how = ending(job)
    told = paper.how_ended(job.id, job.restarts)
    if paper.cancelled == job.id:
        how = f"was ended by lemnos ({told})" if told else "was cancelled by lemnos"
    elif job.state == "CANCELLED":
        how = f"was cancelled by {who or 'somebody else, not by lemnos'}"
    elif job.state == "COMPLETING" and (why := paper.why_leaving(job.id, job.restarts)):
        how = why  # whether cancelled, preempted or over, plain squeue says a moment later
    elif told and job.state in ("FAILED", "COMPLETED", "COMPLETING"):
        how = told
    elif job.code == UNSEEN and not paper.here_id:
        how = unseen_by(job, directory)
    elif job.code == NO_ADDRESS and not paper.here_id:
        how = "one of its nodes has no address on the interface that the spec names"
    hosts = paper.hosts or job.nodes
    return UnitStatus(
        state="ended", why=how, id=str(job.id), hosts=hosts, starts=job.restarts
    )


def _vanished(paper: Papers) -> UnitStatus:
    how = paper.how_ended(paper.newest, paper.attempt)
    if paper.cancelled == paper.newest:
        how = "was cancelled by lemnos"
    return UnitStatus(
        state="ended",
        why=how or f"Slurm does not know job {paper.newest} any more",
        id=str(paper.newest),
        hosts=paper.hosts,
    )


def _order(job: SlurmJob) -> tuple[bool, float, int]:
    return (not is_over(job), job.submitted, job.id)
