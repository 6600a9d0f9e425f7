"""What PBS says, in words (``words.yaml``). Pure."""

from __future__ import annotations

import functools
import re
import signal
from collections.abc import Collection
from importlib import resources

from lemnos.errors import LemnosError, UsageError, near
from lemnos.launchers.pbs.parse import PbsJob
from lemnos.spec.base import Value
from lemnos.spec.document import parse
from lemnos.spec.rooms import PbsSpec

SIGNALS = 256
"""Exit_status of what a signal ended is this and the signal's number."""


class Comment(Value):
    pattern: str
    words: str


class Refusal(Value):
    said: str
    what: str
    where: str
    fix: str


class Words(Value):
    """The whole of ``words.yaml``."""

    comments: tuple[Comment, ...]
    holds: dict[str, str]
    states: dict[str, str]
    exits: dict[int, str]
    substates: dict[int, str]
    refusals: tuple[Refusal, ...]


@functools.cache
def words() -> Words:
    text = resources.files("lemnos.launchers.pbs").joinpath("words.yaml").read_text()
    return parse(text, Words, where="words.yaml")


def waiting(job: PbsJob) -> str:
    """For what a job that does not run waits."""
    own = words()
    for comment in own.comments:
        if match := re.search(comment.pattern, job.comment):
            return comment.words.format(match[0], *match.groups())
    if job.state == "H":
        held = [own.holds[kind] for kind in job.hold if kind in own.holds]
        return held[0] if held else own.states["H"]
    said = job.comment.removeprefix("Not Running: ").strip()
    general = own.states.get(job.state, f"is in PBS's state {job.state}")
    return f"{general}: {said}" if said else general


def ending(job: PbsJob) -> str:
    """How a job ended."""
    own = words()
    if job.state in ("M", "X"):
        return own.states[job.state]
    status = job.exit_status
    if status is not None and status < 0:
        return own.exits.get(status, f"was ended by PBS (Exit_status {status})")
    if job.substate in own.substates:
        by = re.search(r"terminated by (\S+)", job.comment)
        return f"{own.substates[job.substate]}{f' by {by[1]}' if by else ''}"
    if status is None:
        return job.comment or "ended before it ran"
    if status >= SIGNALS:
        return f"was killed by {_signal_name(status - SIGNALS)}"
    return f"ended with exit code {status}"


def without_usage(said: str) -> str:
    """On one line; how qsub is used, which it adds to what is wrong with an option, is left out."""
    return " ".join(said.partition("\nusage: ")[0].split())


def refused(
    said: str, code: int, spec: PbsSpec, queues: Collection[str]
) -> LemnosError:
    """Why ``qsub`` did not take a job: a sentence, the key to change, and how."""
    for refusal in words().refusals:
        if refusal.said not in said:
            continue
        values = {
            "queue": spec.queue or "that is the default",
            "account": spec.account or "",
        }
        fix = refusal.fix.format(**values)
        if fix == "known":
            fix = _known(spec.queue or "", queues)
        what = f"{refusal.what.format(**values)} ({said})"
        return UsageError(what, where=refusal.where, fix=fix)
    return LemnosError(
        f"qsub does not take the job: {said or f'exit code {code}'}",
        where="pbs",
        fix="`lemnos up --dry-run` shows the command; sites may have rules of their own",
    )


def _known(queue: str, queues: Collection[str]) -> str:
    if not queues:
        return "`qstat -Q` shows the queues"
    return " ".join(
        filter(
            None,
            [near(queue, list(queues)), f"There are {', '.join(sorted(queues))}."],
        )
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
