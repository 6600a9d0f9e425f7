"""Units as services of systemd, of this machine and of hosts reached by SSH: it brings them back by itself."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Iterator, Sequence

from pydantic import ValidationError

from lemnos import paths
from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError
from lemnos.launchers import logs
from lemnos.launchers.local import Local
from lemnos.launchers.site import Site
from lemnos.launchers.systemd import placing, render
from lemnos.launchers.systemd.client import STOP_WAIT_S, Manager
from lemnos.launchers.systemd.environment import carried, environment_text
from lemnos.launchers.systemd.parse import Service
from lemnos.launchers.systemd.render import Ground, Part
from lemnos.launchers.systemd.statuses import status_of
from lemnos.spec.cluster import Cluster
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus
from lemnos.transport.base import Transport
from lemnos.transport.ssh import Ssh

KEPT = 3
"""Units that ended and are still known; older ones go when the next is started."""


class Systemd:
    """The units of one deployment as services. ``reach`` makes the transport to a host of ``systemd.hosts``."""

    name = "systemd"
    restarts = True
    queues = False

    def __init__(self, site: Site, reach: Callable[[str], Transport] = Ssh) -> None:
        self._site, self._spec, self._reach = site, site.spec, reach
        self._local = Local(site)
        self._managers: dict[str, Manager] = {}
        self._units: dict[str, Unit] = {}
        self._ground = ground_of(site)

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        """Ports, and free GPUs of this machine, or whole hosts that no other unit of ours has."""
        hosts = self._spec.systemd.hosts
        if not hosts:
            return placing.here(self._local, plan, name, dry=dry)
        busy = () if dry else [u.place.hosts for u in self._others(name)]
        chosen = placing.choose_hosts(plan, self._spec, busy)
        ports = (placing.DRY_PORT, placing.DRY_PORT + 1)
        if not dry:
            ports = placing.free_ports(self._manager(chosen[0]).transport)
        return placing.over(chosen, plan, self._spec, ports)

    def files(self, name: str) -> JobFiles:
        """Below the deployment's directory, or where the engines' user may write."""
        return files_of(self._site, name)

    def render(self, unit: Unit) -> Rendered:
        """A service and a script a job; commands for other hosts are run there."""
        parts = self._parts(unit)
        commands = render.commands_of(unit, parts, self._ground)
        return Rendered(
            files={name: text for part in parts for name, text in part.files.items()},
            commands=tuple(
                ("ssh", host, "--", *argv) if host else argv for host, argv in commands
            ),
            notes=render.notes_of(unit, self._ground),
        )

    def inventory(self) -> Cluster:
        """This machine, or the hosts that are named."""
        return placing.inventory(self._local, self._spec.systemd.hosts)

    def room(self, unit: Unit) -> Room:
        """Whether GPUs are free here, or hosts. Raises LemnosError where units would not live on."""
        for host in {render.host_of(job, self._spec) for job in unit.jobs}:
            self._manager(host).check()
        if not self._spec.systemd.hosts:
            return self._local.room(unit)
        busy = {host for other in self._others(unit.name) for host in other.place.hosts}
        taken = sorted(busy & set(unit.place.hosts))
        if taken and unit.place.gpus_per_host:
            return Room(free=False, why=f"another replica is on {', '.join(taken)}")
        return Room(free=True)

    def submit(self, unit: Unit) -> None:
        """Install and start its services, unless one of them runs."""
        parts = self._parts(unit)
        for host in sorted({part.host for part in parts}):
            self._manager(host).check()
        if self._there(parts):
            return
        self._forget_old()
        try:
            self._write(unit, parts)
            for host, argv in render.commands_of(unit, parts, self._ground):
                done = self._manager(host).run(*argv)
                if done.code:
                    what = f"systemd does not take it: {done.said}"
                    raise LemnosError(what, where=host or unit.name)
        except LemnosError:
            self._remove(unit.name, {part.host: [part.service] for part in parts})
            raise
        self._units[unit.name] = unit

    def status(self) -> dict[str, UnitStatus]:
        """Every unit that has services. A host that does not answer is a part that is broken."""
        found, silent = self._found()
        return {
            name: self._status(name, found[name], silent)
            for name in sorted(found, key=_number)
        }

    def logs(self, name: str) -> tuple[LogFile, ...]:
        """One a job."""
        unit = self._unit(name)
        return logs.logs_of(unit) if unit else ()

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        """The last lines of one."""
        known = log.role != "gateway" and log.host in self._spec.systemd.hosts
        there = self._manager(log.host if known else "").transport
        return logs.last_of(there, log, lines)

    def cancel(self, name: str, *, kill: bool = False) -> None:
        """Stop its services, so that they do not come back at the next boot either; ``kill``: SIGKILL."""
        for host, services in self._known(name).items():
            manager = self._manager(host)
            path = f"{self._ground.unit_directory(name)}/{render.CANCELLED}"
            manager.transport.write(path, b"", mode=0o644)
            manager.control("--no-block", "stop", "--", *services)
            if kill:
                manager.control("kill", "--signal=SIGKILL", "--", *services)

    def sweep(self) -> int:
        """Kill and remove all services of the deployment, and what was written for them but logs."""
        found, silent = self._found()
        running = sum(
            s.alive for each in found.values() for own in each.values() for s in own
        )
        for name, hosts in found.items():
            self._remove(name, {h: [s.name for s in own] for h, own in hosts.items()})
        for host in {"", *self._spec.systemd.hosts} - silent.keys():
            self._manager(host).transport.remove(f"{self._ground.directory}/units")
        self._site.transport.remove(f"{self._site.directory}/units")
        self._units.clear()
        for host, why in silent.items():
            raise LemnosError(f"is not swept: {why}", where=host)
        return running

    # ------------------------------------------------------------ what there is

    def _found(self) -> tuple[dict[str, dict[str, list[Service]]], dict[str, str]]:
        """(unit -> host -> its services there, host that does not answer -> why)."""
        found: dict[str, dict[str, list[Service]]] = {}
        silent: dict[str, str] = {}
        for host in ("", *self._spec.systemd.hosts):
            try:
                services = self._services_of(host)
            except LemnosError as error:
                if not host:
                    raise
                silent[host] = error.what
                continue
            for service in services:
                name = render.unit_of(service.name, self._site.deployment)
                if name:
                    found.setdefault(name, {}).setdefault(host, []).append(service)
        return found, silent

    def _services_of(self, host: str) -> list[Service]:
        manager = self._manager(host)
        listed = manager.listed(f"lemnos-{self._site.deployment}-*.service")
        ours = [n for n in listed if render.unit_of(n, self._site.deployment)]
        owner = f"[{self._site.owner}]"
        return [s for s in manager.show(ours).values() if s.description.endswith(owner)]

    def _status(
        self, name: str, found: dict[str, list[Service]], silent: dict[str, str]
    ) -> UnitStatus:
        unit = self._unit(name)
        services = {s.name: s for own in found.values() for s in own}
        for job in (
            unit.jobs if unit else ()
        ):  # shared homes have it on other hosts, too
            here = found.get(render.host_of(job, self._spec), [])
            services |= {s.name: s for s in here if s.name == render.service_of(job)}
        url = ""
        if unit:
            url = self._site.transport.forward(unit.place.hosts[0], unit.place.port)
        own = not self._site.transport.where and not self._spec.systemd.hosts
        return status_of(unit, services, url=url, silent=silent, own_pids=own)

    def _known(self, name: str) -> dict[str, list[str]]:
        """Host -> services of a unit: as it was written, or else as systemd knows it."""
        unit = self._unit(name)
        if unit is None:
            found, _ = self._found()
            return {h: [s.name for s in own] for h, own in found.get(name, {}).items()}
        hosts: dict[str, list[str]] = {}
        for job in unit.jobs:
            host = render.host_of(job, self._spec)
            hosts.setdefault(host, []).append(render.service_of(job))
        return hosts

    def _parts(self, unit: Unit) -> tuple[Part, ...]:
        """Its services, each for the host that it is for: users' homes may be shared."""
        hosts = {render.host_of(job, self._spec) for job in unit.jobs}
        names = (
            {}
            if self._ground.is_system
            else {h: self._manager(h).host_name() for h in hosts}
        )
        return render.parts_of(unit, dataclasses.replace(self._ground, names=names))

    def _there(self, parts: Sequence[Part]) -> bool:
        """Whether one of these services lives. Raises LemnosError where another's has its name."""
        for host in {part.host for part in parts}:
            names = [part.service for part in parts if part.host == host]
            for service in self._manager(host).show(names).values():
                if not service.description.endswith(f"[{self._site.owner}]"):
                    raise LemnosError(
                        f"{service.name} is there already, and is another's ({service.description})",
                        where=host,
                        fix="choose another --name: another LEMNOS_HOME has a deployment of this one",
                    )
                if service.alive:
                    return True
        return False

    def _others(self, name: str) -> Iterator[Unit]:
        """Units of the deployment that live, apart from ``name``."""
        for other, status in self.status().items():
            unit = self._unit(other)
            if unit and status.alive and other != name and unit.role != "gateway":
                yield unit

    def _unit(self, name: str) -> Unit | None:
        """As it was submitted, by whichever process."""
        if name not in self._units:
            path = f"{self._ground.unit_directory(name)}/unit.json"
            data = self._site.transport.read(path)
            try:
                if not data:
                    return None
                self._units[name] = Unit.model_validate_json(data)
            except ValidationError:
                return None
        return self._units[name]

    def _manager(self, host: str) -> Manager:
        if host not in self._managers:
            own = host in ("", socket.gethostname())
            transport = self._site.transport if own else self._reach(host)
            self._managers[host] = Manager(transport, system=self._ground.is_system)
        return self._managers[host]

    # ------------------------------------------------------------ what is written

    def _write(self, unit: Unit, parts: Sequence[Part]) -> None:
        """All files, on each host; then the engines' user may have them."""
        directory = self._ground.unit_directory(unit.name)
        hosts = sorted({part.host for part in parts})
        for host in {"", *hosts}:
            self._make_room(self._manager(host).transport)
        told = unit.model_dump_json().encode()
        self._site.transport.write(f"{directory}/unit.json", told)
        for host in hosts:
            there = self._manager(host).transport
            own = [part for part in parts if part.host == host]
            self._hand_over_key(there)
            for part in own:
                for name, text in part.files.items():
                    there.write(f"{directory}/{name}", text.encode())
                if file := render.environment_file(self._ground, part.job):
                    kept = carried(os.environ, self._spec)
                    there.write(file, environment_text(kept).encode())
            self._prepare(there, unit.role, [part.job.log for part in own])

    def _hand_over_key(self, there: Transport) -> None:
        key_file = self._ground.files.key_file
        if key_file == str(self._site.key_file) and not there.where:
            return
        try:
            key = self._site.key_file.read_bytes()
        except OSError as error:
            raise LemnosError(
                f"the engines' key cannot be read ({error.strerror})",
                where=str(self._site.key_file),
            ) from None
        there.write(key_file, key)

    def _make_room(self, there: Transport) -> None:
        """Directories that another user may pass through; what is in them is theirs alone."""
        if self._ground.user:
            passed = [f"/var/{kind}/lemnos" for kind in ("lib", "cache")]
            passed.append(self._ground.directory.rpartition("/")[0])
            _done(there, "install", "-d", "-m", "755", "--", *passed)

    def _prepare(self, there: Transport, role: str, files: Sequence[str]) -> None:
        """Cache and logs, made before systemd would make them as root, for all to read."""
        if role == "gateway":
            return
        cache, directory = self._ground.files.cache, self._ground.directory
        if cache:
            _done(there, "mkdir", "-p", "-m", "700", "--", cache)
        _done(there, "touch", "--", *files)
        _done(there, "chmod", "600", "--", *files)
        if self._ground.user:
            owned = [path for path in (directory, cache) if path]
            _done(there, "chown", "-R", f"{self._ground.user}:", "--", *owned)

    def _forget_old(self) -> None:
        """Units that ended long ago: systemd need not know thousands of them."""
        ended = [name for name, status in self.status().items() if not status.alive]
        for name in ended[:-KEPT]:
            self._remove(name, self._known(name))

    def _remove(self, name: str, services: dict[str, list[str]]) -> None:
        """End the services of a unit, and remove its files; its logs stay."""
        for host, names in services.items():
            manager = self._manager(host)
            # Killing first would let systemd start them again; stopping waits for what is killed next.
            manager.control("--no-block", "stop", "--", *names)
            manager.control("kill", "--signal=SIGKILL", "--", *names)
            manager.control("stop", "--", *names, timeout_s=STOP_WAIT_S)
            manager.control("--quiet", "disable", "--", *names)
            if self._ground.is_system:
                for each in names:
                    manager.transport.remove(f"{render.SYSTEM_UNITS}/{each}")
            manager.transport.remove(self._ground.unit_directory(name))
            manager.control("daemon-reload")
            manager.control("reset-failed", "--", *names)
        self._site.transport.remove(self._site.unit_directory(name))
        self._units.pop(name, None)


def ground_of(site: Site) -> Ground:
    """What rendering must know, from the site and this machine's own directories."""
    state = str(paths.state_dir())
    files = files_of(site, "engine-0")
    return Ground(
        deployment=site.deployment,
        spec=site.spec,
        owner=site.owner,
        directory=files.log.rpartition("/")[0],
        files=files,
        state=state,
        gateways=site.directory,
        mark=f"{state}|{site.deployment}|",
    )


def files_of(site: Site, name: str) -> JobFiles:
    """As the site says; for engines of another user below /var, where systems keep such things."""
    user = site.spec.systemd.user if site.spec.systemd.scope == "system" else None
    if not user or user == "root":
        return site.files(name)
    directory = f"/var/lib/lemnos/{site.owner}/{site.deployment}"
    return JobFiles(
        log=f"{directory}/{name}.log",
        key_file=f"{directory}/{site.key_file.name}",
        cache=site.spec.cache or f"/var/cache/lemnos/{user}",
    )


def _done(there: Transport, *command: str) -> None:
    done = there.run(*command)
    if done.code:
        raise LemnosError(f"cannot be prepared: {done.said}", where=there.where)


def _number(name: str) -> tuple[str, int]:
    role, _, number = name.rpartition("-")
    return role, int(number)
