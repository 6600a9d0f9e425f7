"""Gateways of their own: from ``gateway.yaml`` to a process, and keys to whatever runs with them."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from lemnos import paths
from lemnos.deployments.files import Files, Tail, last_lines, this_run
from lemnos.deployments.status import status_of
from lemnos.engines import smg
from lemnos.errors import LemnosError, UsageError
from lemnos.gateway import compile as compiling
from lemnos.gateway import revisions
from lemnos.gateway.keys import read_keys
from lemnos.gateway.ledger import default_path, sqlite_url
from lemnos.gateway.providers import providers
from lemnos.gateway.revisions import GatewayFiles, Revision
from lemnos.hardware.ports import port_holder
from lemnos.launchers.processes import MARK, Processes
from lemnos.records.store import Store
from lemnos.spec.document import load
from lemnos.spec.gateway import GatewaySpec, from_directory
from lemnos.spec.plan import Command, Job
from lemnos.spec.status import Status
from lemnos.spec.targets import ClientKey

STOP_S = 45.0
"""Open requests have 30 s to finish; whoever is not gone by then is killed."""
JOB = "gateway-0"


@dataclass(frozen=True)
class Wanted:
    """What a file asks for, compiled and checked."""

    files: GatewayFiles
    revision: Revision
    warnings: tuple[str, ...]


def compile_file(path: Path) -> Wanted:
    """``gateway.yaml`` with its keys and the deployments that it names. Changes nothing.

    Raises LemnosError with the file, and the line or the key, of what cannot be right.
    """
    spec = from_directory(load(path, GatewaySpec), path.parent.absolute())
    keys = read_keys(Path(spec.keys_file)) if spec.keys_file else ()
    names = [
        local.deployment
        for route in spec.models.values()
        for local in route.local
        if local.deployment
    ]
    registered = {name: str(Files.named(name).targets) for name in names}
    try:
        programs = {
            each: smg.python_of(each) for each in compiling.router_programs(spec)
        }
        made = compiling.compile_gateway(
            spec,
            providers(),
            keys,
            registered=registered,
            programs=programs,
            created=int(time.time()),
        )
    except UsageError as error:
        where = f"{path}: {error.where}"
        raise UsageError(error.what, where=where, fix=error.fix) from None
    absent = [name for name in registered if not Path(registered[name]).exists()]
    warnings = (
        *made.warnings,
        *(f"deployment '{name}' is not up: lemnos up --name {name}" for name in absent),
        *compiling.missing(made.table, os.environ),
    )
    revision = Revision(
        at=time.time(),
        why=f"apply {path.name}",
        source=str(path.absolute()),
        listen=spec.listen,
        ledger=spec.ledger,
        keys_file=spec.keys_file,
        table=made.table,
    )
    return Wanted(GatewayFiles.named(spec.name), revision, warnings)


def gateway_job(files: GatewayFiles, revision: Revision) -> Job:
    """The gateway's process. Nothing in it is secret."""
    listen = revision.listen
    argv = [sys.executable, "-m", "lemnos.gateway", "--targets", str(files.targets)]
    argv += ["--host", listen.host, "--port", str(listen.port)]
    if listen.tls_cert and listen.tls_key:
        argv += ["--tls-cert", listen.tls_cert, "--tls-key", listen.tls_key]
    argv += ["--ledger", _ledger(revision)]
    return Job(
        deployment=_owner(files),
        role="gateway",
        command=Command(argv=tuple(argv)),
        host=listen.host,
        port=listen.port,
        log=str(files.log),
    )


def start(files: GatewayFiles, revision: Revision) -> bool:
    """Start the gateway, and return when it listens; False where it runs already.

    Raises LemnosError with its last words, for a port that is taken, and for a gateway that
    runs with another address, certificate or ledger.
    """
    launcher = Processes(_owner(files))
    job = gateway_job(files, revision)
    if already_runs(files, job):
        return False
    _check_port(job)
    log = Tail(files.log)
    launcher.submit(job)
    while True:
        ended = not launcher.status()[JOB].alive
        if any("listening on" in line for line in log.lines()):
            return True
        if ended:
            raise _did_not_start(files)
        time.sleep(0.05)


def stay(files: GatewayFiles, revision: Revision) -> None:
    """Become the gateway: the process's own output and signals. Does not return."""
    job = gateway_job(files, revision)
    if already_runs(files, job):
        raise UsageError(
            "runs already",
            where=f"gateway {files.name}",
            fix=f"lemnos gateway stop {files.name}",
        )
    _check_port(job)
    mark = Processes(_owner(files)).mark(JOB)
    os.execve(sys.executable, job.command.argv, os.environ | {MARK: mark})


def already_runs(files: GatewayFiles, job: Job) -> bool:
    """Whether it runs as ``job`` says; LemnosError where it runs otherwise."""
    if pid_of(files) is None:
        return False
    if runs_otherwise(files, job):
        raise LemnosError(
            "runs with another address, certificate or ledger, which are read at the start",
            where=f"gateway {files.name}",
            fix=f"lemnos gateway stop {files.name}, then run it again",
        )
    return True


def runs_otherwise(files: GatewayFiles, job: Job) -> bool:
    """Whether it runs, and was started in another way than ``job`` says."""
    pid = pid_of(files)
    try:
        argv = psutil.Process(pid).cmdline() if pid else None
    except psutil.Error:  # it ended meanwhile
        return False
    return argv is not None and argv[1:] != list(job.command.argv[1:])


def pid_of(files: GatewayFiles) -> int | None:
    """The gateway's process, if it runs on this machine."""
    seen = Processes(_owner(files)).status().get(JOB)
    return seen.pids[0] if seen and seen.alive else None


def stop(files: GatewayFiles) -> bool:
    """Let open requests finish, and return when it is gone; False where it did not run."""
    pid = pid_of(files)
    if pid is None:
        return False
    launcher = Processes(_owner(files))
    launcher.signal(JOB)
    deadline = time.monotonic() + STOP_S
    while pid_of(files) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    launcher.sweep()
    return True


def resolve(name: str | None) -> GatewayFiles:
    """The gateway ``name``, or the only one there is. UsageError where that is not clear."""
    if name is not None:
        return revisions.existing(name)
    found = revisions.gateways()
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError("no gateway was applied", fix="lemnos gateway run FILE")
    names = ", ".join(files.name for files in found)
    raise UsageError(f"{len(found)} gateways: say which", fix=names)


def default_keys_file() -> Path:
    """The one that the gateways and deployments use. UsageError where that is not one."""
    current = [revisions.current(files) for files in revisions.gateways()]
    named = {r.keys_file for r in current if r and r.keys_file}
    named |= {s.plan.spec.endpoint.keys_file or "" for s in _deployments()} - {""}
    if len(named) == 1:
        return Path(named.pop())
    raise UsageError(
        "no gateway or deployment names a keys_file"
        if not named
        else f"{len(named)} files of keys are in use",
        where="--keys-file",
        fix=", ".join(sorted(named)) or "say which: --keys-file keys.yaml",
    )


def check_key(keys_file: Path, key: ClientKey) -> None:
    """UsageError where a gateway or deployment with ``keys_file`` could not honour ``key``."""
    for revision in revisions.users_of(keys_file):
        keys = (*revision.table.keys, key)
        table = revision.table.model_copy(update={"keys": keys})
        compiling.check(table, revision.listen)
    for status in _users(keys_file):
        cloud = compiling.cloud_targets(
            status.plan.spec.endpoint.cloud, providers(), status.model
        )
        compiling.check_prices((key,), cloud, "local-first", where="endpoint.cloud")


def spread_keys(keys_file: Path, why: str) -> list[str]:
    """Put the file's keys in force wherever it is named: who has them now, in words."""
    done = revisions.rekey(keys_file, read_keys(keys_file), why)
    told = [
        f"revision {each.number} of a gateway on {each.listen.url}" for each in done
    ]
    for status in _users(keys_file):
        late = "" if status.supervisor_alive else " (when its supervisor is back)"
        told.append(f"deployment {status.name}{late}")
    return told


def _users(keys_file: Path) -> list[Status]:
    """The deployments whose endpoint names ``keys_file``; their supervisors follow it."""
    wanted = keys_file.resolve()
    return [
        status
        for status in _deployments()
        if (name := status.plan.spec.endpoint.keys_file)
        and Path(name).resolve() == wanted
    ]


def _deployments() -> list[Status]:
    return [status_of(row) for row in Store().deployments()]


def _owner(files: GatewayFiles) -> str:
    """No deployment's name has a slash."""
    return f"gateway/{files.name}"


def _ledger(revision: Revision) -> str:
    ledger = revision.ledger or str(default_path())
    if ledger.startswith("env:") or "://" in ledger:
        return ledger
    paths.writable(Path(ledger).parent)
    return sqlite_url(Path(ledger))


def _check_port(job: Job) -> None:
    if holder := port_holder(job.host, job.port):
        raise LemnosError(
            f"port {job.port} is taken by {holder}",
            where=job.host,
            fix="set listen.port in the gateway's file, or stop that process",
        )


def _did_not_start(files: GatewayFiles) -> LemnosError:
    said = [line for line in this_run(last_lines(files.log, 100)) if line.strip()]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error")]
    words = (errors or said or ["it said nothing"])[-1]
    return LemnosError(f"the gateway did not start: {words}", where=str(files.log))
