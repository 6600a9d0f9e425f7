"""Jobs as processes of other hosts, over SSH and without any scheduler.

A job is two small scripts in a directory of the host: ``run.sh`` leads a session of its own and keeps how
the job ended, ``job.sh`` becomes the job. A host needs sh, setsid and /proc, nothing of lemnos. What
runs is found again by those files, which hold process numbers with their start times and the host's boot, and
by the mark ``LEMNOS_JOB`` in the environment, which children inherit.
"""

from __future__ import annotations

import hashlib
import random
import re
import shlex
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TypeVar

from lemnos.errors import LemnosError
from lemnos.launchers.processes import ProcessStatus
from lemnos.launchers.script import body_of
from lemnos.launchers.templates import Shell, script
from lemnos.spec.plan import Job
from lemnos.transport.base import Transport, checked

T = TypeVar("T")
AT_ONCE = 16
"""Hosts that are asked at the same time."""
PORTS = range(20_000, 32_000)
"""Where ports are looked for: below those that Linux gives to connections (32768 and up)."""


class Hosts:
    """The jobs of one deployment on several hosts.

    Scripts go to ``directory``/UNIT/HOST/JOB on each; hosts may share it, with us or among themselves.
    ``owner`` tells deployments of other state directories apart. ``key_file``: the engines' key there.
    """

    def __init__(
        self,
        deployment: str,
        owner: str,
        directory: str,
        transports: Mapping[str, Transport],
        key_file: str = "",
    ) -> None:
        self._mark = f"{owner}|{deployment}|"
        self._transports = dict(transports)
        self._directory = directory
        self._key_file = key_file

    def transport(self, host: str) -> Transport:
        """What reaches ``host``: for keys and logs. Raises LemnosError for one that was not named."""
        try:
            return self._transports[host]
        except KeyError:
            raise LemnosError(
                f"'{host}' is none of the hosts of this deployment", where="local.hosts"
            ) from None

    def scripts(self, job: Job, host: str) -> dict[str, str]:
        """What ``write`` writes into the job's directory. Pure."""
        name = name_of(job)
        shared = {
            "directory": self.directory(host, name),
            "log": job.log,
            "log_directory": str(PurePosixPath(job.log).parent),
            "mark": self._mark_of(name),
            "id": job.id,
            "command": shlex.join(job.command.argv),
            "body": Shell(body_of(job)),
        }
        return {
            "run.sh": script("hosts_run.j2", **shared),
            "job.sh": script("hosts_job.j2", **shared),
        }

    def directory(self, host: str, name: str) -> str:
        """Of the job ``name`` (``engine-0.1``), on its host."""
        return f"{self._directory}/{name.partition('.')[0]}/{host}/{name}"

    def write(self, job: Job, host: str) -> None:
        """The job's scripts, on its host."""
        directory = self.directory(host, name_of(job))
        for file, text in self.scripts(job, host).items():
            self.transport(host).write(f"{directory}/{file}", text.encode())

    def submit(self, job: Job, host: str) -> None:
        """Start ``job`` on ``host``, detached, unless it runs there. Raises LemnosError."""
        self.write(job, host)
        text = script("hosts_start.j2", directory=self.directory(host, name_of(job)))
        done = self.transport(host).run("sh", "-c", text)
        said = done.out.strip()
        if said != "started":
            why = said or done.said or "setsid or /proc may be missing there"
            raise LemnosError(f"the job cannot be started ({why})", where=f"{host}: {job.id}")  # fmt: skip

    def hand_over_key(self, host: str, key: bytes) -> None:
        """The engines' key, for a host that does not share our directory; it is removed by ``sweep``."""
        there = self.transport(host)
        if there.read(self._key_file) == key:
            return
        there.write(f"{self._directory}/own-key", b"")
        there.write(self._key_file, key)

    def jobs_of(self, host: str) -> dict[str, ProcessStatus]:
        """Alive or how it ended, for every job of ``host``. Raises LemnosError if it does not answer."""
        text = script("hosts_status.j2", directory=self._directory, host=host)
        done = self.transport(host).run("sh", "-c", text)
        return parse(checked(done, "the host's jobs cannot be asked for", where=host))

    def ask(
        self,
    ) -> tuple[dict[str, dict[str, ProcessStatus]], dict[str, LemnosError]]:
        """The jobs of each host that answers, and the hosts that do not; one call a host."""
        return each_of(self.jobs_of, self._transports)

    def signal(self, host: str, name: str, *, kill: bool = False) -> None:
        """SIGTERM to the job's first process; or SIGKILL to all that is its. Raises LemnosError if
        its host does not answer."""
        if kill:
            self._kill(host, self._mark_of(name), name)
            return
        text = script("hosts_ask.j2", directory=self.directory(host, name))
        done = self.transport(host).run("sh", "-c", text)
        checked(done, f"{name} cannot be asked to end", where=host)

    def sweep(self) -> int:
        """SIGKILL to all of the deployment on all hosts, and its scripts removed; how many processes
        there were. Raises LemnosError if a host does not answer, after all others are done."""

        def swept(host: str) -> int:
            count = self._kill(host, self._mark, "*")
            values = {"host": host, "key_file": self._key_file}
            text = script("hosts_leave.j2", directory=self._directory, **values)
            done = self.transport(host).run("sh", "-c", text)
            checked(done, "files cannot be removed", where=host)
            return count

        counts, silent = each_of(swept, self._transports)
        if silent:
            raise next(iter(silent.values()))
        return sum(counts.values())

    def _kill(self, host: str, mark: str, name: str) -> int:
        one = shlex.quote(self.directory(host, name))
        every = f"{shlex.quote(self._directory)}/*/{shlex.quote(host)}/*"
        jobs = Shell(every if name == "*" else one)
        text = script("hosts_kill.j2", mark=mark, directories=jobs)
        done = self.transport(host).run("sh", "-c", text)
        return int(checked(done, "processes cannot be ended", where=host).strip() or 0)

    def _mark_of(self, name: str) -> str:
        return f"{self._mark}{name};"


def name_of(job: Job) -> str:
    """``engine-0.1``."""
    return job.id.removeprefix(f"{job.deployment}/")


def parse(said: str) -> dict[str, ProcessStatus]:
    """What the status script printed. Pure."""
    found = {}
    for line in said.splitlines():
        name, _, state = line.partition(" ")
        how, _, code = state.partition(" ")
        found[name] = ProcessStatus(alive=how == "alive", ended=_ended(how, code))
    return found


def listening(proc_net_tcp: str) -> set[int]:
    """The ports that are listened on, from ``/proc/net/tcp`` and ``tcp6``. Pure."""
    state = r"^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A "  # TCP_LISTEN
    return {int(port, 16) for port in re.findall(state, proc_net_tcp, re.M)}


def free_range(taken: set[int], count: int, seed: str, where: str = "") -> int:
    """The first of ``count`` ports in a row of ``PORTS`` that are not ``taken``; another for each seed, so that
    jobs placed at the same time seldom meet. Pure. Raises LemnosError if there are none."""
    known = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    firsts = list(range(PORTS.start, PORTS.stop - count, count))
    random.Random(known).shuffle(firsts)
    for first in firsts:
        if taken.isdisjoint(range(first, first + count)):
            return first
    raise LemnosError(f"no {count} free ports in a row were found", where=where)


def _ended(how: str, code: str) -> str:
    if how == "alive":
        return ""
    if how == "rebooted":
        return "ended as its host was started anew"
    if not code.isdecimal():
        return "ended (nobody saw how)"
    number = int(code)
    if number > 128:
        return f"was killed by {_signal_name(number - 128)}"
    return f"ended with exit code {number}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def each_of(
    do: Callable[[str], T], hosts: Iterable[str]
) -> tuple[dict[str, T], dict[str, LemnosError]]:
    """``do`` for every host, several at once; by host what it gave, and what it raised."""

    def one(host: str) -> T | LemnosError:
        try:
            return do(host)
        except LemnosError as error:
            return error

    names: Sequence[str] = list(hosts)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(names, pool.map(one, names), strict=True))
    good = {h: a for h, a in answers.items() if not isinstance(a, LemnosError)}
    bad = {h: a for h, a in answers.items() if isinstance(a, LemnosError)}
    return good, bad
