"""What is read of units' logs: whole lines, without keys."""

from __future__ import annotations

from lemnos.spec.unit import LogFile, Unit
from lemnos.transport.base import Transport
from lemnos.wire.redact import redact

MOST = 256 * 1024
"""Bytes of a log that are looked at."""


def logs_of(unit: Unit) -> tuple[LogFile, ...]:
    """The logs of a unit's jobs, the first one's first. Pure."""
    return tuple(
        LogFile(
            job=job.id.partition("/")[2],
            role=job.part or job.role,
            host=job.host,
            path=job.log,
        )
        for job in unit.jobs
    )


def last_of(transport: Transport, log: LogFile, lines: int) -> list[str]:
    """The last ``lines`` lines of ``log``, without keys; none if it is not there."""
    return last_lines(transport, log.path, lines)


def last_lines(transport: Transport, path: str, lines: int) -> list[str]:
    """The same of the file at ``path``."""
    data = transport.read(path, last=MOST)
    if not data:
        return []
    return redact(data.decode(errors="replace")).splitlines()[-lines:]
