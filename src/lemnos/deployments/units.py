"""From a plan to units: a replica's jobs at a place that its launcher gave, and the gateway."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lemnos import paths
from lemnos.deployments.files import Files
from lemnos.deployments.in_pods import PYTHON, is_in_pods
from lemnos.deployments.state import GATEWAY
from lemnos.engines import smg
from lemnos.engines.base import JobFiles, engine_named
from lemnos.engines.workers import is_group
from lemnos.errors import UsageError
from lemnos.gateway.ledger import default_path, sqlite_url
from lemnos.launchers.base import Launcher
from lemnos.launchers.registry import launcher_for
from lemnos.launchers.shape import shape_of
from lemnos.launchers.site import Site
from lemnos.spec.clusters import LEDGER_IN_A_POD, POD_PORT, TARGETS_IN_A_POD
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.place import Place
from lemnos.spec.plan import Command, Job, Plan
from lemnos.spec.unit import Served, Unit
from lemnos.transport.base import Transport
from lemnos.transport.here import Here

GATEWAY_ROOMS = ("local", "systemd")
"""Launchers that run the gateway themselves; beside the others it is a process of this machine."""


def launcher_of(plan: Plan) -> Launcher:
    """The launcher of the plan's machine room. Raises LemnosError where its login node cannot be reached."""
    return launcher_for(site_of(plan.spec, plan.name))


def check_room(plan: Plan) -> None:
    """Before anything is started: the plan's machine room is there, and its scheduler would take a
    replica. Raises LemnosError that says why not; what runs already is not touched."""
    launcher = launcher_of(plan)
    if launcher.queues:
        name = "engine-0"
        place, files = launcher.place(plan, name), launcher.files(name)
        launcher.room(unit_of(plan, name, 1, place, files))


def gateway_launcher(plan: Plan) -> Launcher:
    """What runs the gateway: where the supervisor is, or the cluster that has an image for it."""
    if plan.spec.on in GATEWAY_ROOMS or has_own_gateway(plan.spec):
        return launcher_of(plan)
    here = plan.spec.model_copy(update={"on": "local", "via": None})
    return launcher_for(site_of(here, plan.name))


def has_own_gateway(spec: DeploymentSpec) -> bool:
    """Whether the gateway is a pod beside the engines."""
    return is_in_pods(spec) and bool(spec.kubernetes.gateway_image)


def site_of(spec: DeploymentSpec, name: str) -> Site:
    """Where the deployment's files are, and what is asked to run things."""
    files = Files.named(name)
    transport = _transport(spec)
    directory, cache = str(files.directory), str(paths.cache_dir() / "engines")
    if transport.where:
        home = transport.home()
        directory = f"{home}/.local/state/lemnos/{paths.state_id()}/{name}"
        cache = f"{home}/.cache/lemnos/engines"
    return Site(
        deployment=name,
        spec=spec,
        transport=transport,
        directory=directory,
        cache=spec.cache or cache,
        key_file=files.engine_key,
        owner=paths.state_id(),
    )


def unit_of(
    plan: Plan, name: str, revision: int, place: Place, files: JobFiles
) -> Unit:
    """Pure: replica ``name`` of ``plan``. Raises UsageError for what the engine's version cannot do."""
    index = int(name.rpartition("-")[2])
    jobs = engine_named(plan.engine).jobs(plan, index, place, files)
    version = plan.engine_version
    return Unit(
        deployment=plan.name,
        name=name,
        revision=revision,
        jobs=jobs,
        place=place,
        start_s=shape_of(plan).start_s,
        served=Served(engine=plan.engine, engine_version=version, model=plan.model),
    )


def health_path(plan: Plan) -> str:
    """Pure: what answers 200 while a replica is well; behind a router, while its engines are, too."""
    if plan.engine == "sglang" and is_group(plan):
        return smg.HEALTH
    return engine_named(plan.engine).health


def gateway_unit(plan: Plan, url: str, files: Files) -> Unit:
    """Pure: the gateway, which is reached where ``url`` says."""
    if has_own_gateway(plan.spec):
        job = _gateway_in_a_pod(plan)
    else:
        job = gateway_job(plan, url, files)
    port = int(url.rpartition(":")[2])
    return Unit(
        deployment=plan.name,
        name=GATEWAY,
        jobs=(job,),
        place=Place(hosts=(plan.spec.endpoint.host,), port=port),
    )


def gateway_job(plan: Plan, url: str, files: Files) -> Job:
    """Pure: the gateway's process."""
    host = plan.spec.endpoint.host
    port = int(url.rpartition(":")[2])
    argv = (
        *(sys.executable, "-m", "lemnos.gateway"),
        *("--targets", str(files.targets)),
        *("--host", host),
        *("--port", str(port)),
        *("--ledger", sqlite_url(default_path())),
    )
    return Job(
        deployment=plan.name,
        role="gateway",
        command=Command(argv=argv),
        host=host,
        port=port,
        log=str(files.log(GATEWAY)),
    )


def _gateway_in_a_pod(plan: Plan) -> Job:
    ledger = plan.spec.kubernetes.ledger_secret
    argv = (
        *(PYTHON, "-m", "lemnos.gateway"),
        *("--targets", TARGETS_IN_A_POD),
        *("--host", "0.0.0.0", "--port", str(POD_PORT)),
        *(("--ledger", f"env:{LEDGER_IN_A_POD}") if ledger else ()),
    )
    return Job(
        deployment=plan.name,
        role="gateway",
        command=Command(argv=argv),
        host="0.0.0.0",
        port=POD_PORT,
        log="",
    )


def _transport(spec: DeploymentSpec) -> Transport:
    if not spec.via:
        return Here()
    if spec.on in GATEWAY_ROOMS:
        raise UsageError(
            f"via is for schedulers, and --on {spec.on} is not one",
            where="via",
            fix="name the machines in local.hosts, or run lemnos there",
        )
    from lemnos.transport.ssh import Ssh

    config = os.environ.get("LEMNOS_SSH_CONFIG")
    return Ssh(spec.via, Path(config) if config else None)
