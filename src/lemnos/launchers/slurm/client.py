"""Slurm's commands, through a transport."""

from __future__ import annotations

from collections.abc import Iterable

from lemnos.errors import LemnosError
from lemnos.launchers.slurm import parse
from lemnos.launchers.slurm.parse import Partition, SlurmJob, SlurmNode
from lemnos.launchers.slurm.words import refused
from lemnos.transport.base import Done, Transport

FILTERED_JSON = (23, 2)
"""From here on ``squeue --json`` keeps to its filters; before, it tells of everybody's jobs."""
MANY = 200
"""Job ids in one command."""


class Client:
    """One cluster's clients. All methods raise LemnosError when Slurm does not answer."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._version: tuple[int, int] | None = None

    def run(self, *words: str, stdin: bytes | None = None) -> Done:
        """A command of Slurm; its exit code is the caller's to read. Raises LemnosError where it is missing."""
        done = self._transport.run(*words, stdin=stdin)
        if done.code == 127:  # env's, and a remote shell's
            program = next((w for w in words if not w.startswith(("env", "-", "TZ="))), "")  # fmt: skip
            raise LemnosError(
                f"there is no '{program}' on the PATH here",
                where=self._transport.where,
                fix="load its module, or name a machine that has it with via:",
            )
        return done

    def version(self) -> tuple[int, int]:
        """(22, 5) of 22.05.8."""
        if self._version is None:
            self._version = parse.version_of(self._said("sinfo", "--version"))
        return self._version

    def jobs(self) -> list[SlurmJob]:
        """The user's own jobs: those in the queue, and those that ended a moment ago."""
        if self.version() >= FILTERED_JSON:
            done = self.run("squeue", "--me", "--states=all", "--json")
            if done.code == 0:
                return parse.jobs_of_json(done.out)
        fields = ",".join(f"{name}:|" for name in parse.JOB_FIELDS)
        words = ("squeue", "--me", "--states=all", "--noheader", f"--Format={fields}")
        return parse.jobs_of_plain(self._said("env", "SLURM_TIME_FORMAT=%s", *words))

    def nodes(self) -> list[SlurmNode]:
        """Every node that the user may see."""
        done = self.run("sinfo", "--json")
        if done.code == 0:
            return parse.nodes_of_json(done.out)
        words = ("sinfo", "--noheader", "--Node", f"--format={parse.NODE_FORMAT}")
        return parse.nodes_of_plain(self._said(*words))

    def partitions(self) -> dict[str, Partition]:
        """Every partition that the user may see."""
        words = ("scontrol", "--oneliner", "show", "partition")
        return parse.partitions_of(self._said(*words))

    def accounts(self) -> list[str]:
        """Those that the user may charge; none where nobody keeps accounts."""
        user = self._transport.run("id", "--user", "--name").out.strip()
        words = ("--noheader", "--parsable2", "show", "assoc", f"user={user}", "format=account")  # fmt: skip
        done = self._optional("sacctmgr", *words)
        return sorted(set(done.out.split())) if done.code == 0 else []

    def who_cancelled(self, job: int) -> str:
        """The user's name; empty where nobody keeps accounts."""
        words = ("--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State")  # fmt: skip
        _, _, uid = self._optional("sacct", *words).out.partition("CANCELLED by ")
        if not uid.strip().isdecimal():
            return ""
        entry = self._transport.run("getent", "passwd", uid.strip()).out
        return entry.partition(":")[0] or f"user {uid.strip()}"

    def cancel(self, jobs: Iterable[int], *options: str) -> None:
        """``scancel``; jobs that are gone are no error."""
        ids = [str(job) for job in jobs]
        for start in range(0, len(ids), MANY):
            done = self.run("scancel", *options, *ids[start : start + MANY])
            gone = ("Invalid job id", "already completing or completed", "Job is pending")  # fmt: skip
            lines = [line for line in done.err.splitlines() if line.strip()]
            if done.code and not all(any(g in line for g in gone) for line in lines):
                raise refused(done.err)

    def _said(self, *words: str) -> str:
        done = self.run(*words)
        if done.code:
            raise refused(done.err or done.out)
        return done.out

    def _optional(self, *words: str) -> Done:
        try:
            return self._transport.run(*words)
        except LemnosError:
            return Done(127, "", "")


def id_of(said: str) -> int | None:
    """The job's number in what ``sbatch --parsable`` printed (``12``, ``12;cluster``)."""
    lines = said.strip().splitlines()
    word = lines[-1].partition(";")[0].strip() if lines else ""
    return int(word) if word.isdecimal() else None
