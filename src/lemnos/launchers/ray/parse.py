"""What Ray's dashboard answers, as values. Pure.

Written from the answers of Ray 2.60; fields that are not there are empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from lemnos.launchers.ray.driver import WORD
from lemnos.spec.base import Value

MARK, TRY = "lemnos", "try"
"""Keys of a job's metadata: whose it is, and which start of that unit."""
OVER = ("SUCCEEDED", "FAILED", "STOPPED")


class RayJob(Value):
    """A job that was submitted to the dashboard."""

    id: str
    """The submission's."""
    status: str
    """PENDING, RUNNING, or one of ``OVER``."""
    message: str = ""
    """Ray's own words; of a failed job with the end of what it printed."""
    mark: str = ""
    number: int = 0
    """Which start of the unit."""

    @property
    def alive(self) -> bool:
        return self.status not in OVER


class RayNode(Value):
    """A node of the cluster."""

    id: str
    address: str
    alive: bool
    head: bool = False
    has: dict[str, float] = {}
    free: dict[str, float] = {}
    labels: dict[str, str] = {}


class Told(Value):
    """What the driver of a unit printed."""

    waits: str = ""
    hosts: tuple[str, ...] = ()
    port: int = 0
    ended: str = ""


def jobs_of(answer: Any) -> tuple[RayJob, ...] | None:
    """``GET /api/jobs/``: those that were submitted; None: no such answer."""
    if not isinstance(answer, list):
        return None
    rows = [row for row in answer if isinstance(row, dict) and row.get("submission_id")]
    return tuple(_job(row) for row in rows)


def nodes_of(answer: Any, status: Any = None) -> tuple[RayNode, ...] | None:
    """``GET /api/v0/nodes``, with what is free of each where ``GET /api/cluster_status`` tells; None: no
    such answer."""
    rows = _at(answer, "data", "result", "result")
    if not isinstance(rows, list):
        return None
    path = ("data", "clusterStatus", "loadMetricsReport", "usageByNode")
    usage = _at(status, *path) or {}
    known = [row for row in rows if isinstance(row, dict)]
    return tuple(_node(row, usage.get(row.get("node_id"), {})) for row in known)


def told(text: str) -> Told:
    """What the driver's lines say together; the last of a kind holds."""
    facts: dict[str, Any] = {}
    for line in text.splitlines():
        if not line.startswith(WORD):
            continue
        try:
            said = Told.model_validate_json(line.removeprefix(WORD))
        except ValidationError:  # the log was cut here
            continue
        facts |= said.model_dump(exclude_unset=True)
    return Told.model_validate(facts)


def newest(jobs: Iterable[RayJob], prefix: str) -> dict[str, RayJob]:
    """By unit the job of its last start, of those whose mark begins with ``prefix``."""
    found: dict[str, RayJob] = {}
    for job in jobs:
        unit = job.mark.removeprefix(prefix)
        if unit == job.mark:
            continue
        if unit not in found or found[unit].number < job.number:
            found[unit] = job
    return found


def why(job: RayJob) -> str:
    """How a job that is over ended: its driver's own words, else Ray's."""
    if said := told(job.message).ended:
        return said
    if job.status == "STOPPED":
        return "was asked to end"
    lines = [line.strip() for line in job.message.splitlines() if line.strip()]
    if len(lines) > 1:  # a sentence of Ray's, and the end of the log
        return f"its driver ended: {lines[-1][:300]}"
    return f"Ray says: {lines[0][:300]}" if lines else f"its job {job.status.lower()}"


def _job(row: Mapping[str, Any]) -> RayJob:
    metadata = row.get("metadata") or {}
    number = str(metadata.get(TRY, ""))
    return RayJob(
        id=row["submission_id"],
        status=str(row.get("status") or ""),
        message=str(row.get("message") or ""),
        mark=str(metadata.get(MARK, "")),
        number=int(number) if number.isdecimal() else 0,
    )


def _node(row: Mapping[str, Any], usage: Mapping[str, Any]) -> RayNode:
    total = row.get("resources_total") or {}
    has = {k: float(v) for k, v in total.items() if isinstance(v, int | float)}
    used = {k: float(v[0]) for k, v in usage.items() if k in has}
    return RayNode(
        id=str(row.get("node_id") or ""),
        address=str(row.get("node_ip") or ""),
        alive=row.get("state") == "ALIVE",
        head=bool(row.get("is_head_node")),
        has=has,
        free={k: value - used.get(k, 0.0) for k, value in has.items()},
        labels=row.get("labels") or {},
    )


def _at(answer: Any, *keys: str) -> Any:
    for key in keys:
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer
