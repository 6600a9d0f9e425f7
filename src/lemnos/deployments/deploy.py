"""Bring a deployment up, take it down, and say how it is: what the verbs do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lemnos import leases, paths
from lemnos.deployments.files import Files, last_lines, this_run
from lemnos.deployments.lifecycle import State
from lemnos.errors import LemnosError, UsageError, near
from lemnos.hardware.ports import free_port, port_holder
from lemnos.launchers.processes import MARK, Processes
from lemnos.records.store import Store
from lemnos.spec.deployment import DEFAULT_PORT, EndpointSpec
from lemnos.spec.plan import Plan
from lemnos.spec.status import Phase, Status

Watch = Callable[[Status], None]

DOWN_TIMEOUT_S = 60.0
"""After this, ``down`` stops waiting for the supervisor and kills what is left."""


def bring_up(plan: Plan, watch: Watch) -> tuple[Status, bool]:
    """Run ``plan`` and wait until it is ready; (its status, whether it was already up).

    ``watch`` is called with each change while waiting. Interrupted or failed, everything
    that was started is stopped again. Raises LemnosError with the engine's last words.
    """
    files = Files.of(plan.name)
    store = Store()
    with leases.lease(files.up_lease, what=f"lemnos up {plan.name}", wait_s=3600):
        if running := _running(store, plan):
            if not running.supervisor_alive:
                _start_supervisor(store, plan.name, files)
            return _wait_ready(store, plan.name, watch), True
        _clear_the_way(store, plan.name)
        return _start_new(store, plan, files, watch), False


def check_port(endpoint: EndpointSpec) -> None:
    """Raise LemnosError if the port that is asked for is held by no deployment of ours.

    To be asked before a model is downloaded in vain.
    """
    port = endpoint.port
    ours = {int(row["url"].rpartition(":")[2]) for row in Store().deployments()}
    if port is None or port in ours:
        return
    if holder := port_holder(endpoint.host, port):
        raise _taken(endpoint.host, port, holder)


def _start_new(store: Store, plan: Plan, files: Files, watch: Watch) -> Status:
    """Start a revision; stop all of it if it does not become ready.

    A port that nobody asked for may be taken by somebody else between the choice and the
    gateway's start: then another one is chosen.
    """
    while True:
        url = ""
        try:
            with _choosing_a_port(store, plan.spec.endpoint) as url:
                files.make_key()
                store.add_revision(plan, url)
            _start_supervisor(store, plan.name, files)
            return _wait_ready(store, plan.name, watch)
        except BaseException as error:
            _take_down(store, plan.name, drain=False)
            if not (isinstance(error, LemnosError) and _lost_port(plan, url)):
                raise


def _lost_port(plan: Plan, url: str) -> bool:
    """Whether somebody else listens where the gateway was to, though any port would do."""
    if not url or plan.spec.endpoint.port is not None:
        return False
    port = int(url.rpartition(":")[2])
    return port_holder(plan.spec.endpoint.host, port) is not None


def status(name: str | None = None) -> list[Status]:
    """The deployments, or the one named; by name."""
    rows = Store().deployments()
    if name is not None:
        rows = [row for row in rows if row["name"] == name]
        if not rows:
            raise _unknown(name)
    return [status_of(row) for row in rows]


def take_down(name: str, *, drain: bool = True) -> None:
    """Stop ``name`` and remove all of it but its logs, revisions and records.

    With ``drain`` open requests finish first (for up to 30 s).
    """
    store = Store()
    if store.deployment(name) is None:
        raise _unknown(name)
    _take_down(store, name, drain=drain)


def restart(name: str, watch: Watch) -> Status:
    """Restart the engines of ``name`` and wait until it is ready again."""
    store = Store()
    row = store.deployment(name)
    if row is None:
        raise _unknown(name)
    if not status_of(row).supervisor_alive:
        _start_supervisor(store, name, Files.of(name))
    store.ask_restart(name)
    wanted = int(row["restarts_wanted"]) + 1
    return _wait_ready(store, name, watch, restarts=wanted)


def resolve_name(name: str | None) -> str:
    """``name``, or the only deployment there is."""
    names = [row["name"] for row in Store().deployments()]
    if name in names:
        return str(name)
    if name is not None:
        raise _unknown(name)
    if not names:
        raise LemnosError("nothing is deployed", fix="`lemnos up` starts a model")
    if len(names) > 1:
        raise UsageError(f"{len(names)} deployments: say which", fix=", ".join(names))
    return str(names[0])


def status_of(row: dict[str, Any]) -> Status:
    """A store's row as a status; asks the machine whether its processes live."""
    plan = Plan.model_validate_json(row["plan"])
    state = State.model_validate_json(row["state"]) if row["state"] else None
    supervisor = json.loads(row["supervisor"]) if row["supervisor"] else None
    alive = supervisor is not None and _alive(supervisor)
    return Status(
        name=row["name"],
        revision=row["revision"],
        phase=Phase(row["phase"]),
        url=row["url"],
        model=plan.served_name,
        engine=f"{plan.engine} {plan.engine_version}",
        plan=plan,
        created=row["created"],
        ready_at=state.ready_at if state else None,
        restarts=state.restarts if state else 0,
        why=state.why if state else "",
        stage=row["stage"],
        supervisor_pid=supervisor["pid"] if supervisor else None,
        supervisor_alive=alive,
    )


def engine_pids(name: str) -> list[int]:
    """The first process of each engine of ``name`` that runs on this machine."""
    jobs = Processes(name).status()
    return [
        s.pids[0] for job, s in sorted(jobs.items()) if job != "gateway-0" and s.pids
    ]


def identity(pid: int) -> dict[str, Any]:
    """What tells this process from any other, now and later."""
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": leases.process_started(pid) or "",
    }


def _alive(supervisor: dict[str, Any]) -> bool:
    if supervisor["host"] != socket.gethostname():
        return True  # cannot be seen from here; its lease says so when it is gone
    return bool(leases.process_started(supervisor["pid"]) == supervisor["started"])


def _running(store: Store, plan: Plan) -> Status | None:
    """The deployment that already runs this very plan, if there is one."""
    row = store.deployment(plan.name)
    if row is None or row["desired"] != "running":
        return None
    now = status_of(row)
    return now if _same(now.plan, plan) and not now.phase.over else None


def _same(one: Plan, other: Plan) -> bool:
    """Whether two plans serve the same: a model may have been named by an alias."""
    named = {"source": "", "revision": None, "file": None}
    models = [plan.spec.model.model_copy(update=named) for plan in (one, other)]
    specs = [plan.spec.model_copy(update={"model": models[0]}) for plan in (one, other)]
    return (
        specs[0] == specs[1]
        and models[0] == models[1]
        and one.model.path == other.model.path
    )


def _clear_the_way(store: Store, name: str) -> None:
    """Stop an earlier revision, and whatever a crash left behind."""
    if store.deployment(name):
        _take_down(store, name, drain=True)
    Processes(name).sweep()


@contextlib.contextmanager
def _choosing_a_port(store: Store, endpoint: EndpointSpec) -> Iterator[str]:
    """The endpoint's URL; no other ``up`` of this user chooses until the body is done."""
    with leases.lease(paths.state_dir() / "ports.lease", wait_s=60):
        given = {int(row["url"].rpartition(":")[2]) for row in store.deployments()}
        port = _port(endpoint, given)
        anywhere = endpoint.host in ("0.0.0.0", "::")
        host = "127.0.0.1" if anywhere else endpoint.host
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _port(endpoint: EndpointSpec, given: set[int]) -> int:
    wanted = endpoint.port or DEFAULT_PORT
    holder = port_holder(endpoint.host, wanted)
    if holder is None and wanted not in given:
        return wanted
    if endpoint.port is None:
        return free_port(endpoint.host)
    raise _taken(endpoint.host, wanted, holder or "another deployment")


def _taken(host: str, port: int, holder: str) -> LemnosError:
    return LemnosError(
        f"port {port} is taken by {holder}",
        where=host,
        fix="choose another with --port, or leave --port out to get a free one",
    )


def _start_supervisor(store: Store, name: str, files: Files) -> None:
    """Start it, and note at once who it is: it can be found and stopped from its first moment."""
    env = {key: value for key, value in os.environ.items() if key != MARK}
    with files.log("supervisor").open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", "lemnos.deployments", name],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=files.directory,
            check=False,
        )
    if done.returncode:
        raise LemnosError(
            "the supervisor did not start", where=str(files.log("supervisor"))
        )
    store.update(name, supervisor=json.dumps(identity(int(done.stdout))))


def _wait_ready(store: Store, name: str, watch: Watch, restarts: int = 0) -> Status:
    """Wait for the supervisor to say ready (after ``restarts`` restarts) or failed."""
    before = None
    while True:
        row = store.deployment(name)
        if row is None:
            raise LemnosError(f"'{name}' was taken down by somebody else")
        now = status_of(row)
        if now != before:
            watch(now)
            before = now
        if now.phase == Phase.failed:
            raise _failure(now)
        if now.phase in (Phase.draining, Phase.stopped):
            raise LemnosError(f"'{name}' was stopped by somebody else")
        if now.phase == Phase.ready and _restarts_done(row) >= restarts:
            return now
        if not now.supervisor_alive:
            log = Files.of(name).log("supervisor")
            raise LemnosError(
                "the supervisor is gone",
                where=str(log),
                fix="\n".join(last_lines(log, 5)),
            )
        time.sleep(0.05)


def _restarts_done(row: dict[str, Any]) -> int:
    return State.model_validate_json(row["state"]).restarts_done if row["state"] else 0


def _failure(now: Status) -> LemnosError:
    job = now.why.partition(" ")[0]
    log = Files.of(now.name).log(
        job if job.startswith(("engine-", "gateway-")) else "engine-0"
    )
    said = [line for line in this_run(last_lines(log, 200)) if line.strip()]
    errors = [line for line in said if line.startswith("error:")]
    words = "\n     ".join(errors[-1:] or said[-5:])
    return LemnosError(
        f"{now.name} did not start: {now.why}" + (f"\n     {words}" if words else ""),
        where=str(log),
        fix=f"the whole log: lemnos logs {now.name}",
    )


def _take_down(store: Store, name: str, *, drain: bool) -> None:
    """Ask the supervisor to stop; kill what is left; remove the files and the row."""
    store.update(name, desired="stopped")
    row = store.deployment(name)
    supervisor = json.loads(row["supervisor"]) if row and row["supervisor"] else None
    deadline = time.monotonic() + (DOWN_TIMEOUT_S if drain else 5.0)
    while supervisor and _alive(supervisor) and time.monotonic() < deadline:
        if not drain:
            Processes(name).sweep()
        time.sleep(0.05)
    if supervisor and _alive(supervisor):
        _kill_supervisor(name, supervisor)
    Processes(name).sweep()
    store.forget(name)
    files = Files.of(name)
    files.supervisor_lease.unlink(missing_ok=True)
    files.clear()


def _kill_supervisor(name: str, supervisor: dict[str, Any]) -> None:
    if supervisor["host"] != socket.gethostname():
        raise LemnosError(
            f"the supervisor of '{name}' did not stop in time",
            where=supervisor["host"],
            fix=f"run 'lemnos down {name}' there",
        )
    with contextlib.suppress(ProcessLookupError):
        os.kill(supervisor["pid"], signal.SIGKILL)


def _unknown(name: str) -> LemnosError:
    names = [row["name"] for row in Store().deployments()]
    return UsageError(
        f"no deployment '{name}'",
        fix=near(name, names)
        or (f"there are: {', '.join(names)}" if names else "`lemnos up` starts one"),
    )


def log_path(name: str, job: str) -> Path:
    """The log of ``engine-0``, ``gateway-0`` or ``supervisor``; kept after ``down``."""
    files = Files.named(Path(name).name)
    known = sorted(path.stem for path in files.directory.glob("*.log"))
    if not known:
        raise _unknown(name)
    if job not in known:
        raise UsageError(
            f"'{name}' has no log of '{job}'", fix=f"there are: {', '.join(known)}"
        )
    return files.log(job)
