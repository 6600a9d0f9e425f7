"""Slurm's words in a person's (``words.yaml``). Pure."""

from __future__ import annotations

import functools
import re
import signal as signals
from collections.abc import Iterable
from importlib import resources

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.site import SHARED
from lemnos.launchers.slurm.parse import SlurmJob
from lemnos.spec.base import Value
from lemnos.spec.document import parse

NO_LOG = 53
"""The signal with which slurmstepd says that it could not open a job's own files."""

UNSEEN, NO_ADDRESS = 66, 78
"""Exit codes of the batch script before it has registered (sysexits.h: no input, configuration)."""


class Refusal(Value):
    """An answer of sbatch: the pattern ``says``, and its meaning."""

    says: str
    what: str
    fix: str


class Words(Value):
    """The whole of ``words.yaml``."""

    reasons: dict[str, str]
    queued: dict[str, str]
    running: dict[str, str]
    ended: dict[str, str]
    refusals: tuple[Refusal, ...]
    owned: dict[str, str]


@functools.cache
def words() -> Words:
    """The table."""
    text = resources.files("lemnos.launchers.slurm").joinpath("words.yaml").read_text()
    return parse(text, Words, where="slurm/words.yaml")


def waiting(job: SlurmJob) -> str:
    """Why a queued job waits, with Slurm's own word for it."""
    said = words().queued.get(job.state, "")
    reason, meaning = job.reason, _meaning(job.reason)
    if said:
        return said
    if not reason or reason == "None":
        return words().reasons["None"]
    return f"{meaning} ({reason})" if meaning else f"Slurm says: {reason}"


def _meaning(reason: str) -> str:
    """``ReqNodeNotAvail, UnavailableNodes:n1`` and ``ReqNodeNotAvail(Unavailable...)`` have words after theirs."""
    table = words().reasons
    if "Reserved for maintenance" in reason:
        return table["ReqNodeNotAvailReserved"]
    word = re.split(r"[,(:\s]", reason, maxsplit=1)[0]
    return table.get(word, table.get(word.removesuffix("Limit"), ""))


def ending(job: SlurmJob) -> str:
    """How an ended job ended, as far as its state and exit code tell."""
    said = words().ended.get(job.state, f"ended ({job.state})")
    if job.state == "FAILED":
        return _failure(job)
    if job.state in ("TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL") and job.nodes:
        return f"{said}; it ran on {', '.join(job.nodes[:4])}"
    return said


def unseen(job: SlurmJob, directory: str) -> str:
    """A job whose node does not see the units' directory."""
    node = job.nodes[0] if job.nodes else "its node"
    return f"cannot say where it listens: {node} does not see {directory}: {SHARED}"


def _failure(job: SlurmJob) -> str:
    if job.signal == NO_LOG:
        on = f" on {job.nodes[0]}" if job.nodes else ""
        return f"Slurm could not open the job's files{on}: its directory must be on a file system that the nodes share"
    if job.signal:
        return f"was killed by {_signal_name(job.signal)}"
    if job.code:
        return f"ended with exit code {job.code}"
    meaning = _meaning(job.reason)
    return f"{meaning} ({job.reason})" if meaning else f"failed ({job.reason})"


def code_in_words(code: int) -> str:
    """An exit code as a shell has it: 128 and a signal's number for one that was killed."""
    if 128 < code < 192:
        return f"was killed by {_signal_name(code - 128)}"
    return f"ended with exit code {code}"


def refused(said: str, **asked: str) -> LemnosError:
    """What sbatch or the controller said, in words; ``asked`` fills in what was asked for."""
    plain = " ".join(said.split())
    for each in words().refusals:
        if re.search(each.says, plain):
            known = _Asked(asked | {"said": _own_words(plain)})
            return LemnosError(
                each.what.format_map(known),
                where="slurm",
                fix=each.fix.format_map(known),
            )
    return LemnosError(
        f"Slurm refuses: {_own_words(plain) or 'it says nothing'}", where="slurm"
    )


class _Asked(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "(unknown)"


def _own_words(said: str) -> str:
    return re.sub(r"\b(?:sbatch|squeue|scancel|sinfo|scontrol): (?:error: )?", "", said)[-300:]  # fmt: skip


def check_owned(args: Iterable[str]) -> None:
    """Raises UsageError for a flag that lemnos writes (sbatch takes beginnings, too), with the key to use."""
    for key in args:
        name = key.lstrip("-").replace("_", "-").partition("=")[0]
        longer = (flag for flag in words().owned if name and flag.startswith(name))
        flag = name if name in words().owned else next(longer, None)
        if flag is None:
            continue
        instead, _, why = words().owned[flag].partition(", ")
        raise UsageError(
            f"'{key}' is lemnos' own flag",
            where="slurm.sbatch_args",
            fix=f"leave it out: {why}" if instead == "nothing" else f"use {instead}",
        )


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
