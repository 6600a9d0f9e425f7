"""The other hosts of ``on: local``: named ones over SSH, or those of the allocation that we are in."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lemnos import paths
from lemnos.errors import LemnosError
from lemnos.launchers import allocation as allocations
from lemnos.launchers.allocation import Allocation
from lemnos.launchers.hosts import Hosts, each_of, name_of
from lemnos.launchers.papers import Papers
from lemnos.launchers.processes import Processes, ProcessStatus
from lemnos.launchers.seating import Told, is_address, parse
from lemnos.launchers.site import Site
from lemnos.launchers.templates import script
from lemnos.launchers.watch import Watch
from lemnos.launchers.within import Within
from lemnos.spec.plan import Job
from lemnos.spec.unit import Unit
from lemnos.transport.base import Transport, checked
from lemnos.transport.here import Here

LOOPBACK = ("", "localhost", "127.0.0.1", "::1")
REACH_S = 2.0
"""A firewall that drops what comes is waited for so long."""

Reach = Callable[[str], Transport]


class Others:
    """Jobs on hosts other than this machine, and what those hosts tell."""

    def __init__(
        self,
        site: Site,
        processes: Processes,
        room: Sequence[str],
        names: Sequence[str],
        reach: Reach,
        allocation: Allocation | None,
    ) -> None:
        self.room = tuple(room)
        """The hosts that units may be put on, this machine among them perhaps; none: it alone."""
        self._site = site
        self._processes = processes
        self._reach = reach
        self.names = tuple(names)
        """The other hosts, those of earlier revisions too."""
        self._connect(allocation)
        self._watch = Watch(self._hosts.jobs_of, () if allocation else self.names)

    def _connect(self, allocation: Allocation | None) -> None:
        site, units = self._site, f"{self._site.directory}/units"
        self.allocation = allocation
        self._transports: dict[str, Transport] = {
            name: Within(allocation, name, units) if allocation else self._reach(name)
            for name in self.names
        }
        key_file = site.files("engine-0").key_file
        args = (site.deployment, site.owner, units, self._transports, key_file)
        self._hosts = Hosts(*args)

    def transport(self, host: str) -> Transport:
        """What reaches ``host``. Raises LemnosError for one that was not named."""
        return self._hosts.transport(host)

    @property
    def silent(self) -> Mapping[str, LemnosError]:
        """The hosts that did not answer when they were asked last, and why."""
        return self._watch.silent

    # ------------------------------------------------------------ what there is

    def ask_scheduler(self, papers: Papers) -> None:
        """Learn what it knows of the allocation now. Raises LemnosError where that is over."""
        if self.allocation:
            self._connect(_asked(self.allocation))
            papers.keep_allocation(self.allocation)

    def tell(
        self, names: Sequence[str]
    ) -> tuple[dict[str, Told], dict[str, LemnosError]]:
        """What these hosts (this machine may be one) tell of themselves, and those that do not."""
        self._site.transport.write(f"{self._site.directory}/units/seen", b"")
        answers, errors = each_of(self._told, [n for n in names if n not in self.silent])  # fmt: skip
        return answers, {n: self.silent[n] for n in names if n in self.silent} | errors

    def status(self, papers: Papers) -> dict[str, ProcessStatus]:
        """Every job of other hosts. One on a host that does not answer is as it was seen last, and
        alive if it never was; given up, it has ended. A job that is not where its unit was
        started last is ended. (Those of an allocation are children of ours.)"""
        if self.allocation or not self.names:
            return {}
        self._watch.look()
        found: dict[str, ProcessStatus] = {}
        for host, jobs in self._watch.last.items():
            for name, seen in jobs.items():
                unit = papers.unit(name.partition(".")[0])
                if unit and not _counts(unit, name, host, papers):
                    self._end_stray(host, name, seen)
                    continue
                found[name] = seen
        for unit in papers.units():
            for job in unit.jobs:
                host, name = host_of(unit, job), name_of(job)
                if host not in self.silent:
                    continue
                if host in papers.given_up(unit.name):
                    why = f"was given up: {host} does not answer"
                    found[name] = ProcessStatus(alive=False, ended=why)
                else:
                    found.setdefault(name, ProcessStatus(alive=True))
        return found

    # ------------------------------------------------------------ what is done

    def scripts(self, job: Job, host: str) -> dict[str, str]:
        """The files of a job, by their paths below its unit's directory. Pure."""
        here = f"{host}/{name_of(job)}"
        return {f"{here}/{n}": t for n, t in self._hosts.scripts(job, host).items()}

    def command(self, job: Job, host: str) -> tuple[str, ...]:
        """What starts it. Pure."""
        argv = ("/bin/sh", f"{self._hosts.directory(host, name_of(job))}/run.sh")
        if self.allocation:
            return allocations.command_for(self.allocation, host, name_of(job), argv)
        return ("ssh", host, "--", "setsid", *argv)

    def submit(self, job: Job, host: str) -> None:
        """Start a job. Raises LemnosError."""
        self._watch.forget(host)
        if self.allocation:
            directory = self._hosts.directory(host, name_of(job))
            self.transport(host).remove(directory)  # of an earlier start
            self._hosts.write(job, host)
            self._processes.submit(job, self.command(job, host))
            return
        try:
            key = self._site.key_file.read_bytes()
        except OSError as error:
            raise LemnosError(
                f"the engines' key cannot be read ({error.strerror})",
                where=str(self._site.key_file),
            ) from None
        self._hosts.hand_over_key(host, key)
        self._hosts.submit(job, host)

    def signal(self, host: str, name: str, *, kill: bool = False) -> None:
        """End a job. Raises LemnosError if its host does not answer."""
        self._watch.forget(host)
        if host in self.silent:
            raise self.silent[host]
        try:
            self._hosts.signal(host, name, kill=kill)
        except LemnosError:
            if not self._is_over():
                raise

    def run(self, host: str, *argv: str) -> None:
        """A command whose outcome does not matter."""
        self.transport(host).run(*argv)

    def sweep(self) -> int:
        """Nothing is left on any of them; the number of processes found. Raises LemnosError if one
        does not answer, after all others are done."""
        try:
            found = self._hosts.sweep()
        except LemnosError:
            if not self._is_over():
                raise
            found = 0
        for host in self.names:
            self._watch.forget(host)
        self._watch.last.clear()
        return found

    def _is_over(self) -> bool:
        """Whether all hosts are those of an allocation that is over: nothing of ours is there any more."""
        if self.allocation is None:
            return False
        question = allocations.state_question(self.allocation)
        return allocations.is_over(self.allocation, Here().run(*question))

    def _told(self, host: str) -> Told:
        text = script(
            "hosts_tell.j2",
            seen=f"{self._site.directory}/units/seen",
            interface=self._site.spec.interface or "",
            ssh=host in self._transports and not self.allocation,
        )
        there: Transport = self._transports.get(host) or Here()
        done = there.run("sh", "-c", text, timeout_s=30.0)
        said = checked(done, "the host tells nothing of itself", where=host)
        return parse(said, (self._site.owner, str(paths.state_dir())))

    def _end_stray(self, host: str, name: str, seen: ProcessStatus) -> None:
        """What was given up as its host did not answer, and answers now."""
        if not seen.alive or host in self.silent:
            return
        try:
            self.signal(host, name, kill=True)
        except LemnosError as error:
            self._watch.silent[host] = error


def others_of(site: Site, papers: Papers, processes: Processes, reach: Reach) -> Others:
    """The hosts that the spec names, or that the allocation has which we are in (or were, when units
    were placed last). Raises LemnosError."""
    allocation = _allocation(site, papers)
    room = allocation.hosts if allocation else site.spec.local.hosts
    if all(is_this_machine(name) for name in room):
        room = ()
    known = list(room)
    if not allocation:
        known += [name for unit in papers.units() for name in unit.place.names]
    far = [name for name in dict.fromkeys(known) if not is_this_machine(name)]
    return Others(site, processes, room, far, reach, allocation)


def _allocation(site: Site, papers: Papers) -> Allocation | None:
    if site.spec.local.hosts or not site.spec.local.allocation:
        return None
    kept, now = papers.allocation(), allocations.detect(os.environ, _read)
    return kept if now is None or (kept and kept.id == now.id) else now


def _asked(allocation: Allocation) -> Allocation:
    """``allocation`` with what its scheduler knows of it now. Raises LemnosError where it is over."""
    done = Here().run(*allocations.state_question(allocation))
    if allocations.is_over(allocation, done):
        raise LemnosError(
            f"the allocation {allocation.id} is over",
            where="on: local",
            fix="start lemnos from a new one, or leave it with local.allocation: false",
        )
    question = allocations.question(allocation)
    if not question:
        return allocation
    what = f"{allocation.kind} cannot be asked for allocation {allocation.id}"
    said = checked(Here().run(*question), what)
    return allocations.answered(allocation, said, time.time())


def is_this_machine(name: str) -> bool:
    """Whether ``name`` (``user@host`` too) is the machine that we are on."""
    name = name.rpartition("@")[2]
    own = socket.gethostname()
    full = "." in name and "." in own
    return name in LOOPBACK or name == own or (not full and allocations.is_here(name, own))  # fmt: skip


def host_of(unit: Unit, job: Job) -> str:
    """What the launcher calls the job's host."""
    place = unit.place
    if job.host in place.hosts and place.names:
        return place.names[place.hosts.index(job.host)]
    return job.host


def reaches(connection: tuple[str, ...], port: int) -> bool:
    """Whether this machine reaches what will listen on ``port`` of the host that an SSH connection led
    to: no jump host, no translated address and no firewall is between. ``connection`` as ``Told`` has it."""
    if not connection or "%" in connection[2]:
        return False
    client, _, address, _ = connection
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect((address, port))  # sends nothing: asks which way it would go
            if way.getsockname()[0] != client:
                return False
        socket.create_connection((address, port), REACH_S).close()
    except ConnectionRefusedError:  # by the host itself: nothing listens there yet
        return True
    except OSError:
        return False
    return True


def address_of(name: str, told: Told) -> str:
    """At which other hosts reach this one: on the interface that was asked for, as SSH reached it, as it
    is called here, or its first one."""
    if told.interface:
        return told.interface
    if told.connection:
        return told.connection[2]
    if is_address(name):
        return name
    try:
        found = socket.getaddrinfo(name.rpartition("@")[2], None, type=socket.SOCK_STREAM)  # fmt: skip
    except OSError:
        found = []
    named = [str(each[4][0]) for each in found]
    outside = [a for a in named if not a.startswith("127.") and a != "::1"]
    return [*outside, *told.addresses, *named, name][0]


def _counts(unit: Unit, name: str, host: str, papers: Papers) -> bool:
    """Whether the job is where its unit was started last, and was not given up there."""
    if host in papers.given_up(unit.name):
        return False
    hosts = {name_of(job): host_of(unit, job) for job in unit.jobs}
    return hosts.get(name) == host


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return None
