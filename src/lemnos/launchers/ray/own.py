"""A Ray cluster of lemnos' own: ``ray start`` as a job on each host, over SSH; the head on the first."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Collection
from functools import partial
from importlib import resources
from pathlib import Path

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.hosts import Hosts, each_of
from lemnos.launchers.others import address_of, is_this_machine
from lemnos.launchers.ray import starting
from lemnos.launchers.ray.client import Client
from lemnos.launchers.ray.parse import RayNode, Told
from lemnos.launchers.ray.reach import drop
from lemnos.launchers.ray.render import python_of
from lemnos.launchers.ray.starting import Said
from lemnos.launchers.seating import Told as AboutHost
from lemnos.launchers.seating import parse as told_by
from lemnos.launchers.site import Site
from lemnos.launchers.templates import script
from lemnos.spec.unit import Rendered
from lemnos.transport.base import Transport, checked
from lemnos.transport.here import Here
from lemnos.transport.ssh import Ssh

START_S = 90.0
"""A head or a node that is not there after so long is given up."""
LOOK_S = 0.3


class Own:
    """The cluster of one deployment; as another launcher object it is found again by its jobs' mark."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._spec = site.spec.ray
        self._names = self._spec.hosts
        if site.spec.via:
            raise UsageError(
                "ray.hosts are reached by SSH from here",
                where="via",
                fix="leave via out, or join a cluster that is there with ray.address",
            )
        config = os.environ.get("LEMNOS_SSH_CONFIG")
        self._transports: dict[str, Transport] = {
            name: Here()
            if is_this_machine(name)
            else Ssh(name, Path(config) if config else None)
            for name in self._names
        }
        self._head = self._names[0]
        self._token_file = Path(starting.token_path(site))
        self._hosts = Hosts(
            site.deployment,
            site.owner,
            f"{site.directory}/ray",
            self._transports,
            starting.token_path(site),
        )
        self._papers = f"{site.directory}/units/cluster.json"
        shown = f"Ray's dashboard on {self._head}"
        self.client = Client(self._base, self._token, shown)

    def rendered(self) -> Rendered:
        """What starting it would run, and the ports that must be open."""
        return starting.rendered(self._site)

    def nodes(self) -> tuple[RayNode, ...]:
        """Ray's, or before it runs what the hosts have. Raises LemnosError where they are not fit for it."""
        if not self.gone():
            return self.client.nodes()
        tolds = {name: self._tell(name) for name in self._names}
        addresses = {name: address_of(name, tolds[name]) for name in self._names}
        said = self._checked(addresses, set(self._names))
        return tuple(
            RayNode(id=name, address=addresses[name], alive=True, has=has, free=has)
            for name in self._names
            for has in [
                {"CPU": float(said[name].cpus), "GPU": float(len(tolds[name].gpus))}
            ]
        )

    def ensure(self) -> None:
        """Whatever of it is missing is started: the head with all, else the hosts that came back."""
        found, silent = self._hosts.ask()
        if self._head in silent:
            raise silent[self._head]
        alive = {
            host
            for host, jobs in found.items()
            if any(seen.alive for seen in jobs.values())
        }
        if self._head not in alive:
            for host in alive:  # of a head that is dead: another one does not know them
                self._hosts.signal(host, self._job_name(host), kill=True)
            alive = set()
        missing = [host for host in self._names if host not in {*alive, *silent}]
        if missing:
            self._start(missing, set(silent))

    def gone(self) -> str:
        """The head's own host says whether it runs; one that runs and does not answer is an error."""
        try:
            self.client.version()
        except LemnosError as error:
            seen = self._hosts.jobs_of(self._head).get(self._job_name(self._head))
            if seen is None:
                return f"there is no Ray on {self._head} (any more)"
            if not seen.alive:
                return f"Ray's head on {self._head} {seen.ended}"
            raise error from None
        return ""

    def url(self, told: Told) -> str:
        """Through SSH to the very host: no port need be open for us."""
        try:
            return self._transport_of(told).forward(told.hosts[0], told.port)
        except LemnosError:
            return ""  # the next look tries again

    def leave(self, told: Told) -> None:
        if told.hosts:
            drop(self._transport_of(told), told)

    def sweep(self) -> int:
        """All of Ray, and its session's files. Raises LemnosError if a host does not answer, after the others."""
        found = self._hosts.sweep()
        directory = starting.temporary(self._site)
        _, silent = each_of(
            lambda host: self._transports[host].remove(directory), self._names
        )
        for transport in self._transports.values():
            if isinstance(transport, Ssh):
                transport.drop("127.0.0.1", self._spec.dashboard_port)
        self._token_file.unlink(missing_ok=True)
        if silent:
            raise next(iter(silent.values()))
        return found

    # ------------------------------------------------------------ starting

    def _start(self, missing: list[str], silent: Collection[str]) -> None:
        there = [host for host in self._names if host not in silent]
        addresses = {host: address_of(host, self._tell(host)) for host in there}
        said = self._checked(addresses, set(missing))
        tokens = starting.has_tokens(said[self._head].ray)
        known = [addresses.get(host, "") for host in self._names]
        token = self._made_token() if tokens else b""
        if self._head in missing:
            self._come_up(self._head, known, token, self._answers)
        _, bad = each_of(
            lambda host: self._come_up(
                host, known, token, partial(self._is_node, addresses[host])
            ),
            missing,
        )
        if bad:
            raise next(iter(bad.values()))
        Here().write(self._papers, json.dumps(addresses).encode())

    def _checked(self, addresses: dict[str, str], new: set[str]) -> dict[str, Said]:
        """What the hosts say of themselves, which are fit for it. Raises LemnosError."""
        python = python_of(self._site.spec)
        text = resources.files("lemnos.launchers.ray").joinpath("ask.py").read_text()
        numbers = {self._names.index(host): at for host, at in addresses.items()}
        fresh = {self._names.index(host) for host in new}

        def asked(host: str) -> Said:
            index = self._names.index(host)
            question = starting.question(self._spec, index, numbers, fresh)
            done = self._transports[host].run(python, "-c", text, question)
            what = f"{python} cannot be run there"
            return starting.said_of(checked(done, what, where=host, fix="set ray.python"), host)  # fmt: skip

        said, bad = each_of(asked, addresses)
        if bad:
            raise next(iter(bad.values()))
        starting.check(self._spec, said, addresses, python)
        return said

    def _submit(self, host: str, addresses: list[str], token: bytes) -> None:
        if token:
            self._hosts.hand_over_key(host, token)
        index = self._names.index(host)
        job = starting.job_of(self._site, index, addresses, tokens=bool(token))
        self._hosts.submit(job, host)

    def _come_up(
        self, host: str, addresses: list[str], token: bytes, is_up: Callable[[], bool]
    ) -> None:
        """Ray there, unless it is. It is tried twice: its agents have seconds to start, which a busy host may miss."""
        for left in (1, 0):
            self._submit(host, addresses, token)
            try:
                self._await(host, is_up)
            except LemnosError:
                if not left:
                    raise
            else:
                return

    def _await(self, host: str, condition: Callable[[], bool]) -> None:
        """Raises LemnosError with the last words of Ray there if it ends, or is not there in time."""
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(LemnosError):
                if condition():
                    return
            seen = self._hosts.jobs_of(host).get(self._job_name(host))
            over = time.monotonic() > deadline
            if over or not (seen and seen.alive):
                how = f"does not come up in {START_S:.0f} s" if over or not seen else seen.ended  # fmt: skip
                raise LemnosError(
                    f"Ray on {host} {how}: {self._last_words(host)}",
                    where=f"{host}:{self._log(host)}",
                )
            time.sleep(LOOK_S)

    def _answers(self) -> bool:
        return bool(self.client.version())

    def _is_node(self, address: str) -> bool:
        return any(n.alive and n.address == address for n in self.client.nodes())

    # ------------------------------------------------------------ hosts

    def _tell(self, host: str) -> AboutHost:
        text = script(
            "hosts_tell.j2",
            seen=self._papers,
            interface=self._site.spec.interface or "",
            ssh=isinstance(self._transports[host], Ssh),
        )
        done = self._transports[host].run("sh", "-c", text, timeout_s=30.0)
        return told_by(checked(done, "the host tells nothing of itself", where=host), ())  # fmt: skip

    def _transport_of(self, told: Told) -> Transport:
        data = Here().read(self._papers)
        addresses: dict[str, str] = json.loads(data) if data else {}
        name = next((n for n, a in addresses.items() if a == told.hosts[0]), self._head)
        return self._transports.get(name, self._transports[self._head])

    def _job_name(self, host: str) -> str:
        return f"ray-{self._names.index(host)}"

    def _log(self, host: str) -> str:
        return f"{self._site.directory}/{self._job_name(host)}.log"

    def _last_words(self, host: str) -> str:
        data = self._transports[host].read(self._log(host), last=8192) or b""
        return starting.last_words(data.decode(errors="replace"))

    # ------------------------------------------------------------ the dashboard

    def _base(self) -> str:
        return self._transports[self._head].forward(
            "127.0.0.1", self._spec.dashboard_port
        )

    def _token(self) -> str:
        try:
            return self._token_file.read_text(encoding="utf-8").strip()
        except OSError:  # it has none
            return ""

    def _made_token(self) -> bytes:
        """The same for as long as there is anything of the cluster."""
        if not self._token():
            Here().write(str(self._token_file), f"{secrets.token_hex(32)}\n".encode())
        return self._token_file.read_bytes()
