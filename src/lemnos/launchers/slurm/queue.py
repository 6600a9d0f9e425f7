"""One deployment's jobs and papers, asked for no more often than must be.

The queue is the controller's, which everybody on the cluster shares: it is asked every
``poll_s``, and more often only while a unit is new or changes. Papers are files, and cheap: what
they tell first (a start, an end) makes the queue be asked at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lemnos.launchers.site import Site
from lemnos.launchers.slurm.client import Client
from lemnos.launchers.slurm.papers import Papers, read
from lemnos.launchers.slurm.parse import SlurmJob
from lemnos.launchers.slurm.reading import NONE, by_unit, is_over, is_queued

SOON_S = 1.0
"""How often the queue is asked while something changes, and papers are read."""
NEW_S = 30.0
"""How long after a change more is expected."""
SETTLE_S = 3.0
"""COMPLETING hides how a job ended, until its nodes are clean: most are within this time."""
REGISTER_S = 90.0
"""A job has said where it listens by then; NFS hides new files for up to a minute."""


@dataclass(frozen=True)
class Seen:
    """What is known at one moment."""

    jobs: dict[str, SlurmJob]
    papers: dict[str, Papers]
    unseen: frozenset[int]
    cancelled_by: dict[int, str]


@dataclass
class Queue:
    """What was asked last, and when. Times are of the monotonic clock."""

    client: Client
    site: Site
    _jobs: dict[str, SlurmJob] | None = None
    _papers: dict[str, Papers] = field(default_factory=dict)
    _asked: float = 0.0
    _read: float = 0.0
    _changed: float = 0.0
    _stale: bool = True
    _own: set[str] = field(default_factory=set)
    _lost: set[int] = field(default_factory=set)
    _running_since: dict[int, float] = field(default_factory=dict)
    _completing_since: dict[int, float] = field(default_factory=dict)
    _cancelled_by: dict[int, str] = field(default_factory=dict)

    def seen(self) -> Seen:
        """Jobs and papers by unit, as fresh as they must be. Raises LemnosError."""
        now = time.monotonic()
        if self._stale or now - self._read >= SOON_S:
            papers = self._read_papers()
            if papers != self._papers or self._missing(papers):
                self._changed, self._stale = now, True
            self._papers, self._read = papers, now
        often = now - self._changed < NEW_S
        due = min(SOON_S, self._poll_s) if often else self._poll_s
        if self._stale or now - self._asked >= due:
            self._ask(now)
        assert self._jobs is not None
        return Seen(self._jobs, self._papers, self._unseen(now), self._cancelled_by)

    def changed(self) -> None:
        """Something was submitted or ended: what is known is old."""
        self._changed, self._stale = time.monotonic(), True

    def submitted(self, name: str) -> None:
        """The unit may have a job from now on."""
        self._own.add(name)
        self.changed()

    def may_hold(self, name: str) -> bool:
        """Whether the unit may have a job: asked once, since nobody else submits for this deployment."""
        if self._jobs is None:
            self._ask(time.monotonic())
        assert self._jobs is not None
        return name in self._own or name in self._jobs

    def named(self, name: str) -> list[SlurmJob]:
        """The unit's jobs, asked for now, in the order of their numbers."""
        mark = self.site.mark(name)
        return [job for job in self.all() if job.comment == mark]

    def all(self) -> list[SlurmJob]:
        """The deployment's jobs, asked for now, in the order of their numbers."""
        mark = self.site.mark("")
        jobs = [job for job in self.client.jobs() if job.comment.startswith(mark)]
        return sorted(jobs, key=lambda job: job.id)

    def papers(self, name: str) -> Papers:
        """The unit's, as they were read last."""
        if not self._read:
            self._papers = self._read_papers()
        return self._papers.get(name, NONE)

    @property
    def _poll_s(self) -> float:
        return self.site.spec.slurm.poll_s

    def _read_papers(self) -> dict[str, Papers]:
        units = self.site.unit_directory("").rstrip("/")
        return read(self.site.transport, units)

    def _ask(self, now: float) -> None:
        jobs = by_unit(self.client.jobs(), self.site.mark(""))
        jobs = self._settled(jobs, now)
        if jobs != self._jobs or self._completing_since:
            self._changed = now
        self._jobs, self._asked, self._stale = jobs, now, False
        ids = {job.id for job in jobs.values()}
        self._lost = {
            paper.newest for paper in self._papers.values() if paper.newest not in ids
        }
        for name, job in jobs.items():
            if self._foreign_end(job, self._papers.get(name, NONE)):
                self._cancelled_by[job.id] = self.client.who_cancelled(job.id)

    def _settled(self, jobs: dict[str, SlurmJob], now: float) -> dict[str, SlurmJob]:
        """The jobs; one that ends and that no paper tells of is for a moment as it was before."""
        since, known = self._completing_since, self._jobs or {}
        found, self._completing_since = {}, {}
        for name, job in jobs.items():
            found[name], before = job, known.get(name)
            paper = self._papers.get(name, NONE)
            if job.state != "COMPLETING" or not is_over(job, paper):
                continue
            if before is None or before.id != job.id or before.state == job.state:
                continue
            began = since.get(job.id, now)
            told = paper.how_ended(job.id, job.restarts)
            told = told or paper.why_leaving(job.id, job.restarts)
            if not told and now - began < SETTLE_S:
                found[name], self._completing_since[job.id] = before, began
        return found

    def _missing(self, papers: dict[str, Papers]) -> bool:
        """Whether papers tell of a job that was not there when the queue was last asked."""
        known = {job.id for job in (self._jobs or {}).values()} | self._lost | {0}
        return any(paper.newest not in known for paper in papers.values())

    def _foreign_end(self, job: SlurmJob, paper: Papers) -> bool:
        return (
            job.state == "CANCELLED"
            and paper.of(job.id)
            and paper.cancelled != job.id
            and job.id not in self._cancelled_by
        )

    def _unseen(self, now: float) -> frozenset[int]:
        """Jobs that have run for long without having said where they listen."""
        found = set()
        running = {}
        for name, job in (self._jobs or {}).items():
            paper = self._papers.get(name, NONE)
            if is_over(job, paper) or is_queued(job):
                continue
            since = running[job.id] = self._running_since.get(job.id, now)
            if now - since > REGISTER_S and not paper.registered(job.id, job.restarts):
                found.add(job.id)
        self._running_since = running
        return frozenset(found)
