"""PBS's own commands, here or on a login node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from lemnos.errors import LemnosError
from lemnos.launchers.pbs import parse, words
from lemnos.launchers.pbs.parse import Answer, PbsJob, PbsNode, PbsQueue
from lemnos.launchers.pbs.render import AFTER
from lemnos.spec.rooms import PbsSpec
from lemnos.transport.base import Done, Transport

T = TypeVar("T")
CONF = "/etc/pbs.conf"
MANY = 400
"""Jobs in one qstat: a command line has an end."""
# Exit codes are the lower eight bits of PBS's error numbers (pbs_error.h).
UNKNOWN = 153
FINISHED = 35
BAD_STATE = 168
NO_MOM = 222
DELETING = 237


class Client:
    """What is asked of one PBS. Every method raises LemnosError while it does not answer."""

    def __init__(self, transport: Transport, spec: PbsSpec) -> None:
        self._transport = transport
        self._spec = spec
        self._bin = spec.bin
        self._user = ""
        self._history = True

    def submit(self, argv: Sequence[str], *, after: str) -> str:
        """Run a rendered ``qsub``; the job's id. ``after``: the job that it takes over from; where there
        is none any more, PBS would abort a job that depends on it."""
        command = list(argv)
        if f"depend=after:{AFTER}" in command:
            at = command.index(f"depend=after:{AFTER}")
            command[at - 1 : at + 1] = ["-W", f"depend=after:{after}"] if after else []
        done = self._run("qsub", *command[1:])
        if done.code:
            raise self._refused(done)
        match = re.search(r"^\s*(\d+\S*)\s*$", done.out, re.MULTILINE)
        if not match:
            raise LemnosError(f"qsub named no job: {done.said or 'it said nothing'}")
        return match[1]

    def jobs(self, ids: Iterable[str]) -> Answer:
        """Those of the jobs that PBS knows, ended ones too where it keeps a history."""
        wanted, at = list(ids), None
        found: dict[str, PbsJob] = {}
        for start in range(0, len(wanted), MANY):
            answer = self._some(wanted[start : start + MANY])
            found |= answer.jobs
            at = answer.at or at
        return Answer(jobs=found, at=at)

    def marked(self, prefix: str, called: str = "") -> Answer:
        """Jobs of this user (and, where given, ``called`` so) that are queued or run, and whose mark begins with ``prefix``."""
        self._user = self._user or self._checked("id", "-un").strip()
        named = ("-N", called) if called else ()
        ids = self._checked("qselect", "-u", self._user, *named).split()
        answer = self.jobs(ids)
        ours = {
            name: job
            for name, job in answer.jobs.items()
            if job.mark.startswith(prefix)
        }
        return Answer(jobs=ours, at=answer.at)

    def delete(self, job: str, *, force: bool = False) -> None:
        """SIGTERM to the first node's processes of the job, and SIGKILL after PBS's kill_delay.

        ``force``: if its node does not answer, or PBS is stuck at its end, out of the queue all the same
        (not at once: forced, PBS sends SIGKILL alone, and what made a session of its own runs on). A
        job that is gone or going is no error.
        """
        done = self._run("qdel", job)
        if force and done.code in (NO_MOM, BAD_STATE):
            done = self._run("qdel", "-W", "force", job)
        gone = {UNKNOWN, FINISHED, BAD_STATE, DELETING}
        if done.code and done.code not in gone and "Unknown Job" not in done.said:
            raise LemnosError(f"cannot be deleted: {done.said}", where=f"job {job}")

    def queues(self) -> dict[str, PbsQueue]:
        text = self._checked("qstat", "-Q", "-f", "-F", "json")
        return self._read(parse.queues_of(text), "qstat -Q")

    def default_queue(self) -> str:
        """Empty where there is none, or it is not told."""
        text = self._checked("qstat", "-B", "-f")
        match = re.search(r"^\s*default_queue = (\S+)", text, re.MULTILINE)
        return match[1] if match else ""

    def nodes(self) -> tuple[PbsNode, ...]:
        text = self._checked("pbsnodes", "-a", "-F", "json")
        return self._read(parse.nodes_of(text), "pbsnodes")

    def running(self) -> Answer:
        """Everybody's running jobs, as far as the site shows them."""
        ids = self._checked("qselect", "-s", "R").split()
        return self.jobs(ids)

    def _some(self, ids: list[str]) -> Answer:
        history = ("-x",) if self._history else ()
        done = self._stat("-f", *history, "-F", "json", *ids)
        if self._history and "not configured to maintain job history" in done.err:
            self._history = False
            return self._some(ids)
        answer = parse.jobs_of_json(done.out)
        if answer is None:  # a variable with control characters makes PBS's JSON none
            answer = parse.jobs_of_text(self._stat("-f", *history, *ids).out)
        return answer

    def _stat(self, *argv: str) -> Done:
        """``qstat``, for which jobs that it does not know are no failure."""
        done = self._run("qstat", *argv)
        if done.code in (0, UNKNOWN, FINISHED):
            return done
        strange = [
            line
            for line in done.err.splitlines()
            if line.strip() and not re.search("Unknown Job Id|Job has finished", line)
        ]
        if strange or not done.err.strip():
            raise self._silent("qstat", done)
        return done

    def _checked(self, *argv: str) -> str:
        done = self._run(*argv)
        if done.code:
            raise self._silent(argv[0], done)
        return done.out

    def _run(self, program: str, *argv: str) -> Done:
        """Times in UTC, messages in English."""
        command = ("env", "TZ=UTC", "LC_ALL=C", self._path(program), *argv)
        done = self._transport.run(*command)
        if done.code in (126, 127) and "env:" in done.err:
            raise LemnosError(
                f"there is no '{program}' on the PATH",
                where=self._transport.where,
                fix="load PBS's module, set pbs.bin to the directory of its commands, or name a "
                "login node with via:",
            )
        return done

    def _path(self, program: str) -> str:
        """PBS's commands are often in a directory that is on no PATH but of login shells."""
        if program == "id":
            return program
        if self._bin is None:
            conf = self._transport.read(CONF) or b""
            match = re.search(rb"^\s*PBS_EXEC\s*=\s*(\S+)", conf, re.MULTILINE)
            self._bin = f"{match[1].decode()}/bin" if match else ""
        return f"{self._bin}/{program}" if self._bin else program

    def _read(self, value: T | None, program: str) -> T:
        if value is None:
            raise LemnosError(
                f"{program} gave no JSON that can be read", where=self._transport.where
            )
        return value

    def _silent(self, program: str, done: Done) -> LemnosError:
        return LemnosError(
            f"PBS does not answer {program}: {done.said or f'exit code {done.code}'}",
            where=self._transport.where,
            fix="try `qstat -B` there",
        )

    def _refused(self, done: Done) -> LemnosError:
        said = words.without_usage(done.err).removeprefix("qsub: ") or done.said
        if re.search("cannot connect|Connection refused|errno", said):
            return self._silent("qsub", done)
        queues = self.queues() if "ueue" in said else {}
        return words.refused(said, done.code, self._spec, queues)
