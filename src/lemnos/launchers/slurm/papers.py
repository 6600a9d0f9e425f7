"""What a unit's directory tells of its job: written by the job itself, and by lemnos. Pure but for ``read``.

``here.json``: where it listens; ``leaving``: why it will end; ``ended``: which process ended, and how;
``job``: the id that sbatch gave; ``cancelled``: the id that lemnos cancelled.
"""

from __future__ import annotations

import contextlib
from typing import Any

from pydantic import ValidationError

from lemnos.launchers.slurm.words import code_in_words
from lemnos.spec.base import Value
from lemnos.transport.base import Transport, checked

NAMES = ("here.json", "leaving", "ended", "job", "cancelled")


class Registration(Value):
    """What a job says as it starts; ``time`` is its node's clock, and decides nothing."""

    id: int
    attempt: int
    host: str
    hosts: tuple[str, ...]
    port: int
    inner_port: int = 0
    time: float = 0.0


class Papers(Value):
    """One unit's."""

    here: Registration | None = None
    leaving: str = ""
    ended: str = ""
    job: int = 0
    cancelled: int = 0

    def of(self, job: int) -> bool:
        """Whether they tell of this job."""
        told = (self.leaving, self.ended)
        return job in (self.job, self.here_id) or any(
            text.startswith(f"{job} ") for text in told
        )

    @property
    def here_id(self) -> int:
        return self.here.id if self.here else 0

    @property
    def attempt(self) -> int:
        """Which start of the job the registration is of."""
        return self.here.attempt if self.here else 0

    @property
    def hosts(self) -> tuple[str, ...]:
        """Slurm's names of the job's nodes, as it registered."""
        return self.here.hosts if self.here else ()

    @property
    def newest(self) -> int:
        """The id of the job that they tell of; 0: of none."""
        return max(self.job, self.here_id)

    def registered(self, job: int, attempt: int) -> bool:
        """Whether this start of the job has said where it listens."""
        return self.here_id == job and self.attempt == attempt

    def why_leaving(self, job: int, attempt: int) -> str:
        """Why this start of the job will end soon; empty: it will not."""
        return _after(self.leaving, job, attempt)

    def how_ended(self, job: int, attempt: int) -> str:
        """Which of its processes ended first, and how; empty: none has."""
        code, _, name = _after(self.ended, job, attempt).partition(" ")
        return f"{name} {code_in_words(int(code))}" if code.isdecimal() else ""


def read(transport: Transport, units: str) -> dict[str, Papers]:
    """Of every unit below ``units``, by name, with one command."""
    patterns = [f"--include={name}" for name in NAMES]
    # -Z: a zero byte after each file's name, which may hold anything else.
    done = transport.run("grep", "-rsZH", *patterns, "-e", "", "--", units)
    if done.code == 1 or (done.code == 2 and not done.err):
        return parse(done.out, units)  # nothing there, or a file went while it was read
    return parse(checked(done, "the units cannot be read", where=units), units)


def parse(text: str, units: str) -> dict[str, Papers]:
    """Lines of ``PATH NUL LINE``; what is half-written or another's is left out."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        path, _, content = line.partition("\0")
        unit, _, name = path.removeprefix(units).strip("/").partition("/")
        if name == "here.json":
            with contextlib.suppress(ValidationError):
                here = Registration.model_validate_json(content)
                found.setdefault(unit, {})["here"] = here
        elif name in ("job", "cancelled") and content.strip().isdecimal():
            found.setdefault(unit, {})[name] = int(content)
        elif name in ("leaving", "ended"):
            found.setdefault(unit, {})[name] = content
    return {unit: Papers(**values) for unit, values in found.items()}


def _after(text: str, job: int, attempt: int) -> str:
    prefix = f"{job} {attempt} "
    return text.removeprefix(prefix) if text.startswith(prefix) else ""
