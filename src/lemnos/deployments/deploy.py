"""Bring a deployment up, change it, take it down: what the verbs do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from lemnos import leases, paths
from lemnos.deployments.files import Files
from lemnos.deployments.state import GATEWAY, State
from lemnos.deployments.status import (
    identity,
    state_of,
    status_of,
    supervisor_alive,
    supervisor_of,
    unknown,
)
from lemnos.deployments.units import check_room, launcher_of, site_of
from lemnos.deployments.waiting import Watch, wait_ready
from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.ports import free_port, port_holder
from lemnos.launchers.processes import MARK, Processes
from lemnos.records.store import Store
from lemnos.spec.deployment import DEFAULT_PORT, EndpointSpec
from lemnos.spec.plan import Plan
from lemnos.spec.status import Phase, Status

DOWN_TIMEOUT_S = 60.0
"""After this, ``down`` stops waiting for the supervisor and kills what is left."""


def bring_up(plan: Plan, watch: Watch, *, wait: bool = True) -> tuple[Status, bool]:
    """Run ``plan`` and wait until it serves; (its status, whether it was already up).

    A deployment that runs otherwise gets a new revision, which takes over when it works. ``watch``
    is called with each change while waiting. Interrupted or failed, everything that was started
    is stopped again, and what served before serves on. Raises LemnosError with the engine's last words.
    """
    files = Files.of(plan.name)
    store = Store()
    with leases.lease(files.up_lease, what=f"lemnos up {plan.name}", wait_s=3600):
        row = store.deployment(plan.name)
        if row is None or row["desired"] != "running" or status_of(row).phase.over:
            check_room(plan)
            _clear_the_way(store, plan.name)
            return _start_new(store, plan, files, watch, wait), False
        wanted = Plan.model_validate_json(row["plan"])
        state = state_of(row)
        if _same(wanted, plan):
            _ensure_supervisor(store, row, files)
            if not wait:
                return status_of(row), True
            return wait_ready(store, plan.name, watch, int(row["revision"])), True
        _check_change(plan, state.revision if state else 0)
        if state and state.revision not in (0, row["revision"]):
            serving, _ = store.revision_plan(plan.name, state.revision)
            if _same(serving, plan):  # the trial of another one is ended
                store.want_revision(plan.name, state.revision)
                _ensure_supervisor(store, row, files)
                return wait_ready(store, plan.name, watch, state.revision), True
        if not (state and state.revision) or _moves(row, plan.spec.endpoint):
            _clear_the_way(store, plan.name)
            return _start_new(store, plan, files, watch, wait), False
        return _change(store, row, files, plan, watch, wait), False


def roll_back(name: str, to: int | None, watch: Watch, *, wait: bool = True) -> Status:
    """Serve an earlier revision again: its replicas and its routing, under a new number.

    Without ``to`` the trial of a newer one is ended, else the last one that served before is meant.
    """
    store, files = Store(), Files.of(name)
    with leases.lease(files.up_lease, what=f"lemnos rollback {name}", wait_s=3600):
        row = store.deployment(name)
        if row is None:
            raise unknown(name)
        state = state_of(row) or State(jobs=())
        _ensure_supervisor(store, row, files)
        if to is None and state.revision and row["revision"] != state.revision:
            store.want_revision(name, state.revision)
            return wait_ready(store, name, watch, state.revision)
        target = to if to is not None else _served_before(store, name, state.revision)
        plan, _ = store.revision_plan(name, target)
        if _moves(row, plan.spec.endpoint):
            raise UsageError(
                f"revision {target} had another address",
                where=f"endpoint of '{name}'",
                fix=f"lemnos down {name}, then lemnos up with its spec",
            )
        return _change(store, row, files, plan, watch, wait, copy_of=target)


def scale(name: str, replicas: int, watch: Watch, *, wait: bool = True) -> Status:
    """Serve with so many replicas, and return when they are ready (and the others gone)."""
    store = Store()
    row = store.deployment(name)
    if row is None:
        raise unknown(name)
    if Plan.model_validate_json(row["plan"]).spec.scale:
        raise UsageError(
            f"the queue decides how many replicas '{name}' has",
            where="scale",
            fix="change scale.min and scale.max in its spec, or leave scale out",
        )
    store.update(name, replicas=replicas)
    _ensure_supervisor(store, row, Files.of(name))
    if not wait:
        return status_of(row)

    def done(state: State) -> bool:
        staying = [j for j in state.jobs if j.name != GATEWAY and not j.succeeds]
        return len(state.published or ()) == len(staying) == replicas

    return wait_ready(store, name, watch, int(row["revision"]), done)


def restart(name: str, watch: Watch) -> Status:
    """Restart the engines of ``name`` and wait until it is ready again."""
    store = Store()
    row = store.deployment(name)
    if row is None:
        raise unknown(name)
    _ensure_supervisor(store, row, Files.of(name))
    store.ask_restart(name)
    wanted = int(row["restarts_wanted"]) + 1
    return wait_ready(
        store,
        name,
        watch,
        int(row["revision"]),
        lambda state: state.restarts_done >= wanted,
    )


def take_down(name: str, *, drain: bool = True, forget: bool = False) -> None:
    """Stop ``name`` and remove all of it but its logs, revisions and records.

    With ``drain`` open requests finish first (for up to 30 s). ``forget``: even where its machine room
    cannot be asked any more, whatever may still run there.
    """
    store = Store()
    if store.deployment(name) is None:
        raise unknown(name)
    _take_down(store, name, drain=drain, failed=forget)


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


def _start_new(
    store: Store, plan: Plan, files: Files, watch: Watch, wait: bool
) -> Status:
    """Start the first revision of a deployment; stop all of it if it does not become ready.

    A port that nobody asked for may be taken by somebody else between the choice and the
    gateway's start: then another one is chosen.
    """
    while True:
        url = ""
        try:
            with _choosing_a_port(store, plan.spec.endpoint) as url:
                files.make_key()
                revision = store.add_revision(plan, url)
            _start_supervisor(store, plan.name, files)
            if not wait:
                return _detached(store, plan.name)
            return wait_ready(store, plan.name, watch, revision)
        except BaseException as error:
            _take_down(store, plan.name, drain=False, failed=True)
            if not (isinstance(error, LemnosError) and _lost_port(plan, url)):
                raise


def _detached(store: Store, name: str) -> Status:
    row = store.deployment(name)
    assert row is not None
    return status_of(row)


def _check_change(plan: Plan, serving: int) -> None:
    """``check_room``; where it refuses, what serves is named: it is left as it is."""
    try:
        check_room(plan)
    except LemnosError as error:
        if serving:
            error.fix = "; ".join(filter(None, (error.fix, f"revision {serving} serves on")))  # fmt: skip
        raise


def _change(
    store: Store,
    row: dict[str, Any],
    files: Files,
    plan: Plan,
    watch: Watch,
    wait: bool,
    copy_of: int | None = None,
) -> Status:
    """Want a new revision of what ``row`` runs, and wait until it serves; interrupted, what served
    before is wanted again."""
    name = plan.name
    try:
        revision = store.add_revision(plan, row["url"], copy_of=copy_of)
        if plan.spec.replicas:
            store.update(name, replicas=None)
        _ensure_supervisor(store, row, files)
        if not wait:
            return _detached(store, name)
        return wait_ready(store, name, watch, revision)
    except KeyboardInterrupt:
        now = store.deployment(name)
        state = state_of(now) if now else None
        if now and state and state.revision not in (0, now["revision"]):
            store.refuse_revision(name, now["revision"], state.revision, "interrupted")
        raise


def _served_before(store: Store, name: str, serving: int) -> int:
    """The last revision that served before ``serving`` did, and is not a copy that it came from."""
    rows = {row["revision"]: row for row in store.revisions(name)}
    same = rows.get(serving, {}).get("plan")
    served = [
        number
        for number, row in rows.items()
        if number < serving and row["served_at"] and row["plan"] != same
    ]
    if not served:
        raise UsageError(
            f"no revision of '{name}' served before this one",
            fix=f"lemnos history {name} shows what there is; --to takes any of them",
        )
    return int(max(served))


def _moves(row: dict[str, Any], endpoint: EndpointSpec) -> bool:
    """Whether the endpoint would listen elsewhere: then the gateway cannot serve on."""
    port = int(row["url"].rpartition(":")[2])
    before = Plan.model_validate_json(row["plan"]).spec.endpoint
    return before.host != endpoint.host or endpoint.port not in (None, port)


def _lost_port(plan: Plan, url: str) -> bool:
    """Whether somebody else listens where the gateway was to, though any port would do."""
    if not url or plan.spec.endpoint.port is not None:
        return False
    port = int(url.rpartition(":")[2])
    return port_holder(plan.spec.endpoint.host, port) is not None


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
    """Stop what runs under the name, and whatever a crash left behind."""
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


def _ensure_supervisor(store: Store, row: dict[str, Any], files: Files) -> None:
    if supervisor_alive(row):
        return
    if row["phase"] == Phase.ready:  # it was: nobody has looked since
        store.update(row["name"], phase=Phase.degraded)
    _start_supervisor(store, row["name"], files)


def _start_supervisor(store: Store, name: str, files: Files) -> None:
    """Start it, and note at once who it is: it can be found and stopped from its first moment."""
    row = store.deployment(name)
    plan = Plan.model_validate_json(row["plan"]) if row else None
    if plan and plan.spec.on == "systemd":
        from lemnos.launchers.systemd import supervisor

        pid = supervisor.install(site_of(plan.spec, name), os.environ)
        store.update(name, supervisor=json.dumps(identity(pid)))
        return
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


def _take_down(store: Store, name: str, *, drain: bool, failed: bool = False) -> None:
    """Ask the supervisor to stop; kill what is left; remove the files and the row.

    After a start that ``failed``, a room that cannot be asked has nothing of it either.
    """
    row = store.deployment(name)
    try:
        store.update(name, desired="stopped")
    except (
        LemnosError
    ):  # a full disk: all is ended nevertheless; the row goes when there is room
        if supervisor_alive(row):
            _kill_supervisor(row)
        _sweep(store, row, name)
        raise
    deadline = time.monotonic() + (DOWN_TIMEOUT_S if drain else 5.0)
    while supervisor_alive(row) and time.monotonic() < deadline:
        if not drain:
            Processes(name).sweep()
        time.sleep(0.05)
    row = store.deployment(name) or row
    if supervisor_alive(row):
        _kill_supervisor(row)
    try:
        _sweep(store, row, name)
    except LemnosError:
        if not failed:
            raise
    store.forget(name)
    files = Files.of(name)
    files.supervisor_lease.unlink(missing_ok=True)
    files.clear()


def _sweep(store: Store, row: dict[str, Any] | None, name: str) -> None:
    """Nothing is left in any room that a revision of the deployment ran in."""
    Processes(name).sweep()
    state = state_of(row) if row else None
    revisions = {job.revision for job in state.jobs if job.revision} if state else set()
    if row:
        revisions.add(int(row["revision"]))
    rooms = set()
    for revision in sorted(revisions):
        plan, _ = store.revision_plan(name, revision)
        if plan.spec.on == "systemd":
            from lemnos.launchers.systemd import supervisor

            supervisor.remove(site_of(plan.spec, name))
        if (plan.spec.on, plan.spec.via) not in rooms:
            rooms.add((plan.spec.on, plan.spec.via))
            launcher_of(plan).sweep()


def _kill_supervisor(row: dict[str, Any] | None) -> None:
    supervisor = supervisor_of(row)
    if row is None or supervisor is None:
        return
    if supervisor["host"] != socket.gethostname():
        raise LemnosError(
            f"the supervisor of '{row['name']}' did not stop in time",
            where=supervisor["host"],
            fix=f"run 'lemnos down {row['name']}' there",
        )
    with contextlib.suppress(ProcessLookupError):
        os.kill(supervisor["pid"], signal.SIGKILL)
