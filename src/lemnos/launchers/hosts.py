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
    """The jobs of one deployment on several hosts; of the shape of ``processes.Processes``.

    ``directory`` is where a host's scripts go, on that host; it may be shared between hosts.
    ``owner`` tells deployments of other state directories apart.
    """

    def __init__(
        self,
        deployment: str,
        owner: str,
        directory: str,
        transports: Mapping[str, Transport],
    ) -> None:
        self._mark = f"{owner}|{deployment}|"
        self._transports = dict(transports)
        self._directory = directory
        self._where: dict[str, str] = {}

    def transport(self, host: str) -> Transport:
        """What reaches ``host``: for keys and logs. Raises LemnosError for one that was not named."""
        try:
            return self._transports[host]
        except KeyError:
            raise LemnosError(
                f"'{host}' is none of the hosts of this deployment", where="local.hosts"
            ) from None

    def scripts(self, job: Job) -> dict[str, str]:
        """What ``submit`` writes into the job's directory. Pure."""
        name = name_of(job)
        shared = {
            "directory": self.directory(job.host, name),
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
        """Of a job, on its host."""
        return f"{self._directory}/{host}/{name}"

    def submit(self, job: Job) -> None:
        """Start ``job`` on its host, detached, unless it runs. Raises LemnosError."""
        name, transport = name_of(job), self.transport(job.host)
        directory = self.directory(job.host, name)
        for file, text in self.scripts(job).items():
            transport.write(f"{directory}/{file}", text.encode())
        done = transport.run("sh", "-c", script("hosts_start.j2", directory=directory))
        said = done.out.strip()
        if said != "started":
            why = said or done.said or "setsid or /proc may be missing there"
            raise LemnosError(f"the job cannot be started ({why})", where=f"{job.host}: {job.id}")  # fmt: skip
        self._where[name] = job.host

    def status(self) -> dict[str, ProcessStatus]:
        """Alive or how it ended, for every job. Raises LemnosError if a host does not answer: what
        runs there is not known."""
        found, silent = self.ask()
        if silent:
            raise next(iter(silent.values()))
        return found

    def ask(self) -> tuple[dict[str, ProcessStatus], dict[str, LemnosError]]:
        """The jobs of the hosts that answer, and the hosts that do not; one call a host."""

        def asked(host: str) -> dict[str, ProcessStatus]:
            text = script("hosts_status.j2", directory=f"{self._directory}/{host}")
            said = checked(
                self._transports[host].run("sh", "-c", text),
                "the host's jobs cannot be asked for",
                where=host,
            )
            return parse(said)

        found: dict[str, ProcessStatus] = {}
        answers, silent = _each(asked, self._transports)
        for host, jobs in answers.items():
            self._where |= dict.fromkeys(jobs, host)
            found |= jobs
        return found, silent

    def signal(self, name: str, *, kill: bool = False) -> None:
        """SIGTERM to the job's first process; or SIGKILL to all that is its. Raises LemnosError if
        its host does not answer."""
        if name not in self._where:
            self.ask()
        host = self._where.get(name)
        if host is None:
            return
        if kill:
            self._kill(host, self._mark_of(name), name)
            return
        text = script("hosts_ask.j2", directory=self.directory(host, name))
        checked(self._transports[host].run("sh", "-c", text), f"{name} cannot be asked to end", where=host)  # fmt: skip

    def sweep(self) -> int:
        """SIGKILL to all of the deployment on all hosts, and its scripts removed; how many processes
        there were. Raises LemnosError if a host does not answer, after all others are done."""

        def swept(host: str) -> int:
            count = self._kill(host, self._mark, "*")
            self._transports[host].remove(f"{self._directory}/{host}")
            return count

        counts, silent = _each(swept, self._transports)
        self._where.clear()
        if silent:
            raise next(iter(silent.values()))
        return sum(counts.values())

    def free_ports(self, host: str, count: int = 1, seed: str = "") -> int:
        """The first of ``count`` ports in a row on ``host`` that nobody listens on now. Raises LemnosError."""
        files = ("/proc/net/tcp", "/proc/net/tcp6")
        said = self.transport(host).run("cat", *files)  # there may be no IPv6
        return free_range(listening(said.out), count, seed or host, host)

    def _kill(self, host: str, mark: str, name: str) -> int:
        below = shlex.quote(f"{self._directory}/{host}")
        jobs = Shell(f"{below}/*" if name == "*" else f"{below}/{shlex.quote(name)}")
        text = script("hosts_kill.j2", mark=mark, directories=jobs)
        done = self._transports[host].run("sh", "-c", text)
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
    if not code.isdigit():
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


def _each(
    do: Callable[[str], T], hosts: Iterable[str]
) -> tuple[dict[str, T], dict[str, LemnosError]]:
    """``do`` for every host, several at once; what it gave, and what it raised."""

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
